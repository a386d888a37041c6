"""Reads recordIO-protobuf as matrices.

A file goes through three steps: the bytes are read and its records found a block at a time
(`lib.recordio.frames`), the block's records are decoded on several threads, and what they hold is put
behind what is there already.  A block is read and found while the one before it is decoded.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np
import scipy.sparse as sp

from lib import threads as thread_count
from lib.errors import RecordIOError
from lib.recordio import frames, layout
from lib.recordio.careful import Careful
from lib.recordio.frames import FRAME, Block, is_worth_compiling, read_blocks
from lib.recordio.protobuf import MARGIN

LARGEST_INT32 = np.iinfo(np.int32).max
"""Above it, columns and numbers of entries take int64 indices."""

ROWS_AT_FIRST = 1 << 17
"""Rows of a batch that memory is taken for before it is known to have more."""

_ENTRY_BYTES = 4  # that an entry has in a file at least


def read(
    file: BinaryIO,
    feature_dim: int | None = None,
    *,
    keep_zeros: bool = False,
    threads: int | None = None,
) -> tuple[sp.csr_matrix, np.ndarray | None]:
    """Read a whole file.

    Parameters
    ----------
    file : binary file
        Open for reading.
    feature_dim : int, optional
        The number of columns the file must have.  Needed only for sparse records that do not say it.
    keep_zeros : bool
        Whether the zeros of dense records become entries of the matrix; the stored zeros of sparse ones
        always do.
    threads : int, optional
        How many threads decode; see `lib.threads.count`.

    Returns
    -------
    X : csr_matrix of float32 (n, d)
        With sorted indices; entries of one column are added up.
    y : ndarray of float32 (n,) or None
        None if the file has no labels.

    Raises
    ------
    RecordIOError
        The file is empty, truncated, of another format or in text mode; a record is not one vector of
        finite numbers; records differ in width or in having a label; or an index is outside the columns.
    """
    decoding = _Decoding(feature_dim, keep_zeros, thread_count.count(threads))
    size = _bytes_left(file)
    rows: _Rows | None = None
    for piece in decoding.pieces(file):
        if rows is None:
            times = max(1.0, 1.02 * size / piece.size)
            rows = _Rows(times * len(piece.row_ends), times * len(piece.keys))
        rows.append(piece)
    assert rows is not None  # an empty file has been refused
    return rows.finish(decoding.columns)


def iter_batches(
    file: BinaryIO,
    rows: int = 65_536,
    feature_dim: int | None = None,
    *,
    keep_zeros: bool = False,
    threads: int | None = None,
) -> Iterator[tuple[sp.csr_matrix, np.ndarray | None]]:
    """Read a file in batches of ``rows`` rows; the last may have fewer.

    Memory is bounded by the batch and a few blocks of the file.  The batches are the caller's: they are not
    changed afterwards.  Reading and decoding release the interpreter lock, so that a thread that asks for
    the next batch does not hinder one that works on the last.  The parameters, what each batch holds and
    what is raised are those of `read`.
    """
    if rows < 1:
        raise RecordIOError(f"A batch cannot have {rows} rows.")
    decoding = _Decoding(feature_dim, keep_zeros, thread_count.count(threads))
    most_entries = _bytes_left(file) // _ENTRY_BYTES
    batch: _Rows | None = None
    for piece in decoding.pieces(file):
        first, count = 0, len(piece.row_ends)
        entries_each = len(piece.keys) / count
        while first < count:
            if batch is None:
                expected = min(rows, ROWS_AT_FIRST)
                entries = min(1.02 * expected * entries_each, max(most_entries, len(piece.keys)))
                batch = _Rows(expected, entries)
            last = min(count, first + rows - batch.count)
            batch.append(piece.rows(first, last))
            first = last
            if batch.count == rows:
                yield batch.finish(decoding.columns)
                batch = None
    if batch is not None:
        yield batch.finish(decoding.columns)


def _bytes_left(file: BinaryIO) -> int:
    """Return how many bytes can be read from a file, 0 if it does not say so."""
    try:
        at = file.tell()
        size = file.seek(0, io.SEEK_END) - at
        file.seek(at)
    except (AttributeError, OSError, ValueError):
        return 0
    return size


class _Piece(NamedTuple):
    """Consecutive rows: where each ends in ``keys`` and ``values``, and the labels, if there are any.

    ``size`` is how many bytes they have in the file.
    """

    row_ends: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    labels: np.ndarray | None
    size: int

    def rows(self, first: int, last: int) -> _Piece:
        """Return some of the rows."""
        if first == 0 and last == len(self.row_ends):
            return self
        begin = int(self.row_ends[first - 1]) if first else 0
        end = int(self.row_ends[last - 1])
        labels = None if self.labels is None else self.labels[first:last]
        row_ends = self.row_ends[first:last] - begin
        return _Piece(row_ends, self.keys[begin:end], self.values[begin:end], labels, self.size)


class _Rows:
    """Rows put one behind the other in arrays that grow, if what was expected was not enough."""

    def __init__(self, rows: float, entries: float) -> None:
        self.count = 0
        self.entries = 0
        self.row_ends = np.empty(int(rows) + 2, np.int32)
        self.row_ends[0] = 0
        self.keys = np.empty(int(entries) + 1, np.int32)
        self.values = np.empty(len(self.keys), np.float32)
        self.labels: np.ndarray | None = None

    def append(self, piece: _Piece) -> None:
        """Copy rows behind those that are there."""
        count = self.count + len(piece.row_ends)
        entries = self.entries + len(piece.keys)
        if (entries > LARGEST_INT32 or piece.keys.dtype == np.int64) and self.keys.dtype != np.int64:
            self.row_ends = self.row_ends.astype(np.int64)
            self.keys = self.keys.astype(np.int64)
        self.row_ends = _with_room(self.row_ends, count + 1)
        self.keys = _with_room(self.keys, entries)
        self.values = _with_room(self.values, entries)
        behind = self.row_ends[self.count + 1 : count + 1]
        np.add(piece.row_ends, self.entries, out=behind, dtype=behind.dtype, casting="same_kind")
        self.keys[self.entries : entries] = piece.keys
        self.values[self.entries : entries] = piece.values
        if piece.labels is not None:
            if self.labels is None:
                self.labels = np.empty(len(self.row_ends) - 1, np.float32)
            self.labels = _with_room(self.labels, count)
            self.labels[self.count : count] = piece.labels
        self.count, self.entries = count, entries

    def finish(self, columns: int) -> tuple[sp.csr_matrix, np.ndarray | None]:
        """Return the rows and the labels."""
        arrays = (_cut(self.values, self.entries), _cut(self.keys, self.entries))
        X = sp.csr_matrix((*arrays, _cut(self.row_ends, self.count + 1)), shape=(self.count, columns))
        X.has_canonical_format = True
        return X, None if self.labels is None else _cut(self.labels, self.count)


def _with_room(array: np.ndarray, size: int) -> np.ndarray:
    """Return an array of at least this size that begins with the same items."""
    if size <= len(array):
        return array
    larger = np.empty(max(size, len(array) * 3 // 2), array.dtype)
    larger[: len(array)] = array
    return larger


def _cut(array: np.ndarray, size: int) -> np.ndarray:
    """Return the first items, without keeping much memory behind them."""
    return array[:size] if len(array) <= 1.1 * size + 1024 else array[:size].copy()


class _Scratch:
    """Memory that a block's records are decoded into, used again for the block after the next."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint32)

    def reserve(self, rows: int, entries: int) -> _Arrays:
        """Return arrays for so many rows and entries, which lie in one piece of memory.

        A large piece costs less than several: the system hands it out in huge pages.
        """
        size = 2 * (rows + entries)
        if len(self.memory) < size:
            self.memory = np.empty(size * 9 // 8, np.uint32)
        keys, values, row_ends, labels = np.split(self.memory[:size], np.cumsum([entries, entries, rows]))
        return _Arrays(row_ends.view(np.int32), keys.view(np.int32), values, labels)


class _Arrays(NamedTuple):
    """What the compiled loop fills: by rows ``row_ends`` and ``labels``, by entries ``keys`` and ``values``."""

    row_ends: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    labels: np.ndarray


class _Share(NamedTuple):
    """Records of a block that are being decoded.

    ``common`` are the width and whether there are labels, which the compiled loop takes for granted, from
    the records before or from a guess; ``result`` waits for the piece and gives None for unusual records.
    """

    block: Block
    size: int
    common: tuple[int, bool] | None
    result: Callable[[], _Piece | None]


class _Decoding:
    """Decodes the blocks of a file: with the compiled loop if it can, carefully if it must."""

    def __init__(self, feature_dim: int | None, keep_zeros: bool, threads: int) -> None:
        if feature_dim is not None and feature_dim < 1:
            raise RecordIOError(f"feature_dim is {feature_dim}; it must be 1 or more.")
        self.feature_dim = feature_dim
        self.keep_zeros = keep_zeros
        self.threads = threads
        self.careful = Careful(feature_dim, keep_zeros)
        self.scratches = [_Scratch(), _Scratch()]

    @property
    def columns(self) -> int:
        """The width, known after the first piece."""
        assert self.careful.columns is not None
        return self.careful.columns

    def pieces(self, file: BinaryIO) -> Iterator[_Piece]:
        """Read a file in pieces, each of which holds until the next one is asked for."""
        blocks = read_blocks(file)
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self.threads)) if self.threads > 1 else None
            waiting: list[_Share] = []
            while True:
                error = None
                try:
                    block = next(blocks, None)
                except RecordIOError as found:  # which what is still being decoded comes before
                    block, error = None, found
                if self.careful.labelled is None:  # the first block tells what the others must be like
                    yield from self._finish(waiting)
                    waiting = []
                started = [] if block is None else self._start(block, pool)
                yield from self._finish(waiting)
                if error is not None:
                    raise error
                if block is None:
                    return
                waiting = started

    def _start(self, block: Block, pool: ThreadPoolExecutor | None) -> list[_Share]:
        """Start to decode a block."""
        n = len(block.start)
        size = len(block.data) - MARGIN - int(block.start[0])
        common = self._common(block) if is_worth_compiling(size) else None
        if common is None or common[0] > LARGEST_INT32:
            return [_Share(block, size, None, _nothing)]
        self.scratches.reverse()
        arrays = self.scratches[0].reserve(n, size // 4)  # an entry has at least the 4 bytes of its value
        parts = self.threads if size >= frames.BLOCK_BYTES else 1  # less is sooner done than handed over
        rows = [n * part // parts for part in range(parts + 1)]
        ends = [*block.start[rows[:-1]].tolist(), len(block.data) - MARGIN]
        shares = []
        for place in range(parts):
            first, last = rows[place : place + 2]
            begin, end = (end - ends[0] for end in ends[place : place + 2])
            if first == last:
                continue
            mine = _Arrays(
                arrays.row_ends[first:last],
                arrays.keys[begin // 4 : end // 4],
                arrays.values[begin // 4 : end // 4],
                arrays.labels[first:last],
            )
            share = block.records(first, last)
            decode = partial(self._decode, share, end - begin, mine, *common)
            result = partial(_same, decode()) if pool is None or parts == 1 else pool.submit(decode).result
            shares.append(_Share(share, end - begin, common, result))
        return shares

    def _finish(self, shares: list[_Share]) -> Iterator[_Piece]:
        """Yield the pieces of a block."""
        for block, size, common, result in shares:
            piece = result()
            known = self.careful.labelled is not None
            if piece is None or common is None or (known and common != self._common(block)):
                X, y = self.careful.decode(block)
                piece = _Piece(X.indptr[1:], X.indices, X.data, y, size)
            else:
                self.careful.columns, self.careful.labelled = common
            yield piece

    def _common(self, block: Block) -> tuple[int, bool] | None:
        """Return the width of all records and whether they have labels; if not known, as the first has."""
        if self.careful.labelled is not None:
            return self.columns, self.careful.labelled
        start = int(block.start[0])
        record = block.data[start:][: FRAME + int(block.records(0, 1).payload()[0])].tobytes()
        columns, labelled = layout.guess(record[FRAME:])
        columns = self.feature_dim or columns
        return (columns, labelled) if columns else None

    def _decode(
        self, block: Block, size: int, arrays: _Arrays, columns: int, labelled: bool
    ) -> _Piece | None:
        """Decode records with the compiled loop, if they are as usual."""
        from lib.recordio import kernels

        entries, found = kernels.decoder()(
            block.data, block.start, columns, labelled, self.keep_zeros, *arrays
        )
        if found == kernels.UNUSUAL:
            return None
        row_ends = arrays.row_ends
        keys, values = arrays.keys[:entries], arrays.values[:entries].view(np.float32)
        y = arrays.labels.view(np.float32) if labelled else None
        if found == kernels.ORDERED:
            return _Piece(row_ends, keys, values, y, size)
        indptr = np.concatenate((np.zeros(1, np.int32), row_ends))
        X = sp.csr_matrix((values, keys, indptr), shape=(len(row_ends), columns))
        X.sum_duplicates()
        if not np.isfinite(X.data).all():
            return None  # to be refused carefully
        return _Piece(X.indptr[1:], X.indices, X.data, y, size)


def _same(piece: _Piece | None) -> _Piece | None:
    return piece


def _nothing() -> None:
    return None
