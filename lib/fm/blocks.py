"""Training data in blocks of whole mini-batches, each with the plan that its update phase follows.

`make_block` sorts the entries of each mini-batch by feature, once; the blocks then serve all epochs.
`cut` brings data that come in pieces of any size into the sizes wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from lib.compiled import compiled
from lib.errors import DataError
from lib.fm.layout import Block

#: What the data come in: rows (n, feature_dim) and their labels, float32 (n,).
Piece = tuple[sparse.csr_matrix, np.ndarray]

_BLOCK_ENTRIES = 1 << 18  # stored values of a block: a few megabytes
_MOST_ENTRIES = 1 << 31  # more cannot be counted in a block


@dataclass(frozen=True)
class PlannedBlock:
    """A block for the kernels, and what its user needs to know of it.

    Attributes
    ----------
    arrays : Block
        What the kernels take.
    largest_batch : int
        Entries of the mini-batch that has most of them.
    """

    arrays: Block
    largest_batch: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.arrays.labels)

    @property
    def batches(self) -> int:
        """Number of mini-batches."""
        return len(self.arrays.single_batches) - 1

    @property
    def weighted(self) -> bool:
        """Whether the values are not all 1."""
        return len(self.arrays.values) > 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(array.nbytes for array in self.arrays)


class Planner:
    """Makes blocks; remembers, for all features, in which mini-batch it saw them last.

    Parameters
    ----------
    feature_dim : int
        Number of features.
    batch_size : int
        Rows of a mini-batch; the last one of a block may have fewer.
    """

    def __init__(self, feature_dim: int, batch_size: int) -> None:
        self.batch_size = batch_size
        self._marks = np.zeros((feature_dim, 2), np.uint32)
        self._seen = 0

    def plan(self, X: sparse.csr_matrix, labels: np.ndarray) -> PlannedBlock:
        """Return the block of some rows.

        Parameters
        ----------
        X : csr_matrix of float32, shape (n, feature_dim)
            The rows; where its arrays fit they are used, not copied.
        labels : float32 array, shape (n,)
            Their labels.

        Raises
        ------
        DataError
            There are more values than can be counted in a block.
        """
        n, entries = X.shape[0], len(X.indices)
        if entries >= _MOST_ENTRIES:
            raise DataError(
                f"{n:,} rows hold {entries:,} values, and at most {_MOST_ENTRIES:,} can be worked on at once.",
                hint="Lower mini_batch_size.",
            )
        starts = (X.indptr - X.indptr[0]).astype(np.uint32)
        features = np.ascontiguousarray(X.indices, np.int32).view(np.uint32)
        weighted = not (X.data == 1).all()
        values = np.ascontiguousarray(X.data, np.float32) if weighted else np.zeros(0, np.float32)

        batches = -(-n // self.batch_size)
        bounds = starts[np.minimum(np.arange(batches + 1) * self.batch_size, n)].astype(np.int64)
        largest = int(np.diff(bounds).max(initial=0))
        highest_place = largest if weighted else min(self.batch_size, n)
        places = np.uint16 if highest_place <= 1 << 16 else np.uint32
        if self._seen + batches >= 1 << 32:  # start anew before the counter overflows
            self._marks[:] = 0
            self._seen = 0
        single_batches, shared_batches = np.zeros(batches + 1, np.int64), np.zeros(batches + 1, np.int64)
        single_features, single_places = np.empty(entries, np.uint32), np.empty(entries, places)
        shared_features, shared_places = np.empty(entries // 2, np.uint32), np.empty(entries, places)
        shared_starts = np.zeros(entries // 2 + 1, np.uint32)
        _plan(
            starts,
            features,
            self.batch_size,
            weighted,
            self._marks,
            self._seen,
            np.empty((4, largest), np.uint32),
            single_batches,
            single_features,
            single_places,
            shared_batches,
            shared_features,
            shared_starts,
            shared_places,
        )
        self._seen += batches
        singles, shared = single_batches[-1], shared_batches[-1]
        arrays = Block(
            starts,
            features,
            values,
            np.ascontiguousarray(labels, np.float32),
            single_batches,
            single_features[:singles].copy(),
            single_places[:singles].copy(),
            shared_batches,
            shared_features[:shared].copy(),
            shared_starts[: shared + 1].copy(),
            shared_places[: shared_starts[shared]].copy(),
        )
        return PlannedBlock(arrays, largest)


@compiled(nogil=True, error_model="numpy")
def _plan(  # type: ignore[no-untyped-def]
    starts,
    features,
    batch_size,
    weighted,
    marks,
    seen,
    slots,
    single_batches,
    single_features,
    single_places,
    shared_batches,
    shared_features,
    shared_starts,
    shared_places,
):
    """Fill the arrays of a plan; see `lib.fm.layout.Block` for them.

    A batch's features get numbers, its *slots*, in the order in which they first appear.  ``marks`` keeps of
    each feature the batch that it was last seen in, counted from ``seen`` + 1, and its slot there;
    ``slots`` holds, for a batch, each entry's slot, and each slot's feature, number of entries, and
    position in the plan.
    """
    entry_slots, names, counts, positions = slots[0], slots[1], slots[2], slots[3]
    n = len(starts) - 1
    singles, shared, shared_entries = 0, 0, 0
    for batch in range(len(single_batches) - 1):
        first_row = batch * batch_size
        last_row = min(n, first_row + batch_size)
        base, stop = np.int64(starts[first_row]), np.int64(starts[last_row])
        mark = np.uint32(seen + batch + 1)
        active = 0
        for entry in range(base, stop):
            feature = features[entry]
            if marks[feature, 0] != mark:
                marks[feature, 0] = mark
                marks[feature, 1] = active
                entry_slots[entry - base] = active
                names[active] = feature
                counts[active] = 1
                active += 1
            else:
                slot = marks[feature, 1]
                entry_slots[entry - base] = slot
                counts[slot] += 1
        for slot in range(active):
            if counts[slot] == 1:
                single_features[singles] = names[slot]
                positions[slot] = singles
                singles += 1
            else:
                shared_features[shared] = names[slot]
                shared_starts[shared] = shared_entries
                positions[slot] = shared_entries
                shared_entries += counts[slot]
                shared += 1
        for row in range(first_row, last_row):
            for entry in range(starts[row], starts[row + 1]):
                slot = entry_slots[entry - base]
                place = entry - base if weighted else row - first_row
                position = positions[slot]
                if counts[slot] == 1:
                    single_places[position] = place
                else:
                    shared_places[position] = place
                    positions[slot] = position + 1
        single_batches[batch + 1] = singles
        shared_batches[batch + 1] = shared
    shared_starts[shared] = shared_entries


def rows_of_block(entries_per_row: float, batch_size: int) -> int:
    """Return how many rows a block has: whole mini-batches, some megabytes."""
    batches = int(_BLOCK_ENTRIES / max(1.0, entries_per_row)) // batch_size
    return max(1, batches) * batch_size


def cut(pieces: Iterable[Piece], rows: int) -> Iterator[Piece]:
    """Yield the same rows in pieces of ``rows`` rows; the last one may have fewer."""
    waiting: list[Piece] = []
    held = 0
    for piece in pieces:
        waiting.append(piece)
        held += len(piece[1])
        if held < rows:
            continue
        X, y = _joined(waiting)
        whole = held - held % rows
        for first in range(0, whole, rows):
            yield rows_between(X, y, first, first + rows)
        held -= whole
        X, y = rows_between(X, y, whole, whole + held)
        waiting = [(X.copy(), y.copy())] if held else []  # a view would keep the whole piece alive
    if held:
        yield _joined(waiting)


def rows_between(X: sparse.csr_matrix, y: np.ndarray, first: int, last: int) -> Piece:
    """Return some rows without copying their entries."""
    if first == 0 and last == X.shape[0]:
        return X, y
    starts = X.indptr[first : last + 1]
    entries = slice(starts[0], starts[-1])
    arrays = (X.data[entries], X.indices[entries], starts - starts[0])
    return sparse.csr_matrix(arrays, shape=(last - first, X.shape[1]), copy=False), y[first:last]


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    X = sparse.vstack([X for X, _ in pieces], format="csr")
    return X, np.concatenate([y for _, y in pieces])
