"""The door of the local AWS: who gets in, where requests go, and how errors are answered."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import zlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.local import Server
from lib.local.server import MAX_BODY_BYTES
from lib.local.signing import SignedRequest, sign

BUCKET = "server-tests"


@pytest.fixture(autouse=True)
def bucket(local_aws: Server) -> None:
    """Make the bucket for each test anew: the requests of chance may have deleted it."""
    boto3.client("s3").create_bucket(Bucket=BUCKET)


@pytest.fixture
def connection(local_aws: Server) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", local_aws.port, timeout=10)
    yield connection
    connection.close()


Answer = tuple[int, bytes, dict[str, str]]


def send(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: dict[str, str]
) -> Answer:
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"content-length": str(len(body)), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


def signed(
    server: Server, service: str, method: str, path: str, body: bytes, headers: dict[str, str]
) -> dict[str, str]:
    raw_path, _, query = path.partition("?")
    every = {"host": f"127.0.0.1:{server.port}", **headers}
    request = SignedRequest(method, raw_path, query, every)
    return sign(request, body, service, "us-east-1", server.credentials)


def call(
    connection: http.client.HTTPConnection, server: Server, target: str, body: bytes, **headers: str
) -> Answer:
    every = {"x-amz-target": target, "content-type": "application/x-amz-json-1.1", **headers}
    return send(connection, "POST", "/", body, signed(server, "sagemaker", "POST", "/", body, every))


def code_of(body: bytes) -> str:
    return ElementTree.fromstring(body).findtext("Code") or ""


# ---- who gets in


def test_unsigned_requests_are_refused_in_the_protocol_they_speak(
    connection: http.client.HTTPConnection, local_aws: Server
) -> None:
    host = {"host": f"127.0.0.1:{local_aws.port}"}
    status, body, _ = send(connection, "GET", f"/{BUCKET}", b"", host)
    assert (status, code_of(body)) == (403, "MissingAuthenticationToken")
    target = {"x-amz-target": "SageMaker.ListModels"}
    status, body, headers = send(connection, "POST", "/", b"{}", {**host, **target})
    assert (status, json.loads(body)["__type"]) == (403, "MissingAuthenticationToken")
    assert headers["x-amzn-errortype"] == "MissingAuthenticationToken"


def test_wrong_credentials_are_refused(local_aws: Server) -> None:
    key, secret = local_aws.credentials.access_key, local_aws.credentials.secret_key
    for access_key, secret_key in ((key, "guess"), ("AKIAGUESS", secret)):
        mine = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key}
        for service, operation in (("s3", "list_buckets"), ("sagemaker", "list_models")):
            with pytest.raises(ClientError) as caught:
                getattr(boto3.client(service, **mine), operation)()
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", ""])
def test_another_host_name_is_refused(
    connection: http.client.HTTPConnection, local_aws: Server, host: str
) -> None:
    headers = signed(local_aws, "s3", "GET", "/", b"", {"host": host})
    status, body, _ = send(connection, "GET", "/", b"", headers)
    assert (status, code_of(body)) == (403, "AccessDenied")


def test_a_web_page_is_refused_and_told_nothing(
    connection: http.client.HTTPConnection, local_aws: Server
) -> None:
    headers = signed(local_aws, "s3", "GET", "/", b"", {"origin": "http://evil.example"})
    status, _, answered = send(connection, "GET", "/", b"", headers)
    assert status == 403
    assert not [name for name in answered if name.startswith("access-control-")]


def test_the_name_localhost_is_accepted(local_aws: Server) -> None:
    client = boto3.client("s3", endpoint_url=f"http://localhost:{local_aws.port}")
    assert BUCKET in [item["Name"] for item in client.list_buckets()["Buckets"]]


def test_only_this_address_of_this_machine_answers(local_aws: Server) -> None:
    with socket.socket() as other:
        other.settimeout(1)
        assert other.connect_ex(("127.0.0.2", local_aws.port)) != 0


def test_a_body_that_was_not_signed_is_refused(
    connection: http.client.HTTPConnection, local_aws: Server
) -> None:
    path = f"/{BUCKET}/tampered"
    headers = signed(local_aws, "s3", "PUT", path, b"signed", {})
    status, body, _ = send(connection, "PUT", path, b"other!", headers)
    assert (status, code_of(body)) == (400, "XAmzContentSHA256Mismatch")
    target = {"x-amz-target": "SageMaker.ListModels"}
    headers = signed(local_aws, "sagemaker", "POST", "/", b"{}", target)
    status, body, _ = send(connection, "POST", "/", b'{"MaxResults": 5}', headers)
    assert (status, json.loads(body)["__type"]) == (403, "InvalidSignatureException")


def test_the_secret_does_not_show(local_aws: Server) -> None:
    assert local_aws.credentials.secret_key not in repr(local_aws)


# ---- where requests go


def test_the_caller_is_named(local_aws: Server) -> None:
    identity = boto3.client("sts").get_caller_identity()
    assert identity["Account"] == "123456789012"
    assert identity["Arn"].startswith("arn:aws:iam::123456789012:")


@pytest.mark.parametrize(
    ("service", "operation", "options"),
    [
        ("events", "list_rules", {}),
        ("iam", "list_users", {}),
        ("sts", "assume_role", {"RoleArn": "arn:aws:iam::123456789012:role/x", "RoleSessionName": "xx"}),
        ("sagemaker-runtime", "invoke_endpoint_async", {"EndpointName": "e", "InputLocation": "s3://b/k"}),
        ("ecr", "describe_repositories", {}),
        ("lambda", "list_functions", {}),
        ("dynamodb", "list_tables", {}),
    ],
)
def test_a_service_that_is_not_here_says_so(
    local_aws: Server, service: str, operation: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ClientError, match="not implemented by the local AWS") as caught:
        getattr(boto3.client(service), operation)(**options)
    assert caught.value.response["Error"]["Code"] == "NotImplemented"
    assert caught.value.response["ResponseMetadata"]["RetryAttempts"] == 0


def test_an_operation_that_is_not_here_is_named(local_aws: Server) -> None:
    with pytest.raises(ClientError, match="ListApps is not implemented by the local AWS") as caught:
        boto3.client("sagemaker").list_apps()
    assert caught.value.response["Error"]["Code"] == "UnknownOperationException"


def test_an_answer_carries_a_request_id(local_aws: Server) -> None:
    for answer in (boto3.client("s3").list_buckets(), boto3.client("sagemaker").list_models()):
        assert len(answer["ResponseMetadata"]["RequestId"]) == 36


def test_a_call_that_is_too_large_is_refused(
    connection: http.client.HTTPConnection, local_aws: Server
) -> None:
    body = b'{"a": "' + b"x" * MAX_BODY_BYTES + b'"}'
    status, answer, _ = call(connection, local_aws, "SageMaker.ListModels", body)
    assert (status, json.loads(answer)["__type"]) == (413, "RequestEntityTooLargeException")


def test_xml_that_is_too_large_or_declares_entities_is_refused(
    connection: http.client.HTTPConnection, local_aws: Server
) -> None:
    path = f"/{BUCKET}?delete"
    bomb = (
        b'<!DOCTYPE Delete [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        b"<Delete><Object><Key>&b;</Key></Object></Delete>"
    )
    for body, code in ((bomb, "MalformedXML"), (b"<", "MalformedXML"), (b"<x/>", "MalformedXML")):
        status, answer, _ = send(
            connection, "POST", path, body, signed(local_aws, "s3", "POST", path, body, {})
        )
        assert (status, code_of(answer)) == (400, code)
    body = b"<Delete>" + b" " * 5_000_000 + b"</Delete>"
    _, answer, _ = send(connection, "POST", path, body, signed(local_aws, "s3", "POST", path, body, {}))
    assert code_of(answer) == "MaxMessageLengthExceeded"


def test_a_refused_put_leaves_the_connection_usable(local_aws: Server) -> None:
    client = boto3.client("s3")
    for _ in range(3):
        with pytest.raises(client.exceptions.NoSuchBucket):
            client.put_object(Bucket="not-there", Key="k", Body=b"x" * 100_000)
        client.head_bucket(Bucket=BUCKET)


@given(
    st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS"]),
    st.sampled_from(["", "/", f"/{BUCKET}", f"/{BUCKET}/key", "/%FF/%00", "//", "/no-bucket/%C3%28"]),
    st.sampled_from(
        ["", "?uploads", "?uploadId=1&partNumber=x", "?delete", "?list-type=2&max-keys=-1", "?versionId=%FF"]
    ),
    st.binary(max_size=50),
    st.dictionaries(
        st.sampled_from(
            ["range", "x-amz-copy-source", "x-amz-checksum-crc32", "content-md5", "if-match", "x-amz-trailer"]
        ),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
    ),
)
@settings(max_examples=150, deadline=None)
def test_no_request_to_s3_makes_it_fail(
    local_aws: Server, method: str, path: str, query: str, body: bytes, headers: dict[str, str]
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", local_aws.port, timeout=10)
    where = f"{path or '/'}{query}"
    status, _, _ = send(
        connection, method, where, body, signed(local_aws, "s3", method, where, body, headers)
    )
    connection.close()
    assert status < 500 or status == 501


# ---- chunked uploads


def chunked(data: bytes, chunk: int = 1000) -> tuple[bytes, dict[str, str]]:
    """Return data in the framing in which AWS's clients stream, as botocore makes it, and its headers."""
    wrapper = AwsChunkedWrapper(
        io.BytesIO(data), checksum_cls=Crc32Checksum, checksum_name="x-amz-checksum-crc32", chunk_size=chunk
    )
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-trailer": "x-amz-checksum-crc32",
        "x-amz-decoded-content-length": str(len(data)),
    }
    return wrapper.read(), headers


def put_chunked(
    connection: http.client.HTTPConnection, server: Server, framed: bytes, headers: dict[str, str]
) -> Answer:
    path = f"/{BUCKET}/chunked"
    request = SignedRequest("PUT", path, "", {"host": f"127.0.0.1:{server.port}", **headers})
    word = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    every = sign(request, b"", "s3", "us-east-1", server.credentials, payload_hash=word)
    return send(connection, "PUT", path, framed, every)


@pytest.mark.parametrize("size", [0, 1, 1000, 5000, 2_500_001])
def test_a_chunked_upload_is_unwrapped(
    connection: http.client.HTTPConnection, local_aws: Server, size: int
) -> None:
    data = bytes(index % 251 for index in range(size))
    status, body, headers = put_chunked(connection, local_aws, *chunked(data, 100_000))
    assert (status, body) == (200, b"")
    assert headers["x-amz-checksum-crc32"] == base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    answer = boto3.client("s3").get_object(Bucket=BUCKET, Key="chunked")
    assert answer["Body"].read() == data
    assert "ContentEncoding" not in answer


def test_a_chunked_upload_that_is_damaged_is_refused(
    connection: http.client.HTTPConnection, local_aws: Server
) -> None:
    client = boto3.client("s3")
    client.put_object(Bucket=BUCKET, Key="chunked", Body=b"before")
    framed, headers = chunked(b"x" * 5000)
    longer = {**headers, "x-amz-decoded-content-length": "5001"}
    shorter = {**headers, "x-amz-decoded-content-length": "4999"}
    damaged = [
        (framed.replace(b"xx", b"xy", 1), headers, "BadDigest"),
        (framed[:-20], headers, "IncompleteBody"),
        (framed[:2000], headers, "IncompleteBody"),
        (b"zz" + framed, headers, "InvalidRequest"),
        (b"f" * 10_000, headers, "InvalidRequest"),
        (framed, longer, "IncompleteBody"),
        (framed, shorter, "IncompleteBody"),
    ]
    for body, sent_headers, code in damaged:
        status, answer, _ = put_chunked(connection, local_aws, body, sent_headers)
        assert (status, code_of(answer)) == (400, code)
    assert client.get_object(Bucket=BUCKET, Key="chunked")["Body"].read() == b"before"
