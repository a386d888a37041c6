from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lib import progress, records, scraps
from lib.errors import ParameterError, ScrapError

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch) -> Path:
    """A kernel's start by hand, with runs kept in a folder of the test."""
    monkeypatch.setenv(records.OUTPUTS_VARIABLE, str(tmp_path / "outputs"))
    monkeypatch.delenv(progress.HEADLESS, raising=False)
    monkeypatch.setattr(scraps, "_published", set())
    monkeypatch.setattr(scraps, "_named", None)
    monkeypatch.chdir(FIXTURES)
    return tmp_path / "outputs"


def begin_run(outputs: Path, run_id: str, **values: object) -> None:
    records.write_scraps(outputs / run_id, values)
    records.set_last_run(outputs, run_id)


def test_numpy_scalars_become_pythons(outputs):
    scraps.publish(
        a=np.int64(3),
        b=np.float32(0.5),
        c=np.bool_(True),
        d=np.str_("x"),
        e=[np.int8(1)],
        f={"g": np.float64(2)},
    )
    published = records.read_scraps(outputs / "scratch")
    assert published == {"a": 3, "b": 0.5, "c": True, "d": "x", "e": [1], "f": {"g": 2.0}}
    assert type(published["c"]) is bool


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "`x` cannot be published: it is None."),
        (float("nan"), "`x` cannot be published: it is nan."),
        (np.float32("inf"), "`x` cannot be published: it is inf."),
        ([1, float("nan")], "`x`[1] cannot be published: it is nan."),
        ({"a": {"b": None}}, "`x`['a']['b'] cannot be published: it is None."),
        ((1, 2), "`x` cannot be published: it is of type tuple."),
        ({1: 2}, "`x` cannot be published: it is of type dict."),
        (np.arange(3), "`x` cannot be published: it is of type ndarray."),
        (Path("a"), "`x` cannot be published: it is of type"),
        (b"a", "`x` cannot be published: it is of type bytes."),
        ("a" * 70_000, "`x` cannot be published: it is larger than 64,000 bytes. Write it to S3"),
    ],
)
def test_what_cannot_be_published_is_refused_and_nothing_is_written(outputs, value, sentence):
    with pytest.raises(ScrapError) as caught:
        scraps.publish(fine=1, x=value)
    assert sentence in str(caught.value)
    assert not outputs.exists()


def test_publish_shows_a_table(capsys):
    scraps.publish(
        model_uri="s3://bucket/model", rows=100_000, rmse=0.123456789, accepted=True, tags={"a": 1}
    )
    assert capsys.readouterr().out.splitlines() == [
        "model_uri  s3://bucket/model",
        "rows       100,000",
        "rmse       0.123457",
        "accepted   true",
        'tags       {"a": 1}',
    ]


def test_the_table_is_safe_html():
    assert "<b>" not in scraps._html_table({"x": "<b>"})


def test_by_hand_a_cell_may_publish_again(outputs):
    scraps.publish(x=1)
    scraps.publish(x=2)
    assert records.read_scraps(outputs / "scratch") == {"x": 2}


def test_headless_a_name_is_published_once_and_the_runner_writes_it(outputs, monkeypatch):
    monkeypatch.setenv(progress.HEADLESS, "1")
    scraps.publish(x=1)
    with pytest.raises(ScrapError, match="`x` has been published before in this stage"):
        scraps.publish(x=2)
    assert not outputs.exists()


def test_headless_latest_changes_and_says_nothing(outputs, monkeypatch, capsys):
    begin_run(outputs, "earlier", number=5)
    monkeypatch.setenv(progress.HEADLESS, "1")
    assert scraps.latest(run_id="now", number=None) == ("now", None)
    assert capsys.readouterr().out == ""


def test_by_hand_inputs_are_filled_from_the_last_run_which_is_named(outputs, capsys):
    begin_run(outputs, "20260101-000000", number=4, uri="s3://a")
    begin_run(outputs, "20260102-000000", number=5, uri="s3://b")
    assert scraps.latest(run_id=None, number=None, uri="s3://mine") == ("scratch", 5, "s3://mine")
    assert capsys.readouterr().out == (
        "From the run 20260102-000000: number.\nWhat this notebook makes belongs to the scratch run.\n"
    )
    assert scraps.latest(run_id="20260101-000000", number=None) == ("20260101-000000", 4)
    assert scraps.latest(uri=None) == ("s3://a",)  # a second call goes on with the run that was named
    assert scraps.latest(run_id=None) == ("scratch",)


def test_by_hand_publish_adds_to_the_scratch_run_alone(outputs):
    begin_run(outputs, "old", number=4)
    begin_run(outputs, "new", number=5)
    scraps.latest(run_id="old", number=None)
    scraps.publish(doubled=8)
    assert records.read_scraps(outputs / "old") == {"number": 4}
    assert records.read_scraps(outputs / "new") == {"number": 5}
    assert records.read_scraps(outputs / "scratch") == {"doubled": 8}
    assert records.last_run(outputs) == "new"
    assert not (outputs / "scratch" / "run.json").exists()  # so that no run reuses it


def test_by_hand_the_newer_of_the_scratch_and_the_last_run_counts_for_each_name(outputs, capsys):
    begin_run(outputs, "run", number=4, uri="s3://a")
    os.utime(outputs / "run" / "scraps.json", (time.time() - 60,) * 2)
    scraps.publish(number=7)
    assert scraps.latest(run_id=None, number=None, uri=None) == ("scratch", 7, "s3://a")
    assert capsys.readouterr().out.splitlines()[-3:-1] == [
        "From the scratch run: number.",
        "From the run run: uri.",
    ]
    scraps.publish(other=1)  # later, and nothing to do with `number`
    begin_run(outputs, "newer", number=5, uri="s3://b")
    os.utime(outputs / "newer" / "scraps.json", (time.time() + 60,) * 2)
    assert scraps.latest(run_id=None, number=None, uri=None) == ("scratch", 5, "s3://b")
    assert scraps.latest(run_id="scratch", number=None) == ("scratch", 7)


def test_by_hand_the_first_notebook_needs_no_run(outputs, capsys):
    assert scraps.latest(run_id=None) == ("scratch",)
    assert "What this notebook makes belongs to the scratch run." in capsys.readouterr().out
    scraps.publish(number=2)
    assert scraps.latest(run_id=None, number=None) == ("scratch", 2)


def test_by_hand_a_run_can_be_named(outputs):
    assert scraps.latest(run_id="mine") == ("mine",)
    with pytest.raises(ParameterError, match="The run id 'Not OK'"):
        scraps.latest(run_id="Not OK", number=None)


def test_by_hand_a_missing_input_names_the_notebook_to_run_first(outputs):
    with pytest.raises(ScrapError) as caught:
        scraps.latest(run_id=None, number=None)
    assert str(caught.value) == (
        "There is no run yet to take `number` from. Run publishes_a_number.ipynb or "
        "publishes_text_for_a_number.ipynb first."
    )
    begin_run(outputs, "some", uri="s3://a")
    with pytest.raises(ScrapError) as caught:
        scraps.latest(run_id=None, way=None)
    assert str(caught.value) == (
        "The run some has not published `way`. Run takes_one_way.ipynb or takes_the_other_way.ipynb first."
    )
    with pytest.raises(ScrapError, match="no notebook publishes it"):
        scraps.latest(run_id=None, unheard_of=None)


def test_a_last_run_whose_folder_is_gone_is_none(outputs):
    records.set_last_run(outputs, "gone")
    with pytest.raises(ScrapError, match="There is no run yet to take `number` from"):
        scraps.latest(run_id=None, number=None)


def test_plain_papermill_runs_a_notebook_by_hand_which_publishes_into_the_scratch_run(outputs, tmp_path):
    code = (
        "import sys\n"
        "from lib.scraps import import_quickly\n"
        "papermill = import_quickly('papermill')\n"
        "papermill.execute_notebook(*sys.argv[1:], {'start': 8}, progress_bar=False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(records.ROOT)}
    source, target = FIXTURES / "publishes_a_number.ipynb", tmp_path / "executed.ipynb"
    begin_run(outputs, "mine", other=1)
    subprocess.run(
        [sys.executable, "-c", code, source, target], env=environment, capture_output=True, check=True
    )
    assert records.read_scraps(outputs / "scratch") == {"number": 9, "uri": "s3://bucket/None"}
    assert records.read_scraps(outputs / "mine") == {"other": 1}
    assert scraps.collect(target, ["number", "uri"])["number"] == 9


def executed_notebook(folder: Path, values: dict[str, object]) -> Path:
    """Write a notebook with outputs as scrapbook's glue leaves them."""
    from notebook_files import cell, write_cells

    made = cell("publish()")
    for name, data in values.items():
        kind = "text" if isinstance(data, str) else "json"
        payload = {"name": name, "data": data, "encoder": kind, "version": 1}
        made["outputs"].append(
            {
                "output_type": "display_data",
                "data": {f"application/scrapbook.scrap.{kind}+json": payload},
                "metadata": {"scrapbook": {"name": name, "data": True, "display": False}},
            }
        )
    return write_cells(folder / "stage.ipynb", made)


def test_collect_returns_plain_values_in_the_declared_order(tmp_path):
    values = {"b": {"c": [1, {"d": 2.5}]}, "a": "12", "e": True}
    collected = scraps.collect(executed_notebook(tmp_path, values), ["a", "b", "e"])
    assert list(collected) == ["a", "b", "e"]
    assert collected == values
    assert type(collected["b"]) is dict
    assert type(collected["b"]["c"][1]) is dict
    assert collected["a"] == "12"


def test_collect_fails_when_a_declared_name_is_missing_or_another_was_published(tmp_path):
    notebook = executed_notebook(tmp_path, {"a": 1})
    with pytest.raises(ScrapError, match=r"stage\.ipynb ran to its end without publishing `b`, `c`\."):
        scraps.collect(notebook, ["a", "b", "c"])
    with pytest.raises(
        ScrapError, match="published `a`, which the publish call of its last cell does not name"
    ):
        scraps.collect(notebook, [])


def test_a_quick_import_leaves_the_grammars_importable_afterwards():
    code = (
        "import json, sys\n"
        "from lib.scraps import import_quickly\n"
        "import_quickly('nbformat')\n"
        "built = 'lark' in sys.modules\n"
        "import rfc3987_syntax\n"
        "print(json.dumps([built, 'jsonschema' in sys.modules]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(records.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert json.loads(done.stdout) == [False, True]
