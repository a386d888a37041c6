"""What the notebooks of ``notebooks/explore`` show: runs beside each other, and the inside of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import comparison, history, records
from lib.comparison import Comparison
from lib.errors import DataError, ParameterError
from lib.history import History


def runs(outputs: Path | None = None) -> pd.DataFrame:
    """Return a table of all runs, the newest first, indexed by the run's id."""
    outputs = outputs or records.outputs_folder()
    found = sorted(History(outputs).runs(), key=lambda run: run.started, reverse=True)
    rows = [
        {
            "run": run.run_id,
            "status": history.status(outputs, run),
            "started": run.started[:16].replace("T", " "),
            "seconds": run.seconds,
            **history.metrics(run),
            "accepted": history.accepted(run),
        }
        for run in found
    ]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["run"]).set_index("run")


def compare(before: str = "", after: str = "", outputs: Path | None = None) -> Comparison:
    """Compare two runs; where one is not named, the last ones that have measured an error.

    Raises
    ------
    ParameterError
        When there is no such run, or there are no two runs to compare.
    """
    outputs = outputs or records.outputs_folder()
    named = {before, after} - {""}
    measured = [
        run.run_id
        for run in sorted(History(outputs).runs(), key=lambda run: run.started, reverse=True)
        if "rmse" in history.metrics(run) and run.run_id not in named
    ]
    if len(measured) + len(named) < 2:
        raise ParameterError(
            "There are no two runs with an error to compare.",
            hint="Run the workflow again with other parameters.",
        )
    after = after or measured.pop(0)
    before = before or measured.pop(0)
    return comparison.compare(outputs, history.find(outputs, before), history.find(outputs, after))


def metrics(compared: Comparison) -> pd.DataFrame:
    """Return the metrics of both runs, and their change."""
    before, after = compared.before.run_id, compared.after.run_id
    words = {True: "better", False: "worse", None: "equal"}
    rows = [
        {"metric": m.name, before: m.before, after: m.after, "change": m.change, "": words[m.better]}
        for m in compared.metrics
    ]
    return pd.DataFrame(rows, columns=["metric", before, after, "change", ""]).set_index("metric")


def changes(compared: Comparison, kind: str = "parameters") -> pd.DataFrame:
    """Return what differs of one kind: ``parameters``, ``data``, ``modules``, ``versions`` or ``checkout``."""
    before, after = compared.before.run_id, compared.after.run_id
    rows = [
        {"name": c.name, before: str(c.before), after: str(c.after), "stages": ", ".join(c.stages)}
        for c in getattr(compared, kind)
    ]
    return pd.DataFrame(rows, columns=["name", before, after, "stages"]).set_index("name")


def code(compared: Comparison) -> str:
    """Return the code cells that differ, as unified differences."""
    parts = [f"{c.stage}, cell {c.cell}\n" + "\n".join(c.lines) for c in compared.code]
    return "\n\n".join(parts) or "The code cells are the same."


def learning_curves(compared: Comparison) -> pd.DataFrame:
    """Return the training error by epoch of both runs' training jobs, read from their logs.

    Raises
    ------
    DataError
        When a run has no training job.
    """
    from lib import job_control

    curves = {}
    for run in (compared.before, compared.after):
        name = run.scraps.get("training_job_name")
        if not name:
            raise DataError(f"The run {run.run_id} has no training job.")
        curves[run.run_id] = job_control.learning_curve(str(name))["rmse"]
    return pd.DataFrame(curves)


def largest_errors(
    test: pd.DataFrame, predicted: Any, customers: pd.DataFrame, videos: pd.DataFrame, n: int = 15
) -> pd.DataFrame:
    """Return the test ratings that the model is most wrong about.

    Parameters
    ----------
    test : DataFrame
        Columns customer, video and star_rating.
    predicted : array of shape (n,)
    customers, videos : DataFrame
        The tables of 01_preprocess.
    n : int
        How many.
    """
    table = test[["customer", "video", "star_rating"]].assign(predicted=np.asarray(predicted))
    table["error"] = table["predicted"] - table["star_rating"]
    table = table.reindex(table["error"].abs().sort_values(ascending=False, kind="stable").index).head(n)
    for who, known in (("customer", customers), ("video", videos)):
        ratings = known.set_index(who)["train_ratings"]
        table[f"ratings of the {who}"] = table[who].map(ratings).to_numpy()
    if "product_title" in videos:
        table.insert(0, "title", table["video"].map(videos.set_index("video")["product_title"]).to_numpy())
    return table.drop(columns="video").set_index("customer")


def errors_by_video(
    test: pd.DataFrame, predicted: Any, videos: pd.DataFrame, at_least: int = 10
) -> pd.DataFrame:
    """Return the RMSE and the mean error of each video with enough test ratings, the worst first."""
    error = np.asarray(predicted) - test["star_rating"].to_numpy()
    groups = pd.DataFrame({"video": test["video"].to_numpy(), "error": error}).groupby("video")["error"]
    table = pd.DataFrame(
        {
            "test ratings": groups.size(),
            "rmse": groups.apply(lambda errors: float(np.sqrt(np.mean(np.square(errors))))),
            "mean error": groups.mean(),
        }
    )
    table = table[table["test ratings"] >= at_least].sort_values("rmse", ascending=False, kind="stable")
    if "product_title" in videos:
        table.insert(0, "title", videos.set_index("video")["product_title"].reindex(table.index))
    return table


def map_of(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Return vectors laid flat on their two principal axes, and the share of their variance that this shows.

    Parameters
    ----------
    vectors : array of shape (n, k)

    Returns
    -------
    points : array of shape (n, 2)
        The sign of each axis is such that its largest coordinate is positive.
    share : float
    """
    centred = np.asarray(vectors, float) - np.mean(vectors, axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    points = left[:, :2] * sizes[:2]
    points = points * np.sign(points[np.abs(points).argmax(axis=0), [0, 1]])
    return points, float(np.square(sizes[:2]).sum() / max(np.square(sizes).sum(), np.finfo(float).tiny))
