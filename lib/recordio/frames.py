"""The framing of recordIO: finds the records in buffers and files."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from lib.errors import RecordIOError
from lib.recordio.protobuf import MARGIN

MAGIC = 0xCED7230A

FRAME = 8
"""Bytes of a record before its payload: the magic and the payload's length."""

BLOCK_BYTES = 4 << 20
"""Bytes that are read at a time; a longer record makes a longer block."""

COMPILED_BYTES = 1 << 19
"""A block of so many bytes is worth loading the compiled loops for, which takes longer than a small file."""

LAST_BYTES = 1 << 16
"""About so many bytes at the end of a buffer become a block of their own, copied to have its margin."""

LONGEST_PAYLOAD = (1 << 29) - 1
"""The upper 3 bits of recordIO's length word are a flag, which SageMaker leaves at 0."""


class Block(NamedTuple):
    """Whole records of a file.

    ``data`` is uint8 with MARGIN spare bytes at its end; ``start`` (n,) are the records' offsets in it;
    ``record`` and ``offset`` say where in the file it begins.  All of it holds until the block after the
    next one is read.
    """

    data: np.ndarray
    start: np.ndarray
    record: int
    offset: int
    name: str

    def records(self, first: int, last: int) -> Block:
        """Return some of the records."""
        return self._replace(start=self.start[first:last], record=self.record + first)

    def payload(self) -> np.ndarray:
        """Return the sizes of the records' payloads, in bytes: int64 (n,)."""
        words = np.ndarray((self.data.size - 3,), "<u4", self.data.data, strides=(1,))
        return words[self.start + 4].astype(np.int64)

    def refuse(self, index: int, why: str, *, hint: str = "") -> NoReturn:
        """Raise the error that the record of this index is not as it should be."""
        where = f"record {self.record + index} at byte {self.offset + int(self.start[index]):,}"
        raise RecordIOError(f"{self.name}: {where} {why}.", hint=hint)

    def refuse_first(self, bad: np.ndarray, why: str, *, hint: str = "") -> None:
        """Raise the error for the first record of a mask, if there is one."""
        if bad.any():
            self.refuse(int(bad.argmax()), why, hint=hint)


def offsets(data: bytes | memoryview) -> np.ndarray:
    """Return where the records of a buffer begin, and its length: int64 (n + 1,).

    Raises
    ------
    RecordIOError
        The data are empty, truncated or of another format.
    """
    name = "the data"
    buffer = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    starts: list[np.ndarray] = []
    begin = record = 0
    window = BLOCK_BYTES
    while begin < len(buffer):
        frames = _scan(buffer[begin : begin + window], record, begin, name)
        if frames.end:
            starts.append(begin + frames.start)
            begin += frames.end
            record += len(frames.start)
            window = BLOCK_BYTES
        elif begin + window < len(buffer):
            window += max(BLOCK_BYTES, frames.missing)
        else:
            _refuse_end(buffer[begin:].tobytes(), record, begin, frames.missing, name)
    if not starts:
        _refuse_end(b"", 0, 0, 0, name)
    return np.append(np.concatenate(starts), len(buffer))


def split(data: bytes | memoryview, max_bytes: int) -> list[tuple[int, int]]:
    """Cut a buffer into pieces of whole records, each as large as it can be.

    Parameters
    ----------
    data : bytes-like
        Records, as `write` makes them.
    max_bytes : int
        The largest size of a piece.

    Returns
    -------
    list of (start, end)
        Which cover the buffer without a gap.

    Raises
    ------
    RecordIOError
        A record alone is larger than ``max_bytes``, or the data are no records.
    """
    edges = offsets(data)
    pieces = []
    first = 0
    while first < len(edges) - 1:
        last = int(np.searchsorted(edges, edges[first] + max_bytes, side="right")) - 1
        if last == first:
            size = int(edges[first + 1] - edges[first])
            raise RecordIOError(
                f"Record {first} at byte {edges[first]:,} has {size:,} bytes, "
                f"more than the {max_bytes:,} of a piece."
            )
        pieces.append((int(edges[first]), int(edges[last])))
        first = last
    return pieces


def records(data: bytes | memoryview, *, framed: bool = True) -> Iterator[memoryview]:
    """Yield the records of a buffer one by one.

    Parameters
    ----------
    data : bytes-like
        Records, as `write` makes them.
    framed : bool
        Whether to yield whole records, which are files by themselves, or their payloads only.

    Raises
    ------
    RecordIOError
        The data are no records.
    """
    view = memoryview(data).cast("B")
    edges = offsets(view)
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if framed:
            yield view[start:end]
        else:
            size = int.from_bytes(view[start + 4 : start + 8], "little")
            yield view[start + 8 : start + 8 + size]


def read_blocks(file: BinaryIO) -> Iterator[Block]:
    """Read a file as blocks of whole records.

    Raises
    ------
    RecordIOError
        The file is empty, truncated, of another format or not open for reading in binary mode.
    """
    if (
        not hasattr(file, "read")
        or hasattr(file, "encoding")
        or not getattr(file, "readable", lambda: True)()
    ):
        raise RecordIOError(
            "recordio.read needs a file that is open for reading in binary mode.",
            hint='Say open(path, "rb").',
        )
    name = str(getattr(file, "name", "the data"))
    source = _Memory(file) if type(file) is io.BytesIO else _File(file)
    find = _Finder(name)
    offset = record = taken = 0
    wanted = BLOCK_BYTES
    while True:
        data, size, ended = source.window(taken, wanted)
        frames = find(data[:size], record, offset)
        if frames.start.size:
            yield Block(data, frames.start, record, offset, name)
        taken = frames.end
        offset += taken
        record += len(frames.start)
        if ended:
            break
        wanted = max(BLOCK_BYTES, frames.missing)
    if size > taken or not record:
        _refuse_end(data[taken:size].tobytes(), record, offset, frames.missing, name)


def is_worth_compiling(size: int) -> bool:
    """Tell whether so many bytes are to be worked on by the compiled loops."""
    return size >= COMPILED_BYTES or "lib.recordio.kernels" in sys.modules


class _Memory:
    """A buffer's content, a window at a time, without a copy but of its end."""

    def __init__(self, file: io.BytesIO) -> None:
        content = file.getvalue()  # the buffer itself; it is copied if the file is written to meanwhile
        self.data = np.frombuffer(content, np.uint8) if content else np.empty(0, np.uint8)
        self.begin = self.end = min(file.tell(), len(content))
        file.seek(0, io.SEEK_END)

    def window(self, taken: int, wanted: int) -> tuple[np.ndarray, int, bool]:
        """Return data with a margin, the size of it without, and whether it is the last.

        The data begin ``taken`` bytes after those of the window before and end ``wanted`` bytes after them.
        """
        size = len(self.data)
        self.begin += taken
        before, self.end = self.end, self.end + wanted
        if self.end + MARGIN > size:
            self.end = size - LAST_BYTES
        if self.end > before:
            return self.data[self.begin : self.end + MARGIN], self.end - self.begin, False
        self.end = size
        rest = self.data[self.begin :]
        return np.concatenate((rest, np.zeros(MARGIN, np.uint8))), len(rest), True


class _File:
    """A file's content, a window at a time, in two buffers by turns."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.rest = np.empty(0, np.uint8)
        self.buffers = [np.empty(0, np.uint8), np.empty(0, np.uint8)]

    def window(self, taken: int, wanted: int) -> tuple[np.ndarray, int, bool]:
        """Return data with a margin, the size of it without, and whether it is the last; see `_Memory`."""
        rest = self.rest[taken:]
        if taken:  # there was a block in it, which is still needed
            self.buffers.reverse()
        if len(self.buffers[0]) < len(rest) + wanted + MARGIN:
            self.buffers[0] = np.empty(len(rest) + wanted + BLOCK_BYTES // 8 + MARGIN, np.uint8)
        data = self.buffers[0]
        data[: len(rest)] = rest
        size = len(rest) + self._fill(data[len(rest) : len(rest) + wanted].data)
        self.rest = data[:size]
        return data[: size + MARGIN], size, size < len(rest) + wanted

    def _fill(self, target: memoryview) -> int:
        """Read from a file that may give its bytes in pieces, and return how many there were."""
        filled = 0
        in_place = isinstance(self.file, io.FileIO | io.BufferedReader)
        while filled < len(target):
            if in_place:
                got = self.file.readinto(target[filled:])  # type: ignore[attr-defined]
            else:
                piece = self.file.read(min(len(target) - filled, BLOCK_BYTES)) or b""
                got = len(piece)
                target[filled : filled + got] = piece
            if not got:
                break
            filled += got
        return filled


class _Finder:
    """Finds the records of windows; what it returns holds until it is called the second time after."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.starts = [np.empty(0, np.int64), np.empty(0, np.int64)]

    def __call__(self, data: np.ndarray, record: int, offset: int) -> _Frames:
        """Find the records of data that begin with one; ``record`` and ``offset`` say where in the file."""
        if not is_worth_compiling(len(data)):
            return _scan(data, record, offset, self.name)
        from lib.recordio import kernels

        if len(self.starts[0]) <= len(data) // FRAME:
            self.starts[0] = np.empty(len(data) // FRAME + 1, np.int64)
        starts = self.starts[0]
        count, end, ended = kernels.scanner()(data, starts)
        if count:  # they are still needed when the next block's are looked for
            self.starts.reverse()
        if ended == kernels.WHOLE:
            return _Frames(starts[:count], end, 0)
        if ended == kernels.CUT:
            payload = int.from_bytes(data[end + 4 : end + FRAME].tobytes(), "little")
            return _Frames(starts[:count], end, end + FRAME + (payload + 3) // 4 * 4 - len(data))
        rest = _scan(data[end:], record + count, offset + end, self.name)
        starts = np.append(starts[:count], end + rest.start) if rest.start.size else starts[:count]
        return _Frames(starts, end + rest.end, rest.missing)


class _Frames(NamedTuple):
    """Whole records of a buffer: ``start`` are their offsets, int64 (n,).

    ``end`` is where the last one ends, and ``missing`` how many bytes the next one lacks.
    """

    start: np.ndarray
    end: int
    missing: int


def _scan(data: np.ndarray, record: int, offset: int, name: str) -> _Frames:
    """Find the records of a buffer that begins with one; ``record`` and ``offset`` say where in the file.

    Each record says only where the next begins, and its payload may contain the magic by chance.  So take
    every word that is the magic as a candidate and check that each ends where the next one stands; if not,
    follow the chain from the first.
    """
    words = data[: len(data) // 4 * 4].view("<u4")
    if len(words) and words[0] != MAGIC:
        _refuse_magic(data[:64].tobytes(), record, offset, name)
    candidates = np.flatnonzero(words[:-1] == MAGIC)
    if not candidates.size:
        return _Frames(candidates, 0, 0)
    payload = words[candidates + 1].astype(np.int64)
    behind = candidates + 2 + (payload + 3) // 4

    if not np.array_equal(behind[:-1], candidates[1:]):
        chain = _chain(candidates, behind)
        candidates, payload, behind = candidates[chain], payload[chain], behind[chain]

    if (too_long := payload > LONGEST_PAYLOAD).any():
        first = int(too_long.argmax())
        raise RecordIOError(
            f"{name}: record {record + first} at byte {offset + 4 * int(candidates[first]):,} says it has "
            f"{payload[first]:,} bytes, which no record has.",
            hint="The file is damaged.",
        )
    end = int(behind[-1])
    missing = 4 * end - len(data)
    if missing > 0:
        end = int(candidates[-1])
        candidates = candidates[:-1]
    elif end < len(words) and words[end] != MAGIC:
        _refuse_magic(data[4 * end :][:64].tobytes(), record + len(candidates), offset + 4 * end, name)
    return _Frames(4 * candidates, 4 * end, max(0, missing))


def _chain(begin: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Return which candidates are reached from the first, going from each to the one that begins behind it.

    This is done for all at once, by doubling: if those within 2^k - 1 steps are known, jumping 2^k steps
    from each adds all within 2^(k+1) - 1.
    """
    nowhere = len(begin)
    jump = np.searchsorted(begin, behind)
    jump[begin[np.minimum(jump, nowhere - 1)] != behind] = nowhere
    jump = np.append(jump, nowhere)
    reached = np.zeros(nowhere + 1, bool)
    reached[0] = True
    for _ in range(nowhere.bit_length()):
        reached[jump[reached]] = True
        jump = jump[jump]
    return np.flatnonzero(reached[:nowhere])


def _refuse_end(rest: bytes, record: int, offset: int, missing: int, name: str) -> NoReturn:
    """Raise the error for a file that ends after ``rest`` of a record, or has nothing in it."""
    if not rest and not record:
        raise RecordIOError(f"{name} is empty: it holds no records.")
    if not rest.startswith(MAGIC.to_bytes(4, "little")[: len(rest)]):
        _refuse_magic(rest, record, offset, name)
    lacking = f"lacks {missing:,} of its bytes" if missing else "ends inside its first 8 bytes"
    raise RecordIOError(
        f"{name} is truncated: record {record} at byte {offset:,} {lacking}.", hint="Write or fetch it again."
    )


def _refuse_magic(found: bytes, record: int, offset: int, name: str) -> NoReturn:
    """Raise the error for bytes that should begin a record and do not."""
    if record:
        raise RecordIOError(
            f"{name}: no record begins at byte {offset:,}, where record {record} should.",
            hint="The file is damaged.",
        )
    kinds = {
        b"\x1f\x8b": "gzip-compressed",
        b"PAR1": "a Parquet file",
        b"PK\x03\x04": "a zip archive",
        b"\x93NUMPY": "a numpy file",
    }
    kind = next((kind for head, kind in kinds.items() if found.startswith(head)), "")
    if not kind and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in found[:32]):
        kind = "text"
    raise RecordIOError(
        f"{name} is not recordIO-protobuf: it {f'is {kind}' if kind else 'begins otherwise'}."
    )
