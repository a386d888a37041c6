"""The conditions of S3's requests: ``If-Match`` and its like, of reads, writes and copies.

Rules: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-requests.html
"""

from __future__ import annotations

import datetime as dt
import email.utils
from collections.abc import Mapping

from lib.local.protocol import AwsError

_COPY_PREFIX = "x-amz-copy-source-"


def check_write(etag: str | None, headers: Mapping[str, str]) -> None:
    """Refuse a write or deletion whose ``if-match`` or ``if-none-match`` does not hold.

    Parameters
    ----------
    etag : str or None
        That of the object that is there, without quotes; None where there is none.
    headers : mapping
        Those of the request, names in small letters.

    Raises
    ------
    AwsError
        PreconditionFailed, NoSuchKey for ``if-match`` where there is no object, NotImplemented for
        ``if-none-match`` with anything but ``*``.
    """
    if "if-match" in headers:
        if etag is None:
            raise AwsError("NoSuchKey", "The specified key does not exist.", 404)
        if not _matches(etag, headers["if-match"]):
            raise _failed("If-Match")
    if "if-none-match" in headers:
        if headers["if-none-match"].strip() != "*":
            text = "A header you provided implies functionality that is not implemented"
            raise AwsError("NotImplemented", text, 501, Header="If-None-Match")
        if etag is not None:
            raise _failed("If-None-Match")


def wanted(etag: str, modified: float, headers: Mapping[str, str]) -> bool:
    """Whether an object is to be sent; False for one that was not modified.

    Parameters
    ----------
    modified : float
        Seconds since 1970.

    Raises
    ------
    AwsError
        PreconditionFailed.
    """
    seconds = int(modified)
    if "if-match" in headers:
        if not _matches(etag, headers["if-match"]):
            raise _failed("If-Match")
    elif (limit := _http_time(headers.get("if-unmodified-since"))) is not None and seconds > limit:
        raise _failed("If-Unmodified-Since")
    if "if-none-match" in headers:
        return not _matches(etag, headers["if-none-match"])
    since = _http_time(headers.get("if-modified-since"))
    return since is None or seconds > since


def check_copy(etag: str, modified: float, headers: Mapping[str, str]) -> None:
    """Refuse a copy whose conditions on its source do not hold.

    Raises
    ------
    AwsError
        PreconditionFailed.
    """
    of_source = {
        name.removeprefix(_COPY_PREFIX): value
        for name, value in headers.items()
        if name.startswith(_COPY_PREFIX)
    }
    if not wanted(etag, modified, of_source):
        name = "If-None-Match" if "if-none-match" in of_source else "If-Modified-Since"
        raise _failed(f"{_COPY_PREFIX}{name}")


def _matches(etag: str, text: str) -> bool:
    """Whether an ETag is among those of a header, or the header is ``*``."""
    named = [one.strip().removeprefix("W/").strip('"') for one in text.split(",")]
    return text.strip() == "*" or etag in named


def _failed(condition: str) -> AwsError:
    text = "At least one of the pre-conditions you specified did not hold"
    return AwsError("PreconditionFailed", text, 412, Condition=condition)


def _http_time(text: str | None) -> float | None:
    """Return the seconds since 1970 of an HTTP date; None where it cannot be read, as HTTP asks for."""
    try:
        time = email.utils.parsedate_to_datetime(text or "")
        return (time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
