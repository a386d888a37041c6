"""Checks of training data at the door: each refusal says what is wrong, and in which row and column."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from lib.errors import DataError
from lib.fm.matrices import as_csr

_UNSCALED = 10.0  # numeric features beyond this are worth a warning


def checked_examples(X: Any, feature_dim: int) -> sparse.csr_matrix:
    """Return examples as a float32 CSR matrix that keeps every entry of a dense array; see `matrices.as_csr`."""
    return as_csr(X, feature_dim, keep_zeros=True)


def checked_labels(y: Any, n: int, classifier: bool) -> np.ndarray:
    """Return labels as float32 (n,), checked for their number and values.

    Raises
    ------
    DataError
        No labels or rows, another number than ``n``, no finite numbers, or not 0 and 1 for a classifier.
    """
    if y is None:
        raise DataError("The training data have no labels.")
    try:
        with np.errstate(over="ignore"):
            labels = np.require(y, np.float32, ["C", "A", "W"])
    except (TypeError, ValueError):
        raise DataError("The labels are not numbers.") from None
    if labels.shape != (n,):
        raise DataError(f"There are {n} examples, but labels of shape {labels.shape}.")
    if not n:
        raise DataError("The training data have no rows.")
    finite = np.isfinite(labels)
    if not finite.all():
        row = int(finite.argmin())
        raise DataError(f"The labels hold values that are not finite numbers: {labels[row]} in row {row}.")
    if classifier and (wrong := wrong_class(labels)) is not None:
        raise DataError(
            f"A binary_classifier learns from labels 0 and 1, but one label is {labels[wrong]:g} (row {wrong})."
        )
    return labels


def wrong_class(labels: np.ndarray) -> int | None:
    """Return the first row whose label is neither 0 nor 1, or None."""
    wrong = (labels != 0) & (labels != 1)
    return int(wrong.argmax()) if wrong.any() else None


def check_classes(labels: np.ndarray, name: str, before: int = 0) -> None:
    """Refuse a file's labels that are neither 0 nor 1.

    Parameters
    ----------
    labels : float32 array, shape (n,)
        The labels of some of its records.
    name : str
        What the error calls the file.
    before : int
        How many records are before them.

    Raises
    ------
    DataError
    """
    if (wrong := wrong_class(labels)) is not None:
        raise DataError(
            f"A binary_classifier learns from labels 0 and 1, but record {before + wrong} of {name} has "
            f"the label {labels[wrong]:g}."
        )


def scale_advice(X: sparse.csr_matrix) -> str:
    """Return a sentence of advice when features are not scaled, otherwise an empty string."""
    if not X.nnz:
        return ""
    largest = int(np.argmax(np.abs(X.data)))
    value = float(X.data[largest])
    if abs(value) <= _UNSCALED:
        return ""
    return (
        f"Feature {int(X.indices[largest])} holds values up to {value:g}: Factorization Machines learns badly "
        "from numeric features that are not scaled to about [-1, 1]."
    )
