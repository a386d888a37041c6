"""Training data from a matrix or from files, made into blocks once and read by every epoch.

In the first epoch a thread reads and plans ahead of the training.  What it makes is kept: in memory up to a
budget, the rest in a temporary file that is read ahead of the training in later epochs.  So memory is bounded,
files are decoded once, and the results do not depend on where a block comes from.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from scipy import sparse

from lib import recordio
from lib.errors import DataError
from lib.fm import memory
from lib.fm.ahead import made_ahead
from lib.fm.blocks import Piece, PlannedBlock, Planner, cut, rows_between, rows_of_block
from lib.fm.checks import check_classes, scale_advice
from lib.fm.layout import Block

_PROBE_ROWS = 1024  # rows that tell how long rows are
_MADE_AHEAD = 1  # blocks waiting to be trained on, beside the one in work and the one being made
_ALIGNMENT = 64  # of a block's arrays in the temporary file


class Source(Protocol):
    """Where data come from.

    Attributes
    ----------
    records : int or None
        Number of rows; None if that is not known beforehand.
    weighted : bool
        Whether values other than 1 are to be expected.
    advice : str
        A sentence about features that are not scaled, among the data read so far; otherwise empty.
    """

    records: int | None
    weighted: bool
    advice: str

    def pieces(self, batch_size: int) -> Iterator[Piece]:
        """Yield the data in order, from the beginning, in pieces of whole mini-batches but for the last."""
        ...


class MatrixSource:
    """A matrix of rows (n, feature_dim) and labels (n,), both checked."""

    def __init__(self, X: sparse.csr_matrix, labels: np.ndarray) -> None:
        self._X = X
        self._labels = labels
        self.records: int | None = len(labels)
        self.weighted = not (X.data == 1).all()
        self.advice = scale_advice(X)

    def pieces(self, batch_size: int) -> Iterator[Piece]:
        """Yield views of the matrix."""
        n = len(self._labels)
        rows = rows_of_block(self._X.nnz / n, batch_size)
        for first in range(0, n, rows):
            yield rows_between(self._X, self._labels, first, min(n, first + rows))


class FileSource:
    """RecordIO-protobuf files, read in the order given as if they were one.

    Parameters
    ----------
    paths : sequence of path
        The files.
    feature_dim : int
        The number of features they must have.
    classifier : bool
        Whether labels must be 0 or 1.
    names : sequence of str, optional
        What errors call the files; by default their paths.
    threads : int, optional
        How many threads decode; see `lib.threads.count`.

    Raises
    ------
    DataError
        No files, or a first file that cannot be used.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        feature_dim: int,
        classifier: bool,
        names: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        if not paths:
            raise DataError("There are no files to train on.")
        self._paths = [Path(path) for path in paths]
        self._names = [str(path) for path in paths] if names is None else list(names)
        self._feature_dim = feature_dim
        self._classifier = classifier
        self._threads = threads
        self.records: int | None = None
        self.advice = ""
        self._largest = 0.0
        first_rows, _ = next(self._read_files(_PROBE_ROWS))
        self.weighted = not (first_rows.data == 1).all()
        self._entries_per_row = first_rows.nnz / first_rows.shape[0]

    def pieces(self, batch_size: int) -> Iterator[Piece]:
        """Yield the files' content."""
        rows = rows_of_block(self._entries_per_row, batch_size)
        return cut(self._read_files(rows), rows)

    def _read_files(self, rows: int) -> Iterator[Piece]:
        for path, name in zip(self._paths, self._names, strict=True):
            before = 0
            try:
                with path.open("rb") as file:
                    for X, y in recordio.iter_batches(
                        file, rows, self._feature_dim, keep_zeros=True, threads=self._threads
                    ):
                        yield X, self._checked(X, y, name, before)
                        before += X.shape[0]
            except DataError as error:
                raise type(error)(error.message.replace(str(path), name), hint=error.hint) from None
            except OSError as error:
                raise DataError(f"{name} cannot be read: {error.strerror or error}.") from None

    def _checked(self, X: sparse.csr_matrix, y: np.ndarray | None, name: str, before: int) -> np.ndarray:
        if y is None:
            raise DataError(f"{name} has no labels.")
        if self._classifier:
            check_classes(y, name, before)
        largest = float(np.abs(X.data).max(initial=0))
        if largest > self._largest:
            self._largest = largest
            self.advice = scale_advice(X)
        return y


class Examples:
    """The data of a training, in blocks.  Iterating over it yields all `PlannedBlock`s, as often as wanted.

    Parameters
    ----------
    source : Source
        Where the data come from.
    feature_dim, batch_size : int
        Number of features; rows of a mini-batch.
    budget : int
        Bytes of memory for blocks kept between epochs.
    """

    def __init__(self, source: Source, feature_dim: int, batch_size: int, budget: int) -> None:
        self._source = source
        self._feature_dim = feature_dim
        self._batch_size = batch_size
        self._budget = budget
        self._complete = False
        self._start_over()

    def _start_over(self) -> None:
        self._held: list[PlannedBlock] = []
        self._held_bytes = 0
        self._spilled: _SpilledBlocks | None = None
        self._rows = 0

    @property
    def advice(self) -> str:
        """A sentence about features that are not scaled, as far as the data are read; otherwise empty."""
        return self._source.advice

    @property
    def records(self) -> int | None:
        """Number of rows; of files it is known after the first epoch, before that it is None."""
        return self._rows if self._complete else self._source.records

    @property
    def held_bytes(self) -> int:
        """Bytes of the blocks kept in memory."""
        return self._held_bytes

    @property
    def spilled_bytes(self) -> int:
        """Bytes of the blocks kept in a temporary file."""
        return self._spilled.nbytes if self._spilled else 0

    def release(self) -> None:
        """Give the memory back; the number of rows stays known."""
        self._held = []
        self._spilled = None

    def __iter__(self) -> Iterator[PlannedBlock]:
        if not self._complete:
            self._start_over()
            yield from made_ahead(self._make(), _MADE_AHEAD)
            self._complete = True
            return
        yield from self._held
        if self._spilled:
            yield from made_ahead(self._spilled, _MADE_AHEAD)

    def _make(self) -> Iterator[PlannedBlock]:
        planner = Planner(self._feature_dim, self._batch_size)
        for X, labels in self._source.pieces(self._batch_size):
            block = planner.plan(X, labels)
            self._keep(block)
            yield block

    def _keep(self, block: PlannedBlock) -> None:
        self._rows += block.rows
        if self._spilled is None and self._held_bytes + block.nbytes <= self._budget:
            self._held.append(block)
            self._held_bytes += block.nbytes
            return
        if self._spilled is None:
            self._spilled = _SpilledBlocks()
        try:
            self._spilled.append(block)
        except OSError as error:
            raise DataError(
                f"The data are larger than the {memory.size(self._budget)} of memory they may take, and "
                f"{tempfile.gettempdir()} cannot hold the rest: {error.strerror or error}.",
                hint=f"Raise {memory.BUDGET_VARIABLE}, or let TMPDIR name a folder with more room.",
            ) from None


class _SpilledBlocks:
    """Blocks in a temporary file, which is gone with this object."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="reelbook-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._index: list[tuple[int, int, int, list[tuple[int, np.dtype[Any], int]]]] = []
        self.nbytes = 0

    def append(self, block: PlannedBlock) -> None:
        """Write a block."""
        offset, fields = 0, []
        for array in block.arrays:
            self._file.write(array.data)
            padding = -array.nbytes % _ALIGNMENT
            self._file.write(bytes(padding))
            fields.append((offset, array.dtype, len(array)))
            offset += array.nbytes + padding
        self._file.flush()  # a full disk is to be told here
        self._index.append((self.nbytes, offset, block.largest_batch, fields))
        self.nbytes += offset

    def __iter__(self) -> Iterator[PlannedBlock]:
        for start, length, largest_batch, fields in self._index:
            content = np.empty(length, np.uint8)
            self._file.seek(start)
            if self._file.readinto(content.data) != length:  # type: ignore[attr-defined]
                raise DataError("The temporary file with the training data has become shorter.")
            arrays = [
                content[offset : offset + count * dtype.itemsize].view(dtype)
                for offset, dtype, count in fields
            ]
            yield PlannedBlock(Block(*arrays), largest_batch)
