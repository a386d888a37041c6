"""Signatures: AWS's published examples, botocore's signer, and everything that must be refused."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import replace

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from lib.local.protocol import AwsError
from lib.local.signing import UNSIGNED_PAYLOAD, Credentials, SignedRequest, read_claim, sign, verify

MINE = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
EMPTY = hashlib.sha256(b"").hexdigest()


def after(seconds: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)


def refusal(
    request: SignedRequest, payload_hash: str = EMPTY, credentials: Credentials = MINE, late: float = 0
) -> str:
    with pytest.raises(AwsError) as caught:
        verify(request, read_claim(request), payload_hash, credentials, after(late))
    return caught.value.code


def signed_by_botocore(url: str, service: str, body: bytes = b"", **headers: str) -> SignedRequest:
    request = AWSRequest("PUT", url, {"Host": "127.0.0.1:8000", **headers}, body)
    signer = S3SigV4Auth if service == "s3" else SigV4Auth
    signer(BotoCredentials(MINE.access_key, MINE.secret_key), service, "us-east-1").add_auth(request)
    path, _, query = url.removeprefix("http://127.0.0.1:8000").partition("?")
    return SignedRequest("PUT", path, query, {name.lower(): value for name, value in request.headers.items()})


def test_the_published_example_of_a_header_signature() -> None:
    headers = {
        "content-type": "application/x-www-form-urlencoded; charset=utf-8",
        "host": "iam.amazonaws.com",
        "x-amz-date": "20150830T123600Z",
        "authorization": "AWS4-HMAC-SHA256 "
        "Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
    }
    request = SignedRequest("GET", "/", "Action=ListUsers&Version=2010-05-08", headers)
    now = dt.datetime(2015, 8, 30, 12, 36, 5, tzinfo=dt.UTC)
    claim = read_claim(request)
    assert (claim.service, claim.region) == ("iam", "us-east-1")
    verify(request, claim, EMPTY, MINE, now)


def test_the_published_example_of_a_presigned_url() -> None:
    query = (
        "X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )
    request = SignedRequest("GET", "/test.txt", query, {"host": "examplebucket.s3.amazonaws.com"})
    theirs = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    then = dt.datetime(2013, 5, 24, 23, 59, tzinfo=dt.UTC)
    verify(request, read_claim(request), UNSIGNED_PAYLOAD, theirs, then)
    with pytest.raises(AwsError, match="expired"):
        verify(request, read_claim(request), UNSIGNED_PAYLOAD, theirs, then + dt.timedelta(minutes=2))


@pytest.mark.parametrize(
    "path",
    ["/", "/bucket/key", "/b/%C3%BC%20x/..//y", "/b/a%2Bb%26c?uploads=&b=2&a=%20%2F", "/b?list-type=2"],
)
@pytest.mark.parametrize("service", ["s3", "sagemaker"])
def test_what_botocore_signs_is_accepted(path: str, service: str) -> None:
    body = b"content"
    request = signed_by_botocore(f"http://127.0.0.1:8000{path}", service, body, **{"X-Amz-Meta-A": " a  b "})
    verify(request, read_claim(request), hashlib.sha256(body).hexdigest(), MINE)
    with pytest.raises(AwsError, match="does not match"):
        verify(request, read_claim(request), hashlib.sha256(b"another body").hexdigest(), MINE)


def test_our_own_signature_is_accepted_and_every_change_of_the_request_refused() -> None:
    request = SignedRequest("GET", "/path", "a=1", {"host": "127.0.0.1:8000", "x-amz-target": "T"})
    request = replace(request, headers=sign(request, b"", "s3", "us-east-1", MINE))
    verify(request, read_claim(request), EMPTY, MINE)
    changed = [
        replace(request, method="PUT"),
        replace(request, raw_path="/other"),
        replace(request, query="a=2"),
        replace(request, headers={**request.headers, "host": "other"}),
        replace(request, headers={**request.headers, "x-amz-target": "U"}),
    ]
    assert [refusal(one) for one in changed] == ["SignatureDoesNotMatch"] * 5
    assert refusal(request, payload_hash="0" * 64) == "SignatureDoesNotMatch"
    unsigned_header = replace(request, headers={**request.headers, "x-amz-acl": "public-read"})
    assert refusal(unsigned_header) == "AccessDenied"


def test_other_credentials_are_refused_in_the_words_of_the_service() -> None:
    plain = SignedRequest("POST", "/", "", {"host": "127.0.0.1:8000"})
    for service, unknown, wrong in (
        ("s3", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        ("sagemaker", "UnrecognizedClientException", "InvalidSignatureException"),
    ):
        request = replace(plain, headers=sign(plain, b"", service, "us-east-1", MINE))
        assert refusal(request, credentials=Credentials("AKIAOTHER", MINE.secret_key)) == unknown
        assert refusal(request, credentials=Credentials(MINE.access_key, "guess")) == wrong


def test_a_request_replayed_late_or_sent_early_is_refused() -> None:
    plain = SignedRequest("GET", "/", "", {"host": "127.0.0.1:8000"})
    request = replace(plain, headers=sign(plain, b"", "s3", "us-east-1", MINE))
    verify(request, read_claim(request), EMPTY, MINE, after(14 * 60))
    assert refusal(request, late=16 * 60) == "RequestTimeTooSkewed"
    assert refusal(request, late=-16 * 60) == "RequestTimeTooSkewed"


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("", "IncompleteSignature"),
        ("Basic dXNlcjpwYXNz", "IncompleteSignature"),
        ("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=" + "0" * 64, "IncompleteSignature"),
        ("AWS4-HMAC-SHA256 Credential=a/1/r/s3/aws4_request, SignedHeaders=host", "IncompleteSignature"),
    ],
)
def test_a_malformed_authorization_is_refused(authorization: str, code: str) -> None:
    request = SignedRequest("GET", "/", "", {"host": "h", "authorization": authorization})
    assert refusal(request) == code


def test_a_signature_that_is_not_even_hexadecimal_is_refused() -> None:
    time = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    query = (
        f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={MINE.access_key}%2F{time[:8]}%2Fus-east-1%2Fs3"
        f"%2Faws4_request&X-Amz-Date={time}&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=%C3%A9"
    )
    assert refusal(SignedRequest("GET", "/b/k", query, {"host": "h"})) == "SignatureDoesNotMatch"


def test_no_signature_at_all_is_refused() -> None:
    assert refusal(SignedRequest("GET", "/", "", {"host": "h"})) == "MissingAuthenticationToken"


def test_the_secret_does_not_show() -> None:
    assert MINE.secret_key not in repr(MINE)
