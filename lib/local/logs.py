"""CloudWatch Logs of the local AWS: jobs write streams, clients read them.

A log group is a folder and a log stream a file in it, one event a line: milliseconds since 1970, a tab,
the message.  Lines are flushed as they come, so a reader sees them at once, and a line without its end
is not read yet.  Names are percent-encoded, so that no name a client sends can lead out of the folder.
"""

from __future__ import annotations

import heapq
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote

from lib.local.protocol import AwsError

MAX_MESSAGE_BYTES = 256 * 1024
"""A longer line is cut into events of this size, CloudWatch's limit."""

_MAX_EVENTS = 10_000
_MAX_ANSWER_BYTES = 1024 * 1024
_EVENT_OVERHEAD_BYTES = 26
_MAX_FILE_NAME = 255
_TOKEN = re.compile(r"([fb])/(\d{1,18})")
_TERM = re.compile(r'([-?]?)(?:"((?:[^"\\]|\\.)*)"|(\S+))')


class LogEvent(NamedTuple):
    """One event of a stream; ``offset`` and ``end`` are its first and last byte position in the file."""

    timestamp: int
    message: str
    offset: int
    end: int


class LogStream:
    """A stream open for writing; made by `Logs.open_stream`, usable in a ``with`` statement."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("ab")
        self._lock = Lock()
        self._last = 0

    def write(self, message: str, *, timestamp: float | None = None) -> None:
        """Append one event, or several where the message has several lines, and flush.

        Parameters
        ----------
        message : str
            The text; empty lines are left out, as CloudWatch refuses empty messages.
        timestamp : float, optional
            Seconds since 1970; now by default.
        """
        pieces = []
        for line in message.replace("\r", "\n").split("\n"):
            encoded = line.encode("utf-8", "replace")
            starts = range(0, len(encoded), MAX_MESSAGE_BYTES)
            pieces += [encoded[start : start + MAX_MESSAGE_BYTES] for start in starts]
        milliseconds = int((time.time() if timestamp is None else timestamp) * 1000)
        with self._lock:
            self._last = max(self._last, milliseconds)  # a stream is in the order of time
            if not self._file.closed:
                self._file.write(b"".join(b"%d\t%s\n" % (self._last, piece) for piece in pieces))
                self._file.flush()

    def close(self) -> None:
        """Close the file; later writes are dropped."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> LogStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Logs:
    """The log groups under ``ROOT/logs``.

    Parameters
    ----------
    root : Path
        The folder of the local AWS's state.
    """

    def __init__(self, root: Path) -> None:
        self._folder = Path(root) / "logs"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "DescribeLogGroups": self._describe_log_groups,
            "DescribeLogStreams": self._describe_log_streams,
            "GetLogEvents": self._get_log_events,
            "FilterLogEvents": self._filter_log_events,
        }

    @property
    def operations(self) -> list[str]:
        """The names of the operations there are."""
        return sorted(self._operations)

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Answer one operation of CloudWatch Logs; ``params`` and the answer have the API's members.

        Raises
        ------
        AwsError
            ResourceNotFoundException, InvalidParameterException, or UnknownOperationException for an
            operation that the local AWS does not have.
        """
        handler = self._operations.get(operation)
        if handler is None:
            raise AwsError(
                "UnknownOperationException", f"{operation} is not implemented by the local AWS.", status=501
            )
        return handler(params)

    def open_stream(self, group: str, stream: str) -> LogStream:
        """Open a stream for writing, making its group where there is none yet.

        Parameters
        ----------
        group, stream : str
            Such as ``/aws/sagemaker/TrainingJobs`` and ``JOB/algo-1-1700000000``.
        """
        folder = self._folder / _encode(group)
        folder.mkdir(exist_ok=True)
        return LogStream(folder / _encode(stream))

    # ---- operations

    def _describe_log_groups(self, params: dict[str, Any]) -> dict[str, Any]:
        prefix, part = params.get("logGroupNamePrefix", ""), params.get("logGroupNamePattern", "")
        names = sorted(unquote(folder.name) for folder in self._folder.iterdir() if folder.is_dir())
        names = [name for name in names if name.startswith(prefix) and part.lower() in name.lower()]
        names, token = _page(names, params)
        groups = []
        for name in names:
            folder = self._folder / _encode(name)
            groups.append(
                {
                    "logGroupName": name,
                    "creationTime": int(folder.stat().st_ctime * 1000),
                    "metricFilterCount": 0,
                    "storedBytes": sum(file.stat().st_size for file in folder.iterdir()),
                    "logGroupClass": "STANDARD",
                }
            )
        return {"logGroups": groups, **({"nextToken": token} if token else {})}

    def _describe_log_streams(self, params: dict[str, Any]) -> dict[str, Any]:
        files = self._streams(self._group(params), params.get("logStreamNamePrefix", ""))
        streams = [_describe_stream(name, path) for name, path in files]
        if params.get("orderBy") == "LastEventTime":
            streams.sort(key=lambda stream: (stream.get("lastEventTimestamp", 0), stream["logStreamName"]))
        if params.get("descending"):
            streams.reverse()
        names, token = _page([stream["logStreamName"] for stream in streams], params)
        answer = [stream for stream in streams if stream["logStreamName"] in set(names)]
        return {"logStreams": answer, **({"nextToken": token} if token else {})}

    def _get_log_events(self, params: dict[str, Any]) -> dict[str, Any]:
        path = self._stream(self._group(params), params["logStreamName"])
        limit = params.get("limit", _MAX_EVENTS)
        wanted = _within(params.get("startTime"), params.get("endTime"), last_included=False)
        token = params.get("nextToken")
        forward, position = _parse_token(token) if token else (bool(params.get("startFromHead")), None)
        if forward:
            start = position or 0
            events, end = _take(filter(wanted, _read(path, start)), limit)
            end = end if events else max(start, 0)
        else:
            end = path.stat().st_size if position is None else position
            events, start = _take_last(filter(wanted, _read(path, 0, end)), limit)
            start = start if events else end
            end = events[-1].end if events else end
        return {
            "events": [
                {"timestamp": event.timestamp, "message": event.message, "ingestionTime": event.timestamp}
                for event in events
            ],
            "nextForwardToken": f"f/{end:018d}",
            "nextBackwardToken": f"b/{start:018d}",
        }

    def _filter_log_events(self, params: dict[str, Any]) -> dict[str, Any]:
        group = self._group(params)
        if "logStreamNames" in params:
            files = [(name, self._stream(group, name)) for name in sorted(set(params["logStreamNames"]))]
        else:
            files = self._streams(group, params.get("logStreamNamePrefix", ""))
        wanted = _within(params.get("startTime"), params.get("endTime"), last_included=True)
        matches = _pattern(params.get("filterPattern", ""))
        merged = heapq.merge(*(_ordered(name, path, wanted, matches) for name, path in files))
        after = _parse_filter_token(params.get("nextToken"))
        rest = (found for found in merged if after is None or found[:3] > after)
        limit = params.get("limit", _MAX_EVENTS)
        page: list[FoundEvent] = []
        size = 0
        for found in islice(rest, limit + 1):
            size += len(found[3]) + _EVENT_OVERHEAD_BYTES
            if len(page) == limit or (page and size > _MAX_ANSWER_BYTES):
                last = page[-1]
                token = f"{last[0]}:{last[2]}:{last[1]}"
                return {"events": [_filtered(*event) for event in page], "nextToken": token}
            page.append(found)
        return {"events": [_filtered(*event) for event in page], "searchedLogStreams": []}

    # ---- files

    def _group(self, params: dict[str, Any]) -> Path:
        name = params.get("logGroupName") or params.get("logGroupIdentifier", "")
        name = name.partition(":log-group:")[2].removesuffix(":*") if name.startswith("arn:") else name
        encoded = _encode(name)
        folder = self._folder / encoded
        if not encoded or len(encoded) > _MAX_FILE_NAME or not folder.is_dir():
            raise AwsError("ResourceNotFoundException", "The specified log group does not exist.")
        return folder

    def _stream(self, group: Path, name: str) -> Path:
        encoded = _encode(name)
        path = group / encoded
        if not encoded or len(encoded) > _MAX_FILE_NAME or not path.is_file():
            raise AwsError("ResourceNotFoundException", "The specified log stream does not exist.")
        return path

    def _streams(self, group: Path, prefix: str) -> list[tuple[str, Path]]:
        found = ((unquote(path.name), path) for path in group.iterdir())
        return sorted((name, path) for name, path in found if name.startswith(prefix))


def _encode(name: str) -> str:
    return quote(name, safe="").replace(".", "%2E")


def _page(names: list[str], params: dict[str, Any]) -> tuple[list[str], str | None]:
    """Return one page of names and the token of the next: the last name of this page."""
    limit, token = params.get("limit", 50), params.get("nextToken")
    if token is not None:
        if token not in names:
            raise AwsError("InvalidParameterException", "The specified nextToken is invalid.")
        names = names[names.index(token) + 1 :]
    return names[:limit], names[limit - 1] if len(names) > limit else None


def _parse(line: bytes, offset: int) -> LogEvent:
    milliseconds, _, message = line[:-1].partition(b"\t")
    return LogEvent(int(milliseconds), message.decode("utf-8", "replace"), offset, offset + len(line))


def _read(path: Path, start: int, end: int | None = None) -> Iterator[LogEvent]:
    """Yield the complete events between two byte positions; the first must be the start of an event."""
    with path.open("rb") as file:
        if start:
            file.seek(start - 1)
            if file.read(1) != b"\n":
                raise AwsError("InvalidParameterException", "The specified nextToken is invalid.")
        offset = start
        for line in file:
            if not line.endswith(b"\n") or (end is not None and offset >= end):
                return
            yield _parse(line, offset)
            offset += len(line)


def _take(events: Iterable[LogEvent], limit: int) -> tuple[list[LogEvent], int]:
    """Return the first events that fit an answer, and the position after the last of them."""
    taken: list[LogEvent] = []
    size = 0
    for event in events:
        size += event.end - event.offset + _EVENT_OVERHEAD_BYTES
        if len(taken) == limit or (taken and size > _MAX_ANSWER_BYTES):
            break
        taken.append(event)
    return taken, taken[-1].end if taken else 0


def _take_last(events: Iterable[LogEvent], limit: int) -> tuple[list[LogEvent], int]:
    """Return the last events that fit an answer, and the position of the first of them."""
    taken, _ = _take(reversed(deque(events, maxlen=limit)), limit)
    taken.reverse()
    return taken, taken[0].offset if taken else 0


def _within(start: int | None, end: int | None, *, last_included: bool) -> Callable[[LogEvent], bool]:
    def wanted(event: LogEvent) -> bool:
        if start is not None and event.timestamp < start:
            return False
        return end is None or event.timestamp < end or (last_included and event.timestamp == end)

    return wanted


def _parse_token(token: str) -> tuple[bool, int]:
    found = _TOKEN.fullmatch(token)
    if not found:
        raise AwsError("InvalidParameterException", "The specified nextToken is invalid.")
    return found[1] == "f", int(found[2])


def _parse_filter_token(token: str | None) -> tuple[int, str, int] | None:
    if token is None:
        return None
    timestamp, _, rest = token.partition(":")
    offset, _, stream = rest.partition(":")
    if not (timestamp.isdigit() and offset.isdigit()):
        raise AwsError("InvalidParameterException", "The specified nextToken is invalid.")
    return int(timestamp), stream, int(offset)


def _describe_stream(name: str, path: Path) -> dict[str, Any]:
    status = path.stat()
    first = next(_read(path, 0), None)
    answer: dict[str, Any] = {"logStreamName": name, "storedBytes": 0}
    if first is None:
        return {**answer, "creationTime": int(status.st_mtime * 1000)}
    with path.open("rb") as file:
        file.seek(max(0, status.st_size - 2 * MAX_MESSAGE_BYTES))
        lines = file.read().split(b"\n")
    last = int(lines[-2].partition(b"\t")[0])
    return {
        **answer,
        "creationTime": first.timestamp,
        "firstEventTimestamp": first.timestamp,
        "lastEventTimestamp": last,
        "lastIngestionTime": last,
    }


# ---- FilterLogEvents

FoundEvent = tuple[int, str, int, str]
"""Timestamp, stream, position in the stream, message: in this order events are merged."""


def _ordered(
    name: str, path: Path, wanted: Callable[[LogEvent], bool], matches: Callable[[str], bool]
) -> Iterator[FoundEvent]:
    for event in _read(path, 0):
        if wanted(event) and matches(event.message):
            yield event.timestamp, name, event.offset, event.message


def _filtered(timestamp: int, stream: str, offset: int, message: str) -> dict[str, Any]:
    return {
        "logStreamName": stream,
        "timestamp": timestamp,
        "message": message,
        "ingestionTime": timestamp,
        "eventId": f"{timestamp:020d}{offset:036d}",
    }


def _pattern(text: str) -> Callable[[str], bool]:
    """Return the test that a filter pattern of terms makes: all plain terms, one of ``?``, none of ``-``.

    Raises
    ------
    AwsError
        InvalidParameterException for the JSON, space-delimited and regular-expression patterns, which
        the local AWS does not have.
    """
    if text[:1] in ("{", "[", "%"):
        raise AwsError(
            "InvalidParameterException",
            f"The local AWS filters log events by terms only, not by the pattern {text}",
        )
    terms: dict[str, list[str]] = {"": [], "?": [], "-": []}
    for sign, quoted, plain in _TERM.findall(text):
        terms[sign].append(re.sub(r"\\(.)", r"\1", quoted) if quoted else plain)

    def matches(message: str) -> bool:
        if any(term in message for term in terms["-"]) or not all(term in message for term in terms[""]):
            return False
        return not terms["?"] or any(term in message for term in terms["?"])

    return matches
