"""The checksums that S3 keeps with objects, in the manner of hashlib.

The cyclic ones and the xxHashes are those of AWS's own runtime (the package ``awscrt``), which takes tens of
gigabytes a second where Python's loop would take one megabyte.

What each may be of a multipart upload:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

from awscrt import checksums as crt

from lib.local.protocol import AwsError

CHECKSUM_PREFIX = "x-amz-checksum-"
DEFAULT_ALGORITHM = "crc64nvme"
"""What S3 computes of an object that comes without a checksum."""

FULL_OBJECT, COMPOSITE = "FULL_OBJECT", "COMPOSITE"

_NOT_ALGORITHMS = frozenset(f"{CHECKSUM_PREFIX}{word}" for word in ("algorithm", "mode", "type"))


class Hasher(Protocol):
    """What hashlib's objects have."""

    def update(self, data: bytes, /) -> None:
        """Take more data."""

    def digest(self) -> bytes:
        """Return the digest of the data so far."""


class _Crc:
    """A cyclic checksum in the manner of hashlib; its digest is big-endian."""

    def __init__(self, update: Callable[[bytes, int], int], length: int) -> None:
        self._update = update
        self._length = length
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = self._update(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._length, "big")


class _XxHash:
    """An xxHash in the manner of hashlib: the runtime's own gives its digest only once."""

    def __init__(self, hasher: crt.XXHash) -> None:
        self._hasher = hasher
        self._digest: bytes | None = None

    def update(self, data: bytes, /) -> None:
        self._hasher.update(data)

    def digest(self) -> bytes:
        if self._digest is None:
            self._digest = bytes(self._hasher.finalize())
        return self._digest


_ALGORITHMS: dict[str, tuple[int, Callable[[], Hasher]]] = {
    "crc32": (4, lambda: _Crc(zlib.crc32, 4)),
    "crc32c": (4, lambda: _Crc(crt.crc32c, 4)),
    "crc64nvme": (8, lambda: _Crc(crt.crc64nvme, 8)),
    "sha1": (20, lambda: hashlib.sha1(usedforsecurity=False)),
    "sha256": (32, hashlib.sha256),
    "sha512": (64, hashlib.sha512),
    "md5": (16, lambda: hashlib.md5(usedforsecurity=False)),
    "xxhash64": (8, lambda: _XxHash(crt.XXHash.new_xxhash64())),
    "xxhash3": (8, lambda: _XxHash(crt.XXHash.new_xxhash3_64())),
    "xxhash128": (16, lambda: _XxHash(crt.XXHash.new_xxhash3_128())),
}
"""By the name in headers: how many bytes the checksum has, and what computes it."""

_TYPES = {"crc32": (COMPOSITE, FULL_OBJECT), "crc32c": (COMPOSITE, FULL_OBJECT), "crc64nvme": (FULL_OBJECT,)}
"""What a multipart upload's checksum may be, its default first; COMPOSITE of those not named."""


def new_checksum(algorithm: str) -> Hasher:
    """Return a hasher for one of S3's checksum algorithms.

    Raises
    ------
    AwsError
        InvalidRequest for one that S3 does not have.
    """
    return _ALGORITHMS[_known(algorithm)][1]()


def multipart_type(algorithm: str, wanted: str = "") -> str:
    """Return of what a multipart upload's checksum is: of the whole object, or of its parts' checksums.

    Parameters
    ----------
    wanted : str
        What the client asks for; empty where it leaves that to S3.

    Raises
    ------
    AwsError
        InvalidRequest where the algorithm cannot be that.
    """
    possible = _TYPES.get(_known(algorithm), (COMPOSITE,))
    if not wanted:
        return possible[0]
    if wanted.upper() not in (COMPOSITE, FULL_OBJECT):
        raise AwsError("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
    if wanted.upper() not in possible:
        text = f"The {wanted.upper()} checksum type cannot be used with the {algorithm} checksum algorithm."
        raise AwsError("InvalidRequest", text)
    return wanted.upper()


def named(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """Return algorithm and base64 value of the checksum in a request's headers; None where there is none.

    Raises
    ------
    AwsError
        InvalidRequest for more than one, an unknown one, or a value that is none of its algorithm.
    """
    found = {
        name: value
        for name, value in headers.items()
        if name.startswith(CHECKSUM_PREFIX) and name not in _NOT_ALGORITHMS
    }
    if not found:
        return None
    if len(found) > 1:
        text = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        raise AwsError("InvalidRequest", text)
    ((name, value),) = found.items()
    algorithm = name.removeprefix(CHECKSUM_PREFIX)
    decoded(algorithm, value)
    return algorithm, value


def decoded(algorithm: str, value: str) -> bytes:
    """Return a checksum's bytes.

    Raises
    ------
    AwsError
        InvalidRequest where the text is not base64, or not of the algorithm's length.
    """
    return from_base64(value, _ALGORITHMS[_known(algorithm)][0], f"{CHECKSUM_PREFIX}{algorithm}")


def from_base64(text: str, length: int, header: str) -> bytes:
    """Return the bytes of a header's value.

    Raises
    ------
    AwsError
        InvalidRequest, of Content-MD5 InvalidDigest.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != length:
        code = "InvalidDigest" if header == "Content-MD5" else "InvalidRequest"
        raise AwsError(code, f"Value for {header} header is invalid.")
    return data


def base64_of(hasher: Hasher) -> str:
    """Return a hasher's digest as S3 writes it."""
    return base64.b64encode(hasher.digest()).decode()


def _known(algorithm: str) -> str:
    name = algorithm.lower()
    if name not in _ALGORITHMS:
        text = "Checksum algorithm provided is unsupported. Please try again with any of the valid types: "
        raise AwsError("InvalidRequest", f"{text}[{', '.join(_ALGORITHMS).upper()}]")
    return name
