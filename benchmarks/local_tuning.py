"""Measure whether the local AWS's Bayesian search beats random search on the same budget of training jobs.

Both search the same ranges with the same seeds; each training job is one of our own engine, in this process,
with the hyperparameters as strings, as a tuning job passes them on.  What counts is the best RMSE on held-out
rows after so many jobs.  Hyperband and grids are left out: one saves epochs rather than jobs, the other does
not search.

    .venv/bin/python benchmarks/local_tuning.py [--quick] [--seeds N] [--jobs N] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.support import ratings  # noqa: E402  the checkout is not installed
from benchmarks.support.report import Report, machine  # noqa: E402
from lib import fm  # noqa: E402
from lib.errors import ModelError  # noqa: E402
from lib.local.ranges import parse_ranges  # noqa: E402
from lib.local.strategies import BayesianSearch, RandomSearch, Strategy, Trial  # noqa: E402

RANGES: dict[str, Any] = {
    "ContinuousParameterRanges": [
        {"Name": name, "MinValue": low, "MaxValue": high, "ScalingType": "Logarithmic"}
        for name, low, high in (
            ("bias_lr", "0.001", "0.5"),
            ("linear_lr", "0.0001", "0.1"),
            ("factors_lr", "0.0001", "0.1"),
            ("linear_wd", "0.000001", "0.1"),
            ("factors_wd", "0.000001", "0.1"),
            ("factors_init_sigma", "0.001", "0.5"),
        )
    ],
    "IntegerParameterRanges": [
        {"Name": "epochs", "MinValue": "2", "MaxValue": "30"},
        {"Name": "mini_batch_size", "MinValue": "50", "MaxValue": "5000", "ScalingType": "Logarithmic"},
    ],
}
STATIC = {"num_factors": "8", "predictor_type": "regressor"}


def rmse(train: ratings.Rows, test: ratings.Rows, tuned: dict[str, str]) -> float | None:
    """Train, and return the RMSE on the test rows; None where the training diverges."""
    try:
        trained = fm.FactorizationMachine.from_sagemaker({**STATIC, **tuned}, seed=0).fit(train.X, train.y)
    except ModelError:
        return None
    return float(np.sqrt(np.mean((trained.predict(test.X) - test.y) ** 2)))


def best_so_far(
    strategy: Strategy, train: ratings.Rows, test: ratings.Rows, jobs: int, parallel: int
) -> list[float]:
    """Search, and return the best RMSE after each job; ``parallel`` jobs are proposed before one has ended."""
    trials: list[Trial] = []
    best: list[float] = []
    for number in range(jobs + parallel - 1):
        if number < jobs:
            trials.append(Trial(strategy.propose(trials)))
        if number >= parallel - 1:
            ended = trials[number - parallel + 1]
            ended.value = rmse(train, test, ended.tuned)
            ended.failed = ended.value is None
            found = [trial.value for trial in trials if trial.value is not None]
            best.append(min(found, default=float("inf")))
    return best


def compared(
    train: ratings.Rows, test: ratings.Rows, seeds: int, jobs: int, parallel: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best RMSE after each job of random and of Bayesian search, a row a seed."""
    ranges = parse_ranges(RANGES)
    at_random, bayesian = [], []
    for seed in range(seeds):
        at_random.append(best_so_far(RandomSearch(ranges, seed), train, test, jobs, parallel))
        search = BayesianSearch(ranges, seed, minimize=True)
        bayesian.append(best_so_far(search, train, test, jobs, parallel))
        print(
            f"{train.name}, seed {seed}: random {at_random[-1][-1]:.4f}, Bayesian {bayesian[-1][-1]:.4f}",
            file=sys.stderr,
            flush=True,
        )
    return np.array(at_random), np.array(bayesian)


def rows_of(
    name: str, at_random: np.ndarray, bayesian: np.ndarray, budgets: Sequence[int]
) -> list[list[str]]:
    """Return the table's rows: one a budget."""
    rows = []
    for jobs in budgets:
        first, second = at_random[:, jobs - 1], bayesian[:, jobs - 1]
        gain = first - second
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
        needed = np.argmax(bayesian <= first[:, None], axis=1) + 1
        reached = (bayesian <= first[:, None]).any(axis=1)
        usual = f"{np.median(np.where(reached, needed, np.inf)):.0f}"
        wins = f"{int((gain > 0).sum())} of {len(gain)}"
        rows.append(
            [
                f"{name}, {jobs} jobs",
                f"{first.mean():.4f}",
                f"{second.mean():.4f}",
                f"{gain.mean():.4f} ± {error:.4f}",
                wins,
                usual,
            ]
        )
    return rows


def main() -> int:
    """Search, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer seeds, jobs and rows")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=30, help="training jobs of each search")
    parser.add_argument("--parallel", type=int, default=1, help="jobs that run at once")
    parser.add_argument("--markdown", type=Path, help="a page that the tables are put into")
    options = parser.parse_args()
    seeds, jobs = (3, 12) if options.quick else (options.seeds, options.jobs)

    data = [ratings.with_truth(20_000 if options.quick else 100_000, 2_000, 500)]
    if ratings.ANIME.is_file() and not options.quick:
        data.append(ratings.anime(ratings.ANIME))
    report = Report("local_tuning")
    report.text(machine())
    table = []
    for rows in data:
        train, _, test = ratings.split(rows)
        found = compared(train, test, seeds, jobs, options.parallel)
        budgets = [budget for budget in (10, 20, 30, 50) if budget <= jobs]
        table += rows_of(rows.name, *found, budgets or [jobs])
    header = [
        "the best RMSE after",
        "Random",
        "Bayesian",
        "lower by",
        "seeds it wins",
        "jobs it needs for Random's",
    ]
    report.table(f"Mean of {seeds} seeds, ± standard error of the paired difference", header, table)
    if options.markdown:
        report.put_into(options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
