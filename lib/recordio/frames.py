"""The framing of recordIO: finds the records in buffers and files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np

from lib.errors import RecordIOError
from lib.recordio.protobuf import MARGIN

MAGIC = 0xCED7230A

BLOCK_BYTES = 2 << 20
"""Bytes that are read or written at a time; a longer record makes a longer block."""

LONGEST_PAYLOAD = (1 << 29) - 1
"""The upper 3 bits of recordIO's length word are a flag, which SageMaker leaves at 0."""


class Block(NamedTuple):
    """Whole records of a file.

    ``data`` is uint8 with spare bytes at its end; ``start`` and ``payload`` (n,) are the records' offsets
    in it and their payloads' sizes; ``record`` and ``offset`` say where in the file it begins.
    """

    data: np.ndarray
    start: np.ndarray
    payload: np.ndarray
    record: int
    offset: int
    name: str

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
    rest = b""
    offset = record = 0
    wanted = BLOCK_BYTES
    while True:
        fresh = _read_bytes(file, wanted)
        data = np.frombuffer(b"".join((rest, fresh, bytes(MARGIN))), np.uint8)
        size = len(rest) + len(fresh)
        frames = _scan(data[:size], record, offset, name)
        if frames.start.size:
            yield Block(data, frames.start, frames.payload, record, offset, name)
        rest = data[frames.end : size].tobytes()
        offset += frames.end
        record += len(frames.start)
        if len(fresh) < wanted:
            break
        wanted = max(BLOCK_BYTES, frames.missing)
    if rest or not record:
        _refuse_end(rest, record, offset, frames.missing, name)


def _read_bytes(file: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes, or fewer at the end of the file, from a file that may give them in pieces."""
    pieces: list[bytes] = []
    while size > 0:
        piece = file.read(min(size, BLOCK_BYTES))
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


class _Frames(NamedTuple):
    """Whole records of a buffer: ``start`` and ``payload`` are offsets and sizes in bytes (n,).

    ``end`` is where the last whole record ends, and ``missing`` how many bytes the next one lacks.
    """

    start: np.ndarray
    payload: np.ndarray
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
        return _Frames(candidates, candidates, 0, 0)
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
        candidates, payload = candidates[:-1], payload[:-1]
    elif end < len(words) and words[end] != MAGIC:
        _refuse_magic(data[4 * end :][:64].tobytes(), record + len(candidates), offset + 4 * end, name)
    return _Frames(4 * candidates, payload, 4 * end, max(0, missing))


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
