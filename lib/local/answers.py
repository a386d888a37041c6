"""Answers of the local AWS in the formats of AWS's protocols: JSON, S3's XML, query XML, CBOR."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from lib.local import s3_xml
from lib.local.protocol import AwsError, error_body
from lib.local.signing import SignedRequest

JSON_TYPE = "application/x-amz-json-1.1"
_FORM_ACTION = re.compile(rb"(?:^|&)Action=(\w+)")
_CBOR_PATH = re.compile(r"/service/\w+/operation/(\w+)")


def json_answer(members: Mapping[str, Any]) -> Response:
    """Return an answer in AWS JSON 1.1."""
    return Response(json.dumps(members).encode(), media_type=JSON_TYPE)


def error_answer(error: AwsError, service: str, request: SignedRequest, request_id: str) -> Response:
    """Return an error in the format that the client of a service reads; the request's headers tell which.

    Parameters
    ----------
    service : str
        The service that the client signed for; ``s3`` where that is not known.
    """
    headers = request.headers
    if headers.get("smithy-protocol") == "rpc-v2-cbor":
        body = _cbor_map({"__type": error.code, "message": error.message})
        return Response(body, error.status, {"smithy-protocol": "rpc-v2-cbor"}, "application/cbor")
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return Response(_query_error(error, request_id), error.status, media_type="text/xml")
    if service == "s3" and "x-amz-target" not in headers:
        body = s3_xml.error_document(error, request.raw_path, request_id)
        return Response(b"" if request.method == "HEAD" else body, error.status, media_type="application/xml")
    body = json.dumps(error_body(error)).encode()
    return Response(body, error.status, {"x-amzn-errortype": error.code}, JSON_TYPE)


def operation_name(request: SignedRequest, body: bytes) -> str:
    """Return the operation that a request of any protocol names, or what it does in HTTP's words."""
    if "x-amz-target" in request.headers:
        return request.headers["x-amz-target"].rpartition(".")[2]
    if found := _CBOR_PATH.fullmatch(request.raw_path):
        return found[1]
    named = _FORM_ACTION.search(body)
    return named[1].decode() if named else f"{request.method} {request.raw_path}"


def caller_identity(account: str, request_id: str) -> Response:
    """Return the answer of STS's GetCallerIdentity: https://docs.aws.amazon.com/STS/latest/APIReference/."""
    identity: list[s3_xml.Node] = [
        ("Arn", f"arn:aws:iam::{account}:user/local"),
        ("UserId", "AIDALOCALLOCALLOCAL00"),
        ("Account", account),
    ]
    nodes: list[s3_xml.Node] = [
        ("GetCallerIdentityResult", identity),
        ("ResponseMetadata", [("RequestId", request_id)]),
    ]
    namespace = "https://sts.amazonaws.com/doc/2011-06-15/"
    body = s3_xml.document("GetCallerIdentityResponse", nodes, namespace)
    return Response(body, media_type="text/xml")


def _query_error(error: AwsError, request_id: str) -> bytes:
    details: list[s3_xml.Node] = [("Type", "Sender"), ("Code", error.code), ("Message", error.message)]
    return s3_xml.document("ErrorResponse", [("Error", details), ("RequestId", request_id)], namespace="")


def _cbor_map(members: Mapping[str, str]) -> bytes:
    """Encode a map of strings: https://www.rfc-editor.org/rfc/rfc8949, major types 5 (map) and 3 (text)."""
    encoded = b"".join(_cbor_text(name) + _cbor_text(value) for name, value in members.items())
    return bytes([0xA0 + len(members)]) + encoded


def _cbor_text(text: str) -> bytes:
    data = text.encode()
    return b"\x7a" + len(data).to_bytes(4, "big") + data
