"""Examples at the door: whatever holds numbers becomes a float32 matrix, and what cannot be used is refused.

Each refusal says what is wrong, and in which row and column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from lib.errors import ArrayError, ModelError

LARGEST = float(np.finfo(np.float32).max)
"""The largest number that there is in float32."""


def as_csr(X: Any, feature_dim: int, *, keep_zeros: bool = False) -> sparse.csr_matrix:
    """Return examples as a float32 CSR matrix of sound structure, without repeated entries, all finite.

    Parameters
    ----------
    X : scipy sparse matrix or array, shape (n, feature_dim)
        One row an example.  A CSR matrix of float32 is used as it is, not copied.
    feature_dim : int
        The number of columns it must have.
    keep_zeros : bool
        Store the zeros of a dense array too: in training each stored entry makes its feature active.

    Raises
    ------
    ModelError
        Another number of columns.
    ArrayError
        Not a matrix of numbers, an index outside the columns, or a value that is not a finite float32.
    """
    X = as_matrix(X, feature_dim)
    if sparse.issparse(X):
        X = sparse.csr_matrix(X.astype(np.float32, copy=False))
        if not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
            if not all_finite(X.data):
                _refuse_value(X, X.data)
        return X
    X = X.astype(np.float32, copy=False)
    if not keep_zeros:
        return sparse.csr_matrix(X)
    n = X.shape[0]
    columns = np.tile(np.arange(feature_dim, dtype=np.int32), n)
    starts = np.arange(n + 1, dtype=np.int64) * feature_dim
    return sparse.csr_matrix((X.ravel(), columns, starts), shape=X.shape)


def as_matrix(X: Any, feature_dim: int) -> Any:
    """Return examples as they are, sparse or a dense array of numbers, once they are found to be sound.

    Parameters and errors are those of `as_csr`.
    """
    X = as_numbers(X)
    if X.shape[1] != feature_dim:
        raise ModelError(f"The model takes {feature_dim} features, but the examples have {X.shape[1]}.")
    if sparse.issparse(X):
        if X.format in ("csr", "csc"):
            _check_structure(X)
        else:
            X = X.tocsr()
    values = X.data[: X.indptr[-1]] if sparse.issparse(X) else X
    if not all_finite(values):
        _refuse_value(X, values)
    return X


def as_numbers(X: Any) -> Any:
    """Return examples as a sparse matrix or an array of numbers, of any type and shape (n, d), not looked into.

    A pandas table all of whose columns are sparse becomes a sparse matrix.

    Raises
    ------
    ArrayError
        Not a matrix of numbers.
    """
    if hasattr(X, "columns") and hasattr(X, "sparse"):
        try:
            X = X.sparse.to_coo()
        except ValueError as error:
            raise ArrayError(f"The sparse table cannot be made a matrix: {error}.") from None
    if not sparse.issparse(X):
        try:
            X = np.asarray(X)
        except ValueError:
            raise ArrayError("Examples come as a matrix: rows of equal length.") from None
    if X.dtype.kind == "O":
        try:
            X = X.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ArrayError(f"Examples are numbers, but these are not: {error}.") from None
    if X.dtype.kind == "c":
        raise ArrayError("Examples are real numbers. Complex data not supported.")
    if X.dtype.kind not in "biuf":
        raise ArrayError(f"Examples are numbers, not of the type {X.dtype}.")
    if len(X.shape) != 2:
        raise ArrayError(
            f"Examples come as a matrix, one row each, not in the shape {X.shape}.",
            hint="Reshape your data: X.reshape(1, -1) makes one row of one example.",
        )
    return X


def all_finite(values: np.ndarray) -> bool:
    """Tell whether all numbers are finite as float32: by minimum and maximum, without another array."""
    if values.dtype.kind != "f" or not values.size:
        return True
    return float(np.min(values)) >= -LARGEST and float(np.max(values)) <= LARGEST


def first_not_finite(values: np.ndarray) -> int:
    """Return the place, in the flattened array, of the first number that is not finite as float32."""
    return int((np.abs(values.astype(np.float64)) <= LARGEST).argmin())


def in_words(value: float) -> str:
    """Return a number that is not finite, or too large, as a message names it."""
    return "NaN" if np.isnan(value) else f"{value:g}"


def _check_structure(X: Any) -> None:
    """Refuse a compressed matrix whose arrays do not fit together: scipy does not always look."""
    row, column = ("row", "column") if X.format == "csr" else ("column", "row")
    major, minor = X.shape if X.format == "csr" else X.shape[::-1]
    starts, indices = X.indptr, X.indices
    fits = len(starts) == major + 1 and starts[0] == 0 and (np.diff(starts) >= 0).all()
    if not fits or starts[-1] > min(len(indices), len(X.data)):
        raise ArrayError(f"The examples' indptr does not divide their entries into {major} {row}s.")
    indices = indices[: starts[-1]]
    if not len(indices) or (indices.min() >= 0 and indices.max() < minor):
        return
    entry = int(((indices < 0) | (indices >= minor)).argmax())
    raise ArrayError(
        f"The examples have {minor} {column}s, but {row} {_major(X, entry)} holds an entry of {column} "
        f"{indices[entry]}."
    )


def _refuse_value(X: Any, values: np.ndarray) -> None:
    """Name the first value that is not finite, with its row and column."""
    place = np.unravel_index(first_not_finite(values), values.shape)
    if not sparse.issparse(X):
        row, column = (int(index) for index in place)
    else:
        entry = int(place[0])
        row, column = _major(X, entry), int(X.indices[entry])
        if X.format == "csc":
            row, column = column, row
    raise ArrayError(
        f"The examples hold values that are not finite numbers (float32): {in_words(values[place])} in row {row}, "
        f"column {column}."
    )


def _major(X: Any, entry: int) -> int:
    """Return the row of a CSR matrix's entry, or the column of a CSC matrix's."""
    return int(np.searchsorted(X.indptr, entry, side="right")) - 1
