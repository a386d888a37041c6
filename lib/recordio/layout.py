"""Finds the numbers inside a block of SageMaker ``Record`` messages, without reading them yet.

`lib.recordio` describes the messages.  Almost every file has one layout, that of SageMaker's SDK and of
`lib.recordio.write`: for it `locate` has a short way that takes nothing for granted (each tag, each name
and each length is compared for every record).  Where one record of a block differs, the block goes the
long way, which walks the fields in whatever order they stand.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lib.recordio.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    MalformedMessage,
    Ranges,
    fields,
    join,
    read_varints,
    read_windows,
)

FLOAT32, FLOAT64, INT32, RAW_BYTES = 2, 3, 7, 9
"""Field numbers of the types a ``Value`` can be."""

ROW_NAME = b"\x0a\x06values"
"""The key of a map entry, as a field."""

LABEL_HEADER = b"\x12\x12" + ROW_NAME + b"\x12\x08\x12\x06\x0a\x04"
"""Everything of a label but its float32."""

LABEL_SIZE = len(LABEL_HEADER) + 4


class Tensors(NamedTuple):
    """Where the tensors of n records stand.

    ``kind`` (n,) is FLOAT32, FLOAT64, INT32, or 0 for a record without this tensor; the ranges, sorted by
    record, hold packed numbers of that kind (``values``) and packed varints (``keys``, ``shape``).
    """

    kind: np.ndarray
    values: Ranges
    keys: Ranges
    shape: Ranges


class Layout(NamedTuple):
    """Where the features and the labels of a block of records stand."""

    features: Tensors
    labels: Tensors


def locate(data: np.ndarray, messages: Ranges) -> Layout:
    """Find the tensors of records.

    Parameters
    ----------
    data : ndarray of uint8
        The block, with `lib.recordio.protobuf.MARGIN` spare bytes at its end.
    messages : Ranges
        Where the records' payloads stand; ``owner`` numbers them from 0.

    Raises
    ------
    MalformedMessage
        A record is not a valid message, or holds something other than one vector and one label.
    """
    return _locate_usual(data, messages) or _locate_any(data, messages)


def _locate_usual(data: np.ndarray, messages: Ranges) -> Layout | None:
    """Find the tensors of records that all have the layout the SDK writes; None if one has not."""
    owner, start, end = messages
    if not _is_all(data, start, b"\x0a"):
        return None
    entry_size, at = read_varints(data, start + 1)
    entry_end = at + entry_size
    if not _is_all(data, at, ROW_NAME + b"\x12"):
        return None
    value_size, at = read_varints(data, at + len(ROW_NAME) + 1)
    value_end = at + value_size
    if not _is_all(data, at, b"\x12"):
        return None
    tensor_size, at = read_varints(data, at + 1)
    tensor_end = at + tensor_size

    parts = []
    sizes = entry_size | value_size | tensor_size
    for tag in (0x0A, 0x12, 0x1A):
        present = (data.take(at, mode="clip") == tag) & (at < tensor_end)
        size, behind = read_varints(data, at + 1)
        begin = np.where(present, behind, at)
        at = np.where(present, behind + size, at)
        parts.append(Ranges(owner, begin, at))
        sizes |= np.where(present, size, 0)
    if (sizes >> 31).any() or not (
        np.array_equal(at, tensor_end)
        and np.array_equal(tensor_end, value_end)
        and np.array_equal(value_end, entry_end)
    ):
        return None

    float32 = np.full(len(owner), FLOAT32)
    features = Tensors(float32, *parts)
    rest = end - entry_end
    if not rest.any():
        return Layout(features, _no_tensors(len(owner)))
    if (rest == LABEL_SIZE).all() and _is_all(data, entry_end, LABEL_HEADER):
        values = Ranges(owner, entry_end + len(LABEL_HEADER), end)
        return Layout(features, Tensors(float32, values, join([]), join([])))
    return None


def _locate_any(data: np.ndarray, messages: Ranges) -> Layout:
    """Find the tensors of records whose fields may stand in any order."""
    features, labels = [], []
    for field in fields(data, messages):
        features.append(field.pick(1, BYTES))
        labels.append(field.pick(2, BYTES))
    count = len(messages.owner)
    return Layout(
        _locate_tensors(data, join(features), count, "feature"),
        _locate_tensors(data, join(labels), count, "label"),
    )


def _locate_tensors(data: np.ndarray, entries: Ranges, count: int, what: str) -> Tensors:
    """Find the tensors in entries of the maps ``features`` or ``label`` of ``count`` records."""
    names, contents = [], []
    for field in fields(data, entries):
        names.append(field.pick(1, BYTES))
        contents.append(field.pick(2, BYTES))
    _check_names(data, entries, join(names), what)

    tensors = []
    kind = np.zeros(count, np.int64)
    for field in fields(data, join(contents)):
        if (raw := field.pick(RAW_BYTES, BYTES)).owner.size:
            raise MalformedMessage(int(raw.owner[0]), f"holds bytes as its {what}, not numbers")
        for number in (FLOAT32, FLOAT64, INT32):
            tensors.append(field.pick(number, BYTES))
            kind[tensors[-1].owner] = number
    tensor = join(tensors)
    if (repeated := _repeated(tensor.owner)) is not None:
        raise MalformedMessage(repeated, f"holds two tensors as its {what}")

    values, keys, shape = [], [], []
    for field in fields(data, tensor):
        for number, wire_type in ((FLOAT32, FIXED32), (FLOAT64, FIXED64), (INT32, VARINT)):
            numbers = field.pick(1, BYTES, wire_type)
            values.append(numbers.pick(kind[numbers.owner] == number))
        keys.append(field.pick(2, BYTES, VARINT))
        shape.append(field.pick(3, BYTES, VARINT))
    return Tensors(kind, join(values), join(keys), join(shape))


def _check_names(data: np.ndarray, entries: Ranges, names: Ranges, what: str) -> None:
    """Refuse map entries not named ``values``, and two of one record."""
    size = names.stop - names.start
    named = (size == 6) & (read_windows(data, names.start, 6) == np.frombuffer(b"values", np.uint8)).all(
        axis=1
    )
    if not named.all():
        first = int(np.argmin(named))
        start, stop = int(names.start[first]), int(names.stop[first])
        name = data[start : min(stop, start + 40)].tobytes().decode("utf-8", "replace")
        raise MalformedMessage(
            int(names.owner[first]), f"holds the {what} {name!r}, where only 'values' can be read"
        )
    if (repeated := _repeated(names.owner)) is not None:
        raise MalformedMessage(repeated, f"holds the {what} 'values' twice")
    unnamed = np.setdiff1d(entries.owner, names.owner)
    if unnamed.size:
        raise MalformedMessage(int(unnamed[0]), f"holds a {what} without a name")


def _repeated(owner: np.ndarray) -> int | None:
    """Return the first number that comes twice in a sorted array, or None."""
    again = owner[1:] == owner[:-1]
    return int(owner[1:][again.argmax()]) if again.any() else None


def _no_tensors(count: int) -> Tensors:
    return Tensors(np.zeros(count, np.int64), join([]), join([]), join([]))


def _is_all(data: np.ndarray, at: np.ndarray, expected: bytes) -> bool:
    """Tell whether the same bytes stand at every offset."""
    if len(expected) == 1:
        return bool((data.take(at, mode="clip") == expected[0]).all())
    return bool((read_windows(data, at, len(expected)) == np.frombuffer(expected, np.uint8)).all())
