"""The local S3, driven by boto3."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
import requests
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from lib.local import Server

MIB = 1024**2


@pytest.fixture(scope="module")
def s3(local_aws: Server) -> Any:
    return boto3.client("s3")


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"b-{zlib.crc32(request.node.name.encode())}"
    s3.create_bucket(Bucket=name)
    yield name
    everything = boto3.resource("s3").Bucket(name)
    everything.objects.all().delete()
    for upload in s3.list_multipart_uploads(Bucket=name).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    s3.delete_bucket(Bucket=name)


def put(s3: Any, bucket: str, *keys: str, body: bytes = b"x") -> None:
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=body)


def read(s3: Any, bucket: str, key: str, **options: Any) -> bytes:
    data: bytes = s3.get_object(Bucket=bucket, Key=key, **options)["Body"].read()
    return data


def code_of(call: Any, **options: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**options)
    return str(caught.value.response["Error"]["Code"])


def keys_of(s3: Any, bucket: str, operation: str = "list_objects_v2", **options: Any) -> list[str]:
    pages = s3.get_paginator(operation).paginate(Bucket=bucket, **options)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


# ---- buckets


def test_buckets_are_made_listed_and_deleted(s3: Any) -> None:
    s3.create_bucket(Bucket="made-once")
    s3.create_bucket(Bucket="made-once")
    assert "made-once" in [item["Name"] for item in s3.list_buckets()["Buckets"]]
    assert s3.head_bucket(Bucket="made-once")["BucketRegion"] == "us-east-1"
    assert s3.get_bucket_location(Bucket="made-once")["LocationConstraint"] is None
    s3.delete_bucket(Bucket="made-once")
    assert code_of(s3.head_bucket, Bucket="made-once") == "404"


def test_a_bucket_of_another_region_keeps_its_region(s3: Any) -> None:
    where = {"LocationConstraint": "eu-west-1"}
    s3.create_bucket(Bucket="in-ireland", CreateBucketConfiguration=where)
    assert s3.get_bucket_location(Bucket="in-ireland")["LocationConstraint"] == "eu-west-1"
    again = code_of(s3.create_bucket, Bucket="in-ireland", CreateBucketConfiguration=where)
    assert again == "BucketAlreadyOwnedByYou"
    s3.delete_bucket(Bucket="in-ireland")


@pytest.mark.parametrize("name", ["UPPER", "a..b", "192.168.0.1", "xn--abc", "x" * 64])
def test_an_illegal_bucket_name_is_refused(s3: Any, name: str) -> None:
    s3.meta.events.unregister("before-parameter-build.s3", _validate_bucket_name())
    with pytest.raises(Exception, match=r"(?i)invalid"):
        s3.create_bucket(Bucket=name)


def _validate_bucket_name() -> Any:
    from botocore.handlers import validate_bucket_name

    return validate_bucket_name


def test_a_bucket_with_objects_is_not_deleted(s3: Any, bucket: str) -> None:
    put(s3, bucket, "kept")
    assert code_of(s3.delete_bucket, Bucket=bucket) == "BucketNotEmpty"
    assert read(s3, bucket, "kept") == b"x"


def test_a_missing_bucket_is_named(s3: Any) -> None:
    assert code_of(s3.list_objects_v2, Bucket="not-there") == "NoSuchBucket"
    assert code_of(s3.put_object, Bucket="not-there", Key="k", Body=b"x") == "NoSuchBucket"
    assert code_of(s3.get_object, Bucket="not-there", Key="k") == "NoSuchBucket"
    assert code_of(s3.delete_object, Bucket="not-there", Key="k") == "NoSuchBucket"


# ---- objects


@pytest.mark.parametrize(
    "key",
    [
        "plain",
        "a b+c&d=e?f#g%h",
        "unicode/ü-日本-🎬/x",
        "../../etc/passwd",
        "/leading//double/",
        "dots/./../x",
        "é" * 512,
        "tab\tand\nnewline",
        "<xml>&amp;'\"",
        "%2F",
    ],
)
def test_any_key_comes_back_as_it_was(s3: Any, bucket: str, key: str) -> None:
    put(s3, bucket, key, body=key.encode())
    assert read(s3, bucket, key) == key.encode()
    assert keys_of(s3, bucket) == [key]
    s3.delete_object(Bucket=bucket, Key=key)
    assert keys_of(s3, bucket) == []


def test_a_key_and_a_key_below_it_are_two_objects(s3: Any, bucket: str) -> None:
    for key in ("x", "x/y", "x/", "x/y/z"):
        put(s3, bucket, key, body=key.encode())
    assert [read(s3, bucket, key) for key in keys_of(s3, bucket)] == [b"x", b"x/", b"x/y", b"x/y/z"]


def test_a_key_of_1025_bytes_is_refused(s3: Any, bucket: str) -> None:
    put(s3, bucket, "k" * 1024)
    assert code_of(s3.put_object, Bucket=bucket, Key="k" * 1025, Body=b"") == "KeyTooLongError"


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, MIB, MIB + 1, 3 * MIB + 7])
def test_bytes_come_back_as_they_were(s3: Any, bucket: str, size: int) -> None:
    data = random.Random(size).randbytes(size)
    answer = s3.put_object(Bucket=bucket, Key="data", Body=data)
    assert answer["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert answer["ChecksumCRC32"] == base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    assert read(s3, bucket, "data") == data
    head = s3.head_object(Bucket=bucket, Key="data")
    assert (head["ContentLength"], head["ETag"]) == (size, answer["ETag"])


def test_a_stream_without_known_length_is_put(s3: Any, bucket: str) -> None:
    s3.upload_fileobj(io.BytesIO(b"streamed"), bucket, "from-file")
    assert read(s3, bucket, "from-file") == b"streamed"


def test_headers_and_metadata_come_back(s3: Any, bucket: str) -> None:
    given = {
        "ContentType": "text/csv",
        "CacheControl": "no-store",
        "ContentEncoding": "gzip",
        "ContentDisposition": "attachment",
        "ContentLanguage": "en",
        "Metadata": {"run": "one", "dashed-name": "two"},
    }
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", **given)
    head = s3.head_object(Bucket=bucket, Key="k")
    assert {name: head[name] for name in given} == given


def test_too_much_metadata_is_refused(s3: Any, bucket: str) -> None:
    refused = code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"x", Metadata={"a": "b" * 2049})
    assert refused == "MetadataTooLarge"


def test_an_overwritten_object_is_the_new_one_and_the_old_is_gone(
    s3: Any, bucket: str, local_aws: Server
) -> None:
    put(s3, bucket, "k", body=b"old")
    blobs = local_aws.root / "s3" / "blobs"
    before = len(list(blobs.iterdir()))
    put(s3, bucket, "k", body=b"new")
    assert read(s3, bucket, "k") == b"new"
    assert len(list(blobs.iterdir())) == before


def test_an_object_being_read_survives_its_deletion(s3: Any, bucket: str) -> None:
    data = os.urandom(4 * MIB)
    put(s3, bucket, "k", body=data)
    body = s3.get_object(Bucket=bucket, Key="k")["Body"]
    first = body.read(1000)
    s3.delete_object(Bucket=bucket, Key="k")
    assert first + body.read() == data


def test_a_missing_key_is_named(s3: Any, bucket: str) -> None:
    assert code_of(s3.get_object, Bucket=bucket, Key="no") == "NoSuchKey"
    assert code_of(s3.head_object, Bucket=bucket, Key="no") == "404"
    assert s3.delete_object(Bucket=bucket, Key="no")["ResponseMetadata"]["HTTPStatusCode"] == 204


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("0-0", 0, 1),
        ("5-9", 5, 10),
        ("90-", 90, 100),
        ("-7", 93, 100),
        ("50-1000", 50, 100),
        ("-500", 0, 100),
    ],
)
def test_ranges(s3: Any, bucket: str, asked: str, start: int, stop: int) -> None:
    data = bytes(range(100))
    put(s3, bucket, "k", body=data)
    answer = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={asked}")
    assert answer["Body"].read() == data[start:stop]
    assert answer["ContentRange"] == f"bytes {start}-{stop - 1}/100"
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206


@pytest.mark.parametrize("asked", ["100-", "200-300", "-0"])
def test_a_range_outside_the_object_is_refused(s3: Any, bucket: str, asked: str) -> None:
    put(s3, bucket, "k", body=bytes(100))
    assert code_of(s3.get_object, Bucket=bucket, Key="k", Range=f"bytes={asked}") == "InvalidRange"


def test_conditions_of_a_download(s3: Any, bucket: str) -> None:
    put(s3, bucket, "k")
    etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    hour = timedelta(hours=1)
    later, earlier = datetime.now(UTC) + hour, datetime.now(UTC) - hour
    assert read(s3, bucket, "k", IfMatch=etag, IfModifiedSince=earlier, IfUnmodifiedSince=later) == b"x"
    get = s3.get_object
    assert code_of(get, Bucket=bucket, Key="k", IfMatch='"other"') == "PreconditionFailed"
    assert code_of(get, Bucket=bucket, Key="k", IfUnmodifiedSince=earlier) == "PreconditionFailed"
    assert code_of(get, Bucket=bucket, Key="k", IfNoneMatch=etag) == "304"
    assert code_of(get, Bucket=bucket, Key="k", IfModifiedSince=later) == "304"


def test_conditions_of_a_put(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    put_object = s3.put_object
    assert code_of(put_object, Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*") == "PreconditionFailed"
    assert code_of(put_object, Bucket=bucket, Key="k", Body=b"2", IfMatch='"no"') == "PreconditionFailed"
    put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=etag)
    assert read(s3, bucket, "k") == b"3"


def test_of_many_conditional_puts_at_once_one_wins(s3: Any, bucket: str) -> None:
    won: list[int] = []

    def attempt(number: int) -> None:
        with suppress(s3.exceptions.ClientError):
            s3.put_object(Bucket=bucket, Key="k", Body=str(number).encode(), IfNoneMatch="*")
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert read(s3, bucket, "k") == str(won[0]).encode()


# ---- digests


def test_a_wrong_checksum_is_refused_and_nothing_is_stored(s3: Any, bucket: str) -> None:
    wrong = base64.b64encode(b"\0\0\0\0").decode()
    assert code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"x", ChecksumCRC32=wrong) == "BadDigest"
    wrong_md5 = base64.b64encode(bytes(16)).decode()
    assert code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"x", ContentMD5=wrong_md5) == "BadDigest"
    assert code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"x", ContentMD5="=") == "InvalidDigest"
    assert keys_of(s3, bucket) == []


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_checksums_are_kept(s3: Any, bucket: str, algorithm: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ChecksumAlgorithm=algorithm)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    digests = {
        "CRC32": zlib.crc32(b"x").to_bytes(4, "big"),
        "SHA1": hashlib.sha1(b"x").digest(),
        "SHA256": hashlib.sha256(b"x").digest(),
    }
    assert base64.b64decode(head[f"Checksum{algorithm}"]) == digests[algorithm]
    assert head["ChecksumType"] == "FULL_OBJECT"


# ---- listings

LISTED = ["a", "a/1", "a/2", "a/b/3", "b", "b-1", "b/1", "c//d", "日本/x", "日本/y"]


@pytest.mark.parametrize("operation", ["list_objects_v2", "list_objects"])
@pytest.mark.parametrize("page_size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("options", "keys", "prefixes"),
    [
        ({}, LISTED, []),
        ({"Prefix": "a/"}, ["a/1", "a/2", "a/b/3"], []),
        ({"Delimiter": "/"}, ["a", "b", "b-1"], ["a/", "b/", "c/", "日本/"]),
        ({"Prefix": "a/", "Delimiter": "/"}, ["a/1", "a/2"], ["a/b/"]),
        ({"Prefix": "c/", "Delimiter": "/"}, [], ["c//"]),
        ({"Prefix": "b", "Delimiter": "-"}, ["b", "b/1"], ["b-"]),
        ({"Prefix": "none"}, [], []),
        ({"Prefix": "日"}, ["日本/x", "日本/y"], []),
    ],
)
def test_listing(
    s3: Any, bucket: str, operation: str, page_size: int, options: Any, keys: list[str], prefixes: list[str]
) -> None:
    put(s3, bucket, *LISTED)
    paginator = s3.get_paginator(operation)
    pages = list(paginator.paginate(Bucket=bucket, PaginationConfig={"PageSize": page_size}, **options))
    assert [item["Key"] for page in pages for item in page.get("Contents", [])] == keys
    assert [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])] == prefixes
    sizes = [len(page.get("Contents", [])) + len(page.get("CommonPrefixes", [])) for page in pages]
    assert all(size == page_size for size in sizes[:-1])
    assert [page["IsTruncated"] for page in pages] == [True] * (len(pages) - 1) + [False]


def test_a_listing_begins_behind_start_after(s3: Any, bucket: str) -> None:
    put(s3, bucket, *LISTED)
    assert keys_of(s3, bucket, StartAfter="b") == LISTED[5:]
    assert keys_of(s3, bucket, StartAfter="b", Prefix="b/") == ["b/1"]
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=0)["KeyCount"] == 0


def test_a_foreign_continuation_token_is_refused(s3: Any, bucket: str) -> None:
    put(s3, bucket, "a", "b")
    assert code_of(s3.list_objects_v2, Bucket=bucket, ContinuationToken="é!") == "InvalidArgument"


def test_listing_tells_size_etag_and_time(s3: Any, bucket: str) -> None:
    put(s3, bucket, "k", body=b"123")
    (item,) = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert item["Size"] == 3
    assert item["ETag"] == s3.head_object(Bucket=bucket, Key="k")["ETag"]
    assert abs((datetime.now(UTC) - item["LastModified"]).total_seconds()) < 60


# ---- copies and deletions


def test_a_copy_has_the_bytes_and_headers_of_its_source(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="from ü", Body=b"data", ContentType="text/x", Metadata={"a": "b"})
    s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "from ü"})
    s3.delete_object(Bucket=bucket, Key="from ü")
    answer = s3.get_object(Bucket=bucket, Key="to")
    assert answer["Body"].read() == b"data"
    assert (answer["ContentType"], answer["Metadata"]) == ("text/x", {"a": "b"})


def test_a_copy_can_replace_the_metadata(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data", Metadata={"a": "b"})
    source = {"Bucket": bucket, "Key": "k"}
    assert code_of(s3.copy_object, Bucket=bucket, Key="k", CopySource=source) == "InvalidRequest"
    s3.copy_object(
        Bucket=bucket, Key="k", CopySource=source, MetadataDirective="REPLACE", Metadata={"c": "d"}
    )
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {"c": "d"}
    missing = {"Bucket": bucket, "Key": "no"}
    assert code_of(s3.copy_object, Bucket=bucket, Key="k2", CopySource=missing) == "NoSuchKey"


def test_many_objects_are_deleted_at_once(s3: Any, bucket: str) -> None:
    put(s3, bucket, "a", "b&<>", "ü", "kept")
    wanted = [{"Key": key} for key in ("a", "b&<>", "ü", "never there")]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": wanted})
    assert [item["Key"] for item in answer["Deleted"]] == ["a", "b&<>", "ü", "never there"]
    assert keys_of(s3, bucket) == ["kept"]
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "kept"}], "Quiet": True})
    assert "Deleted" not in quiet
    assert keys_of(s3, bucket) == []


# ---- multipart uploads


def test_the_transfer_manager_uploads_and_downloads_in_parts(s3: Any, bucket: str) -> None:
    data = random.Random(0).randbytes(20 * MIB + 11)
    s3.upload_fileobj(io.BytesIO(data), bucket, "big", ExtraArgs={"ContentType": "text/x"})
    head = s3.head_object(Bucket=bucket, Key="big")
    parts = [data[start : start + 8 * MIB] for start in range(0, len(data), 8 * MIB)]
    digest = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
    assert head["ETag"] == f'"{digest}-3"'
    assert head["ContentType"] == "text/x"
    received = io.BytesIO()
    s3.download_fileobj(bucket, "big", received)
    assert received.getvalue() == data


@pytest.mark.parametrize("kind", ["COMPOSITE", "FULL_OBJECT"])
def test_the_checksum_of_a_multipart_upload(s3: Any, bucket: str, kind: str) -> None:
    parts = [os.urandom(5 * MIB), b"last"]
    target = {"Bucket": bucket, "Key": "k"}
    upload = s3.create_multipart_upload(**target, ChecksumAlgorithm="CRC32", ChecksumType=kind)
    named = []
    for number, part in enumerate(parts, 1):
        answer = s3.upload_part(
            **target, UploadId=upload["UploadId"], PartNumber=number, Body=part, ChecksumAlgorithm="CRC32"
        )
        named.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]})
    answer = s3.complete_multipart_upload(
        **target, UploadId=upload["UploadId"], MultipartUpload={"Parts": named}
    )
    crcs = [zlib.crc32(part).to_bytes(4, "big") for part in parts]
    of_parts = base64.b64encode(zlib.crc32(b"".join(crcs)).to_bytes(4, "big")).decode() + "-2"
    whole = base64.b64encode(zlib.crc32(b"".join(parts)).to_bytes(4, "big")).decode()
    assert answer["ChecksumCRC32"] == (whole if kind == "FULL_OBJECT" else of_parts)
    assert answer["ChecksumType"] == kind


def test_mistakes_in_a_multipart_upload_are_refused(s3: Any, bucket: str) -> None:
    target = {"Bucket": bucket, "Key": "k"}
    upload = {**target, "UploadId": s3.create_multipart_upload(**target)["UploadId"]}
    first = s3.upload_part(**upload, PartNumber=1, Body=b"small")["ETag"]
    second = s3.upload_part(**upload, PartNumber=2, Body=b"last")["ETag"]
    one, two = {"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": second}

    def complete(*parts: Any) -> str:
        return code_of(s3.complete_multipart_upload, **upload, MultipartUpload={"Parts": list(parts)})

    assert complete(one, two) == "EntityTooSmall"
    assert complete(two, one) == "InvalidPartOrder"
    assert complete({"PartNumber": 3, "ETag": second}) == "InvalidPart"
    assert complete({"PartNumber": 1, "ETag": '"0"'}) == "InvalidPart"
    assert code_of(s3.upload_part, **upload, PartNumber=10_001, Body=b"") == "InvalidArgument"
    assert code_of(s3.upload_part, **{**upload, "UploadId": "no"}, PartNumber=1, Body=b"") == "NoSuchUpload"
    assert keys_of(s3, bucket) == []


def test_an_upload_is_listed_and_aborted_without_a_trace(s3: Any, bucket: str, local_aws: Server) -> None:
    blobs = local_aws.root / "s3" / "blobs"
    before = len(list(blobs.iterdir()))
    target = {"Bucket": bucket, "Key": "k/ü"}
    upload = s3.create_multipart_upload(**target)["UploadId"]
    for number in (3, 1, 3):
        s3.upload_part(**target, UploadId=upload, PartNumber=number, Body=b"x" * number)
    parts = s3.list_parts(**target, UploadId=upload)["Parts"]
    assert [(part["PartNumber"], part["Size"]) for part in parts] == [(1, 1), (3, 3)]
    (listed,) = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert (listed["Key"], listed["UploadId"]) == ("k/ü", upload)
    s3.abort_multipart_upload(**target, UploadId=upload)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    assert len(list(blobs.iterdir())) == before


def test_a_large_object_is_copied_in_parts(s3: Any, bucket: str) -> None:
    data = random.Random(1).randbytes(11 * MIB)
    put(s3, bucket, "from", body=data)
    config = TransferConfig(multipart_threshold=6 * MIB, multipart_chunksize=6 * MIB)
    s3.copy({"Bucket": bucket, "Key": "from"}, bucket, "to", Config=config)
    assert s3.head_object(Bucket=bucket, Key="to")["ETag"].endswith('-2"')
    assert read(s3, bucket, "to") == data


# ---- presigned URLs


def test_presigned_urls_work_without_credentials(s3: Any, bucket: str) -> None:
    client = boto3.client("s3", config=Config(signature_version="s3v4"))
    target = {"Bucket": bucket, "Key": "a b/ü"}
    url = client.generate_presigned_url("put_object", Params=target)
    assert requests.put(url, data=b"sent", timeout=10).status_code == 200
    url = client.generate_presigned_url("get_object", Params={**target, "ResponseContentType": "text/x"})
    answer = requests.get(url, timeout=10)
    assert (answer.content, answer.headers["Content-Type"]) == (b"sent", "text/x")


def test_a_tampered_presigned_url_is_refused(s3: Any, bucket: str) -> None:
    client = boto3.client("s3", config=Config(signature_version="s3v4"))
    put(s3, bucket, "k", "other")
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    assert requests.get(url.replace("/k?", "/other?"), timeout=10).status_code == 403
    assert requests.delete(url, timeout=10).status_code == 403
    longer = url.replace("X-Amz-Expires=3600", "X-Amz-Expires=7200")
    assert longer != url
    assert requests.get(longer, timeout=10).status_code == 403


# ---- what there is not


def test_what_is_not_there_is_said(s3: Any, bucket: str) -> None:
    put(s3, bucket, "k")
    assert code_of(s3.get_bucket_policy, Bucket=bucket) == "NotImplemented"
    assert code_of(s3.get_object_torrent, Bucket=bucket, Key="k") == "NotImplemented"
    redirect = {"WebsiteRedirectLocation": "/other"}
    assert code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"", **redirect) == "NotImplemented"
    assert code_of(s3.get_object, Bucket=bucket, Key="k", VersionId="1") == "NotImplemented"
    public = code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"", ACL="public-read")
    assert public == "AccessControlListNotSupported"
    assert read(s3, bucket, "k") == b"x"
