"""AWS Signature Version 2 of presigned S3 URLs, which boto3 and the AWS command line still make by default.

Only URLs: whoever signs a header signs it by version 4 (`lib.local.signing`).

Format: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import replace

from lib.local.protocol import AwsError
from lib.local.signing import NOT_MATCHING, Credentials, SignedRequest, parse_query

_STANDARD_HEADERS = ("content-md5", "content-type")
_SIGNED_QUERY = frozenset(
    """acl accelerate analytics cors delete inventory lifecycle location logging metrics notification
    object-lock partNumber policy replication requestPayment restore select select-type tagging torrent
    uploadId uploads versionId versioning versions website response-cache-control
    response-content-disposition response-content-encoding response-content-language
    response-content-type response-expires""".split()  # noqa: SIM905
)
"""The query's names that a signature covers: those that change what is asked for."""


def is_presigned(request: SignedRequest) -> bool:
    """Whether a request is a URL that was presigned by version 2."""
    return "authorization" not in request.headers and "AWSAccessKeyId" in parse_query(request.query)


def verify(request: SignedRequest, credentials: Credentials, now: dt.datetime | None = None) -> SignedRequest:
    """Check a presigned URL; return the request with the headers that the URL stands for.

    Raises
    ------
    AwsError
        AccessDenied, InvalidAccessKeyId or SignatureDoesNotMatch, status 403.
    """
    query = parse_query(request.query)
    expires, signature = query.get("Expires", ""), query.get("Signature", "")
    if not (expires.isdecimal() and expires.isascii() and len(expires) <= 12 and signature):
        text = "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters"
        raise AwsError("AccessDenied", text, 403)
    if not hmac.compare_digest(query["AWSAccessKeyId"].encode(), credentials.access_key.encode()):
        text = "The AWS Access Key Id you provided does not exist in our records."
        raise AwsError("InvalidAccessKeyId", text, 403)
    if (now or dt.datetime.now(dt.UTC)).timestamp() > int(expires):
        raise AwsError("AccessDenied", "Request has expired", 403)
    told = {name.lower(): value for name, value in query.items() if _is_header(name.lower())}
    headers = {**told, **request.headers}
    to_sign = _text_to_sign(request, headers, query, expires)
    digest = hmac.new(credentials.secret_key.encode(), to_sign.encode(), hashlib.sha1).digest()
    if not hmac.compare_digest(base64.b64encode(digest), signature.encode()):
        raise AwsError("SignatureDoesNotMatch", NOT_MATCHING, 403)
    return replace(request, headers=headers)


def _is_header(name: str) -> bool:
    return name.startswith("x-amz-") or name in _STANDARD_HEADERS


def _text_to_sign(
    request: SignedRequest, headers: Mapping[str, str], query: Mapping[str, str], expires: str
) -> str:
    lines = [request.method, *(headers.get(name, "").strip() for name in _STANDARD_HEADERS), expires]
    lines += [f"{name}:{headers[name].strip()}" for name in sorted(headers) if name.startswith("x-amz-")]
    parts = [part.partition("=") for part in request.query.split("&")]
    covered = sorted(
        name + (equals and f"={query[name]}") for name, equals, _ in parts if name in _SIGNED_QUERY
    )
    path = request.raw_path
    if path.count("/") == 1 and path != "/":
        path += "/"  # a bucket's own path is signed with the slash that it may be asked for without
    return "\n".join([*lines, path + ("?" + "&".join(covered) if covered else "")])
