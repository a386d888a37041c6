"""The headers of S3's REST protocol: what is kept with an object, conditions, ranges, what is refused."""

from __future__ import annotations

import base64
import datetime as dt
import email.utils
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lib.local.objects import DEFAULT_CONTENT_TYPE, ObjectInfo, etag_matches, precondition_failed
from lib.local.payload import CHECKSUM_PREFIX
from lib.local.protocol import AwsError

if TYPE_CHECKING:
    from lib.local.s3 import Call

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
    "x-amz-tagging",
    "x-amz-website-redirect-location",
    "x-amz-object-lock-",
    "x-amz-grant-",
    "x-amz-server-side-encryption-customer-",
    "x-amz-write-offset-bytes",
    "x-amz-mfa",
)
_ALLOWED_ACL = ("private", "bucket-owner-full-control")
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
    if headers.get("x-amz-acl", "private") not in _ALLOWED_ACL:
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
    algorithm, value, kind = checksum["algorithm"], checksum["value"], checksum["type"]
    return {f"{CHECKSUM_PREFIX}{algorithm}": value, f"{CHECKSUM_PREFIX}type": kind}


def of_download(call: Call, info: ObjectInfo) -> tuple[int, dict[str, str], int, int]:
    """Return what GetObject and HeadObject answer.

    Returns
    -------
    status : int
        200, 206 for a range, 304 for an object that has not changed.
    headers : dict
    start, length : int
        The bytes to send.

    Raises
    ------
    AwsError
        PreconditionFailed, InvalidRange.
    """
    headers = {
        "content-type": DEFAULT_CONTENT_TYPE,
        **info.headers,
        "etag": f'"{info.etag}"',
        "last-modified": email.utils.formatdate(info.modified, usegmt=True),
        "accept-ranges": "bytes",
    }
    overrides = {name: call.query.get(f"response-{name}") for name in _KEPT}
    headers |= {name: value for name, value in overrides.items() if value and value.isprintable()}
    headers = {name: _ascii(value) for name, value in headers.items()}
    if not _wanted(call.headers, info):
        return 304, headers, 0, 0
    if call.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED" and "range" not in call.headers:
        headers |= of_checksum(info.checksum)
    status, start, length = 200, 0, info.size
    if "range" in call.headers and _RANGE.fullmatch(call.headers["range"]):
        start, length = slice_of(call.headers["range"], info.size)
        status = 206
        headers["content-range"] = f"bytes {start}-{start + length - 1}/{info.size}"
    headers["content-length"] = str(length)
    return status, headers, start, length


def slice_of(text: str, size: int) -> tuple[int, int]:
    """Return start and length of a ``bytes=FIRST-LAST``, ``bytes=FIRST-`` or ``bytes=-COUNT`` range.

    Raises
    ------
    AwsError
        InvalidRange where it names no byte of the object.
    """
    found = _RANGE.fullmatch(text)
    first, last = found.groups() if found else ("", "")
    if first:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
    elif last:
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = 0, -1
    if start > end:
        text = "The requested range is not satisfiable"
        raise AwsError("InvalidRange", text, 416, ActualObjectSize=size)
    return start, end - start + 1


def copy_allowed(headers: Mapping[str, str], info: ObjectInfo) -> bool:
    """Whether the conditions that a copy puts on its source hold."""
    prefix = "x-amz-copy-source-"
    conditions = {
        name.removeprefix(prefix): value for name, value in headers.items() if name.startswith(prefix)
    }
    try:
        return _wanted(conditions, info)
    except AwsError:
        return False


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


def _wanted(headers: Mapping[str, str], info: ObjectInfo) -> bool:
    """Whether an object is to be sent; False for not modified.

    Raises
    ------
    AwsError
        PreconditionFailed.
    """
    modified = int(info.modified)
    if "if-match" in headers:
        if not etag_matches(info.etag, headers["if-match"]):
            raise precondition_failed()
    elif (limit := _http_time(headers.get("if-unmodified-since"))) and modified > limit:
        raise precondition_failed()
    if "if-none-match" in headers:
        return not etag_matches(info.etag, headers["if-none-match"])
    since = _http_time(headers.get("if-modified-since"))
    return since is None or modified > since


def _ascii(value: str) -> str:
    """Return a header's value as S3 sends it back: by RFC 2047 where it is not ASCII."""
    return value if value.isascii() else f"=?UTF-8?B?{base64.b64encode(value.encode()).decode()}?="


def _http_time(text: str | None) -> float | None:
    """Return the seconds since 1970 of an HTTP date; None where it cannot be read, as HTTP asks for."""
    try:
        time = email.utils.parsedate_to_datetime(text or "")
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
