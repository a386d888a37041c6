"""The body of an S3 upload: unwrapped from its framing, and compared with what the client said of it.

A client tells the body's digest in headers (``x-amz-content-sha256``, ``x-amz-checksum-crc32``,
``Content-MD5``) or, where it sends the framing ``aws-chunked``, a checksum in a trailer behind the body.
A body that does not match is refused, so what is stored is what was sent.

Format: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

from lib.local.protocol import AwsError
from lib.local.signing import UNSIGNED_PAYLOAD

UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
CHECKSUM_PREFIX = "x-amz-checksum-"

_MAX_FRAME_LINE = 8 * 1024
_MAX_TRAILERS = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})(;.*)?")


class Hasher(Protocol):
    """What hashlib's objects have."""

    def update(self, data: bytes, /) -> None:
        """Take more data."""

    def digest(self) -> bytes:
        """Return the digest of the data so far."""


class Crc32:
    """CRC-32 in the manner of hashlib; its digest is 4 bytes, big-endian."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        """Take more data."""
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        """Return the checksum of the data so far."""
        return self._value.to_bytes(4, "big")


_ALGORITHMS: dict[str, Any] = {"crc32": Crc32, "sha1": hashlib.sha1, "sha256": hashlib.sha256}
"""The checksums of S3 that the local AWS has, by the name they have in headers."""


def new_checksum(algorithm: str) -> Hasher:
    """Return a hasher for one of S3's checksum algorithms.

    Raises
    ------
    AwsError
        NotImplemented for one the local AWS does not have, such as ``crc64nvme``.
    """
    if algorithm.lower() not in _ALGORITHMS:
        raise AwsError("NotImplemented", f"The local AWS has no {algorithm.upper()} checksums.", 501)
    hasher: Hasher = _ALGORITHMS[algorithm.lower()]()
    return hasher


class Payload:
    """Takes the raw body piece by piece; gives the object's bytes, and checks them at the end.

    Parameters
    ----------
    headers : mapping
        The request's headers, names in small letters.

    Attributes
    ----------
    length : int
        How many bytes the object has, as the client says.
    checksum : tuple of str or None
        Algorithm and base64 value of the checksum the client sent; with a trailer known after `finish`.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._hashers: dict[str, Hasher] = {}
        self._expected: dict[str, bytes] = {}
        self._chunks: _Chunks | None = None
        self._received = 0
        self.checksum: tuple[str, str] | None = None
        self._read_content_hash(headers)
        self._read_checksums(headers)
        length_header = "x-amz-decoded-content-length" if self._chunks else "content-length"
        self.length = _length(headers.get(length_header))

    def _read_content_hash(self, headers: Mapping[str, str]) -> None:
        declared = headers.get("x-amz-content-sha256", UNSIGNED_PAYLOAD)
        if declared == UNSIGNED_TRAILER:
            self._chunks = _Chunks()
        elif _SHA256.fullmatch(declared):
            self._hashers["content"] = hashlib.sha256()
            self._expected["content"] = bytes.fromhex(declared)
        elif declared.startswith("STREAMING-"):
            raise AwsError("NotImplemented", f"The local AWS has no {declared} uploads.", 501)
        elif declared != UNSIGNED_PAYLOAD:
            text = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, or a valid sha256 value."
            raise AwsError("InvalidArgument", text)

    def _read_checksums(self, headers: Mapping[str, str]) -> None:
        if "content-md5" in headers:
            self._hashers["md5"] = hashlib.md5(usedforsecurity=False)
            self._expected["md5"] = _from_base64(headers["content-md5"], 16, "Content-MD5")
        trailer = headers.get("x-amz-trailer", "").lower()
        if self._chunks and trailer.startswith(CHECKSUM_PREFIX):
            self._trailer = trailer
            self._hashers["checksum"] = new_checksum(trailer.removeprefix(CHECKSUM_PREFIX))
            return
        self._trailer = ""
        for name, value in headers.items():
            algorithm = name.removeprefix(CHECKSUM_PREFIX)
            if name == algorithm or algorithm in ("algorithm", "mode", "type"):
                continue
            hasher = new_checksum(algorithm)
            self._hashers["checksum"] = hasher
            self._expected["checksum"] = _from_base64(value, len(hasher.digest()), name)
            self.checksum = (algorithm, value)

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the request and return those of the object among them.

        Raises
        ------
        AwsError
            When the framing is broken, or more comes than was announced.
        """
        content = self._chunks.feed(data) if self._chunks else data
        self._received += len(content)
        if self._received > self.length:
            raise AwsError("IncompleteBody", "The request body is longer than its announced length.")
        for hasher in self._hashers.values():
            hasher.update(content)
        return content

    def finish(self) -> None:
        """Check, after the last byte, the length and every digest that was announced.

        Raises
        ------
        AwsError
            IncompleteBody, XAmzContentSHA256Mismatch, BadDigest.
        """
        if self._received != self.length or (self._chunks and not self._chunks.complete):
            text = "You did not provide the number of bytes specified by the Content-Length HTTP header"
            raise AwsError("IncompleteBody", text)
        if self._chunks and self._trailer:
            value = self._chunks.trailers.get(self._trailer, "")
            hasher = self._hashers["checksum"]
            self._expected["checksum"] = _from_base64(value, len(hasher.digest()), self._trailer)
            self.checksum = (self._trailer.removeprefix(CHECKSUM_PREFIX), value)
        for name, expected in self._expected.items():
            if self._hashers[name].digest() != expected:
                raise _mismatch(name, self.checksum)


def content_of(headers: Mapping[str, str], body: bytes) -> bytes:
    """Return what a whole body carries, compared with the digests in its headers; see `Payload`."""
    payload = Payload({**headers, "content-length": str(len(body))})
    content = payload.feed(body)
    payload.finish()
    return content


def _mismatch(name: str, checksum: tuple[str, str] | None) -> AwsError:
    if name == "content":
        text = "The provided 'x-amz-content-sha256' header does not match what was computed."
        return AwsError("XAmzContentSHA256Mismatch", text)
    said = "Content-MD5" if name == "md5" or checksum is None else checksum[0].upper()
    return AwsError("BadDigest", f"The {said} you specified did not match the calculated checksum.")


def _length(text: str | None) -> int:
    if text is None:
        raise AwsError("MissingContentLength", "You must provide the Content-Length HTTP header.", 411)
    if not re.fullmatch("[0-9]{1,15}", text):
        raise AwsError("InvalidArgument", "The length of the body is no number.")
    return int(text)


def _from_base64(text: str, length: int, header: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != length:
        code = "InvalidDigest" if header == "Content-MD5" else "InvalidRequest"
        raise AwsError(code, f"Value for {header} header is invalid.")
    return data


class _Chunks:
    """Takes the framing ``aws-chunked`` apart: ``SIZE-IN-HEX CRLF DATA CRLF … 0 CRLF NAME:VALUE CRLF CRLF``."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._left = 0  # bytes of the current chunk still to come
        self._state = "size"
        self.trailers: dict[str, str] = {}

    @property
    def complete(self) -> bool:
        """Whether the last chunk and its trailers have come."""
        return self._state == "end"

    def feed(self, data: bytes) -> bytes:
        content = []
        position = 0
        while position < len(data):
            if self._state == "data":
                piece = data[position : position + self._left]
                content.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = "data end"
                continue
            end = data.find(b"\n", position)
            stop = len(data) if end < 0 else end + 1
            self._line += data[position:stop]
            position = stop
            if len(self._line) > _MAX_FRAME_LINE:
                raise _bad_frame()
            if end >= 0:
                line = bytes(self._line).removesuffix(b"\n").removesuffix(b"\r")
                self._line.clear()
                self._take_line(line)
        return b"".join(content)

    def _take_line(self, line: bytes) -> None:
        if self._state == "size":
            found = _CHUNK_SIZE.fullmatch(line)
            if not found:
                raise _bad_frame()
            self._left = int(found[1], 16)
            self._state = "data" if self._left else "trailer"
        elif self._state == "data end" and not line:
            self._state = "size"
        elif self._state == "trailer":
            name, colon, value = line.decode("latin-1").partition(":")
            if not line:
                self._state = "end"
            elif colon and len(self.trailers) < _MAX_TRAILERS:
                self.trailers[name.strip().lower()] = value.strip()
            else:
                raise _bad_frame()
        else:
            raise _bad_frame()


def _bad_frame() -> AwsError:
    return AwsError("InvalidRequest", "The chunks of the request body are malformed.")
