"""Requests, bodies and archives that nobody would send: refused as AWS does, never with a 500, never a hang.

``REELBOOK_FUZZ=2000`` tries so many examples of each; by default it is some dozens.
"""

from __future__ import annotations

import copy
import gzip
import http.client
import io
import json
import os
import random
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sagemaker_kit import (
    BUCKET,
    IMAGE,
    ROLE,
    Aws,
    model_request,
    training_request,
    transform_request,
)
from test_tuning_jobs import request as tuning_request

from lib.errors import ModelError
from lib.local import Server, archive
from lib.local.payload import SIGNED_CHUNKS, UNSIGNED_TRAILER, Payload
from lib.local.protocol import AwsError, service_model
from lib.local.signing import UNSIGNED_PAYLOAD, ChunkSigner, Claim, SignedRequest, sign

EXAMPLES = int(os.environ.get("REELBOOK_FUZZ", "60"))
S3_BUCKET = "fuzz-tests"
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize="REELBOOK_FUZZ" not in os.environ,
)


# ---- operations of SageMaker and the logs, by mutation of requests that are well-formed

ARN = "arn:aws:sagemaker:us-east-1:123456789012"
VARIANT = {
    "VariantName": "v",
    "ModelName": "model",
    "InitialInstanceCount": 1,
    "InstanceType": "ml.m5.large",
}
WELL_FORMED: dict[str, dict[str, Any]] = {
    "CreateTrainingJob": training_request("a", InputDataConfig=[]),
    "CreateTransformJob": transform_request("a", "model"),
    "CreateHyperParameterTuningJob": tuning_request("a"),
    "CreateModel": model_request("model", f"s3://{BUCKET}/model.tar.gz"),
    "CreateEndpointConfig": {"EndpointConfigName": "config", "ProductionVariants": [VARIANT]},
    "UpdateEndpoint": {"EndpointName": "it", "EndpointConfigName": "config"},
    "ListTrainingJobs": {"MaxResults": 3, "SortBy": "Name", "StatusEquals": "Failed", "NextToken": "x"},
    "ListTrainingJobsForHyperParameterTuningJob": {"HyperParameterTuningJobName": "a", "SortBy": "Status"},
    "ListEndpoints": {"CreationTimeAfter": 1.5, "NameContains": "i", "SortOrder": "Ascending"},
    "AddTags": {"ResourceArn": f"{ARN}:model/model", "Tags": [{"Key": "k", "Value": "v"}]},
    "DescribeModel": {"ModelName": "model"},
    "StopTrainingJob": {"TrainingJobName": "a"},
    "Search": {
        "Resource": "TrainingJob",
        "SearchExpression": {
            "Filters": [{"Name": "HyperParameters.epochs", "Operator": "GreaterThan", "Value": "1"}],
            "NestedFilters": [
                {
                    "NestedPropertyName": "InputDataConfig",
                    "Filters": [{"Name": "InputDataConfig.ChannelName", "Operator": "In", "Value": "a,b"}],
                }
            ],
            "SubExpressions": [{"Filters": [{"Name": "Tags.a", "Operator": "Exists"}]}],
            "Operator": "Or",
        },
        "SortBy": "CreationTime",
        "NextToken": "MQ==",
    },
}
ODD: list[Any] = [
    None, True, 0, -1, 10**30, 1e308, "", "x", "0", "é\ud800", "\0", "a" * 3000, [], {}, [None], [[]],
    {"a": {}}, "s3://", f"s3://{BUCKET}/", "s3://nobody/here", f"s3://{BUCKET}/../x", IMAGE, ROLE, "NaN",
    "../../etc/passwd", [VARIANT, VARIANT], {"S3DataSource": {}}, "Gzip", "Pipe", "Grid", "$.a", "true",
]  # fmt: skip


def shape_members(operation: str) -> list[str]:
    shape = service_model("sagemaker").operation_model(operation).input_shape
    return sorted(shape.members) if shape else []


def mutated(operation: str, chance: random.Random) -> dict[str, Any]:
    """Return a well-formed request with one to three values replaced, removed or added."""
    params = copy.deepcopy(WELL_FORMED[operation])
    for _ in range(chance.randint(1, 3)):
        place: Any = params
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys or chance.random() < 0.15:
                break
            key = chance.choice(keys)
            if not isinstance(place[key], dict | list) or chance.random() < 0.2:
                place[key] = copy.deepcopy(chance.choice(ODD))
                if chance.random() < 0.2:
                    del place[key]
                break
            place = place[key]
        else:
            continue
        if isinstance(place, dict) and chance.random() < 0.3:
            place[chance.choice([*shape_members(operation), "Unknown"])] = copy.deepcopy(chance.choice(ODD))
    return params


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with Aws(tmp_path_factory.mktemp("aws"), grace=0.1) as aws:
        aws.put("model.tar.gz", b"no archive")
        aws.put_ratings()
        aws.call("CreateModel", **WELL_FORMED["CreateModel"])
        yield aws


@fuzzed
@given(st.sampled_from(sorted(WELL_FORMED)), st.integers(0, 2**32))
def test_a_request_with_odd_values_is_answered_or_refused(aws: Aws, operation: str, seed: int) -> None:
    params = mutated(operation, random.Random(f"{operation}/{seed}"))
    refusal = None
    try:
        aws.call(operation, **params)
    except AwsError as error:
        refusal = error
    if refusal:
        assert refusal.status in (400, 404, 501), (refusal.code, refusal.message, params)
        assert refusal.message
    for kind in ("TrainingJob", "TransformJob", "HyperParameterTuningJob"):
        for summary in aws.call(f"List{kind}s", StatusEquals="InProgress")[f"{kind}Summaries"]:
            with suppress(AwsError):  # it has just ended
                aws.call(f"Stop{kind}", **{f"{kind}Name": summary[f"{kind}Name"]})


# ---- requests to S3, signed

NAMES = ["acl", "uploads", "uploadId", "partNumber", "delete", "tagging", "attributes", "versionId", "list-type",
         "prefix", "delimiter", "max-keys", "continuation-token", "start-after", "marker", "encoding-type",
         "max-uploads", "response-expires", "location", "max-parts",
         "part-number-marker", "key-marker", "upload-id-marker"]  # fmt: skip
VALUES = [
    "",
    "0",
    "1",
    "-1",
    "1001",
    "99999999999999999999",
    "x",
    "/",
    "url",
    "%00",
    "ü",
    "a" * 1100,
    "null",
    "2",
]
HEADERS = ["range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "content-md5",
           "x-amz-copy-source", "x-amz-copy-source-range", "x-amz-metadata-directive", "x-amz-tagging",
           "x-amz-checksum-crc32", "x-amz-checksum-sha256", "x-amz-checksum-algorithm", "x-amz-checksum-type",
           "x-amz-sdk-checksum-algorithm", "x-amz-trailer", "x-amz-decoded-content-length", "content-type",
           "x-amz-meta-a", "x-amz-object-attributes", "x-amz-mp-object-size", "content-encoding", "x-amz-acl",
           "x-amz-part-number", "x-amz-storage-class", "x-amz-server-side-encryption", "expect", "date"]  # fmt: skip
HEADER_VALUES = ["", "*", "bytes=0-", "bytes=5-2", "bytes=-0", "bytes=a-b", "bytes=0-1,3-4", "CRC32", "SHA256", "x",
                 "FULL_OBJECT", "COMPOSITE", f"{S3_BUCKET}/k", f"/{S3_BUCKET}/none?versionId=1", "%ff/%fe", "a=b&a=c",
                 "ETag,Checksum", "-1", "1e9", "aGVsbG8=", "AAAAAA==", "Mon, 23 Nov 2026 00:00:00 GMT", "COPY",
                 "REPLACE", "aws-chunked", "x-amz-checksum-crc32", "a" * 5000]  # fmt: skip
BODIES = [b"", b"x", b"<", b"<a>", b"<Delete/>", b"<Delete><Object><Key/></Object></Delete>",
          b"<Delete><Object><Key>k</Key></Object></Delete>", b"<CompleteMultipartUpload/>",
          b"<CompleteMultipartUpload><Part><PartNumber>x</PartNumber><ETag/></Part></CompleteMultipartUpload>",
          b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>", b"\xff\xfe<\0",
          b"<!DOCTYPE a [<!ENTITY b 'c'>]><Delete><Object><Key>&b;</Key></Object></Delete>",
          b"<CreateBucketConfiguration><LocationConstraint>moon</LocationConstraint></CreateBucketConfiguration>",
          b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"]  # fmt: skip


def answered(server: Server, request: SignedRequest, body: bytes, payload_hash: str = "") -> int:
    headers = sign(request, body, "s3", "us-east-1", server.credentials, payload_hash)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        target = request.raw_path + ("?" + request.query if request.query else "")
        connection.request(request.method, target, body, {k: v.encode() for k, v in headers.items()})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


@pytest.fixture(scope="module")
def fuzz_bucket(local_aws: Server) -> Server:
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket=S3_BUCKET)
    client.put_object(Bucket=S3_BUCKET, Key="k", Body=b"content")
    return local_aws


@fuzzed
@given(
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
    st.sampled_from(
        ["", f"/{S3_BUCKET}", f"/{S3_BUCKET}/k", f"/{S3_BUCKET}/n%C3%BC", "/none/k", f"/{S3_BUCKET}//.."]
    ),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=3),
    st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(HEADER_VALUES), max_size=3),
    st.sampled_from(BODIES),
    st.sampled_from(["", UNSIGNED_PAYLOAD, SIGNED_CHUNKS, UNSIGNED_TRAILER]),
)
def test_an_odd_request_to_s3_is_answered_or_refused(
    fuzz_bucket: Server,
    method: str,
    path: str,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes,
    payload_hash: str,
) -> None:
    if headers.get("expect"):
        headers = {**headers, "expect": "100-continue"}
    encoded = "&".join(f"{name}={quote(value)}" for name, value in query.items())
    sent = {**headers, "host": f"127.0.0.1:{fuzz_bucket.port}"}
    request = SignedRequest(method, path or "/", encoded, sent)
    status = answered(fuzz_bucket, request, body, payload_hash)
    assert status < 500 or status == 501


# ---- what is no request at all


@fuzzed
@given(
    st.one_of(st.binary(max_size=300), st.builds(lambda text: text.encode("latin-1", "replace"), st.text()))
)
def test_bytes_that_are_no_request_do_no_harm(local_aws: Server, data: bytes) -> None:
    for beginning in (
        b"",
        b"GET / HTTP/1.1\r\n",
        b"PUT /a/b HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", local_aws.port), timeout=10) as connection:
            connection.sendall(beginning + data)
            connection.shutdown(socket.SHUT_WR)
            said = b""
            while piece := connection.recv(65_536):
                said += piece
            assert said == b"" or said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501")), said[:100]


# ---- bodies and archives

CLAIM = Claim("key", "20261123", "us-east-1", "s3", ("host",), 64 * "0", time="20261123T000000Z")


@fuzzed
@given(st.binary(max_size=200), st.integers(1, 50), st.booleans(), st.integers(0, 100))
def test_chunked_bodies_of_any_bytes_are_refused_or_read(
    data: bytes, piece: int, signed: bool, length: int
) -> None:
    headers = {
        "x-amz-content-sha256": SIGNED_CHUNKS if signed else UNSIGNED_TRAILER,
        "x-amz-decoded-content-length": str(length),
    }
    payload = Payload(headers, ChunkSigner(CLAIM, "secret") if signed else None)
    given_back, refusal = b"", 0
    try:
        for start in range(0, len(data), piece):
            given_back += payload.feed(data[start : start + piece])
        payload.finish()
    except AwsError as error:
        refusal = error.status
    assert refusal in (400, 403) if refusal else len(given_back) == length


def tar_of(names: list[str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(
                member, io.BytesIO(name.encode("utf-8", "replace")[: len(name)].ljust(len(name), b"x"))
            )
    return file.getvalue()


@fuzzed
@given(
    st.lists(st.sampled_from(["a", "b/c", "../x", "/x", "b", "c/../../x", "ü", "a" * 300, "."]), max_size=4),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    st.booleans(),
)
def test_archives_of_any_bytes_are_refused_or_unpacked_inside(
    names: list[str], changes: list[tuple[int, int]], inside: bool
) -> None:
    data = bytearray(tar_of(names))
    if inside:  # what is compressed, else the compression itself
        for place, value in changes:
            data[place % len(data)] = value
    data = bytearray(gzip.compress(bytes(data), 1))
    if not inside:
        for place, value in changes:
            data[place % len(data)] = value
    with tempfile.TemporaryDirectory() as name:
        outer = Path(name)
        (outer / "target").mkdir()
        (outer / "archive").write_bytes(data)
        with suppress(ModelError):
            archive.unpack(outer / "archive", outer / "target", max_bytes=10**6)
        assert sorted(path.name for path in outer.iterdir()) == ["archive", "target"]
        assert not any(path.is_symlink() for path in outer.rglob("*"))


@fuzzed
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists, max_leaves=5))
def test_json_of_any_form_is_no_request(local_aws: Server, value: Any) -> None:
    body = json.dumps(value).encode()
    headers = {
        "host": f"127.0.0.1:{local_aws.port}",
        "x-amz-target": "SageMaker.ListTrainingJobs",
        "content-type": "application/x-amz-json-1.1",
    }
    signed = sign(
        SignedRequest("POST", "/", "", headers), body, "sagemaker", "us-east-1", local_aws.credentials
    )
    connection = http.client.HTTPConnection("127.0.0.1", local_aws.port, timeout=10)
    connection.request("POST", "/", body, signed)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status in (200, 400)


def test_a_form_of_many_fields_is_read(local_aws: Server) -> None:
    body = b"Action=AssumeRole&" + b"&".join(b"a%d=1" % number for number in range(5000))
    headers = {
        "host": f"127.0.0.1:{local_aws.port}",
        "content-type": "application/x-www-form-urlencoded; charset=utf-8",
    }
    signed = sign(SignedRequest("POST", "/", "", headers), body, "sts", "us-east-1", local_aws.credentials)
    connection = http.client.HTTPConnection("127.0.0.1", local_aws.port, timeout=10)
    connection.request("POST", "/", body, signed)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    assert (answer.status, b"AssumeRole is not implemented" in said) == (501, True)
