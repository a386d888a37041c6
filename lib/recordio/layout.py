"""Finds the numbers inside a block of SageMaker ``Record`` messages, without reading them yet.

`lib.recordio` describes the messages.  Their fields may stand in any order, in pieces, packed or not, and
unknown ones between them: all messages are walked through in step, field by field.  (Almost every file has
the one layout of SageMaker's SDK and of `lib.recordio.write`, which `lib.recordio.kernels` decodes.)
"""

from __future__ import annotations

import re
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
    read_windows,
)

FLOAT32, FLOAT64, INT32, RAW_BYTES = 2, 3, 7, 9
"""Field numbers of the types a ``Value`` can be."""

ROW_NAME = b"\x0a\x06values"
"""The key of a map entry, as a field."""

LABEL_HEADER = b"\x12\x12" + ROW_NAME + b"\x12\x08\x12\x06\x0a\x04"
"""Everything of a label but its float32."""

LABEL_SIZE = len(LABEL_HEADER) + 4


_VARINT = rb"([\x80-\xff]{0,9}[\x00-\x7f])"
_HEAD = re.compile(rb"\x0a%b%b\x12%b\x12%b" % (_VARINT, ROW_NAME, _VARINT, _VARINT))
_VALUES = re.compile(rb"\x0a" + _VARINT)
_KEYS = re.compile(rb"\x12" + _VARINT)
_SHAPE = re.compile(rb"\x1a%b%b\Z" % (_VARINT, _VARINT))


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
    features, labels = [], []
    for field in fields(data, messages):
        features.append(field.pick(1, BYTES))
        labels.append(field.pick(2, BYTES))
    count = len(messages.owner)
    return Layout(
        _locate_tensors(data, join(features), count, "feature"),
        _locate_tensors(data, join(labels), count, "label"),
    )


def guess(payload: bytes) -> tuple[int | None, bool]:
    """Return the width and whether there is a label, of a float32 record of the usual layout.

    Of other records, what is returned may be wrong; the width is None if none is found.
    """
    labelled = payload[-LABEL_SIZE:].startswith(LABEL_HEADER)
    features = payload[: len(payload) - LABEL_SIZE] if labelled else payload
    head = _HEAD.match(features)
    at = head.end() if head else len(features)
    count = None
    for field in (_VALUES, _KEYS):
        if found := field.match(features, at):
            at = found.end() + _number(found[1])
            if at > len(features):
                return None, labelled
            count = _number(found[1]) // 4 if field is _VALUES else None
    if shape := _SHAPE.match(features, at):
        return _number(shape[2]), labelled
    return count, labelled


def _number(varint: bytes) -> int:
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(varint))


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
