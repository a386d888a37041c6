"""The compiled loops of the codec: bytes to rows, and rows to bytes.

`scanner` finds records, `decoder` reads those of the usual layout, `encoder` writes sparse rows.  They
release the interpreter lock, so that blocks of rows go on several threads.  Each is compiled when it is
first asked for, for one signature, and kept on disk.

Compiled loops have no bounds checks, and a file may hold anything.  So what is decoded rests on three facts:
`scanner` gives only records that lie whole within the data; the data go on for `MARGIN` bytes behind the
last one, which covers every look ahead (8 bytes from a place inside a record, or from up to 20 behind its
end); and each length is compared with what is left of the record before anything at its end is read.  The
first record that is not as the SDK would have written it ends the loop, and `lib.recordio.careful` says
what it is.

Numbers are read and written at any address, little endian.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from lib.compiled import compilations, compiled
from lib.recordio.frames import FRAME, LONGEST_PAYLOAD, MAGIC
from lib.recordio.layout import LABEL_HEADER, LABEL_SIZE, ROW_NAME

TAIL_SIZE = 32
"""Bytes of the array that `encoder` takes for what stands behind the keys."""

LARGEST_ROW = 96
"""Bytes that a record takes at most, but for its values and keys."""

SPARE = 64
"""Bytes that `encoder` may spoil behind what it writes."""

WHOLE, CUT, BROKEN = 0, 1, 2
"""How `scanner` ended: with the data, inside a record, or before something that may be none."""

ORDERED, UNORDERED, UNUSUAL = 0, 1, 2
"""What `decoder` found: the usual layout, the same with keys that do not rise, another layout or a fault."""

_EXPONENT = 0x7F800000  # a float32 with all of these bits set is infinite or not a number


def _int64(content: bytes) -> int:
    """Return up to 8 bytes as the number that they are in memory."""
    return int.from_bytes(content.ljust(8, b"\0"), "little", signed=True)


_NAME = _int64(ROW_NAME)
_LABEL_1 = _int64(LABEL_HEADER[:8])
_LABEL_2 = _int64(LABEL_HEADER[8:])

# What a short record's features begin with, all sizes being one byte: the sizes of entry, value and tensor
# belong at bytes 1, 11 and 13, the size of the values behind the last.
_HEAD_1 = _int64(b"\x0a\x00" + ROW_NAME[:6])
_HEAD_2 = _int64(ROW_NAME[6:] + b"\x12\x00\x12\x00\x0a")
_HEAD_2_BITS = (1 << 56) - 1
_HEAD_SIZE = 16


def prepare() -> float | None:
    """Load the loops that most files need; return the seconds it took if they had to be compiled."""
    started = time.perf_counter()
    loops = scanner(), decoder(), encoder(np.int32)
    return time.perf_counter() - started if compilations(*loops) else None


# --- numbers at any address ------------------------------------------------------------------------------


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any, bits: int) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    byte = builder.gep(builder.bitcast(array.data, ir.IntType(8).as_pointer()), [arguments[1]])
    return builder.bitcast(byte, ir.IntType(bits).as_pointer())


def _loading(bits: int) -> Any:
    """Return ``load(data, at)``: the unsigned number at byte ``at`` of an array, as int64."""

    def load(typing_context: Any, data: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = builder.load(_pointer(context, builder, signature, arguments, bits), align=1)
            return number if bits == 64 else builder.zext(number, ir.IntType(64))

        return types.int64(data, types.int64), generate

    return intrinsic(load)


def _storing(bits: int) -> Any:
    """Return ``store(data, at, number)``: put the low bits of an int64 at byte ``at`` of an array."""

    def store(typing_context: Any, data: Any, at: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = arguments[2] if bits == 64 else builder.trunc(arguments[2], ir.IntType(bits))
            builder.store(number, _pointer(context, builder, signature, arguments, bits), align=1)
            return context.get_dummy_value()

        return types.void(data, types.int64, types.int64), generate

    return intrinsic(store)


_load64, _load32, _load16, _load8 = (_loading(bits) for bits in (64, 32, 16, 8))
_store64, _store32, _store16, _store8 = (_storing(bits) for bits in (64, 32, 16, 8))


def _counting_zeros(typing_context: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.false_bit)

    return types.int64(types.int64), generate


#: ``_zeros_below(number)``: how many zeros are below the lowest set bit of an int64.
_zeros_below: Any = intrinsic(_counting_zeros)


# --- varints ---------------------------------------------------------------------------------------------


@njit
def _varint_size(value):  # type: ignore[no-untyped-def]
    """Return how many bytes a number takes as a varint; it is not negative."""
    size = 1
    while value > 0x7F:
        size += 1
        value >>= 7
    return size


@njit
def _put_varint(out, at, value):  # type: ignore[no-untyped-def]
    """Write a varint, not negative; return the offset behind it."""
    while value > 0x7F:
        _store8(out, at, value & 0x7F | 0x80)
        value >>= 7
        at += 1
    _store8(out, at, value)
    return at + 1


@njit
def _small_varint_size(value):  # type: ignore[no-untyped-def]
    """Do as `_varint_size` for a number below 2^28, without a branch."""
    return 1 + (value >= 1 << 7) + (value >= 1 << 14) + (value >= 1 << 21)


@njit
def _put_small_varint(out, at, value):  # type: ignore[no-untyped-def]
    """Do as `_put_varint` for a number below 2^28, without a branch; 4 bytes are written."""
    size = _small_varint_size(value)
    word = value & 0x7F | (value & 0x3F80) << 1 | (value & 0x1FC000) << 2 | (value & 0xFE00000) << 3
    not_last = 0x808080 & ((1 << 8 * (size - 1)) - 1)
    _store32(out, at, word | not_last)
    return at + size


@njit
def _get_varint(data, at):  # type: ignore[no-untyped-def]
    """Read a varint; return it and the offset behind it, or -1 for that if it has more than 8 bytes."""
    word = _load64(data, at)
    ends = ~word & -0x7F7F7F7F7F7F7F80  # the bits that are clear in a varint's last byte
    if ends == 0:
        return 0, -1
    word &= (ends ^ (ends - 1)) & 0x7F7F7F7F7F7F7F7F
    word = (word & 0x7F007F007F007F00) >> 1 | word & 0x007F007F007F007F
    word = (word & 0x3FFF00003FFF0000) >> 2 | word & 0x00003FFF00003FFF
    word = (word & 0x0FFFFFFF00000000) >> 4 | word & 0x000000000FFFFFFF
    return word, at + (_zeros_below(ends) + 1 >> 3)


# --- reading ---------------------------------------------------------------------------------------------

_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_OFFSETS = types.Array(types.int64, 1, "C", readonly=True)
_BITS = types.Array(types.uint32, 1, "C", readonly=True)


def _loop(signature: Any) -> Any:
    return compiled(signature_or_function=signature, nogil=True, error_model="numpy")


@functools.cache
def scanner() -> Any:
    """Return ``scan(data, starts) -> (count, end, ended)``, which follows the chain of records.

    data : uint8 array
        Begins with a record.
    starts : int64 array
        Is filled with the records' offsets, as far as it goes.

    ``count`` is how many whole records there are, ``end`` the offset behind them, ``ended`` WHOLE, CUT
    or BROKEN.
    """

    @_loop(types.UniTuple(types.int64, 3)(_BYTES, types.int64[::1]))
    def scan(data, starts):  # type: ignore[no-untyped-def]
        at = 0
        size = len(data)
        for count in range(len(starts)):
            if size - at < FRAME:
                return count, at, BROKEN if size > at else WHOLE
            payload = _load32(data, at + 4)
            behind = at + FRAME + (payload + 3 & ~3)
            if _load32(data, at) != MAGIC or payload > LONGEST_PAYLOAD:
                return count, at, BROKEN
            if behind > size:
                return count, at, CUT
            starts[count] = at
            at = behind
        return len(starts), at, WHOLE

    return scan


@njit
def _get_size(data, at):  # type: ignore[no-untyped-def]
    """Do as `_get_varint`, sooner if it has one byte."""
    byte = _load8(data, at)
    if byte < 0x80:
        return byte, at + 1
    return _get_varint(data, at)


@njit
def _find(data, at, end, columns):  # type: ignore[no-untyped-def]
    """Return where a record's values and keys begin and end; -1 for another layout or width.

    Until it is compared with ``end``, ``at`` may have passed it by up to 20 bytes, as no size is
    negative.
    """
    unusual = -1, -1, -1, -1
    if _load8(data, at) != 0x0A:
        return unusual
    size, at = _get_size(data, at + 1)
    if at < 0 or at + size != end or _load64(data, at) != _NAME or _load8(data, at + 8) != 0x12:
        return unusual
    size, at = _get_size(data, at + 9)
    if at < 0 or at + size != end or _load8(data, at) != 0x12:
        return unusual
    size, at = _get_size(data, at + 1)
    if at < 0 or at + size != end:
        return unusual

    values_at = at
    if at < end and _load8(data, at) == 0x0A:
        size, values_at = _get_size(data, at + 1)
        if values_at < 0 or size > end - values_at or size & 3:
            return unusual
        at = values_at + size
    values_end = at
    keys_at = at
    if at < end and _load8(data, at) == 0x12:
        size, keys_at = _get_size(data, at + 1)
        if keys_at < 0 or size > end - keys_at:
            return unusual
        at = keys_at + size
    keys_end = at
    if at < end and _load8(data, at) == 0x1A:
        size, at = _get_size(data, at + 1)
        if at < 0 or size > end - at:
            return unusual
        stated, behind = _get_varint(data, at)
        if behind != at + size or stated != columns:
            return unusual
        at = behind
    return (values_at, values_end, keys_at, keys_end) if at == end else unusual


@functools.cache
def decoder() -> Any:
    """Return ``decode(data, starts, columns, labelled, keep_zeros, row_ends, keys, values, labels)``.

    It reads float32 records of the usual layout and returns ``(entries, found)``.

    data : uint8 array
        The records, and at least MARGIN bytes behind the last.
    starts : int64 array (n,)
        The records' offsets, from `scanner`.
    columns : int
        The width of all records, less than 2^31.
    labelled : bool
        Whether all records have a label, or none has.
    keep_zeros : bool
        Whether the zeros of dense records are entries.
    row_ends, keys : int32 array
        Are filled with the number of entries up to each record's end, and with the entries' columns.
    values, labels : uint32 array
        Are filled with the entries' values and the labels, as the bits of float32.

    ``entries`` is how many entries there are, ``found`` ORDERED, UNORDERED or UNUSUAL; if UNUSUAL, what was
    filled in is of no use.  So it is if the entries are more than ``keys`` has room for.
    """

    signature = types.UniTuple(types.int64, 2)(
        _BYTES,
        _OFFSETS,
        types.int64,
        types.boolean,
        types.boolean,
        types.int32[::1],
        types.int32[::1],
        types.uint32[::1],
        types.uint32[::1],
    )

    @_loop(signature)
    def decode(data, starts, columns, labelled, keep_zeros, row_ends, keys, values, labels):  # type: ignore[no-untyped-def]
        shape_field = np.zeros(16, np.uint8)
        shape_field[0] = 0x1A
        shape_field[1] = _varint_size(columns)
        shape_size = _put_varint(shape_field, 2, columns)
        shape = _load64(shape_field, 0)
        shape_bits = (1 << 8 * shape_size) - 1

        room = min(len(keys), len(values))
        entries = 0
        ordered = True
        for row in range(len(starts)):
            begin = starts[row] + FRAME
            end = begin + _load32(data, begin - 4)

            # A label stands at the record's end, and the features reach up to it.
            features_end = end
            if labelled:
                features_end -= LABEL_SIZE
                if (
                    features_end < begin
                    or _load64(data, features_end) != _LABEL_1
                    or _load64(data, features_end + 8) != _LABEL_2
                ):
                    return entries, UNUSUAL
                bits = _load32(data, end - 4)
                if bits & _EXPONENT == _EXPONENT:
                    return entries, UNUSUAL
                _store32(labels, 4 * row, bits)

            # The short way, for records of which all sizes take one byte: given the record's size, there is
            # one way its first 15 bytes, the 2 between values and keys, and its last can be.
            size = features_end - begin - 2
            head = _load64(data, begin + 8)
            values_at = begin + _HEAD_SIZE
            values_end = values_at + (head >> 56)
            keys_at = values_end + 2
            keys_end = features_end - shape_size
            if not (
                size < 128
                and _load64(data, begin) == _HEAD_1 | size << 8
                and head & _HEAD_2_BITS == _HEAD_2 | size - 10 << 24 | size - 12 << 40
                and values_at < values_end
                and keys_at < keys_end
                and values_end - values_at & 3 == 0
                and _load16(data, values_end) == 0x12 | keys_end - keys_at << 8
                and _load64(data, keys_end) & shape_bits == shape
            ):
                values_at, values_end, keys_at, keys_end = _find(data, begin, features_end, columns)
                if values_at < 0:
                    return entries, UNUSUAL

            # Values and keys are known to lie inside the record.
            count = values_end - values_at >> 2
            if count > room - entries:
                return entries, UNUSUAL
            finite = True
            if keys_at < keys_end or count == 0:
                last = -1
                for place in range(values_at, values_end, 4):
                    if keys_at >= keys_end:
                        return entries, UNUSUAL
                    key, keys_at = _get_varint(data, keys_at)
                    if keys_at < 0 or key >= columns:
                        return entries, UNUSUAL
                    ordered &= key > last
                    last = key
                    bits = _load32(data, place)
                    finite &= bits & _EXPONENT != _EXPONENT
                    _store32(keys, 4 * entries, key)
                    _store32(values, 4 * entries, bits)
                    entries += 1
                if keys_at != keys_end:
                    return entries, UNUSUAL
            elif count == columns:
                for key in range(count):
                    bits = _load32(data, values_at + 4 * key)
                    finite &= bits & _EXPONENT != _EXPONENT
                    _store32(keys, 4 * entries, key)
                    _store32(values, 4 * entries, bits)
                    entries += keep_zeros or bits & 0x7FFFFFFF != 0
            else:
                return entries, UNUSUAL
            if not finite:
                return entries, UNUSUAL
            row_ends[row] = entries
        return entries, ORDERED if ordered else UNORDERED

    return decode


# --- writing ---------------------------------------------------------------------------------------------


@functools.cache
def encoder(index: Any) -> Any:
    """Return ``encode(row_ends, keys, values, labels, columns, shape_size, tail, out) -> size``.

    It writes sparse rows as records.

    Parameters
    ----------
    index : type
        ``numpy.int32`` or ``numpy.int64``, of ``row_ends`` and ``keys``.

    Notes
    -----
    row_ends : array (n + 1,)
        Where the rows' entries begin and end; the first of them is 0 in ``keys`` and ``values``.
    keys : array
        The entries' columns, from 0 to ``columns - 1``.
    values, labels : uint32 array
        The entries' values, and the rows' labels or none at all, as the bits of float32.
    tail : uint8 array (TAIL_SIZE,)
        What stands behind the keys but for the label itself, and zeros; the first ``shape_size`` bytes of it
        are the shape.
    out : uint8 array
        Must have room for LARGEST_ROW bytes a row, for the values, for keys as long as the longest, and
        SPARE bytes more.
    """
    indices = types.Array(types.int32 if index is np.int32 else types.int64, 1, "C", readonly=True)

    @_loop(types.int64(indices, indices, _BITS, _BITS, types.int64, types.int64, _BYTES, types.uint8[::1]))
    def encode(row_ends, keys, values, labels, columns, shape_size, tail, out):  # type: ignore[no-untyped-def]
        labelled = len(labels) > 0
        tail_size = shape_size + (LABEL_SIZE - 4 if labelled else 0)
        tail_1 = _load64(tail, 0)
        tail_2 = _load64(tail, 8)
        tail_3 = _load64(tail, 16)
        tail_4 = _load64(tail, 24)
        longest_key = _varint_size(columns - 1)
        small = longest_key <= 4
        short = (127 - 16 - shape_size) // (4 + longest_key)  # up to so many entries all sizes are one byte
        base = np.int64(row_ends[0])
        at = 0
        for row in range(len(row_ends) - 1):
            first = row_ends[row] - base
            last = row_ends[row + 1] - base
            count = last - first
            record = at
            at += FRAME
            if small and 0 < count <= short:
                values_at = at + _HEAD_SIZE
                keys_at = values_at + 4 * count + 2
                at = keys_at
                for entry in range(first, last):
                    at = _put_small_varint(out, at, np.int64(keys[entry]))
                    _store32(out, values_at, np.int64(values[entry]))
                    values_at += 4
                keys_size = at - keys_at
                size = 4 * count + 4 + keys_size + shape_size
                head_2 = _HEAD_2 | size + 2 << 24 | size << 40 | 4 * count << 56
                _store64(out, record + FRAME, _HEAD_1 | size + 12 << 8)
                _store64(out, record + FRAME + 8, head_2)
                _store16(out, keys_at - 2, 0x12 | keys_size << 8)
            else:
                keys_size = 0
                if small:
                    for entry in range(first, last):
                        keys_size += _small_varint_size(np.int64(keys[entry]))
                else:
                    for entry in range(first, last):
                        keys_size += _varint_size(np.int64(keys[entry]))
                size = shape_size
                if count:
                    size += 2 + _varint_size(4 * count) + 4 * count + _varint_size(keys_size) + keys_size
                value_size = 1 + _varint_size(size) + size
                _store8(out, at, 0x0A)
                at = _put_varint(out, at + 1, 9 + _varint_size(value_size) + value_size)
                _store64(out, at, _NAME)
                _store8(out, at + 8, 0x12)
                at = _put_varint(out, at + 9, value_size)
                _store8(out, at, 0x12)
                at = _put_varint(out, at + 1, size)
                if count:
                    _store8(out, at, 0x0A)
                    at = _put_varint(out, at + 1, 4 * count)
                    for entry in range(first, last):
                        _store32(out, at, np.int64(values[entry]))
                        at += 4
                    _store8(out, at, 0x12)
                    at = _put_varint(out, at + 1, keys_size)
                    if small:
                        for entry in range(first, last):
                            at = _put_small_varint(out, at, np.int64(keys[entry]))
                    else:
                        for entry in range(first, last):
                            at = _put_varint(out, at, np.int64(keys[entry]))

            _store64(out, at, tail_1)
            _store64(out, at + 8, tail_2)
            _store64(out, at + 16, tail_3)
            _store64(out, at + 24, tail_4)
            at += tail_size
            if labelled:
                _store64(out, at, np.int64(labels[row]))  # and zeros behind it
                at += 4
            _store64(out, record, MAGIC | at - record - FRAME << 32)
            at = at + 3 & ~3
        return at

    return encode
