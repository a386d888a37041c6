"""Decodes blocks of records in any layout that is allowed, and says what is wrong with a record that is not.

Numpy does each step for all records of a block at once.  `lib.recordio.reader` comes here with what the
compiled loop does not know, and with small files, for which loading it would take longer.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from lib.recordio.frames import FRAME, Block
from lib.recordio.layout import FLOAT32, FLOAT64, INT32, Tensors, locate
from lib.recordio.protobuf import MalformedMessage, Ranges, read_fixed, read_packed_varints


class Careful:
    """Turns blocks into matrices, and holds what all records must have in common.

    Attributes
    ----------
    columns : int or None
        The width, None as long as it is not known.
    labelled : bool or None
        Whether the records have labels, None before the first record.
    """

    def __init__(self, feature_dim: int | None, keep_zeros: bool) -> None:
        self.feature_dim = feature_dim
        self.keep_zeros = keep_zeros
        self.columns = feature_dim
        self.labelled: bool | None = None

    def decode(self, block: Block) -> tuple[sp.csr_matrix, np.ndarray | None]:
        """Return the rows, in canonical format, and the labels of a block.

        Raises
        ------
        RecordIOError
            A record is not what it should be.
        """
        n = len(block.start)
        begin = block.start + FRAME
        try:
            layout = locate(block.data, Ranges(np.arange(n), begin, begin + block.payload()))
            X = self._rows(block, layout.features)
            y = self._labels(block, layout.labels)
        except MalformedMessage as error:
            block.refuse(error.owner, error.reason)
        return X, y

    def _labels(self, block: Block, tensors: Tensors) -> np.ndarray | None:
        n = len(block.start)
        values, counts = _numbers(block.data, tensors, n)
        block.refuse_first(counts > 1, "has more than one label")
        if self.labelled is None:
            self.labelled = bool(counts[0])
        block.refuse_first(
            counts != self.labelled,
            "has no label, the records before it have one"
            if self.labelled
            else "has a label, the records before it have none",
        )
        if not self.labelled:
            return None
        block.refuse_first(~np.isfinite(values), "has a label that is not a finite float32")
        return values

    def _rows(self, block: Block, tensors: Tensors) -> sp.csr_matrix:
        n = len(block.start)
        block.refuse_first(tensors.kind == 0, "has no features")
        values, counts = _numbers(block.data, tensors, n)
        keys, key_counts = _varints(block.data, tensors.keys, n)
        dense = (key_counts == 0) & (counts > 0)
        block.refuse_first(~dense & (key_counts != counts), "has not as many keys as values")
        columns = self._check_columns(block, tensors.shape, np.where(dense, counts, -1))

        row_ends = np.cumsum(counts)
        if (outside := keys >= columns).any():
            entries_of_sparse = np.cumsum(key_counts)
            place = int(outside.argmax())
            block.refuse(
                _record_of(place, entries_of_sparse),
                f"has index {keys.view(np.int64)[place]}, outside its {columns:,} columns",
                hint="Indices count from 0" + (": raise feature_dim." if self.feature_dim else "."),
            )
        if not (finite := np.isfinite(values)).all():
            place = int(finite.argmin())
            record = _record_of(place, row_ends)
            within = place - int(row_ends[record] - counts[record])
            column = (
                within
                if dense[record]
                else keys[int(np.cumsum(key_counts)[record] - key_counts[record]) + within]
            )
            block.refuse(record, f"holds {values[place]:g} in column {column}, not a finite float32")
        index_type = np.int32 if max(columns, len(values)) <= np.iinfo(np.int32).max else np.int64
        indices = keys.astype(index_type)
        if dense.any():
            values, indices, counts = _with_indices(values, indices, counts, dense, self.keep_zeros)
        indptr = np.concatenate(([0], np.cumsum(counts))).astype(index_type)
        X = sp.csr_matrix((values, indices, indptr), shape=(n, columns))
        X.sum_duplicates()
        if not (finite := np.isfinite(X.data)).all():
            record = _record_of(int(finite.argmin()), X.indptr[1:])
            block.refuse(record, "holds several numbers of one column whose sum is not a finite float32")
        return X

    def _check_columns(self, block: Block, shape: Ranges, dense_size: np.ndarray) -> int:
        """Return the number of columns, the same in all records; ``dense_size`` is -1 for sparse ones."""
        dimensions, dimension_counts = _varints(block.data, shape, len(dense_size))
        block.refuse_first(dimension_counts > 1, "holds a tensor of several dimensions, not a vector")
        stated = dense_size.copy()
        dimensions = np.minimum(dimensions, np.iinfo(np.int64).max).astype(np.int64)
        stated[dimension_counts == 1] = dimensions
        block.refuse_first(stated == 0, "has no columns")
        block.refuse_first(
            (dense_size >= 0) & (stated != dense_size), "has not as many values as its shape says"
        )
        if self.columns is None:
            if stated.max() < 0:
                block.refuse(0, "is sparse and does not say its width", hint="Give feature_dim.")
            self.columns = int(stated[(stated >= 0).argmax()])
        different = (stated >= 0) & (stated != self.columns)
        if different.any():
            first = int(different.argmax())
            other = "feature_dim is" if self.feature_dim else "the records before it have"
            block.refuse(first, f"has {stated[first]:,} columns, {other} {self.columns:,}")
        return self.columns


def _with_indices(
    values: np.ndarray, sparse_indices: np.ndarray, counts: np.ndarray, dense: np.ndarray, keep_zeros: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give dense rows their indices and take out their zeros; return values, indices and counts."""
    of_dense = np.repeat(dense, counts)
    row_ends = np.cumsum(counts)
    indices = np.arange(len(values)) - np.repeat(row_ends - counts, counts)
    indices = indices.astype(sparse_indices.dtype)
    indices[~of_dense] = sparse_indices
    if keep_zeros:
        return values, indices, counts
    kept = ~of_dense | (values != 0)
    kept_before = np.concatenate(([0], np.cumsum(kept.astype(np.int64))))
    return values[kept], indices[kept], kept_before[row_ends] - kept_before[row_ends - counts]


def _numbers(data: np.ndarray, tensors: Tensors, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of tensors as float32, record after record, and how many each record has."""
    kinds = tensors.kind[tensors.values.owner]
    if (kinds == FLOAT32).all():
        numbers, counts = read_fixed(data, tensors.values, "<f4")
        return numbers, _per_record(tensors.values, counts, n)

    per_kind = []
    for kind in (FLOAT32, FLOAT64, INT32):
        ranges = tensors.values.pick(kinds == kind)
        if kind == INT32:
            varints, counts = read_packed_varints(data, ranges)
            numbers = varints.astype(np.uint32).view(np.int32)
        else:
            numbers, counts = read_fixed(data, ranges, "<f4" if kind == FLOAT32 else "<f8")
        with np.errstate(over="ignore", invalid="ignore"):
            per_kind.append((numbers.astype(np.float32), np.repeat(ranges.owner, counts)))
    owner = np.concatenate([owner for _, owner in per_kind])
    order = np.argsort(owner, kind="stable")
    return np.concatenate([numbers for numbers, _ in per_kind])[order], np.bincount(owner, minlength=n)


def _varints(data: np.ndarray, ranges: Ranges, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the varints in ranges as uint64, record after record, and how many each record has."""
    varints, counts = read_packed_varints(data, ranges)
    return varints, _per_record(ranges, counts, n)


def _per_record(ranges: Ranges, counts: np.ndarray, n: int) -> np.ndarray:
    """Return the counts of ranges as counts of records, which may have none or several."""
    if np.array_equal(ranges.owner, np.arange(n)):
        return counts
    return np.bincount(ranges.owner, weights=counts, minlength=n).astype(np.int64)


def _record_of(place: int, ends: np.ndarray) -> int:
    """Return the record that number ``place`` belongs to; ``ends`` are the records' last ones plus one."""
    return int(np.searchsorted(ends, place, side="right"))
