"""The runner, on real kernels.

One run holds every kind of failure, each stage with the trigger ``always`` so that the next one runs too;
another one runs well; the tests look at what these left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import nbformat
import psutil
import pytest

from lib import executed, plan, records, runner
from lib.contracts import read_contract
from lib.errors import ReelbookError
from lib.executed import MARKER_TAG
from lib.plan import Request, Workflow
from lib.records import RunRecord
from lib.stages import Stage

FIXTURES = Path(__file__).parents[1] / "fixtures"

# stage: the error's kind, the failing cell, part of the message
FAILURES = {
    "raises": ("ZeroDivisionError", 4, "division by zero"),
    "raises_a_sentence": ("DataError", 4, "The ratings hold one customer only. Give more."),
    "kernel_dies": ("DeadKernelError", 4, "The kernel died: SIGKILL ended it"),
    "ends_its_process": ("DeadKernelError", 4, "The kernel died: it ended with status 0."),
    "dies_on_import": ("DeadKernelError", 3, "The kernel died: it ended with status 3."),
    "times_out": ("CellTimeoutError", 4, "The cell ran longer than its limit of 1 s."),
    "exits_zero": ("SystemExit", 4, "The cell ended the notebook by exit(0); the cells after it never ran."),
    "asks_for_an_unknown_kernel": ("NoSuchKernel", None, "asks for the Jupyter kernel 'no-such-kernel'"),
    "skips_a_cell": ("CellNotExecuted", 4, "The cell was not executed."),
    "forgets_a_scrap": ("ScrapError", None, "ran to its end without publishing `forgotten`."),
    "publishes_twice": ("ScrapError", 4, "`repeated` has been published before in this stage."),
    "publishes_something_else": ("ScrapError", None, "published `surprise`, which the publish call"),
}


def run(outputs: Path, stages: list[Stage], look_ahead: int = 2, **request: object) -> RunRecord:
    workflow = Workflow(stages, FIXTURES, outputs, None)
    return runner.run(
        plan.make(workflow, Request(**request)),
        runner.Options(look_ahead=look_ahead, parallel=1, cell_seconds=1, progress=False),
    )


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> tuple[Path, RunRecord]:
    outputs = tmp_path_factory.mktemp("broken")
    record = run(outputs, [Stage(name, trigger="always") for name in FAILURES], run_id="broken")
    return outputs / "broken", record


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> tuple[Path, RunRecord]:
    outputs = tmp_path_factory.mktemp("with {braces} and spaces")
    stages = [
        Stage("publishes_a_number"),
        Stage("doubles_the_number"),
        Stage("finds_a_clean_namespace"),
    ]
    pairs = [("start", "20"), ("options.low", "3")]
    return outputs / "healthy", run(
        outputs, stages, run_id="healthy", command_line=pairs, command="run_all.py"
    )


@pytest.fixture(scope="module")
def stopped_short(tmp_path_factory) -> tuple[Path, RunRecord]:
    outputs = tmp_path_factory.mktemp("short")
    stages = [
        Stage("publishes_text_for_a_number"),
        Stage("doubles_the_number"),
        Stage("does_little"),
        Stage("takes_the_other_way", when={"tune": True}),
        Stage("tidies_up", trigger="always"),
    ]
    return outputs / "short", run(outputs, stages, look_ahead=0, run_id="short")


def saved(folder: Path, stage: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(folder / f"{stage}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def states(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.metadata.papermill.status for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("stage", FAILURES)
def test_a_failure_is_recorded_with_its_kind_cell_and_reason(broken, stage):
    kind, cell, message = FAILURES[stage]
    record = broken[1].stage(stage)
    assert record.status == "failed"
    assert (record.error.kind, record.error.cell) == (kind, cell)
    assert message in record.error.message
    assert record.scraps == {}
    assert record.seconds >= 0
    assert "--resume broken" in record.error.hint
    own = json.loads((FIXTURES / f"{stage}.ipynb").read_text())["cells"]
    assert record.error.source == ("".join(own[cell - 1]["source"]) if cell else "")


@pytest.mark.parametrize("stage", FAILURES)
def test_the_saved_notebook_claims_nothing_that_did_not_happen(broken, stage):
    notebook = saved(broken[0], stage)
    cell = FAILURES[stage][1]
    top = notebook.cells[0]
    assert top.metadata.tags == [MARKER_TAG]
    assert "This stage failed" in top.source
    assert notebook.metadata.papermill.exception is True
    for code in notebook.cells:
        if code.cell_type == "code" and code.metadata.papermill.status == "completed":
            assert code.execution_count is not None
    if cell:
        assert states(notebook).count("failed") == 1
        marked = states(notebook)
        if stage != "skips_a_cell":
            assert "completed" not in marked[marked.index("failed") + 1 :]
        assert f"This stage failed in cell {cell}." in top.source
    if stage == "asks_for_an_unknown_kernel":
        assert set(states(notebook)) == {"pending"}


def test_an_exception_has_its_traceback_in_plain_text(broken):
    traceback = broken[1].stage("raises").error.traceback
    assert "numerator / denominator" in traceback
    assert "\x1b" not in traceback


def test_a_run_with_a_failed_stage_has_failed(broken):
    folder, record = broken
    assert record.status == "failed"
    assert json.loads((folder / "run.json").read_text()) == asdict(record)
    assert records.read_scraps(folder) == {}


def test_a_healthy_run_is_recorded(healthy):
    folder, record = healthy
    assert record.status == "completed"
    assert [stage.status for stage in record.stages] == ["completed"] * 3
    assert json.loads((folder / "run.json").read_text()) == asdict(record)
    assert record.command == "run_all.py"
    assert record.parameters == {"start": 20, "options": {"low": 3}}
    assert record.versions["papermill"]
    assert record.seconds >= max(stage.seconds for stage in record.stages)
    assert records.last_run(folder.parent) == "healthy"


def test_values_flow_from_stage_to_stage(healthy):
    folder, record = healthy
    scraps = records.read_scraps(folder)
    assert scraps["number"] == 21
    assert scraps["uri"] == "s3://bucket/healthy"
    assert scraps["doubled"] == 42.0
    assert scraps["options_seen"] == {"low": 3, "high": 9}
    assert record.scraps == scraps
    second = record.stage("doubles_the_number")
    assert second.needs == ["publishes_a_number"]
    assert second.publishes == ["doubled", "options_seen"]
    assert second.scraps == {"doubled": 42.0, "options_seen": {"low": 3, "high": 9}}
    assert second.parameters == {
        "run_id": "healthy",
        "number": 21,
        "factor": 2.0,
        "options": {"low": 3, "high": 9},
    }


def test_the_executed_notebook_shows_what_was_given_and_what_was_published(healthy):
    notebook = saved(healthy[0], "doubles_the_number")
    assert set(states(notebook)) == {"completed"}
    injected = next(cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert "number = 21" in injected.source
    assert "factor" not in injected.source  # its default is in the cell above
    table = notebook.cells[-1].outputs[-1]
    assert "doubled" in table.data["text/plain"]
    assert "<td" in table.data["text/html"]


def test_kernels_booted_ahead_leave_no_names_and_work_in_the_notebooks_folder(healthy):
    scraps = records.read_scraps(healthy[0])
    assert scraps["clean"] is True
    assert scraps["folder"] == str(FIXTURES)


def test_nothing_of_a_run_stays_behind(healthy, broken):
    children = psutil.Process().children(recursive=True)
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    assert not [child for child in alive if "ipykernel" in str(child.cmdline())]
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("kernels", "notebook"))]
    for folder in (healthy[0], broken[0]):
        assert not list(folder.glob("*.part"))


def test_after_a_failure_stages_are_skipped_but_for_those_that_always_run(stopped_short):
    record = stopped_short[1]
    assert [(stage.status, stage.why) for stage in record.stages] == [
        ("completed", "it has not run before"),
        ("failed", ""),
        ("skipped", "doubles_the_number failed"),
        ("skipped", "runs only when tune is true"),
        ("completed", "it has not run before"),
    ]
    assert record.status == "failed"
    assert record.stage("tidies_up").parameters["doubled"] == 0.0


def test_a_value_of_the_wrong_type_fails_the_stage_that_takes_it(stopped_short):
    folder, record = stopped_short
    error = record.stage("doubles_the_number").error
    assert error.message == (
        "`number`, which publishes_text_for_a_number published, is 'twelve', not a whole number (int)."
    )
    assert set(states(saved(folder, "doubles_the_number"))) == {"pending"}


def test_a_run_is_continued_and_earlier_records_stay(healthy):
    folder = healthy[0]
    stages = [Stage("publishes_a_number"), Stage("doubles_the_number"), Stage("does_little")]
    record = run(
        folder.parent, stages, look_ahead=0, only="doubles_the_number", command_line=[("factor", "3")]
    )
    assert record.run_id == "healthy"
    assert record.status == "completed"
    assert record.stage("publishes_a_number").status == "completed"
    assert record.stage("does_little").why == "was not asked for"
    assert records.read_scraps(folder)["doubled"] == 63.0
    assert records.read_scraps(folder)["number"] == 21


def test_a_run_whose_folder_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "outputs").write_text("a file is in the way")
    with pytest.raises(ReelbookError, match="cannot be made"):
        run(tmp_path / "outputs", [Stage("does_little")])


def test_a_half_written_notebook_is_replaced_by_a_true_one(tmp_path):
    contract = read_contract(FIXTURES / "does_little.ipynb")
    path = tmp_path / "does_little.ipynb"
    path.write_text('{"cells": [{"cell_type": "co')
    scraps, failure = executed.settle(path, contract, OSError(28, "No space left on device"))
    assert scraps == {}
    assert (failure.kind, failure.cell) == ("OSError", None)
    assert "No space left on device" in failure.message
    assert set(states(saved(tmp_path, "does_little"))) == {"pending"}


def test_a_stage_that_is_interrupted_before_its_first_cell_has_no_failing_cell(tmp_path):
    contract = read_contract(FIXTURES / "does_little.ipynb")
    path = tmp_path / "does_little.ipynb"
    scraps, failure = executed.settle(path, contract, None, interrupted_by="SIGINT")
    assert (scraps, failure.kind, failure.cell) == ({}, "Interrupted", None)
    assert not path.exists()


def wait_until_asleep(outputs: Path, stage: str, process: subprocess.Popen[str]) -> None:
    """Wait until the third code cell of the stage's notebook runs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            cells = json.loads((outputs / "stopped" / f"{stage}.ipynb").read_text())["cells"]
            running = [cell for cell in cells if cell["metadata"]["papermill"]["status"] == "running"]
            if running and "asleep" in "".join(running[0]["source"]):
                time.sleep(0.5)
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"{stage} did not begin to sleep: {process.communicate()}")


@pytest.fixture(scope="module", params=[("sleeps", signal.SIGINT), ("ignores_interrupts", signal.SIGTERM)])
def stopped(request, tmp_path_factory) -> tuple[Path, str, int, int, str, list[int]]:
    """A run in a process of its own that is sent a signal while a cell sleeps."""
    stage, number = request.param
    outputs = tmp_path_factory.mktemp("stopped")
    code = (
        "import sys\n"
        "import run_all\n"
        "from pathlib import Path\n"
        "from lib import runner\n"
        "from lib.plan import Workflow\n"
        "from lib.stages import Stage\n"
        "runner.INTERRUPT_SECONDS = 2\n"
        "fixtures, outputs, stage = sys.argv[1:]\n"
        "stages = [Stage(stage), Stage('does_little'), Stage('tidies_up', trigger='always')]\n"
        "workflow = Workflow(stages, Path(fixtures), Path(outputs), None)\n"
        "sys.exit(run_all.main(['--run-id', 'stopped', '--look-ahead', '0', '--parallel', '1'], workflow))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code, str(FIXTURES), str(outputs), stage],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(records.ROOT)},
    )
    wait_until_asleep(outputs, stage, process)
    kernels = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    return outputs / "stopped", stage, number, process.returncode, out + err, kernels


def test_a_stopped_run_says_so_by_its_exit_status_and_without_a_traceback(stopped):
    _, stage, number, status, text, _ = stopped
    assert status == 128 + number
    assert f"{stage} was interrupted in cell" in text
    assert f"{signal.Signals(number).name} stopped the run." in text
    assert "Traceback" not in text
    assert "Warning" not in text


def test_a_stopped_run_leaves_a_true_record(stopped):
    folder, stage = stopped[:2]
    record = records.read_run(folder)
    assert record.status == "interrupted"
    assert [(found.name, found.status, found.why) for found in record.stages] == [
        (stage, "interrupted", "it has not run before"),
        ("does_little", "skipped", "the run was interrupted"),
        ("tidies_up", "skipped", "the run was interrupted"),
    ]
    assert record.stages[0].error.kind == "Interrupted"
    assert "asleep" in record.stages[0].error.source
    assert record.ended is not None
    notebook = saved(folder, stage)
    assert states(notebook)[-2:] == ["failed", "pending"]
    assert "This stage was interrupted" in notebook.cells[0].source


def test_a_stopped_run_leaves_no_kernel_behind(stopped):
    assert stopped[5]
    for pid in stopped[5]:
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
