"""S3's REST protocol over `lib.local.objects` and `lib.local.uploads`.

Bodies of puts go to disk as they come and downloads come from disk as they go, a megabyte at a time.
What is not here (versions, access lists, policies, encryption with the client's keys) is answered
with S3's own NotImplemented.

Protocol: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lib.local import listing, s3_headers, s3_xml, streams, tags
from lib.local.blobs import COPY_BYTES, BlobWriter
from lib.local.checksums import CHECKSUM_PREFIX, DEFAULT_ALGORITHM, FULL_OBJECT
from lib.local.conditions import check_copy, check_write
from lib.local.objects import MAX_OBJECT_BYTES, Content, ObjectInfo, ObjectPart, Objects
from lib.local.payload import Payload, content_of
from lib.local.protocol import AwsError
from lib.local.s3_attributes import attributes
from lib.local.s3_call import Call, split_source
from lib.local.s3_multipart import Multipart, part_number
from lib.local.s3_xml import MEDIA_TYPE
from lib.local.uploads import Upload, Uploads

MAX_XML_BYTES = 4 * 1024**2
DEFAULT_REGION = "us-east-1"


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
        multipart = self._multipart = Multipart(uploads, self._copy_source)
        self._operations: dict[tuple[str, str, str], Callable[[Call], Response]] = {
            ("GET", "service", ""): self._list_buckets,
            ("PUT", "bucket", ""): self._create_bucket,
            ("HEAD", "bucket", ""): self._head_bucket,
            ("DELETE", "bucket", ""): self._delete_bucket,
            ("GET", "bucket", ""): self._list_objects,
            ("GET", "bucket", "location"): self._bucket_location,
            ("GET", "bucket", "versioning"): self._bucket_versioning,
            ("GET", "bucket", "uploads"): multipart.list_uploads,
            ("POST", "bucket", "delete"): self._delete_objects,
            ("GET", "bucket", "tagging"): self._bucket_tags,
            ("PUT", "bucket", "tagging"): self._set_bucket_tags,
            ("DELETE", "bucket", "tagging"): self._delete_bucket_tags,
            ("GET", "object", ""): self._get_object,
            ("HEAD", "object", ""): self._head_object,
            ("PUT", "object", ""): self._copy_object,
            ("DELETE", "object", ""): self._delete_object,
            ("GET", "object", "attributes"): self._object_attributes,
            ("GET", "object", "tagging"): self._object_tags,
            ("PUT", "object", "tagging"): self._set_object_tags,
            ("DELETE", "object", "tagging"): self._delete_object_tags,
            ("POST", "object", "uploads"): multipart.create,
            ("PUT", "object", "uploadId"): multipart.copy_part,
            ("GET", "object", "uploadId"): multipart.list_parts,
            ("POST", "object", "uploadId"): multipart.complete,
            ("DELETE", "object", "uploadId"): multipart.abort,
        }

    async def answer(self, request: Request, call: Call) -> Response:
        """Answer a request whose signature was checked.

        Raises
        ------
        AwsError
            With S3's codes.
        """
        s3_headers.refuse_unsupported(call.headers)
        subresource = call.subresource
        operation = self._operations.get((call.method, call.level, subresource))
        if operation is None:
            what = f"{call.method} {call.level}{' ' + subresource if subresource else ''}"
            raise AwsError("NotImplemented", f"{what} is not implemented by the local S3.", 501)
        is_copy = "x-amz-copy-source" in call.headers
        if call.method == "PUT" and call.key and subresource in ("", "uploadId") and not is_copy:
            return await self._receive(request, call, part=subresource == "uploadId")
        headers = call.headers
        if operation == self._multipart.complete:  # its checksum is the object's, not the body's
            headers = {name: headers[name] for name in headers if not name.startswith(CHECKSUM_PREFIX)}
        body = content_of(headers, await streams.read_all(request.stream(), MAX_XML_BYTES), call.signer)
        return await run_in_threadpool(operation, replace(call, body=body))

    # ---- service and buckets

    def _list_buckets(self, call: Call) -> Response:
        return Response(s3_xml.bucket_list(self._objects.buckets()), media_type=MEDIA_TYPE)

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
        return Response(s3_xml.text_document("LocationConstraint", name), media_type=MEDIA_TYPE)

    def _bucket_versioning(self, call: Call) -> Response:
        self._objects.bucket(call.bucket)
        return Response(s3_xml.text_document("VersioningConfiguration", ""), media_type=MEDIA_TYPE)

    def _list_objects(self, call: Call) -> Response:
        limit = s3_headers.number(call.query, "max-keys", 1000)
        s3_xml.check_encoding(call.query)
        page = listing.page(
            self._objects,
            call.bucket,
            call.query.get("prefix", ""),
            call.query.get("delimiter", ""),
            s3_xml.listing_start(call.query),
            limit,
        )
        return Response(s3_xml.object_list(call.bucket, call.query, limit, page), media_type=MEDIA_TYPE)

    def _delete_objects(self, call: Call) -> Response:
        self._objects.bucket(call.bucket)
        named, quiet = s3_xml.read_deletions(call.body)
        nodes: list[s3_xml.Node] = []
        for key, condition in named:
            try:
                self._objects.delete(call.bucket, key, {"if-match": condition} if condition else {})
                nodes += [] if quiet else [("Deleted", [("Key", key)])]
            except AwsError as error:
                nodes.append(
                    ("Error", [("Key", key), ("Code", error.code), ("Message", error.message)]),
                )
        return Response(s3_xml.document("DeleteResult", nodes), media_type=MEDIA_TYPE)

    def _bucket_tags(self, call: Call) -> Response:
        found = self._objects.bucket_tags(call.bucket)
        if not found:
            text = "The TagSet does not exist"
            raise AwsError("NoSuchTagSet", text, 404, BucketName=call.bucket)
        return Response(s3_xml.tagging(found), media_type=MEDIA_TYPE)

    def _set_bucket_tags(self, call: Call) -> Response:
        found = tags.checked(s3_xml.read_tags(call.body), tags.MAX_BUCKET_TAGS)
        self._objects.set_bucket_tags(call.bucket, found)
        return Response(status_code=204)

    def _delete_bucket_tags(self, call: Call) -> Response:
        self._objects.set_bucket_tags(call.bucket, {})
        return Response(status_code=204)

    # ---- objects

    def _get_object(self, call: Call) -> Response:
        info, file = self._objects.open(call.bucket, call.key)
        try:
            status, headers, start, length = s3_headers.of_download(call, info, self._parts(call, info))
            file.seek(start)
            if length <= COPY_BYTES:
                data = file.read(length)
                file.close()
                return Response(data, status, headers)
        except BaseException:
            file.close()
            raise
        return StreamingResponse(streams.read_slice(file, length), status, headers)

    def _head_object(self, call: Call) -> Response:
        info = self._objects.get(call.bucket, call.key)
        status, headers, _, _ = s3_headers.of_download(call, info, self._parts(call, info))
        return Response(status_code=status, headers=headers)

    def _parts(self, call: Call, info: ObjectInfo) -> list[ObjectPart]:
        return self._objects.parts(info) if "partNumber" in call.query else []

    def _delete_object(self, call: Call) -> Response:
        self._objects.delete(call.bucket, call.key, call.headers)
        return Response(status_code=204)

    def _object_attributes(self, call: Call) -> Response:
        info = self._objects.get(call.bucket, call.key)
        nodes = attributes(call.headers, info, self._objects.parts(info))
        headers = {"last-modified": s3_headers.http_time(info.modified)}
        document = s3_xml.document("GetObjectAttributesResponse", nodes)
        return Response(document, headers=headers, media_type=MEDIA_TYPE)

    def _object_tags(self, call: Call) -> Response:
        info = self._objects.get(call.bucket, call.key)
        return Response(s3_xml.tagging(info.tags), media_type=MEDIA_TYPE)

    def _set_object_tags(self, call: Call) -> Response:
        found = tags.checked(s3_xml.read_tags(call.body), tags.MAX_OBJECT_TAGS)
        self._objects.set_tags(call.bucket, call.key, found)
        return Response()

    def _delete_object_tags(self, call: Call) -> Response:
        self._objects.set_tags(call.bucket, call.key, {})
        return Response(status_code=204)

    def _copy_object(self, call: Call) -> Response:
        self._objects.check_key(call.bucket, call.key)
        new_headers = s3_headers.directive(call.headers, "x-amz-metadata-directive") == "REPLACE"
        new_tags = s3_headers.directive(call.headers, "x-amz-tagging-directive") == "REPLACE"
        headers = s3_headers.kept(call.headers)
        tagging = tags.of_header(call.headers.get("x-amz-tagging", ""))
        algorithm = call.headers.get("x-amz-checksum-algorithm", "").lower()
        source, blob = self._copy_source(call)
        try:
            if (source.bucket, source.key) == (call.bucket, call.key) and not (new_headers or algorithm):
                text = (
                    "This copy request is illegal because it is trying to copy an object to itself without "
                    "changing the object's metadata, storage class, website redirect location or encryption "
                    "attributes."
                )
                raise AwsError("InvalidRequest", text)
            checksum = source.checksum
            if algorithm and (algorithm, FULL_OBJECT) != (checksum.get("algorithm"), checksum.get("type")):
                checksum = self._objects.blobs.checksum(blob, algorithm)
        except BaseException:
            self._objects.blobs.remove(blob)
            raise
        content = Content(
            blob,
            source.size,
            source.etag,
            headers if new_headers else source.headers,
            checksum,
            tagging if new_tags else source.tags,
            self._objects.parts(source),
        )
        info = self._objects.commit(call.bucket, call.key, content, call.headers)
        nodes = [("ETag", f'"{info.etag}"'), ("LastModified", s3_xml.iso_time(info.modified))]
        document = s3_xml.document("CopyObjectResult", nodes + s3_xml.checksum_nodes(info.checksum))
        return Response(document, media_type=MEDIA_TYPE)

    def _copy_source(self, call: Call) -> tuple[ObjectInfo, str]:
        """Return the object to copy, and a blob of its bytes."""
        info, blob = self._objects.snapshot(*split_source(call.headers["x-amz-copy-source"]))
        try:
            check_copy(info.etag, info.modified, call.headers)
        except BaseException:
            self._objects.blobs.remove(blob)
            raise
        return info, blob

    async def _receive(self, request: Request, call: Call, *, part: bool) -> Response:
        """Store the body of a put as an object or as a part of an upload."""
        upload = await run_in_threadpool(self._before_put, call, part)
        payload = Payload(call.headers, call.signer, _default_checksum(upload))
        if payload.length > MAX_OBJECT_BYTES:
            raise AwsError("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
        with self._objects.blobs.create() as writer:
            await streams.work_through(request.stream(), lambda piece: writer.write(payload.feed(piece)))
            payload.finish()
            return await run_in_threadpool(self._after_put, call, upload, writer, payload.checksum)

    def _before_put(self, call: Call, part: bool) -> Upload | None:
        if part:
            return self._multipart.upload_of(call)
        self._objects.check_key(call.bucket, call.key)
        s3_headers.kept(call.headers)
        tags.of_header(call.headers.get("x-amz-tagging", ""))
        found = self._objects.find(call.bucket, call.key)
        check_write(found.etag if found else None, call.headers)
        return None

    def _after_put(
        self, call: Call, upload: Upload | None, writer: BlobWriter, checksum: dict[str, str]
    ) -> Response:
        if upload:
            self._uploads.add_part(upload, part_number(call), writer, checksum)
        else:
            headers = s3_headers.kept(call.headers)
            tagging = tags.of_header(call.headers.get("x-amz-tagging", ""))
            content = Content(writer.keep(), writer.size, writer.etag, headers, checksum, tagging)
            self._objects.commit(call.bucket, call.key, content, call.headers)
        told = {name: value for name, value in checksum.items() if not (upload and name == "type")}
        answer = {"ETag": f'"{writer.etag}"', **s3_headers.of_checksum(told)}
        return Response(headers=answer)


def _default_checksum(upload: Upload | None) -> str:
    """Return the checksum to compute of a body that comes without one.

    Parts of an upload whose checksum is of the whole object may come without; where it is made of those
    of its parts, each must have one.
    """
    if upload is None:
        return DEFAULT_ALGORITHM
    return upload.checksum["algorithm"] if upload.checksum.get("type") == FULL_OBJECT else ""
