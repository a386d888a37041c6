from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import run_all
from lib import records
from lib.plan import Workflow
from lib.stages import Stage

FIXTURES = Path(__file__).parents[1] / "fixtures"
SCRIPT = records.ROOT / "run_all.py"


@pytest.fixture
def workflow(tmp_path) -> Workflow:
    stages = [
        Stage("publishes_a_number"),
        Stage("takes_one_way", when={"tune": False}),
        Stage("takes_the_other_way", when={"tune": True}),
        Stage("doubles_the_number"),
    ]
    return Workflow(stages, FIXTURES, tmp_path / "outputs", None)


def outcome(capsys, workflow: Workflow, *arguments: str) -> tuple[int, str, str]:
    try:
        status = run_all.main(arguments, workflow)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--only", "doubles_the_numbr"],
            "There is no stage `doubles_the_numbr`: did you mean `doubles_the_number`?",
        ),
        (["-p", "strat", "3"], "There is no parameter `strat` (the command line): did you mean `start`?"),
        (
            ["-p", "start", "many"],
            "Parameter `start` is 'many' (the command line), not a whole number (int).",
        ),
        (["-f", "parameters/locl.yaml"], "There is no parameter file parameters/locl.yaml: did you mean"),
        (["--run-id", "No"], "The run id 'No' is not 1 to 30 small letters"),
        (
            ["--only", "doubles_the_number"],
            "takes `number` from publishes_a_number, and there is no such run to go on with",
        ),
        (["--cell-seconds", "0"], "argument --cell-seconds: invalid positive value: '0'"),
        (["-p", "start"], "argument -p: expected 2 arguments"),
        (["--frm", "x"], "unrecognized arguments: --frm x"),
        (["rnu"], "unrecognized arguments: rnu"),
        (["local", "strat"], "invalid choice: 'strat'"),
    ],
)
def test_wrong_use_is_refused_in_a_sentence_with_status_2(capsys, workflow, arguments, sentence):
    status, out, err = outcome(capsys, workflow, *arguments)
    assert status == 2
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err
    assert "error: " in err.splitlines()[-1]
    assert not workflow.outputs.exists()


def test_a_dry_run_shows_values_and_origins_and_starts_nothing(capsys, workflow):
    status, out, err = outcome(
        capsys, workflow, "run", "--dry-run", "--run-id", "mine", "-p", "tune", "true", "-p", "start", "5"
    )
    assert (status, err) == (0, "")
    lines = [re.sub(r"\s+", " ", line) for line in out.splitlines()]
    assert lines[0].startswith("This would begin the run mine in ")
    assert "publishes_a_number Publishes a number" in lines
    assert " start 5 the command line" in lines
    assert "takes_one_way skipped runs only when tune is false" in lines
    assert "publishes_a_number runs it has not run before" in lines
    assert "doubles_the_number runs after publishes_a_number" in lines
    assert "takes_the_other_way Takes the other way" in lines
    assert " number ... publishes_a_number" in lines
    assert ' options {"low": 0, "high": 9} default' in lines
    assert " gives doubled, options_seen" in lines
    assert not workflow.outputs.exists()


def test_a_dry_run_of_a_part_shows_what_was_published_before(capsys, workflow):
    records.write_scraps(workflow.outputs / "mine", {"number": 7})
    status, out, _ = outcome(
        capsys, workflow, "--dry-run", "--run-id", "mine", "--from", "doubles_the_number"
    )
    assert status == 0
    assert out.startswith("This would continue the run mine in ")
    assert re.search(r"number +7 +publishes_a_number, run before", out)
    assert re.search(r"^publishes_a_number +skipped +was not asked for$", out, flags=re.MULTILINE)
    assert re.search(r"^doubles_the_number +runs +it was asked for$", out, flags=re.MULTILINE)


def test_a_dry_run_does_without_the_slow_imports():
    code = (
        "import run_all, sys\n"
        "from pathlib import Path\n"
        "from lib.plan import Workflow\n"
        "from lib.stages import Stage\n"
        "workflow = Workflow([Stage('does_little')], Path(sys.argv[1]), Path('nowhere'), None)\n"
        "status = run_all.main(['--dry-run'], workflow)\n"
        "slow = {'papermill', 'scrapbook', 'nbformat', 'jupyter_client', 'boto3', 'pandas', 'sagemaker'}\n"
        "slow &= set(sys.modules)\n"
        "sys.exit(f'imported {slow}' if slow else status)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(records.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(FIXTURES)], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failure_is_told_on_one_screen_with_status_1(capsys, tmp_path):
    stages = [Stage("raises_a_sentence"), Stage("does_little")]
    workflow = Workflow(stages, FIXTURES, tmp_path / "outputs", None)
    status, out, err = outcome(capsys, workflow, "--run-id", "mine", "--parallel", "1")
    assert status == 1
    assert re.search(r"^raises_a_sentence +failed +\d+\.\d s$", out, flags=re.MULTILINE)
    assert re.search(r"^does_little +skipped +raises_a_sentence failed$", out, flags=re.MULTILINE)
    assert re.search(r"^run mine +failed +\d+\.\d s$", out, flags=re.MULTILINE)
    assert "raises_a_sentence failed in cell 4." in err
    assert '> raise DataError("The ratings hold one customer only."' in err
    assert "DataError: The ratings hold one customer only. Give more." in err
    assert "correct what the error names" in err
    assert "run_all.py --resume mine" in err
    assert "Traceback" not in err
    assert len((out + err).splitlines()) < 24
    record = json.loads((workflow.outputs / "mine" / "run.json").read_text())
    assert record["command"] == "run_all.py --run-id mine --parallel 1"


def test_a_run_that_goes_well_ends_with_status_0(capsys, tmp_path):
    workflow = Workflow([Stage("does_little")], FIXTURES, tmp_path / "outputs", None)
    status, out, err = outcome(capsys, workflow, "--run-id", "mine")
    assert status == 0
    assert re.search(r"^run mine +completed +\d+\.\d s$", out, flags=re.MULTILINE)
    assert re.search(r"^does_little +completed +\d+\.\d s$", err, flags=re.MULTILINE)
    status, _, err = outcome(capsys, workflow, "--run-id", "mine")
    assert status == 2
    assert "The run mine exists already" in err


def test_a_disk_that_is_full_is_told_in_a_sentence_with_status_1(tmp_path):
    code = (
        "import resource, sys\n"
        "import run_all\n"
        "from pathlib import Path\n"
        "from lib.plan import Workflow\n"
        "from lib.stages import Stage\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "workflow = Workflow([Stage('does_little')], Path(sys.argv[1]), Path(sys.argv[2]), None)\n"
        "sys.exit(run_all.main(['--run-id', 'mine'], workflow))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(records.ROOT)}
    command = [sys.executable, "-c", code, str(FIXTURES), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("run_all.py: error: ")
    assert "run.json cannot be written: File too large. Free some space" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [".lock", "scraps.json"]


def test_every_option_is_explained():
    text = run_all.run_parser().format_help()
    for option in (
        "-f",
        "-p",
        "--run-id",
        "--from",
        "--to",
        "--only",
        "--resume",
        "--force",
        "--no-cache",
        "--dry-run",
        "--cell-seconds",
        "--stage-seconds",
        "--retries",
        "--parallel",
        "--look-ahead",
    ):
        assert re.search(rf"^  {option} .*\S", text, flags=re.MULTILINE)


def test_the_command_parses_on_old_pythons():
    assert ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_an_old_python_is_told_how_to_start(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 8, 10, "final", 0))
    assert run_all.environment_problem() == (
        "Reelbook needs Python 3.11 or newer and this is 3.8; start it with `make run`, or with "
        ".venv/bin/python run_all.py."
    )


def test_a_python_without_the_packages_is_told_how_to_start():
    done = subprocess.run([sys.executable, "-I", "-S", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(
        r"run_all\.py: papermill is not installed for .*; start it with `make run`, or with "
        r"\.venv/bin/python run_all\.py\.\n",
        done.stderr,
    )


def test_lab_hands_its_arguments_to_jupyterlab():
    done = subprocess.run([sys.executable, str(SCRIPT), "lab", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert re.fullmatch(r"4\.\d+\.\d+\n", done.stdout)
