"""A trained Factorization Machine: its numbers, and what it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from lib.errors import ModelError

PREDICTOR_TYPES = ("regressor", "binary_classifier")

_BLOCK_ROWS = 8192  # rows predicted at a time: bounds the memory of the (rows, factors) intermediate


@dataclass(frozen=True, eq=False)
class Model:
    """A Factorization Machine of degree 2.

    ``y(x) = bias + Σ_i linear_i x_i + ½ Σ_f [(Σ_i factors_if x_i)² − Σ_i factors_if² x_i²]``; a binary
    classifier's score is the logistic function of that.

    Attributes
    ----------
    bias : float
        The constant term w0.
    linear : float32 array, shape (d,)
        One weight a feature.
    factors : float32 array, shape (d, k)
        One vector a feature.
    predictor_type : {"regressor", "binary_classifier"}
        What `predict` returns.
    training_parameters : dict of str
        The hyperparameters of the training, as on the wire; empty if unknown.

    Raises
    ------
    ModelError
        Shapes that do not fit together, or an unknown predictor type.
    """

    bias: float
    linear: np.ndarray
    factors: np.ndarray
    predictor_type: str = "regressor"
    training_parameters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        linear = np.ascontiguousarray(self.linear, np.float32)
        factors = np.ascontiguousarray(self.factors, np.float32)
        if linear.ndim != 1 or factors.ndim != 2 or len(linear) != len(factors) or not factors.size:
            raise ModelError(
                f"A model needs weights of shape (d,) and factors of shape (d, k), "
                f"not {linear.shape} and {factors.shape}."
            )
        if self.predictor_type not in PREDICTOR_TYPES:
            raise ModelError(f"A model is a {' or a '.join(PREDICTOR_TYPES)}, not {self.predictor_type!r}.")
        object.__setattr__(self, "bias", float(self.bias))
        object.__setattr__(self, "linear", linear)
        object.__setattr__(self, "factors", factors)

    @cached_property
    def _squares(self) -> np.ndarray:
        """Each feature's Σ_f factors_if²: float32 (d,)."""
        return np.einsum("if,if->i", self.factors, self.factors)

    @property
    def feature_dim(self) -> int:
        """Number of features d."""
        return self.factors.shape[0]

    @property
    def num_factors(self) -> int:
        """Number of factors k."""
        return self.factors.shape[1]

    @property
    def classifier(self) -> bool:
        """Whether `predict` returns probabilities of label 1."""
        return self.predictor_type == "binary_classifier"

    def outputs(self, X: Any) -> np.ndarray:
        """Return the raw outputs y(x): predictions of a regressor, log-odds of a classifier.

        Parameters
        ----------
        X : scipy sparse matrix or array, shape (n, d)
            One row an example.

        Returns
        -------
        float32 array, shape (n,)

        Raises
        ------
        ModelError
            Not a matrix, another number of columns than d, or values that are not finite.
        """
        X = as_csr(X, self.feature_dim)
        outputs = np.empty(X.shape[0], np.float32)
        for start in range(0, X.shape[0], _BLOCK_ROWS):
            block = X[start : start + _BLOCK_ROWS]
            squared = sparse.csr_matrix((block.data**2, block.indices, block.indptr), shape=block.shape)
            sums = block @ self.factors
            interaction = np.einsum("rf,rf->r", sums, sums) - squared @ self._squares
            outputs[start : start + _BLOCK_ROWS] = (
                np.float32(self.bias) + block @ self.linear + np.float32(0.5) * interaction
            )
        return outputs

    def predict(self, X: Any) -> np.ndarray:
        """Return the score of each row: the predicted number, or the probability of label 1.

        Parameters and errors are those of `outputs`.

        Returns
        -------
        float32 array, shape (n,)
        """
        outputs = self.outputs(X)
        if not self.classifier:
            return outputs
        small = np.exp(-np.abs(outputs))
        return np.where(outputs >= 0, 1, small) / (1 + small)

    def predicted_labels(self, scores: np.ndarray) -> np.ndarray:
        """Return the label, 0 or 1, that a classifier's scores (shape (n,), from `predict`) stand for."""
        if not self.classifier:
            raise ModelError("Only a binary_classifier predicts labels; this model is a regressor.")
        return (np.asarray(scores) > 0.5).astype(np.float32)

    def save(self, path: str | Path) -> Path:
        """Write the model as ``model.tar.gz`` in SageMaker's format and return the path."""
        from lib.fm import artifact

        return artifact.save(self, path)


def as_csr(X: Any, feature_dim: int, *, keep_zeros: bool = False) -> sparse.csr_matrix:
    """Return examples as a float32 CSR matrix without repeated entries.

    Parameters
    ----------
    X : scipy sparse matrix or array, shape (n, feature_dim)
        One row an example.
    feature_dim : int
        The number of columns it must have.
    keep_zeros : bool
        Store the zeros of a dense array too: in training each stored entry makes its feature active.

    Raises
    ------
    ModelError
        Not a matrix, another number of columns, or values that are not finite.
    """
    if not sparse.issparse(X):
        try:
            X = np.asarray(X)
        except ValueError:
            raise ModelError("Examples come as a matrix: rows of equal length.") from None
    if len(X.shape) != 2:
        raise ModelError(f"Examples come as a matrix, one row each, not in the shape {X.shape}.")
    if X.dtype.kind not in "biuf":
        raise ModelError(f"Examples are numbers, not of the type {X.dtype}.")
    if X.shape[1] != feature_dim:
        raise ModelError(f"The model takes {feature_dim} features, but the examples have {X.shape[1]}.")
    with np.errstate(over="ignore"):
        X = X.astype(np.float32, copy=False)
    if keep_zeros and not sparse.issparse(X):
        n = X.shape[0]
        columns = np.tile(np.arange(feature_dim, dtype=np.int32), n)
        starts = np.arange(n + 1, dtype=np.int64) * feature_dim
        X = sparse.csr_matrix((X.ravel(), columns, starts), shape=X.shape)
    else:
        X = sparse.csr_matrix(X)
        if not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
    if not np.isfinite(X.data).all():
        raise ModelError("The examples hold values that are not finite numbers.")
    return X
