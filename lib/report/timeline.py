"""Places the stages of a run on a time axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from lib.report import words
from lib.report.reading import Run, Stage

STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
MOST_TICKS = 6
SHORTEST = 0.6  # percent of the axis: a bar that can still be seen


@dataclass(frozen=True)
class Bar:
    """When a stage ran, in percent of the axis."""

    start: float
    length: float
    open: bool  # it had not ended


@dataclass(frozen=True)
class Tick:
    """A place on the axis, in percent, and its time since the start."""

    place: float
    label: str


@dataclass(frozen=True)
class Timeline:
    """The axis, and for each stage its bar; None where it did not run in this run."""

    ticks: tuple[Tick, ...]
    bars: tuple[Bar | None, ...]


def place(run: Run) -> Timeline:
    """Place the stages of a run on a common axis, from the start of the run to the last time known of it."""
    inside = [stage for stage in run.stages if stage.started is not None and not ran_before(run, stage)]
    start = run.started or min((stage.started for stage in inside if stage.started), default=None)
    if start is None:
        return Timeline((), (None,) * len(run.stages))
    times = [time for stage in inside for time in (stage.started, _end(stage)) if time is not None]
    end = max([*times, run.ended or start])
    span = (end - start).total_seconds()
    if any(stage.status == "running" for stage in inside):
        span = max(span * 1.08, 1.0)  # a running stage has come to some length
    bars = tuple(_bar(stage, start, span) if stage in inside else None for stage in run.stages)
    return Timeline(_ticks(span), bars)


def ran_before(run: Run, stage: Stage) -> bool:
    """Tell whether a stage was taken over from an earlier part of the run, which was then continued."""
    return stage.started is not None and run.started is not None and stage.started < run.started


def _bar(stage: Stage, start: datetime, span: float) -> Bar | None:
    if stage.started is None:
        return None
    span = span or 1.0
    ended = _end(stage)
    first = min(100.0 - SHORTEST, max(0.0, (stage.started - start).total_seconds() / span * 100))
    last = 100.0 if ended is None else min(100.0, (ended - start).total_seconds() / span * 100)
    return Bar(round(first, 2), round(max(SHORTEST, last - first), 2), open=ended is None)


def _end(stage: Stage) -> datetime | None:
    if stage.ended is None and stage.started is not None and stage.seconds is not None:
        return stage.started + timedelta(seconds=stage.seconds)
    return stage.ended


def _ticks(span: float) -> tuple[Tick, ...]:
    """Return round times from 0 to the end, at most ``MOST_TICKS``."""
    if span <= 0:
        return ()
    step = next((step for step in STEPS if span / step < MOST_TICKS), None)
    if step is None:
        days = int(span / 86_400 / (MOST_TICKS - 1)) + 1
        step = days * 86_400
    marks: Sequence[float] = [number * step for number in range(int(span / step) + 1)]
    return tuple(Tick(round(mark / span * 100, 2), words.tick(mark) if mark else "0") for mark in marks)
