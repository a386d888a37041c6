"""Measure Gibbs sampling of `lib.fm` against myFM: error, CPU, coverage of intervals, and the folded model.

Both sample the same rows, 80 % of real ratings of shows and films, if they are there, and of ratings that
`lib.samples` generates, and are judged on the other 20 %.  What is compared is the CPU seconds until
the running mean of the predictions is as good as myFM's ever becomes, plus 0.001.  Each side runs in one process with
one thread; data are in memory, and predicting the test rows is not counted on myFM's side, but on ours.
myFM runs in an environment of its own, see `benchmarks/peers.py`.

    .venv/bin/python benchmarks/bayesian.py [--anime PATH] [--factors 16 32 64] [--sweeps N] [--without-peer]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy is imported

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.support import launch, ratings  # noqa: E402  the checkout is not installed
from lib import samples  # noqa: E402
from lib.features import design_matrix  # noqa: E402
from lib.fm import gibbs  # noqa: E402
from lib.fm.bayesian import Sampling  # noqa: E402

COVERAGES = (0.5, 0.8, 0.9, 0.95)
FOLDED = (16, 32, 64)
NEAR = 0.001


@dataclass(frozen=True)
class Point:
    """A point of a learning curve: sweeps and CPU seconds so far, and the RMSE of the running mean."""

    sweeps: int
    cpu: float
    rmse: float


def reached(curve: list[Point], target: float) -> Point | None:
    """Return the first point with an RMSE of at most the target."""
    return next((point for point in curve if point.rmse <= target), None)


def generated(count: int) -> ratings.Rows:
    """Generate ratings with `lib.samples`, ten a customer and sixty a video."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reviews.tsv.gz"
        samples.generate(
            path,
            ratings=count,
            customers=count // 10,
            videos=count // 60,
            progress=False,
            malformed=0,
            duplicates=0,
        )
        columns = ["customer_id", "product_id", "star_rating"]
        table = pd.read_csv(path, sep="\t", quoting=3, usecols=columns)
    customer, customers = pd.factorize(table["customer_id"])
    video, videos = pd.factorize(table["product_id"])
    y = table["star_rating"].to_numpy(np.float32)
    X = design_matrix(customer, video, len(customers), len(videos))
    return ratings.Rows("generated ratings (1-5)", X, y, (len(customers), len(videos)))


def halves(rows: ratings.Rows) -> tuple[ratings.Rows, ratings.Rows]:
    """Shuffle rows, and return 80 % to train on and 20 % to be judged on."""
    order = np.random.default_rng(0).permutation(len(rows))
    train, test = np.split(order, [int(0.8 * len(rows))])
    return rows.take(train), rows.take(test)


def sample_with_peer(
    train: ratings.Rows, test: ratings.Rows, k: int, options: argparse.Namespace
) -> list[Point]:
    """Return myFM's curve; see ``benchmarks/peer_runners/run_myfm.py``."""
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "train": str(train.save(Path(folder) / "train.npz")),
            "test": str(test.save(Path(folder) / "test.npz")),
            "k": k,
            "seed": 0,
            "epochs": options.sweeps,
            "burn_in": options.burn_in,
            "threads": 1,
        }
        found = launch.peer("myfm", job, timeout=options.timeout)
    return [Point(int(point["epochs"]), point["cpu"], point["rmse"]) for point in found["points"]]


def sample(
    train: ratings.Rows, test: ratings.Rows, k: int, options: argparse.Namespace
) -> tuple[list[Point], Sampling]:
    """Sample with `lib.fm`; return the curve and the sampling."""
    low, high = train.y.min(), train.y.max()
    started = time.process_time()
    sampling = Sampling(
        train.X,
        train.y,
        num_factors=k,
        samples=options.sweeps - options.burn_in,
        burn_in=options.burn_in,
        blocks=list(train.fields),
        test=(test.X, test.y),
        threads=1,
        seed=options.seed,
    )
    cpu = time.process_time() - started
    curve = []
    started = time.process_time()
    for report in sampling:
        cpu += time.process_time() - started
        if report.draws:
            error = np.clip(sampling.test_mean, low, high) - test.y
            curve.append(Point(report.sweep + 1, cpu, float(np.sqrt(np.mean(error**2)))))
        started = time.process_time()
    return curve, sampling


def describe(point: Point | None) -> str:
    return "     never" if point is None else f"{point.cpu:7.1f} s"


def compare(train: ratings.Rows, test: ratings.Rows, k: int, options: argparse.Namespace) -> None:
    """Run both sides with k factors and print what came of it."""
    peer: list[Point] = []
    if not options.without_peer:
        try:
            peer = sample_with_peer(train, test, k, options)
        except launch.Failed as error:
            print(f"  myFM gave no answer: {error}")
    curve, sampling = sample(train, test, k, options)
    million = 1e6 / len(train)
    print(
        f"\n  k = {k:<3}      {'RMSE':>8}{'CPU s':>9}{'s per M rows and sweep':>25}{'CPU until as good':>20}"
    )
    if peer:
        target = min(point.rmse for point in peer[options.burn_in :]) + NEAR
        theirs, ours = reached(peer[options.burn_in :], target), reached(curve, target)
        print(
            f"  {'myFM':<10}{peer[-1].rmse:>8.4f}{peer[-1].cpu:>9.1f}"
            f"{peer[-1].cpu / peer[-1].sweeps * million:>25.2f}{describe(theirs):>20}"
        )
    else:
        ours = None
    print(
        f"  {'reelbook':<10}{curve[-1].rmse:>8.4f}{curve[-1].cpu:>9.1f}"
        f"{curve[-1].cpu / curve[-1].sweeps * million:>25.2f}{describe(ours) if peer else '':>20}",
        end="",
    )
    if peer and theirs and ours:
        print(f"   {theirs.cpu / ours.cpu:.1f} x less, {ours.sweeps} sweeps for {theirs.sweeps}", end="")
    print()
    print_intervals(sampling, test)
    print_folded(sampling, test)


def print_intervals(sampling: Sampling, test: ratings.Rows) -> None:
    """Print which share of the test labels intervals hold."""
    shares = []
    for coverage in COVERAGES:
        low, high = sampling.test_interval(coverage)
        shares.append(f"{coverage:.0%}: {np.mean((low <= test.y) & (test.y <= high)):.1%}")
    print(f"  intervals hold  {', '.join(shares)}")


def print_folded(sampling: Sampling, test: ratings.Rows) -> None:
    """Print the error of the mean over the kept draws, and of it folded into one model."""
    mean = sampling.posterior_mean(test.X)
    error = float(np.sqrt(np.mean((mean - test.y) ** 2)))
    print(f"  mean over {sampling.kept} draws {error:.4f}; folded into one model", end="")
    for k in FOLDED:
        folded = sampling.model(k).predict(test.X)
        print(f", k {k}: {float(np.sqrt(np.mean((folded - test.y) ** 2))):.4f}", end="")
    print(" (not clipped)")
    found = sampling.diagnostics()
    settled = ", ".join(f"{name} {found[name].r_hat:.2f}" for name in ("outputs", "train_rmse"))
    print(f"  R-hat: {settled}; effective draws of an output: {found['outputs'].effective:.0f}")


def main() -> int:
    """Run both sides on each set of ratings and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--anime", type=Path, default=ratings.ANIME, help="real ratings (default %(default)s)"
    )
    parser.add_argument("--generated", type=int, default=300_000, help="generated ratings; 0 for none")
    parser.add_argument("--factors", type=int, nargs="+", default=[16, 32, 64], help="numbers of factors")
    parser.add_argument("--sweeps", type=int, default=220, help="sweeps of each side (default 220)")
    parser.add_argument("--burn-in", type=int, default=20, help="sweeps before the first draw (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of our sampling (default 0)")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds that myFM may take")
    parser.add_argument("--without-peer", action="store_true", help="measure our side only")
    options = parser.parse_args()
    if options.burn_in < 1 or options.sweeps <= options.burn_in or min(options.factors) < 1:
        parser.error("--burn-in and --factors must be 1 or more, and --sweeps more than --burn-in")
    if 0 < options.generated < 6000 or options.generated < 0:
        parser.error("--generated must be 0, or 6000 or more")

    sets = []
    if options.anime.is_file():
        sets.append(ratings.anime(options.anime))
    else:
        print(f"There are no real ratings at {options.anime}; name them with --anime.")
    if options.generated:
        sets.append(generated(options.generated))
    started = time.process_time()
    if gibbs.load():
        print(f"Compiled our loops in {time.process_time() - started:.1f} s; later runs find them ready.")
    for rows in sets:
        train, test = halves(rows)
        customers, videos = rows.fields
        print(
            f"\n{rows.name}: {len(train):,} rows to train on, {len(test):,} to be judged on, "
            f"{customers:,} customers, {videos:,} videos"
        )
        for k in options.factors:
            compare(train, test, k, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
