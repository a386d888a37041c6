from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lib import records
from lib.errors import ParameterError, ReelbookError
from lib.records import RunRecord, StageFailure, StageRecord


def example() -> RunRecord:
    failure = StageFailure("ValueError", "no", 4, "x = 1", "Traceback", "go on")
    stages = [StageRecord("00_collect", "Collect", "00_collect.ipynb", status="failed", error=failure)]
    return RunRecord(
        "mine", started=records.now(), stages=stages, scraps={"a": 1}, versions=records.versions()
    )


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    records.write_run(tmp_path, example())
    again = records.read_run(tmp_path)
    assert again == records.read_run(tmp_path)
    assert again.stages == example().stages
    assert again.versions["papermill"]


def test_run_json_has_the_keys_that_readers_rely_on(tmp_path):
    records.write_run(tmp_path, example())
    value = json.loads((tmp_path / "run.json").read_text())
    assert set(value) >= {
        *("run_id", "status", "started", "ended", "seconds", "command", "parameters_file", "parameters"),
        *("target", "stages", "scraps", "versions", "python", "machine"),
    }
    assert set(value["stages"][0]) == {
        *("name", "title", "notebook", "status", "why", "started", "ended", "seconds", "parameters", "needs"),
        *("publishes", "scraps", "error", "origin", "key", "ingredients", "outputs", "jobs", "attempts"),
    }
    assert set(value["stages"][0]["error"]) == {"kind", "message", "cell", "source", "traceback", "hint"}


def test_a_run_without_a_record_has_none_and_a_broken_record_is_refused(tmp_path):
    assert records.read_run(tmp_path) is None
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ReelbookError, match=r"run\.json cannot be read"):
        records.read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"stages": ' + "[" * 100_000)
    with pytest.raises(ReelbookError, match=r"run\.json cannot be read"):
        records.read_run(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ReelbookError, match=r"run\.json holds no JSON object"):
        records.read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"stages": [], "colour": 1}')
    with pytest.raises(ReelbookError, match=r"run\.json is not the record of a run"):
        records.read_run(tmp_path)


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one_and_no_part(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("old")
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from lib import errors, records\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    records.write_text(Path(sys.argv[1]), 'x' * 5000)\n"
        "except errors.ReelbookError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(records.ROOT)}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip().endswith(
        "run.json cannot be written: File too large. Free some space or choose another folder."
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("run_id", ["a", "20260101-120000", "a" * 30, "0-"])
def test_run_ids_that_can_be_folder_names_and_job_names_are_taken(run_id):
    assert records.check_run_id(run_id) == run_id


@pytest.mark.parametrize("run_id", ["", "-a", "a" * 31, "A", "a_b", "a/b", "..", "a\n", "ä"])
def test_other_run_ids_are_refused(run_id):
    with pytest.raises(ParameterError, match="is not 1 to 30 small letters, digits and hyphens"):
        records.check_run_id(run_id)


def test_new_run_ids_are_valid_and_new(tmp_path):
    first = records.new_run_id(tmp_path)
    (tmp_path / first).mkdir()
    second = records.new_run_id(tmp_path)
    assert records.check_run_id(first) != records.check_run_id(second)


def test_the_last_run_is_remembered_while_its_folder_exists(tmp_path):
    assert records.last_run(tmp_path) is None
    records.set_last_run(tmp_path, "mine")
    assert records.last_run(tmp_path) is None
    (tmp_path / "mine").mkdir()
    assert records.last_run(tmp_path) == "mine"
