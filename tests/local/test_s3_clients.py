"""The local S3, driven by the clients that people use: boto3, s3fs, pandas, pyarrow's own, plain HTTP."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.session
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import pytest
import s3fs
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from lib.local import Server, checksums

BUCKET = "by-clients"
MIB = 1024**2
# boto3 has no code for MD5, which S3 has as well
ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256", "SHA512", "XXHASH64", "XXHASH3", "XXHASH128"]
ONLY_WHOLE = ("CRC64NVME",)


@pytest.fixture(scope="module")
def s3(local_aws: Server) -> Iterator[Any]:
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    bucket = boto3.resource("s3").Bucket(BUCKET)
    bucket.objects.all().delete()
    bucket.delete()


@pytest.fixture(scope="module")
def arrow(s3: Any, local_aws: Server) -> pyarrow.fs.S3FileSystem:
    return pyarrow.fs.S3FileSystem(
        access_key=local_aws.credentials.access_key,
        secret_key=local_aws.credentials.secret_key,
        endpoint_override=f"127.0.0.1:{local_aws.port}",
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
    )


@pytest.fixture
def files(s3: Any) -> s3fs.S3FileSystem:
    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem(use_listings_cache=False)


def table(rows: int = 5000) -> pa.Table:
    return pa.table({"number": range(rows), "word": [f"w{number % 3}" for number in range(rows)]})


def value_of(algorithm: str, data: bytes) -> str:
    hasher = checksums.new_checksum(algorithm)
    hasher.update(data)
    return checksums.base64_of(hasher)


# ---- boto3: every checksum


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_boto3_puts_and_gets_with_every_checksum(s3: Any, algorithm: str) -> None:
    data = random.Random(algorithm).randbytes(70_000)
    s3.put_object(Bucket=BUCKET, Key="sum", Body=data, ChecksumAlgorithm=algorithm)
    answer = s3.get_object(Bucket=BUCKET, Key="sum", ChecksumMode="ENABLED")
    assert answer[f"Checksum{algorithm}"] == value_of(algorithm, data)
    assert answer["ChecksumType"] == "FULL_OBJECT"
    assert answer["Body"].read() == data  # botocore compares while it reads
    damaged = {f"Checksum{algorithm}": value_of(algorithm, data[:-1])}
    with pytest.raises(ClientError, match="BadDigest"):
        s3.put_object(Bucket=BUCKET, Key="damaged", Body=data, **damaged)
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket=BUCKET, Key="damaged")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_boto3_uploads_in_parts_with_every_checksum(s3: Any, algorithm: str) -> None:
    data = random.Random(1).randbytes(11 * MIB)
    parts = [data[: 5 * MIB], data[5 * MIB : 10 * MIB], data[10 * MIB :]]
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    extra = {"ChecksumAlgorithm": algorithm}
    s3.upload_fileobj(io.BytesIO(data), BUCKET, "parts", ExtraArgs=extra, Config=config)
    head = s3.head_object(Bucket=BUCKET, Key="parts", ChecksumMode="ENABLED")
    if algorithm in ONLY_WHOLE:
        expected = value_of(algorithm, data)
    else:
        digests = [base64.b64decode(value_of(algorithm, part)) for part in parts]
        expected = f"{value_of(algorithm, b''.join(digests))}-3"
    assert head[f"Checksum{algorithm}"] == expected
    assert head["ChecksumType"] == ("FULL_OBJECT" if algorithm in ONLY_WHOLE else "COMPOSITE")
    received = io.BytesIO()
    s3.download_fileobj(BUCKET, "parts", received)
    assert received.getvalue() == data


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_a_part_may_come_without_a_checksum_where_that_of_the_whole_is_kept(s3: Any, algorithm: str) -> None:
    plain = boto3.client("s3", config=Config(request_checksum_calculation="when_required"))
    target = {"Bucket": BUCKET, "Key": "whole"}
    parts = [random.Random(2).randbytes(5 * MIB), b"last"]
    upload = plain.create_multipart_upload(**target, ChecksumAlgorithm=algorithm, ChecksumType="FULL_OBJECT")[
        "UploadId"
    ]
    named = []
    for number, part in enumerate(parts, 1):
        etag = plain.upload_part(**target, UploadId=upload, PartNumber=number, Body=part)["ETag"]
        named.append({"PartNumber": number, "ETag": etag})
    whole = {f"Checksum{algorithm}": value_of(algorithm, b"".join(parts)), "ChecksumType": "FULL_OBJECT"}
    complete = {**target, "UploadId": upload, "MultipartUpload": {"Parts": named}}
    wrong = {**whole, f"Checksum{algorithm}": value_of(algorithm, b"other")}
    with pytest.raises(ClientError, match="BadDigest"):
        plain.complete_multipart_upload(**complete, **wrong)
    with pytest.raises(ClientError, match="x-amz-mp-object-size"):
        plain.complete_multipart_upload(**complete, **whole, MpuObjectSize=1)
    answer = plain.complete_multipart_upload(**complete, **whole, MpuObjectSize=5 * MIB + 4)
    assert answer[f"Checksum{algorithm}"] == whole[f"Checksum{algorithm}"]


def test_an_object_without_a_checksum_gets_the_one_that_s3_adds(s3: Any) -> None:
    plain = boto3.client("s3", config=Config(request_checksum_calculation="when_required"))
    answer = plain.put_object(Bucket=BUCKET, Key="bare", Body=b"bare")
    assert answer["ChecksumCRC64NVME"] == value_of("crc64nvme", b"bare")
    target = {"Bucket": BUCKET, "Key": "bare-parts"}
    upload = {**target, "UploadId": plain.create_multipart_upload(**target)["UploadId"]}
    etag = plain.upload_part(**upload, PartNumber=1, Body=b"bare")["ETag"]
    done = plain.complete_multipart_upload(
        **upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}
    )
    assert done["ChecksumCRC64NVME"] == value_of("crc64nvme", b"bare")


def test_checksums_that_contradict_the_upload_are_refused(s3: Any) -> None:
    target = {"Bucket": BUCKET, "Key": "k"}
    for algorithm, kind in (("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE")):
        with pytest.raises(ClientError, match="cannot be used with"):
            s3.create_multipart_upload(**target, ChecksumAlgorithm=algorithm, ChecksumType=kind)
    upload = {
        **target,
        "UploadId": s3.create_multipart_upload(**target, ChecksumAlgorithm="SHA1")["UploadId"],
    }
    with pytest.raises(ClientError, match="expected checksum Type: sha1, actual checksum Type: crc32c"):
        s3.upload_part(**upload, PartNumber=1, Body=b"x", ChecksumAlgorithm="CRC32C")
    part = s3.upload_part(**upload, PartNumber=1, Body=b"x", ChecksumAlgorithm="SHA1")
    named = {"PartNumber": 1, "ETag": part["ETag"]}
    with pytest.raises(ClientError, match="missing for part 1"):
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [named]})
    other = {**named, "ChecksumSHA1": value_of("sha1", b"y")}
    with pytest.raises(ClientError, match="InvalidPart"):
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [other]})
    s3.abort_multipart_upload(**upload)


def test_a_copy_can_have_another_checksum(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="from", Body=b"copied")
    source = {"Bucket": BUCKET, "Key": "from"}
    result = s3.copy_object(Bucket=BUCKET, Key="to", CopySource=source, ChecksumAlgorithm="SHA256")
    assert result["CopyObjectResult"]["ChecksumSHA256"] == value_of("sha256", b"copied")
    kept = s3.copy_object(Bucket=BUCKET, Key="to", CopySource=source)
    assert kept["CopyObjectResult"]["ChecksumCRC32"] == value_of("crc32", b"copied")


# ---- AWS's C client, which boto3 can use on large machines


def test_the_clients_of_the_common_runtime_upload_and_download(s3: Any, local_aws: Server) -> None:
    from awscrt.auth import AwsCredentialsProvider
    from s3transfer import crt

    keys = local_aws.credentials
    provider = AwsCredentialsProvider.new_static(keys.access_key, keys.secret_key)
    client = crt.create_s3_crt_client("us-east-1", crt_credentials_provider=provider, use_ssl=False)
    options = {"endpoint_url": f"http://127.0.0.1:{local_aws.port}", "region_name": "us-east-1"}
    serializer = crt.BotocoreCRTRequestSerializer(botocore.session.get_session(), options)
    with crt.CRTTransferManager(client, serializer) as manager:
        for size in (3, 17 * MIB):
            data = random.Random(size).randbytes(size)
            manager.upload(io.BytesIO(data), BUCKET, "by-crt").result()
            received = io.BytesIO()
            manager.download(BUCKET, "by-crt", received).result()
            assert received.getvalue() == data
            manager.delete(BUCKET, "by-crt").result()


# ---- s3fs and pandas


def test_s3fs_has_files_and_folders(files: s3fs.S3FileSystem) -> None:
    root = f"{BUCKET}/fs"
    files.pipe(f"{root}/x", b"a file")
    files.pipe(f"{root}/x/y", b"a file below a file of the same name")
    files.pipe(f"{root}/ü +%/z", b"odd")
    data = random.Random(3).randbytes(12 * MIB)
    with files.open(f"{root}/big", "wb", block_size=5 * MIB) as file:
        file.write(data)
    with files.open(f"{root}/big", "rb", block_size=MIB) as file:
        file.seek(-5, 2)
        assert file.read() == data[-5:]
        file.seek(6 * MIB)
        assert file.read(10) == data[6 * MIB : 6 * MIB + 10]
    assert files.cat(f"{root}/x") == b"a file"
    found = [f"{root}/{name}" for name in ("big", "x", "x/y", "ü +%/z")]
    assert sorted(files.find(root)) == found
    files.copy(f"{root}/ü +%/z", f"{root}/copied")
    files.move(f"{root}/copied", f"{root}/moved")
    assert files.cat(f"{root}/moved") == b"odd"
    assert files.info(f"{root}/big")["size"] == len(data)
    assert files.isdir(f"{root}/ü +%")
    files.rm(root, recursive=True)
    assert not files.exists(root)


@pytest.mark.filterwarnings(
    "ignore:Your installed version of s3fs:UserWarning"
)  # the one botocore's pin allows
def test_pandas_writes_and_reads(files: s3fs.S3FileSystem) -> None:
    frame = table().to_pandas()
    frame.to_csv(f"s3://{BUCKET}/frame.csv.gz", index=False)
    frame.to_parquet(f"s3://{BUCKET}/frame.parquet")
    pd.testing.assert_frame_equal(pd.read_csv(f"s3://{BUCKET}/frame.csv.gz"), frame, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_parquet(f"s3://{BUCKET}/frame.parquet"), frame)
    with pytest.raises(FileNotFoundError):
        pd.read_csv(f"s3://{BUCKET}/not-there.csv")


# ---- pyarrow's own client, in C++


def test_pyarrow_writes_and_reads_tables_and_datasets(arrow: pyarrow.fs.S3FileSystem) -> None:
    rows = table()
    pyarrow.parquet.write_table(rows, f"{BUCKET}/arrow/one.parquet", filesystem=arrow)
    assert pyarrow.parquet.read_table(f"{BUCKET}/arrow/one.parquet", filesystem=arrow).equals(rows)
    where = f"{BUCKET}/arrow/by word"
    pyarrow.dataset.write_dataset(
        rows, where, filesystem=arrow, format="parquet", partitioning=["word"], partitioning_flavor="hive"
    )
    dataset = pyarrow.dataset.dataset(where, filesystem=arrow, partitioning="hive")
    assert dataset.count_rows() == 5000
    chosen = dataset.to_table(filter=pyarrow.dataset.field("word") == "w1", columns=["number"])
    assert chosen["number"].to_pylist() == list(range(1, 5000, 3))


def test_pyarrow_has_files_and_folders(arrow: pyarrow.fs.S3FileSystem) -> None:
    root = f"{BUCKET}/arrow files"
    data = random.Random(4).randbytes(12 * MIB)
    arrow.create_dir(f"{root}/empty/deep")
    with arrow.open_output_stream(f"{root}/big", metadata={"Content-Type": "text/x", "run": "one"}) as stream:
        for start in range(0, len(data), MIB):
            stream.write(data[start : start + MIB])
    with arrow.open_input_file(f"{root}/big") as file:
        assert file.size() == len(data)
        assert file.read_at(10, 7 * MIB) == data[7 * MIB : 7 * MIB + 10]
        assert file.metadata()["Content-Type"] == b"text/x"
    arrow.copy_file(f"{root}/big", f"{root}/copy")
    arrow.move(f"{root}/copy", f"{root}/moved")
    infos = arrow.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
    assert sorted(info.path.removeprefix(f"{root}/") for info in infos) == [
        "big",
        "empty",
        "empty/deep",
        "moved",
    ]
    arrow.delete_dir(root)
    assert arrow.get_file_info(root).type == pyarrow.fs.FileType.NotFound
    with pytest.raises(FileNotFoundError):
        arrow.open_input_file(f"{root}/big").read()
    arrow.create_dir("made-by-arrow")
    arrow.delete_dir("made-by-arrow")


# ---- presigned URLs, by a client that knows nothing of AWS


@pytest.mark.parametrize("version", ["s3", "s3v4"])  # boto3 presigns by version 2 unless told otherwise
def test_presigned_urls_put_and_get(s3: Any, version: str) -> None:
    client = boto3.client("s3", config=Config(signature_version=version))
    target = {"Bucket": BUCKET, "Key": "signed/ü +%.txt"}
    put = client.generate_presigned_url("put_object", Params={**target, "ContentType": "text/x"})
    request = urllib.request.Request(put, b"sent", {"Content-Type": "text/x"}, method="PUT")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["ETag"] == f'"{hashlib.md5(b"sent").hexdigest()}"'
    get = client.generate_presigned_url(
        "get_object", Params={**target, "ResponseContentDisposition": 'attachment; filename="a b.txt"'}
    )
    with urllib.request.urlopen(get, timeout=10) as answer:
        assert answer.read() == b"sent"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="a b.txt"'
    listing = client.generate_presigned_url("list_objects_v2", Params={"Bucket": BUCKET, "Prefix": "signed/"})
    with urllib.request.urlopen(listing, timeout=10) as answer:
        assert b"<KeyCount>1</KeyCount>" in answer.read()
    ranged = urllib.request.Request(get, headers={"Range": "bytes=1-2"})
    with urllib.request.urlopen(ranged, timeout=10) as answer:
        assert (answer.status, answer.read()) == (206, b"en")


@pytest.mark.parametrize("version", ["s3", "s3v4"])  # boto3 presigns by version 2 unless told otherwise
def test_a_presigned_url_is_for_its_headers_and_its_time_only(s3: Any, version: str) -> None:
    client = boto3.client("s3", config=Config(signature_version=version))
    target = {"Bucket": BUCKET, "Key": "signed"}
    put = client.generate_presigned_url("put_object", Params={**target, "ContentType": "text/x"})
    for headers in ({"Content-Type": "text/y"}, {"Content-Type": "text/x", "x-amz-meta-a": "b"}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(put, b"x", headers, method="PUT"), timeout=10)
        assert caught.value.code == 403
        caught.value.close()
    soon = client.generate_presigned_url("get_object", Params=target, ExpiresIn=1)
    threading.Event().wait(2.1)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(soon, timeout=10)
    assert b"Request has expired" in caught.value.read()
    caught.value.close()
