"""Writes matrices as recordIO-protobuf: checks them, then encodes a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

import numpy as np
import scipy.sparse as sp

from lib.errors import RecordIOError
from lib.recordio.frames import BLOCK_BYTES, LONGEST_PAYLOAD, MAGIC
from lib.recordio.layout import LABEL_HEADER, ROW_NAME
from lib.recordio.protobuf import Output, encode_varints, spread, varint_sizes


def write(file: BinaryIO, X: Any, y: Any = None) -> None:
    """Write a matrix, and labels if there are any, as recordIO-protobuf.

    Everything is checked before the first byte is written.  A matrix of no rows writes nothing.

    Parameters
    ----------
    file : binary file
        Open for writing.
    X : scipy sparse matrix or ndarray (n, d)
        Of any real dtype.  Sparse input becomes sparse tensors, its stored entries in their order, stored
        zeros included; an array becomes dense tensors.
    y : array of real numbers (n,), optional
        A label a row.

    Raises
    ------
    RecordIOError
        Wrong shape or dtype, X and y of different length, NaN, infinity or a number too large for float32,
        an index outside the matrix, or a file in text mode.
    """
    if (
        not hasattr(file, "write")
        or hasattr(file, "encoding")
        or not getattr(file, "writable", lambda: True)()
    ):
        raise RecordIOError(
            "recordio.write needs a file that is open for writing in binary mode.",
            hint='Say open(path, "wb").',
        )
    X = _checked_matrix(X)
    labels = None if y is None else _checked_labels(y, X.shape[0])
    for first, last in _blocks_of_rows(X):
        block_labels = None if labels is None else labels[first:last].astype("<f4")
        if sp.issparse(X):
            file.write(_sparse_records(X, first, last, block_labels))
        else:
            file.write(_dense_records(X[first:last].astype("<f4"), block_labels))


def check(X: Any, y: Any = None) -> None:
    """Raise what `write` would raise for a matrix and labels, and write nothing."""
    _checked_matrix(X)
    if y is not None:
        _checked_labels(y, X.shape[0])


def _blocks_of_rows(X: Any) -> Iterator[tuple[int, int]]:
    """Cut the rows of a CSR matrix or an array into blocks whose records take about BLOCK_BYTES."""
    n, columns = X.shape
    frame_bytes, entry_bytes = 64, 8
    first = 0
    while first < n:
        if sp.issparse(X):
            last = first + BLOCK_BYTES // frame_bytes
            entries = min(int(X.indptr[first]) + BLOCK_BYTES // entry_bytes, int(X.indptr[-1]))
            fitting = np.searchsorted(X.indptr, X.indptr.dtype.type(entries), side="right") - 1
            last = min(last, int(fitting))
        else:
            last = first + BLOCK_BYTES // (frame_bytes + 4 * columns)
        last = min(n, max(first + 1, last))
        yield first, last
        first = last


def _sparse_records(X: sp.csr_matrix, first: int, last: int, labels: np.ndarray | None) -> memoryview:
    """Return rows ``first`` to ``last`` of a CSR matrix as records."""
    indptr = X.indptr[first : last + 1].astype(np.int64)
    keys = X.indices[indptr[0] : indptr[-1]].astype(np.int64)
    values = X.data[indptr[0] : indptr[-1]].astype("<f4")
    indptr -= indptr[0]
    shape = _field(0x1A, _varint(X.shape[1]))
    label_size = 0 if labels is None else len(LABEL_HEADER) + 4

    # The sizes, from the innermost message outwards.
    counts = np.diff(indptr)
    filled = np.flatnonzero(counts)
    key_sizes = varint_sizes(keys)
    key_offsets = np.concatenate(([0], np.cumsum(key_sizes)))
    keys_size = np.diff(key_offsets[indptr])
    tensor_size = _field_sizes(4 * counts) + _field_sizes(keys_size) + len(shape)
    value_size = 1 + varint_sizes(tensor_size) + tensor_size
    entry_size = len(ROW_NAME) + 1 + varint_sizes(value_size) + value_size
    payload = 1 + varint_sizes(entry_size) + entry_size + label_size
    record_size = 8 + (payload + 3) // 4 * 4
    behind = np.cumsum(record_size)
    output = Output(int(behind[-1]))

    # The pieces, from left to right.
    at = behind - record_size
    frame = np.empty((len(payload), 2), "<u4")
    frame[:, 0] = MAGIC
    frame[:, 1] = payload
    output.put(at, frame.view(np.uint8))
    at = output.put_varints(at + 8, entry_size, after=b"\x0a")
    at = output.put_varints(at, value_size, after=ROW_NAME + b"\x12")
    at = output.put_varints(at, tensor_size, after=b"\x12")

    # A row without entries has neither values nor keys.
    row_at, counts, row_keys = at[filled], counts[filled], keys_size[filled]
    row_at = output.put_varints(row_at, 4 * counts, after=b"\x0a")
    output.put(spread(row_at, counts, step=4), values.view(np.uint8).reshape(-1, 4))
    row_at = output.put_varints(row_at + 4 * counts, row_keys, after=b"\x12")
    keys_at = np.repeat(row_at - key_offsets[indptr[filled]], counts) + key_offsets[:-1]
    output.put_varints(keys_at, keys)
    at[filled] = row_at + row_keys

    tail = np.empty((len(at), len(shape) + label_size), np.uint8)
    tail[:, : len(shape)] = np.frombuffer(shape, np.uint8)
    if labels is not None:
        tail[:, len(shape) : -4] = np.frombuffer(LABEL_HEADER, np.uint8)
        tail[:, -4:] = labels.view(np.uint8).reshape(-1, 4)
    output.put(at, tail)
    return output.data.data


def _dense_records(rows: np.ndarray, labels: np.ndarray | None) -> memoryview:
    """Return the rows of a float32 array as records, which are all of one size."""
    n, columns = rows.shape
    values_size = 4 * columns
    empty_row = bytes(values_size)
    features = _field(0x0A, ROW_NAME + _field(0x12, _field(0x12, _field(0x0A, empty_row))))
    label = b"" if labels is None else LABEL_HEADER + bytes(4)
    payload = len(features) + len(label)
    frame = np.array([MAGIC, payload], "<u4").tobytes()
    record = (frame + features + label).ljust(8 + (payload + 3) // 4 * 4, b"\0")

    records = np.tile(np.frombuffer(record, np.uint8), (n, 1))
    values_at = 8 + len(features) - values_size
    records[:, values_at : values_at + values_size] = rows.view(np.uint8)
    if labels is not None:
        records[:, 8 + payload - 4 : 8 + payload] = labels.view(np.uint8).reshape(-1, 4)
    return records.reshape(-1).data


def _field(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + _varint(len(content)) + content


def _field_sizes(content: np.ndarray) -> np.ndarray:
    """Return the sizes of fields with contents of these sizes; an empty one is left out."""
    return np.where(content > 0, 1 + varint_sizes(content) + content, 0)


def _varint(value: int) -> bytes:
    values = np.array([value], np.int64)
    return encode_varints(values, int(varint_sizes(values)[0])).tobytes()


def _checked_matrix(X: Any) -> Any:
    """Return X as a CSR matrix or a 2-D array, checked."""
    if not sp.issparse(X) and not hasattr(X, "__array__"):
        raise RecordIOError(
            f"X is a {type(X).__name__}, not a matrix.", hint="Give a scipy sparse matrix or a numpy array."
        )
    X = X if sp.issparse(X) else np.asarray(X)
    if X.ndim != 2:
        raise RecordIOError(f"X has {X.ndim} dimension(s), not 2: its shape is {X.shape}.")
    if X.shape[1] == 0:
        raise RecordIOError(f"X has no columns: its shape is {X.shape}.")
    _check_dtype(X.dtype, "X")
    if sp.issparse(X):
        if X.format != "csr":
            try:
                if hasattr(X, "check_format"):
                    X.check_format(full_check=True)
                X = X.tocsr()
            except ValueError as error:
                raise RecordIOError(f"X is not a valid {X.format} matrix: {error}.") from error
        _check_csr(X)
        longest = int(np.diff(X.indptr).max(initial=0)) * (4 + len(_varint(X.shape[1])))
    else:
        for first, last in _blocks_of_rows(X):
            if (place := _not_float32(X[first:last])) is not None:
                row, column = divmod(place, X.shape[1])
                _refuse_number(X[first + row, column], f"X, row {first + row}, column {column}")
        longest = 4 * X.shape[1]
    if longest + 128 > LONGEST_PAYLOAD:
        raise RecordIOError(f"X has a row of {longest:,} bytes; a record holds {LONGEST_PAYLOAD:,} at most.")
    return X


def _check_csr(X: sp.csr_matrix) -> None:
    columns = X.shape[1]
    indptr = X.indptr
    stored = min(len(X.indices), len(X.data))
    if indptr[0] != 0 or (np.diff(indptr) < 0).any() or indptr[-1] > stored:
        raise RecordIOError(
            f"X is not a valid CSR matrix: its indptr does not rise from 0 to its {stored:,} entries."
        )
    indices, data = X.indices[: indptr[-1]], X.data[: indptr[-1]]
    if indices.size and (indices.min() < 0 or indices.max() >= columns):
        place = int(((indices < 0) | (indices >= columns)).argmax())
        raise RecordIOError(
            f"X, row {_row_of(place, indptr[1:])}, has column index {indices[place]}, "
            f"outside its {columns:,} columns."
        )
    if (bad := _not_float32(data)) is not None:
        _refuse_number(data[bad], f"X, row {_row_of(bad, indptr[1:])}, column {indices[bad]}")


def _checked_labels(y: Any, n: int) -> np.ndarray:
    """Return y as an array of n numbers, checked."""
    try:
        labels = np.asarray(y)
    except ValueError as error:
        raise RecordIOError(f"y cannot be made an array: {error}.") from error
    if labels.ndim != 1:
        raise RecordIOError(f"y has shape {labels.shape}; it must hold one number a row, shape ({n},).")
    if len(labels) != n:
        raise RecordIOError(f"X has {n:,} rows and y has {len(labels):,} labels.")
    _check_dtype(labels.dtype, "y")
    if (place := _not_float32(labels)) is not None:
        _refuse_number(labels[place], f"y, row {place}")
    return labels


def _check_dtype(dtype: np.dtype, what: str) -> None:
    if dtype.kind not in "biuf":
        raise RecordIOError(f"{what} has dtype {dtype}, not real numbers.", hint="Make it float32.")


def _not_float32(numbers: np.ndarray) -> int | None:
    """Return the flat position of the first number that float32 cannot hold, or None."""
    if numbers.dtype.kind != "f":
        return None
    numbers = numbers.reshape(-1)
    for first in range(0, len(numbers), BLOCK_BYTES):
        with np.errstate(over="ignore"):
            finite = np.isfinite(numbers[first : first + BLOCK_BYTES].astype(np.float32, copy=False))
        if not finite.all():
            return first + int(finite.argmin())
    return None


def _refuse_number(number: Any, where: str) -> NoReturn:
    why = "too large for float32" if np.isfinite(number) else "not a finite number"
    raise RecordIOError(f"{where} is {number}, {why}.")


def _row_of(place: int, row_ends: np.ndarray) -> int:
    """Return the row that entry ``place`` belongs to."""
    return int(np.searchsorted(row_ends, place, side="right"))
