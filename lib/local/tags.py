"""Tags of objects and buckets: read from a header or from XML, and refused as S3 refuses them.

Limits: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

from lib.local.protocol import AwsError

MAX_OBJECT_TAGS = 10
MAX_BUCKET_TAGS = 50

_MAX_KEY, _MAX_VALUE = 128, 256
_ALLOWED = re.compile(r"[\w\s+\-=.:/@]*")  # letters and digits of any language


def checked(pairs: Iterable[tuple[str, str]], most: int) -> dict[str, str]:
    """Return tags by their keys.

    Parameters
    ----------
    pairs : iterable of (str, str)
        Keys and values as the client gave them.
    most : int
        How many there may be.

    Raises
    ------
    AwsError
        InvalidTag, BadRequest for too many.
    """
    tags: dict[str, str] = {}
    for key, value in pairs:
        if not 0 < len(key) <= _MAX_KEY or not _ALLOWED.fullmatch(key):
            raise AwsError("InvalidTag", "The TagKey you have provided is invalid", TagKey=key)
        if len(value) > _MAX_VALUE or not _ALLOWED.fullmatch(value):
            raise AwsError(
                "InvalidTag", "The TagValue you have provided is invalid", TagKey=key, TagValue=value
            )
        if key.lower().startswith("aws:"):
            raise AwsError("InvalidTag", "System tags cannot be added/updated by requester", TagKey=key)
        if key in tags:
            raise AwsError("InvalidTag", "Cannot provide multiple Tags with the same key", TagKey=key)
        tags[key] = value
    if len(tags) > most:
        what = "Object" if most == MAX_OBJECT_TAGS else "Bucket"
        raise AwsError("BadRequest", f"{what} tags cannot be greater than {most}")
    return tags


def of_header(text: str) -> dict[str, str]:
    """Return the tags that ``x-amz-tagging`` names, ``a=1&b=2`` percent-encoded.

    Raises
    ------
    AwsError
        InvalidArgument where it cannot be read, else as of `checked`.
    """
    pairs = []
    try:
        for part in text.split("&"):
            if part:
                key, _, value = part.partition("=")
                pairs.append((unquote_plus(key, errors="strict"), unquote_plus(value, errors="strict")))
    except UnicodeDecodeError:
        pairs = []
    if (text and not pairs) or len({key for key, _ in pairs}) < len(pairs):
        message = (
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters "
            "without tag name duplicates."
        )
        raise AwsError("InvalidArgument", message, ArgumentName="x-amz-tagging", ArgumentValue=text)
    return checked(pairs, MAX_OBJECT_TAGS)
