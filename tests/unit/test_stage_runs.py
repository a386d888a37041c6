"""One stage of a run for schedulers: run ids from their names, what is handed in, what is said when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notebook_files import RUN, cell, write_cells

from lib import records
from lib.errors import ParameterError
from lib.plan import Workflow
from lib.stage_runs import StageFailed, run_id_from, run_stage
from lib.stages import Stage


@given(st.text(min_size=1, max_size=80))
def test_any_name_makes_a_run_id(name: str) -> None:
    assert records.check_run_id(run_id_from(name)) == run_id_from(name)


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_names_that_differ_make_ids_that_differ(one: str, other: str) -> None:
    assert (one == other) == (run_id_from(one) == run_id_from(other))


def test_names_of_airflow_can_be_read() -> None:
    assert run_id_from("nightly-7") == "nightly-7"
    assert run_id_from("scheduled__2026-11-23T03:00:00+00:00").startswith("scheduled-20261123t0300")
    # of long names the digest tells apart what was cut
    hours = {run_id_from(f"scheduled__2026-11-23T{hour:02}:00:00+00:00") for hour in range(24)}
    assert len(hours) == 24


def chain(folder: Path, code: str = "pass") -> Workflow:
    for name, gives, takes in (("one", "first=1", ""), ("two", "second=first + 1", "first: int = None  # n")):
        write_cells(
            folder / f"{name}.ipynb",
            cell(f"# {name}", "markdown"),
            cell("\n".join(filter(None, [RUN, takes, "loud: bool = False  # n"])), tags=("parameters",)),
            cell("from lib.scraps import publish"),
            cell(f"print('said by {name}')\n{code}"),
            cell(f"publish({gives})"),
        )
    return Workflow([Stage("one"), Stage("two")], folder, folder.parent / "outputs", None)


def test_stages_run_one_at_a_time_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workflow = chain(tmp_path / "notebooks")
    assert run_stage("one", "a-run", workflow=workflow) == {"first": 1}
    assert run_stage("two", "a-run", workflow=workflow) == {"second": 2}
    said = capsys.readouterr().err
    assert "said by one" in said
    assert "said by two" in said
    record = records.read_run(workflow.outputs / "a-run")
    assert record is not None
    assert [stage.status for stage in record.stages] == ["completed", "completed"]
    assert (workflow.outputs / "a-run" / "report.html").exists()


def test_what_was_published_elsewhere_is_handed_in(tmp_path: Path) -> None:
    workflow = chain(tmp_path / "notebooks")
    assert run_stage("two", "elsewhere", published={"first": 41}, workflow=workflow) == {"second": 42}
    with pytest.raises(ParameterError, match="takes `first` from one"):
        run_stage("two", "nowhere", workflow=workflow)


def test_a_stage_that_fails_says_where(tmp_path: Path) -> None:
    workflow = chain(tmp_path / "notebooks", code="raise ValueError('so it is')")
    with pytest.raises(StageFailed, match="so it is"):
        run_stage("one", "bad", workflow=workflow)
    with pytest.raises(ParameterError, match="did you mean `loud`"):
        run_stage("one", "bad2", parameters={"lout": True}, workflow=workflow)


def test_secrets_are_not_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_PASSWORD", "correct-horse-battery")
    workflow = chain(tmp_path / "notebooks", code="import os; print(os.environ['MY_PASSWORD'])")
    run_stage("one", "quiet", workflow=workflow)
    said = capsys.readouterr().err
    assert "said by one" in said
    assert "correct-horse-battery" not in said
    assert "[hidden]" in said
