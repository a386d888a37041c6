"""The headers of S3's REST protocol: what is kept with an object, conditions, ranges, what is refused."""

from __future__ import annotations

import base64
import email.utils
import re
from collections.abc import Mapping, Sequence

from lib.local.checksums import CHECKSUM_PREFIX
from lib.local.conditions import wanted
from lib.local.objects import DEFAULT_CONTENT_TYPE, ObjectInfo, ObjectPart
from lib.local.protocol import AwsError
from lib.local.s3_call import Call

METADATA_PREFIX = "x-amz-meta-"
MAX_METADATA_BYTES = 2048

_KEPT = (
    "content-type",
    "content-disposition",
    "content-encoding",
    "content-language",
    "cache-control",
    "expires",
)
_UNSUPPORTED = (
    "x-amz-website-redirect-location",
    "x-amz-object-lock-",
    "x-amz-grant-",
    "x-amz-server-side-encryption-customer-",
    "x-amz-write-offset-bytes",
    "x-amz-mfa",
)
_ALLOWED_ACL = ("", "private", "bucket-owner-full-control")
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


def refuse_unsupported(headers: Mapping[str, str]) -> None:
    """Refuse headers that ask for something the local S3 does not do.

    Raises
    ------
    AwsError
        NotImplemented, AccessControlListNotSupported.
    """
    for name in headers:
        if name.startswith(_UNSUPPORTED):
            text = "A header you provided implies functionality that is not implemented"
            raise AwsError("NotImplemented", text, 501, Header=name)
    if headers.get("x-amz-acl", "") not in _ALLOWED_ACL:
        raise AwsError("AccessControlListNotSupported", "The bucket does not allow ACLs")


def kept(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a put that come back with the object.

    Raises
    ------
    AwsError
        MetadataTooLarge.
    """
    metadata = {name: value for name, value in headers.items() if name.startswith(METADATA_PREFIX)}
    size = sum(len(name) - len(METADATA_PREFIX) + len(value.encode()) for name, value in metadata.items())
    if size > MAX_METADATA_BYTES:
        text = "Your metadata headers exceed the maximum allowed metadata size"
        raise AwsError("MetadataTooLarge", text, Size=size, MaxSizeAllowed=MAX_METADATA_BYTES)
    standard = {name: headers[name] for name in _KEPT if headers.get(name)}
    if "content-encoding" in standard:  # aws-chunked is a framing of the request, not the object's
        codings = [coding.strip() for coding in standard.pop("content-encoding").split(",")]
        codings = [coding for coding in codings if coding and coding != "aws-chunked"]
        if codings:
            standard["content-encoding"] = ",".join(codings)
    return {**standard, **metadata}


def of_checksum(checksum: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that tell a checksum."""
    if not checksum.get("value"):
        return {}
    headers = {f"{CHECKSUM_PREFIX}{checksum['algorithm']}": checksum["value"]}
    if "type" in checksum:
        headers[f"{CHECKSUM_PREFIX}type"] = checksum["type"]
    return headers


def of_download(
    call: Call, info: ObjectInfo, parts: Sequence[ObjectPart] = ()
) -> tuple[int, dict[str, str], int, int]:
    """Return what GetObject and HeadObject answer.

    Parameters
    ----------
    parts : sequence of ObjectPart
        Those the object was uploaded in; needed where the query has ``partNumber``.

    Returns
    -------
    status : int
        200, 206 for a range or a part, 304 for an object that has not changed.
    headers : dict
    start, length : int
        The bytes to send.

    Raises
    ------
    AwsError
        PreconditionFailed, InvalidRange, InvalidPartNumber.
    """
    headers = {
        "content-type": DEFAULT_CONTENT_TYPE,
        **info.headers,
        "etag": f'"{info.etag}"',
        "last-modified": http_time(info.modified),
        "accept-ranges": "bytes",
    }
    if info.tags:
        headers["x-amz-tagging-count"] = str(len(info.tags))
    overrides = {name: call.query.get(f"response-{name}") for name in _KEPT}
    headers |= {name: value for name, value in overrides.items() if value and value.isprintable()}
    headers = {name: _ascii(value) for name, value in headers.items()}
    if not wanted(info.etag, info.modified, call.headers):
        return 304, headers, 0, 0
    start, length = 0, info.size
    asked = call.headers.get("range", "")
    status = 200
    if "partNumber" in call.query:
        if asked:
            text = "Cannot specify both Range header and partNumber query parameter"
            raise AwsError("InvalidRequest", text)
        start, length = _part_slice(call.query, info, parts)
        status = 206
        if parts:
            headers["x-amz-mp-parts-count"] = str(len(parts))
    elif asked and _is_fresh(call.headers.get("if-range"), info) and (part := slice_of(asked, info.size)):
        start, length = part
        status = 206
    if status == 206 and length:
        headers["content-range"] = f"bytes {start}-{start + length - 1}/{info.size}"
    if call.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED" and length == info.size:
        headers |= of_checksum(info.checksum)
    headers["content-length"] = str(length)
    return status, headers, start, length


def _part_slice(query: Mapping[str, str], info: ObjectInfo, parts: Sequence[ObjectPart]) -> tuple[int, int]:
    """Return start and length of the part that a query names; an object put in one piece is its part 1."""
    wanted_number = number(query, "partNumber", 0, most=1_000_000)
    if not 1 <= wanted_number <= 10_000:
        text = "Part number must be an integer between 1 and 10000, inclusive"
        raise AwsError("InvalidArgument", text)
    if wanted_number == 1 and not parts:
        return 0, info.size
    start = 0
    for position, part in enumerate(parts, 1):
        if position == wanted_number:
            return start, part.size
        start += part.size
    raise AwsError("InvalidPartNumber", "The requested partnumber is not satisfiable", 416)


def _is_fresh(condition: str | None, info: ObjectInfo) -> bool:
    """Whether ``If-Range`` lets a range be sent instead of the whole object."""
    return condition is None or condition.strip() in (f'"{info.etag}"', http_time(info.modified))


def slice_of(text: str, size: int) -> tuple[int, int] | None:
    """Return start and length of a ``bytes=FIRST-LAST``, ``bytes=FIRST-`` or ``bytes=-COUNT`` range.

    Returns
    -------
    tuple or None
        None for what is no such range, which HTTP asks to overlook.

    Raises
    ------
    AwsError
        InvalidRange where it names no byte of the object.
    """
    found = _RANGE.fullmatch(text.strip())
    if not found or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if first:
        if last and int(last) < int(first):
            return None
        start, end = int(first), min(int(last), size - 1) if last else size - 1
    else:
        start, end = max(0, size - int(last)), size - 1
    if start > end:
        message = "The requested range is not satisfiable"
        raise AwsError("InvalidRange", message, 416, RangeRequested=text, ActualObjectSize=size)
    return start, end - start + 1


def copied_slice(text: str, size: int) -> tuple[int, int]:
    """Return start and length of what ``x-amz-copy-source-range`` names: ``bytes=FIRST-LAST`` only.

    Raises
    ------
    AwsError
        InvalidArgument.
    """
    found = _RANGE.fullmatch(text.strip())
    if not found or "" in found.groups() or int(found[2]) < int(found[1]):
        message = (
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are "
            "the zero-based offsets of the first and last bytes to copy"
        )
        raise AwsError("InvalidArgument", message)
    start, end = int(found[1]), int(found[2])
    if end >= size:
        message = f"Range specified is not valid for source object of size: {size}"
        raise AwsError("InvalidArgument", message)
    return start, end - start + 1


def directive(headers: Mapping[str, str], name: str) -> str:
    """Return whether a copy is to COPY something of its source, the default, or to REPLACE it.

    Raises
    ------
    AwsError
        InvalidArgument where it says neither.
    """
    value = headers.get(name, "COPY")
    if value not in ("COPY", "REPLACE"):
        what = name.removeprefix("x-amz-").replace("-", " ")
        raise AwsError("InvalidArgument", f"Unknown {what}.", ArgumentName=name, ArgumentValue=value)
    return value


def number(query: Mapping[str, str], name: str, default: int, most: int = 1000) -> int:
    """Return a number of the query, at most ``most``.

    Raises
    ------
    AwsError
        InvalidArgument where it is none.
    """
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise AwsError("InvalidArgument", f"Provided {name} not an integer or within integer range")
    return min(int(text), most)


def http_time(seconds: float) -> str:
    """Return a time as HTTP's headers have it."""
    return email.utils.formatdate(seconds, usegmt=True)


def _ascii(value: str) -> str:
    """Return a header's value as S3 sends it back: by RFC 2047 where it is not ASCII."""
    return value if value.isascii() else f"=?UTF-8?B?{base64.b64encode(value.encode()).decode()}?="
