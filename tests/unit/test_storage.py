"""S3 locations are read and written by URI; every failure is one sentence that names the URI."""

from __future__ import annotations

import random
import zlib
from datetime import UTC, datetime
from pathlib import Path

import boto3
import numpy as np
import pandas as pd
import pytest

from lib import storage
from lib.errors import ConnectionFailed, StorageError
from lib.local import Server

MIB = 1024**2


@pytest.fixture
def base(local_aws: Server, request: pytest.FixtureRequest) -> str:
    """Return the URI of a prefix of the test's own."""
    storage.ensure_bucket("storage-tests", "us-east-1")
    return f"s3://storage-tests/{zlib.crc32(request.node.name.encode())}"


# ---- names


def test_a_uri_is_split_and_joined() -> None:
    assert storage.split("s3://bucket/a/b c/ü") == ("bucket", "a/b c/ü")
    assert storage.split("s3://bucket") == storage.split("s3://bucket/") == ("bucket", "")
    assert storage.join("s3://bucket/a/", "/b/", "c") == "s3://bucket/a/b/c"
    assert storage.stage_uri("bucket", "runs", "r1", "03_train") == "s3://bucket/runs/r1/03_train"
    assert storage.stage_uri("bucket", "", "r1", "03_train") == "s3://bucket/r1/03_train"


@pytest.mark.parametrize("uri", ["bucket/key", "/tmp/file", "s3://", "s3:///key", "https://bucket/key", ""])
def test_what_is_no_s3_uri_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="is no S3 location") as caught:
        storage.split(uri)
    assert caught.value.uri == uri


# ---- buckets


def test_a_bucket_is_made_once(local_aws: Server) -> None:
    for _ in range(2):
        storage.ensure_bucket("made-by-storage", "us-east-1")
        storage.ensure_bucket("made-in-ireland", "eu-west-1")
    client = boto3.client("s3")
    assert client.get_bucket_location(Bucket="made-in-ireland")["LocationConstraint"] == "eu-west-1"
    client.delete_bucket(Bucket="made-by-storage")
    client.delete_bucket(Bucket="made-in-ireland")


@pytest.mark.parametrize("name", ["Not_A_Bucket", "a..b", "white space"])
def test_an_impossible_bucket_name_is_said(local_aws: Server, name: str) -> None:
    with pytest.raises(StorageError, match=name):
        storage.ensure_bucket(name, "us-east-1")


# ---- files


@pytest.mark.parametrize("size", [0, 1000, 20 * MIB + 3])
def test_a_file_comes_back_as_it_was(base: str, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(random.Random(size).randbytes(size))
    uri = storage.upload(source, f"{base}/ü/")
    assert uri == f"{base}/ü/source.bin"
    assert storage.exists(uri)
    path = storage.download(uri, tmp_path / "new folder" / "copy.bin")
    assert path.read_bytes() == source.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["copy.bin"]


def test_a_download_into_a_folder_takes_the_name_of_the_object(base: str, tmp_path: Path) -> None:
    storage.write_bytes(b"x", f"{base}/name.txt")
    assert storage.download(f"{base}/name.txt", tmp_path) == tmp_path / "name.txt"


def test_progress_is_shown_only_when_asked_for(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shown.bin"
    file.write_bytes(bytes(1000))
    storage.upload(file, f"{base}/shown.bin")
    storage.download(f"{base}/shown.bin", tmp_path / "copy")
    assert capsys.readouterr() == ("", "")
    storage.upload(file, f"{base}/shown.bin", progress=True)
    storage.download(f"{base}/shown.bin", tmp_path / "copy", progress=True)
    out, shown = capsys.readouterr()
    assert out == ""
    assert "shown.bin" in shown
    assert "1.00k/1.00k" in shown


def test_a_prefix_is_downloaded_as_a_tree(base: str, tmp_path: Path) -> None:
    for key in ("run/a", "run/sub/b", "run/sub/", "run2/other"):
        storage.write_bytes(key.encode(), f"{base}/{key}")
    expected = [tmp_path / "a", tmp_path / "sub" / "b"]
    assert storage.download_prefix(f"{base}/run", tmp_path) == expected
    assert storage.download_prefix(f"{base}/run/", tmp_path) == expected
    assert (tmp_path / "sub" / "b").read_bytes() == b"run/sub/b"
    assert storage.download_prefix(f"{base}/run/a", tmp_path / "one") == [tmp_path / "one" / "a"]
    with pytest.raises(StorageError, match="nothing under"):
        storage.download_prefix(f"{base}/ru", tmp_path)


def test_a_key_that_leads_out_of_the_folder_is_refused(base: str, tmp_path: Path) -> None:
    storage.write_bytes(b"evil", f"{base}/run/../../escaped")
    with pytest.raises(StorageError, match="leads out of the folder"):
        storage.download_prefix(f"{base}/run", tmp_path / "inside")
    assert not (tmp_path / "escaped").exists()


# ---- listings and deletions


def test_objects_are_listed_in_order(base: str) -> None:
    for key in ("b", "a", "a/x", "ü"):
        storage.write_bytes(key.encode(), f"{base}/{key}")
    found = storage.list_objects(base)
    assert [item.uri for item in found] == [f"{base}/{key}" for key in ("a", "a/x", "b", "ü")]
    assert [item.size for item in found] == [1, 3, 1, 2]
    assert found[0].etag == "0cc175b9c0f1b6a831c399e269772661"
    assert abs((datetime.now(UTC) - found[0].modified).total_seconds()) < 60
    assert storage.list_objects(f"{base}/none") == []


def test_more_than_a_batch_is_deleted(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_DELETE_BATCH", 2)
    uris = [storage.write_bytes(b"", f"{base}/{number}") for number in range(5)]
    assert storage.delete_prefix(base) == uris
    assert storage.list_objects(base) == []


def test_only_what_the_uri_names_is_deleted(base: str) -> None:
    for key in ("run", "run/a", "run/b/c", "run2/a", "run-3"):
        storage.write_bytes(b"", f"{base}/{key}")
    assert storage.delete_prefix(f"{base}/run") == [f"{base}/{key}" for key in ("run", "run/a", "run/b/c")]
    assert [item.uri for item in storage.list_objects(base)] == [f"{base}/run-3", f"{base}/run2/a"]
    assert storage.delete_prefix(f"{base}/run") == []


def test_a_whole_bucket_is_never_deleted(base: str) -> None:
    for uri in ("s3://storage-tests", "s3://storage-tests/", "s3://storage-tests//"):
        with pytest.raises(StorageError, match="whole bucket"):
            storage.delete_prefix(uri)


# ---- tables


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "customer_id": ["a", "ü", None],
            "star_rating": np.array([1, 2, 5], dtype=np.int8),
            "review_date": pd.to_datetime(["2020-01-01", "2021-02-03", None]),
        }
    )


def test_a_table_comes_back_as_it_was(base: str, frame: pd.DataFrame) -> None:
    uri = storage.write_parquet(frame, f"{base}/table.parquet")
    pd.testing.assert_frame_equal(storage.read_parquet(uri), frame)
    pd.testing.assert_frame_equal(storage.read_parquet(uri, columns=["star_rating"]), frame[["star_rating"]])


def test_the_parts_of_a_table_are_read_in_order(base: str, frame: pd.DataFrame) -> None:
    for part in range(3):
        storage.write_parquet(frame.assign(part=part), f"{base}/table/part-{part}.parquet")
    storage.write_bytes(b"", f"{base}/table/_SUCCESS")
    assert list(storage.read_parquet(f"{base}/table")["part"]) == [0] * 3 + [1] * 3 + [2] * 3


def test_a_table_that_cannot_be_read_is_said(base: str, frame: pd.DataFrame) -> None:
    uri = storage.write_parquet(frame, f"{base}/table.parquet")
    with pytest.raises(StorageError, match="has no column `stars`"):
        storage.read_parquet(uri, columns=["star_rating", "stars"])
    foreign = storage.write_bytes(b"a,b\n1,2\n", f"{base}/table.csv")
    with pytest.raises(StorageError, match="is no Parquet file"):
        storage.read_parquet(foreign)
    with pytest.raises(StorageError, match="There is nothing at"):
        storage.read_parquet(f"{base}/none")


# ---- failures


def test_a_missing_object_is_said_and_no_file_is_left(base: str, tmp_path: Path) -> None:
    uri = f"{base}/none"
    assert not storage.exists(uri)
    with pytest.raises(StorageError, match=f"^There is nothing at {uri}") as caught:
        storage.read_bytes(uri)
    assert (caught.value.uri, caught.value.hint) == (uri, "Run the stage that writes it first.")
    with pytest.raises(StorageError, match=f"^There is nothing at {uri}"):
        storage.download(uri, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_bucket_is_said(local_aws: Server, tmp_path: Path) -> None:
    uri = "s3://no-such-bucket/key"
    file = tmp_path / "file"
    file.write_bytes(b"x")
    assert not storage.exists(uri)
    for call in (
        lambda: storage.read_bytes(uri),
        lambda: storage.write_bytes(b"", uri),
        lambda: storage.list_objects(uri),
        lambda: storage.upload(file, uri),
    ):
        with pytest.raises(StorageError, match=f"^{uri} cannot be .*: there is no bucket `no-such-bucket`"):
            call()


def test_a_missing_file_is_said(base: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="There is no file"):
        storage.upload(tmp_path / "none", base)


def test_a_place_that_cannot_be_written_is_said(base: str, tmp_path: Path) -> None:
    uri = storage.write_bytes(b"x", f"{base}/x")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"x cannot be read: (Not a directory|File exists)"):
        storage.download(uri, tmp_path / "file" / "x")


def test_a_key_that_is_too_long_is_said(base: str) -> None:
    with pytest.raises(StorageError, match="Your key is too long"):
        storage.write_bytes(b"", f"{base}/{'k' * 1025}")


def test_no_answer_is_said(local_aws: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    file = tmp_path / "file"
    file.write_bytes(b"x")
    for call in (
        lambda: storage.read_bytes("s3://bucket/key"),
        lambda: storage.upload(file, "s3://bucket/key"),
        lambda: storage.ensure_bucket("bucket", "us-east-1"),
    ):
        with pytest.raises(ConnectionFailed, match=r"there is no answer from http://127\.0\.0\.1:9"):
            call()


def test_wrong_credentials_are_said(local_aws: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guess")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(ConnectionFailed, match="SignatureDoesNotMatch"):
        storage.read_bytes("s3://storage-tests/key")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    with pytest.raises(ConnectionFailed, match="no valid AWS credentials"):
        storage.read_bytes("s3://storage-tests/key")
