"""The algorithm of SageMaker's Factorization Machines in plain numpy and float64, to hold the fast one against.

One statement after another, as the documents say it and MXNet 1.9.1 does it: rows in file order, the same
mini-batches every epoch, Adam whose moments and decay touch only the features that are active in a batch.
Nothing of `lib.fm` is used but its checked hyperparameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from lib.fm.hyperparameters import Hyperparameters

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # MXNet's Adam
GROUPS = ("bias", "linear", "factors")
FLOAT32 = 2.0**-23  # the distance between two float32 numbers near 1


@dataclass
class Weights:
    """Bias, weights (d,) and factors (d, k) of a model, in float64."""

    bias: float
    linear: np.ndarray
    factors: np.ndarray

    def furthest(self, other: Weights) -> dict[str, float]:
        """Return the largest difference to other weights, by group."""
        return {
            group: float(np.abs(getattr(self, group) - getattr(other, group)).max(initial=0))
            for group in GROUPS
        }


def weights_of(model: object) -> Weights:
    """Return a model's weights."""
    return Weights(*(np.asarray(getattr(model, group), np.float64) for group in GROUPS))


def outputs(X: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the model's equation for the rows of a dense matrix (n, d): float64 (n,)."""
    pairs = (X @ weights.factors) ** 2 - X**2 @ weights.factors**2
    return weights.bias + X @ weights.linear + 0.5 * pairs.sum(axis=1)


def logistic(outputs: np.ndarray) -> np.ndarray:
    """Return the probabilities of label 1."""
    return np.exp(-np.logaddexp(0, -outputs))


@dataclass
class Reference:
    """A training of the reference.

    Attributes
    ----------
    weights : Weights
        Where it begins, and after that where it stands; replaced, not changed.
    noise : Generator or None
        If given, all that the training computes is disturbed by as much as float32 would round it: the
        distance between disturbed and undisturbed trainings tells what a float32 one may be off by.
    margin : float
        The smallest output so far, without sign: a classifier's labels are sure beyond rounding.
    """

    hyperparameters: Hyperparameters
    weights: Weights
    noise: np.random.Generator | None = None
    margin: float = np.inf
    updates: int = 0

    def __post_init__(self) -> None:
        self._theta = {
            "bias": np.array([[self.weights.bias]], float),
            "linear": np.array(self.weights.linear, float)[:, None],
            "factors": np.array(self.weights.factors, float),
        }
        self._moments = {group: [np.zeros_like(t), np.zeros_like(t)] for group, t in self._theta.items()}

    def train(self, X: sparse.csr_matrix, y: np.ndarray) -> list[dict[str, float]]:
        """Train for all epochs on rows (n, d) and labels (n,), and return each epoch's metrics.

        Each stored entry of the matrix makes its feature active, zeros too; repeated entries are summed.
        """
        X = X.copy()
        X.sum_duplicates()
        return [self._epoch(X, np.asarray(y, float)) for _ in range(self.hyperparameters.epochs)]

    def _epoch(self, X: sparse.csr_matrix, y: np.ndarray) -> dict[str, float]:
        size = self.hyperparameters.mini_batch_size
        sums: dict[str, float] = {}
        batches = range(0, X.shape[0], size)
        for first in batches:
            for name, value in self._batch(X[first : first + size], y[first : first + size]).items():
                sums[name] = sums.get(name, 0) + value
        return self._metrics(sums, len(batches) * size)

    def _batch(self, rows: sparse.csr_matrix, y: np.ndarray) -> dict[str, float]:
        """Train on a mini-batch and return its part of the metrics, from before the update."""
        h = self.hyperparameters
        X = rows.toarray().astype(float)
        weights = self.weights
        z = outputs(X, weights)
        if self.noise:
            sizes = Weights(abs(weights.bias), np.abs(weights.linear), np.abs(weights.factors))
            z = self._disturbed(z, outputs_without_signs(np.abs(X), sizes))
        self.margin = min(self.margin, float(np.abs(z).min()))
        error = (logistic(z) if h.classifier else z) - y

        rescale = 1 / h.mini_batch_size if h.rescale_grad is None else h.rescale_grad
        active = np.unique(rows.indices)
        self.updates += 1
        sums = X @ weights.factors
        self._update("bias", np.array([0]), rescale * error.sum(), rescale * np.abs(error).sum())
        self._update(
            "linear",
            active,
            rescale * (X.T @ error)[active, None],
            rescale * (np.abs(X).T @ np.abs(error))[active, None],
        )
        own = ((X**2).T @ error)[:, None] * weights.factors
        own_size = ((X**2).T @ np.abs(error))[:, None] * np.abs(weights.factors)
        size_of_sums = np.abs(X) @ np.abs(weights.factors)
        self._update(
            "factors",
            active,
            rescale * (X.T @ (error[:, None] * sums) - own)[active],
            rescale * (np.abs(X).T @ (np.abs(error)[:, None] * size_of_sums) + own_size)[active],
        )
        theta = self._theta
        self.weights = Weights(
            float(theta["bias"][0, 0]), theta["linear"][:, 0].copy(), theta["factors"].copy()
        )
        return self._sums(z, y)

    def _update(self, group: str, rows: np.ndarray, gradient: np.ndarray, sizes: np.ndarray) -> None:
        """Let Adam change some rows of a group; ``sizes`` is the gradient without the signs of its terms."""
        h = self.hyperparameters
        if group != "factors" and not getattr(h, f"use_{group}"):
            return
        theta, (m, v) = self._theta[group], self._moments[group]
        decay = getattr(h, f"{group}_wd")
        g = self._disturbed(gradient + decay * theta[rows], sizes + decay * np.abs(theta[rows]))
        if h.clip_gradient is not None and h.clip_gradient > 0:
            g = np.clip(g, -h.clip_gradient, h.clip_gradient)
        m[rows] = self._rounded(BETA1 * m[rows] + (1 - BETA1) * g)
        v[rows] = self._rounded(BETA2 * v[rows] + (1 - BETA2) * g * g)
        rate = getattr(h, f"{group}_lr") * np.sqrt(1 - BETA2**self.updates) / (1 - BETA1**self.updates)
        step = rate * m[rows] / (np.sqrt(v[rows]) + (h.eps or EPSILON))
        theta[rows] = self._rounded(theta[rows] - self._rounded(step))

    def _disturbed(self, values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        if self.noise is None:
            return values
        return values + FLOAT32 * sizes * self.noise.uniform(-1, 1, np.shape(values))

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        return self._disturbed(values, np.abs(values))

    def _sums(self, z: np.ndarray, y: np.ndarray) -> dict[str, float]:
        if not self.hyperparameters.classifier:
            return {"squared": float(np.sum((z - y) ** 2)), "absolute": float(np.sum(np.abs(z - y)))}
        positive, predicted = y == 1, z > 0
        return {
            "cross_entropy": float(np.sum(np.logaddexp(0, np.where(positive, -z, z)))),
            "correct": float(np.sum(positive == predicted)),
            "true_positive": float(np.sum(positive & predicted)),
            "positive": float(np.sum(positive)),
            "predicted_positive": float(np.sum(predicted)),
        }

    def _metrics(self, sums: dict[str, float], count: int) -> dict[str, float]:
        """Return the metrics by their names in the log; a partial batch counts as a full one."""
        if not self.hyperparameters.classifier:
            mse = sums["squared"] / count
            return {"rmse": mse**0.5, "mse": mse, "absolute_loss": sums["absolute"] / count}
        marked = sums["positive"] + sums["predicted_positive"]
        return {
            "binary_classification_accuracy": sums["correct"] / count,
            "binary_classification_cross_entropy": sums["cross_entropy"] / count,
            "binary_f_1.000": 2 * sums["true_positive"] / marked if marked else 0.0,
        }


def outputs_without_signs(X: np.ndarray, weights: Weights) -> np.ndarray:
    """Return what the terms of the outputs add up to when none of them is negative, in units of the result."""
    pairs = (X @ weights.factors) ** 2 + X**2 @ weights.factors**2
    return weights.bias + X @ weights.linear + 0.5 * pairs.sum(axis=1)
