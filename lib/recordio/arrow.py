"""Writes Arrow tables as recordIO-protobuf, a record batch at a time.

The lists of a column lie in Arrow as they do in a CSR matrix, offsets and values one behind the other, so
they are encoded where they lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import scipy.sparse as sp

from lib import threads as thread_count
from lib.errors import RecordIOError
from lib.recordio.writer import check_file, checked, write_checked

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 18
"""A larger batch is written in pieces of so many rows."""


def write_arrow(
    file: BinaryIO,
    data: pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch],
    *,
    feature_dim: int | None = None,
    indices: str | None = None,
    values: str | None = None,
    one_hot: Mapping[str, int] | None = None,
    label: str | None = None,
    threads: int | None = None,
) -> int:
    """Write Arrow data, which may be a stream, as sparse recordIO-protobuf.

    Either ``indices`` names a column of lists, or ``one_hot`` names columns of integers.  A batch is checked
    before it is written, but the batches before it have then been written.

    Parameters
    ----------
    file : binary file
        Open for writing.
    data : pyarrow Table, RecordBatch, or iterable of RecordBatches such as a RecordBatchReader
        All with the columns named below; nulls are refused.
    feature_dim : int, optional
        The width of the records; with ``one_hot`` it is known.
    indices : str, optional
        A column of lists, or fixed-size lists, of integers: the columns that a row has entries in.
    values : str, optional
        A column of lists of numbers, as many as there are indices: the entries; ones by default.
    one_hot : mapping of str to int, optional
        Columns of integers and how many values each can take, from 0: a row has a one for each of them, and
        the columns' ranges stand one behind the other.
    label : str, optional
        A column of numbers.
    threads : int, optional
        How many threads encode; see `lib.threads.count`.

    Returns
    -------
    int
        The number of rows.

    Raises
    ------
    RecordIOError
        A column is missing, has nulls or is of another type; or what `lib.recordio.write` refuses.
    """
    check_file(file)
    if (indices is None) == (one_hot is None):
        raise RecordIOError("write_arrow needs either indices or one_hot.")
    if indices is not None and feature_dim is None:
        raise RecordIOError("With indices, write_arrow needs feature_dim, the number of columns.")
    if feature_dim is not None and feature_dim < 1:
        raise RecordIOError(f"feature_dim is {feature_dim}; it must be 1 or more.")
    if one_hot is not None and (not one_hot or min(one_hot.values()) < 1):
        raise RecordIOError(
            f"one_hot names columns and how many values each has, 1 or more; not {one_hot!r}."
        )
    count = thread_count.count(threads)
    first_row = 0
    for batch in _batches(data):
        columns = _Columns(batch, first_row)
        if one_hot is not None:
            X = _one_hot(columns, one_hot)
        else:
            assert indices is not None
            assert feature_dim is not None
            X = _lists(columns, indices, values, feature_dim)
        y = None if label is None else columns.numbers(label)
        write_checked(file, *checked(X, y, count, first_row), count)
        first_row += batch.num_rows
    return first_row


def _batches(data: Any) -> Iterator[pa.RecordBatch]:
    """Cut data into record batches of bounded size, without a copy."""
    import pyarrow as pa

    if isinstance(data, pa.Table):
        yield from data.to_batches(max_chunksize=BATCH_ROWS)
        return
    for batch in [data] if isinstance(data, pa.RecordBatch) else data:
        if not isinstance(batch, pa.RecordBatch):
            raise RecordIOError(f"The data hold a {type(batch).__name__}, not an Arrow record batch.")
        for first in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(first, BATCH_ROWS)


class _Columns:
    """The columns of a record batch as numpy arrays, checked."""

    def __init__(self, batch: pa.RecordBatch, first_row: int) -> None:
        self.batch = batch
        self.first_row = first_row

    def numbers(self, name: str) -> np.ndarray:
        """Return a column of numbers (n,)."""
        return self._array(name, self._column(name))

    def lists(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return where the lists of a column begin and end (n + 1,), and what they hold."""
        import pyarrow as pa

        column = self._column(name)
        if pa.types.is_fixed_size_list(column.type):
            width = column.type.list_size
            row_ends = np.arange(0, width * len(column) + 1, max(width, 1))[: len(column) + 1]
            if width == 0:
                row_ends = np.zeros(len(column) + 1, np.int64)
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            offsets = column.offsets.to_numpy()
            row_ends = offsets if offsets[0] == 0 else offsets - offsets[0]
        else:
            raise RecordIOError(f"The column `{name}` has the type {column.type}, not lists.")
        return row_ends, self._array(name, column.flatten())

    def _column(self, name: str) -> pa.Array:
        names = self.batch.schema.names
        if names.count(name) != 1:
            raise RecordIOError(
                f"The data have {names.count(name)} columns named `{name}`.",
                hint=f"They have {', '.join(names)}.",
            )
        column = self.batch.column(name)
        if column.null_count:
            row = self.first_row + int(column.is_null().to_numpy(zero_copy_only=False).argmax())
            raise RecordIOError(f"The column `{name}`, row {row}, is null.")
        return column

    def _array(self, name: str, column: pa.Array) -> np.ndarray:
        import pyarrow as pa

        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise RecordIOError(f"The column `{name}` holds {column.type}, not numbers.")
        if column.null_count:
            raise RecordIOError(f"The column `{name}` has nulls in its lists.")
        return column.to_numpy()


def _lists(columns: _Columns, indices: str, values: str | None, feature_dim: int) -> sp.csr_matrix:
    """Return rows whose indices and values are lists."""
    row_ends, keys = columns.lists(indices)
    if keys.dtype.kind not in "iu":
        raise RecordIOError(f"The column `{indices}` holds {keys.dtype}, not integers.")
    numbers = np.ones(len(keys), np.float32)
    if values is not None:
        value_ends, numbers = columns.lists(values)
        if not np.array_equal(row_ends, value_ends):
            row = int((np.diff(row_ends) != np.diff(value_ends)).argmax())
            raise RecordIOError(
                f"Row {columns.first_row + row} has {np.diff(row_ends)[row]} `{indices}` "
                f"and {np.diff(value_ends)[row]} `{values}`."
            )
    if keys.dtype.kind == "u":
        keys = keys.astype(np.int64)  # one above its range becomes negative, and is refused
    return sp.csr_matrix((numbers, keys, row_ends), shape=(len(row_ends) - 1, feature_dim))


def _one_hot(columns: _Columns, one_hot: Mapping[str, int]) -> sp.csr_matrix:
    """Return rows with a one for each of some columns of integers."""
    n = columns.batch.num_rows
    width = sum(one_hot.values())
    largest = max(width, n * len(one_hot))
    index = np.int32 if largest <= np.iinfo(np.int32).max else np.int64
    keys = np.empty((n, len(one_hot)), index)
    before = 0
    for place, (name, count) in enumerate(one_hot.items()):
        number = columns.numbers(name)
        if number.dtype.kind not in "iu":
            raise RecordIOError(f"The column `{name}` holds {number.dtype}, not integers.")
        if n and (number.min() < 0 or number.max() >= count):
            row = int(((number < 0) | (number >= count)).argmax())
            raise RecordIOError(
                f"The column `{name}`, row {columns.first_row + row}, is {number[row]}, outside 0 to {count - 1}."
            )
        keys[:, place] = number
        keys[:, place] += before
        before += count
    row_ends = np.arange(0, keys.size + 1, max(1, len(one_hot)), dtype=index)
    return sp.csr_matrix((np.ones(keys.size, np.float32), keys.reshape(-1), row_ends), shape=(n, width))
