"""Reuse, retries, limits, parallel stages, locks and kills, on real kernels."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from notebook_files import RUN, cell, write_cells

import run_all
from lib import plan, records, retries, runner
from lib.errors import ReelbookError
from lib.plan import Request, Workflow
from lib.records import ROOT, RunRecord, StageFailure
from lib.stages import Stage

QUIET = {"progress": False, "look_ahead": 1}


def stage(folder: Path, name: str, gives: str, *parameters: str, code: str = "pass") -> None:
    """Write a stage that leaves a line in ``folder/log`` each time it is executed."""
    log = folder / "log"
    write_cells(
        folder / f"{name}.ipynb",
        cell(f"# {name}", "markdown"),
        cell("\n".join([RUN, *parameters]), tags=("parameters",)),
        cell("from lib.scraps import publish, secret"),
        cell(f"open({str(log)!r}, 'a').write('{name}\\n')"),
        cell(code),
        cell(f"publish({gives})"),
    )


def executed(folder: Path) -> list[str]:
    """Return the stages that have been executed since the last call."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "notebooks"


@pytest.fixture
def chain(folder) -> Workflow:
    """Three stages, each taking a number from the one before, and one that tidies up."""
    stage(folder, "one", "first=start", "start: int = 1  # n")
    stage(folder, "two", "second=first * factor", "first: int = None  # n", "factor: int = 2  # n")
    stage(folder, "three", "third=second + 1", "second: int = None  # n")
    stage(folder, "tidy", "tidied=True")
    stages = [Stage("one"), Stage("two"), Stage("three"), Stage("tidy", trigger="always", cached=False)]
    return Workflow(stages, folder, folder.parent / "outputs", None)


@pytest.fixture
def pair(folder) -> Workflow:
    """Two stages, the second taking a number from the first."""
    stage(folder, "one", "first=start", "start: int = 1  # n")
    stage(folder, "two", "second=first * factor", "first: int = None  # n", "factor: int = 2  # n")
    return Workflow([Stage("one"), Stage("two")], folder, folder.parent / "outputs", None)


def run(
    workflow: Workflow, *pairs: tuple[str, str], options: dict | None = None, **request: object
) -> RunRecord:
    made = plan.make(workflow, Request(command_line=pairs, **request))
    return runner.run(made, runner.Options(**{**QUIET, **(options or {})}))


def statuses(record: RunRecord) -> list[str]:
    return [stage.status for stage in record.stages]


def test_a_second_run_executes_what_has_changed_and_what_depends_on_it(chain, folder):
    run(chain, run_id="a")
    assert executed(folder) == ["one", "two", "three", "tidy"]

    again = run(chain, run_id="b")
    assert executed(folder) == ["tidy"]
    assert statuses(again) == ["reused", "reused", "reused", "completed"]
    assert again.scraps == {"first": 1, "second": 2, "third": 3, "tidied": True}
    assert (again.stage("two").why, again.stage("two").origin) == ("up to date since the run a", "a")
    assert again.stage("two").seconds is None
    copied = json.loads((chain.outputs / "b" / "two.ipynb").read_text())
    assert copied == json.loads((chain.outputs / "a" / "two.ipynb").read_text())

    other = run(chain, ("factor", "5"), run_id="c")
    assert executed(folder) == ["two", "three", "tidy"]
    assert other.scraps["third"] == 6
    assert other.stage("two").why == "factor is 5, was 2 (run b)"
    assert other.stage("three").why == "second is 5, was 2 (run b)"

    back = run(chain, run_id="d")  # what run a has left is found behind run c
    assert executed(folder) == ["tidy"]
    assert back.stage("three").origin == "a"

    same = run(chain, ("start", "2"), ("factor", "1"), run_id="e")  # 2 x 1 is what 1 x 2 was
    assert executed(folder) == ["one", "two", "tidy"]
    assert same.stage("three").status == "reused"


def test_a_stage_is_forced_and_the_cache_is_left_out(pair, folder):
    run(pair, run_id="a")
    executed(folder)
    forced = run(pair, run_id="b", force=["two"])
    assert executed(folder) == ["two"]
    assert forced.stage("two").why == "--force"
    assert forced.stage("one").status == "reused"
    run(pair, run_id="c", no_cache=True)
    assert executed(folder) == ["one", "two"]
    run(pair, run_id="c", only="two")
    assert executed(folder) == ["two"]
    continued = run(pair, run_id="c", start="one", stop="two")
    assert executed(folder) == ["one"]
    assert statuses(continued) == ["completed", "completed"]


def test_a_code_cell_that_changes_is_executed_again(pair, folder):
    run(pair, run_id="a")
    executed(folder)
    stage(folder, "two", "second=first * factor + 1", "first: int = None  # n", "factor: int = 2  # n")
    changed = run(pair, run_id="b")
    assert executed(folder) == ["two"]
    assert changed.stage("two").why == "its code has changed in cell 6 (run a)"


def test_a_failed_stage_is_resumed_where_it_failed(chain, folder):
    stage(
        folder, "two", "second=first * factor", "first: int = None  # n", "factor: int = 2  # n", code="1 / 0"
    )
    assert statuses(run(chain, run_id="a")) == ["completed", "failed", "skipped", "completed"]
    executed(folder)
    stage(folder, "two", "second=first * factor", "first: int = None  # n", "factor: int = 2  # n")
    resumed = run(chain, resume="a")
    assert executed(folder) == ["two", "three", "tidy"]
    assert statuses(resumed) == ["completed"] * 4
    assert resumed.run_id == "a"
    assert resumed.stage("one").started < resumed.started  # as it was


def test_resuming_takes_new_parameters_over_the_runs_own(pair, folder):
    run(pair, ("start", "3"), run_id="a")
    executed(folder)
    resumed = run(pair, ("factor", "4"), resume="a")
    assert executed(folder) == ["two"]
    assert resumed.scraps["second"] == 12
    assert resumed.parameters == {"start": 3, "factor": 4}


def test_what_time_mends_is_tried_again(folder, monkeypatch):
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.05)
    marker = folder / "tried"
    code = (
        "from pathlib import Path\n"
        "from lib.errors import ServiceUnavailable\n"
        f"tried = Path({str(marker)!r})\n"
        "times = len(tried.read_text()) if tried.exists() else 0\n"
        "tried.write_text('x' * (times + 1))\n"
        "if times < 2:\n"
        "    raise ServiceUnavailable('It does not answer.')"
    )
    stage(folder, "asks", "done=times", code=code)
    workflow = Workflow([Stage("asks")], folder, folder.parent / "outputs", None)
    record = run(workflow, run_id="a").stage("asks")
    assert (record.status, record.scraps) == ("completed", {"done": 2})
    assert [attempt.error.kind for attempt in record.attempts] == ["ServiceUnavailable"] * 2
    assert records.read_run(workflow.outputs / "a").stage("asks") == record
    marker.unlink()
    record = run(workflow, run_id="b", no_cache=True, options={"retries": 1}).stage("asks")
    assert (record.status, len(record.attempts), record.error.kind) == ("failed", 1, "ServiceUnavailable")


def test_a_users_mistake_is_not_tried_again(folder):
    stage(folder, "fails", "done=1", code="from lib.errors import DataError\nraise DataError('No ratings.')")
    workflow = Workflow([Stage("fails")], folder, folder.parent / "outputs", None)
    record = run(workflow).stage("fails")
    assert (record.status, record.attempts) == ("failed", [])
    assert executed(folder) == ["fails"]


@pytest.mark.parametrize(
    ("kind", "message", "worth"),
    [
        ("ServiceUnavailable", "There is no answer.", True),
        ("EndpointConnectionError", "", True),
        ("ClientError", "An error occurred (ThrottlingException) when calling X", True),
        ("ClientError", "An error occurred (SlowDown) when calling PutObject", True),
        ("ThrottlingException", "Rate exceeded", True),
        (
            "JobFailed",
            "ended as Failed: CapacityError: Unable to provision requested ML compute capacity.",
            True,
        ),
        ("JobFailed", "ended as Failed: InternalServerError: We encountered an internal error.", True),
        ("JobFailed", "ended as Failed: AlgorithmError: the label is no number", False),
        ("JobFailed", "ended as Failed: ClientError: no such channel", False),
        ("ClientError", "An error occurred (AccessDenied) when calling PutObject", False),
        ("ValueError", "SlowDown", False),
        ("ParameterError", "There is no parameter `Throttling`", False),
        ("DeadKernelError", "The kernel died", False),
        ("StageTimeout", "The stage ran longer than its limit", False),
        ("KeyboardInterrupt", "", False),
    ],
)
def test_only_what_time_mends_is_worth_another_attempt(kind, message, worth):
    assert retries.worth_retrying(StageFailure(kind, message)) == worth


def test_the_pauses_between_attempts_grow():
    assert [retries.pause(number) for number in (1, 2, 3)] == [2, 8, 32]


DEAF = """
import time
until = time.monotonic() + 60
while time.monotonic() < until:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


@pytest.mark.parametrize("code", ["import time; time.sleep(60)", DEAF])
def test_a_stage_that_runs_too_long_has_failed(folder, monkeypatch, code):
    monkeypatch.setattr(runner, "INTERRUPT_SECONDS", 1)
    stage(folder, "sleeps", "done=1", code=code)
    stage(folder, "tidy", "tidied=True")
    stages = [Stage("sleeps"), Stage("tidy", trigger="always")]
    began = time.monotonic()
    record = run(Workflow(stages, folder, folder.parent / "outputs", None), options={"stage_seconds": 1})
    assert time.monotonic() - began < 30
    assert statuses(record) == ["failed", "completed"]
    assert record.stages[0].error.kind == "StageTimeout"
    assert record.stages[0].error.message == "The stage ran longer than its limit of 1 s."
    assert record.stages[0].error.cell == 5


def wait_for(other: Path, own: Path) -> str:
    """Return code that ends only when another stage's code runs at the same time."""
    return (
        "import time\nfrom pathlib import Path\n"
        f"Path({str(own)!r}).touch()\n"
        "until = time.monotonic() + 30\n"
        f"while not Path({str(other)!r}).exists() and time.monotonic() < until:\n    time.sleep(0.01)\n"
        f"met = Path({str(other)!r}).exists()"
    )


@pytest.fixture
def diamond(folder) -> Workflow:
    left, right = folder / "left-runs", folder / "right-runs"
    stage(folder, "top", "number=1")
    stage(folder, "left", "low=met", "number: int = None  # n", code=wait_for(right, left))
    stage(folder, "right", "high=met", "number: int = None  # n", code=wait_for(left, right))
    stage(folder, "join", "both=low and high", "low: bool = None  # l", "high: bool = None  # h")
    stages = [Stage("top"), Stage("left"), Stage("right"), Stage("join")]
    return Workflow(stages, folder, folder.parent / "outputs", None)


def test_stages_that_take_nothing_from_each_other_run_at_the_same_time(diamond):
    record = run(diamond, options={"look_ahead": 2})
    assert statuses(record) == ["completed"] * 4
    assert record.scraps["both"] is True
    join, right, left = record.stage("join"), record.stage("right"), record.stage("left")
    assert max(left.started, right.started) < min(left.ended, right.ended)
    assert join.started >= max(left.ended, right.ended)


def test_a_failure_lets_the_stage_beside_it_end_and_begins_no_other(diamond, folder):
    left, right = folder / "left-runs", folder / "right-runs"
    fails = wait_for(right, left) + "\n1 / 0"
    stage(folder, "left", "low=met", "number: int = None  # n", code=fails)
    record = run(diamond, options={"look_ahead": 2})
    assert statuses(record) == ["completed", "failed", "completed", "skipped"]
    assert record.status == "failed"


def test_a_run_is_carried_out_by_one_process_at_a_time(pair):
    run(pair, run_id="a")
    assert not records.is_going_on(pair.outputs / "a")
    with records.RunLock(pair.outputs / "a"):
        assert records.is_going_on(pair.outputs / "a")
        with pytest.raises(ReelbookError, match="The run a is going on in another process"):
            run(pair, resume="a")
    assert run(pair, resume="a").status == "completed"


def test_a_plan_that_the_run_has_outgrown_is_refused(pair):
    run(pair, run_id="a")
    made = plan.make(pair, Request(resume="a"))
    run(pair, resume="a", force=["two"])
    with pytest.raises(ReelbookError, match="has gone on since this was planned"):
        runner.run(made, runner.Options(**QUIET))


def test_two_runs_of_the_same_second_have_two_folders(pair):
    made = [plan.make(pair, Request()) for _ in range(2)]
    assert made[0].run_id == made[1].run_id
    ended = [runner.run(one, runner.Options(**QUIET)) for one in made]
    assert ended[1].run_id != ended[0].run_id
    assert {stage.parameters["run_id"] for stage in ended[1].stages} == {ended[1].run_id}


SECRETS = {
    "REELBOOK_SECRET_DOWNLOAD_TOKEN": 'tok"en-1234567890',
    "AWS_SECRET_ACCESS_KEY": "abcdefghijABCDEFGHIJabcdefghijABCDEFGHIJ",
    "SOME_API_KEY": "another-secret-value",
}


def test_secrets_reach_no_notebook_record_or_page(folder, monkeypatch, capsys):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    code = (
        "import os\n"
        "token = secret('download_token')\n"
        "assert token == os.environ['REELBOOK_SECRET_DOWNLOAD_TOKEN'] and len(token) == 17\n"
        "print('printed', token, os.environ['AWS_SECRET_ACCESS_KEY'], 'AKIAABCDEFGHIJKLMNOP')\n"
        "print('http://user:passphrase@host/')"
    )
    parameter = 'download_token: str = ""  # secret: what the download service asks for'
    stage(folder, "prints", "seen=token", parameter, code=code)
    stage(folder, "raises", "done=1", code="import os\nraise ValueError(os.environ['SOME_API_KEY'])")
    workflow = Workflow([Stage("prints"), Stage("raises")], folder, folder.parent / "outputs", None)
    assert run_all.main(["--run-id", "a", "--parallel", "1"], workflow) == 1
    hidden = [*SECRETS.values(), "AKIAABCDEFGHIJKLMNOP", "passphrase", 'tok\\"en-1234567890']
    printed = capsys.readouterr()
    files = {path: path.read_text() for path in (workflow.outputs / "a").iterdir()}
    assert {path.name for path in files} >= {
        "prints.ipynb",
        "raises.ipynb",
        "run.json",
        "scraps.json",
        "report.html",
    }
    for name, text in {**files, "out": printed.out, "err": printed.err}.items():
        assert [value for value in hidden if value in text] == [], name
    assert "printed [hidden] [hidden] [hidden]" in files[workflow.outputs / "a" / "prints.ipynb"]
    assert records.read_run(workflow.outputs / "a").stage("prints").parameters["download_token"] == ""


def test_a_secret_parameter_is_given_by_the_environment_alone(folder, capsys):
    stage(folder, "asks", "done=1", 'pin: str = ""  # secret: of the vault', code="secret('pin')")
    workflow = Workflow([Stage("asks")], folder, folder.parent / "outputs", None)
    assert run_all.main(["-p", "pin", "12345678"], workflow) == 2
    error = capsys.readouterr().err
    assert "`pin` is marked secret" in error
    assert "Set the environment variable REELBOOK_SECRET_PIN instead." in error
    assert "12345678" not in error
    assert run_all.main([], workflow) == 1
    assert (
        "The secret `pin` has no value. Set the environment variable REELBOOK_SECRET_PIN"
        in capsys.readouterr().err
    )


KILLS = int(os.environ.get("REELBOOK_KILLS", "2"))
PROGRAM = """
import sys
import run_all
from pathlib import Path
from lib.plan import Workflow
from lib.stages import Stage
folder, *arguments = sys.argv[1:]
stages = [Stage("one"), Stage("two"), Stage("three"), Stage("tidy", trigger="always", cached=False)]
sys.exit(run_all.main(arguments, Workflow(stages, Path(folder), Path(folder).parent / "outputs", None)))
"""


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def kernels_of(folder: Path) -> list[psutil.Process]:
    """Return the kernels whose working directory is that folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and "ipykernel_launcher" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.timeout(120 + 30 * KILLS)
def test_a_run_that_was_killed_at_any_point_is_resumed(chain, folder):
    """REELBOOK_KILLS says how often."""
    chance = random.Random(0)
    for number in range(KILLS):
        for name in ("one", "two", "three"):
            log = f"open({str(folder / 'log')!r}, 'a').write('{name}-began\\n')\nimport time; time.sleep(0.2)"
            gives = {"one": "first=start", "two": "second=first * factor", "three": "third=second + 1"}[name]
            takes = {
                "one": ["start: int = 1  # n"],
                "two": ["first: int = None  # n", "factor: int = 2  # n"],
            }
            stage(folder, name, gives, *takes.get(name, ["second: int = None  # n"]), code=log)
        run_id = f"killed-{number}"
        start = ("-p", "start", str(100 + number))  # so that no other run has what it needs
        process = command(folder, "--run-id", run_id, *start)
        time.sleep(chance.uniform(0.1, 6.0))
        process.kill()
        process.communicate()
        done = {
            found.name
            for found in (records.read_run(chain.outputs / run_id) or RunRecord(run_id)).stages
            if found.status == "completed"
        }
        deadline = time.monotonic() + 30
        while kernels_of(folder) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert kernels_of(folder) == []
        executed(folder)
        exists = (chain.outputs / run_id / "run.json").exists()
        resumed = command(
            folder, *(["--resume", run_id] if exists else ["--no-cache", "--run-id", f"{run_id}-b"])
        )
        text = resumed.communicate(timeout=60)[0]
        assert resumed.returncode == 0, text
        again = {line for line in executed(folder) if "-" not in line}
        assert again == {"one", "two", "three", "tidy"} - (done - {"tidy"})
        record = records.read_run(chain.outputs / (run_id if exists else f"{run_id}-b"))
        assert statuses(record) == ["completed"] * 4
        first = 100 + number
        assert record.scraps == {"first": first, "second": 2 * first, "third": 2 * first + 1, "tidied": True}


def test_a_live_run_is_seen_whole_at_any_time(folder):
    """Who reads run.json and the notebooks while they are written finds whole ones."""
    for name, takes in {
        "one": [],
        "two": ["first: int = None  # n"],
        "three": ["second: int = None  # n"],
    }.items():
        gives = {"one": "first=1", "two": "second=2", "three": "third=3"}[name]
        stage(folder, name, gives, *takes, code="print('x' * 200_000)")
    stage(folder, "tidy", "tidied=True")
    process = command(folder, "--run-id", "live")
    seen: set[str] = set()
    run_folder = folder.parent / "outputs" / "live"
    while process.poll() is None:
        record = records.read_run(run_folder) if run_folder.exists() else None
        seen |= {found.status for found in record.stages} if record else set()
        for path in run_folder.glob("*.ipynb"):
            json.loads(path.read_text())
        time.sleep(0.005)
    assert process.returncode == 0, process.communicate()[0]
    process.communicate()
    assert {"pending", "running", "completed"} <= seen


def test_an_interrupt_stops_all_stages_that_run(diamond, folder):
    for name, give in (("left", "low"), ("right", "high")):
        stage(folder, name, f"{give}=True", "number: int = None  # n", code="import time; time.sleep(60)")

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        path = diamond.outputs / "stopped"
        while time.monotonic() < deadline:
            record = records.read_run(path) if path.exists() else None
            sleeping = [
                "running" in (path / f"{name}.ipynb").read_text()
                for name in ("left", "right")
                if (path / f"{name}.ipynb").exists()
            ]
            if record and statuses(record).count("running") == 2 and sleeping == [True, True]:
                break
            time.sleep(0.1)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(runner.Interrupted):
        run(diamond, run_id="stopped", options={"look_ahead": 2})
    record = records.read_run(diamond.outputs / "stopped")
    assert statuses(record) == ["completed", "interrupted", "interrupted", "skipped"]
    assert record.status == "interrupted"
