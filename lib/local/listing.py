"""Pages of a bucket's listing, as ListObjects has them: keys, and common prefixes that stand for many.

Rules: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-prefixes.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lib.local.objects import AFTER_ALL, ObjectInfo, Objects


@dataclass(frozen=True)
class Page:
    """One page of a listing.

    Attributes
    ----------
    contents : list of ObjectInfo
    prefixes : list of str
        Common prefixes, which stand for all keys that begin with them.
    last : str
        The last key or common prefix of the page.
    resume : bytes or None
        Where the next page begins (`page`'s ``start``); None after the last page.
    """

    contents: list[ObjectInfo]
    prefixes: list[str]
    last: str
    resume: bytes | None


def page(
    objects: Objects,
    bucket: str,
    prefix: str = "",
    delimiter: str = "",
    start: bytes = b"",
    limit: int = 1000,
) -> Page:
    """Return one page of a listing.

    Parameters
    ----------
    prefix : str
        What the keys begin with.
    delimiter : str
        Keys that have it behind the prefix are stood for by their part up to and with it.
    start : bytes
        Where the page begins: a key or `Page.resume`, inclusive.
    limit : int
        The most entries, objects and common prefixes together.

    Raises
    ------
    AwsError
        NoSuchBucket.
    """
    objects.bucket(bucket)
    contents: list[ObjectInfo] = []
    prefixes: list[str] = []
    last, resume = "", start
    if limit < 1:
        return Page([], [], "", None)
    for entry in _entries(objects, bucket, prefix, delimiter, start):
        if len(contents) + len(prefixes) == limit:
            return Page(contents, prefixes, last, resume)
        if isinstance(entry, str):
            prefixes.append(entry)
            last, resume = entry, entry.encode() + AFTER_ALL
        else:
            contents.append(entry)
            last, resume = entry.key, entry.key.encode() + b"\0"
    return Page(contents, prefixes, last, None)


def _entries(
    objects: Objects, bucket: str, prefix: str, delimiter: str, start: bytes
) -> Iterator[ObjectInfo | str]:
    """Yield objects and common prefixes; after a common prefix go on behind all of its keys."""
    position = start
    while True:
        for info in objects.walk(bucket, prefix.encode(), position):
            end = info.key.find(delimiter, len(prefix)) if delimiter else -1
            if end >= 0:
                common = info.key[: end + len(delimiter)]
                yield common
                position = common.encode() + AFTER_ALL
                break
            yield info
        else:
            return
