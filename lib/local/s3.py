"""S3's REST protocol over `lib.local.objects` and `lib.local.uploads`.

Bodies of puts go to disk as they come and downloads come from disk as they go, a megabyte at a time.
What is not here (versions, tags, access lists, policies, encryption with the client's keys) is answered
with S3's own NotImplemented.

Protocol: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lib.local import s3_headers, s3_xml
from lib.local.blobs import COPY_BYTES, BlobWriter
from lib.local.objects import MAX_OBJECT_BYTES, ObjectInfo, Objects, precondition_failed
from lib.local.payload import CHECKSUM_PREFIX, Payload, content_of
from lib.local.protocol import AwsError
from lib.local.uploads import Upload, Uploads

MAX_XML_BYTES = 4 * 1024**2
DEFAULT_REGION = "us-east-1"

_SUBRESOURCES = frozenset(
    """abac accelerate acl analytics attributes cors delete encryption inventory legal-hold lifecycle
    location logging metadataConfiguration metadataTable metrics notification object-lock
    ownershipControls partNumber policy policyStatus publicAccessBlock renameObject replication
    requestPayment restore retention select session tagging torrent uploadId uploads versioning versions
    website""".split()  # noqa: SIM905
)
"""Query names that stand for a part of a bucket or object, with an operation of their own."""

_XML = "application/xml"


@dataclass(frozen=True)
class Call:
    """A request to S3, taken apart.

    Attributes
    ----------
    bucket, key : str
        Empty where the request is about the service or a bucket.
    query, headers : mapping
        Header names in small letters.
    region : str
        The region the client signed for.
    body : bytes
        The whole body, of requests whose body is not an object.
    """

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    region: str
    body: bytes = b""

    @property
    def resource(self) -> str:
        """What the request is about, as errors name it."""
        return f"/{self.bucket}/{self.key}" if self.key else f"/{self.bucket}"


def split_path(raw_path: str) -> tuple[str, str]:
    """Return bucket and key of a request's percent-encoded path.

    Raises
    ------
    AwsError
        InvalidURI where the key is not UTF-8.
    """
    bucket, _, key = raw_path.removeprefix("/").partition("/")
    try:
        return unquote_to_bytes(bucket).decode(), unquote_to_bytes(key).decode()
    except UnicodeDecodeError:
        raise AwsError("InvalidURI", "Couldn't parse the specified URI.") from None


class S3:
    """Answers requests to S3.

    Parameters
    ----------
    objects : Objects
    uploads : Uploads
    """

    def __init__(self, objects: Objects, uploads: Uploads) -> None:
        self._objects = objects
        self._uploads = uploads
        self._operations: dict[tuple[str, str, str], Callable[[Call], Response]] = {
            ("GET", "service", ""): self._list_buckets,
            ("PUT", "bucket", ""): self._create_bucket,
            ("HEAD", "bucket", ""): self._head_bucket,
            ("DELETE", "bucket", ""): self._delete_bucket,
            ("GET", "bucket", ""): self._list_objects,
            ("GET", "bucket", "location"): self._bucket_location,
            ("GET", "bucket", "versioning"): self._bucket_versioning,
            ("GET", "bucket", "uploads"): self._list_uploads,
            ("POST", "bucket", "delete"): self._delete_objects,
            ("GET", "object", ""): self._get_object,
            ("HEAD", "object", ""): self._head_object,
            ("PUT", "object", ""): self._copy_object,
            ("DELETE", "object", ""): self._delete_object,
            ("POST", "object", "uploads"): self._create_upload,
            ("PUT", "object", "uploadId"): self._copy_part,
            ("GET", "object", "uploadId"): self._list_parts,
            ("POST", "object", "uploadId"): self._complete_upload,
            ("DELETE", "object", "uploadId"): self._abort_upload,
        }

    async def answer(self, request: Request, call: Call) -> Response:
        """Answer a request whose signature was checked.

        Raises
        ------
        AwsError
            With S3's codes.
        """
        s3_headers.refuse_unsupported(call.headers)
        level = "object" if call.key else "bucket" if call.bucket else "service"
        subresource = _subresource(call.query)
        operation = self._operations.get((call.method, level, subresource))
        if operation is None:
            what = f"{call.method} {level}{' ' + subresource if subresource else ''}"
            raise AwsError("NotImplemented", f"{what} is not implemented by the local S3.", 501)
        if call.method == "PUT" and call.key and "x-amz-copy-source" not in call.headers:
            return await self._receive(request, call, part=subresource == "uploadId")
        headers = call.headers
        if operation == self._complete_upload:  # its checksum is the object's, not the body's
            headers = {name: headers[name] for name in headers if not name.startswith(CHECKSUM_PREFIX)}
        body = content_of(headers, await _read_body(request))
        return await run_in_threadpool(operation, replace(call, body=body))

    # ---- service and buckets

    def _list_buckets(self, call: Call) -> Response:
        return Response(s3_xml.bucket_list(self._objects.buckets()), media_type=_XML)

    def _create_bucket(self, call: Call) -> Response:
        region = DEFAULT_REGION
        if call.body:
            root = s3_xml.read(call.body, "CreateBucketConfiguration")
            region = root.findtext("LocationConstraint") or DEFAULT_REGION
        created = self._objects.create_bucket(call.bucket, region)
        if not created and region != DEFAULT_REGION:
            text = "Your previous request to create the named bucket succeeded and you already own it."
            raise AwsError("BucketAlreadyOwnedByYou", text, 409, BucketName=call.bucket)
        return Response(headers={"Location": f"/{call.bucket}"})

    def _head_bucket(self, call: Call) -> Response:
        return Response(headers={"x-amz-bucket-region": self._objects.bucket(call.bucket).region})

    def _delete_bucket(self, call: Call) -> Response:
        self._objects.delete_bucket(call.bucket)
        return Response(status_code=204)

    def _bucket_location(self, call: Call) -> Response:
        region = self._objects.bucket(call.bucket).region
        name = "" if region == DEFAULT_REGION else region
        return Response(s3_xml.text_document("LocationConstraint", name), media_type=_XML)

    def _bucket_versioning(self, call: Call) -> Response:
        self._objects.bucket(call.bucket)
        return Response(s3_xml.text_document("VersioningConfiguration", ""), media_type=_XML)

    def _list_objects(self, call: Call) -> Response:
        limit = s3_headers.number(call.query, "max-keys", 1000)
        page = self._objects.page(
            call.bucket,
            call.query.get("prefix", ""),
            call.query.get("delimiter", ""),
            s3_xml.listing_start(call.query),
            limit,
        )
        return Response(s3_xml.object_list(call.bucket, call.query, limit, page), media_type=_XML)

    def _delete_objects(self, call: Call) -> Response:
        self._objects.bucket(call.bucket)
        keys, quiet = s3_xml.read_deletions(call.body)
        for key in keys:
            self._objects.delete(call.bucket, key)
        deleted = [] if quiet else [("Deleted", [("Key", key)]) for key in keys]
        return Response(s3_xml.document("DeleteResult", deleted), media_type=_XML)

    # ---- objects

    def _get_object(self, call: Call) -> Response:
        info, file = self._objects.open(call.bucket, call.key)
        try:
            status, headers, start, length = s3_headers.of_download(call, info)
            file.seek(start)
            if length <= COPY_BYTES:
                data = file.read(length)
                file.close()
                return Response(data, status, headers)
        except BaseException:
            file.close()
            raise
        return StreamingResponse(_read_slice(file, length), status, headers)

    def _head_object(self, call: Call) -> Response:
        status, headers, _, _ = s3_headers.of_download(call, self._objects.get(call.bucket, call.key))
        return Response(status_code=status, headers=headers)

    def _delete_object(self, call: Call) -> Response:
        self._objects.delete(call.bucket, call.key)
        return Response(status_code=204)

    def _copy_object(self, call: Call) -> Response:
        self._objects.check_key(call.bucket, call.key)
        new_headers = call.headers.get("x-amz-metadata-directive", "COPY").upper() == "REPLACE"
        source, blob = self._copy_source(call)
        if (source.bucket, source.key) == (call.bucket, call.key) and not new_headers:
            self._objects.blobs.remove(blob)
            text = (
                "This copy request is illegal because it is trying to copy an object to itself without "
                "changing the object's metadata, storage class, website redirect location or encryption "
                "attributes."
            )
            raise AwsError("InvalidRequest", text)
        headers = s3_headers.kept(call.headers) if new_headers else source.headers
        info = self._objects.commit_blob(
            call.bucket, call.key, blob, source.size, source.etag, headers, source.checksum
        )
        nodes = [("ETag", f'"{info.etag}"'), ("LastModified", s3_xml.iso_time(info.modified))]
        document = s3_xml.document("CopyObjectResult", nodes + s3_xml.checksum_nodes(info.checksum))
        return Response(document, media_type=_XML)

    def _copy_source(self, call: Call) -> tuple[ObjectInfo, str]:
        """Return the object to copy, and a blob of its bytes."""
        path, _, version = call.headers["x-amz-copy-source"].partition("?versionId=")
        if version not in ("", "null"):
            raise AwsError("NotImplemented", "The local AWS has no versions of objects.", 501)
        info, blob = self._objects.snapshot(*split_path(path))
        if not s3_headers.copy_allowed(call.headers, info):
            self._objects.blobs.remove(blob)
            raise precondition_failed()
        return info, blob

    async def _receive(self, request: Request, call: Call, *, part: bool) -> Response:
        """Store the body of a put as an object or as a part of an upload."""
        upload = await run_in_threadpool(self._before_put, call, part)
        payload = Payload(call.headers)
        if payload.length > MAX_OBJECT_BYTES:
            raise AwsError("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
        with self._objects.blobs.create() as writer:
            async for data in _in_large_pieces(request.stream()):
                await run_in_threadpool(lambda piece: writer.write(payload.feed(piece)), data)
            payload.finish()
            return await run_in_threadpool(self._after_put, call, upload, writer, payload)

    def _before_put(self, call: Call, part: bool) -> Upload | None:
        if part:
            return self._uploads.get(call.bucket, call.key, call.query["uploadId"])
        self._objects.check_key(call.bucket, call.key)
        s3_headers.kept(call.headers)
        if call.headers.get("if-none-match") == "*" and self._objects.find(call.bucket, call.key):
            raise precondition_failed()
        return None

    def _after_put(self, call: Call, upload: Upload | None, writer: BlobWriter, payload: Payload) -> Response:
        checksum = {}
        if payload.checksum:
            algorithm, value = payload.checksum
            checksum = {"algorithm": algorithm, "value": value, "type": "FULL_OBJECT"}
        if upload:
            self._uploads.add_part(upload, _part_number(call), writer, checksum)
        else:
            headers = s3_headers.kept(call.headers)
            self._objects.commit(call.bucket, call.key, writer, headers, checksum, call.headers)
        answer = {"ETag": f'"{writer.etag}"', **s3_headers.of_checksum(checksum)}
        return Response(headers=answer)

    # ---- multipart uploads

    def _create_upload(self, call: Call) -> Response:
        checksum = {}
        algorithm = call.headers.get("x-amz-checksum-algorithm", "").lower()
        if algorithm:
            kind = call.headers.get("x-amz-checksum-type", "COMPOSITE").upper()
            checksum = {"algorithm": algorithm, "type": kind}
        headers = s3_headers.kept(call.headers)
        upload = self._uploads.create(call.bucket, call.key, headers, checksum)
        nodes = [("Bucket", call.bucket), ("Key", call.key), ("UploadId", upload)]
        answer = {f"x-amz-checksum-{name}": value for name, value in checksum.items()}
        document = s3_xml.document("InitiateMultipartUploadResult", nodes)
        return Response(document, headers=answer, media_type=_XML)

    def _copy_part(self, call: Call) -> Response:
        upload = self._uploads.get(call.bucket, call.key, call.query["uploadId"])
        source, blob = self._copy_source(call)
        try:
            start, length = 0, source.size
            if "x-amz-copy-source-range" in call.headers:
                start, length = s3_headers.slice_of(call.headers["x-amz-copy-source-range"], source.size)
            part = self._uploads.copy_part(upload, _part_number(call), blob, start, length)
        finally:
            self._objects.blobs.remove(blob)
        nodes = [("ETag", f'"{part.etag}"'), ("LastModified", s3_xml.iso_time(part.modified))]
        document = s3_xml.document("CopyPartResult", nodes + s3_xml.checksum_nodes(part.checksum))
        return Response(document, media_type=_XML)

    def _complete_upload(self, call: Call) -> Response:
        upload = self._uploads.get(call.bucket, call.key, call.query["uploadId"])
        expected = call.headers.get(f"x-amz-checksum-{upload.checksum.get('algorithm', '')}", "")
        info = self._uploads.complete(upload, s3_xml.read_parts(call.body), expected, call.headers)
        nodes = [
            ("Location", f"/{info.bucket}/{info.key}"),
            ("Bucket", info.bucket),
            ("Key", info.key),
            ("ETag", f'"{info.etag}"'),
        ]
        nodes += s3_xml.checksum_nodes(info.checksum)
        return Response(s3_xml.document("CompleteMultipartUploadResult", nodes), media_type=_XML)

    def _abort_upload(self, call: Call) -> Response:
        self._uploads.abort(self._uploads.get(call.bucket, call.key, call.query["uploadId"]))
        return Response(status_code=204)

    def _list_uploads(self, call: Call) -> Response:
        found = self._uploads.under_way(call.bucket, call.query.get("prefix", ""))
        return Response(s3_xml.upload_list(call.bucket, call.query, found), media_type=_XML)

    def _list_parts(self, call: Call) -> Response:
        upload = self._uploads.get(call.bucket, call.key, call.query["uploadId"])
        limit = s3_headers.number(call.query, "max-parts", 1000)
        after = s3_headers.number(call.query, "part-number-marker", 0, most=10_000)
        parts = [part for part in self._uploads.parts(upload).values() if part.number > after]
        document = s3_xml.part_list(upload, parts[:limit], limit, more=len(parts) > limit)
        return Response(document, media_type=_XML)


def _subresource(query: Mapping[str, str]) -> str:
    """Return which part of a bucket or object a query is about; empty for the thing itself.

    Raises
    ------
    AwsError
        NotImplemented for an object's version.
    """
    if query.get("versionId", "null") != "null":
        raise AwsError("NotImplemented", "The local AWS has no versions of objects.", 501)
    named = sorted(_SUBRESOURCES & query.keys())
    if "uploadId" in named:  # beside partNumber
        return "uploadId"
    return named[0] if named else ""


def _part_number(call: Call) -> int:
    return s3_headers.number(call.query, "partNumber", 0, most=1_000_000)


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for data in request.stream():
        body += data
        if len(body) > MAX_XML_BYTES:
            raise AwsError("MaxMessageLengthExceeded", "Your request was too big.")
    return bytes(body)


async def _in_large_pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join small pieces: hashing and writing have their cost a call."""
    pieces: list[bytes] = []
    size = 0
    async for data in stream:
        pieces.append(data)
        size += len(data)
        if size >= COPY_BYTES:
            yield b"".join(pieces)
            pieces, size = [], 0
    if size:
        yield b"".join(pieces)


async def _read_slice(file: BinaryIO, length: int) -> AsyncIterator[bytes]:
    """Yield ``length`` bytes of an open file, and close it."""
    try:
        left = length
        while left:
            data = await run_in_threadpool(file.read, min(left, COPY_BYTES))
            if not data:
                return
            left -= len(data)
            yield data
    finally:
        file.close()
