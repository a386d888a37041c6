"""Buckets and objects on disk: an SQLite index of names, and one file an object (`lib.local.blobs`).

A put is: write the blob, then the row that names it.  The row is the commit; a kill in between leaves a
blob without a row, which the next start sweeps, and never a row without its blob or half an object.
Keys are compared as UTF-8 bytes, the order in which S3 lists.
"""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lib.local.blobs import Blobs, BlobWriter
from lib.local.index import Index
from lib.local.protocol import AwsError

MAX_KEY_BYTES = 1024
MAX_OBJECT_BYTES = 5 * 1024**3
"""The most a single put may bring, S3's limit."""

DEFAULT_CONTENT_TYPE = "binary/octet-stream"

_OBJECT_COLUMNS = "key, blob, size, etag, modified, headers, checksum"
_BUCKET_NAME = re.compile(r"(?!xn--)[a-z0-9](?!.*\.\.)[a-z0-9.-]{1,61}[a-z0-9](?<!-s3alias)(?<!--ol-s3)")
_BATCH = 1000
_AFTER_ALL = b"\xff"  # follows every byte of UTF-8


@dataclass(frozen=True)
class ObjectInfo:
    """An object as it is stored.

    Attributes
    ----------
    bucket, key : str
    size : int
        Bytes.
    etag : str
        Without the quotes.
    modified : float
        Seconds since 1970.
    path : Path
        The file of its bytes: to be read or hard-linked, never written; gone when the object is replaced.
    headers : dict
        Content-Type, other headers and ``x-amz-meta-…`` given when it was put, names in small letters.
    checksum : dict
        ``algorithm``, ``value`` and ``type`` (FULL_OBJECT or COMPOSITE) where the client gave one.
    """

    bucket: str
    key: str
    size: int
    etag: str
    modified: float
    path: Path
    headers: dict[str, str] = field(default_factory=dict)
    checksum: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BucketInfo:
    """A bucket; ``created`` in seconds since 1970."""

    name: str
    created: float
    region: str


ObjectInfos = list[ObjectInfo]
BucketInfos = list[BucketInfo]


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
        Where the next page begins (`Objects.page`'s ``start``); None after the last page.
    """

    contents: list[ObjectInfo]
    prefixes: list[str]
    last: str
    resume: bytes | None


class Objects:
    """The buckets and objects under ``ROOT/s3``; safe to use from any thread.

    Parameters
    ----------
    root : Path
        The folder of the local AWS's state.
    quota : int, optional
        The most bytes all objects together may have; unlimited by default.

    Raises
    ------
    ReelbookError
        When the index cannot be read.
    """

    def __init__(self, root: Path, quota: int | None = None) -> None:
        folder = Path(root) / "s3"
        self.blobs = Blobs(folder / "blobs", quota)
        self.index = Index(folder / "index.db")
        in_use = self.index.rows("SELECT blob FROM objects UNION ALL SELECT blob FROM parts")
        self.blobs.sweep({blob for (blob,) in in_use})

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    # ---- buckets

    def create_bucket(self, name: str, region: str = "us-east-1") -> bool:
        """Make a bucket; False where it is there already.

        Raises
        ------
        AwsError
            InvalidBucketName.
        """
        if not _BUCKET_NAME.fullmatch(name) or _is_address(name):
            raise AwsError("InvalidBucketName", "The specified bucket is not valid.", BucketName=name)
        with self.index.transaction() as index:
            cursor = index.execute(
                "INSERT OR IGNORE INTO buckets VALUES (?, ?, ?)", (name, time.time(), region)
            )
            return cursor.rowcount == 1

    def bucket(self, name: str) -> BucketInfo:
        """Return a bucket.

        Raises
        ------
        AwsError
            NoSuchBucket.
        """
        found = self.index.rows("SELECT name, created, region FROM buckets WHERE name = ?", name)
        if not found:
            raise AwsError("NoSuchBucket", "The specified bucket does not exist", 404, BucketName=name)
        return BucketInfo(*found[0])

    def buckets(self) -> BucketInfos:
        """Return all buckets, by name."""
        return [
            BucketInfo(*row)
            for row in self.index.rows("SELECT name, created, region FROM buckets ORDER BY name")
        ]

    def delete_bucket(self, name: str) -> None:
        """Delete an empty bucket.

        Raises
        ------
        AwsError
            NoSuchBucket, BucketNotEmpty.
        """
        self.bucket(name)
        with self.index.transaction() as index:
            for table in ("objects", "uploads"):
                if index.execute(f"SELECT 1 FROM {table} WHERE bucket = ? LIMIT 1", (name,)).fetchone():
                    text = "The bucket you tried to delete is not empty"
                    raise AwsError("BucketNotEmpty", text, 409, BucketName=name)
            index.execute("DELETE FROM buckets WHERE name = ?", (name,))

    # ---- objects

    def get(self, bucket: str, key: str) -> ObjectInfo:
        """Return an object.

        Raises
        ------
        AwsError
            NoSuchBucket, NoSuchKey.
        """
        found = self.find(bucket, key)
        if found is None:
            raise AwsError("NoSuchKey", "The specified key does not exist.", 404, Key=key)
        return found

    def find(self, bucket: str, key: str) -> ObjectInfo | None:
        """Return an object, or None where there is none of that key."""
        self.bucket(bucket)
        rows = self.index.rows(
            f"SELECT {_OBJECT_COLUMNS} FROM objects WHERE bucket = ? AND key = ?", bucket, key.encode()
        )
        return self._info(bucket, rows[0]) if rows else None

    def open(self, bucket: str, key: str) -> tuple[ObjectInfo, BinaryIO]:
        """Return an object and its open file, which stays readable when the object is replaced."""
        info = self.get(bucket, key)
        while True:
            try:
                return info, info.path.open("rb")
            except FileNotFoundError:  # replaced since it was looked up
                now = self.get(bucket, key)
                if now.path == info.path:
                    raise AwsError("InternalError", "The data of the object is missing.", 500) from None
                info = now

    def snapshot(self, bucket: str, key: str) -> tuple[ObjectInfo, str]:
        """Return an object and the name of a new blob of its bytes, which the caller uses or removes."""
        with self.index.transaction():  # no other thread can replace the object meanwhile
            info = self.get(bucket, key)
            return info, self.blobs.copy(info.path.name)

    def put_bytes(self, bucket: str, key: str, data: bytes, content_type: str | None = None) -> ObjectInfo:
        """Store bytes as an object.

        Raises
        ------
        AwsError
            NoSuchBucket, KeyTooLongError, InsufficientStorage.
        """
        self.check_key(bucket, key)
        with self.blobs.create() as writer:
            writer.write(data)
            return self.commit(bucket, key, writer, _content_type(content_type))

    def put_file(self, bucket: str, key: str, path: Path, content_type: str | None = None) -> ObjectInfo:
        """Store a copy of a file as an object; errors as of `put_bytes`."""
        self.check_key(bucket, key)
        with self.blobs.create() as writer:
            writer.write_file(Path(path))
            return self.commit(bucket, key, writer, _content_type(content_type))

    def check_key(self, bucket: str, key: str) -> None:
        """Refuse a bucket that is not there and a key that is too long."""
        self.bucket(bucket)
        length = len(key.encode())
        if length > MAX_KEY_BYTES:
            text = "Your key is too long"
            raise AwsError("KeyTooLongError", text, Size=length, MaxSizeAllowed=MAX_KEY_BYTES)

    def commit(
        self,
        bucket: str,
        key: str,
        writer: BlobWriter,
        headers: Mapping[str, str],
        checksum: Mapping[str, str] | None = None,
        conditions: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Make what was written the object of that key, in place of an older one.

        Parameters
        ----------
        conditions : mapping, optional
            ``if-match`` and ``if-none-match`` as S3 has them for puts.
        """
        blob = writer.keep()
        return self.commit_blob(bucket, key, blob, writer.size, writer.etag, headers, checksum, conditions)

    def commit_blob(
        self,
        bucket: str,
        key: str,
        blob: str,
        size: int,
        etag: str,
        headers: Mapping[str, str],
        checksum: Mapping[str, str] | None = None,
        conditions: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Make a blob the object of that key; the blob is deleted where that fails."""
        headers = {"content-type": DEFAULT_CONTENT_TYPE, **headers}
        values = (blob, size, etag, time.time(), json.dumps(headers), json.dumps(dict(checksum or {})))
        try:
            with self.index.transaction() as index:
                self.bucket(bucket)
                older = self.find(bucket, key)
                _check_conditions(older, conditions or {})
                index.execute(
                    "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (bucket, key.encode(), *values),
                )
        except BaseException:
            self.blobs.remove(blob)
            raise
        if older:
            self.blobs.remove(older.path.name)
        return self._info(bucket, (key.encode(), *values))

    def delete(self, bucket: str, key: str) -> bool:
        """Delete an object; False where there is none."""
        with self.index.transaction() as index:
            found = self.find(bucket, key)
            index.execute("DELETE FROM objects WHERE bucket = ? AND key = ?", (bucket, key.encode()))
        if found:
            self.blobs.remove(found.path.name)
        return found is not None

    # ---- listing

    def list(self, bucket: str, prefix: str = "") -> ObjectInfos:
        """Return all objects whose key begins with ``prefix``, in the order of their keys.

        Raises
        ------
        AwsError
            NoSuchBucket.
        """
        self.bucket(bucket)
        return list(self._objects(bucket, prefix.encode(), b""))

    def page(
        self, bucket: str, prefix: str = "", delimiter: str = "", start: bytes = b"", limit: int = 1000
    ) -> Page:
        """Return one page of a listing, as ListObjects has it.

        Parameters
        ----------
        prefix : str
            What the keys begin with.
        delimiter : str
            Keys that have it behind the prefix are stood for by their part up to and with it.
        start : bytes
            Where the page begins: the key or `Page.resume`, inclusive.
        limit : int
            The most entries, objects and common prefixes together.
        """
        self.bucket(bucket)
        contents: ObjectInfos = []
        prefixes: list[str] = []
        last, resume = "", start
        if limit < 1:
            return Page([], [], "", None)
        for entry in self._entries(bucket, prefix, delimiter, start):
            if len(contents) + len(prefixes) == limit:
                return Page(contents, prefixes, last, resume)
            if isinstance(entry, str):
                prefixes.append(entry)
                last, resume = entry, entry.encode() + _AFTER_ALL
            else:
                contents.append(entry)
                last, resume = entry.key, entry.key.encode() + b"\0"
        return Page(contents, prefixes, last, None)

    def _entries(self, bucket: str, prefix: str, delimiter: str, start: bytes) -> Iterator[ObjectInfo | str]:
        """Yield objects and common prefixes; after a common prefix go on behind all of its keys."""
        position = start
        while True:
            for info in self._objects(bucket, prefix.encode(), position):
                end = info.key.find(delimiter, len(prefix)) if delimiter else -1
                if end >= 0:
                    common = info.key[: end + len(delimiter)]
                    yield common
                    position = common.encode() + _AFTER_ALL
                    break
                yield info
            else:
                return

    def _objects(self, bucket: str, prefix: bytes, start: bytes) -> Iterator[ObjectInfo]:
        """Yield the objects under a prefix from the key ``start`` on, fetched a batch at a time."""
        position = max(prefix, start)
        while True:
            rows = self.index.rows(
                f"SELECT {_OBJECT_COLUMNS} FROM objects WHERE bucket = ? AND key >= ? AND key < ? "
                f"ORDER BY key LIMIT {_BATCH}",
                bucket,
                position,
                prefix + _AFTER_ALL,
            )
            for row in rows:
                yield self._info(bucket, row)
            if len(rows) < _BATCH:
                return
            position = rows[-1][0] + b"\0"

    def _info(self, bucket: str, row: tuple[Any, ...]) -> ObjectInfo:
        key, blob, size, etag, modified, headers, checksum = row
        return ObjectInfo(
            bucket=bucket,
            key=key.decode(),
            size=size,
            etag=etag,
            modified=modified,
            path=self.blobs.path(blob),
            headers=json.loads(headers),
            checksum=json.loads(checksum),
        )


def _content_type(value: str | None) -> dict[str, str]:
    return {"content-type": value} if value else {}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_conditions(found: ObjectInfo | None, conditions: Mapping[str, str]) -> None:
    """Refuse a put whose ``if-match`` or ``if-none-match`` does not hold."""
    wanted = conditions.get("if-match")
    if wanted is not None and found is None:
        raise AwsError("NoSuchKey", "The specified key does not exist.", 404)
    if (wanted is not None and found and not etag_matches(found.etag, wanted)) or (
        conditions.get("if-none-match") == "*" and found
    ):
        raise precondition_failed()


def etag_matches(etag: str, wanted: str) -> bool:
    """Whether an ETag is among those of an ``If-Match`` header, or the header is ``*``."""
    return wanted == "*" or etag in [one.strip().removeprefix("W/").strip('"') for one in wanted.split(",")]


def precondition_failed() -> AwsError:
    """Return the error of a condition that does not hold."""
    text = "At least one of the pre-conditions you specified did not hold"
    return AwsError("PreconditionFailed", text, 412)
