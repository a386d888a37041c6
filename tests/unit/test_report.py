from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_runs
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lib import records, report
from lib.errors import ReelbookError
from lib.report import graph, reading, rendering, timeline, words

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"
RUNS = [report_runs.completed, report_runs.failed, report_runs.running, report_runs.interrupted]


class Page(HTMLParser):
    """What a page holds: its elements, and the text that is read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._style = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace(words.NARROW, " ").split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def links(self) -> set[str]:
        return {
            value for _, attributes in self.elements for name, value in attributes.items() if name == "href"
        }


def written(folder: Path) -> Page:
    return Page(report.write(folder).read_text(encoding="utf-8"))


def with_record(folder: Path, value: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def poisoned(value: Any) -> Any:
    """Return the same value with something evil in every text, keys included."""
    if isinstance(value, dict):
        return {
            f"{name}{EVIL}" if name not in SCHEMA else name: poisoned(part) for name, part in value.items()
        }
    if isinstance(value, list):
        return [poisoned(part) for part in value]
    return value + EVIL if isinstance(value, str) else value


SCHEMA = {
    name
    for kind in (records.RunRecord, records.StageRecord, records.StageFailure)
    for name in kind.__dataclass_fields__
}


class TestWriting:
    def test_it_adds_its_page_and_those_of_the_notebooks_and_returns_its_path(self, tmp_path):
        folder = report_runs.completed(tmp_path / "run")
        before = {path.name for path in folder.iterdir()}
        assert report.write(folder) == folder / "report.html"
        pages = {path.with_suffix(".html").name for path in folder.glob("*.ipynb")}
        assert {path.name for path in folder.iterdir()} == before | pages | {"report.html"}

    def test_the_pages_of_the_notebooks_can_be_left_out(self, tmp_path):
        folder = report_runs.completed(tmp_path / "run")
        report.write(folder, notebooks=False)
        assert [path.name for path in folder.glob("*.html")] == ["report.html"]

    def test_the_same_run_gives_the_same_bytes(self, tmp_path):
        first = report.write(report_runs.failed(tmp_path / "one")).read_bytes()
        assert report.write(report_runs.failed(tmp_path / "other")).read_bytes() == first

    def test_it_takes_the_folder_as_text_and_replaces_an_older_page(self, tmp_path):
        folder = report_runs.completed(tmp_path / "run")
        (folder / "report.html").write_text("old")
        assert "<!doctype html>" in report.write(str(folder)).read_text(encoding="utf-8")

    def test_a_folder_without_a_record_is_told_in_one_sentence(self, tmp_path):
        with pytest.raises(ReelbookError, match=r"has no run\.json, so there is no run") as error:
            report.write(tmp_path)
        assert error.value.hint
        assert not (tmp_path / "report.html").exists()

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"stages": ' + "[" * 100_000, "\x00\xff"])
    def test_a_record_that_is_none_is_an_error(self, tmp_path, text):
        (tmp_path / "run.json").write_text(text, encoding="latin-1")
        with pytest.raises(ReelbookError, match="json"):
            report.write(tmp_path)

    def test_a_page_that_cannot_be_written_is_an_error_and_leaves_nothing_behind(self, tmp_path):
        folder = report_runs.completed(tmp_path / "run")
        (folder / "report.html").mkdir()
        before = sorted(folder.iterdir())
        with pytest.raises(ReelbookError, match=r"report\.html cannot be written"):
            report.write(folder)
        assert sorted(folder.iterdir()) == before


class TestJobs:
    ARN = "arn:aws:sagemaker:eu-west-1:123456789012:training-job/a-train-1"

    def page(self, tmp_path, target, arn):
        folder = report_runs.completed(tmp_path / "run")
        record = json.loads((folder / "run.json").read_text())
        job = {"kind": "training", "name": "a-train-1", "arn": arn, "instance_type": "ml.m5.xlarge"}
        record["target"] = target
        record["stages"][0]["jobs"] = [
            {**job, "instance_count": 1, "billable_seconds": 90, "estimated_cost": 0.01}
        ]
        (folder / "run.json").write_text(json.dumps(record))
        return report.write(folder).read_text(encoding="utf-8")

    def test_a_job_on_aws_is_linked_to_its_page(self, tmp_path):
        html = self.page(tmp_path, "aws", self.ARN)
        link = "https://eu-west-1.console.aws.amazon.com/sagemaker/home?region=eu-west-1#/jobs/a-train-1"
        assert f'href="{link}"' in html
        assert "0.01 USD" in html

    @pytest.mark.parametrize("target", ["local", "aws"])
    @pytest.mark.parametrize(
        "arn", ["", "javascript:alert(1)", ARN + '"><script>', ARN.replace("eu-west-1", "x.evil/")]
    )
    def test_nothing_else_is_a_link(self, tmp_path, target, arn):
        assert "console.aws" not in self.page(tmp_path, target, arn)
        assert "<script>" not in self.page(tmp_path / "again", target, arn)
        assert "console.aws" not in self.page(tmp_path / "local", "local", self.ARN)


class TestOffline:
    @pytest.mark.parametrize("build", RUNS)
    def test_it_refers_to_nothing_but_itself_and_files_beside_it(self, tmp_path, build):
        shown = written(build(tmp_path / "run"))
        for tag, attributes in shown.elements:
            assert not {"onload", "onerror", "onclick", "srcset", "action", "formaction"} & set(attributes)
            for name in ("href", "src", "data", "poster"):
                value = attributes.get(name, "#")
                assert value.startswith(("#", "./", "data:")) or value == "../index.html", (
                    f"{tag} {name}={value[:80]}"
                )
        assert {tag for tag, _ in shown.elements}.isdisjoint(
            {"script", "iframe", "object", "embed", "form", "base"}
        )
        assert not re.search(
            r"@import|url\(|://", rendering.HERE.joinpath("page.css").read_text(encoding="utf-8")
        )
        assert not re.search(r"(src|href)=.?https?:", shown.html)

    def test_its_policy_allows_its_own_style_and_its_own_pictures_only(self, tmp_path):
        shown = written(report_runs.completed(tmp_path / "run"))
        (policy,) = (meta["content"] for meta in shown.all("meta") if "http-equiv" in meta)
        (style,) = re.findall(r"<style>(.*?)</style>", shown.html, flags=re.DOTALL)
        own = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
        assert directives == {
            "default-src": "'none'",
            "style-src": f"'sha256-{own}'",
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        assert not any("style" in attributes for _, attributes in shown.elements)

    def test_every_link_into_the_page_finds_its_place(self, tmp_path):
        shown = written(report_runs.completed(tmp_path / "run"))
        ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert {link[1:] for link in shown.links() if link.startswith("#")} <= set(ids)

    def test_every_link_beside_the_page_names_a_file_that_is_there(self, tmp_path):
        shown = written(report_runs.failed(tmp_path / "run"))
        beside = {link for link in shown.links() if link.startswith("./")}
        assert {"./run.json", "./03_train.ipynb"} <= beside
        assert all((tmp_path / "run" / link).is_file() for link in beside)


class TestUntrustedText:
    @pytest.mark.parametrize("build", RUNS)
    def test_markup_in_any_text_of_the_record_stays_text(self, tmp_path, build):
        folder = build(tmp_path / "run")
        clean = written(folder)
        value = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        shown = written(with_record(folder, poisoned(value)))
        assert {tag for tag, _ in shown.elements} <= {tag for tag, _ in clean.elements} | {"code"}
        assert not any(name.startswith("on") for _, attributes in shown.elements for name in attributes)
        assert "<script" not in shown.html
        assert "<script>alert(1)</script>" in shown.text

    def test_markup_in_a_scrap_a_title_and_an_error_is_shown_as_it_is(self, tmp_path):
        run = report_runs.record({"03_train": "failed"}, "failed")
        run.stage("00_collect").scraps = {"reviews_uri": EVIL}
        run.stage("01_preprocess").title = EVIL
        run.stage("03_train").error = replace(report_runs.FAILURE, message=EVIL, source=EVIL, hint=EVIL)
        shown = written(report_runs.save(tmp_path, run))
        assert shown.text.count("onerror=alert(1)") >= 5
        assert all(picture["src"].startswith("data:image/png;base64,") for picture in shown.all("img"))

    def test_markup_in_an_alternative_text_stays_inside_its_attribute(self, tmp_path):
        folder = report_runs.completed(tmp_path / "run")
        report_runs.write_notebook(folder / "03_train.ipynb", "Train", [report_runs.image("errors", EVIL)])
        assert EVIL in [picture["alt"] for picture in written(folder).all("img")]

    @pytest.mark.parametrize(
        "name",
        [
            "../secret.ipynb",
            "/etc/secret.ipynb",
            "javascript:alert(1)//.ipynb",
            "https://x.org/a.ipynb",
            "a/b.ipynb",
        ],
    )
    def test_a_notebook_that_lies_elsewhere_is_neither_read_nor_linked(self, tmp_path, name):
        report_runs.write_notebook(
            tmp_path / "secret.ipynb", "Secret", [report_runs.image("stars", "secret")]
        )
        run = report_runs.record()
        run.stage("03_train").notebook = name
        shown = written(report_runs_record_only(tmp_path / "run", run))
        assert name not in shown.links()
        assert "./" + name not in shown.links()
        assert "secret" not in [picture["alt"] for picture in shown.all("img")]

    def test_what_no_file_can_hold_is_replaced(self, tmp_path):
        run = report_runs.record()
        run.command = "run \ud800 \x1b[31mred\x1b[0m \x00 end"
        (tmp_path / "run.json").write_text(json.dumps(asdict(run)), encoding="utf-8")
        shown = written(tmp_path)
        assert "run \ufffd red \ufffd end" in shown.text

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
        max_leaves=12,
    )
    stages = st.dictionaries(st.sampled_from(sorted(records.StageRecord.__dataclass_fields__)), json_values)
    anything = st.dictionaries(st.sampled_from(sorted(records.RunRecord.__dataclass_fields__)), json_values)

    @given(anything, st.lists(stages | json_values, max_size=4))
    @example(
        {"scraps": {"rmse": 10**400}}, [{"status": "completed", "scraps": {"rmse": 10**400, "mae": -0.0}}]
    )
    @example(
        {}, [{"status": "completed", "scraps": {"rmse": math.nan, "baseline_rmse": 0, "accepted": "yes"}}]
    )
    @example(
        {"started": "9999-12-31T23:59:59-20:00"}, [{"started": "0001-01-01T00:00:00+20:00", "seconds": 1}]
    )
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_record_gives_a_page(self, tmp_path, run, stages):
        folder = with_record(tmp_path / "run", {**run, "stages": stages})
        shown = written(folder)
        assert len(shown.all("h1")) == 1
        assert shown.html.rstrip().endswith("</html>")


def report_runs_record_only(folder: Path, run: records.RunRecord) -> Path:
    folder.mkdir()
    records.write_run(folder, run)
    return folder


class TestContent:
    def test_a_completed_run_is_told_in_one_sentence_with_time_and_target(self, tmp_path):
        shown = written(report_runs.completed(tmp_path / "run"))
        assert f"{report_runs.RUN_ID} completed" in shown.text
        assert "The run completed in 1 min 22 s. Of 8 stages: 7 completed, 1 skipped." in shown.text
        assert "23 November 2026, 09:15 UTC" in shown.text
        assert "local AWS" in shown.text
        assert "run_all.py -p epochs 50 -p num_factors 32" in shown.text
        assert "factors_wd 0.00001" in shown.text

    @pytest.mark.parametrize(
        ("build", "sentence"),
        [
            (
                report_runs.failed,
                "The run failed after 1 min 02 s. Of 8 stages: 4 completed, 1 failed, 3 skipped.",
            ),
            (report_runs.interrupted, "The run was interrupted after 1 min 19 s. Of 8 stages: 5 completed,"),
            (
                report_runs.running,
                "The run was going on when this page was made, so it is not the whole story.",
            ),
        ],
    )
    def test_each_other_end_is_told_too(self, tmp_path, build, sentence):
        assert sentence in written(build(tmp_path / "run")).text

    def test_every_stage_has_its_heading_state_time_and_scraps(self, tmp_path):
        shown = written(report_runs.completed(tmp_path / "run"))
        for title in report_runs.TITLES.values():
            assert shown.text.count(title) >= 2, title
        assert "04 Tune the Factorization Machine skipped Runs only when tune is true." in shown.text
        assert (
            "02 Prepare the design matrices completed took 1.9 s the whole notebook 02_prepare.ipynb"
            in shown.text
        )
        assert "skipped_rows 20" in shown.text
        assert "rating_count 43,503" in shown.text
        assert "s3:// reelbook/ runs/" in shown.text  # a browser may break the line after each slash

    def test_figures_come_with_their_words_and_size(self, tmp_path):
        pictures = written(report_runs.completed(tmp_path / "run")).all("img")
        assert [picture["alt"] for picture in pictures] == [
            report_runs.ALT[name] for names in report_runs.FIGURES.values() for name in names
        ]
        assert {picture["width"] for picture in pictures} == {"700"}
        png = base64.b64decode(pictures[0]["src"].partition("base64,")[2])
        assert png == report_runs.picture("long_tail")

    def test_all_parameters_are_listed_once_with_their_stages(self, tmp_path):
        shown = written(report_runs.completed(tmp_path / "run"))
        assert "seed 0 all stages" in shown.text
        assert "margin 0.005 06_evaluate" in shown.text
        assert "sagemaker 3.27.0" in shown.text
        assert "Linux 6.18.44, x86_64, 2 CPUs" in shown.text

    def test_a_run_without_parameters_says_so(self, tmp_path):
        run = report_runs.record()
        run.parameters = {}
        shown = written(report_runs.save(tmp_path / "run", run))
        assert "No parameter was set: every one had its default." in shown.text


class TestFailure:
    def test_the_failing_cell_comes_before_everything_else(self, tmp_path):
        shown = written(report_runs.failed(tmp_path / "run"))
        assert (
            shown.text.index("failed in cell 7") < shown.text.index("Next step") < shown.text.index("Result")
        )
        assert "mini_batch_size 500000 is larger than the 26,101 rows" in shown.text
        assert "go on with: .venv/ bin/ python run_all.py --from 03_train" in shown.text
        assert "test_uri=validate_uri" in shown.text
        assert "No metric was published by this run." in shown.text

    def test_the_failing_line_is_marked(self, tmp_path):
        shown = written(report_runs.failed(tmp_path / "run"))
        assert "failing line: job = jobs.train( connection," in shown.text
        assert [
            attributes["class"] for tag, attributes in shown.elements if "hit" in attributes.get("class", "")
        ] == ["row hit"]

    def test_an_interrupted_stage_is_named_as_such(self, tmp_path):
        assert (
            "06 Evaluate the model was interrupted in cell 6"
            in written(report_runs.interrupted(tmp_path / "run")).text
        )

    def test_the_last_words_of_a_dead_kernel_are_open(self, tmp_path):
        run = report_runs.record({"03_train": "failed"}, "failed")
        run.stage("03_train").error = records.StageFailure(
            "DeadKernelError", "The kernel died: killed by SIGKILL.", None, traceback="out of memory"
        )
        shown = written(report_runs.save(tmp_path / "run", run))
        assert "The kernel’s last words out of memory" in shown.text
        assert sum("open" in details for details in shown.all("details")) == 1

    def test_a_failed_run_in_which_no_stage_says_why_says_that(self, tmp_path):
        shown = written(report_runs.save(tmp_path / "run", report_runs.record(status="failed")))
        assert "No stage of the record says why." in shown.text


class TestResult:
    def of(self, tmp_path: Path, **scraps: Any) -> Page:
        run = report_runs.record()
        run.stage("06_evaluate").scraps = scraps
        return written(report_runs.save(tmp_path / "run", run))

    def test_metrics_are_cards_of_four_digits_and_the_verdict_is_a_word(self, tmp_path):
        shown = written(report_runs.completed(tmp_path / "run"))
        assert "Quality gate Accepted" in shown.text
        assert (
            "The model’s error is 3.9 % lower than the bias baseline’s; at least 0.5 % lower is asked."
            in shown.text
        )
        assert "RMSE 1.0380 root mean squared error" in shown.text
        assert "MAE 0.8324" in shown.text
        assert "NDCG 0.9513" in shown.text

    def test_the_errors_stand_from_the_largest_to_the_best_reachable(self, tmp_path):
        text = written(report_runs.completed(tmp_path / "run")).text
        row = "mean rating 1.1335 bias baseline 1.0798 4.7 % model 1.0380 8.4 % best reachable 0.7910 30.2 %"
        assert row in text

    def test_a_refused_model_is_told_so(self, tmp_path):
        shown = self.of(tmp_path, rmse=1.1, baseline_rmse=1.0, accepted=False)
        assert "Quality gate Not accepted The model’s error is 10.0 % higher" in shown.text

    def test_errors_published_as_one_mapping_are_compared_too(self, tmp_path):
        compared = {"mean rating": 1.2, "model": 1.0, "best reachable": 0.9}
        shown = self.of(tmp_path, rmse=1.0004, rmse_compared=compared)
        assert "mean rating 1.2000 model 1.0004 16.6 % best reachable 0.9000 25.0 %" in shown.text

    def test_an_error_above_the_mean_ratings_has_a_minus_and_no_bar(self, tmp_path):
        shown = self.of(tmp_path, rmse=1.2, naive_rmse=1.0)
        assert "model 1.2000 −20.0 %" in shown.text
        assert not any(rect.get("class") == "length" for rect in shown.all("rect"))

    def test_only_completed_stages_count(self, tmp_path):
        run = report_runs.record({"06_evaluate": "failed"}, "failed")
        run.stage("06_evaluate").scraps = {"rmse": 0.5, "accepted": True}
        shown = written(report_runs.save(tmp_path / "run", run))
        assert "No metric was published by this run." in shown.text
        assert "Accepted" not in shown.text


class TestWhatIsMissing:
    def test_a_missing_notebook_is_told_in_its_stage(self, tmp_path):
        folder = report_runs.completed(tmp_path / "run")
        (folder / "03_train.ipynb").unlink()
        shown = written(folder)
        assert "took 34 s Its executed notebook is missing, and its figures with it." in shown.text
        assert "./03_train.ipynb" not in shown.links()

    @pytest.mark.parametrize(
        "text", ["", '{"cells": [{"cell_ty', "[]", '{"cells": 7}', '{"nothing": 1}', "\x00"]
    )
    def test_a_notebook_that_is_half_written_is_told_in_its_stage(self, tmp_path, text):
        folder = report_runs.completed(tmp_path / "run")
        (folder / "03_train.ipynb").write_text(text)
        shown = written(folder)
        assert shown.text.count("03_train.ipynb is not a whole notebook") == 1
        assert len(shown.all("img")) == 4

    def test_the_notebook_of_a_stage_that_runs_may_be_half_written(self, tmp_path):
        shown = written(report_runs.running(tmp_path / "run"))
        assert "not a whole notebook" not in shown.text
        assert "03 Train the Factorization Machine running 03_train.ipynb" in shown.text

    def test_odd_cells_and_outputs_are_passed_over(self, tmp_path):
        folder = report_runs.completed(tmp_path / "run")
        outputs = [{"data": 7}, {"data": {"image/png": 7}, "metadata": []}, {"metadata": None}, "text", None]
        cells = [7, {}, {"outputs": "none"}, {"outputs": [*outputs, report_runs.image("stars", "Stars")]}]
        (folder / "03_train.ipynb").write_text(json.dumps({"cells": cells}))
        shown = written(folder)
        assert "One output is no PNG picture and cannot be shown." in shown.text
        assert "Stars" in [picture["alt"] for picture in shown.all("img")]

    def test_a_figure_that_nobody_described_says_so(self, tmp_path):
        folder = report_runs.completed(tmp_path / "run")
        report_runs.write_notebook(folder / "03_train.ipynb", "Train", [report_runs.image("stars", None)])
        alts = [picture["alt"] for picture in written(folder).all("img")]
        assert "Figure 1 of 03 Train the Factorization Machine; the notebook does not describe it." in alts

    def test_base64_in_lines_is_a_picture_too(self, tmp_path):
        folder = report_runs.completed(tmp_path / "run")
        output = report_runs.image("stars", "Stars")
        data = output["data"]["image/png"]
        output["data"]["image/png"] = [data[start : start + 76] + "\n" for start in range(0, len(data), 76)]
        report_runs.write_notebook(folder / "03_train.ipynb", "Train", [output])
        assert "Stars" in [picture["alt"] for picture in written(folder).all("img")]

    @pytest.mark.parametrize("png", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + bytes(40)])
    def test_what_is_no_picture_is_told(self, tmp_path, png):
        folder = report_runs.completed(tmp_path / "run")
        output = report_runs.image("stars", "Stars")
        output["data"]["image/png"] = base64.b64encode(png).decode()
        report_runs.write_notebook(folder / "03_train.ipynb", "Train", [output])
        assert "One output is no PNG picture and cannot be shown." in written(folder).text

    def test_an_unknown_status_is_shown_and_said_to_be_unknown(self, tmp_path):
        run = report_runs.record({"03_train": "exploded"}, "confused")
        shown = written(report_runs.save(tmp_path / "run", run))
        assert "This page does not know the status “exploded”." in shown.text
        assert (
            "This page does not know the status “confused”. Of 8 stages: 6 completed, 1 skipped, 1 in a"
            in shown.text
        )

    def test_a_record_without_stages_says_so(self, tmp_path):
        shown = written(with_record(tmp_path / "20261123-100000", {"run_id": None}))
        assert "The record of this run names no stages." in shown.text
        assert "20261123-100000" in shown.text


class TestSize:
    def big(self, alt: str, size: int) -> dict[str, Any]:
        output = report_runs.image("stars", alt)
        png = report_runs.picture("stars") + bytes(size)
        output["data"]["image/png"] = base64.b64encode(png).decode()
        return output

    def test_figures_over_the_budget_are_left_out_with_a_sentence(self, tmp_path):
        folder = report_runs.completed(tmp_path / "run")
        outputs = [self.big("One", 2_000_000), self.big("Two", 2_000_000), self.big("Three", 0)]
        report_runs.write_notebook(folder / "01_preprocess.ipynb", "Preprocess", outputs)
        path = report.write(folder)
        shown = Page(path.read_text(encoding="utf-8"))
        alts = [picture["alt"] for picture in shown.all("img")]
        assert "One figure is left out to keep this page small: see 01_preprocess.ipynb." in shown.text
        assert alts[:2] == ["One", "Three"]
        assert path.stat().st_size < report.LARGEST

    def test_a_record_full_of_text_goes_first_and_figures_are_left_out(self, tmp_path):
        run = report_runs.record()
        run.versions = {f"package-{number}-{'x' * 180}": "1" * 1900 for number in range(1500)}
        folder = report_runs.save(tmp_path / "run", run)
        outputs = [self.big("Big", 2_000_000)]
        report_runs.write_notebook(folder / "01_preprocess.ipynb", "Preprocess", outputs)
        path = report.write(folder)
        assert path.stat().st_size < report.LARGEST
        shown = Page(path.read_text(encoding="utf-8"))
        assert not shown.all("img")
        assert "2 figures are left out to keep this page small: see 06_evaluate.ipynb." in shown.text

    def test_a_record_too_large_for_any_page_is_an_error(self, tmp_path):
        run = report_runs.record()
        run.versions = {f"package-{number}": "1" * 1900 for number in range(3000)}
        folder = report_runs.save(tmp_path / "run", run)
        with pytest.raises(ReelbookError, match="too large for a page of 5 MB"):
            report.write(folder)
        assert not (folder / "report.html").exists()

    def test_long_texts_are_cut_and_say_by_how_much(self, tmp_path):
        run = report_runs.record()
        run.stage("00_collect").scraps = {"reviews_uri": "x" * 60_000}
        shown = written(report_runs.save(tmp_path / "run", run))
        assert "… (58,000 more characters)" in shown.text


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (None, ""),
            (math.nan, ""),
            (0, "0 s"),
            (0.04, "0 s"),
            (1.917, "1.9 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (59.6, "1 min 00 s"),
            (72, "1 min 12 s"),
            (3599.7, "1 h 00 min"),
            (3900, "1 h 05 min"),
            (86_399, "1 d 0 h"),
            (90_000, "1 d 1 h"),
        ],
    )
    def test_durations(self, seconds, text):
        assert words.duration(seconds).replace(words.NARROW, " ") == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1.0988829, "1.0989"),
            (0.0, "0.0000"),
            (-0.5, "−0.5000"),
            (0.000012345, "1.234e−05"),
            (43_503, "43,503"),
            (12_345.678, "12,345.7"),
            (True, "yes"),
            (math.nan, "not a number"),
            (10**400, "a number too large to show"),
            ("", "(empty)"),
            ([], "(empty)"),
            (None, "none"),
            ([0.6, 0.2, 0.2], "0.6, 0.2, 0.2"),
        ],
    )
    def test_measured_values(self, value, text):
        assert words.measured(value).text == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [(1e-05, "0.00001"), (1.5e-07, "0.00000015"), (0.001, "0.001"), (500, "500"), (100_000, "100,000")],
    )
    def test_parameters_keep_their_digits(self, value, text):
        assert words.given(value).text == text

    def test_a_mapping_of_numbers_is_shown_in_pairs_and_a_deeper_one_as_json(self):
        pairs = words.measured({"model": 1.23456}).pairs
        assert pairs == (("model", words.Shown("number", "1.2346", "1.23456")),)
        assert words.measured({"model": {"a": 1}}) == words.Shown("code", '{"model": {"a": 1}}')

    def test_times_are_told_in_utc(self):
        time = datetime.fromisoformat("2026-11-23T01:05:00+02:00")
        assert words.moment(time).replace(words.NARROW, " ") == "22 November 2026, 23:05 UTC"


def stages_of(run: records.RunRecord, folder: Path) -> tuple[reading.Stage, ...]:
    return reading.read(report_runs_record_only(folder, run)).stages


def chain(*needs: tuple[str, ...]) -> tuple[reading.Stage, ...]:
    """Return stages named a, b, c, …, each with its needs."""
    bare = {"title": "", "notebook": "", "status": "completed", "why": "", "started": None, "ended": None}
    rest = {"seconds": None, "parameters": {}, "publishes": (), "scraps": {}, "failure": None}
    return tuple(
        reading.Stage(name=name, needs=needed, **bare, **rest)
        for name, needed in zip("abcdefghij", needs, strict=False)
    )


def overlap(one: graph.Box, other: graph.Box) -> bool:
    beside = one.x + one.width <= other.x or other.x + other.width <= one.x
    return not (beside or one.y + one.height <= other.y or other.y + other.height <= one.y)


class TestGraph:
    needs = st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=3).map(tuple), max_size=10)

    @given(needs)
    @settings(deadline=None)
    def test_boxes_never_overlap_and_lie_inside_the_drawing(self, needs):
        for measures in (graph.WIDE, graph.TALL):
            drawing = graph.draw(chain(*needs), measures)
            assert len(drawing.boxes) == len(needs)
            for index, box in enumerate(drawing.boxes):
                assert 0 <= box.x <= box.x + box.width <= drawing.width
                assert 0 <= box.y <= box.y + box.height <= drawing.height
                assert not any(overlap(box, other) for other in drawing.boxes[:index])

    @given(needs)
    @settings(deadline=None)
    def test_lines_lead_forward_and_stay_inside_the_drawing(self, needs):
        drawing = graph.draw(chain(*needs), graph.WIDE)
        for line in drawing.lines:
            numbers = [float(number) for number in re.findall(r"-?\d+\.\d", line.body + line.head)]
            assert all(0 <= x <= drawing.width for x in numbers[::2])
            assert all(0 <= y <= drawing.height for y in numbers[1::2])
            assert numbers[0] < numbers[-6]

    def test_every_need_is_a_line(self, tmp_path):
        stages = stages_of(report_runs.record(), tmp_path / "run")
        drawing = graph.draw(stages, graph.WIDE)
        assert sum(line.kind == "takes" for line in drawing.lines) == sum(
            map(len, report_runs.NEEDS.values())
        )
        assert sum(line.kind == "after" for line in drawing.lines) == 1  # 08_clean_up takes nothing

    def test_the_stage_that_did_not_take_part_lies_below_its_alternative(self, tmp_path):
        run = report_runs.record()
        boxes = graph.draw(stages_of(run, tmp_path / "run"), graph.WIDE).boxes
        number = {stage.name: index for index, stage in enumerate(run.stages)}
        trained, tuned = boxes[number["03_train"]], boxes[number["04_tune"]]
        assert tuned.x == trained.x
        assert tuned.y > trained.y
        assert boxes[number["08_clean_up"]].x == max(box.x for box in boxes)

    def test_the_tall_drawing_is_the_wide_one_turned(self, tmp_path):
        stages = stages_of(report_runs.record(), tmp_path / "run")
        wide, tall = graph.draw(stages, graph.WIDE), graph.draw(stages, graph.TALL)
        assert wide.width > 3 * wide.height
        assert tall.width <= 328  # what a phone of 360 pixels leaves
        assert sorted(box.stage for box in wide.boxes) == sorted(box.stage for box in tall.boxes)

    def test_needs_that_lead_nowhere_or_in_a_circle_are_passed_over(self):
        drawing = graph.draw(chain(("a", "z"), ("c",), ("b",)), graph.WIDE)
        assert len(drawing.boxes) == 3
        assert [line.kind for line in drawing.lines].count("takes") == 1

    def test_nothing_at_all_is_an_empty_drawing(self):
        assert graph.draw((), graph.WIDE).boxes == ()


class TestTimeline:
    def placed(self, folder: Path) -> tuple[reading.Run, timeline.Timeline]:
        run = reading.read(folder)
        return run, timeline.place(run)

    def test_bars_follow_each_other_and_fill_the_axis(self, tmp_path):
        _, placed = self.placed(report_runs.completed(tmp_path / "run"))
        bars = [bar for bar in placed.bars if bar]
        assert len(bars) == 7
        assert bars[0].start == 0
        assert bars[-1].start + bars[-1].length == pytest.approx(100, abs=0.5)
        assert all(one.start + one.length <= other.start + 0.7 for one, other in itertools.pairwise(bars))

    def test_ticks_are_round_few_and_on_the_axis(self, tmp_path):
        _, placed = self.placed(report_runs.completed(tmp_path / "run"))
        labels = [tick.label.replace(words.NARROW, " ") for tick in placed.ticks]
        assert labels == ["0", "15 s", "30 s", "45 s", "1 min", "1 min 15 s"]
        assert all(0 <= tick.place <= 100 for tick in placed.ticks)

    def test_a_running_stage_has_an_open_bar_to_the_end(self, tmp_path):
        run, placed = self.placed(report_runs.running(tmp_path / "run"))
        bar = next(
            bar for stage, bar in zip(run.stages, placed.bars, strict=True) if stage.status == "running"
        )
        assert bar.open
        assert bar.start + bar.length == pytest.approx(100)

    def test_stages_of_an_earlier_part_of_the_run_have_no_bar(self, tmp_path):
        run = report_runs.record()
        run.started = run.stage("03_train").started
        folder = report_runs.save(tmp_path / "run", run)
        _, placed = self.placed(folder)
        assert [bar is None for bar in placed.bars] == [True, True, True, False, True, False, False, False]
        text = written(folder).text
        assert text.count("ran before the run was continued") == 1 + 3
        assert "7 completed, 1 skipped; 3 ran before the run was continued." in text
        assert "took 12 s on 23 November 2026, 09:15 UTC" in text

    @pytest.mark.parametrize("span", [0, 0.2, 1, 59, 61, 4000, 90_000, 4e6, 3e9])
    def test_any_span_has_few_ticks(self, span):
        ticks = timeline._ticks(span)
        assert len(ticks) <= timeline.MOST_TICKS
        assert all(0 <= tick.place <= 100 for tick in ticks)

    def test_times_that_go_backwards_stay_on_the_axis(self, tmp_path):
        run = report_runs.record()
        run.ended = datetime(2020, 1, 1, tzinfo=UTC).isoformat()
        run.stage("06_evaluate").ended = datetime(2021, 1, 1, tzinfo=UTC).isoformat()
        _, placed = self.placed(report_runs.save(tmp_path / "run", run))
        assert all(0 <= bar.start <= bar.start + bar.length <= 100.7 for bar in placed.bars if bar)
