"""Many Factorization Machines folded into one: the exact mean, and its best approximation with few factors.

The mean of the outputs of M models is the output of one: with the mean of the biases and of the weights, and
with pair weights ``G_ij = mean_m <v_i^m, v_j^m>``.  That is not ``<mean v_i, mean v_j>``: factors may be rotated
and mirrored in each model without a change of its outputs.

`average` is exact: ``v_i = (v_i^1, …, v_i^M) / √M``, which has M k factors.  `low_rank` looks for fewer factors V
with VVᵀ near G where it matters.  The diagonal does not: the model's sum runs over pairs i < j only,
whatever the values.  Nor do pairs within a field of which a row has only one entry, such as two
customers.

- Two fields that make up all columns: the pair weights that matter are one rectangle, and its truncated
  singular value decomposition is the best approximation (Eckart and Young).  It is had by subspace iteration
  on random vectors, from products with each model's factors; the rectangle is never formed.
- Otherwise the parts of G that do not matter are free: they are filled with what the approximation itself
  says, and the leading eigenvectors of the result give the next approximation, again and again.

References
----------
Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 53 (2011), algorithm 4.4.
Zhang, Cai, Wu, "Heteroskedastic PCA", Annals of Statistics 50 (2022), for filling in a diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from lib.errors import ModelError, ParameterError
from lib.fm.model import Model

Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]

_OVERSAMPLED = 16  # vectors beyond the factors wanted
_ITERATIONS = 4  # of the subspace for two fields
_FILLINGS = 40  # of what does not matter otherwise, at most
_SETTLED = 1e-4  # relative change of the eigenvalues at which filling ends


def average(models: Sequence[Model]) -> Model:
    """Return one model whose raw outputs are the mean of the models' raw outputs, exactly.

    Parameters
    ----------
    models : sequence of Model
        M models of the same features and predictor type.  The numbers of factors may differ; their sum is the
        result's.

    Raises
    ------
    ModelError
        No models, or models of different kinds.
    """
    _check_alike(models)
    factors = np.concatenate([model.factors for model in models], axis=1)
    factors /= np.float32(np.sqrt(len(models)))
    return _with_factors(models, factors)


def low_rank(
    models: Model | Sequence[Model],
    num_factors: int,
    *,
    fields: Sequence[int] | None = None,
    weights: ArrayLike | None = None,
    seed: int = 0,
) -> Model:
    """Return one model with so many factors whose raw outputs are near the mean of the models'.

    Parameters
    ----------
    models : Model or sequence of Model
        Models of the same features and predictor type.
    num_factors : int
        Factors of the result, 1 or more.
    fields : sequence of int, optional
        Sizes of contiguous blocks of columns of which a row has at most one entry, in order, over all columns
        (a block of one column is always one); without it only the diagonal is taken as free.
    weights : array, shape (d,), optional
        How much each feature matters, above 0: an error of the pair i, j counts ``weights_i weights_j``.  Numbers of
        entries make it the error of rows that are as frequent as their features.
    seed : int
        Of the random vectors that the search begins with.

    Raises
    ------
    ModelError
        No models, or models of different kinds.
    ParameterError
        ``num_factors`` below 1, or fields that do not make up the columns.
    """
    models = [models] if isinstance(models, Model) else list(models)
    _check_alike(models)
    factors = low_rank_factors(
        [model.factors for model in models], num_factors, fields=fields, weights=weights, seed=seed
    )
    return _with_factors(models, factors)


def low_rank_factors(
    draws: Sequence[np.ndarray],
    num_factors: int,
    *,
    fields: Sequence[int] | None = None,
    weights: ArrayLike | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return factors, float32 (d, num_factors), whose products are near the mean of the draws' products.

    Parameters
    ----------
    draws : sequence of float32 array, shape (d, k)
        The factors of each model; k may differ.
    num_factors, fields, weights, seed
        As of `low_rank`.
    """
    if num_factors < 1:
        raise ParameterError(f"num_factors must be 1 or more, not {num_factors}.")
    d = draws[0].shape[0]
    sizes = [1] * d if fields is None else [int(size) for size in fields]
    if min(sizes) < 1 or sum(sizes) != d:
        raise ParameterError(
            f"The fields have {sum(sizes)} columns in all, but the models have {d} features."
        )
    if weights is None:
        roots = np.ones((d, 1), np.float32)
    else:
        roots = np.sqrt(np.asarray(weights, np.float32)).reshape(-1, 1)
        if len(roots) != d or not (roots > 0).all():
            raise ParameterError(f"Weights are {d} numbers above 0, one a feature.")
    rng = np.random.default_rng(seed)
    if len(sizes) == 2:
        factors = _two_fields(_Mean(draws, roots), sizes[0], num_factors, rng)
    else:
        factors = _filled(_Mean(draws, roots), np.cumsum([0, *sizes]), num_factors, rng)
    missing = num_factors - factors.shape[1]
    return np.pad(factors / roots, ((0, 0), (0, missing))).astype(np.float32, copy=False)


class _Mean:
    """The mean of draws' products ``V Vᵀ``, rows and columns weighted, by what it does to vectors."""

    def __init__(self, draws: Sequence[np.ndarray], roots: np.ndarray) -> None:
        self.features = draws[0].shape[0]
        self._draws = draws
        self._roots = roots

    def times(self, vectors: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """Return the product of a part of the mean with vectors (columns, q): float32 (rows, q)."""
        vectors = self._roots[columns] * vectors
        result = np.zeros((rows.stop - rows.start, vectors.shape[1]), np.float32)
        for draw in self._draws:
            result += draw[rows] @ (draw[columns].T @ vectors)
        return result * (self._roots[rows] / np.float32(len(self._draws)))

    def inside(self, vectors: np.ndarray, inside: Inside) -> np.ndarray:
        """Return the product of the pairs within fields with vectors (d, q): float32 (d, q)."""
        result = np.zeros_like(vectors)
        for draw in self._draws:
            result += inside(self._roots * draw, vectors)
        return result / np.float32(len(self._draws))


def _two_fields(mean: _Mean, boundary: int, num_factors: int, rng: np.random.Generator) -> np.ndarray:
    """Return factors from the truncated singular value decomposition of the mean rectangle."""
    first, second = slice(0, boundary), slice(boundary, mean.features)
    columns = mean.features - boundary
    vectors = min(num_factors + _OVERSAMPLED, boundary, columns)
    basis = np.linalg.qr(mean.times(rng.standard_normal((columns, vectors), np.float32), first, second))[0]
    for _ in range(_ITERATIONS):
        other = np.linalg.qr(mean.times(basis, second, first))[0]
        basis = np.linalg.qr(mean.times(other, first, second))[0]
    left, singular, right = np.linalg.svd(mean.times(basis, second, first).T, full_matrices=False)
    count = min(num_factors, vectors)
    root = np.sqrt(singular[:count])
    return np.concatenate([basis @ left[:, :count] * root, right[:count].T * root])


def _filled(mean: _Mean, bounds: np.ndarray, num_factors: int, rng: np.random.Generator) -> np.ndarray:
    """Return factors from the mean of all products with what is free filled in by the approximation."""
    d = mean.features
    everything = slice(0, d)
    vectors = min(num_factors + _OVERSAMPLED, d)
    count = min(num_factors, vectors)
    inside = _inside_products(bounds)
    approximation: np.ndarray | None = None
    basis = np.linalg.qr(rng.standard_normal((d, vectors), np.float32))[0]
    before = np.zeros(count, np.float32)
    for filling in range(_FILLINGS):
        product = mean.times(basis, everything, everything)
        if approximation is not None:
            product += inside(approximation, basis) - mean.inside(basis, inside)
        projected = basis.T @ product
        values, rotation = np.linalg.eigh((projected + projected.T) / 2)
        values, rotation = np.maximum(values[::-1][:count], 0), rotation[:, ::-1][:, :count]
        if filling >= _ITERATIONS:  # until then the subspace of the whole mean settles
            approximation = basis @ rotation * np.sqrt(values)
            if np.linalg.norm(values - before) <= _SETTLED * np.linalg.norm(before):
                break
            before = values
        basis = np.linalg.qr(product)[0]
    assert approximation is not None
    return approximation


def _inside_products(bounds: np.ndarray) -> Inside:
    """Return a function of (V, X) that gives the part of ``V Vᵀ X`` from pairs within a field."""
    single = np.diff(bounds) == 1
    wide = [(int(bounds[f]), int(bounds[f + 1])) for f in np.flatnonzero(~single)]
    columns = bounds[:-1][single]

    def inside(factors: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        result = np.empty_like(vectors)
        own = factors[columns]
        result[columns] = np.einsum("if,if->i", own, own)[:, None] * vectors[columns]
        for first, last in wide:
            block = factors[first:last]
            result[first:last] = block @ (block.T @ vectors[first:last])
        return result

    return inside


def _check_alike(models: Sequence[Model]) -> None:
    if not models:
        raise ModelError("There are no models to be made one.")
    first = models[0]
    for number, model in enumerate(models):
        if model.feature_dim != first.feature_dim or model.predictor_type != first.predictor_type:
            raise ModelError(
                f"Models of one kind can be made one, but model 0 is a {first.predictor_type} of "
                f"{first.feature_dim} features and model {number} a {model.predictor_type} of {model.feature_dim}."
            )


def _with_factors(models: Sequence[Model], factors: np.ndarray) -> Model:
    """Return the mean of the models but for the factors, which are given."""
    return Model(
        bias=float(np.mean([model.bias for model in models])),
        linear=np.asarray(np.mean([model.linear for model in models], axis=0, dtype=np.float64)),
        factors=factors,
        predictor_type=models[0].predictor_type,
    )
