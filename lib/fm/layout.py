"""How training lays out its data and its state in memory.

All that belongs to one feature lies in one row of the state table, because one row of random memory is
what an update costs::

    [ factors (width) | weight, its first and second moment, pad | first moment (width) | second (width) | pad ]

``width`` is the number of factors rounded up to a multiple of 8 (the added factors start at zero and stay
there), and a row is padded to whole cache lines.  What predicting needs comes first.  The rows that come next
are fetched while the present one is worked on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lib.fm.metrics import SUMS

CHUNK_ROWS = 16  # rows whose errors and metrics are summed before the sums are
LINE_FLOATS = 16  # float32 numbers of a cache line

_VECTOR_FLOATS = 8  # a row of factors is whole vectors of this length


class Block(NamedTuple):
    """Some whole mini-batches: their rows, and the same entries sorted by feature within each mini-batch.

    Features that occur once in a mini-batch are its *single* features, the others its *shared* ones.  A
    *place* is an entry's row, counted from the batch's first row, if all values of the block are 1;
    otherwise it is the entry's number, counted from the batch's first entry.

    Attributes
    ----------
    starts : uint32 array, shape (n + 1,)
        Where each row's entries begin.
    features : uint32 array, shape (entries,)
        The entries' feature indices.
    values : float32 array, shape (entries,)
        The entries' values; empty if all are 1.
    labels : float32 array, shape (n,)
        What to predict.
    single_batches : int64 array, shape (batches + 1,)
        Where each batch's single features begin.
    single_features : uint32 array
        The single features of all batches, in the order of the rows.
    single_places : uint16 or uint32 array
        Each single feature's place.
    shared_batches : int64 array, shape (batches + 1,)
        Where each batch's shared features begin.
    shared_features : uint32 array
        The shared features of all batches, in the order in which they first appear.
    shared_starts : uint32 array, one longer than ``shared_features``
        Where each shared feature's places begin.
    shared_places : array of the same type as ``single_places``
        The shared features' places, each feature's in the order of the rows.
    """

    starts: np.ndarray
    features: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    single_batches: np.ndarray
    single_features: np.ndarray
    single_places: np.ndarray
    shared_batches: np.ndarray
    shared_features: np.ndarray
    shared_starts: np.ndarray
    shared_places: np.ndarray


class Settings(NamedTuple):
    """What a training run holds constant.

    Learning rate and weight decay of each group, Adam's epsilon, what a batch's summed gradient is
    multiplied with, and the bound that a gradient is clipped to (infinity for none).
    """

    bias_lr: float
    linear_lr: float
    factors_lr: float
    bias_wd: float
    linear_wd: float
    factors_wd: float
    epsilon: float
    rescale: float
    clip: float
    batch_size: int
    classifier: bool


class Scratch(NamedTuple):
    """What one mini-batch leaves for its second phase; see `scratch`.

    Attributes
    ----------
    factor_sums : float32 array, shape (batch size, width)
        Each row's Σ_i value_i factors_i.
    errors : float32 array, shape (batch size,)
        Each row's error, rescaled.
    owners : uint32 array, shape (entries of the largest batch,)
        Each entry's row; empty if all values are 1.
    sums : float64 array, shape (chunks, SUMS + 1)
        The sums over the rows of each chunk: of the metrics, and of the rescaled errors.
    """

    factor_sums: np.ndarray
    errors: np.ndarray
    owners: np.ndarray
    sums: np.ndarray


def width_of(num_factors: int) -> int:
    """Return the number of factors rounded up to whole vectors."""
    return -(-num_factors // _VECTOR_FLOATS) * _VECTOR_FLOATS


def moments_at(width: int) -> int:
    """Return where in a row the factors' first moments begin; the second ones follow them."""
    return width + (LINE_FLOATS if width % LINE_FLOATS == 0 else LINE_FLOATS // 2)


def row_floats(width: int) -> int:
    """Return the length of a feature's row in the state table, in float32 numbers."""
    return -(-(moments_at(width) + 2 * width) // LINE_FLOATS) * LINE_FLOATS


def scratch(rows: int, entries: int, width: int) -> Scratch:
    """Return the working memory for batches of up to so many rows, and entries whose values are not 1."""
    return Scratch(
        np.empty((rows, width), np.float32),
        np.empty(rows, np.float32),
        np.empty(entries, np.uint32),
        np.empty((-(-rows // CHUNK_ROWS), SUMS + 1), np.float64),
    )
