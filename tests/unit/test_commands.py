"""The commands that look at runs, on records of runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import report_runs

import run_all
from lib import console, records
from lib.plan import Workflow

COMMANDS = ("runs", "diff", "watch", "report")


@pytest.fixture
def workflow(tmp_path) -> Workflow:
    for name, build in (("first", report_runs.completed), ("second", report_runs.again)):
        folder = build(tmp_path / name)
        records.write_run(folder, replace(records.read_run(folder), run_id=name))
    return Workflow(outputs=tmp_path)


def outcome(capsys, workflow: Workflow, *arguments: str) -> tuple[int, str, str]:
    try:
        status = run_all.main(arguments, workflow)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_runs_lists_the_newest_first(capsys, workflow):
    status, out, _ = outcome(capsys, workflow, "runs")
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows] == ["run", "second", "first"]
    assert rows[1][1:4] == ["completed", "2026-11-24", "09:15"]
    assert "1.0311" in rows[1]
    _, out, _ = outcome(capsys, workflow, "runs", "-n", "1")
    assert "(1 older ones: --all)" in out
    assert "first" not in out
    assert "first" in outcome(capsys, workflow, "runs", "-n", "1", "--all")[1]


def test_diff_compares_the_last_two_or_those_that_are_named(capsys, workflow):
    status, out, _ = outcome(capsys, workflow, "diff")
    assert status == 0
    assert out.startswith("first -> second\n")
    assert re.search(r"rmse +1\.\d{4} -> 1\.0311 +-0\.\d{4} +better", out)
    assert re.search(r"num_factors +null -> 32 +03_train", out)
    assert (workflow.outputs / "second" / "diff-first.html").exists()
    status, out, _ = outcome(capsys, workflow, "diff", "second", "first", "--no-page")
    assert out.startswith("second -> first\n")
    assert "worse" in out
    assert not (workflow.outputs / "first" / "diff-second.html").exists()
    assert outcome(capsys, workflow, "diff", "first")[1].startswith("first -> second\n")


def test_a_run_compared_with_itself_is_the_same(capsys, workflow):
    _, out, _ = outcome(capsys, workflow, "diff", "first", "first", "--no-page")
    assert "Parameters, code, packages and data are the same." in out


def test_report_writes_the_pages_anew(capsys, workflow):
    status, out, _ = outcome(capsys, workflow, "report", "first")
    assert status == 0
    assert len(out.splitlines()) == 2
    assert (workflow.outputs / "first" / "report.html").exists()
    assert (workflow.outputs / "index.html").exists()
    assert outcome(capsys, workflow, "report")[1].splitlines()[0].endswith("second/report.html")


def test_watch_shows_a_run_that_has_ended_at_once(capsys, workflow):
    status, out, _ = outcome(capsys, workflow, "watch", "first")
    assert status == 0
    assert "03_train  completed 34.4 s" in out
    assert out.endswith("run first: completed\n")


def test_watch_tells_that_a_run_was_killed(capsys, workflow):
    run = records.read_run(workflow.outputs / "first")
    records.write_run(workflow.outputs / "first", replace(run, status="running"))
    status, out, _ = outcome(capsys, workflow, "watch", "first")
    assert (status, out.splitlines()[-1]) == (1, "run first: killed")


def test_watch_follows_a_run_of_another_process(capsys, workflow, monkeypatch):
    folder = workflow.outputs / "first"
    run = records.read_run(folder)
    run.status, run.stages[5].status = "running", "running"
    records.write_run(folder, run)
    code = (
        "import sys, time\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from lib import records\n"
        "folder = Path(sys.argv[1])\n"
        "with records.RunLock(folder):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(1.5)\n"
        "    run = records.read_run(folder)\n"
        "    run.stages[5].status = run.status = 'failed'\n"
        "    records.write_run(folder, run)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(records.ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], env=environment, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        began = time.monotonic()
        status, out, _ = outcome(capsys, workflow, "watch", "first")
    assert time.monotonic() - began > 1
    assert status == 1
    lines = out.splitlines()
    assert any(re.match(r"05_transform  running", line) for line in lines)
    assert lines[-1] == "run first: failed"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["diff", "frist", "second"], "There is no run frist in"),
        (["diff", "frist", "second"], "Did you mean `first`?"),
        (["watch", "thrid"], "There is no run thrid"),
        (["report", "Not A Run"], "The run id 'Not A Run' is not"),
        (["runs", "-n", "many"], "invalid int value: 'many'"),
        (["watch", "--frm"], "unrecognized arguments: --frm"),
        (["--resume", "frist"], "There is no run frist"),
        (["--resume", "first", "--run-id", "other"], "--resume names the run already"),
        (["--run-id", "scratch"], "The run scratch is the one of notebooks run by hand."),
        (["--force", "03_trian"], "did you mean `03_train`"),
        (["--to", "01_preprocess", "--force", "03_train"], "--force 03_train: this stage does not run here."),
    ],
)
def test_wrong_use_is_refused_in_a_sentence_with_status_2(capsys, workflow, arguments, sentence):
    status, out, err = outcome(capsys, workflow, *arguments)
    assert status == 2
    assert sentence in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_without_runs_each_says_so(capsys, tmp_path, name):
    status, out, err = outcome(capsys, Workflow(outputs=tmp_path), name)
    assert status == (0 if name == "runs" else 2)
    assert re.search(r"There (is no run|are no two runs) yet in", out + err)


@pytest.mark.parametrize("name", [*COMMANDS, "plan"])
def test_each_explains_itself(capsys, name):
    status, out, _ = outcome(capsys, None, name, "--help")
    assert status == 0
    assert f"run_all.py {name}" in out


def test_the_cell_that_runs_is_told_with_its_chapter(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["## 2. Split\n", "words"], "metadata": {}},
        {"cell_type": "code", "source": "x", "metadata": {"papermill": {"status": "running"}}},
    ]
    path = Path(tmp_path / "n.ipynb")
    path.write_text(__import__("json").dumps({"cells": cells}))
    assert console.cell_at(path) == "cell 2 of 2: 2. Split"
    path.write_text("{")
    assert console.cell_at(path) == "starts"
