"""Multipart uploads of the local S3: parts are blobs of their own until the upload is completed.

Rules and checksums: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.local.blobs import BlobWriter
from lib.local.objects import ObjectInfo, Objects
from lib.local.payload import Hasher, new_checksum
from lib.local.protocol import AwsError

MAX_PARTS = 10_000
MIN_PART_BYTES = 5 * 1024**2
"""All parts but the last must have as much."""

_KEPT_SECONDS = 7 * 24 * 3600
"""An upload that nobody completed is dropped at the first start after so long."""


@dataclass(frozen=True)
class Part:
    """A part of an upload; ``etag`` without quotes, ``checksum`` as of `ObjectInfo`."""

    number: int
    blob: str
    size: int
    etag: str
    modified: float
    checksum: dict[str, str]


@dataclass(frozen=True)
class Upload:
    """An upload that is under way.

    Attributes
    ----------
    headers : dict
        What the object's headers will be.
    checksum : dict
        ``algorithm`` and ``type`` (FULL_OBJECT or COMPOSITE) of the object's checksum; empty for none.
    """

    id: str
    bucket: str
    key: str
    started: float
    headers: dict[str, str]
    checksum: dict[str, str]


@dataclass(frozen=True)
class NamedPart:
    """A part as a client names it when it completes the upload."""

    number: int
    etag: str
    checksum: str = ""


class Uploads:
    """The multipart uploads of the local S3; safe to use from any thread.

    Parameters
    ----------
    objects : Objects
        Where completed uploads become objects.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        oldest = time.time() - _KEPT_SECONDS
        for (upload,) in objects.index.rows("SELECT id FROM uploads WHERE started < ?", oldest):
            self._forget(upload)

    def create(self, bucket: str, key: str, headers: Mapping[str, str], checksum: Mapping[str, str]) -> str:
        """Begin an upload and return its id."""
        self._objects.check_key(bucket, key)
        if checksum:
            new_checksum(checksum["algorithm"])
        upload = uuid.uuid4().hex
        values = (upload, bucket, key.encode(), time.time(), json.dumps(dict(headers)))
        with self._objects.index.transaction() as index:
            index.execute(
                "INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?)", (*values, json.dumps(dict(checksum)))
            )
        return upload

    def get(self, bucket: str, key: str, upload: str) -> Upload:
        """Return an upload.

        Raises
        ------
        AwsError
            NoSuchBucket, NoSuchUpload.
        """
        self._objects.bucket(bucket)
        rows = self._objects.index.rows(
            "SELECT * FROM uploads WHERE id = ? AND bucket = ? AND key = ?", upload, bucket, key.encode()
        )
        if not rows:
            text = (
                "The specified upload does not exist. The upload ID may be invalid, "
                "or the upload may have been aborted or completed."
            )
            raise AwsError("NoSuchUpload", text, 404, UploadId=upload)
        return _upload(rows[0])

    def under_way(self, bucket: str, prefix: str = "") -> list[Upload]:
        """Return the uploads into a bucket, by key and start."""
        self._objects.bucket(bucket)
        found = self._objects.index.rows(
            "SELECT * FROM uploads WHERE bucket = ? ORDER BY key, started", bucket
        )
        uploads = [_upload(row) for row in found]
        return [upload for upload in uploads if upload.key.startswith(prefix)]

    def parts(self, upload: Upload) -> dict[int, Part]:
        """Return an upload's parts by their number, in order."""
        rows = self._objects.index.rows(
            "SELECT number, blob, size, etag, modified, checksum FROM parts WHERE upload = ? ORDER BY number",
            upload.id,
        )
        parts = [
            Part(number, blob, size, etag, modified, json.loads(checksum))
            for number, blob, size, etag, modified, checksum in rows
        ]
        return {part.number: part for part in parts}

    def add_part(
        self, upload: Upload, number: int, writer: BlobWriter, checksum: Mapping[str, str] | None = None
    ) -> None:
        """Make what was written the part of that number, in place of an older one.

        Raises
        ------
        AwsError
            InvalidArgument for a number out of range, InvalidRequest where the upload's checksum is
            missing, NoSuchUpload when it was ended meanwhile.
        """
        if not 1 <= number <= MAX_PARTS:
            text = "Part number must be an integer between 1 and 10000, inclusive"
            raise AwsError("InvalidArgument", text)
        wanted, given = upload.checksum.get("algorithm"), (checksum or {}).get("algorithm")
        if wanted and wanted != given:
            text = (
                f"Checksum Type mismatch occurred, expected checksum Type: {wanted}, actual checksum Type: "
            )
            raise AwsError("InvalidRequest", text + (given or "null"))
        blob = writer.keep()
        try:
            with self._objects.index.transaction() as index:
                self.get(upload.bucket, upload.key, upload.id)
                older = self.parts(upload).get(number)
                row = (upload.id, number, blob, writer.size, writer.etag, time.time())
                index.execute(
                    "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*row, json.dumps(dict(checksum or {}))),
                )
        except BaseException:
            self._objects.blobs.remove(blob)
            raise
        if older:
            self._objects.blobs.remove(older.blob)

    def copy_part(self, upload: Upload, number: int, blob: str, start: int, length: int) -> Part:
        """Make ``length`` bytes of a blob, from ``start`` on, the part of that number."""
        algorithm = upload.checksum.get("algorithm")
        with self._objects.blobs.create() as writer:
            hasher = new_checksum(algorithm) if algorithm else None
            writer.write_file(self._objects.blobs.path(blob), start, length, hasher)
            checksum = {"algorithm": algorithm, "value": _base64(hasher)} if algorithm and hasher else {}
            self.add_part(upload, number, writer, checksum)
        return self.parts(upload)[number]

    def complete(
        self,
        upload: Upload,
        named: list[NamedPart],
        expected: str = "",
        conditions: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Join the named parts into the object.

        Parameters
        ----------
        expected : str
            The checksum the client computed of the whole object; empty where it did not.

        Raises
        ------
        AwsError
            InvalidPartOrder, InvalidPart, EntityTooSmall, BadDigest, InsufficientStorage.
        """
        parts = self._chosen(upload, named)
        with self._objects.blobs.create(with_etag=False) as writer:
            checksum = self._join(upload, parts, writer)
            if expected and checksum.get("value", "").partition("-")[0] != expected.partition("-")[0]:
                text = f"The {checksum.get('algorithm', 'checksum').upper()} you specified did not match"
                raise AwsError("BadDigest", f"{text} the calculated checksum.")
            blob = writer.keep()
        joined = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in parts), usedforsecurity=False)
        etag = f"{joined.hexdigest()}-{len(parts)}"
        info = self._objects.commit_blob(
            upload.bucket, upload.key, blob, writer.size, etag, upload.headers, checksum, conditions
        )
        self._forget(upload.id)
        return info

    def abort(self, upload: Upload) -> None:
        """Drop an upload and its parts."""
        self._forget(upload.id)

    def _chosen(self, upload: Upload, named: list[NamedPart]) -> list[Part]:
        numbers = [part.number for part in named]
        if not named or numbers != sorted(set(numbers)):
            text = (
                "The list of parts was not in ascending order. "
                "The parts list must be specified in order by part number."
            )
            raise AwsError("InvalidPartOrder", text)
        there = self.parts(upload)
        for part in named:
            found = there.get(part.number)
            if (
                found is None
                or found.etag != part.etag
                or (part.checksum and part.checksum != found.checksum.get("value"))
            ):
                text = (
                    "One or more of the specified parts could not be found. The part may not have been "
                    "uploaded, or the specified entity tag may not match the part's entity tag."
                )
                raise AwsError("InvalidPart", text, PartNumber=part.number)
        chosen = [there[number] for number in numbers]
        for small in chosen[:-1]:
            if small.size < MIN_PART_BYTES:
                text = "Your proposed upload is smaller than the minimum allowed size"
                raise AwsError("EntityTooSmall", text, PartNumber=small.number, ProposedSize=small.size)
        return chosen

    def _join(self, upload: Upload, parts: list[Part], writer: BlobWriter) -> dict[str, str]:
        """Write all parts one behind the other and return the object's checksum."""
        algorithm, kind = upload.checksum.get("algorithm"), upload.checksum.get("type")
        whole = new_checksum(algorithm) if algorithm and kind == "FULL_OBJECT" else None
        for part in parts:
            writer.write_file(self._objects.blobs.path(part.blob), 0, part.size, whole)
        if not algorithm:
            return {}
        if whole:
            value = _base64(whole)
        else:
            of_parts = new_checksum(algorithm)
            for part in parts:
                of_parts.update(base64.b64decode(part.checksum.get("value", "")))
            value = f"{_base64(of_parts)}-{len(parts)}"
        return {**upload.checksum, "value": value}

    def _forget(self, upload: str) -> None:
        with self._objects.index.transaction() as index:
            blobs = index.execute("SELECT blob FROM parts WHERE upload = ?", (upload,)).fetchall()
            index.execute("DELETE FROM parts WHERE upload = ?", (upload,))
            index.execute("DELETE FROM uploads WHERE id = ?", (upload,))
        for (blob,) in blobs:
            self._objects.blobs.remove(blob)


def _base64(hasher: Hasher) -> str:
    return base64.b64encode(hasher.digest()).decode()


def _upload(row: tuple[Any, ...]) -> Upload:
    name, bucket, key, started, headers, checksum = row
    return Upload(name, bucket, key.decode(), started, json.loads(headers), json.loads(checksum))
