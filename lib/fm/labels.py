"""What is to be learnt, from Python: one number a row, or one of two classes; with the row named if it cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np

from lib.errors import ArrayError
from lib.fm.conventions import warn_of_column_vector
from lib.fm.matrices import all_finite, first_not_finite, in_words


def as_labels(y: Any, rows: int, called: str) -> np.ndarray:
    """Return labels as an array of shape (rows,), finite where they are numbers.

    Parameters
    ----------
    y : array, shape (rows,)
        Numbers, or classes of any kind; a column of shape (rows, 1) is taken with a warning.
    rows : int
        Number of examples.
    called : str
        The estimator's name, for errors.

    Raises
    ------
    ArrayError
        None, another shape, or a value that is not finite.
    """
    if y is None:
        raise ArrayError(f"There are no labels: {called} requires y to be passed, but the target y is None.")
    labels = np.asarray(y)
    if labels.shape == (rows, 1):
        warn_of_column_vector()
        labels = labels.ravel()
    if labels.shape != (rows,):
        raise ArrayError(f"There are {rows} examples, but labels of shape {labels.shape}.")
    if labels.dtype.kind == "O":
        import pandas as pd

        missing = pd.isna(labels)
        if missing.any():
            row = int(missing.argmax())
            raise ArrayError(f"The labels hold a missing value: {labels[row]} in row {row}.")
    _check_finite(labels)
    return labels


def as_targets(labels: np.ndarray) -> np.ndarray:
    """Return a regressor's labels, float32 (n,).

    Raises
    ------
    ArrayError
        They are not numbers.
    """
    if labels.dtype.kind == "O":
        try:
            labels = labels.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ArrayError(f"The labels are not numbers: {error}.") from None
        _check_finite(labels)
    if labels.dtype.kind not in "biuf":
        raise ArrayError(f"The labels are not numbers, but {labels.dtype.name} such as {labels.flat[0]!r}.")
    return labels.astype(np.float32)


def find_classes(labels: np.ndarray) -> np.ndarray:
    """Return the two classes of a classifier's labels, sorted.

    Raises
    ------
    ArrayError
        There are more or fewer than two.
    """
    try:
        classes, first_rows = np.unique(labels, return_index=True)
    except TypeError:
        raise ArrayError("The labels are of several types, which have no order.") from None
    if len(classes) == 1:
        raise ArrayError(
            f"All labels are of one class, {classes.item()!r}: a binary_classifier learns from two."
        )
    if len(classes) > 2:
        third = int(np.sort(first_rows)[2])
        continuous = labels.dtype.kind == "f" and (classes != np.round(classes)).any()
        raise ArrayError(
            f"Only binary classification is supported. The type of the target is "
            f"{'continuous' if continuous else 'multiclass'}: there are {len(classes)} values, the third of them, "
            f"{labels[third : third + 1].item()!r}, in row {third}."
        )
    return classes


def encoded(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return 0 for labels of the first class and 1 for those of the second, float32 (n,).

    Raises
    ------
    ArrayError
        A label of neither class.
    """
    second = labels == classes[1]
    neither = ~(second | (labels == classes[0]))
    if neither.any():
        row = int(neither.argmax())
        known = " and ".join(repr(one) for one in classes.tolist())
        raise ArrayError(
            f"The classes are {known}, but the label of row {row} is {labels[row : row + 1].item()!r}."
        )
    return second.astype(np.float32)


def _check_finite(labels: np.ndarray) -> None:
    if not all_finite(labels):
        row = first_not_finite(labels)
        raise ArrayError(
            f"The labels hold values that are not finite numbers (float32): {in_words(labels[row])} in row {row}."
        )
