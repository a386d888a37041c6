"""Measure what each side feature adds on real ratings, with SageMaker's algorithm and with the Bayesian one.

The ratings are split 80/20 at random, once for each seed; the design matrix is `lib.design`'s, fitted on the 80 %.
The ordinary algorithm trains on nine tenths of those and stops by the last one, with one set of hyperparameters for
all rows of the table, found on customers and videos alone.  The second table is about videos that nobody in the
training rated, one in twenty: what a model says of them with and without knowing their genre, type and length, and
what is best put into their part of the row.  Figures are means over the seeds ± their standard deviation, CPU
seconds those of one fit.

The ratings are not part of this project: a folder with ``ratings.tsv.gz`` (customer_id, product_id, star_rating) and
``titles.tsv.gz`` (product_id and columns of the videos) is named by ``--data``.

    .venv/bin/python benchmarks/features.py [--data FOLDER] [--seeds N] [--only ordinary|bayesian] [--markdown PAGE]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.support.report import Report, machine  # noqa: E402
from lib.design import Design  # noqa: E402
from lib.fm.bayesian import Sampling  # noqa: E402
from lib.fm.fit import Training  # noqa: E402
from lib.fm.hyperparameters import validate  # noqa: E402
from lib.fm.model import Model  # noqa: E402

OF_VIDEOS = ["genre", "type", "episodes:log"]
VARIANTS: dict[str, list[str]] = {
    "customer and video": [],
    "+ genre": ["genre"],
    "+ type": ["type"],
    "+ episodes (log)": ["episodes:log"],
    "+ genre, type, episodes": OF_VIDEOS,
    "+ rated": ["rated"],
    "+ all of these": [*OF_VIDEOS, "rated"],
}
HYPERPARAMETERS = {
    "predictor_type": "regressor",
    "num_factors": 32,
    "epochs": 60,
    "mini_batch_size": 500,
    "bias_lr": 0.02,
    "bias_wd": 1e-6,
    "linear_lr": 0.0032,
    "linear_wd": 2e-6,
    "factors_lr": 0.00092,
    "factors_wd": 0.00024,
    "factors_init_sigma": 0.03,
}
PATIENCE = 5
BAYESIAN_FACTORS, SAMPLES, BURN_IN = 16, 60, 15
COLD_VIDEOS = 0.05
RARE_VIDEO = 3


@dataclass
class Ratings:
    """Real ratings, numbered, and the tables of customers and videos."""

    ratings: pd.DataFrame
    customers: pd.DataFrame
    videos: pd.DataFrame

    @classmethod
    def read(cls, folder: Path) -> Ratings:
        text = {"customer_id": str, "product_id": str}
        ratings = pd.read_csv(folder / "ratings.tsv.gz", sep="\t", dtype=text)
        titles = pd.read_csv(folder / "titles.tsv.gz", sep="\t", dtype=str)
        ratings["customer"], customer_ids = pd.factorize(ratings["customer_id"])
        ratings["video"], product_ids = pd.factorize(ratings["product_id"])
        customers = pd.DataFrame({"customer": range(len(customer_ids)), "customer_id": customer_ids})
        videos = pd.DataFrame({"video": range(len(product_ids)), "product_id": product_ids})
        videos = videos.merge(titles.drop_duplicates("product_id"), how="left", on="product_id")
        return cls(ratings, customers, videos)

    def design(self, features: list[str], train: pd.DataFrame) -> Design:
        return Design(self.customers, self.videos, features).fit(train)


Fit = Callable[[Design, sp.csr_matrix, np.ndarray, sp.csr_matrix, int], np.ndarray]


def ordinary(design: Design, X: sp.csr_matrix, y: np.ndarray, X_test: sp.csr_matrix, seed: int) -> np.ndarray:
    """Return the predictions of SageMaker's algorithm, stopped at the epoch that serves a tenth of X best."""
    order = np.random.default_rng(seed).permutation(X.shape[0])
    held, used = order[: len(order) // 10], order[len(order) // 10 :]
    X_held, y_held = X[held], y[held]
    training = Training(X[used], y[used], validate({"feature_dim": X.shape[1], **HYPERPARAMETERS}), seed=seed)
    best_error, best_epoch = np.inf, 0
    best: Model | None = None
    for report in training:
        if not report.ended:
            continue
        error = rmse(training.outputs(X_held), y_held)
        if error < best_error:
            best_error, best_epoch, best = error, report.epoch, training.model()
        elif report.epoch - best_epoch >= PATIENCE:
            break
    assert best is not None
    return best.predict(X_test)


def bayesian(design: Design, X: sp.csr_matrix, y: np.ndarray, X_test: sp.csr_matrix, seed: int) -> np.ndarray:
    """Return the posterior mean of the Bayesian Factorization Machine, a prior for each feature's columns."""
    blocks = list(design.blocks.values())
    if sum(blocks) < X.shape[1]:
        blocks.append(X.shape[1] - sum(blocks))
    sampling = Sampling(
        X,
        y,
        num_factors=BAYESIAN_FACTORS,
        samples=SAMPLES,
        burn_in=BURN_IN,
        blocks=blocks,
        seed=seed,
        test=(X_test, None),
    )
    for _ in sampling:
        pass
    return sampling.test_mean


def rmse(prediction: np.ndarray, y: np.ndarray) -> float:
    """Return the root mean squared error, predictions clipped to the scale of the ratings."""
    return float(np.sqrt(np.mean((prediction.clip(1, 10) - y) ** 2, dtype=np.float64)))


def labels(rows: pd.DataFrame) -> np.ndarray:
    return rows["star_rating"].to_numpy(np.float32)


def measured(errors: list[float]) -> str:
    spread = f" ± {np.std(errors, ddof=1):.4f}" if len(errors) > 1 else ""
    return f"{np.mean(errors):.4f}{spread}"


def by_feature(data: Ratings, fits: dict[str, Fit], seeds: int, report: Report) -> None:
    """Report a row a set of features: RMSE on the test rows."""
    rows: list[list[str]] = []
    plain: dict[str, float] = {}
    for label, features in VARIANTS.items():
        cells: list[str] = []
        for name, fit in fits.items():
            errors, seconds = [], []
            for seed in range(seeds):
                is_test = np.random.default_rng(seed).random(len(data.ratings)) < 0.2
                train, test = data.ratings[~is_test], data.ratings[is_test]
                design = data.design(features, train)
                X, X_test = design.transform(train), design.transform(test)
                started = time.process_time()
                prediction = fit(design, X, labels(train), X_test, seed)
                seconds.append(time.process_time() - started)
                errors.append(rmse(prediction, labels(test)))
            plain.setdefault(name, float(np.mean(errors)))
            gain = plain[name] - float(np.mean(errors))
            cells += [measured(errors), f"{gain:+.4f}", f"{np.mean(seconds):.1f}"]
        rows.append([label, f"{X.nnz / X.shape[0]:.1f}", *cells])
        print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    header = [cell for name in fits for cell in (f"{name}: RMSE", "gain", "CPU s")]
    report.table(
        "What each side feature adds: RMSE on a fifth of the ratings",
        ["features", "entries a row", *header],
        rows,
    )


def of_cold_videos(data: Ratings, fits: dict[str, Fit], seeds: int, report: Report) -> None:
    """Report a row a way to tell of videos without training ratings: RMSE on their ratings."""
    ways = {
        "empty": lambda X, design, video, rare: X,
        "a column that was never trained": untrained,
        f"one column for all with under {RARE_VIDEO} ratings": shared,
    }
    rows: list[list[str]] = []
    for label, features in {"customer and video": [], "+ genre, type, episodes": OF_VIDEOS}.items():
        for way, change in ways.items():
            cells = []
            for fit in fits.values():
                errors = []
                for seed in range(seeds):
                    drawn = np.random.default_rng(seed).random(len(data.videos)) < COLD_VIDEOS
                    is_cold = drawn[data.ratings["video"]]
                    train, cold = data.ratings[~is_cold], data.ratings[is_cold]
                    design = data.design(features, train)
                    rare = np.bincount(train["video"], minlength=len(data.videos)) < RARE_VIDEO
                    X = change(design.transform(train), design, train["video"].to_numpy(), rare)
                    X_cold = change(design.transform(cold), design, cold["video"].to_numpy(), rare)
                    errors.append(rmse(fit(design, X, labels(train), X_cold, seed), labels(cold)))
                cells.append(measured(errors))
            rows.append([label, way, *cells])
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    title = "Videos that nobody rated in the training: RMSE on their ratings"
    report.table(
        title, ["features", "the video's part of the row", *(f"{name}: RMSE" for name in fits)], rows
    )


def untrained(X: sp.csr_matrix, design: Design, video: np.ndarray, rare: np.ndarray) -> sp.csr_matrix:
    """Return the rows with a one in each video's own column, whether it has training ratings or not."""
    first, count = design.blocks["customer"], design.blocks["video"]
    own = sp.csr_matrix(
        (np.ones(len(video), np.float32), video, np.arange(len(video) + 1)), (len(video), count)
    )
    return sp.hstack([X[:, :first], own, X[:, first + count :]], format="csr")


def shared(X: sp.csr_matrix, design: Design, video: np.ndarray, rare: np.ndarray) -> sp.csr_matrix:
    """Return the rows with rare videos, and those without training ratings, in one column of their own at the end."""
    first, count = design.blocks["customer"], design.blocks["video"]
    kept = sp.diags(np.where(rare, 0, 1).astype(np.float32))
    own = X[:, first : first + count] @ kept
    own.eliminate_zeros()
    together = sp.csr_matrix(rare[video].astype(np.float32)[:, None])
    return sp.hstack([X[:, :first], own, X[:, first + count :], together], format="csr")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = ROOT.parent / "shared" / "data" / "anime"
    parser.add_argument(
        "--data", type=Path, default=default, help="folder of ratings.tsv.gz and titles.tsv.gz"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many random splits")
    parser.add_argument("--only", choices=["ordinary", "bayesian"], help="only one of the two algorithms")
    parser.add_argument(
        "--markdown", type=Path, help="page to put the tables into, such as docs/benchmarks.md"
    )
    options = parser.parse_args()
    if not (options.data / "ratings.tsv.gz").is_file():
        print(
            f"There is no {options.data / 'ratings.tsv.gz'}: nothing is measured. Name its folder with --data."
        )
        return 0
    warnings.simplefilter("ignore", UserWarning)
    fits: dict[str, Fit] = {"ordinary": ordinary, "bayesian": bayesian}
    if options.only:
        fits = {options.only: fits[options.only]}
    data = Ratings.read(options.data)
    report = Report("features")
    report.text(machine())
    report.text(
        f"{len(data.ratings):,} ratings of {len(data.videos):,} videos by {len(data.customers):,} customers; "
        f"means of {options.seeds} splits ± their standard deviation. Ordinary is SageMaker's algorithm, "
        f"k = {HYPERPARAMETERS['num_factors']}, one set of hyperparameters for all rows, stopped early; bayesian is "
        f"Gibbs sampling, k = {BAYESIAN_FACTORS}, {SAMPLES} draws after {BURN_IN}."
    )
    by_feature(data, fits, options.seeds, report)
    of_cold_videos(data, fits, options.seeds, report)
    if options.markdown:
        report.put_into(options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
