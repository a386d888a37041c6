"""Multipart uploads in S3's REST protocol, over `lib.local.uploads`."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response

from lib.local import s3_headers, s3_xml, tags
from lib.local.checksums import CHECKSUM_PREFIX, multipart_type
from lib.local.objects import ObjectInfo
from lib.local.protocol import AwsError
from lib.local.s3_call import Call
from lib.local.uploads import Upload, Uploads

CopySource = Callable[[Call], tuple[ObjectInfo, str]]
"""Returns the object that a request names as its source, and a blob of its bytes for the request alone."""


class Multipart:
    """Answers requests about multipart uploads.

    Parameters
    ----------
    uploads : Uploads
    copy_source : callable
    """

    def __init__(self, uploads: Uploads, copy_source: CopySource) -> None:
        self._uploads = uploads
        self._copy_source = copy_source

    def upload_of(self, call: Call) -> Upload:
        """Return the upload that a request names."""
        return self._uploads.get(call.bucket, call.key, call.query["uploadId"])

    def create(self, call: Call) -> Response:
        """CreateMultipartUpload."""
        checksum = {}
        algorithm = call.headers.get("x-amz-checksum-algorithm", "").lower()
        kind = call.headers.get("x-amz-checksum-type", "")
        if algorithm:
            checksum = {"algorithm": algorithm, "type": multipart_type(algorithm, kind)}
        elif kind:
            text = "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
            raise AwsError("InvalidRequest", text)
        headers = s3_headers.kept(call.headers)
        tagging = tags.of_header(call.headers.get("x-amz-tagging", ""))
        upload = self._uploads.create(call.bucket, call.key, headers, checksum, tagging)
        nodes: list[s3_xml.Node] = [("Bucket", call.bucket), ("Key", call.key), ("UploadId", upload)]
        answer = {f"x-amz-checksum-{name}": value for name, value in checksum.items()}
        answer = {name: value.upper() for name, value in answer.items()}
        document = s3_xml.document("InitiateMultipartUploadResult", nodes)
        return Response(document, headers=answer, media_type=s3_xml.MEDIA_TYPE)

    def copy_part(self, call: Call) -> Response:
        """UploadPartCopy."""
        upload = self.upload_of(call)
        number = part_number(call)
        source, blob = self._copy_source(call)
        try:
            start, length = 0, source.size
            if "x-amz-copy-source-range" in call.headers:
                asked = call.headers["x-amz-copy-source-range"]
                start, length = s3_headers.copied_slice(asked, source.size)
            part = self._uploads.copy_part(upload, number, blob, start, length)
        finally:
            self._uploads.objects.blobs.remove(blob)
        nodes = [("ETag", f'"{part.etag}"'), ("LastModified", s3_xml.iso_time(part.modified))]
        document = s3_xml.document("CopyPartResult", nodes + s3_xml.checksum_nodes(part.checksum))
        return Response(document, media_type=s3_xml.MEDIA_TYPE)

    def complete(self, call: Call) -> Response:
        """CompleteMultipartUpload."""
        upload = self.upload_of(call)
        algorithm, kind = upload.checksum.get("algorithm", ""), upload.checksum.get("type", "")
        claimed = call.headers.get("x-amz-checksum-type", kind).upper()
        if kind and claimed != kind:
            text = (
                f"The upload was created using the {kind} checksum mode. "
                "The complete request must use the same checksum mode."
            )
            raise AwsError("InvalidRequest", text)
        expected = call.headers.get(f"{CHECKSUM_PREFIX}{algorithm}", "")
        size = call.headers.get("x-amz-mp-object-size", "")
        info = self._uploads.complete(upload, s3_xml.read_parts(call.body), expected, size, call.headers)
        nodes = [
            ("Location", f"/{info.bucket}/{info.key}"),
            ("Bucket", info.bucket),
            ("Key", info.key),
            ("ETag", f'"{info.etag}"'),
        ]
        nodes += s3_xml.checksum_nodes(info.checksum)
        document = s3_xml.document("CompleteMultipartUploadResult", nodes)
        return Response(document, media_type=s3_xml.MEDIA_TYPE)

    def abort(self, call: Call) -> Response:
        """AbortMultipartUpload."""
        self._uploads.abort(self.upload_of(call))
        return Response(status_code=204)

    def list_uploads(self, call: Call) -> Response:
        """ListMultipartUploads."""
        s3_xml.check_encoding(call.query)
        limit = s3_headers.number(call.query, "max-uploads", 1000)
        page = self._uploads.page(
            call.bucket,
            call.query.get("prefix", ""),
            call.query.get("delimiter", ""),
            (call.query.get("key-marker", ""), call.query.get("upload-id-marker", "")),
            limit,
        )
        document = s3_xml.upload_list(call.bucket, call.query, limit, page)
        return Response(document, media_type=s3_xml.MEDIA_TYPE)

    def list_parts(self, call: Call) -> Response:
        """ListParts."""
        upload = self.upload_of(call)
        limit = s3_headers.number(call.query, "max-parts", 1000)
        after = s3_headers.number(call.query, "part-number-marker", 0, most=10_000)
        parts = [part for part in self._uploads.parts(upload).values() if part.number > after]
        document = s3_xml.part_list(
            upload, call.query, parts[:limit], (after, limit), more=len(parts) > limit
        )
        return Response(document, media_type=s3_xml.MEDIA_TYPE)


def part_number(call: Call) -> int:
    """Return the part's number that a request names; what is out of range is refused later."""
    return s3_headers.number(call.query, "partNumber", 0, most=1_000_000)
