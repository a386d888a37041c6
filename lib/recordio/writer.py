"""Writes matrices as recordIO-protobuf: checks them, then encodes a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

import numpy as np
import scipy.sparse as sp

from lib.errors import RecordIOError
from lib.recordio.frames import BLOCK_BYTES, LONGEST_PAYLOAD, MAGIC
from lib.recordio.layout import LABEL_HEADER, LABEL_SIZE, ROW_NAME
from lib.recordio.protobuf import (
    Stretches,
    assemble,
    constant,
    encode_varints,
    fixed,
    group,
    in_a_row,
    varint_sizes,
    varints,
)


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
    """Return rows ``first`` to ``last`` of a CSR matrix as records.

    Rows with as many entries and as many bytes of keys are of one kind: equal in all but values, keys and
    label.  So what stands before their values, and between values and keys, is made once a kind.
    """
    indptr = X.indptr[first : last + 1].astype(np.int64)
    keys = X.indices[indptr[0] : indptr[-1]]
    values = X.data[indptr[0] : indptr[-1]].astype("<f4").view(np.uint8)
    indptr -= indptr[0]
    counts = np.diff(indptr)
    each_key_size = varint_sizes(keys)
    keys_size = np.diff(np.concatenate(([0], np.cumsum(each_key_size)))[indptr])
    tails = _tails(_field(0x1A, _varint(X.shape[1])), labels, len(counts))

    codes = counts * (keys_size.max() + 1) + keys_size
    order, edges = group(codes)
    kinds = order[edges[:-1]]
    kind = np.empty(len(codes), np.int64)
    kind[order] = np.repeat(np.arange(len(kinds)), np.diff(edges))
    heads, middles = _heads_and_middles(X.shape[1], 4 * counts[kinds], keys_size[kinds], labels is not None)

    parts = [
        heads.pick(kind),
        in_a_row(values, 4 * counts),
        middles.pick(kind),
        in_a_row(encode_varints(keys, each_key_size), keys_size),
        tails,
    ]
    return assemble(parts, align=4).source.data


def _heads_and_middles(
    columns: int, values_size: np.ndarray, keys_size: np.ndarray, labelled: bool
) -> tuple[Stretches, Stretches]:
    """Return what stands before the values and between values and keys, for sizes of values and keys."""
    filled = values_size > 0  # a row without entries has neither values nor keys
    shape_size = len(_field(0x1A, _varint(columns)))
    tensor_size = shape_size + _field_sizes(values_size) + _field_sizes(keys_size)
    value_size = 1 + varint_sizes(tensor_size) + tensor_size
    entry_size = len(ROW_NAME) + 1 + varint_sizes(value_size) + value_size
    payload = 1 + varint_sizes(entry_size) + entry_size + (LABEL_SIZE if labelled else 0)

    always = np.ones(len(filled), bool)
    heads = assemble(
        [
            constant(MAGIC.to_bytes(4, "little"), always),
            fixed(payload.astype("<u4")[:, np.newaxis]),
            constant(b"\x0a", always),
            varints(entry_size),
            constant(ROW_NAME + b"\x12", always),
            varints(value_size),
            constant(b"\x12", always),
            varints(tensor_size),
            constant(b"\x0a", filled),
            varints(values_size).where(filled),
        ]
    )
    return heads, assemble([constant(b"\x12", filled), varints(keys_size).where(filled)])


def _dense_records(rows: np.ndarray, labels: np.ndarray | None) -> memoryview:
    """Return the rows of a float32 array as records."""
    values_size = rows.shape[1] * 4
    empty_row = _field(0x0A, ROW_NAME + _field(0x12, _field(0x12, _field(0x0A, bytes(values_size)))))
    payload = len(empty_row) + (0 if labels is None else LABEL_SIZE)
    head = np.array([MAGIC, payload], "<u4").tobytes() + empty_row[:-values_size]
    parts = [constant(head, np.ones(len(rows), bool)), fixed(rows), _tails(b"", labels, len(rows))]
    return assemble(parts, align=4).source.data


def _tails(shape: bytes, labels: np.ndarray | None, n: int) -> Stretches:
    """Return what stands behind the keys of n rows: the shape and the label."""
    if labels is None:
        return constant(shape, np.ones(n, bool))
    tail = np.frombuffer(shape + LABEL_HEADER + bytes(4), np.uint8)
    tails = np.tile(tail, (n, 1))
    tails[:, -4:] = labels.view(np.uint8).reshape(-1, 4)
    return fixed(tails)


def _field(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + _varint(len(content)) + content


def _field_sizes(content: np.ndarray) -> np.ndarray:
    """Return the sizes of fields with contents of these sizes; an empty one is left out."""
    return np.where(content > 0, 1 + varint_sizes(content) + content, 0)


def _varint(value: int) -> bytes:
    return varints(np.array([value])).source.tobytes()


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
