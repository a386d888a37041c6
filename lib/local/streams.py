"""Bodies of requests and answers, streamed: a megabyte at a time, with the work done in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool

from lib.local.blobs import COPY_BYTES
from lib.local.protocol import AwsError


async def read_all(stream: AsyncIterator[bytes], most: int) -> bytes:
    """Return a whole body.

    Raises
    ------
    AwsError
        MaxMessageLengthExceeded where it has more than ``most`` bytes.
    """
    body = bytearray()
    async for data in stream:
        body += data
        if len(body) > most:
            raise AwsError("MaxMessageLengthExceeded", "Your request was too big.")
    return bytes(body)


async def work_through(stream: AsyncIterator[bytes], take: Callable[[bytes], object]) -> None:
    """Call ``take`` in a thread with one large piece of a body after the other.

    While a piece is worked on, the next one is received; the first error of either ends both.  When this
    returns or raises, no call of ``take`` is under way.
    """
    working: asyncio.Future[object] | None = None
    try:
        async for piece in _in_large_pieces(stream):
            if working:
                await working
            working = asyncio.ensure_future(run_in_threadpool(take, piece))
        if working:
            await working
    finally:
        if working and not working.done():
            with suppress(Exception):
                await working


async def read_slice(file: BinaryIO, length: int) -> AsyncIterator[bytes]:
    """Yield ``length`` bytes of an open file, and close it."""
    try:
        left = length
        while left:
            data = await run_in_threadpool(file.read, min(left, COPY_BYTES))
            if not data:
                return
            left -= len(data)
            yield data
    finally:
        file.close()


async def _in_large_pieces(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join small pieces: hashing and writing have their cost a call."""
    pieces: list[bytes] = []
    size = 0
    async for data in stream:
        pieces.append(data)
        size += len(data)
        if size >= COPY_BYTES:
            yield b"".join(pieces)
            pieces, size = [], 0
    if size:
        yield b"".join(pieces)
