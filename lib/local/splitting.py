"""How a batch transform job cuts an object into requests.

(AWS: "Use Batch Transform", SplitType, BatchStrategy and MaxPayloadInMB of CreateTransformJob.)
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.errors import RecordIOError
from lib.local.inputs import JobError

DEFAULT_PAYLOAD_MB = 6
MAX_PAYLOAD_MB = 100


def payloads(data: memoryview, document: dict[str, Any]) -> Iterator[memoryview]:
    """Cut an object into the requests that a transform job makes of it.

    Parameters
    ----------
    data : memoryview
        The object's bytes.
    document : dict
        The job's description: SplitType, BatchStrategy and MaxPayloadInMB are used.

    Yields
    ------
    memoryview
        The whole object (SplitType None), one record (SingleRecord; a line without its end, a RecordIO
        record with its frame, as the algorithm reads it), or as many records as MaxPayloadInMB holds
        (MultiRecord).  Nothing for an empty object that is to be split.

    Raises
    ------
    JobError
        When a record, or the object that is not split, is larger than MaxPayloadInMB, or the object is
        not what its SplitType says.
    """
    megabytes = document.get("MaxPayloadInMB", DEFAULT_PAYLOAD_MB) or MAX_PAYLOAD_MB
    limit = megabytes * 1024 * 1024
    split = document["TransformInput"].get("SplitType", "None")
    if split == "None":
        _check_size(len(data), limit)
        yield data
    elif len(data) and split == "Line":
        yield from _single_lines(data, limit) if is_single(document) else _many_lines(data, limit)
    elif len(data):
        yield from _records(data, limit, single=is_single(document))


def is_single(document: dict[str, Any]) -> bool:
    """Whether a transform job sends its records one by one."""
    return bool(document.get("BatchStrategy") == "SingleRecord")


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """Give a file's bytes without reading them all at once.

    Raises
    ------
    JobError
        When the file is not there any more.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise JobError("ClientError: The object has gone since it was listed") from None
    with file:
        if os.fstat(file.fileno()).st_size == 0:
            yield memoryview(b"")
        else:
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise JobError(f"ClientError: Too much data for max payload size ({size} > {limit} bytes)")


def _lines(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield the start of each line and the position of the newline that ends it, or of the end."""
    buffer = data.obj
    assert isinstance(buffer, mmap.mmap | bytes)
    start = 0
    while start < len(data):
        found = buffer.find(b"\n", start)
        end = len(data) if found < 0 else found
        yield start, end
        start = end + 1


def _single_lines(data: memoryview, limit: int) -> Iterator[memoryview]:
    for start, end in _lines(data):
        _check_size(end - start, limit)
        yield data[start:end]


def _many_lines(data: memoryview, limit: int) -> Iterator[memoryview]:
    first = last = 0
    for start, newline in _lines(data):
        end = min(newline + 1, len(data))
        _check_size(end - start, limit)
        if end - first > limit:
            yield data[first:start]
            first = start
        last = end
    yield data[first:last]


def _records(data: memoryview, limit: int, *, single: bool) -> Iterator[memoryview]:
    from lib import recordio

    try:
        if single:
            for record in recordio.records(data):
                _check_size(len(record), limit)
                yield record
        else:
            for start, end in recordio.split(data, limit):
                yield data[start:end]
    except RecordIOError as error:
        raise JobError(
            f"ClientError: The object cannot be split into RecordIO records: {error.message}"
        ) from None
