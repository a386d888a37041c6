"""Presigned URLs of signature version 2: the published example, botocore's signer, and what is refused."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from botocore.auth import HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from lib.local.protocol import AwsError
from lib.local.signing import Credentials, SignedRequest
from lib.local.signing_v2 import is_presigned, verify

MINE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
HOST = "http://127.0.0.1:8000"


def presigned(path: str, method: str = "GET", **headers: str) -> SignedRequest:
    """Return the request of a URL that botocore presigns, without the headers that it was signed with."""
    request = AWSRequest(
        method, HOST + path, {name.replace("_", "-"): text for name, text in headers.items()}
    )
    request.auth_path = None
    HmacV1QueryAuth(BotoCredentials(MINE.access_key, MINE.secret_key), expires=60).add_auth(request)
    raw_path, _, query = request.url.removeprefix(HOST).partition("?")
    return SignedRequest(method, raw_path, query, {})


def refusal(request: SignedRequest, credentials: Credentials = MINE, late: float = 0) -> str:
    with pytest.raises(AwsError) as caught:
        verify(request, credentials, dt.datetime.now(dt.UTC) + dt.timedelta(seconds=late))
    assert caught.value.status == 403
    return caught.value.code


def test_the_published_example() -> None:
    query = (
        "AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D&Expires=1175139620"
    )
    request = SignedRequest("GET", "/johnsmith/photos/puppy.jpg", query, {})
    assert is_presigned(request)
    verify(request, MINE, dt.datetime.fromtimestamp(1175139619, dt.UTC))
    with pytest.raises(AwsError, match="Request has expired"):
        verify(request, MINE, dt.datetime.fromtimestamp(1175139621, dt.UTC))


@pytest.mark.parametrize(
    "path",
    [
        "/bucket/key",
        "/bucket/a%20b/%C3%BC%2B",
        "/bucket/key?response-content-disposition=attachment%3B%20filename%3D%22a%20b%22&response-expires=x",
        "/bucket/key?partNumber=3&uploadId=ab%2Bc",
        "/bucket/key?tagging",
        "/bucket/?list-type=2&prefix=a",
    ],
)
def test_what_botocore_signs_is_accepted_and_a_changed_part_refused(path: str) -> None:
    request = presigned(path)
    assert verify(request, MINE) == request
    assert refusal(replace(request, raw_path=request.raw_path + "x")) == "SignatureDoesNotMatch"
    assert refusal(replace(request, method="DELETE")) == "SignatureDoesNotMatch"
    assert refusal(replace(request, query=request.query + "&acl")) == "SignatureDoesNotMatch"


def test_headers_in_the_url_are_signed_and_stand_for_headers() -> None:
    request = presigned("/bucket/key", "PUT", Content_Type="text/x", x_amz_meta_colour="green")
    assert verify(request, MINE).headers == {"content-type": "text/x", "x-amz-meta-colour": "green"}
    assert refusal(replace(request, headers={"content-type": "text/y"})) == "SignatureDoesNotMatch"
    assert refusal(replace(request, headers={"x-amz-meta-size": "1"})) == "SignatureDoesNotMatch"
    changed = request.query.replace("green", "blue")
    assert refusal(replace(request, query=changed)) == "SignatureDoesNotMatch"


def test_strangers_and_late_comers_are_refused() -> None:
    request = presigned("/bucket/key")
    other = Credentials("AKIDSTRANGER", MINE.secret_key)
    assert refusal(request, other) == "InvalidAccessKeyId"
    assert refusal(request, Credentials(MINE.access_key, "another")) == "SignatureDoesNotMatch"
    assert refusal(request, late=61) == "AccessDenied"


@pytest.mark.parametrize(
    "query", ["", "&Expires=1e9&Signature=x", "&Expires=1\u0663&Signature=x", "&Expires=9"]
)
def test_what_is_malformed_is_refused(query: str) -> None:
    request = SignedRequest("GET", "/bucket/key", f"AWSAccessKeyId={MINE.access_key}{query}", {})
    assert refusal(request) == "AccessDenied"


def test_a_signed_header_goes_before_the_url() -> None:
    request = presigned("/bucket/key")
    assert not is_presigned(replace(request, headers={"authorization": "AWS4-HMAC-SHA256 ..."}))
