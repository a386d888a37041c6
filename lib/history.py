"""The runs that there were: their records, how each ended, what they measured, and which can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lib import records
from lib.errors import ParameterError, ReelbookError, did_you_mean
from lib.records import RunRecord, StageRecord, shown

DONE = ("completed", "reused")
METRICS = ("rmse", "mae", "ndcg", "baseline_rmse")
LOWER_IS_BETTER = {"rmse": True, "mae": True, "ndcg": False, "baseline_rmse": True}
TEST_RATINGS = "ratings_uri"  # the input of an evaluation by which runs are comparable


class History:
    """The records of all runs, the newest first, read when they are needed.

    Parameters
    ----------
    outputs : Path
        The folder of all runs.
    leave_out : str
        A run that does not count: the one that is about to be written.
    """

    def __init__(self, outputs: Path, leave_out: str = "") -> None:
        self._paths = records.run_files(outputs)
        self._leave_out = leave_out
        self._read: list[records.RunRecord] = []

    def runs(self) -> Iterator[records.RunRecord]:
        """Yield the runs; a record that cannot be read is passed over."""
        yield from self._read
        while self._paths:
            folder = self._paths.pop(0).parent
            try:
                run = records.read_run(folder)
            except ReelbookError:
                continue
            if run is not None:
                run.run_id = folder.name  # also of one that somebody has copied or renamed
            if run is not None and run.run_id != self._leave_out:
                self._read.append(run)
                yield run

    def stages(self, name: str) -> Iterator[tuple[str, StageRecord]]:
        """Yield the records of one stage that it completed with, and their runs."""
        for run in self.runs():
            stage = run.stage(name)
            if stage is not None and stage.status in DONE:
                yield run.run_id, stage


def status(outputs: Path, run: RunRecord) -> str:
    """Return how a run ended; ``killed`` where it says that it runs and no process does."""
    if run.status == "running" and not records.is_going_on(outputs / run.run_id):
        return "killed"
    return run.status


def metrics(run: RunRecord) -> dict[str, float]:
    """Return what a run has measured, by the names of ``METRICS``."""
    found = {}
    for name in METRICS:
        value = _published(run, name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def accepted(run: RunRecord) -> bool | None:
    """Return whether a run's model passed the quality gate; None where that was not decided."""
    value = _published(run, "accepted")
    return value if isinstance(value, bool) else None


def measured_by(run: RunRecord) -> Mapping[str, Any] | None:
    """Return the state of the test ratings that a run was measured by; None where it was not."""
    for stage in reversed(run.stages):
        if stage.status in DONE and "rmse" in stage.scraps:
            state = (stage.ingredients.get("objects") or {}).get(TEST_RATINGS)
            return {"etag": state["etag"], "bytes": state["bytes"]} if state else None
    return None


def comparable(run: RunRecord, history: History) -> RunRecord | None:
    """Return the last run before this one that was measured by the same test ratings; None where there is none."""
    own = measured_by(run)
    if own is None:
        return None
    earlier = [
        other for other in history.runs() if other.started < run.started and other.run_id != run.run_id
    ]
    for other in sorted(earlier, key=lambda other: other.started, reverse=True):
        if measured_by(other) == own and "rmse" in metrics(other):
            return other
    return None


def find(outputs: Path, run_id: str) -> RunRecord:
    """Return the record of a run.

    Raises
    ------
    ParameterError
        When there is no such run; ReelbookError when its record cannot be read.
    """
    run = records.read_run(outputs / records.check_run_id(run_id))
    if run is None:
        known = [path.parent.name for path in records.run_files(outputs)]
        guess = did_you_mean(run_id, known)
        hint = guess[0].upper() + guess[1:] if guess else "`run_all.py runs` lists them." if known else ""
        raise ParameterError(f"There is no run {run_id} in {shown(outputs)}.", hint=hint)
    run.run_id = run_id
    return run


def _published(run: RunRecord, name: str) -> Any:
    for stage in reversed(run.stages):
        if stage.status in DONE and name in stage.scraps:
            return stage.scraps[name]
    return None
