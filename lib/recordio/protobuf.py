"""Protobuf's wire format, read for many messages at once.

The protobuf package builds Python objects, one a message, and fills them number by number.  Here a block
of messages is one array of bytes, places in it are arrays of offsets, and each step of decoding is done for
all messages together by numpy: a million messages take as many steps as one.
This module knows the wire format alone (https://protobuf.dev/programming-guides/encoding);
what the messages mean is `lib.recordio`'s concern.

Offsets are int64; a block handed to the reading functions ends with `MARGIN` spare bytes, so that a
look past the last message stays inside the array.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types: how a field's value is laid out."""

LONGEST_VARINT = 10
"""Bytes of the longest varint: 64 bits, 7 a byte."""

LARGEST_FIELD = (1 << 29) - 1
"""The largest field number."""

MARGIN = 32
"""Spare bytes at the end of a block that is read."""


class MalformedMessage(Exception):
    """A message breaks the wire format or cannot be what it should be.

    Attributes
    ----------
    owner : int
        Which message, by the number its caller gave it.
    reason : str
        What is wrong, to follow "message 7 …".
    """

    def __init__(self, owner: int, reason: str = "is not a valid protobuf message") -> None:
        super().__init__(f"message {owner} {reason}")
        self.owner = owner
        self.reason = reason


class Ranges(NamedTuple):
    """Stretches of a block, each belonging to a message: int64 arrays of equal length (m,)."""

    owner: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def pick(self, which: np.ndarray) -> Ranges:
        """Return the ranges a mask or an array of positions selects."""
        return Ranges(self.owner[which], self.start[which], self.stop[which])


class Field(NamedTuple):
    """One field of each of many messages; ``content`` is where its value stands."""

    number: np.ndarray
    wire_type: np.ndarray
    content: Ranges

    def pick(self, number: int, *wire_types: int) -> Ranges:
        """Return where the fields of this number are; one of a foreign wire type is skipped, as ever."""
        return self.content.pick((self.number == number) & np.isin(self.wire_type, wire_types))


def join(pieces: list[Ranges]) -> Ranges:
    """Return several lists of ranges as one, sorted by owner and within an owner in the order given."""
    if not pieces:
        return Ranges(*np.empty((3, 0), np.int64))
    whole = Ranges(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))
    return whole.pick(np.argsort(whole.owner, kind="stable"))


def fields(data: np.ndarray, messages: Ranges) -> Iterator[Field]:
    """Walk through messages in step: the first field of each, then the second of those with one, …

    Repeated fields come out alike whether packed or not: every range holds whole numbers.

    Raises
    ------
    MalformedMessage
        A field runs past its message's end, or has an impossible number or wire type.
    """
    owner, at, end = messages
    while True:
        unfinished = at < end
        if not unfinished.all():
            owner, at, end = owner[unfinished], at[unfinished], end[unfinished]
        if not owner.size:
            return
        tag, start = read_varints(data, at)
        wire_type = tag & 7
        value, behind = read_varints(data, start)
        length = np.where(wire_type == FIXED64, 8, 4)
        start = np.where(wire_type == BYTES, behind, start)
        stop = np.where(wire_type == BYTES, behind + value, start + length)
        stop = np.where(wire_type == VARINT, behind, stop)

        number = tag >> 3
        known = np.isin(wire_type, (VARINT, FIXED64, BYTES, FIXED32))
        malformed = ~known | (number < 1) | (number > LARGEST_FIELD) | (stop < start) | (stop > end)
        if malformed.any():
            raise MalformedMessage(int(owner[malformed.argmax()]))
        yield Field(number, wire_type, Ranges(owner, start, stop))
        at = stop


def read_varints(data: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the varint at each offset as int64, and the offset behind it.

    A varint that does not end leads to an offset past the end of ``data``, which no message contains.
    """
    value = data.take(at, mode="clip").astype(np.int64)
    behind = at + 1
    longer = np.flatnonzero(value >= 0x80)
    if not longer.size:
        return value, behind
    value &= 0x7F
    for place in range(1, LONGEST_VARINT):
        byte = data.take(at[longer] + place, mode="clip").astype(np.int64)
        value[longer] |= (byte & 0x7F) << (7 * place)
        behind[longer] += 1
        longer = longer[byte >= 0x80]
        if not longer.size:
            return value, behind
    behind[longer] = data.size + 1
    return value, behind


def read_windows(data: np.ndarray, at: np.ndarray, width: int) -> np.ndarray:
    """Return the ``width`` bytes at each offset: uint8 (n, width); offsets are clipped to the block."""
    windows = _windows(data, width)
    items = windows[np.clip(at, 0, len(windows) - 1)]
    return items.view(np.uint8).reshape(len(at), width)


def read_fixed(data: np.ndarray, ranges: Ranges, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of fixed width in ranges, one after another, and how many each range has.

    Raises
    ------
    MalformedMessage
        A range does not hold whole numbers.
    """
    width = np.dtype(dtype).itemsize
    size = ranges.stop - ranges.start
    counts = size // width
    uneven = counts * width != size
    if uneven.any():
        raise MalformedMessage(int(ranges.owner[uneven.argmax()]))
    return _gather(data, ranges.start, size).view(dtype), counts


def read_packed_varints(data: np.ndarray, ranges: Ranges) -> tuple[np.ndarray, np.ndarray]:
    """Return the varints in ranges as uint64, one after another, and how many each range has.

    Raises
    ------
    MalformedMessage
        A range ends inside a varint, or a varint is longer than 10 bytes.
    """
    size = ranges.stop - ranges.start
    ends_inside = (size > 0) & (data.take(ranges.stop - 1, mode="clip") >= 0x80)
    if ends_inside.any():
        raise MalformedMessage(int(ranges.owner[ends_inside.argmax()]))

    stream = _gather(data, ranges.start, size)
    ends = np.flatnonzero(stream < 0x80)
    begins = np.concatenate(([0], ends[:-1] + 1)) if ends.size else ends
    lengths = ends - begins + 1
    behind = np.cumsum(size)
    if (too_long := lengths > LONGEST_VARINT).any():
        place = ends[too_long.argmax()]
        raise MalformedMessage(int(ranges.owner[np.searchsorted(behind, place, side="right")]))

    values = (stream[begins] & 0x7F).astype(np.uint64)
    for place in range(1, int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > place)
        byte = stream[begins[longer] + place].astype(np.uint64)
        values[longer] |= (byte & np.uint64(0x7F)) << np.uint64(7 * place)
    varints_before = np.zeros(len(stream) + 1, np.int64)  # of use only behind the end of a varint
    varints_before[ends + 1] = np.arange(1, len(ends) + 1)
    return values, np.diff(varints_before[behind], prepend=0)


def _gather(data: np.ndarray, begin: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return stretches of a block one after another."""
    total = int(sizes.sum())
    before = np.cumsum(sizes) - sizes
    return data[np.repeat(begin - before, sizes) + np.arange(total)]


def _windows(data: np.ndarray, width: int) -> np.ndarray:
    """Return a view of ``data`` whose item i is the ``width`` bytes from offset i on."""
    return np.ndarray((data.size - width + 1,), f"V{width}", data.data, strides=(1,))
