"""The inference container: ``python -m lib.fm serve --root DIR --port N``.

By SageMaker's contract: the model lies in ``DIR/model``, ``GET /ping`` answers 200 once the container can
work, ``POST /invocations`` answers examples with scores, and ``GET /execution-parameters`` tells batch
transform how to send them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lib.errors import ReelbookError
from lib.fm import artifact, formats
from lib.fm.model import Model

LARGEST_REQUEST = 100 * 2**20  # bytes; the most that batch transform may send
_KEEP_ALIVE_SECONDS = 75  # longer than clients keep a connection that they might use again
PAYLOAD_MB = 6  # what batch transform sends unless it is told otherwise


def main(root: str | Path = "/opt/ml", host: str = "127.0.0.1", port: int = 8080) -> int:
    """Serve the model under ``root`` until SIGTERM, and return the process's exit status."""
    signal.signal(signal.SIGTERM, _leave)  # the server puts its own in place, and calls this one at its end
    try:
        model = artifact.load(Path(root) / "model")
    except ReelbookError as error:
        return _failed(str(error))
    try:
        listener = _listen(host, port)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).split(" (")[0]
        return _failed(f"The server cannot listen on {host}:{port}: {reason}.")
    config = uvicorn.Config(
        application(model),
        log_level="warning",
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    with listener:
        _Server(config).run(sockets=[listener])
    return 0


class _Server(uvicorn.Server):
    """A server that sleeps until it is asked; uvicorn's own wakes ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()

    async def main_loop(self) -> None:
        """Sleep until a signal says that the server is to leave."""
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._told.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal."""
        super().handle_exit(sig, frame)
        if self._loop:
            self._loop.call_soon_threadsafe(self._told.set)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; asyncio turns off Nagle's delays only where the protocol is named."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


def _failed(sentence: str) -> int:
    print(f"ClientError: {sentence}", file=sys.stderr, flush=True)
    return 1


def application(model: Model) -> Starlette:
    """Return the web application that serves a model."""

    def ping(request: Request) -> Response:
        return Response()

    def execution_parameters(request: Request) -> Response:
        return JSONResponse(
            {
                "MaxConcurrentTransforms": os.cpu_count() or 1,
                "BatchStrategy": "MULTI_RECORD",
                "MaxPayloadInMB": PAYLOAD_MB,
            }
        )

    async def invocations(request: Request) -> Response:
        content_type = _media_type(request.headers.get("content-type", ""))
        if content_type not in formats.CONTENT_TYPES:
            known = ", ".join(formats.CONTENT_TYPES)
            return _refused(415, f"The content type {content_type or '(none)'} is not one of {known}.")
        accept = _accepted(request.headers.get("accept", ""))
        if accept is None:
            known = ", ".join(formats.CONTENT_TYPES)
            return _refused(406, f"The answer can be {known}, not {request.headers['accept']}.")
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_REQUEST:
                    return _refused(413, f"The request is larger than {LARGEST_REQUEST // 2**20} MiB.")
        except ClientDisconnect:
            return Response(status_code=400)
        try:
            answer = await run_in_threadpool(_answer, model, bytes(body), content_type, accept)
        except ReelbookError as error:
            return _refused(400, str(error))
        return Response(answer, media_type=accept)

    return Starlette(
        routes=[
            Route("/ping", ping, methods=["GET"]),
            Route("/execution-parameters", execution_parameters, methods=["GET"]),
            Route("/invocations", invocations, methods=["POST"]),
        ]
    )


def _answer(model: Model, body: bytes, content_type: str, accept: str) -> bytes:
    """Return the answer to a request."""
    X = formats.read_request(body, content_type, model.feature_dim)
    with np.errstate(over="ignore", invalid="ignore"):  # scores that are not finite are refused
        scores = model.predict(X)
    return formats.write_answer(model, scores, accept)


def _refused(status: int, sentence: str) -> Response:
    return PlainTextResponse(sentence + "\n", status_code=status)


def _media_type(header: str) -> str:
    """Return a Content-Type's media type, in lower case and without parameters."""
    return header.split(";")[0].strip().lower()


def _accepted(header: str) -> str | None:
    """Return the first answer format that an Accept header asks for, JSON if it asks for any, else None."""
    wanted = [_media_type(part) for part in header.split(",") if part.strip()] or ["*/*"]
    for kind in wanted:
        if kind in formats.CONTENT_TYPES:
            return kind
        if kind in ("*/*", "application/*"):
            return formats.JSON
    return None
