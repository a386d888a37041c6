"""Chunked uploads: AWS's published examples of chunk signatures, and everything that must be refused."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import random
from dataclasses import replace

import pytest

from lib.local.chunks import Chunks
from lib.local.payload import SIGNED_CHUNKS, SIGNED_TRAILER, UNSIGNED_TRAILER, Payload
from lib.local.protocol import AwsError
from lib.local.signing import ChunkSigner, Claim, Credentials, SignedRequest, read_claim, signing_key, verify

# https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html and …/sigv4-streaming-trailers.html
PUBLISHED = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
SIGNATURES = (
    "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
)
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
TRAILER_SIGNATURES = (
    "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
    "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
    "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
)
TRAILER_SIGNATURE = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"
CONTENT = b"a" * 65 * 1024
CLAIM = Claim(PUBLISHED.access_key, "20130524", "us-east-1", "s3", ("host",), SEED, time="20130524T000000Z")


def framed(signatures: tuple[str, ...], sizes: tuple[int, ...] = (65_536, 1024, 0)) -> bytes:
    body, position = b"", 0
    for size, signature in zip(sizes, signatures, strict=True):
        extension = f";chunk-signature={signature}" if signature else ""
        body += f"{size:x}{extension}\r\n".encode() + CONTENT[position : position + size]
        body += b"\r\n" if size else b""
        position += size
    return body


def signed(chunks: list[bytes], claim: Claim = CLAIM) -> bytes:
    """Frame and sign chunks with the chain of signatures written out once more."""
    key = signing_key(PUBLISHED.secret_key, claim.day, claim.region, claim.service)
    body, previous = b"", claim.signature
    for chunk in [*chunks, b""]:
        digests = f"{hashlib.sha256(b'').hexdigest()}\n{hashlib.sha256(chunk).hexdigest()}"
        to_sign = f"AWS4-HMAC-SHA256-PAYLOAD\n{claim.time}\n{claim.scope}\n{previous}\n{digests}"
        previous = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
        body += f"{len(chunk):x};chunk-signature={previous}\r\n".encode() + chunk + b"\r\n"
    return body


def read(body: bytes, claim: Claim = CLAIM, piece: int = 10_000, mode: str = SIGNED_CHUNKS) -> bytes:
    headers = {"x-amz-content-sha256": mode, "x-amz-decoded-content-length": str(len(CONTENT))}
    if mode != SIGNED_CHUNKS:
        headers["x-amz-trailer"] = "x-amz-checksum-crc32c"
    payload = Payload(headers, ChunkSigner(claim, PUBLISHED.secret_key))
    content = b"".join(payload.feed(body[start : start + piece]) for start in range(0, len(body), piece))
    payload.finish()
    return content


def refusal(body: bytes, **options: str) -> str:
    with pytest.raises(AwsError) as caught:
        read(body, **options)  # type: ignore[arg-type]
    return caught.value.code


@pytest.mark.parametrize("piece", [7, 1000, 66_000, 10**6])
def test_the_published_example_of_signed_chunks(piece: int) -> None:
    body = framed(SIGNATURES) + b"\r\n"
    assert len(body) == 66_824  # the Content-Length of the example
    assert read(body, piece=piece) == CONTENT


@pytest.mark.parametrize("piece", [7, 1000, 10**6])
@pytest.mark.parametrize("between", [b"\r\n", b"\n\r\n", b"\n"])
def test_the_published_example_of_signed_trailers(piece: int, between: bytes) -> None:
    body = framed(TRAILER_SIGNATURES) + b"x-amz-checksum-crc32c:sOO8/Q==" + between
    body += f"x-amz-trailer-signature:{TRAILER_SIGNATURE}\r\n\r\n".encode()
    claim = replace(CLAIM, signature=TRAILER_SEED)
    assert read(body, claim, piece, SIGNED_TRAILER) == CONTENT


def test_the_published_seed_signature_is_that_of_the_headers() -> None:
    headers = {
        "host": "s3.amazonaws.com",
        "x-amz-date": "20130524T000000Z",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "x-amz-content-sha256": SIGNED_CHUNKS,
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": "66560",
        "content-length": "66824",
        "authorization": "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;"
        f"x-amz-decoded-content-length;x-amz-storage-class,Signature={SEED}",
    }
    request = SignedRequest("PUT", "/examplebucket/chunkObject.txt", "", headers)
    then = dt.datetime(2013, 5, 24, tzinfo=dt.UTC)
    claim = read_claim(request)
    assert claim.signature == SEED
    verify(request, claim, SIGNED_CHUNKS, PUBLISHED, then)
    other = replace(claim, signature="0" * 64)
    with pytest.raises(AwsError) as refused:
        verify(request, other, SIGNED_CHUNKS, PUBLISHED, then)
    assert refused.value.code == "SignatureDoesNotMatch"


def test_a_changed_byte_or_signature_of_any_chunk_is_refused() -> None:
    body = framed(SIGNATURES) + b"\r\n"
    for place in (1000, 65_536 + 300):
        assert refusal(body[:place] + b"b" + body[place + 1 :]) == "SignatureDoesNotMatch"
    for number in range(3):
        others = list(SIGNATURES)
        others[number] = "0" * 64
        assert refusal(framed(tuple(others)) + b"\r\n") == "SignatureDoesNotMatch"
    wrong_seed = replace(CLAIM, signature="0" * 64)
    with pytest.raises(AwsError, match="does not match"):
        read(body, wrong_seed)


def test_chunks_that_were_left_out_or_exchanged_are_refused() -> None:
    chunks = [CONTENT[:30_000], CONTENT[30_000:60_000], CONTENT[60_000:]]
    body = signed(chunks)
    assert read(body) == CONTENT
    piece = len(framed(("x" * 64,), (30_000,)))
    swapped = body[piece : 2 * piece] + body[:piece] + body[2 * piece :]
    assert refusal(swapped) == "SignatureDoesNotMatch"
    assert refusal(body[:piece] + body[2 * piece :]) == "SignatureDoesNotMatch"
    assert refusal(body[: 2 * piece]) == "IncompleteBody"
    assert refusal(signed(chunks[:2])) == "IncompleteBody"


def test_a_trailer_must_be_signed_and_be_the_announced_one() -> None:
    claim = replace(CLAIM, signature=TRAILER_SEED)
    body = framed(TRAILER_SIGNATURES)
    good = f"x-amz-trailer-signature:{TRAILER_SIGNATURE}\r\n\r\n".encode()
    for trailer, code in (
        (b"x-amz-checksum-crc32c:sOO8/A==\r\n" + good, "SignatureDoesNotMatch"),
        (b"x-amz-checksum-crc32:sOO8/Q==\r\n" + good, "SignatureDoesNotMatch"),
        (b"x-amz-checksum-crc32c:sOO8/Q==\r\n\r\n", "IncompleteBody"),
        (b"", "IncompleteBody"),
        (b"no colon\r\n", "InvalidRequest"),
    ):
        assert refusal(body + trailer, claim=claim, mode=SIGNED_TRAILER) == code, trailer  # type: ignore[arg-type]


def test_a_wrong_checksum_in_an_unsigned_trailer_is_refused() -> None:
    body = framed(("", "", ""))
    assert read(body + b"x-amz-checksum-crc32c:sOO8/Q==\r\n\r\n", mode=UNSIGNED_TRAILER) == CONTENT
    wrong = body + b"x-amz-checksum-crc32c:sOO8/A==\r\n\r\n"
    assert refusal(wrong, mode=UNSIGNED_TRAILER) == "BadDigest"
    missing = body + b"x-amz-checksum-sha1:sOO8/A==\r\n\r\n"
    assert refusal(missing, mode=UNSIGNED_TRAILER) == "MalformedTrailerError"


def test_a_small_chunk_before_the_last_is_refused_where_chunks_are_signed() -> None:
    assert refusal(signed([CONTENT[:8191], CONTENT[8191:]])) == "InvalidChunkSizeError"
    assert read(signed([CONTENT[:8192], CONTENT[8192:]])) == CONTENT


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"-5\r\n",
        b"5\r\nabcdefg\r\n",
        b"5;chunk-signature=" + b"0" * 63 + b"\r\n",
        b"5;chunk-signature=" + b"0" * 64 + b"\r\nabcde\r\n",  # signed where nobody can check it
        b"f" * 17 + b"\r\n",
        b"1" * 9000,
        b"0\r\n" + b"".join(b"%d:b\r\n" % number for number in range(17)),
        b"0\r\na:b\r\na:c\r\n",
        b"0\r\na:b\r\n\r\nmore\n",
        b"\xff\xfe\r\n",
    ],
)
def test_a_broken_framing_is_refused(body: bytes) -> None:
    chunks = Chunks(None, with_trailer=True)
    with pytest.raises(AwsError) as caught:
        chunks.feed(body)
    assert caught.value.code == "InvalidRequest"


def test_random_pieces_of_a_body_give_the_same_content() -> None:
    random_ = random.Random(0)
    body = signed([CONTENT[:20_000], CONTENT[20_000:]])
    for _ in range(20):
        chunks = Chunks(ChunkSigner(CLAIM, PUBLISHED.secret_key), with_trailer=False)
        position, content = 0, b""
        while position < len(body):
            size = random_.choice([1, 2, 3, 100, 5000])
            content += chunks.feed(body[position : position + size])
            position += size
        assert content == CONTENT
        assert chunks.complete
