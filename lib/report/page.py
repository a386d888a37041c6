"""Turns what was read of a run into HTML.

The template ``page.html.j2`` holds the words and the order, ``page.css`` the looks; here is only what must be
decided or counted.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lib.comparison import Metric as MetricChange
from lib.report import graph, rendering, timeline, words
from lib.report.reading import Run, Stage

STATES = ("completed", "reused", "failed", "interrupted", "running", "skipped", "pending")
OTHER = "in a state unknown here"
METRICS = {
    "rmse": ("RMSE", "root mean squared error, in units of the rating; lower is better"),
    "mae": ("MAE", "mean absolute error, in units of the rating; lower is better"),
    "ndcg": ("NDCG", "how well it ranks; 1 is a perfect order"),
}
COMPARED = {
    "naive_rmse": "mean rating",
    "baseline_rmse": "bias baseline",
    "rmse": "model",
    "best_rmse": "best reachable",
}
ORDINARY = ("it has not run before", "it runs every time")  # reasons to run that need no mention
OWN_ROW, NAIVE_ROW = "model", "mean rating"
MOST_COMPARED = 12


@dataclass(frozen=True)
class Metric:
    """A card: a number with its name, its meaning and its change since another run."""

    name: str
    value: words.Shown
    meaning: str
    change: MetricChange | None = None


@dataclass(frozen=True)
class Comparison:
    """One row of the errors compared.

    ``gain`` says by how much the error is lower than the reference's; ``length`` is that of its bar, in percent.
    """

    name: str
    value: words.Shown
    gain: str
    length: float
    own: bool


@dataclass(frozen=True)
class Result:
    """What the run is judged by."""

    accepted: bool | None
    verdict: str
    metrics: tuple[Metric, ...]
    compared: tuple[Comparison, ...]
    reference: str
    source: Stage | None


@dataclass(frozen=True)
class ParameterRow:
    """A parameter's value, and the stages that had it."""

    name: str
    value: words.Shown
    stages: str


def render(
    run: Run, *, since: str = "", changes: tuple[MetricChange, ...] = (), pages: Collection[str] = ()
) -> str:
    """Return the page of a run.

    Parameters
    ----------
    run : Run
    since : str
        The run that the metrics are compared with; empty for none.
    changes : tuple of lib.comparison.Metric
        How they have changed since.
    pages : collection of str
        The executed notebooks that have a page of their own beside this one.
    """
    return rendering.render(
        "page.html.j2",
        run=run,
        summary=summary(run),
        result=result(run, {change.name: change for change in changes}),
        since=since,
        pages=pages,
        failures=[stage for stage in run.stages if stage.failure is not None],
        parameters=parameter_rows(run.stages),
        timeline=timeline.place(run),
        drawings={"wide": graph.draw(run.stages, graph.WIDE), "tall": graph.draw(run.stages, graph.TALL)},
        anchors={stage.name: f"stage-{number}" for number, stage in reversed(list(enumerate(run.stages)))},
        known=STATES,
        earlier=[timeline.ran_before(run, stage) for stage in run.stages],
        ordinary=ORDINARY,
    )


def summary(run: Run) -> str:
    """Return how a run went, in a sentence or two."""
    time = words.duration(run.seconds)
    after = f" after {time}" if time else ""
    ended = {
        "completed": f"The run completed{' in ' + time if time else ''}.",
        "failed": f"The run failed{after}.",
        "interrupted": f"The run was interrupted{after}.",
        "running": "The run was going on when this page was made, so it is not the whole story.",
    }.get(run.status, f"This page does not know the status “{run.status}”.")
    if not run.stages:
        return ended
    counts = dict.fromkeys((*STATES, OTHER), 0)
    for stage in run.stages:
        counts[stage.status if stage.status in STATES else OTHER] += 1
    told = ", ".join(f"{count}{words.NARROW}{status}" for status, count in counts.items() if count)
    earlier = sum(timeline.ran_before(run, stage) for stage in run.stages)
    before = f"; {earlier}{words.NARROW}ran before the run was continued" if earlier else ""
    return f"{ended} Of {words.count(len(run.stages), 'stage')}: {told}{before}."


def result(run: Run, changes: dict[str, MetricChange] | None = None) -> Result:
    """Return the metrics that the completed stages have published, and what they say."""
    scraps: dict[str, Any] = {}
    source = None
    for stage in run.stages:
        if stage.status in ("completed", "reused"):
            scraps |= stage.scraps
            if "rmse" in stage.scraps or "accepted" in stage.scraps:
                source = stage
    metrics = tuple(
        Metric(name, words.measured(scraps[key]), meaning, (changes or {}).get(key))
        for key, (name, meaning) in METRICS.items()
        if _is_number(scraps.get(key))
    )
    accepted = scraps.get("accepted")
    margin = source.parameters.get("margin") if source else None
    reference, compared = _compared(scraps)
    return Result(
        accepted=accepted if isinstance(accepted, bool) else None,
        verdict=_verdict(scraps.get("rmse"), scraps.get("baseline_rmse"), margin),
        metrics=metrics,
        compared=compared,
        reference=reference,
        source=source,
    )


def parameter_rows(stages: tuple[Stage, ...]) -> list[ParameterRow]:
    """Return every parameter once for each value it had, with the stages that had it."""
    rows: dict[tuple[str, words.Shown], list[str]] = {}
    for stage in stages:
        for name, value in stage.parameters.items():
            rows.setdefault((name, words.given(value)), []).append(stage.name)
    ran = sum(bool(stage.parameters) for stage in stages)
    return [
        ParameterRow(name, value, "all stages" if len(names) == ran > 1 else ", ".join(names))
        for (name, value), names in rows.items()
    ]


def _verdict(rmse: Any, baseline: Any, margin: Any) -> str:
    """Return how the model compares with the baseline, in one sentence; empty where that is unknown."""
    if not (_is_number(rmse) and _is_number(baseline)) or baseline <= 0:
        return ""
    gain = 1 - rmse / baseline
    if abs(gain) < 0.0005:
        sentence = "The model’s error is that of the bias baseline"
    else:
        way = "lower" if gain > 0 else "higher"
        sentence = f"The model’s error is {words.percent(gain)} {way} than the bias baseline’s"
    if _is_number(margin) and 0 <= margin < 1:
        sentence += f"; at least {words.percent(margin)} lower is asked"
    return sentence + "."


def _compared(scraps: dict[str, Any]) -> tuple[str, tuple[Comparison, ...]]:
    """Return what the errors are measured by, and the errors, the largest first."""
    published = scraps.get("rmse_compared")
    values = dict(published) if isinstance(published, dict) else {}
    values |= {name: scraps[key] for key, name in COMPARED.items() if _is_number(scraps.get(key))}
    errors: dict[str, float] = {
        name: value for name, value in values.items() if _is_number(value) and 0 < value < 1e6
    }
    if not 2 <= len(errors) <= MOST_COMPARED:
        return "", ()
    reference = NAIVE_ROW if NAIVE_ROW in errors else max(errors, key=lambda name: errors[name])
    gains = {name: 1 - error / errors[reference] for name, error in errors.items()}
    best = max(gains.values()) or 1.0
    rows = [
        Comparison(
            name=words.shortened(name, 60),
            value=words.measured(errors[name]),
            gain="" if name == reference else words.signed_percent(gains[name]),
            length=round(max(0.0, gains[name] / best * 100), 2),
            own=name == OWN_ROW,
        )
        for name in sorted(errors, key=lambda name: (-errors[name], name))
    ]
    return reference, tuple(rows)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
