"""A request to S3, taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from lib.local.protocol import AwsError
from lib.local.signing import ChunkSigner

_SUBRESOURCES = frozenset(
    """abac accelerate acl analytics annotation attributes cors delete encryption intelligent-tiering inventory
    legal-hold lifecycle location logging metadataConfiguration metadataInventoryTable metadataJournalTable
    metadataTable metrics notification object-lock ownershipControls policy policyStatus
    publicAccessBlock renameObject replication requestPayment restore retention select session tagging
    torrent uploadId uploads versioning versions website""".split()  # noqa: SIM905
)
"""Query names that stand for a part of a bucket or object, with an operation of their own."""


@dataclass(frozen=True)
class Call:
    """A request to S3, taken apart.

    Attributes
    ----------
    bucket, key : str
        Empty where the request is about the service or a bucket.
    query, headers : mapping
        Header names in small letters.
    region : str
        The region the client signed for.
    signer : ChunkSigner or None
        Checks the signatures of the body's chunks.
    body : bytes
        The whole body, of requests whose body is not an object.
    """

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    region: str
    signer: ChunkSigner | None = None
    body: bytes = b""

    @property
    def level(self) -> str:
        """What the request is about: ``service``, ``bucket`` or ``object``."""
        return "object" if self.key else "bucket" if self.bucket else "service"

    @property
    def subresource(self) -> str:
        """Which part of a bucket or object the request is about; empty for the thing itself.

        Raises
        ------
        AwsError
            NotImplemented for an object's version.
        """
        refuse_versions(self.query.get("versionId", "null"))
        named = sorted(_SUBRESOURCES & self.query.keys())
        return named[0] if named else ""


def split_path(raw_path: str) -> tuple[str, str]:
    """Return bucket and key of a request's percent-encoded path.

    Raises
    ------
    AwsError
        InvalidURI where the key is not UTF-8.
    """
    bucket, _, key = raw_path.removeprefix("/").partition("/")
    return _decoded(unquote_to_bytes(bucket)), _decoded(unquote_to_bytes(key))


def split_source(text: str) -> tuple[str, str]:
    """Return bucket and key that ``x-amz-copy-source`` names; its slash may be percent-encoded too.

    Raises
    ------
    AwsError
        InvalidArgument where it names no key, NotImplemented where it names a version.
    """
    path, _, version = text.partition("?versionId=")
    refuse_versions(version)
    bucket, _, key = unquote_to_bytes(path).removeprefix(b"/").partition(b"/")
    if not key:
        message = "Copy Source must mention the source bucket and key: sourcebucket/sourcekey"
        raise AwsError("InvalidArgument", message, ArgumentName="x-amz-copy-source", ArgumentValue=text)
    return _decoded(bucket), _decoded(key)


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise AwsError("InvalidURI", "Couldn't parse the specified URI.") from None


def refuse_versions(version: str) -> None:
    """Refuse to name a version of an object, which the local AWS does not keep.

    Raises
    ------
    AwsError
        NotImplemented, unless it is ``null``, the version of objects in a bucket without versions.
    """
    if version not in ("", "null"):
        raise AwsError("NotImplemented", "The local AWS has no versions of objects.", 501)
