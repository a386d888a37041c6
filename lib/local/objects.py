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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lib.local.blobs import Blobs, BlobWriter
from lib.local.checksums import DEFAULT_ALGORITHM, FULL_OBJECT, Hasher, base64_of, new_checksum
from lib.local.conditions import check_write
from lib.local.index import Index
from lib.local.protocol import AwsError

MAX_KEY_BYTES = 1024
MAX_OBJECT_BYTES = 5 * 1024**3
"""The most a single put may bring, S3's limit."""

DEFAULT_CONTENT_TYPE = "binary/octet-stream"

_OBJECT_COLUMNS = "key, blob, size, etag, modified, headers, checksum, tags"
_BUCKET_NAME = re.compile(r"(?!xn--)[a-z0-9](?!.*\.\.)[a-z0-9.-]{1,61}[a-z0-9](?<!-s3alias)(?<!--ol-s3)")
_FIRST_BATCH, _LAST_BATCH = 32, 1024
AFTER_ALL = b"\xff"
"""Follows every byte of UTF-8."""


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
        ``algorithm``, ``value`` and ``type`` (FULL_OBJECT or COMPOSITE).
    tags : dict
    """

    bucket: str
    key: str
    size: int
    etag: str
    modified: float
    path: Path
    headers: dict[str, str] = field(default_factory=dict)
    checksum: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectPart:
    """A part that an object was uploaded in; ``checksum`` is its value only, empty where it has none."""

    number: int
    size: int
    checksum: str = ""


@dataclass(frozen=True)
class Content:
    """What an object consists of, but for its name.

    Attributes
    ----------
    blob : str
        The name of its bytes.
    headers, checksum, tags : mapping
        As of `ObjectInfo`.
    parts : sequence of ObjectPart
        Those of a multipart upload.
    """

    blob: str
    size: int
    etag: str
    headers: Mapping[str, str] = field(default_factory=dict)
    checksum: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    parts: Sequence[ObjectPart] = ()


@dataclass(frozen=True)
class BucketInfo:
    """A bucket; ``created`` in seconds since 1970."""

    name: str
    created: float
    region: str


ObjectInfos = list[ObjectInfo]
BucketInfos = list[BucketInfo]


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
                "INSERT OR IGNORE INTO buckets (name, created, region) VALUES (?, ?, ?)",
                (name, time.time(), region),
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
        hasher = new_checksum(DEFAULT_ALGORITHM)
        hasher.update(data)
        with self.blobs.create() as writer:
            writer.write(data)
            return self._commit(bucket, key, writer, hasher, content_type)

    def put_file(self, bucket: str, key: str, path: Path, content_type: str | None = None) -> ObjectInfo:
        """Store a copy of a file as an object; errors as of `put_bytes`."""
        self.check_key(bucket, key)
        hasher = new_checksum(DEFAULT_ALGORITHM)
        with self.blobs.create() as writer:
            writer.write_file(Path(path), hasher=hasher)
            return self._commit(bucket, key, writer, hasher, content_type)

    def _commit(
        self, bucket: str, key: str, writer: BlobWriter, hasher: Hasher, content_type: str | None
    ) -> ObjectInfo:
        headers = {"content-type": content_type} if content_type else {}
        checksum = {"algorithm": DEFAULT_ALGORITHM, "value": base64_of(hasher), "type": FULL_OBJECT}
        content = Content(writer.keep(), writer.size, writer.etag, headers, checksum)
        return self.commit(bucket, key, content)

    def check_key(self, bucket: str, key: str) -> None:
        """Refuse a bucket that is not there and a key that is too long."""
        self.bucket(bucket)
        length = len(key.encode())
        if length > MAX_KEY_BYTES:
            text = "Your key is too long"
            raise AwsError("KeyTooLongError", text, Size=length, MaxSizeAllowed=MAX_KEY_BYTES)

    def commit(
        self, bucket: str, key: str, content: Content, conditions: Mapping[str, str] | None = None
    ) -> ObjectInfo:
        """Make a blob the object of that key, in place of an older one; it is deleted where that fails.

        Parameters
        ----------
        conditions : mapping, optional
            ``if-match`` and ``if-none-match`` as S3 has them for puts.

        Raises
        ------
        AwsError
            NoSuchBucket, PreconditionFailed, InsufficientStorage.
        """
        headers = {"content-type": DEFAULT_CONTENT_TYPE, **content.headers}
        described = [json.dumps(dict(one)) for one in (headers, content.checksum, content.tags)]
        values = (content.blob, content.size, content.etag, time.time(), *described)
        parts = [(content.blob, part.number, part.size, part.checksum) for part in content.parts]
        try:
            with self.index.transaction() as index:
                self.bucket(bucket)
                older = self.find(bucket, key)
                check_write(older.etag if older else None, conditions or {})
                index.execute(
                    "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (bucket, key.encode(), *values),
                )
                index.executemany("INSERT INTO object_parts VALUES (?, ?, ?, ?)", parts)
                if older:
                    index.execute("DELETE FROM object_parts WHERE blob = ?", (older.path.name,))
        except BaseException:
            self.blobs.remove(content.blob)
            raise
        if older:
            self.blobs.remove(older.path.name)
        return self._info(bucket, (key.encode(), *values))

    def delete(self, bucket: str, key: str, conditions: Mapping[str, str] | None = None) -> bool:
        """Delete an object; False where there is none.

        Parameters
        ----------
        conditions : mapping, optional
            ``if-match`` as S3 has it for deletions.

        Raises
        ------
        AwsError
            NoSuchBucket, PreconditionFailed, NoSuchKey where ``if-match`` is given.
        """
        with self.index.transaction() as index:
            found = self.find(bucket, key)
            check_write(found.etag if found else None, conditions or {})
            if found is None:
                return False
            index.execute("DELETE FROM objects WHERE bucket = ? AND key = ?", (bucket, key.encode()))
            index.execute("DELETE FROM object_parts WHERE blob = ?", (found.path.name,))
        self.blobs.remove(found.path.name)
        return True

    def parts(self, info: ObjectInfo) -> list[ObjectPart]:
        """Return the parts that an object was uploaded in; none where it was not uploaded in parts."""
        rows = self.index.rows(
            "SELECT number, size, checksum FROM object_parts WHERE blob = ? ORDER BY number", info.path.name
        )
        return [ObjectPart(*row) for row in rows]

    # ---- tags

    def set_tags(self, bucket: str, key: str, tags: Mapping[str, str]) -> None:
        """Replace the tags of an object.

        Raises
        ------
        AwsError
            NoSuchBucket, NoSuchKey.
        """
        with self.index.transaction() as index:
            self.get(bucket, key)
            index.execute(
                "UPDATE objects SET tags = ? WHERE bucket = ? AND key = ?",
                (json.dumps(dict(tags)), bucket, key.encode()),
            )

    def bucket_tags(self, bucket: str) -> dict[str, str]:
        """Return the tags of a bucket; errors as of `bucket`."""
        self.bucket(bucket)
        ((tags,),) = self.index.rows("SELECT tags FROM buckets WHERE name = ?", bucket)
        return dict(json.loads(tags))

    def set_bucket_tags(self, bucket: str, tags: Mapping[str, str]) -> None:
        """Replace the tags of a bucket; errors as of `bucket`."""
        with self.index.transaction() as index:
            self.bucket(bucket)
            index.execute("UPDATE buckets SET tags = ? WHERE name = ?", (json.dumps(dict(tags)), bucket))

    # ---- listing

    def list(self, bucket: str, prefix: str = "") -> ObjectInfos:
        """Return all objects whose key begins with ``prefix``, in the order of their keys.

        Raises
        ------
        AwsError
            NoSuchBucket.
        """
        self.bucket(bucket)
        return list(self.walk(bucket, prefix.encode()))

    def walk(self, bucket: str, prefix: bytes = b"", start: bytes = b"") -> Iterator[ObjectInfo]:
        """Yield the objects under a prefix from the key ``start`` on, fetched a growing batch at a time."""
        position = max(prefix, start)
        batch = _FIRST_BATCH
        while True:
            rows = self.index.rows(
                f"SELECT {_OBJECT_COLUMNS} FROM objects WHERE bucket = ? AND key >= ? AND key < ? "
                f"ORDER BY key LIMIT {batch}",
                bucket,
                position,
                prefix + AFTER_ALL,
            )
            for row in rows:
                yield self._info(bucket, row)
            if len(rows) < batch:
                return
            position = rows[-1][0] + b"\0"
            batch = min(2 * batch, _LAST_BATCH)

    def _info(self, bucket: str, row: tuple[Any, ...]) -> ObjectInfo:
        key, blob, size, etag, modified, headers, checksum, tags = row
        return ObjectInfo(
            bucket=bucket,
            key=key.decode(),
            size=size,
            etag=etag,
            modified=modified,
            path=self.blobs.path(blob),
            headers=json.loads(headers),
            checksum=json.loads(checksum),
            tags=json.loads(tags),
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
