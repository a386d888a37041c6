"""AWS Signature Version 4: signs a request, and checks a request's signature by making it again.

Format: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote, unquote, unquote_to_bytes

from lib.local.protocol import AwsError

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
MAX_SKEW_SECONDS = 15 * 60
MAX_PRESIGNED_SECONDS = 7 * 24 * 3600

_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_TIME_FORMAT = "%Y%m%dT%H%M%SZ"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<credential>[^,\s]+),\s*"
    r"SignedHeaders=(?P<signed>[^,\s]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)
NOT_MATCHING = (
    "The request signature we calculated does not match the signature you provided. "
    "Check your AWS Secret Access Key and signing method."
)


@dataclass(frozen=True)
class Credentials:
    """An access key and its secret; the secret does not show in ``repr``."""

    access_key: str
    secret_key: str = field(repr=False)


@dataclass(frozen=True)
class SignedRequest:
    """The parts of an HTTP request that a signature covers.

    Attributes
    ----------
    method : str
        Such as ``GET``.
    raw_path, query : str
        As they stand in the request line, percent-encoded, without the ``?``.
    headers : mapping
        Names in small letters; a repeated header's values joined by commas.
    """

    method: str
    raw_path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Claim:
    """What a request says about its signature: made with which key, when, for which service and headers.

    Attributes
    ----------
    time : str
        As signed, ``20261123T021300Z``.
    expires : int or None
        Seconds that a presigned URL is good for; None where the signature is in the header.
    """

    access_key: str
    day: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    time: str
    expires: int | None = None

    @property
    def scope(self) -> str:
        """The credential scope, ``DAY/REGION/SERVICE/aws4_request``."""
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


class ChunkSigner:
    """Checks the signatures of a body's chunks, each of which covers the one before it.

    Format: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html

    Parameters
    ----------
    claim : Claim
        Of the request; its signature, which was checked, is the first of the chain.
    secret_key : str
    """

    def __init__(self, claim: Claim, secret_key: str) -> None:
        self._key = signing_key(secret_key, claim.day, claim.region, claim.service)
        self._time_and_scope = f"{claim.time}\n{claim.scope}"
        self._previous = claim.signature

    def check_chunk(self, signature: str, content_hash: str) -> None:
        """Check the next chunk's signature, given the SHA-256 of its content in hexadecimal.

        Raises
        ------
        AwsError
            SignatureDoesNotMatch.
        """
        self._check(signature, "PAYLOAD", f"{_EMPTY_SHA256}\n{content_hash}")

    def check_trailers(self, signature: str, content_hash: str) -> None:
        """Check the signature of the trailers, given the SHA-256 of them one a line."""
        self._check(signature, "TRAILER", content_hash)

    def _check(self, signature: str, kind: str, content: str) -> None:
        to_sign = f"{ALGORITHM}-{kind}\n{self._time_and_scope}\n{self._previous}\n{content}"
        expected = hmac.new(self._key, to_sign.encode(), "sha256").hexdigest()
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise AwsError("SignatureDoesNotMatch", NOT_MATCHING, 403)
        self._previous = expected


def read_claim(request: SignedRequest) -> Claim:
    """Read the signature of a request from its Authorization header or, presigned, from its query.

    Raises
    ------
    AwsError
        MissingAuthenticationToken where there is none, IncompleteSignature where it is malformed.
    """
    query = parse_query(request.query)
    if "authorization" in request.headers:
        found = _AUTHORIZATION.fullmatch(request.headers["authorization"].strip())
        if not found:
            raise AwsError("IncompleteSignature", "The Authorization header is malformed.", 403)
        parts = found.groupdict()
        time, expires = request.headers.get("x-amz-date", ""), None
    elif query.get("X-Amz-Algorithm") == ALGORITHM:
        names = {
            "credential": "X-Amz-Credential",
            "signed": "X-Amz-SignedHeaders",
            "signature": "X-Amz-Signature",
        }
        parts = {part: query.get(name, "") for part, name in names.items()}
        time, expires = query.get("X-Amz-Date", ""), _expiry(query.get("X-Amz-Expires", ""))
    else:
        raise AwsError("MissingAuthenticationToken", "Missing Authentication Token", 403)
    scope = parts["credential"].split("/")
    if len(scope) != 5 or scope[4] != "aws4_request" or not all(scope):
        raise AwsError("IncompleteSignature", "The credential scope is malformed.", 403)
    signed_headers = tuple(parts["signed"].split(";"))
    access_key, day, region, service, _ = scope
    return Claim(access_key, day, region, service, signed_headers, parts["signature"], time, expires)


def verify(
    request: SignedRequest,
    claim: Claim,
    payload_hash: str,
    credentials: Credentials,
    now: dt.datetime | None = None,
) -> None:
    """Check that a request was signed with our credentials, and lately.

    Parameters
    ----------
    payload_hash : str
        The SHA-256 of the body in hexadecimal, or the word that stands for it in
        ``x-amz-content-sha256``.  The caller compares it with the body.

    Raises
    ------
    AwsError
        With the codes of S3 or of the other services, status 403.
    """
    s3 = claim.service == "s3"
    if not hmac.compare_digest(claim.access_key.encode(), credentials.access_key.encode()):
        if s3:
            text = "The AWS Access Key Id you provided does not exist in our records."
            raise AwsError("InvalidAccessKeyId", text, 403)
        text = "The security token included in the request is invalid."
        raise AwsError("UnrecognizedClientException", text, 403)
    _check_time(claim, now or dt.datetime.now(dt.UTC))
    _check_signed_headers(request, claim)
    expected = _signature(request, claim, payload_hash, credentials.secret_key)
    if not hmac.compare_digest(expected.encode(), claim.signature.encode()):
        raise AwsError("SignatureDoesNotMatch" if s3 else "InvalidSignatureException", NOT_MATCHING, 403)


def sign(
    request: SignedRequest,
    body: bytes,
    service: str,
    region: str,
    credentials: Credentials,
    payload_hash: str = "",
) -> dict[str, str]:
    """Return the headers of a request with those added that sign it.

    Parameters
    ----------
    request : SignedRequest
        Its headers must have ``host``; all of them are signed.
    payload_hash : str
        What to sign instead of the body's SHA-256, such as `UNSIGNED_PAYLOAD`.
    """
    time = dt.datetime.now(dt.UTC).strftime(_TIME_FORMAT)
    payload_hash = payload_hash or hashlib.sha256(body).hexdigest()
    headers = {**request.headers, "x-amz-date": time, "x-amz-content-sha256": payload_hash}
    signed = SignedRequest(request.method, request.raw_path, request.query, headers)
    claim = Claim(credentials.access_key, time[:8], region, service, tuple(sorted(headers)), "", time)
    signature = _signature(signed, claim, payload_hash, credentials.secret_key)
    headers["authorization"] = (
        f"{ALGORITHM} Credential={credentials.access_key}/{claim.scope}, "
        f"SignedHeaders={';'.join(claim.signed_headers)}, Signature={signature}"
    )
    return headers


def parse_query(query: str) -> dict[str, str]:
    """Return the parameters of a query string; ``+`` stands for itself, as AWS's clients encode."""
    pairs = (part.partition("=") for part in query.split("&") if part)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _signature(request: SignedRequest, claim: Claim, payload_hash: str, secret_key: str) -> str:
    canonical = canonical_request(request, claim, payload_hash)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{ALGORITHM}\n{claim.time}\n{claim.scope}\n{digest}"
    key = signing_key(secret_key, claim.day, claim.region, claim.service)
    return hmac.new(key, to_sign.encode(), "sha256").hexdigest()


def canonical_request(request: SignedRequest, claim: Claim, payload_hash: str) -> str:
    """Return the canonical form of a request, the text whose digest is signed."""
    if claim.service == "s3":  # S3 alone signs the path as it is: no `..` removed, encoded once
        path = _encode(unquote_to_bytes(request.raw_path), safe="/")
    else:
        path = _encode(_without_dots(request.raw_path).encode(), safe="/")
    pairs = [part.partition("=") for part in request.query.split("&") if part]
    encoded = sorted(
        (_encode(unquote_to_bytes(name)), _encode(unquote_to_bytes(value))) for name, _, value in pairs
    )
    query = "&".join(f"{name}={value}" for name, value in encoded if name != "X-Amz-Signature")
    headers = "".join(
        f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in claim.signed_headers
    )
    signed = ";".join(claim.signed_headers)
    return "\n".join([request.method, path or "/", query, headers, signed, payload_hash])


@lru_cache(maxsize=32)
def signing_key(secret_key: str, day: str, region: str, service: str) -> bytes:
    """Derive the key that signs one day's requests to one service of one region."""
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    return key


def _encode(data: bytes, safe: str = "") -> str:
    return quote(data, safe=safe + "-._~")


def _without_dots(path: str) -> str:
    """Return the path without ``.``, ``..`` and doubled slashes."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            kept = kept[:-1]
        elif part and part != ".":
            kept.append(part)
    end = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + end


def _expiry(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text) or not 0 < int(text) <= MAX_PRESIGNED_SECONDS:
        raise AwsError(
            "AuthorizationQueryParametersError", "X-Amz-Expires must be between 1 and 604800 seconds"
        )
    return int(text)


def _check_time(claim: Claim, now: dt.datetime) -> None:
    try:
        signed_at = dt.datetime.strptime(claim.time, _TIME_FORMAT).replace(tzinfo=dt.UTC)
    except ValueError:
        raise AwsError("IncompleteSignature", "X-Amz-Date is missing or malformed.", 403) from None
    if claim.day != claim.time[:8]:
        raise AwsError("IncompleteSignature", "The credential's date is not that of X-Amz-Date.", 403)
    age = (now - signed_at).total_seconds()
    if claim.expires is not None:
        if age < -MAX_SKEW_SECONDS:
            raise AwsError("AccessDenied", "Request is not valid yet", 403)
        if age > claim.expires:
            raise AwsError("AccessDenied", "Request has expired", 403)
    elif abs(age) > MAX_SKEW_SECONDS:
        if claim.service == "s3":
            text = "The difference between the request time and the current time is too large."
            raise AwsError("RequestTimeTooSkewed", text, 403)
        raise AwsError("InvalidSignatureException", f"Signature expired: {claim.time}", 403)


def _check_signed_headers(request: SignedRequest, claim: Claim) -> None:
    """Refuse a signature that leaves out the host or any ``x-amz-`` header that was sent."""
    must_be_signed = {"host"} | {name for name in request.headers if name.startswith("x-amz-")}
    if claim.expires is not None:  # a presigned URL's payload is not signed, and clients may say so
        must_be_signed -= {"x-amz-content-sha256"}
    missing = sorted(must_be_signed - set(claim.signed_headers))
    if missing:
        text = f"There were headers present in the request which were not signed: {', '.join(missing)}"
        raise AwsError("AccessDenied" if claim.service == "s3" else "InvalidSignatureException", text, 403)
