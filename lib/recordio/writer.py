"""Writes matrices as recordIO-protobuf: checks them, then encodes blocks of rows on several threads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, BinaryIO, NoReturn

import numpy as np
import scipy.sparse as sp

from lib import threads as thread_count
from lib.errors import RecordIOError
from lib.recordio.frames import LONGEST_PAYLOAD, MAGIC
from lib.recordio.layout import LABEL_HEADER, ROW_NAME

BLOCK_BYTES = 1 << 20
"""About so many bytes are encoded at a time; a longer row makes a longer block."""

FEW_BLOCKS = 4
"""So many are sooner encoded than handed over to threads."""

BLOCK_NUMBERS = 1 << 18
"""Numbers that are checked at a time."""


def write(file: BinaryIO, X: Any, y: Any = None, *, threads: int | None = None) -> None:
    """Write a matrix, and labels if there are any, as recordIO-protobuf.

    Everything is checked before the first byte is written.  A matrix of no rows writes nothing.

    Parameters
    ----------
    file : binary file
        Open for writing.  What its ``write`` is given is used again afterwards.
    X : scipy sparse matrix or ndarray (n, d)
        Of any real dtype.  Sparse input becomes sparse tensors, its stored entries in their order, stored
        zeros included; an array becomes dense tensors.  CSR of float32 is encoded without a copy.
    y : array of real numbers (n,), optional
        A label a row.
    threads : int, optional
        How many threads encode; see `lib.threads.count`.

    Raises
    ------
    RecordIOError
        Wrong shape or dtype, X and y of different length, NaN, infinity or a number too large for float32,
        an index outside the matrix, or a file in text mode.
    """
    check_file(file)
    count = thread_count.count(threads)
    write_checked(file, *checked(X, y, count), count)


def check(X: Any, y: Any = None) -> None:
    """Raise what `write` would raise for a matrix and labels, and write nothing."""
    checked(X, y, thread_count.count())


def check_file(file: BinaryIO) -> None:
    """Refuse a file that is not open for writing in binary mode."""
    if (
        not hasattr(file, "write")
        or hasattr(file, "encoding")
        or not getattr(file, "writable", lambda: True)()
    ):
        raise RecordIOError(
            "recordio.write needs a file that is open for writing in binary mode.",
            hint='Say open(path, "wb").',
        )


def checked(X: Any, y: Any, threads: int, first_row: int = 0) -> tuple[Any, np.ndarray | None]:
    """Return X as a CSR matrix or an array and y as an array or None, checked.

    Errors count rows from ``first_row``.
    """
    X = _checked_matrix(X, threads, first_row)
    return X, None if y is None else _checked_labels(y, X.shape[0], first_row)


def write_checked(file: BinaryIO, X: Any, labels: np.ndarray | None, threads: int) -> None:
    """Write what `checked` returned."""
    encode = _sparse_encoding(X, labels) if sp.issparse(X) else _dense_encoding(X, labels)
    for encoded in _in_order(encode, list(_blocks_of_rows(X)), threads):
        file.write(encoded)


class _Buffer:
    """Memory that is used again for a later block."""

    def __init__(self) -> None:
        self.data = np.empty(0, np.uint8)

    def reserve(self, size: int) -> np.ndarray:
        """Return an array of at least this size."""
        if len(self.data) < size:
            self.data = np.empty(size, np.uint8)
        return self.data


Encoding = Callable[[int, int, _Buffer], memoryview]
"""Turns rows, from the first up to but without the last, to records in a buffer."""


def _in_order(encode: Encoding, blocks: list[tuple[int, int]], threads: int) -> Iterator[memoryview]:
    """Encode blocks on threads and yield them in their order, each to be used before the next is asked for."""
    if threads == 1 or len(blocks) <= FEW_BLOCKS:
        buffer = _Buffer()
        for first, last in blocks:
            yield encode(first, last, buffer)
        return
    buffers = deque(_Buffer() for _ in range(threads + 2))
    waiting: deque[tuple[Future[memoryview], _Buffer]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for first, last in blocks:
            if not buffers:
                future, buffer = waiting.popleft()
                yield future.result()
                buffers.append(buffer)
            buffer = buffers.popleft()
            waiting.append((pool.submit(encode, first, last, buffer), buffer))
        while waiting:
            yield waiting.popleft()[0].result()


def _blocks_of_rows(X: Any) -> Iterator[tuple[int, int]]:
    """Cut the rows of a CSR matrix or an array into blocks whose records take about BLOCK_BYTES."""
    n, columns = X.shape
    row_bytes, entry_bytes = 64, 8
    first = 0
    while first < n:
        if sp.issparse(X):
            last = first + BLOCK_BYTES // row_bytes
            entries = min(int(X.indptr[first]) + BLOCK_BYTES // entry_bytes, int(X.indptr[-1]))
            fitting = np.searchsorted(X.indptr, X.indptr.dtype.type(entries), side="right") - 1
            last = min(last, int(fitting))
        else:
            last = first + BLOCK_BYTES // (row_bytes + 4 * columns)
        last = min(n, max(first + 1, last))
        yield first, last
        first = last


def _sparse_encoding(X: sp.csr_matrix, labels: np.ndarray | None) -> Encoding:
    """Return what encodes rows of a CSR matrix."""
    from lib.recordio import kernels

    columns = X.shape[1]
    index = np.int32 if X.indptr.dtype == X.indices.dtype == np.int32 else np.int64
    loop = kernels.encoder(index)
    shape = _field(0x1A, _varint(columns))
    tail = shape if labels is None else shape + LABEL_HEADER
    tail_bytes = np.frombuffer(tail.ljust(kernels.TAIL_SIZE, b"\0"), np.uint8)
    longest_entry = 4 + len(_varint(columns - 1))

    def encode(first: int, last: int, buffer: _Buffer) -> memoryview:
        row_ends = _plain(X.indptr[first : last + 1], index)
        begin, end = int(row_ends[0]), int(row_ends[-1])
        room = kernels.LARGEST_ROW * (last - first) + longest_entry * (end - begin) + kernels.SPARE
        out = buffer.reserve(room)
        size = loop(
            row_ends,
            _plain(X.indices[begin:end], index),
            _bits(X.data[begin:end]),
            _bits(np.empty(0) if labels is None else labels[first:last]),
            columns,
            len(shape),
            tail_bytes,
            out,
        )
        return out[:size].data

    return encode


def _bits(numbers: np.ndarray) -> np.ndarray:
    """Return the bits of numbers as float32, without a copy if that is what they are."""
    return _plain(numbers, np.float32).view(np.uint32)


def _plain(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return an array as compiled loops take it, without a copy if it is so."""
    return np.require(np.asarray(array), dtype, ["C", "A"])


def _dense_encoding(X: np.ndarray, labels: np.ndarray | None) -> Encoding:
    """Return what encodes rows of an array: all records are alike but for their numbers."""
    columns = X.shape[1]
    values_size = 4 * columns
    row = _field(0x0A, ROW_NAME + _field(0x12, _field(0x12, _field(0x0A, bytes(values_size)))))
    tail = b"" if labels is None else LABEL_HEADER + bytes(4)
    record = np.array([MAGIC, len(row) + len(tail)], "<u4").tobytes() + row + tail
    record += bytes(-len(record) % 4)
    values_at = 8 + len(row) - values_size
    parts: dict[str, tuple[Any, int]] = {"values": (("<f4", (columns,)), values_at)}
    if labels is not None:
        parts["label"] = ("<f4", 8 + len(row) + len(LABEL_HEADER))
    numbers = np.dtype(
        {
            "names": list(parts),
            "formats": [dtype for dtype, _ in parts.values()],
            "offsets": [offset for _, offset in parts.values()],
            "itemsize": len(record),
        }
    )

    def encode(first: int, last: int, buffer: _Buffer) -> memoryview:
        n = last - first
        if len(buffer.data) < n * len(record):
            buffer.data = np.tile(np.frombuffer(record, np.uint8), n)
        records = buffer.data[: n * len(record)]
        rows = records.view(numbers)
        rows["values"] = X[first:last]
        if labels is not None:
            rows["label"] = labels[first:last]
        return records.data

    return encode


def _field(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _checked_matrix(X: Any, threads: int, first_row: int) -> Any:
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
        longest = _check_csr(X, threads, first_row) * (4 + len(_varint(X.shape[1])))
    else:
        if (place := _not_float32(X, threads)) is not None:
            row, column = divmod(place, X.shape[1])
            _refuse_number(X[row, column], f"X, row {first_row + row}, column {column}")
        longest = 4 * X.shape[1]
    if longest + 128 > LONGEST_PAYLOAD:
        raise RecordIOError(f"X has a row of {longest:,} bytes; a record holds {LONGEST_PAYLOAD:,} at most.")
    return X


def _check_csr(X: sp.csr_matrix, threads: int, first_row: int) -> int:
    """Check a CSR matrix and return the most entries that a row has."""
    columns = X.shape[1]
    indptr = X.indptr
    stored = min(len(X.indices), len(X.data))
    counts = np.diff(indptr.astype(np.int64, copy=False))
    if len(counts) != X.shape[0] or indptr[0] != 0 or counts.min(initial=0) < 0 or indptr[-1] > stored:
        raise RecordIOError(
            f"X is not a valid CSR matrix: its indptr does not rise from 0 to its {stored:,} entries."
        )
    indices, data = X.indices[: indptr[-1]], X.data[: indptr[-1]]
    if (bad := _not_below(indices, columns, threads)) is not None:
        raise RecordIOError(
            f"X, row {first_row + _row_of(bad, indptr[1:])}, has column index {indices[bad]}, "
            f"outside its {columns:,} columns."
        )
    if (bad := _not_float32(data, threads)) is not None:
        row = first_row + _row_of(bad, indptr[1:])
        _refuse_number(data[bad], f"X, row {row}, column {indices[bad]}")
    return int(counts.max(initial=0))


def _checked_labels(y: Any, n: int, first_row: int) -> np.ndarray:
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
    if (place := _not_float32(labels, 1)) is not None:
        _refuse_number(labels[place], f"y, row {first_row + place}")
    return labels


def _check_dtype(dtype: np.dtype, what: str) -> None:
    if dtype.kind not in "biuf":
        raise RecordIOError(f"{what} has dtype {dtype}, not real numbers.", hint="Make it float32.")


def _not_float32(numbers: np.ndarray, threads: int) -> int | None:
    """Return the flat position of the first number that float32 cannot hold, or None."""
    if numbers.dtype.kind != "f":
        return None
    width = math.prod(numbers.shape[1:])

    def look(first: int, last: int) -> int | None:
        with np.errstate(over="ignore"):
            finite = np.isfinite(numbers[first:last].astype(np.float32, copy=False))
        return None if finite.all() else first * width + int(finite.argmin())

    return _first_found(look, len(numbers), max(1, BLOCK_NUMBERS // width), threads)


def _not_below(indices: np.ndarray, columns: int, threads: int) -> int | None:
    """Return the position of the first index that is negative or not below ``columns``, or None."""
    limit = min(columns, np.iinfo(indices.dtype).max + 1)  # a negative one, taken as unsigned, is above
    unsigned = indices.view(f"u{indices.itemsize}")

    def look(first: int, last: int) -> int | None:
        block = unsigned[first:last]
        return None if block.max() < limit else first + int((block >= limit).argmax())

    return _first_found(look, len(indices), BLOCK_NUMBERS, threads)


def _first_found(look: Callable[[int, int], int | None], size: int, block: int, threads: int) -> int | None:
    """Return the first position that is found in a range, which threads search a block at a time."""

    def search(begin: int, end: int) -> int | None:
        for first in range(begin, end, block):
            if (found := look(first, min(end, first + block))) is not None:
                return found
        return None

    parts = threads if size > block else 1
    edges = [size * part // parts for part in range(parts + 1)]
    tasks = [partial(search, begin, end) for begin, end in pairwise(edges)]
    return next((found for found in thread_count.run(tasks, parts) if found is not None), None)


def _refuse_number(number: Any, where: str) -> NoReturn:
    why = "too large for float32" if np.isfinite(number) else "not a finite number"
    raise RecordIOError(f"{where} is {number}, {why}.")


def _row_of(place: int, row_ends: np.ndarray) -> int:
    """Return the row that entry ``place`` belongs to."""
    return int(np.searchsorted(row_ends, place, side="right"))
