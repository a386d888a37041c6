"""Follow `lib.fm`'s test error over the CPU seconds spent, in a process of its own; see ``launch.py``.

The answer is of the peers' kind: ``points``.  Setting up counts, judging the ordinary algorithm's model does not;
the sampler predicts the test rows itself, and that counts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.support import ratings
from lib.fm.fit import Training
from lib.fm.hyperparameters import validate

Point = dict[str, float]


def by_adam(job: dict[str, Any], train: ratings.Rows, test: ratings.Rows) -> Iterator[Point]:
    """Train by the ordinary algorithm, and yield a point after each epoch."""
    settings = validate(
        {
            "feature_dim": train.X.shape[1],
            "num_factors": job["k"],
            "predictor_type": "regressor",
            "epochs": job["epochs"],
            "batch_metrics_publish_interval": 10**9,
            **job["settings"],
        }
    )
    low, high = train.y.min(), train.y.max()
    spent, wall = 0.0, 0.0
    began = time.process_time(), time.perf_counter()
    for report in (training := Training(train.X, train.y, settings, seed=job["seed"])):
        if not report.ended:
            continue
        spent += time.process_time() - began[0]
        wall += time.perf_counter() - began[1]
        predicted = np.clip(training.outputs(test.X), low, high)
        rmse = float(np.sqrt(np.mean((predicted.astype(np.float64) - test.y) ** 2)))
        yield {"epochs": report.epoch + 1, "cpu": spent, "wall": wall, "rmse": rmse}
        began = time.process_time(), time.perf_counter()


def by_sampling(job: dict[str, Any], train: ratings.Rows, test: ratings.Rows) -> Iterator[Point]:
    """Sample, and yield a point after each sweep."""
    from lib.fm.bayesian import Sampling

    began = time.process_time(), time.perf_counter()
    sampling = Sampling(
        train.X,
        train.y,
        num_factors=job["k"],
        samples=job["epochs"] - job["burn_in"],
        burn_in=job["burn_in"],
        seed=job["seed"],
        test=(test.X, test.y),
        keep=1,
    )
    for report in sampling:
        assert report.test is not None
        yield {
            "epochs": report.sweep + 1,
            "cpu": time.process_time() - began[0],
            "wall": time.perf_counter() - began[1],
            "rmse": report.test["rmse"],
        }


def main() -> None:
    """Run the job that the command line names."""
    job = json.loads(Path(sys.argv[1]).read_text())
    method = by_adam if job["algorithm"] == "ordinary" else by_sampling
    few = ratings.generated(200, 20, 10)
    for _ in method({**job, "epochs": job.get("burn_in", 0) + 1}, few, few):
        pass  # loads the machine code, or compiles it
    points = list(method(job, ratings.load(job["train"]), ratings.load(job["test"])))
    Path(job["answer"]).write_text(json.dumps({"points": points}))


if __name__ == "__main__":
    main()
