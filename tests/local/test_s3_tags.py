"""Tags of objects and buckets, attributes and parts of objects, in the local S3."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from lib.local import Server
from lib.local.objects import Objects
from lib.local.protocol import AwsError
from lib.local.tags import MAX_BUCKET_TAGS, MAX_OBJECT_TAGS, checked, of_header

BUCKET = "tagged"
MIB = 1024**2


@pytest.fixture(scope="module")
def s3(local_aws: Server) -> Iterator[Any]:
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    bucket = boto3.resource("s3").Bucket(BUCKET)
    bucket.objects.all().delete()
    bucket.delete()


def tag_set(**tags: str) -> dict[str, list[dict[str, str]]]:
    return {"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]}


def tags_of(s3: Any, key: str) -> dict[str, str]:
    found = s3.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


def code_of(call: Any, **options: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**options)
    return str(caught.value.response["Error"]["Code"])


# ---- tags


def test_tags_of_an_object_are_put_replaced_and_deleted(s3: Any) -> None:
    target = {"Bucket": BUCKET, "Key": "k"}
    s3.put_object(**target, Body=b"x", Tagging="team=data%20science&lang=%C3%BC&empty=")
    assert tags_of(s3, "k") == {"team": "data science", "lang": "ü", "empty": ""}
    assert s3.get_object(**target)["TagCount"] == 3
    assert s3.head_object(**target)["TagCount"] == 3
    s3.put_object_tagging(**target, Tagging=tag_set(a="1", b="+-=._:/@ 2"))
    assert tags_of(s3, "k") == {"a": "1", "b": "+-=._:/@ 2"}
    s3.delete_object_tagging(**target)
    assert tags_of(s3, "k") == {}
    assert "TagCount" not in s3.get_object(**target)
    s3.put_object_tagging(**target, Tagging=tag_set(a="1"))
    s3.put_object(**target, Body=b"y")
    assert tags_of(s3, "k") == {}  # they were the old object's


def test_a_copy_keeps_its_sources_tags_or_gets_its_own(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="from", Body=b"x", Tagging="a=b")
    source = {"Bucket": BUCKET, "Key": "from"}
    s3.copy_object(Bucket=BUCKET, Key="kept", CopySource=source, Tagging="ignored=1")
    assert tags_of(s3, "kept") == {"a": "b"}
    s3.copy_object(Bucket=BUCKET, Key="new", CopySource=source, TaggingDirective="REPLACE", Tagging="c=d")
    assert tags_of(s3, "new") == {"c": "d"}
    s3.copy_object(Bucket=BUCKET, Key="none", CopySource=source, TaggingDirective="REPLACE")
    assert tags_of(s3, "none") == {}
    wrong = code_of(s3.copy_object, Bucket=BUCKET, Key="k", CopySource=source, TaggingDirective="MOVE")
    assert wrong == "InvalidArgument"


def test_an_upload_in_parts_gives_its_object_the_tags(s3: Any) -> None:
    target = {"Bucket": BUCKET, "Key": "parts"}
    upload = {**target, "UploadId": s3.create_multipart_upload(**target, Tagging="a=b")["UploadId"]}
    etag = s3.upload_part(**upload, PartNumber=1, Body=b"x")["ETag"]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
    assert tags_of(s3, "parts") == {"a": "b"}


def test_tags_of_a_bucket(s3: Any) -> None:
    assert code_of(s3.get_bucket_tagging, Bucket=BUCKET) == "NoSuchTagSet"
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging=tag_set(**{f"k{number}": "v" for number in range(50)}))
    assert len(s3.get_bucket_tagging(Bucket=BUCKET)["TagSet"]) == 50
    s3.delete_bucket_tagging(Bucket=BUCKET)
    assert code_of(s3.get_bucket_tagging, Bucket=BUCKET) == "NoSuchTagSet"
    assert code_of(s3.get_bucket_tagging, Bucket="not-there") == "NoSuchBucket"


def test_tags_out_of_bounds_are_refused_and_the_old_ones_stay(s3: Any) -> None:
    target = {"Bucket": BUCKET, "Key": "bounds"}
    s3.put_object(**target, Body=b"x", Tagging="a=b")
    eleven = {f"k{number}": "v" for number in range(11)}
    for tags, code in (
        (tag_set(**eleven), "BadRequest"),
        (tag_set(**{"k" * 129: "v"}), "InvalidTag"),
        (tag_set(k="v" * 257), "InvalidTag"),
        (tag_set(k="<&>"), "InvalidTag"),
        (tag_set(**{"aws:k": "v"}), "InvalidTag"),
        ({"TagSet": tag_set(k="1")["TagSet"] + tag_set(k="2")["TagSet"]}, "InvalidTag"),
    ):
        assert code_of(s3.put_object_tagging, **target, Tagging=tags) == code
    assert code_of(s3.put_object, **target, Body=b"y", Tagging="a=1&a=2") == "InvalidArgument"
    assert code_of(s3.put_object, **target, Body=b"y", Tagging="a=%FF") == "InvalidArgument"
    assert tags_of(s3, "bounds") == {"a": "b"}
    assert s3.get_object(**target)["Body"].read() == b"x"
    missing = {"Bucket": BUCKET, "Key": "not-there"}
    assert code_of(s3.get_object_tagging, **missing) == "NoSuchKey"
    assert code_of(s3.put_object_tagging, **missing, Tagging=tag_set(a="b")) == "NoSuchKey"


def test_the_longest_tags_are_kept() -> None:
    longest = [("ü" * 128, "日" * 256)] + [(str(number), "") for number in range(9)]
    assert checked(longest, MAX_OBJECT_TAGS) == dict(longest)
    with pytest.raises(AwsError, match="Bucket tags cannot be greater than 50"):
        checked([(str(number), "") for number in range(51)], MAX_BUCKET_TAGS)
    assert of_header("") == {}
    assert of_header("a+b=c+d&e") == {"a b": "c d", "e": ""}


# ---- attributes and parts


def in_parts(s3: Any, key: str, sizes: list[int], **options: str) -> None:
    target = {"Bucket": BUCKET, "Key": key}
    upload = {**target, "UploadId": s3.create_multipart_upload(**target, **options)["UploadId"]}
    named = []
    for number, size in enumerate(sizes, 1):
        part = s3.upload_part(
            **upload, PartNumber=2 * number, Body=bytes([number]) * size, ChecksumAlgorithm="CRC32C"
        )
        named.append(
            {"PartNumber": 2 * number, "ETag": part["ETag"], "ChecksumCRC32C": part["ChecksumCRC32C"]}
        )
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": named})


def test_attributes_of_an_object_put_at_once(s3: Any) -> None:
    put = s3.put_object(Bucket=BUCKET, Key="whole", Body=b"whole", ChecksumAlgorithm="SHA1")
    names = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    found = s3.get_object_attributes(Bucket=BUCKET, Key="whole", ObjectAttributes=names)
    assert found["ETag"] == put["ETag"].strip('"')
    assert found["Checksum"] == {"ChecksumSHA1": put["ChecksumSHA1"], "ChecksumType": "FULL_OBJECT"}
    assert (found["ObjectSize"], found["StorageClass"]) == (5, "STANDARD")
    assert "ObjectParts" not in found
    only = s3.get_object_attributes(Bucket=BUCKET, Key="whole", ObjectAttributes=["ObjectSize"])
    assert not {"ETag", "Checksum", "StorageClass"} & set(only)
    get = s3.get_object_attributes
    assert code_of(get, Bucket=BUCKET, Key="whole", ObjectAttributes=["Colour"]) == "InvalidArgument"
    assert code_of(get, Bucket=BUCKET, Key="not-there", ObjectAttributes=["ETag"]) == "NoSuchKey"


def test_attributes_tell_the_parts_page_by_page(s3: Any) -> None:
    in_parts(s3, "parts", [5 * MIB, 5 * MIB, 7], ChecksumAlgorithm="CRC32C")
    asked = {"Bucket": BUCKET, "Key": "parts", "ObjectAttributes": ["ObjectParts", "Checksum"]}
    first = s3.get_object_attributes(**asked, MaxParts=2)["ObjectParts"]
    assert (first["TotalPartsCount"], first["IsTruncated"], first["NextPartNumberMarker"]) == (3, True, 4)
    assert [(part["PartNumber"], part["Size"]) for part in first["Parts"]] == [(2, 5 * MIB), (4, 5 * MIB)]
    rest = s3.get_object_attributes(**asked, MaxParts=2, PartNumberMarker=4)["ObjectParts"]
    assert (rest["IsTruncated"], rest["Parts"][0]["Size"]) == (False, 7)
    assert len(rest["Parts"][0]["ChecksumCRC32C"]) == 8
    in_parts(s3, "parts", [5 * MIB, 7], ChecksumAlgorithm="CRC32C", ChecksumType="FULL_OBJECT")
    assert s3.get_object_attributes(**asked)["ObjectParts"] == {"TotalPartsCount": 2}


def test_a_part_can_be_read_by_its_place(s3: Any) -> None:
    in_parts(s3, "parts", [5 * MIB, 6 * MIB, 7], ChecksumAlgorithm="CRC32C")
    target = {"Bucket": BUCKET, "Key": "parts"}
    second = s3.get_object(**target, PartNumber=2)
    assert second["Body"].read() == b"\2" * 6 * MIB
    assert second["ContentRange"] == f"bytes {5 * MIB}-{11 * MIB - 1}/{11 * MIB + 7}"
    assert second["PartsCount"] == 3
    assert s3.head_object(**target, PartNumber=3)["ContentLength"] == 7
    assert code_of(s3.get_object, **target, PartNumber=4) == "InvalidPartNumber"
    assert code_of(s3.get_object, **target, PartNumber=0) == "InvalidArgument"
    assert code_of(s3.get_object, **target, PartNumber=1, Range="bytes=0-1") == "InvalidRequest"
    s3.put_object(**target, Body=b"whole")
    assert s3.get_object(**target, PartNumber=1)["Body"].read() == b"whole"
    assert code_of(s3.get_object, **target, PartNumber=2) == "InvalidPartNumber"


# ---- an index of an earlier version


def test_objects_of_the_first_version_of_the_index_are_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / "s3"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "b1").write_bytes(b"kept")
    old = sqlite3.connect(folder / "index.db")
    old.executescript(
        """
        CREATE TABLE buckets (name TEXT PRIMARY KEY, created REAL NOT NULL, region TEXT NOT NULL);
        CREATE TABLE objects (
            bucket TEXT NOT NULL, key BLOB NOT NULL, blob TEXT NOT NULL, size INTEGER NOT NULL,
            etag TEXT NOT NULL, modified REAL NOT NULL, headers TEXT NOT NULL, checksum TEXT NOT NULL,
            PRIMARY KEY (bucket, key)
        ) WITHOUT ROWID;
        CREATE TABLE uploads (
            id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, started REAL NOT NULL,
            headers TEXT NOT NULL, checksum TEXT NOT NULL
        );
        CREATE TABLE parts (
            upload TEXT NOT NULL, number INTEGER NOT NULL, blob TEXT NOT NULL, size INTEGER NOT NULL,
            etag TEXT NOT NULL, modified REAL NOT NULL, checksum TEXT NOT NULL,
            PRIMARY KEY (upload, number)
        ) WITHOUT ROWID;
        INSERT INTO buckets VALUES ('b', 1.0, 'us-east-1');
        INSERT INTO objects VALUES ('b', CAST('k' AS BLOB), 'b1', 4, 'e', 1.0, '{}', '{}');
        PRAGMA user_version = 1;
        """
    )
    old.close()
    for _ in range(2):
        objects = Objects(tmp_path)
        info, file = objects.open("b", "k")
        with file:
            assert file.read() == b"kept"
        assert (info.tags, objects.parts(info), objects.bucket_tags("b")) == ({}, [], {})
        objects.close()
