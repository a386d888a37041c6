"""The pages of notebooks, of all runs, and of two runs compared."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import comparison, history, records, report
from lib.report import notebook_page

PNG = "iVBORw0KGgo="


def code(source: str, *outputs: dict[str, Any], tags: tuple[str, ...] = (), **state: Any) -> dict[str, Any]:
    metadata = {"tags": list(tags), "papermill": {"status": "completed", **state}}
    return {
        "cell_type": "code",
        "source": source,
        "metadata": metadata,
        "execution_count": 1,
        "outputs": list(outputs),
    }


def words(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def html(text: str) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {"text/html": text}, "metadata": {}}


def stream(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": text}


def page(*cells: dict[str, Any]) -> str:
    return notebook_page.render(list(cells), "03_train.ipynb", "run")


def test_a_notebook_is_told_in_its_order_with_chapters():
    shown = page(
        words("# 03 Train\n\nIt trains a `model`."),
        code("seed: int = 0", tags=("parameters",)),
        code("seed = 1", tags=("injected-parameters",)),
        words("## 1. The job"),
        code("print('hello')", stream("hello\n")),
    )
    assert "<h1>03 Train</h1>" in shown
    assert "It trains a <code>model</code>." in shown
    assert '<a href="#chapter-3">1. The job</a>' in shown
    assert "Parameters and their defaults" in shown
    assert "Given for this run" in shown
    assert shown.index("Given for this run") < shown.index("Cell 4") < shown.index("<pre>hello</pre>")
    assert "3 code cells ran to the end." in shown.replace("\u00a0", " ")


def test_a_failed_cell_and_those_that_did_not_run_are_said_to_be():
    error = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["\x1b[31mE\x1b[0m: v"]}
    shown = page(code("1 / 0", error, status="failed"), {**code("2"), "execution_count": None})
    assert 'class="cell failed"' in shown
    assert "<pre>E: v</pre>" in shown
    assert "Cell 2, which did not run" in shown
    assert "; one failed." in shown


EVIL = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<iframe src='http://a'></iframe>",
    "<style>body{display:none}</style>",
    "<div style='position:fixed' onclick='x()'>y</div>",
    "<svg><script>alert(1)</script></svg>",
    "<table><tr><td background='http://a'>z</td></tr></table>",
    "<link rel=stylesheet href=//a>",
    "<form action=//a><input></form>",
]


@pytest.mark.parametrize("evil", EVIL)
def test_what_could_run_load_or_restyle_is_taken_out(evil):
    in_html, in_words, in_code = (
        page(code("x", html(evil))),
        page(words(evil)),
        page(code(evil)),
    )
    for shown in (in_html, in_words, in_code, page(code("x", stream(evil)))):
        body = shown.partition("<main")[2]
        tags = re.findall(r"<([a-z]+)([^>]*)>", body)
        assert {name for name, _ in tags}.isdisjoint(
            {"script", "iframe", "style", "form", "input", "link", "object"}
        )
        for _, attributes in tags:
            assert not re.search(r"\bon\w+=|\bstyle=|javascript:|background=", attributes), attributes
        assert not re.search(r'(src|href)="(?!data:|\./|\.\./|#)', body)


def test_a_table_of_pandas_keeps_its_shape():
    import pandas as pd

    frame = pd.DataFrame({"rating": [1, 2]}, index=["a", "<b>"])
    shown = page(code("frame", html(frame._repr_html_())))
    assert shown.count("<tr>") == 3
    assert "&lt;b&gt;" in shown
    assert ".dataframe" not in shown


def test_progress_bars_are_told_as_they_ended_and_colours_are_gone():
    shown = page(code("x", stream("  0%|\r 50%|\r100%|####|\n"), stream("\x1b[32mdone\x1b[0m\n")))
    assert "<pre>100%|####|\ndone</pre>" in shown


def test_pictures_are_shown_with_their_words_and_left_out_when_too_large(monkeypatch):
    picture = {
        "output_type": "display_data",
        "data": {"image/png": PNG},
        "metadata": {"image/png": {"alt": "A <b>"}},
    }
    assert f'<img src="data:image/png;base64,{PNG}" alt="A &lt;b&gt;">' in page(code("x", picture))
    monkeypatch.setattr(notebook_page, "PICTURE_BUDGET", 5)
    assert "a picture is left out to keep this page small: A &lt;b&gt;" in page(code("x", picture))
    broken = {**picture, "data": {"image/png": '"><script>'}}
    assert "(a picture that cannot be shown)" in page(code("x", broken))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 3}', '{"cells": [3]}', "\x00"])
def test_what_is_no_notebook_has_no_page(tmp_path, text):
    path = tmp_path / "x.ipynb"
    path.write_text(text)
    assert notebook_page.page_of(path, "run") is None
    assert notebook_page.page_of(tmp_path / "none.ipynb", "run") is None


data = st.dictionaries(st.sampled_from(["text/html", "image/png", "text/plain"]), st.text())
outputs = st.fixed_dictionaries(
    {"output_type": st.sampled_from(["stream", "error", "display_data", "odd"])},
    optional={"text": st.text() | st.lists(st.text()), "data": data},
)
cells = st.fixed_dictionaries(
    {"cell_type": st.sampled_from(["code", "markdown", "raw"]), "source": st.text() | st.lists(st.text())},
    optional={"outputs": st.lists(outputs, max_size=3), "execution_count": st.none() | st.integers()},
)


@given(st.lists(cells, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_cells_give_a_page(some):
    shown = notebook_page.render(some, "x.ipynb", "run")
    assert shown.count("<script") == 0


@pytest.fixture
def runs(tmp_path) -> tuple[Path, records.RunRecord, records.RunRecord]:
    """Two runs as their folders are called."""
    for name, build in (("first", report_runs.completed), ("second", report_runs.again)):
        folder = build(tmp_path / name)
        run = records.read_run(folder)
        run.run_id = name
        records.write_run(folder, run)
    return tmp_path, records.read_run(tmp_path / "first"), records.read_run(tmp_path / "second")


def test_the_report_tells_what_was_reused_tried_again_and_how_the_error_changed(runs):
    shown = " ".join(re.sub(r"<[^>]*>", " ", report.write(runs[0] / "second").read_text()).split())
    assert f"Up to date since the run {report_runs.RUN_ID}." in shown
    assert "It ran because: num_factors is 32, was 64" in shown
    assert "Attempt 1 failed: ServiceUnavailable: SageMaker does not answer." in shown
    assert re.search(r"RMSE 1\.0311 −0\.\d{4} better than first", shown)
    assert "0123456789ab on main, with changes that are not committed" in shown
    assert "0.01 USD" in shown
    assert "1 × ml.m5.xlarge" in shown


def test_runs_measured_by_other_test_ratings_are_not_compared(runs):
    outputs, first, second = runs
    assert history.comparable(second, history.History(outputs)).run_id == "first"
    assert history.comparable(first, history.History(outputs)) is None  # nothing was before it
    first.stage("06_evaluate").ingredients["objects"]["ratings_uri"]["etag"] = "c" * 64
    records.write_run(outputs / "first", first)
    assert history.comparable(second, history.History(outputs)) is None
    assert "better than" not in report.write(outputs / "second").read_text()


def test_the_index_lists_all_runs_and_draws_their_errors(runs):
    outputs = runs[0]
    report.write(outputs / "first")
    shown = report.write_index(outputs).read_text()
    assert shown.index(">second<") < shown.index(">first<")  # the newest first
    assert '<a href="./first/report.html">first</a>' in shown
    assert "./second/report.html" not in shown.partition("All runs")[2]  # it has no page
    assert "RMSE of 2 runs: 1.03" in shown
    assert shown.count("<circle") == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stages": [1]}', '{"stages": ' + "[" * 100_000, "\x00"])
def test_a_broken_record_beside_it_keeps_no_page_from_being_made(runs, text):
    outputs = runs[0]
    (outputs / "broken").mkdir()
    (outputs / "broken" / "run.json").write_text(text)
    assert "better than" in report.write(outputs / "second").read_text()
    assert "2 runs" in report.write_index(outputs).read_text().replace("\u00a0", " ")


def test_an_index_without_runs_says_so(tmp_path):
    assert "There is no run yet." in report.write_index(tmp_path).read_text()


def test_a_run_whose_process_is_gone_is_killed(runs):
    outputs, first, _ = runs
    records.write_run(outputs / "first", replace(first, status="running"))
    assert "killed" in report.write_index(outputs).read_text()
    with records.RunLock(outputs / "first"):
        assert "killed" not in report.write_index(outputs).read_text()


def test_two_runs_are_compared(runs):
    outputs, first, second = runs
    found = comparison.compare(outputs, first, second)
    assert [(c.name, c.before, c.after) for c in found.parameters] == [("num_factors", None, 32)]
    assert found.code == ()
    assert found.same_test
    rmse = next(metric for metric in found.metrics if metric.name == "rmse")
    assert rmse.better is True
    assert found.checkout[0].name == "commit"
    shown = report.write_diff(outputs, found).read_text()
    assert "num_factors" in shown
    assert "better" in shown
    assert "5 figures are the same in both runs" in shown


def test_code_that_differs_is_shown_cell_by_cell(runs):
    outputs, first, second = runs
    path = outputs / "second" / "03_train.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"].append({"cell_type": "code", "source": "x = 1\ny = 2", "metadata": {}, "outputs": []})
    path.write_text(json.dumps(notebook))
    (change,) = comparison.compare(outputs, first, second).code
    assert change.stage == "03_train"
    assert change.cell == str(len(notebook["cells"]))
    assert "+x = 1" in change.lines


def test_figures_that_differ_stand_side_by_side(runs):
    outputs, first, second = runs
    path = outputs / "second" / "03_train.ipynb"
    text = path.read_text()
    other = report_runs.image("errors", "Another figure")["data"]["image/png"]
    own = report_runs.image("learning_curve", None)["data"]["image/png"]
    assert own in text
    path.write_text(text.replace(own, other))
    shown = report.write_diff(outputs, comparison.compare(outputs, first, second)).read_text()
    assert shown.count("<img") == 2


def test_a_metric_that_is_higher_is_better_where_higher_is_better(runs):
    _, first, second = runs
    for run, value in ((first, 0.9), (second, 0.95)):
        run.stage("06_evaluate").scraps = {**run.stage("06_evaluate").scraps, "ndcg": value, "mae": value}
    found = {metric.name: metric.better for metric in comparison.metric_changes(first, second)}
    assert (found["ndcg"], found["mae"]) == (True, False)
