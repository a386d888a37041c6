"""A trained Factorization Machine: its numbers, and what it predicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from lib.errors import ModelError
from lib.fm.matrices import as_csr, as_matrix

if TYPE_CHECKING:
    import pandas as pd

    from lib.fm.explain import Explanation

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
            Another number of columns than d.
        ArrayError
            Not a matrix of numbers, an index outside the columns, or a value that is not finite.
        """
        X = as_csr(X, self.feature_dim) if sparse.issparse(X) else as_matrix(X, self.feature_dim)
        outputs = np.empty(X.shape[0], np.float32)
        for start in range(0, X.shape[0], _BLOCK_ROWS):
            block = X[start : start + _BLOCK_ROWS]
            if sparse.issparse(block):
                squared = sparse.csr_matrix((block.data**2, block.indices, block.indptr), shape=block.shape)
            else:
                block = block.astype(np.float32, copy=False)
                squared = block * block
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
        return self.scores_of(self.outputs(X))

    def scores_of(self, outputs: np.ndarray) -> np.ndarray:
        """Return the scores that raw outputs stand for: themselves, or of a classifier ``1 / (1 + exp(-output))``."""
        return logistic(outputs) if self.classifier else outputs

    def predicted_labels(self, scores: np.ndarray) -> np.ndarray:
        """Return the label, 0 or 1, that a classifier's scores (shape (n,), from `predict`) stand for."""
        if not self.classifier:
            raise ModelError("Only a binary_classifier predicts labels; this model is a regressor.")
        return (np.asarray(scores) > 0.5).astype(np.float32)

    def explain(self, row: Any, *, names: Sequence[Any] | None = None, n: int | None = None) -> Explanation:
        """Return what each feature and each pair of features contributes to the raw output of a row.

        The terms are those of the model's equation, so that they sum to the output: ``w0``, ``w_i x_i`` of each
        feature, ``⟨v_i, v_j⟩ x_i x_j`` of each pair.

        Parameters
        ----------
        row : mapping, array of shape (d,), or matrix of shape (1, d)
            Features (numbers, or names) with their values; or one row of examples.
        names : sequence of length d, optional
            What the features are called.
        n : int, optional
            Only so many of the largest terms; the others are summed up in a last one.

        Returns
        -------
        Explanation
            With ``output``, ``score``, and two DataFrames: ``table``, a row a term, and ``features``, a row a feature.

        Raises
        ------
        ParameterError
            A feature that there is not, more than one row, or another number of names.
        ModelError, ArrayError
            A row that does not fit the model.

        Examples
        --------
        >>> model = Model(3.0, [0.5, -0.25], [[1.0, 2.0], [0.5, 0.25]])
        >>> model.explain({"Ann": 1, "Alien": 1}, names=["Ann", "Alien"]).table
             term feature with_feature  contribution
        0    bias                               3.00
        1    pair     Ann        Alien          1.00
        2  linear     Ann                       0.50
        3  linear   Alien                      -0.25
        """
        from lib.fm import explain

        return explain.explain(self, row, names, n)

    def candidate_outputs(self, row: Any, candidates: Any) -> np.ndarray:
        """Return the raw outputs of one row together with each candidate, in O(candidates · k).

        ``y(a + b) = y(a) + (y(b) - w0) + ⟨s(a), s(b)⟩`` with ``s(x) = Σ_i v_i x_i``, exactly, for parts a and b of
        an example that have no feature in common.

        Parameters
        ----------
        row : mapping, array of shape (d,), or matrix of shape (1, d)
            What all candidates are put to, such as a customer and a month; see `explain`.  Features that candidates
            consist of are left out of it.
        candidates : slice, range, ints, or matrix of shape (c, d)
            Features by number, each with the value 1; or the candidates' parts of rows, such as a video
            and its genres.

        Returns
        -------
        float32 array, shape (c,)

        Raises
        ------
        ParameterError
            A feature that there is not, or more than one row.
        ModelError, ArrayError
            Rows that do not fit the model.
        """
        from lib.fm import ranking
        from lib.fm.names import Names

        return ranking.candidate_outputs(self, row, ranking.parts(self, candidates), Names(self.feature_dim))

    def recommend(
        self,
        row: Any,
        candidates: Any,
        n: int = 10,
        *,
        exclude: Iterable[Any] = (),
        names: Sequence[Any] | None = None,
    ) -> pd.DataFrame:
        """Return the candidates that score highest together with a row.

        Parameters
        ----------
        row, candidates
            As of `candidate_outputs`.
        n : int
            How many.
        exclude : iterable of int or name
            Candidates to be left out, such as those known already.
        names : sequence, optional
            What the candidates are called: a name for each of them, or for each of the d features.

        Returns
        -------
        DataFrame
            Indexed by ``rank`` from 1; columns ``feature`` (the number; of candidates in a matrix ``row``), ``name``
            if names were given, ``score`` (as `predict` returns it).  Equal scores are in the candidates' order.

        Raises
        ------
        ParameterError
            ``n`` below 1, a feature that there is not, or another number of names.
        ModelError, ArrayError
            Rows that do not fit the model.

        Examples
        --------
        >>> model = Model(3.0, [0.5, 0.0, 0.25], [[1.0], [0.75], [-0.5]])  # one customer, two films
        >>> model.recommend({0: 1}, range(1, 3), names=["Alien", "Brazil"])
              feature    name  score
        rank
        1           1   Alien   4.25
        2           2  Brazil   3.25
        """
        from lib.fm import ranking

        return ranking.recommend(self, row, candidates, n, exclude, names)

    def similar_items(
        self, item: Any, items: Any = None, n: int = 10, *, names: Sequence[Any] | None = None
    ) -> pd.DataFrame:
        """Return the items whose vectors point most nearly in the same direction.

        The similarity is the cosine ``⟨v_a, v_b⟩ / (|v_a| |v_b|)``: what interacts with other features in the same
        way, such as films that the same customers like; how much they are liked by all, which is in the weights,
        does not count.

        Parameters
        ----------
        item : int or name
            One of the items.
        items : slice, range, ints, or matrix of shape (c, d), optional
            What is compared, such as all films: features by number, or parts of rows, of which the vectors are
            ``Σ_i v_i x_i``.  By default all features.
        n : int
            How many.
        names : sequence, optional
            What the items are called: a name for each of them, or for each of the d features.

        Returns
        -------
        DataFrame
            Indexed by ``rank`` from 1; columns ``feature`` (or ``row``), ``name`` if names were given,
            ``similarity`` from -1 to 1.

        Raises
        ------
        ParameterError
            ``n`` below 1, a feature that there is not, or another number of names.
        """
        from lib.fm import ranking

        return ranking.similar(self, item, items, n, names)

    def item_vectors(self, items: Any = None) -> np.ndarray:
        """Return vectors of items for a search of nearest neighbours by inner product: float32 (n, k + 1).

        An item's vector is ``concat(v_i, w_i)``; its inner product with a `user_vectors` ``concat(v_u, 1)`` is
        ``⟨v_i, v_u⟩ + w_i``: all of the output that depends on the item, so that the order is the model's.  It is the
        form in which Amazon publishes it for SageMaker's k-nearest-neighbours algorithm ("Build a movie
        recommender with Factorization Machines", AWS Machine Learning Blog, 2018).

        Parameters
        ----------
        items : slice, range, ints, or matrix of shape (n, d), optional
            Features by number, or parts of rows, with ``Σ_i v_i x_i`` for v_i and what the part brings by itself for
            w_i.  By default all features.

        Raises
        ------
        ParameterError
            A feature that there is not.
        """
        from lib.fm import ranking

        found = ranking.parts(self, items)
        return np.column_stack([found.vectors, found.own])

    def user_vectors(self, users: Any = None) -> np.ndarray:
        """Return vectors ``concat(v_u, 1)`` of users, or of parts of rows, float32 (n, k + 1): see `item_vectors`."""
        from lib.fm import ranking

        vectors = ranking.parts(self, users).vectors
        return np.column_stack([vectors, np.ones(len(vectors), np.float32)])

    def save(self, path: str | Path) -> Path:
        """Write the model as ``model.tar.gz`` in SageMaker's format and return the path."""
        from lib.fm import artifact

        return artifact.save(self, path)


def logistic(outputs: np.ndarray) -> np.ndarray:
    """Return ``1 / (1 + exp(-output))``, without overflow."""
    small = np.exp(-np.abs(outputs))
    return np.where(outputs >= 0, 1, small) / (1 + small)
