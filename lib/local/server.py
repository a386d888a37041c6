"""The local AWS as an HTTP application: who may come in, and which service a request goes to.

Only requests that were addressed to this very host and port, come from no web page and carry a fresh
signature made with our credentials get past the door.  The service is the one that the signature names.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from lib.local import answers, protocol, runtime, signing_v2
from lib.local.objects import Objects
from lib.local.protocol import AwsError
from lib.local.s3 import S3
from lib.local.s3_call import Call, split_path
from lib.local.signing import (
    UNSIGNED_PAYLOAD,
    ChunkSigner,
    Claim,
    Credentials,
    SignedRequest,
    parse_query,
    read_claim,
    verify,
)
from lib.local.store import REGION
from lib.local.uploads import Uploads

MAX_BODY_BYTES = 8 * 1024**2
"""The largest request to a service other than S3."""

_MONITORING = "monitoring"  # the name that CloudWatch signs for
# by the first word of X-Amz-Target
_TARGETS = {"SageMaker": "sagemaker", "Logs_20140328": "logs", "GraniteServiceVersion20100801": _MONITORING}

_log = logging.getLogger(__name__)


def create_app(
    root: Path,
    credentials: Credentials,
    *,
    quota: int | None = None,
    idle_seconds: float | None = None,
    leave: Callable[[], None] = lambda: None,
) -> Starlette:
    """Return the application that serves the state in a folder.

    Parameters
    ----------
    root : Path
        The folder; one application at a time may use it.
    credentials : Credentials
        Those that requests must be signed with.
    quota : int, optional
        The most bytes all S3 objects together may have.
    idle_seconds : float, optional
        Call ``leave`` after so long without a request and a running job; never by default.
    leave : callable
        Ends the server.
    """
    services = Services(root, credentials, quota)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        services.start()
        watch = asyncio.create_task(services.watch(idle_seconds, leave)) if idle_seconds else None
        try:
            yield
        finally:
            if watch:
                watch.cancel()
                with suppress(asyncio.CancelledError):
                    await watch
            await services.hang_up()
            await run_in_threadpool(services.close)

    app = Starlette(lifespan=lifespan)
    app.router.default = services  # a route's pattern would not match a key with a line break
    return app


class Services:
    """The services of the local AWS behind one door; an ASGI application."""

    def __init__(self, root: Path, credentials: Credentials, quota: int | None = None) -> None:
        from lib.local.logs import Logs
        from lib.local.metrics import Metrics
        from lib.local.sagemaker import SageMaker
        from lib.local.store import ACCOUNT_ID

        self._account = ACCOUNT_ID
        self._credentials = credentials
        self._objects = Objects(root, quota)
        self._s3 = S3(self._objects, Uploads(self._objects))
        logs = Logs(root)
        self._metrics = Metrics(root)
        self._sagemaker = SageMaker(root, self._objects, logs, self._metrics)
        self._runtime = runtime.Runtime(self._sagemaker.endpoints)
        self._calls: dict[str, Callable[[str, dict[str, Any]], dict[str, Any] | None]] = {
            "sagemaker": self._sagemaker.call,
            "logs": logs.call,
            _MONITORING: self._metrics.call,
        }
        self._under_way = 0
        self._last_request = time.monotonic()

    def start(self) -> None:
        """Take up what an earlier server left."""
        self._sagemaker.start()

    async def hang_up(self) -> None:
        """Close the connections to the endpoints' processes."""
        await self._runtime.close()

    def close(self) -> None:
        """End all jobs and close all files."""
        self._sagemaker.close()
        self._metrics.close()
        self._objects.close()

    async def watch(self, idle_seconds: float, leave: Callable[[], None]) -> None:
        """Call ``leave`` once nothing has happened for ``idle_seconds``."""
        while True:
            await asyncio.sleep(min(30.0, idle_seconds / 4))
            if self._under_way or self._sagemaker.busy():
                self._last_request = time.monotonic()
            elif time.monotonic() - self._last_request > idle_seconds:
                _log.warning("Nothing to do for %.0f seconds: leaving.", idle_seconds)
                leave()
                return

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":  # no websockets here
            return
        body_asked_for = False

        async def receive_body() -> Message:
            nonlocal body_asked_for
            body_asked_for = True
            return await receive()

        self._under_way += 1
        try:
            request = Request(scope, receive_body)
            response = await self._answer(request)
            if response is None:
                return
            if request.headers.get("expect", "").lower() == "100-continue" and not body_asked_for:
                # the client goes on without sending the body that was announced
                response.headers["connection"] = "close"
            await response(scope, receive, send)
        finally:
            self._under_way -= 1
            self._last_request = time.monotonic()

    async def _answer(self, request: Request) -> Response | None:
        headers = _headers(request)
        signed = SignedRequest(
            request.method,
            request.scope["raw_path"].decode("ascii"),
            request.scope["query_string"].decode("ascii", "replace"),
            headers,
        )
        request_id = str(uuid.uuid4())
        service = "s3"
        try:
            _refuse_strangers(headers, request.scope["server"][1])
            claim = None if signing_v2.is_presigned(signed) else read_claim(signed)
            service = claim.service if claim else service
            if claim is None:
                signed = signing_v2.verify(signed, self._credentials)
                response = await self._s3.answer(request, _call_of(signed, REGION))
            elif service == "s3":
                response = await self._answer_s3(request, signed, claim)
            else:
                response = await self._answer_call(request, signed, claim, request_id)
        except ClientDisconnect:
            return None
        except Exception as error:
            if isinstance(error, AwsError):
                problem = error
            else:
                _log.exception("%s %s failed", signed.method, signed.raw_path)
                problem = AwsError("InternalFailure", "The local AWS failed; its log says where.", 500)
            response = answers.error_answer(problem, service, signed, request_id)
        response.headers["x-amz-request-id" if service == "s3" else "x-amzn-requestid"] = request_id
        return response

    async def _answer_s3(self, request: Request, signed: SignedRequest, claim: Claim) -> Response:
        """Answer a request to S3: its signature covers the digest that the body is compared with later."""
        presigned = claim.expires is not None
        payload_hash = signed.headers.get("x-amz-content-sha256", UNSIGNED_PAYLOAD if presigned else "")
        if not payload_hash:
            text = "Missing required header for this request: x-amz-content-sha256"
            raise AwsError("InvalidRequest", text)
        verify(signed, claim, payload_hash, self._credentials)
        signer = None if presigned else ChunkSigner(claim, self._credentials.secret_key)
        return await self._s3.answer(request, _call_of(signed, claim.region, signer))

    async def _answer_call(
        self, request: Request, signed: SignedRequest, claim: Claim, request_id: str
    ) -> Response:
        """Answer a call of an operation of any other service."""
        is_invocation = claim.service == "sagemaker" and signed.raw_path != "/"
        limit = runtime.MAX_BODY_BYTES if is_invocation else MAX_BODY_BYTES
        body = bytearray()
        async for data in request.stream():
            body += data
            if len(body) > limit:
                raise AwsError("RequestEntityTooLargeException", "The request is too large.", 413)
        content = bytes(body)
        verify(signed, claim, hashlib.sha256(content).hexdigest(), self._credentials)
        if is_invocation:
            return await self._runtime.answer(signed.raw_path, signed.headers, content)
        operation = answers.operation_name(signed, content)
        if claim.service == "sts" and operation == "GetCallerIdentity":
            return answers.caller_identity(self._account, request_id)
        target = signed.headers.get("x-amz-target", "").partition(".")[0]
        if target not in _TARGETS or _TARGETS[target] != claim.service:
            text = f"{claim.service}: {operation} is not implemented by the local AWS."
            raise AwsError("NotImplemented", text, 501)
        return await run_in_threadpool(self._call, claim.service, operation, content)

    def _call(self, service: str, operation: str, body: bytes) -> Response:
        model = "cloudwatch" if service == _MONITORING else service
        params = protocol.parse(model, operation, body)
        answer = self._calls[service](operation, params)
        return answers.json_answer(protocol.render(model, operation, answer))


def _call_of(signed: SignedRequest, region: str, signer: ChunkSigner | None = None) -> Call:
    bucket, key = split_path(signed.raw_path)
    return Call(signed.method, bucket, key, parse_query(signed.query), signed.headers, region, signer)


def _headers(request: Request) -> dict[str, str]:
    """Return the headers, names in small letters, repeated ones joined by commas."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        try:
            value = raw_value.decode()
        except UnicodeDecodeError:
            value = raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _refuse_strangers(headers: Mapping[str, str], port: int) -> None:
    """Refuse what a web page sends: by another host's name (DNS rebinding), or with its origin."""
    if headers.get("host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
        raise AwsError("AccessDenied", "The Host header does not name the local AWS.", 403)
    if "origin" in headers:
        raise AwsError("AccessDenied", "The local AWS does not answer web pages.", 403)
