"""The page over all runs: a table, and a chart of the error over time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lib import history
from lib.records import RunRecord
from lib.report import rendering, words

MOST_ROWS = 500
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 1000, 260, 64, 14, 30
STATES = {"killed": "interrupted"}


@dataclass(frozen=True)
class Chart:
    """Where the dots and lines of the chart are, in pixels of its own."""

    lines: list[dict[str, str]]
    dots: list[dict[str, Any]]
    ticks: list[dict[str, Any]]
    first: str
    last: str
    words: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT


def render(outputs: Path, runs: Sequence[RunRecord]) -> str:
    """Return the page over runs.

    Parameters
    ----------
    outputs : Path
        The folder of all runs.
    runs : sequence of RunRecord
        In any order.
    """
    newest = sorted(runs, key=lambda run: run.started, reverse=True)
    rows = [_row(outputs, run) for run in newest[:MOST_ROWS]]
    completed = sum(row["status"] == "completed" for row in rows)
    summary = (
        f"{words.count(len(newest), 'run')}, {completed} of them completed."
        if rows
        else "There is no run yet."
    )
    return rendering.render(
        "index.html.j2", "index.css", rows=rows, summary=summary, chart=_chart(outputs, newest[::-1])
    )


def _row(outputs: Path, run: RunRecord) -> dict[str, Any]:
    status = history.status(outputs, run)
    states = [stage.status for stage in run.stages]
    rmse, gate = history.metrics(run).get("rmse"), history.accepted(run)
    given = ", ".join(f"{name} {json.dumps(value)}" for name, value in run.parameters.items())
    return {
        "run_id": run.run_id,
        "href": _href(outputs, run),
        "status": status,
        "css": STATES.get(status, status),
        "started": _time(run),
        "seconds": run.seconds,
        "ran": sum(state in ("completed", "failed", "interrupted") for state in states),
        "reused": states.count("reused"),
        "rmse": f"{rmse:.4f}" if rmse is not None else "",
        "gate": {True: "accepted", False: "not accepted", None: ""}[gate],
        "set": words.shortened(given, 120),
    }


def _href(outputs: Path, run: RunRecord) -> str:
    return f"./{quote(run.run_id)}/report.html" if (outputs / run.run_id / "report.html").exists() else ""


def _time(run: RunRecord) -> datetime | None:
    try:
        return datetime.fromisoformat(run.started)
    except ValueError:
        return None


def _chart(outputs: Path, runs: Sequence[RunRecord]) -> Chart | None:
    """Lay the chart out: a dot a run that measured an error, in their order; None for fewer than two."""
    points = [(run, found) for run in runs if "rmse" in (found := history.metrics(run)) and _time(run)][-60:]
    if len(points) < 2:
        return None
    values = [
        value for _, found in points for name, value in found.items() if name in ("rmse", "baseline_rmse")
    ]
    low, high = min(values), max(values)
    margin = (high - low) * 0.12 or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin
    step = (WIDTH - LEFT - 24) / (len(points) - 1)
    xs = [round(LEFT + 12 + number * step, 1) for number in range(len(points))]

    def y(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    lines = []
    for name, kind in (("baseline_rmse", "baseline"), ("rmse", "own")):
        places = [
            f"{x},{y(metrics[name])}" for x, (_, metrics) in zip(xs, points, strict=True) if name in metrics
        ]
        lines.append({"kind": kind, "points": " ".join(places)})
    dots = [
        {
            "x": x,
            "y": y(found["rmse"]),
            "kind": "refused" if history.accepted(run) is False else "own",
            "href": _href(outputs, run),
            "title": f"{run.run_id}: RMSE {found['rmse']:.4f}",
        }
        for x, (run, found) in zip(xs, points, strict=True)
    ]
    ticks = [
        {"y": y(low + (high - low) * share), "label": f"{low + (high - low) * share:.3f}"}
        for share in (0.1, 0.5, 0.9)
    ]
    first, last = points[0], points[-1]
    told = (
        f"RMSE of {len(points)} runs: {first[1]['rmse']:.4f} in the first, {last[1]['rmse']:.4f} in the last, "
        f"{min(found['rmse'] for _, found in points):.4f} at best"
    )
    return Chart(lines, dots, ticks, words.moment(_time(first[0])), words.moment(_time(last[0])), told)
