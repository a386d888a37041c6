"""S3's checksums: the published check values, and what each may be of a multipart upload."""

from __future__ import annotations

import base64
import random

import pytest

from lib.local import checksums
from lib.local.protocol import AwsError

PUBLISHED = {  # of b"123456789": the CRC catalogue, FIPS 180-4, RFC 1321 and the xxHash sanity checks
    "crc32": "cbf43926",
    "crc32c": "e3069283",
    "crc64nvme": "ae8b14860a799888",
    "md5": "25f9e794323b453885f5181f1b624d0b",
    "sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
    "xxhash64": "8cb841db40e6ae83",
}
ALL = (*PUBLISHED, "sha512", "xxhash3", "xxhash128")


@pytest.mark.parametrize("algorithm", PUBLISHED)
def test_the_published_check_values(algorithm: str) -> None:
    hasher = checksums.new_checksum(algorithm)
    hasher.update(b"123456789")
    assert hasher.digest().hex() == PUBLISHED[algorithm]


@pytest.mark.parametrize("algorithm", ALL)
def test_pieces_have_the_checksum_of_the_whole(algorithm: str) -> None:
    data = random.Random(0).randbytes(100_000)
    whole, pieces = checksums.new_checksum(algorithm), checksums.new_checksum(algorithm.upper())
    whole.update(data)
    for start, stop in ((0, 1), (1, 1), (1, 65_537), (65_537, 100_000)):
        pieces.update(data[start:stop])
    assert whole.digest() == pieces.digest() == whole.digest()
    assert checksums.decoded(algorithm, checksums.base64_of(whole)) == whole.digest()
    other = checksums.new_checksum(algorithm)
    other.update(data[:-1])
    assert other.digest() != whole.digest()


@pytest.mark.parametrize("value", ["", "=", "AAAAAA", "AAAAAAAA", "é"])
def test_a_value_of_another_length_or_no_base64_is_refused(value: str) -> None:
    with pytest.raises(AwsError, match="x-amz-checksum-crc32 header is invalid"):
        checksums.decoded("crc32", value)


def test_the_type_of_a_multipart_checksum() -> None:
    assert checksums.multipart_type("crc32") == "COMPOSITE"
    assert checksums.multipart_type("crc32c", "full_object") == "FULL_OBJECT"
    assert checksums.multipart_type("crc64nvme") == "FULL_OBJECT"
    for algorithm, kind in (("crc64nvme", "COMPOSITE"), ("sha256", "FULL_OBJECT"), ("crc32", "HALF")):
        with pytest.raises(AwsError) as caught:
            checksums.multipart_type(algorithm, kind)
        assert caught.value.code == "InvalidRequest"


def test_one_checksum_a_request_and_of_a_known_algorithm() -> None:
    four = base64.b64encode(bytes(4)).decode()
    assert checksums.named({"x-amz-checksum-algorithm": "CRC32", "host": "h"}) is None
    assert checksums.named({"x-amz-checksum-crc32": four, "x-amz-checksum-type": "X"}) == ("crc32", four)
    for headers in (
        {"x-amz-checksum-crc32": four, "x-amz-checksum-crc32c": four},
        {"x-amz-checksum-a": four},
    ):
        with pytest.raises(AwsError) as caught:
            checksums.named(headers)
        assert caught.value.code == "InvalidRequest"
