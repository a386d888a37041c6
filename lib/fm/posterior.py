"""Moments of predictions over draws from a posterior, and the intervals that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from lib import threads as worker_threads
from lib.errors import ParameterError

if TYPE_CHECKING:
    from lib.fm import gibbs

ROWS_PER_TASK = 65_536  # fixed, so that sums do not depend on the number of threads


@dataclass(frozen=True)
class Draw:
    """One draw: the bias, and a float32 table (d, at least k + 1) of each feature's k factors and its weight."""

    bias: float
    table: np.ndarray
    num_factors: int

    def copy(self) -> Draw:
        """Return the draw with a table of its own, without padding."""
        return Draw(self.bias, self.table[:, : self.num_factors + 1].copy(), self.num_factors)

    @property
    def factors(self) -> np.ndarray:
        """float32 (d, k)."""
        return self.table[:, : self.num_factors]

    @property
    def linear(self) -> np.ndarray:
        """float32 (d,)."""
        return self.table[:, self.num_factors]

    def outputs(self, rows: gibbs.Rows, threads: int) -> np.ndarray:
        """Return the raw outputs of rows, bias included: float32 (n,)."""
        from lib.fm import gibbs

        n = len(rows.starts) - 1
        result = np.empty(n, np.float32)
        nothing = np.zeros((0, self.num_factors), np.float32)

        def work(first: int, last: int) -> None:
            gibbs.outputs(rows, self.table, self.num_factors, first, last, result, nothing)

        over_rows(n, work, threads)
        result += np.float32(self.bias)
        return result


class Moments:
    """Sums over draws of some rows' predictions: of the outputs and, for a classifier, of their Φ.

    Parameters
    ----------
    rows : int
        Number of rows n.
    classifier : bool
        Whether probabilities are wanted.
    """

    def __init__(self, rows: int, classifier: bool) -> None:
        self.draws = 0
        self._classifier = classifier
        self._sums = np.zeros((4 if classifier else 2, rows))

    def add(self, outputs: np.ndarray) -> None:
        """Add a draw's outputs, float32 (n,)."""
        from lib.fm import gibbs

        values = [outputs.astype(np.float64)]
        if self._classifier:
            values.append(gibbs.normal_probability(outputs))
        for place, value in enumerate(values):
            self._sums[2 * place] += value
            self._sums[2 * place + 1] += value * value
        self.draws += 1

    def output(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the outputs."""
        return self._moments(0)

    def prediction(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the outputs or, for a classifier, of the probabilities."""
        return self._moments(1 if self._classifier else 0)

    def _moments(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        mean = self._sums[2 * place] / self.draws
        return mean, np.maximum(self._sums[2 * place + 1] / self.draws - mean * mean, 0)


def moments_of(draws: Sequence[Draw], rows: gibbs.Rows, classifier: bool, threads: int) -> Moments:
    """Return the moments of rows' predictions over draws."""
    moments = Moments(len(rows.starts) - 1, classifier)
    for draw in draws:
        moments.add(draw.outputs(rows, threads))
    return moments


def normal_reach(coverage: float) -> float:
    """Return how many deviations about the mean hold this share of a normal distribution.

    Raises
    ------
    ParameterError
        A coverage that is not between 0 and 1.
    """
    if not 0 < coverage < 1:
        raise ParameterError(f"coverage must be between 0 and 1, not {coverage}.")
    return NormalDist().inv_cdf(0.5 + coverage / 2)


def held_out_reach(scores: np.ndarray, coverage: float) -> float:
    """Return how many deviations about the mean hold this share of labels, from rows held out of training.

    Split conformal prediction with normalised scores: Lei, G'Sell, Rinaldo, Tibshirani, Wasserman,
    "Distribution-free predictive inference for regression", JASA 113 (2018).

    Parameters
    ----------
    scores : float array, shape (n,)
        ``|label − mean| / deviation`` of each row.
    coverage : float
        Between 0 and 1.
    """
    normal_reach(coverage)
    share = min(1.0, coverage * (len(scores) + 1) / len(scores))
    return float(np.quantile(scores, share))


def fitted_logistic(outputs: np.ndarray, probability: np.ndarray) -> tuple[float, float]:
    """Return stretch a and shift b of the ``1 / (1 + exp(-a x - b))`` nearest to probabilities, by Newton's method.

    Nearest means the least cross-entropy; both arrays are float64 (n,).
    """
    design = np.stack([outputs, np.ones_like(outputs)], axis=1)
    answer = np.array([1.702, 0.0])  # the logistic function of 1.702 x is within 0.01 of Φ(x)
    for _ in range(50):
        fitted = 1 / (1 + np.exp(-np.clip(design @ answer, -500, 500)))
        gradient = design.T @ (fitted - probability)
        curvature = (design * (fitted * (1 - fitted))[:, None]).T @ design
        curvature += 1e-9 * len(outputs) * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = float(np.abs(step).max())
        answer -= step * min(1.0, 1.0 / max(size, 1e-12))
        if size < 1e-8:
            break
    stretch, shift = answer.tolist()
    return (stretch, shift) if stretch > 0 else (1.702, 0.0)


def over_rows(n: int, work: Callable[[int, int], Any], threads: int) -> list[Any]:
    """Call ``work(first, last)`` for ranges of n rows that do not depend on the number of threads."""
    tasks = [partial(work, first, min(first + ROWS_PER_TASK, n)) for first in range(0, n, ROWS_PER_TASK)]
    return worker_threads.run(tasks, min(threads, max(1, len(tasks))))


def as_rows(X: sparse.csr_matrix) -> gibbs.Rows:
    """Return a CSR matrix as the kernels take it."""
    from lib.fm import gibbs

    return gibbs.Rows(plain(X.indptr, np.int64), plain(X.indices, np.int32), plain(X.data, np.float32))


def plain(array: Any, dtype: type) -> np.ndarray:
    """Return an array of the kind that the kernels are compiled for: contiguous, aligned and writeable."""
    return np.require(array, dtype, ["C", "A", "W"])
