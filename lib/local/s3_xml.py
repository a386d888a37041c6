"""The XML of S3's REST protocol: answers written, request bodies read.

Format: https://docs.aws.amazon.com/AmazonS3/latest/API/Welcome.html
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from lib.local.listing import Page
from lib.local.objects import BucketInfo, ObjectInfo
from lib.local.protocol import AwsError
from lib.local.s3_call import refuse_versions
from lib.local.uploads import NamedPart, Part, Upload, UploadPage

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
MEDIA_TYPE = "application/xml"
OWNER_ID = "local"
MAX_DELETED_KEYS = 1000

_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f]")

Node = tuple[str, Any]
"""An element: its name, and its text or its children (a list of nodes)."""


def document(name: str, children: Sequence[Node], namespace: str = NAMESPACE) -> bytes:
    """Return an XML document."""
    root = ElementTree.Element(name, {"xmlns": namespace} if namespace else {})
    _add(root, children)
    return _written(root)


def text_document(name: str, text: str) -> bytes:
    """Return an XML document of one element."""
    root = ElementTree.Element(name, {"xmlns": NAMESPACE})
    root.text = text
    return _written(root)


def error_document(error: AwsError, resource: str, request_id: str) -> bytes:
    """Return the XML of an error."""
    extra = [(name, str(value)) for name, value in error.extra.items()]
    nodes: list[Node] = [("Code", error.code), ("Message", error.message), *extra]
    return document("Error", [*nodes, ("Resource", resource), ("RequestId", request_id)], namespace="")


def iso_time(seconds: float) -> str:
    """Return a time as S3's XML has it: ``2026-11-23T02:13:00.000Z``."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def bucket_list(buckets: Sequence[BucketInfo]) -> bytes:
    """Return the answer of ListBuckets."""
    entries = [
        (
            "Bucket",
            [
                ("Name", bucket.name),
                ("CreationDate", iso_time(bucket.created)),
                ("BucketRegion", bucket.region),
            ],
        )
        for bucket in buckets
    ]
    return document("ListAllMyBucketsResult", [("Owner", [("ID", OWNER_ID)]), ("Buckets", entries)])


def object_list(bucket: str, query: Mapping[str, str], limit: int, page: Page) -> bytes:
    """Return the answer of ListObjects or, with ``list-type=2``, of ListObjectsV2."""
    encode = key_encoder(query)
    nodes: list[Node] = [
        ("Name", bucket),
        ("Prefix", encode(query.get("prefix", ""))),
        ("MaxKeys", str(limit)),
        ("IsTruncated", _boolean(page.resume is not None)),
    ]
    if query.get("delimiter"):
        nodes.append(("Delimiter", encode(query["delimiter"])))
    if query.get("encoding-type"):
        nodes.append(("EncodingType", "url"))
    if query.get("list-type") == "2":
        nodes.append(("KeyCount", str(len(page.contents) + len(page.prefixes))))
        nodes += [("ContinuationToken", query[name]) for name in ("continuation-token",) if name in query]
        nodes += [("StartAfter", encode(query[name])) for name in ("start-after",) if name in query]
        if page.resume is not None:
            nodes.append(("NextContinuationToken", base64.urlsafe_b64encode(page.resume).decode()))
        owner: list[Node] = [("Owner", [("ID", OWNER_ID)])] if query.get("fetch-owner") == "true" else []
    else:
        nodes.append(("Marker", encode(query.get("marker", ""))))
        if page.resume is not None and query.get("delimiter"):  # else it is the last key
            nodes.append(("NextMarker", encode(page.last)))
        owner = [("Owner", [("ID", OWNER_ID)])]
    nodes += [("Contents", _listed(info, encode) + owner) for info in page.contents]
    nodes += [("CommonPrefixes", [("Prefix", encode(prefix))]) for prefix in page.prefixes]
    return document("ListBucketResult", nodes)


def listing_start(query: Mapping[str, str]) -> bytes:
    """Return where a listing begins: at the continuation token, or behind the marker.

    Raises
    ------
    AwsError
        InvalidArgument for a token that is none of ours.
    """
    token = query.get("continuation-token", "")
    if token:
        try:
            return base64.urlsafe_b64decode(token)
        except (binascii.Error, ValueError):
            raise AwsError("InvalidArgument", "The continuation token provided is incorrect") from None
    after = query.get("start-after" if query.get("list-type") == "2" else "marker", "")
    if not after:
        return b""
    delimiter = query.get("delimiter", "")
    is_common_prefix = bool(delimiter) and after.endswith(delimiter)
    return after.encode() + (b"\xff" if is_common_prefix else b"\0")


def upload_list(bucket: str, query: Mapping[str, str], limit: int, page: UploadPage) -> bytes:
    """Return the answer of ListMultipartUploads."""
    encode = key_encoder(query)
    nodes: list[Node] = [
        ("Bucket", bucket),
        ("KeyMarker", encode(query.get("key-marker", ""))),
        ("UploadIdMarker", query.get("upload-id-marker", "")),
    ]
    if page.resume is not None:
        nodes += [("NextKeyMarker", encode(page.resume[0])), ("NextUploadIdMarker", page.resume[1])]
    nodes += [
        ("Prefix", encode(query.get("prefix", ""))),
        ("MaxUploads", str(limit)),
        ("IsTruncated", _boolean(page.resume is not None)),
    ]
    if query.get("delimiter"):
        nodes.append(("Delimiter", encode(query["delimiter"])))
    if query.get("encoding-type"):
        nodes.append(("EncodingType", "url"))
    for upload in page.uploads:
        entry: list[Node] = [
            ("Key", encode(upload.key)),
            ("UploadId", upload.id),
            ("Initiator", [("ID", OWNER_ID)]),
            ("Owner", [("ID", OWNER_ID)]),
            ("StorageClass", "STANDARD"),
            ("Initiated", iso_time(upload.started)),
        ]
        nodes.append(("Upload", entry + _checksum_kind(upload.checksum)))
    nodes += [("CommonPrefixes", [("Prefix", encode(prefix))]) for prefix in page.prefixes]
    return document("ListMultipartUploadsResult", nodes)


def part_list(
    upload: Upload, query: Mapping[str, str], parts: Sequence[Part], window: tuple[int, int], more: bool
) -> bytes:
    """Return the answer of ListParts; ``window`` is the part it begins behind, and the most it lists."""
    after, limit = window
    nodes: list[Node] = [
        ("Bucket", upload.bucket),
        ("Key", key_encoder(query)(upload.key)),
        ("UploadId", upload.id),
        ("Initiator", [("ID", OWNER_ID)]),
        ("Owner", [("ID", OWNER_ID)]),
        ("StorageClass", "STANDARD"),
        ("PartNumberMarker", str(after)),
        ("NextPartNumberMarker", str(parts[-1].number if parts else 0)),
        ("MaxParts", str(limit)),
        ("IsTruncated", _boolean(more)),
        *_checksum_kind(upload.checksum),
    ]
    for part in parts:
        entry: list[Node] = [
            ("PartNumber", str(part.number)),
            ("LastModified", iso_time(part.modified)),
            ("ETag", f'"{part.etag}"'),
            ("Size", str(part.size)),
            *checksum_nodes({**part.checksum, "type": ""}),
        ]
        nodes.append(("Part", entry))
    return document("ListPartsResult", nodes)


def checksum_nodes(checksum: Mapping[str, str]) -> list[Node]:
    """Return the elements that tell a checksum, such as ``ChecksumCRC32`` and ``ChecksumType``."""
    if not checksum.get("value"):
        return []
    nodes: list[Node] = [(f"Checksum{checksum['algorithm'].upper()}", checksum["value"])]
    return nodes + ([("ChecksumType", checksum["type"])] if checksum.get("type") else [])


def read(body: bytes, root: str) -> ElementTree.Element:
    """Parse a request's body, its namespaces dropped.

    Raises
    ------
    AwsError
        MalformedXML where it is none, has another root, or declares a document type (and with it
        entities, which could grow without bound or name files).
    """
    parser = ElementTree.XMLParser(target=_PlainBuilder())
    try:
        parser.feed(body)
        element: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, _DoctypeFound, ValueError, LookupError):
        raise malformed() from None
    if element.tag != root:
        raise malformed()
    return element


def read_deletions(body: bytes) -> tuple[list[tuple[str, str]], bool]:
    """Return what a DeleteObjects request names, and whether it wants to hear of errors only.

    Returns
    -------
    named : list of (str, str)
        Keys, and for each the ETag it must have; empty where it may have any.
    quiet : bool

    Raises
    ------
    AwsError
        MalformedXML, NotImplemented for versions.
    """
    root = read(body, "Delete")
    entries = root.findall("Object")
    named = [(entry.findtext("Key") or "", entry.findtext("ETag") or "") for entry in entries]
    if not named or len(named) > MAX_DELETED_KEYS or any(not key for key, _ in named):
        raise malformed()
    for entry in entries:
        refuse_versions(entry.findtext("VersionId", "null"))
    return named, root.findtext("Quiet", "").strip() == "true"


def read_tags(body: bytes) -> list[tuple[str, str]]:
    """Return keys and values of the tags in a request's body.

    Raises
    ------
    AwsError
        MalformedXML.
    """
    sets = read(body, "Tagging").findall("TagSet")
    if len(sets) != 1:
        raise malformed()
    pairs = []
    for entry in sets[0]:
        if entry.tag != "Tag" or entry.find("Key") is None or entry.find("Value") is None:
            raise malformed()
        pairs.append((entry.findtext("Key") or "", entry.findtext("Value") or ""))
    return pairs


def tagging(tags: Mapping[str, str]) -> bytes:
    """Return the answer of GetObjectTagging and GetBucketTagging."""
    entries: list[Node] = [("Tag", [("Key", key), ("Value", value)]) for key, value in tags.items()]
    return document("Tagging", [("TagSet", entries)])


def read_parts(body: bytes) -> list[NamedPart]:
    """Return the parts that a CompleteMultipartUpload request names."""
    named = []
    for entry in read(body, "CompleteMultipartUpload").findall("Part"):
        number, etag = entry.findtext("PartNumber", "").strip(), entry.findtext("ETag", "")
        checksums = [child.text or "" for child in entry if child.tag.startswith("Checksum")]
        if not number.isdecimal() or len(number) > 5:
            raise malformed()
        named.append(NamedPart(int(number), etag.strip().strip('"'), checksums[0] if checksums else ""))
    return named


def malformed() -> AwsError:
    """Return the error of a request body that cannot be read."""
    text = "The XML you provided was not well-formed or did not validate against our published schema"
    return AwsError("MalformedXML", text)


def key_encoder(query: Mapping[str, str]) -> Callable[[str], str]:
    """Return how keys are written: percent-encoded with ``encoding-type=url``, else as they are."""
    return quote if query.get("encoding-type") else str


def check_encoding(query: Mapping[str, str]) -> None:
    """Refuse to write keys in any way but that of `key_encoder`.

    Raises
    ------
    AwsError
        InvalidArgument.
    """
    if query.get("encoding-type", "url") not in ("", "url"):
        text = "Invalid Encoding Method specified in Request"
        raise AwsError("InvalidArgument", text, ArgumentName="encoding-type")


class _DoctypeFound(Exception):
    """The document declares a document type."""


class _PlainBuilder(ElementTree.TreeBuilder):
    """Builds a tree without namespaces; refuses a document type."""

    def start(self, tag: Any, attrs: Any) -> Any:
        return super().start(tag.rpartition("}")[2], {})

    def end(self, tag: Any) -> Any:
        return super().end(tag.rpartition("}")[2])

    def doctype(self, name: str, pubid: str, system: str) -> None:
        raise _DoctypeFound


def _written(root: ElementTree.Element) -> bytes:
    data: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    # a parser would take a plain carriage return for a line break, and refuse the other characters
    return _CONTROL.sub(lambda found: b"&#%d;" % ord(found[0]), data)


def _add(parent: ElementTree.Element, nodes: Sequence[Node]) -> None:
    for name, content in nodes:
        child = ElementTree.SubElement(parent, name)
        if isinstance(content, str):
            child.text = content
        else:
            _add(child, content)


def _listed(info: ObjectInfo, encode: Callable[[str], str]) -> list[Node]:
    return [
        ("Key", encode(info.key)),
        ("LastModified", iso_time(info.modified)),
        ("ETag", f'"{info.etag}"'),
        ("Size", str(info.size)),
        ("StorageClass", "STANDARD"),
        *_checksum_kind(info.checksum),
    ]


def _checksum_kind(checksum: Mapping[str, str]) -> list[Node]:
    if not checksum:
        return []
    return [("ChecksumAlgorithm", checksum["algorithm"].upper()), ("ChecksumType", checksum["type"])]


def _boolean(value: bool) -> str:
    return "true" if value else "false"
