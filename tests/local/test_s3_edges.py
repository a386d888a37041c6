"""What a picky client of S3 trips over: markers, odd keys, conditions, ranges and refusals in detail."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from lib.local import Server
from lib.local.signing import SignedRequest, read_claim, sign, signing_key

NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
Answer = tuple[int, bytes, dict[str, str]]


@pytest.fixture(scope="module")
def s3(local_aws: Server) -> Any:
    return boto3.client("s3")


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"e-{zlib.crc32(request.node.name.encode())}"
    s3.create_bucket(Bucket=name)
    yield name
    everything = boto3.resource("s3").Bucket(name)
    everything.objects.all().delete()
    for upload in everything.multipart_uploads.all():
        upload.abort()
    everything.delete()


@pytest.fixture
def raw(local_aws: Server) -> Iterator[Any]:
    """Return a function that signs a request and sends it as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", local_aws.port, timeout=10)

    def send(method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        where, _, query = path.partition("?")
        request = SignedRequest(method, where, query, {"host": f"127.0.0.1:{local_aws.port}", **named})
        signed = sign(request, body, "s3", "us-east-1", local_aws.credentials)
        connection.request(method, path, body, signed)
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}

    yield send
    connection.close()


def put(s3: Any, bucket: str, *keys: str, body: bytes = b"x") -> None:
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=body)


def code_of(call: Any, **options: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**options)
    return str(caught.value.response["Error"]["Code"])


def texts(body: bytes, path: str) -> list[str | None]:
    root = ElementTree.fromstring(body)
    return [element.text for element in root.findall("/".join(NAMESPACE + name for name in path.split("/")))]


# ---- keys

ODD = [
    "x",
    "x/",
    "x/y",
    "/x",
    "//x",
    "x//",
    ".",
    "..",
    "a/../b",
    "a/./b",
    "%2F",
    "%",
    "%zz",
    "+",
    " ",
    "a+b c",
    "trailing ",
    "?a=b",
    "#",
    "a;b,c",
    "'\"`\\",
    "*!()~$@:=&",
    "é",
    "e\u0301",  # another key than the one before: keys are bytes
    "日本語",
    "🎬",
    "\x7f\r",
    "a\nb\tc",
    "ü" * 512,
]


def test_odd_keys_are_all_of_them_different_objects(s3: Any, bucket: str) -> None:
    for key in ODD:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode(), Metadata={"n": str(ODD.index(key))})
    listed = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert listed == sorted(ODD, key=str.encode)
    for number, key in enumerate(ODD):
        answer = s3.get_object(Bucket=bucket, Key=key)
        assert (answer["Body"].read(), answer["Metadata"]) == (key.encode(), {"n": str(number)})
        s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
        assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == key.encode()
    deleted = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in ODD]})["Deleted"]
    assert [item["Key"] for item in deleted] == ODD
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["copy"]


def test_a_key_has_1024_bytes_at_most(s3: Any, bucket: str) -> None:
    longest, longer = "ü" * 512, "ü" * 512 + "x"
    target = {"Bucket": bucket, "Key": longer}
    put(s3, bucket, longest)
    source = {"Bucket": bucket, "Key": longest}
    assert code_of(s3.put_object, **target, Body=b"") == "KeyTooLongError"
    assert code_of(s3.copy_object, **target, CopySource=source) == "KeyTooLongError"
    assert code_of(s3.create_multipart_upload, **target) == "KeyTooLongError"
    assert code_of(s3.get_object, **target) in ("KeyTooLongError", "NoSuchKey")


def test_a_copy_source_may_be_encoded_in_any_way(s3: Any, bucket: str, raw: Any) -> None:
    put(s3, bucket, "a b/ü", body=b"copied")
    sources = (
        f"{bucket}/{quote('a b/ü')}",
        f"/{bucket}/{quote('a b/ü')}",
        quote(f"{bucket}/a b/ü", safe=""),
        f"/{bucket}/{quote('a b/ü')}?versionId=null",
    )
    for number, source in enumerate(sources):
        status, body, _ = raw("PUT", f"/{bucket}/to{number}", x_amz_copy_source=source)
        assert status == 200, body
        assert s3.get_object(Bucket=bucket, Key=f"to{number}")["Body"].read() == b"copied"
    for source in (bucket, f"{bucket}/", "/", ""):
        status, body, _ = raw("PUT", f"/{bucket}/to", x_amz_copy_source=source)
        assert (status, b"InvalidArgument" in body) == (400, True), source


# ---- listings


def test_url_encoding_of_a_listing_is_asked_for_and_said(s3: Any, bucket: str, raw: Any) -> None:
    put(s3, bucket, "a b+ü", "d i/r/x")
    _, body, _ = raw("GET", f"/{bucket}?list-type=2&encoding-type=url&delimiter=%2F&prefix=&start-after=%20")
    assert texts(body, "EncodingType") == ["url"]
    assert texts(body, "Contents/Key") == ["a%20b%2B%C3%BC"]
    assert texts(body, "CommonPrefixes/Prefix") == ["d%20i/"]
    assert texts(body, "StartAfter") == ["%20"]
    _, body, _ = raw("GET", f"/{bucket}?list-type=2")
    assert (texts(body, "EncodingType"), texts(body, "Contents/Key")[0]) == ([], "a b+ü")
    status, body, _ = raw("GET", f"/{bucket}?list-type=2&encoding-type=base64")
    assert (status, b"InvalidArgument" in body) == (400, True)


def test_markers_of_the_first_listing_version(s3: Any, bucket: str) -> None:
    put(s3, bucket, "a", "b/1", "b/2", "c", "d")
    first = s3.list_objects(Bucket=bucket, MaxKeys=2, Delimiter="/")
    assert (first["NextMarker"], first["Marker"], first["IsTruncated"]) == ("b/", "", True)
    second = s3.list_objects(Bucket=bucket, MaxKeys=2, Delimiter="/", Marker="b/")
    assert [item["Key"] for item in second["Contents"]] == ["c", "d"]
    assert "CommonPrefixes" not in second
    inside = s3.list_objects(Bucket=bucket, Marker="b/1")
    assert [item["Key"] for item in inside["Contents"]] == ["b/2", "c", "d"]
    without = s3.list_objects(Bucket=bucket, MaxKeys=2)
    assert "NextMarker" not in without  # S3 tells it with a delimiter only
    assert without["IsTruncated"]
    assert all("Owner" in item for item in first["Contents"])


def test_a_listing_of_nothing_and_of_more_than_allowed(s3: Any, bucket: str, raw: Any) -> None:
    put(s3, bucket, "a", "b")
    for operation in (s3.list_objects, s3.list_objects_v2):
        none = operation(Bucket=bucket, MaxKeys=0)
        assert (none["IsTruncated"], none["MaxKeys"]) == (False, 0)
        assert "Contents" not in none
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=5000)["MaxKeys"] == 1000
    for value in ("-1", "x", "99999999999"):
        status, body, _ = raw("GET", f"/{bucket}?list-type=2&max-keys={value}")
        assert (status, b"InvalidArgument" in body) == (400, True)
    status, body, _ = raw("GET", f"/{bucket}?list-type=2&max-keys=&prefix=&delimiter=&start-after=")
    assert (status, texts(body, "Contents/Key")) == (200, ["a", "b"])


def test_the_owner_is_told_where_it_is_asked_for(s3: Any, bucket: str) -> None:
    put(s3, bucket, "a")
    assert "Owner" not in s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert "ID" in s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0]["Owner"]


def test_many_folders_are_listed_page_by_page(s3: Any, bucket: str) -> None:
    keys = [f"{folder:03d}/{number}" for folder in range(70) for number in range(3)]
    put(s3, bucket, *keys)
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 9}
    )
    found = [item["Prefix"] for page in pages for item in page["CommonPrefixes"]]
    assert found == [f"{folder:03d}/" for folder in range(70)]


# ---- conditions


def test_conditions_of_a_read_in_their_order_of_precedence(s3: Any, bucket: str, raw: Any) -> None:
    put(s3, bucket, "k")
    head = s3.head_object(Bucket=bucket, Key="k")
    etag, modified = head["ETag"], head["LastModified"]
    before = (modified - timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    exactly = modified.strftime("%a, %d %b %Y %H:%M:%S GMT")
    path = f"/{bucket}/k"
    for headers, status in (
        ({"if_match": etag}, 200),
        ({"if_match": etag.strip('"')}, 200),
        ({"if_match": f'"other", {etag}'}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": '"other"'}, 412),
        ({"if_match": etag, "if_unmodified_since": before}, 200),  # If-Match wins
        ({"if_unmodified_since": before}, 412),
        ({"if_unmodified_since": exactly}, 200),
        ({"if_none_match": etag}, 304),
        ({"if_none_match": f"W/{etag}"}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"other"', "if_modified_since": exactly}, 200),  # If-None-Match wins
        ({"if_modified_since": exactly}, 304),
        ({"if_modified_since": before}, 200),
        ({"if_modified_since": "nonsense"}, 200),
    ):
        for method in ("GET", "HEAD"):
            got, body, told = raw(method, path, **headers)
            assert got == status, (method, headers)
            if got == 304:
                assert (body, told["etag"]) == (b"", etag)
                assert "content-length" not in told or told["content-length"] == "0"
            if got == 412 and method == "HEAD":
                assert body == b""


def test_conditions_of_a_write(s3: Any, bucket: str, raw: Any) -> None:
    target = {"Bucket": bucket, "Key": "k"}
    assert code_of(s3.put_object, **target, Body=b"x", IfMatch='"a"') == "NoSuchKey"
    put(s3, bucket, "k")
    etag = s3.head_object(**target)["ETag"]
    source = {"Bucket": bucket, "Key": "k"}
    copy = {"Bucket": bucket, "Key": "copy", "CopySource": source}
    assert raw("PUT", f"/{bucket}/k", b"y", if_none_match=etag)[0] == 501
    s3.copy_object(**copy, IfNoneMatch="*")
    assert code_of(s3.copy_object, **copy, IfNoneMatch="*") == "PreconditionFailed"
    assert code_of(s3.copy_object, **copy, IfMatch='"other"') == "PreconditionFailed"
    upload = {**target, "UploadId": s3.create_multipart_upload(**target)["UploadId"]}
    part = s3.upload_part(**upload, PartNumber=1, Body=b"new")
    named = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    complete = s3.complete_multipart_upload
    refused = code_of(complete, **upload, MultipartUpload=named, IfNoneMatch="*")
    assert refused == "PreconditionFailed"
    assert s3.get_object(**target)["Body"].read() == b"x"
    complete(**upload, MultipartUpload=named, IfMatch=etag)
    assert s3.get_object(**target)["Body"].read() == b"new"


def test_conditions_of_a_copy_on_its_source(s3: Any, bucket: str) -> None:
    put(s3, bucket, "k")
    etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    copy = {"Bucket": bucket, "Key": "to", "CopySource": {"Bucket": bucket, "Key": "k"}}
    hour = timedelta(hours=1)
    before, after = datetime.now(UTC) - hour, datetime.now(UTC) + hour
    for condition in (
        {"CopySourceIfMatch": '"other"'},
        {"CopySourceIfNoneMatch": etag},
        {"CopySourceIfModifiedSince": after},
        {"CopySourceIfUnmodifiedSince": before},
    ):
        assert code_of(s3.copy_object, **copy, **condition) == "PreconditionFailed"
    s3.copy_object(**copy, CopySourceIfMatch=etag, CopySourceIfUnmodifiedSince=before)
    s3.copy_object(**copy, CopySourceIfNoneMatch='"other"', CopySourceIfModifiedSince=before)


def test_conditions_of_a_deletion(s3: Any, bucket: str) -> None:
    put(s3, bucket, "a", "b")
    etag = s3.head_object(Bucket=bucket, Key="a")["ETag"]
    assert code_of(s3.delete_object, Bucket=bucket, Key="a", IfMatch='"other"') == "PreconditionFailed"
    assert code_of(s3.delete_object, Bucket=bucket, Key="not-there", IfMatch="*") == "NoSuchKey"
    named = [{"Key": "a", "ETag": '"other"'}, {"Key": "b", "ETag": etag}]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": named})
    assert [item["Key"] for item in answer["Deleted"]] == ["b"]
    assert [(item["Key"], item["Code"]) for item in answer["Errors"]] == [("a", "PreconditionFailed")]
    s3.delete_object(Bucket=bucket, Key="a", IfMatch=etag)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


# ---- ranges and HEAD


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=0-0", 206, b"0"),
        ("bytes=9-", 206, b"9"),
        ("bytes=-1", 206, b"9"),
        ("bytes=-100", 206, b"0123456789"),
        ("bytes=3-2", 200, b"0123456789"),
        ("bytes=-", 200, b"0123456789"),
        ("bytes=a-b", 200, b"0123456789"),
        ("items=0-1", 200, b"0123456789"),
        ("bytes=0-1,3-4", 200, b"0123456789"),
        ("bytes=10-", 416, b""),
        ("bytes=-0", 416, b""),
    ],
)
def test_ranges_as_they_stand(
    s3: Any, bucket: str, raw: Any, asked: str, status: int, content: bytes
) -> None:
    put(s3, bucket, "k", body=b"0123456789")
    got, body, headers = raw("GET", f"/{bucket}/k", range=asked)
    assert got == status
    if status != 416:
        assert (body, headers["content-length"]) == (content, str(len(content)))
        assert ("content-range" in headers) == (status == 206)
    got, body, headers = raw("HEAD", f"/{bucket}/k", range=asked)
    assert (got, body) == (status, b"")
    if status != 416:
        assert headers["content-length"] == str(len(content))


def test_a_range_of_an_empty_object(s3: Any, bucket: str, raw: Any) -> None:
    put(s3, bucket, "k", body=b"")
    assert raw("GET", f"/{bucket}/k", range="bytes=0-")[0] == 416
    assert raw("GET", f"/{bucket}/k")[:2] == (200, b"")


def test_if_range_sends_the_whole_of_a_changed_object(s3: Any, bucket: str, raw: Any) -> None:
    put(s3, bucket, "k", body=b"0123456789")
    etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    assert raw("GET", f"/{bucket}/k", range="bytes=0-1", if_range=etag)[0] == 206
    assert raw("GET", f"/{bucket}/k", range="bytes=0-1", if_range='"other"')[0] == 200


def test_heads_of_what_is_not_there_have_no_body(s3: Any, bucket: str, raw: Any) -> None:
    for path in (f"/{bucket}/not-there", "/no-such-bucket", "/no-such-bucket/k"):
        status, body, headers = raw("HEAD", path)
        assert (status, body) == (404, b"")
        assert headers["x-amz-request-id"]
    status, body, headers = raw("HEAD", f"/{bucket}")
    assert (status, body, headers["x-amz-bucket-region"]) == (200, b"", "us-east-1")


# ---- multipart uploads


def test_uploads_under_way_are_listed_page_by_page(s3: Any, bucket: str) -> None:
    keys = ["a", "b/1", "b/2", "c", "c", "d ü"]
    ids = [s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for key in keys]
    for size in (1, 2, 1000):
        pages = s3.get_paginator("list_multipart_uploads").paginate(
            Bucket=bucket, PaginationConfig={"PageSize": size}
        )
        found = [(item["Key"], item["UploadId"]) for page in pages for item in page.get("Uploads", [])]
        assert found == list(zip(keys, ids, strict=True))
        pages = s3.get_paginator("list_multipart_uploads").paginate(
            Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": size}
        )
        pages = list(pages)
        found = [item["Key"] for page in pages for item in page.get("Uploads", [])]
        assert found == ["a", "c", "c", "d ü"]
        assert [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])] == ["b/"]
    behind = s3.list_multipart_uploads(Bucket=bucket, KeyMarker="c", Prefix="")
    assert [item["Key"] for item in behind["Uploads"]] == ["d ü"]
    assert [item["Key"] for item in s3.list_multipart_uploads(Bucket=bucket, Prefix="b/")["Uploads"]] == keys[
        1:3
    ]


def test_parts_are_listed_page_by_page(s3: Any, bucket: str) -> None:
    target = {"Bucket": bucket, "Key": "k ü"}
    upload = {**target, "UploadId": s3.create_multipart_upload(**target)["UploadId"]}
    for number in (7, 1, 10_000, 3):
        s3.upload_part(**upload, PartNumber=number, Body=bytes(number % 5))
    for size in (1, 2, 3, 1000):
        pages = s3.get_paginator("list_parts").paginate(**upload, PaginationConfig={"PageSize": size})
        assert [part["PartNumber"] for page in pages for part in page["Parts"]] == [1, 3, 7, 10_000]
    assert s3.list_parts(**upload)["Key"] == "k ü"
    s3.abort_multipart_upload(**upload)
    assert code_of(s3.list_parts, **upload) == "NoSuchUpload"
    assert code_of(s3.abort_multipart_upload, **upload) == "NoSuchUpload"


def test_ranges_of_a_part_that_is_copied(s3: Any, bucket: str) -> None:
    put(s3, bucket, "from", body=b"0123456789")
    target = {"Bucket": bucket, "Key": "to"}
    upload = {**target, "UploadId": s3.create_multipart_upload(**target)["UploadId"]}
    copy = {**upload, "PartNumber": 1, "CopySource": {"Bucket": bucket, "Key": "from"}}
    for asked in ("bytes=0-10", "bytes=5-", "bytes=-5", "bytes=5-4", "0-4", "bytes=0-1,3-4"):
        assert code_of(s3.upload_part_copy, **copy, CopySourceRange=asked) == "InvalidArgument"
    etag = s3.upload_part_copy(**copy, CopySourceRange="bytes=2-4")["CopyPartResult"]["ETag"]
    assert etag == f'"{hashlib.md5(b"234").hexdigest()}"'
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
    assert s3.get_object(**target)["Body"].read() == b"234"


# ---- uploads as AWS's SDK for Java sends them: every chunk signed, the checksum in a signed trailer


def chunk_signed(data: bytes, chunk: int, local_aws: Server, path: str) -> tuple[bytes, dict[str, str]]:
    """Frame and sign an upload; return body and headers."""
    checksum = zlib.crc32(data).to_bytes(4, "big")
    headers = {
        "host": f"127.0.0.1:{local_aws.port}",
        "content-encoding": "aws-chunked",
        "x-amz-trailer": "x-amz-checksum-crc32",
        "x-amz-decoded-content-length": str(len(data)),
        "x-amz-sdk-checksum-algorithm": "CRC32",
    }
    word = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
    request = SignedRequest("PUT", path, "", headers)
    headers = sign(request, b"", "s3", "us-east-1", local_aws.credentials, payload_hash=word)
    claim = read_claim(SignedRequest("PUT", path, "", headers))
    key = signing_key(local_aws.credentials.secret_key, claim.day, claim.region, "s3")

    def chain(kind: str, *hashed: bytes) -> str:
        digests = [hashlib.sha256(one).hexdigest() for one in hashed]
        to_sign = "\n".join([f"AWS4-HMAC-SHA256-{kind}", claim.time, claim.scope, previous, *digests])
        return hmac.new(key, to_sign.encode(), "sha256").hexdigest()

    body, previous = b"", claim.signature
    for start in [*range(0, len(data), chunk), len(data)]:
        piece = data[start : start + chunk]
        previous = chain("PAYLOAD", b"", piece)
        body += f"{len(piece):x};chunk-signature={previous}\r\n".encode() + piece + b"\r\n" * bool(piece)
    line = b"x-amz-checksum-crc32:" + base64.b64encode(checksum)
    body += line + b"\r\nx-amz-trailer-signature:" + chain("TRAILER", line + b"\n").encode() + b"\r\n\r\n"
    return body, {**headers, "content-length": str(len(body))}


@pytest.mark.parametrize("size", [0, 1, 131_072, 1_000_003])
def test_signed_chunks_with_a_signed_trailer(s3: Any, bucket: str, local_aws: Server, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    path = f"/{bucket}/chunks"
    body, headers = chunk_signed(data, 131_072, local_aws, path)
    connection = http.client.HTTPConnection("127.0.0.1", local_aws.port, timeout=10)
    forged = body.replace(body[-68:-4], b"0" * 64)  # the signature of the trailer
    for sent, status in ((forged, 403), (body, 200)):
        connection.request("PUT", path, sent, headers)
        answer = connection.getresponse()
        assert (answer.status, answer.read() == b"") == (status, status == 200)
    place = body.index(b"\r\n") + 2  # the first byte of data
    if size:
        wrong = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        connection.request("PUT", path, wrong, headers)
        answer = connection.getresponse()
        assert (answer.status, b"SignatureDoesNotMatch" in answer.read()) == (403, True)
    connection.close()
    answer = s3.get_object(Bucket=bucket, Key="chunks", ChecksumMode="ENABLED")
    assert (answer["Body"].read(), "ContentEncoding" in answer) == (data, False)


def test_signed_chunks_cannot_be_presigned(s3: Any, bucket: str, local_aws: Server) -> None:
    client = boto3.client("s3", config=Config(signature_version="s3v4"))
    url = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"})
    path = url.removeprefix(f"http://127.0.0.1:{local_aws.port}")
    connection = http.client.HTTPConnection("127.0.0.1", local_aws.port, timeout=10)
    headers = {
        "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "x-amz-decoded-content-length": "1",
    }
    connection.request("PUT", path, b"1\r\nx\r\n0\r\n\r\n", headers)
    assert connection.getresponse().status in (400, 403, 501)
    connection.close()


# ---- what a client says of its body must be so


def test_an_announced_checksum_that_does_not_come_is_refused(s3: Any, bucket: str, raw: Any) -> None:
    status, body, _ = raw("PUT", f"/{bucket}/k", b"x", x_amz_sdk_checksum_algorithm="CRC32")
    assert (status, b"no corresponding x-amz-checksum" in body) == (400, True)
    status, body, _ = raw(
        "PUT", f"/{bucket}/k", b"x", x_amz_checksum_crc32="jc28Wg==", x_amz_checksum_sha1="eA=="
    )
    assert (status, b"InvalidRequest" in body) == (400, True)
    status, body, _ = raw("PUT", f"/{bucket}/k", b"x", x_amz_checksum_crc99="eA==")
    assert (status, b"InvalidRequest" in body) == (400, True)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_batch_of_deletions_has_1000_keys_at_most(s3: Any, bucket: str) -> None:
    many = [{"Key": str(number)} for number in range(1001)]
    assert code_of(s3.delete_objects, Bucket=bucket, Delete={"Objects": many}) == "MalformedXML"
    assert len(s3.delete_objects(Bucket=bucket, Delete={"Objects": many[:1000]})["Deleted"]) == 1000


def test_what_is_put_is_listed_at_once_and_in_order(s3: Any, bucket: str) -> None:
    started = time.time()
    for number in range(20):
        put(s3, bucket, f"{19 - number:02d}")
        keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]]
        assert keys == [f"{place:02d}" for place in range(19 - number, 20)]
    newest = s3.head_object(Bucket=bucket, Key="00")["LastModified"].timestamp()
    assert started - 1 <= newest <= time.time()


def test_of_several_completions_at_once_each_succeeds_or_finds_no_upload(s3: Any, bucket: str) -> None:
    data = [bytes([number]) * 5 * 1024**2 for number in range(3)]
    for number in range(4):
        where = {"Bucket": bucket, "Key": f"k{number}"}
        upload = s3.create_multipart_upload(**where)["UploadId"]
        parts = [
            {
                "PartNumber": place,
                "ETag": s3.upload_part(**where, UploadId=upload, PartNumber=place, Body=part)["ETag"],
            }
            for place, part in enumerate(data, 1)
        ]

        def complete(where: dict[str, str] = where, upload: str = upload, parts: Any = parts) -> str:
            try:
                s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
            except ClientError as error:
                return str(error.response["Error"]["Code"])
            return "completed"

        with ThreadPoolExecutor(4) as pool:
            outcomes = {done.result() for done in [pool.submit(complete) for _ in range(4)]}
        assert "completed" in outcomes
        assert outcomes <= {"completed", "NoSuchUpload"}
        assert s3.get_object(**where)["Body"].read() == b"".join(data)
