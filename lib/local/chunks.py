"""The framing ``aws-chunked`` of an upload's body: taken apart, and the signature of every chunk checked.

A body is ``SIZE-IN-HEX[;chunk-signature=SIGNATURE] CRLF DATA CRLF … 0[;…] CRLF NAME:VALUE CRLF … CRLF``.
Where chunks are signed, each signature covers the one before it, the first that of the request's headers,
and the last one, ``x-amz-trailer-signature``, the trailers.

Formats: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html and
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
"""

from __future__ import annotations

import hashlib
import re

from lib.local.protocol import AwsError
from lib.local.signing import ChunkSigner

TRAILER_SIGNATURE = "x-amz-trailer-signature"
MIN_SIGNED_CHUNK_BYTES = 8 * 1024
"""All signed chunks but the last must have as much."""

_MAX_LINE = 8 * 1024
_MAX_TRAILERS = 16
_CHUNK_HEAD = re.compile(rb"([0-9a-fA-F]{1,16})(?:;chunk-signature=([0-9a-f]{64}))?")


class Chunks:
    """Takes the framing apart, piece by piece as it comes.

    Parameters
    ----------
    signer : ChunkSigner or None
        Checks the signatures; None where chunks have none.
    with_trailer : bool
        Whether trailers follow the last chunk.

    Attributes
    ----------
    trailers : dict
        By their names in small letters.
    """

    def __init__(self, signer: ChunkSigner | None, *, with_trailer: bool) -> None:
        self._signer = signer
        self._with_trailer = with_trailer
        self._line = bytearray()
        self._left = 0  # bytes of the current chunk still to come
        self._size = MIN_SIGNED_CHUNK_BYTES
        self._signature = ""
        self._hash = hashlib.sha256()
        self._state = "size"
        self.trailers: dict[str, str] = {}

    @property
    def complete(self) -> bool:
        """Whether the last chunk and its trailers have come."""
        return self._state == "end" and not self._line

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body and return those of the object among them.

        Raises
        ------
        AwsError
            InvalidRequest for a broken framing, InvalidChunkSizeError, SignatureDoesNotMatch.
        """
        content = []
        position = 0
        while position < len(data):
            if self._state == "data":
                piece = data[position : position + self._left]
                if self._signer:
                    self._hash.update(piece)
                content.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._end_chunk()
                    self._state = "data end"
                continue
            end = data.find(b"\n", position)
            stop = len(data) if end < 0 else end + 1
            self._line += data[position:stop]
            position = stop
            if len(self._line) > _MAX_LINE:
                raise _malformed()
            if end >= 0:
                line = bytes(self._line).removesuffix(b"\n").removesuffix(b"\r")
                self._line.clear()
                self._take_line(line)
        return content[0] if len(content) == 1 else b"".join(content)

    def _take_line(self, line: bytes) -> None:
        if self._state == "size":
            self._begin_chunk(line)
        elif self._state == "data end" and not line:
            self._state = "size"
        elif self._state == "trailer":
            self._take_trailer(line)
        elif self._state != "end" or line:  # some clients end with an empty line more
            raise _malformed()

    def _begin_chunk(self, line: bytes) -> None:
        found = _CHUNK_HEAD.fullmatch(line)
        if not found or bool(found[2]) != bool(self._signer):
            raise _malformed()
        size = int(found[1], 16)
        if self._signer:
            if size and self._size < MIN_SIGNED_CHUNK_BYTES:
                text = "Only the last chunk is allowed to have a size less than 8192 bytes"
                raise AwsError("InvalidChunkSizeError", text, 403)
            self._signature = found[2].decode()
        self._size = self._left = size
        self._state = "data"
        if not size:
            self._end_chunk()
            self._state = "trailer"

    def _end_chunk(self) -> None:
        if self._signer:
            self._signer.check_chunk(self._signature, self._hash.hexdigest())
            self._hash = hashlib.sha256()

    def _take_trailer(self, line: bytes) -> None:
        name, colon, value = line.decode("latin-1").partition(":")
        name, value = name.strip().lower(), value.strip()
        if not line:
            # AWS's documents show an empty line between the trailers and their signature
            if not (self._signer and self._with_trailer):
                self._state = "end"
        elif (
            not (colon and self._with_trailer) or name in self.trailers or len(self.trailers) == _MAX_TRAILERS
        ):
            raise _malformed()
        elif name == TRAILER_SIGNATURE and self._signer:
            canonical = "".join(f"{known}:{text}\n" for known, text in self.trailers.items())
            self._signer.check_trailers(value, hashlib.sha256(canonical.encode("latin-1")).hexdigest())
            self._state = "end"
        else:
            self.trailers[name] = value


def _malformed() -> AwsError:
    return AwsError("InvalidRequest", "The chunks of the request body are malformed.")
