"""Multipart uploads of the local S3: parts are blobs of their own until the upload is completed.

Rules and checksums: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.local.blobs import BlobWriter
from lib.local.checksums import (
    COMPOSITE,
    DEFAULT_ALGORITHM,
    FULL_OBJECT,
    base64_of,
    decoded,
    new_checksum,
)
from lib.local.objects import Content, ObjectInfo, ObjectPart, Objects
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
        ``algorithm`` and ``type`` (FULL_OBJECT or COMPOSITE) of the object's checksum; empty where the
        client leaves it to S3.
    tags : dict
        What the object's tags will be.
    """

    id: str
    bucket: str
    key: str
    started: float
    headers: dict[str, str]
    checksum: dict[str, str]
    tags: dict[str, str]


@dataclass(frozen=True)
class UploadPage:
    """One page of a bucket's uploads, and the common prefixes that stand for others.

    Attributes
    ----------
    resume : tuple of str or None
        Key and upload behind which the next page begins; None after the last page.
    """

    uploads: list[Upload]
    prefixes: list[str]
    resume: tuple[str, str] | None


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
        self.objects = objects
        oldest = time.time() - _KEPT_SECONDS
        for (upload,) in objects.index.rows("SELECT id FROM uploads WHERE started < ?", oldest):
            self._forget(upload)

    def create(
        self,
        bucket: str,
        key: str,
        headers: Mapping[str, str],
        checksum: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> str:
        """Begin an upload and return its id; the parameters are those of `Upload`."""
        self.objects.check_key(bucket, key)
        upload = uuid.uuid4().hex
        described = [json.dumps(dict(one)) for one in (headers, checksum, tags)]
        with self.objects.index.transaction() as index:
            index.execute(
                "INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?)",
                (upload, bucket, key.encode(), time.time(), *described),
            )
        return upload

    def get(self, bucket: str, key: str, upload: str) -> Upload:
        """Return an upload.

        Raises
        ------
        AwsError
            NoSuchBucket, NoSuchUpload.
        """
        self.objects.bucket(bucket)
        rows = self.objects.index.rows(
            "SELECT * FROM uploads WHERE id = ? AND bucket = ? AND key = ?", upload, bucket, key.encode()
        )
        if not rows:
            raise _no_upload(upload)
        return _upload(rows[0])

    def page(
        self,
        bucket: str,
        prefix: str = "",
        delimiter: str = "",
        after: tuple[str, str] = ("", ""),
        limit: int = 1000,
    ) -> UploadPage:
        """Return a page of the uploads into a bucket, by key and start.

        Parameters
        ----------
        prefix, delimiter, limit
            As of a listing of objects.
        after : tuple of str
            The key, and the id of its upload, that the page begins behind; all of the key's uploads are
            before the page where there is no id.
        """
        self.objects.bucket(bucket)
        uploads: list[Upload] = []
        prefixes: list[str] = []
        last = after
        for upload in self._behind(bucket, prefix, after):
            end = upload.key.find(delimiter, len(prefix)) if delimiter else -1
            common = upload.key[: end + len(delimiter)] if end >= 0 else ""
            if common and (common in prefixes[-1:] or after[0].startswith(common)):
                continue
            if len(uploads) + len(prefixes) >= limit:
                return UploadPage(uploads, prefixes, last)
            if common:
                prefixes.append(common)
                last = (common, "")
            else:
                uploads.append(upload)
                last = (upload.key, upload.id)
        return UploadPage(uploads, prefixes, None)

    def _behind(self, bucket: str, prefix: str, after: tuple[str, str]) -> list[Upload]:
        """Return the uploads under a prefix that follow a key and one of its uploads."""
        rows = self.objects.index.rows(
            "SELECT * FROM uploads WHERE bucket = ? AND key >= ? ORDER BY key, started, id",
            bucket,
            after[0].encode(),
        )
        found = [_upload(row) for row in rows]
        key, upload_id = after
        if key:
            ids = [upload.id for upload in found if upload.key == key]
            passed = ids[: ids.index(upload_id) + 1] if upload_id in ids else [] if upload_id else ids
            found = found[len(passed) :]
        return [upload for upload in found if upload.key.startswith(prefix)]

    def parts(self, upload: Upload) -> dict[int, Part]:
        """Return an upload's parts by their number, in order."""
        rows = self.objects.index.rows(
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
            text = f"Checksum Type mismatch occurred, expected checksum Type: {wanted}, "
            raise AwsError("InvalidRequest", f"{text}actual checksum Type: {given or 'null'}")
        blob = writer.keep()
        try:
            with self.objects.index.transaction() as index:
                self.get(upload.bucket, upload.key, upload.id)
                older = self.parts(upload).get(number)
                row = (upload.id, number, blob, writer.size, writer.etag, time.time())
                index.execute(
                    "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*row, json.dumps(dict(checksum or {}))),
                )
        except BaseException:
            self.objects.blobs.remove(blob)
            raise
        if older:
            self.objects.blobs.remove(older.blob)

    def copy_part(self, upload: Upload, number: int, blob: str, start: int, length: int) -> Part:
        """Make ``length`` bytes of a blob, from ``start`` on, the part of that number."""
        algorithm = upload.checksum.get("algorithm")
        with self.objects.blobs.create() as writer:
            hasher = new_checksum(algorithm) if algorithm else None
            writer.write_file(self.objects.blobs.path(blob), start, length, hasher)
            checksum = {"algorithm": algorithm, "value": base64_of(hasher)} if algorithm and hasher else {}
            self.add_part(upload, number, writer, checksum)
        return self.parts(upload)[number]

    def complete(
        self,
        upload: Upload,
        named: list[NamedPart],
        expected: str = "",
        size: str = "",
        conditions: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Join the named parts into the object.

        Parameters
        ----------
        expected, size : str
            Checksum and length of the whole object as the client says; empty where it does not.

        Raises
        ------
        AwsError
            InvalidPartOrder, InvalidPart, EntityTooSmall, InvalidRequest, BadDigest, InsufficientStorage, and
            NoSuchUpload when it was ended meanwhile.
        """
        parts = self._chosen(upload, named)
        total = sum(part.size for part in parts)
        if size and size != str(total):
            text = f"The provided 'x-amz-mp-object-size' header value {size} does not match what was computed"
            raise AwsError("InvalidRequest", f"{text}: {total}")
        with self.objects.blobs.create(with_etag=False) as writer:
            try:
                checksum = self._join(upload, parts, writer)
            except FileNotFoundError:  # another request has completed, aborted or changed it meanwhile
                raise _no_upload(upload.id) from None
            if expected and checksum["value"].partition("-")[0] != expected.partition("-")[0]:
                text = f"The {checksum['algorithm'].upper()} you specified did not match"
                raise AwsError("BadDigest", f"{text} the calculated checksum.")
            blob = writer.keep()
        joined = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in parts), usedforsecurity=False)
        etag = f"{joined.hexdigest()}-{len(parts)}"
        kept = [ObjectPart(part.number, part.size, part.checksum.get("value", "")) for part in parts]
        content = Content(blob, total, etag, upload.headers, checksum, upload.tags, kept)
        info = self.objects.commit(upload.bucket, upload.key, content, conditions)
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
        self.get(upload.bucket, upload.key, upload.id)  # or its parts went with it, by another completion
        algorithm, kind = upload.checksum.get("algorithm"), upload.checksum.get("type")
        for part in named:
            if kind == COMPOSITE and not part.checksum:
                text = (
                    f"The upload was created using a {algorithm} checksum. The complete request must include "
                    f"the checksum for each part. It was missing for part {part.number} in the request."
                )
                raise AwsError("InvalidRequest", text)
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
        algorithm = upload.checksum.get("algorithm", DEFAULT_ALGORITHM)
        kind = upload.checksum.get("type", FULL_OBJECT)
        whole = new_checksum(algorithm) if kind == FULL_OBJECT else None
        for part in parts:
            writer.write_file(self.objects.blobs.path(part.blob), 0, part.size, whole)
        if whole:
            value = base64_of(whole)
        else:
            of_parts = new_checksum(algorithm)
            for part in parts:
                of_parts.update(decoded(algorithm, part.checksum["value"]))
            value = f"{base64_of(of_parts)}-{len(parts)}"
        return {"algorithm": algorithm, "type": kind, "value": value}

    def _forget(self, upload: str) -> None:
        with self.objects.index.transaction() as index:
            blobs = index.execute("SELECT blob FROM parts WHERE upload = ?", (upload,)).fetchall()
            index.execute("DELETE FROM parts WHERE upload = ?", (upload,))
            index.execute("DELETE FROM uploads WHERE id = ?", (upload,))
        for (blob,) in blobs:
            self.objects.blobs.remove(blob)


def _no_upload(upload: str) -> AwsError:
    text = (
        "The specified upload does not exist. The upload ID may be invalid, "
        "or the upload may have been aborted or completed."
    )
    return AwsError("NoSuchUpload", text, 404, UploadId=upload)


def _upload(row: tuple[Any, ...]) -> Upload:
    name, bucket, key, started, headers, checksum, tags = row
    return Upload(
        name, bucket, key.decode(), started, json.loads(headers), json.loads(checksum), json.loads(tags)
    )
