"""MXNet's file of named arrays, the member ``params`` of a model: written, and read back as numpy arrays.

Little endian throughout.  A file is ``u64 0x112, u64 0, u64 count``, the arrays, ``u64 count`` and the names,
each ``u64 length`` and its bytes.  An array is

- ``u32 0xF993FAC9`` and ``i32`` storage: 0 dense, 1 row-sparse (some rows are stored, the others are 0);
- row-sparse only: the shape of the stored rows;
- the shape, ``i32`` device type (1, the CPU), ``i32`` device number, ``i32`` data type;
- row-sparse only: ``i32`` data type of the row numbers (6, int64) and their shape;
- the data and, row-sparse only, the row numbers.

A shape is ``u32`` number of dimensions and an ``i64`` each.  The format is that of MXNet 1.x's
``NDArray::Save`` (``mx.nd.save``).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

FILE_MAGIC = 0x112
ARRAY_MAGIC = 0xF993FAC9
DENSE, ROW_SPARSE = 0, 1

_DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4", 5: "|i1", 6: "<i8"}
_FLOAT32, _INT64 = 0, 6
_CPU = 1
_MOST_ARRAYS = 1000
_MOST_DIMENSIONS = 8
_LONGEST_NAME = 1000


class FormatError(ValueError):
    """The bytes are not such a file."""


def write(stream: IO[bytes], arrays: Mapping[str, np.ndarray], *, row_sparse: frozenset[str]) -> None:
    """Write named arrays as float32.

    Parameters
    ----------
    stream : binary file
        Where to write.
    arrays : mapping of array
        By name, such as ``arg:v``; their order is kept.
    row_sparse : frozenset of str
        The names whose arrays are stored as row-sparse, with all of their rows.
    """
    stream.write(struct.pack("<QQQ", FILE_MAGIC, 0, len(arrays)))
    for name, values in arrays.items():
        array = np.ascontiguousarray(values, "<f4")
        sparse = name in row_sparse
        shape = _shape(array.shape)
        stream.write(struct.pack("<Ii", ARRAY_MAGIC, ROW_SPARSE if sparse else DENSE))
        if sparse:
            stream.write(shape)
        stream.write(shape + struct.pack("<iii", _CPU, 0, _FLOAT32))
        if sparse:
            stream.write(struct.pack("<i", _INT64) + _shape(array.shape[:1]))
        stream.write(array.data)
        if sparse:
            stream.write(np.arange(len(array), dtype="<i8").data)
    stream.write(struct.pack("<Q", len(arrays)))
    for name in arrays:
        encoded = name.encode()
        stream.write(struct.pack("<Q", len(encoded)) + encoded)


def read(stream: IO[bytes], size: int, *, limit: int) -> dict[str, np.ndarray]:
    """Read named arrays; of a row-sparse one the rows that are not stored become 0.

    Parameters
    ----------
    stream : binary file
        At the file's first byte.
    size : int
        The file's length in bytes.
    limit : int
        The most bytes that the arrays may take in memory.

    Raises
    ------
    FormatError
        Not such a file, a truncated one, or one whose arrays are too large.
    """
    source = _Source(stream, size, limit)
    magic, _, count = source.numbers("QQQ")
    if magic != FILE_MAGIC:
        raise FormatError("its parameters are not a list of MXNet arrays")
    if count > _MOST_ARRAYS:
        raise FormatError(f"its parameters claim to hold {count} arrays")
    arrays = [_read_array(source) for _ in range(count)]
    (names,) = source.numbers("Q")
    if names != count:
        raise FormatError(f"its parameters hold {count} arrays but {names} names")
    return {_read_name(source): array for array in arrays}


@dataclass
class _Source:
    """A stream that knows how many bytes are left, and how much memory may still be taken."""

    stream: IO[bytes]
    left: int
    memory: int

    def bytes(self, length: int) -> bytes:
        """Return the next bytes."""
        self.claim(length)
        data = self.stream.read(length)
        if len(data) != length:
            raise FormatError("its parameters are truncated")
        return data

    def numbers(self, layout: str) -> tuple[Any, ...]:
        """Return the next numbers, by their little-endian struct layout."""
        return struct.unpack(f"<{layout}", self.bytes(struct.calcsize(f"<{layout}")))

    def shape(self) -> tuple[int, ...]:
        """Return the next shape."""
        (dimensions,) = self.numbers("I")
        if dimensions > _MOST_DIMENSIONS:
            raise FormatError(f"its parameters claim an array of {dimensions} dimensions")
        shape = self.numbers("q" * dimensions)
        if any(length < 0 for length in shape):
            raise FormatError("its parameters claim an array of negative length")
        return shape

    def dtype(self) -> np.dtype:
        """Return the next data type."""
        (number,) = self.numbers("i")
        if number not in _DTYPES:
            raise FormatError(f"its parameters hold an array of the unknown data type {number}")
        return np.dtype(_DTYPES[number])

    def claim(self, length: int) -> None:
        """Take bytes off what is left, before they are read or memory is set aside for them."""
        if length > self.left:
            raise FormatError("its parameters are truncated")
        self.left -= length

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return a zeroed array, within the limit of memory."""
        length = math.prod(max(1, dimension) for dimension in shape) * dtype.itemsize
        if length > self.memory:
            raise FormatError(f"its parameters claim an array of {length:,} bytes, more than is allowed")
        self.memory -= length
        return np.zeros(shape, dtype)

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return the next array."""
        self.claim(math.prod(shape) * dtype.itemsize)
        array = self.allocate(shape, dtype)
        if not array.size:
            return array
        view = array.reshape(-1).view(np.uint8).data
        filled = 0
        while filled < len(view):
            got = self.stream.readinto(view[filled:])  # type: ignore[attr-defined]
            if not got:
                raise FormatError("its parameters are truncated")
            filled += got
        return array


def _read_array(source: _Source) -> np.ndarray:
    """Read one array."""
    magic, storage = source.numbers("Ii")
    if magic != ARRAY_MAGIC or storage not in (DENSE, ROW_SPARSE):
        raise FormatError("its parameters hold an array of an unknown kind")
    stored_shape = source.shape() if storage == ROW_SPARSE else ()
    shape = source.shape()
    source.numbers("ii")  # the device it came from
    dtype = source.dtype()
    if storage == DENSE:
        return source.array(shape, dtype)
    ids_dtype = source.dtype()
    ids_shape = source.shape()
    if not shape or not stored_shape or stored_shape[1:] != shape[1:] or ids_shape != stored_shape[:1]:
        raise FormatError(
            f"its parameters hold a sparse array whose shapes {stored_shape}, {shape} do not fit"
        )
    if ids_dtype.kind != "i":
        raise FormatError("its parameters hold a sparse array whose row numbers are not whole numbers")
    rows = source.array(stored_shape, dtype)
    ids = source.array(ids_shape, ids_dtype)
    if not ids.size:
        return source.allocate(shape, dtype)
    if ids.min() < 0 or ids.max() >= shape[0]:
        raise FormatError(f"its parameters hold a sparse array with a row outside of its {shape[0]} rows")
    if stored_shape == shape and np.array_equal(ids, np.arange(shape[0])):
        return rows
    full = source.allocate(shape, dtype)
    full[ids] = rows
    return full


def _read_name(source: _Source) -> str:
    """Read one name."""
    (length,) = source.numbers("Q")
    if length > _LONGEST_NAME:
        raise FormatError(f"its parameters claim a name of {length} bytes")
    try:
        return source.bytes(length).decode()
    except UnicodeDecodeError:
        raise FormatError("its parameters hold a name that is no text") from None


def _shape(shape: tuple[int, ...]) -> bytes:
    """Return a shape's bytes."""
    return struct.pack(f"<I{len(shape)}q", len(shape), *shape)
