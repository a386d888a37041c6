"""The body of an S3 upload: unwrapped from its framing, and compared with what the client said of it.

A client tells the body's digest in headers (``x-amz-content-sha256``, ``x-amz-checksum-crc32``,
``Content-MD5``) or, where it sends the framing ``aws-chunked`` (`lib.local.chunks`), a checksum in a trailer
behind the body.  A body that does not match is refused, so what is stored is what was sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from lib.local import checksums
from lib.local.checksums import CHECKSUM_PREFIX, Hasher
from lib.local.chunks import Chunks
from lib.local.protocol import AwsError
from lib.local.signing import UNSIGNED_PAYLOAD, ChunkSigner

UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = f"{SIGNED_CHUNKS}-TRAILER"

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Payload:
    """Takes the raw body piece by piece; gives the object's bytes, and checks them at the end.

    Parameters
    ----------
    headers : mapping
        The request's headers, names in small letters.
    signer : ChunkSigner, optional
        Checks the chunks' signatures, where the request has them.
    default : str
        The checksum to compute where the client sends none; none where empty.

    Attributes
    ----------
    length : int
        How many bytes the object has, as the client says.

    Raises
    ------
    AwsError
        InvalidRequest, InvalidArgument, InvalidDigest, MissingContentLength, NotImplemented.
    """

    def __init__(
        self, headers: Mapping[str, str], signer: ChunkSigner | None = None, default: str = ""
    ) -> None:
        self._hashers: dict[str, Hasher] = {}
        self._expected: dict[str, bytes] = {}
        self._chunks: Chunks | None = None
        self._received = 0
        self._algorithm = self._trailer = self._value = ""
        self._read_content_hash(headers, signer)
        self._read_checksum(headers, default)
        length_header = "x-amz-decoded-content-length" if self._chunks else "content-length"
        self.length = _length(headers.get(length_header))

    def _read_content_hash(self, headers: Mapping[str, str], signer: ChunkSigner | None) -> None:
        declared = headers.get("x-amz-content-sha256", UNSIGNED_PAYLOAD)
        if declared == UNSIGNED_TRAILER:
            self._chunks = Chunks(None, with_trailer=True)
        elif declared in (SIGNED_CHUNKS, SIGNED_TRAILER) and signer:
            self._chunks = Chunks(signer, with_trailer=declared == SIGNED_TRAILER)
        elif _SHA256.fullmatch(declared):
            self._hashers["content"] = hashlib.sha256()
            self._expected["content"] = bytes.fromhex(declared)
        elif declared.startswith("STREAMING-"):
            raise AwsError("NotImplemented", f"The local AWS has no {declared} uploads.", 501)
        elif declared != UNSIGNED_PAYLOAD:
            text = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, or a valid sha256 value."
            raise AwsError("InvalidArgument", text)

    def _read_checksum(self, headers: Mapping[str, str], default: str) -> None:
        if "content-md5" in headers:
            self._hashers["md5"] = hashlib.md5(usedforsecurity=False)
            self._expected["md5"] = checksums.from_base64(headers["content-md5"], 16, "Content-MD5")
        trailers = [name.strip().lower() for name in headers.get("x-amz-trailer", "").split(",")]
        announced = [name for name in trailers if name.startswith(CHECKSUM_PREFIX)]
        named = checksums.named(headers)
        if announced and self._chunks:
            if named or len(announced) > 1:
                raise AwsError("InvalidRequest", "Expecting a single x-amz-checksum- header")
            self._trailer = announced[0]
            self._algorithm = self._trailer.removeprefix(CHECKSUM_PREFIX)
        elif named:
            self._algorithm, self._value = named
            self._expected["checksum"] = checksums.decoded(*named)
        elif headers.get("x-amz-sdk-checksum-algorithm"):
            text = (
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* "
                "or x-amz-trailer headers were found."
            )
            raise AwsError("InvalidRequest", text)
        else:
            self._algorithm = default
        if self._algorithm:
            self._hashers["checksum"] = checksums.new_checksum(self._algorithm)

    @property
    def checksum(self) -> dict[str, str]:
        """The body's checksum once `finish` has returned: ``algorithm``, ``value``, ``type``; or nothing."""
        if not self._algorithm:
            return {}
        value = checksums.base64_of(self._hashers["checksum"])
        return {"algorithm": self._algorithm, "value": value, "type": checksums.FULL_OBJECT}

    @property
    def named_checksum(self) -> bool:
        """Whether the client sent a checksum, rather than that one was computed for it."""
        return bool(self._trailer or self._value)

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the request and return those of the object among them.

        Raises
        ------
        AwsError
            When the framing is broken, a chunk's signature wrong, or more comes than was announced.
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
            IncompleteBody, MalformedTrailerError, XAmzContentSHA256Mismatch, BadDigest.
        """
        if self._received != self.length or (self._chunks and not self._chunks.complete):
            text = "You did not provide the number of bytes specified by the Content-Length HTTP header"
            raise AwsError("IncompleteBody", text)
        if self._chunks and self._trailer:
            if self._trailer not in self._chunks.trailers:
                text = (
                    "The request contained trailing data that was not well-formed or did not conform to our"
                )
                raise AwsError("MalformedTrailerError", f"{text} published schema.")
            value = self._chunks.trailers[self._trailer]
            self._expected["checksum"] = checksums.decoded(self._algorithm, value)
        for name, expected in self._expected.items():
            if self._hashers[name].digest() != expected:
                raise self._mismatch(name)

    def _mismatch(self, name: str) -> AwsError:
        if name == "content":
            text = "The provided 'x-amz-content-sha256' header does not match what was computed."
            return AwsError("XAmzContentSHA256Mismatch", text)
        said = "Content-MD5" if name == "md5" else self._algorithm.upper()
        return AwsError("BadDigest", f"The {said} you specified did not match the calculated checksum.")


def content_of(headers: Mapping[str, str], body: bytes, signer: ChunkSigner | None = None) -> bytes:
    """Return what a whole body carries, compared with the digests in its headers; see `Payload`."""
    payload = Payload({**headers, "content-length": str(len(body))}, signer)
    content = payload.feed(body)
    payload.finish()
    return content


def _length(text: str | None) -> int:
    if text is None:
        raise AwsError("MissingContentLength", "You must provide the Content-Length HTTP header.", 411)
    if not re.fullmatch("[0-9]{1,15}", text):
        raise AwsError("InvalidArgument", "The length of the body is no number.")
    return int(text)
