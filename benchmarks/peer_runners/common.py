"""What the peers' runners share.  It runs in the peers' environments: numpy and scipy are all it may need.

A runner is started as ``python run_PEER.py JOB.json``.  The job names the files of the data and what to do,
and the answer is written to ``job["answer"]``: the points of a learning curve, each with the CPU and wall
seconds spent on training until then.  Reading data and judging a model are not counted.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp


class Clock:
    """CPU and wall seconds spent in the stretches that are counted."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self.wall = 0.0
        self.points: list[dict[str, float]] = []

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what happens within."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall

    def point(self, epochs: int, rmse: float) -> None:
        """Keep a point of the curve."""
        self.points.append({"epochs": epochs, "cpu": self.cpu, "wall": self.wall, "rmse": rmse})


class Data:
    """The rows of a job's file.

    Attributes
    ----------
    X : csr_matrix of float64 or float32
        The features.
    y : float64 (n,)
        The labels.
    fields : list of int
        How many features the customers and the videos have; empty for other data.
    """

    def __init__(self, path: str, dtype: type = np.float64) -> None:
        stored = np.load(path)
        arrays = (stored["values"].astype(dtype), stored["indices"], stored["indptr"])
        self.X = sp.csr_matrix(arrays, shape=tuple(stored["shape"]))
        self.y = stored["y"].astype(np.float64)
        self.fields = [int(size) for size in stored["fields"]]

    def customers_and_videos(self) -> tuple[np.ndarray, np.ndarray]:
        """Return both indices of each row of ratings."""
        pairs = self.X.indices.reshape(-1, 2)
        return pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64) - self.fields[0]


class Judge:
    """Root mean squared error on the test rows, clipped to the labels' range; not a number without any."""

    def __init__(self, job: dict[str, Any], train: Data, dtype: type = np.float64) -> None:
        self.low, self.high = train.y.min(), train.y.max()
        self.data = Data(job["test"], dtype) if job.get("test") else None

    def __call__(self, predict: Callable[[Data], np.ndarray]) -> float:
        if self.data is None:
            return float("nan")
        predicted = np.clip(predict(self.data), self.low, self.high)
        return float(np.sqrt(np.mean((predicted - self.data.y) ** 2)))


def scores(X: sp.csr_matrix, bias: float, linear: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return a Factorization Machine's outputs for X (n, d), linear (d,), factors (d, k), in blocks of rows."""
    outputs = np.empty(X.shape[0])
    for start in range(0, X.shape[0], 65_536):
        rows = X[start : start + 65_536]
        sums = np.asarray(rows @ factors)
        squares = np.asarray(rows.multiply(rows) @ (factors * factors))
        outputs[start : start + 65_536] = bias + rows @ linear + 0.5 * (sums**2 - squares).sum(axis=1)
    return outputs


def write_libsvm(data: Data, path: Path) -> None:
    """Write rows as text, ``label index:value …``."""
    X = data.X
    entries = np.char.add(np.char.add(X.indices.astype("U"), ":"), np.char.mod("%.6g", X.data))
    with path.open("w") as file:
        for row, label in enumerate(data.y):
            file.write(f"{label:g} {' '.join(entries[X.indptr[row] : X.indptr[row + 1]])}\n")


def read_job() -> dict[str, Any]:
    """Return the job that the command line names."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return job


def answer(job: dict[str, Any], clock: Clock) -> None:
    """Write the curve, and the process's largest memory in megabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Path(job["answer"]).write_text(json.dumps({"points": clock.points, "peak_mb": peak}))
