"""The answer of GetObjectAttributes.

Format: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObjectAttributes.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.local import s3_headers, s3_xml
from lib.local.checksums import COMPOSITE
from lib.local.objects import ObjectInfo, ObjectPart
from lib.local.protocol import AwsError

_NAMES = ("ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize")


def attributes(
    headers: Mapping[str, str], info: ObjectInfo, parts: Sequence[ObjectPart]
) -> list[s3_xml.Node]:
    """Return the elements that a request asks for.

    Parameters
    ----------
    headers : mapping
        Those of the request, names in small letters.
    parts : sequence of ObjectPart
        Those the object was uploaded in.

    Raises
    ------
    AwsError
        InvalidArgument for an attribute that is none.
    """
    asked = [name.strip() for name in headers.get("x-amz-object-attributes", "").split(",")]
    if not set(asked) <= set(_NAMES):
        raise AwsError(
            "InvalidArgument",
            "Invalid attribute name specified.",
            ArgumentName="x-amz-object-attributes",
            ArgumentValue=headers.get("x-amz-object-attributes", ""),
        )
    nodes: list[s3_xml.Node] = []
    if "ETag" in asked:
        nodes.append(("ETag", info.etag))  # without the quotes it has elsewhere
    if "Checksum" in asked and info.checksum:
        nodes.append(("Checksum", s3_xml.checksum_nodes(info.checksum)))
    if "ObjectParts" in asked and parts:
        nodes.append(("ObjectParts", _parts(headers, info, parts)))
    if "StorageClass" in asked:
        nodes.append(("StorageClass", "STANDARD"))
    if "ObjectSize" in asked:
        nodes.append(("ObjectSize", str(info.size)))
    return nodes


def _parts(headers: Mapping[str, str], info: ObjectInfo, parts: Sequence[ObjectPart]) -> list[s3_xml.Node]:
    """Return how many parts there are and, where their checksums make up the object's, each of them."""
    nodes: list[s3_xml.Node] = [("PartsCount", str(len(parts)))]  # so named; TotalPartsCount in SDKs
    if info.checksum.get("type") != COMPOSITE:
        return nodes
    limit = s3_headers.number(headers, "x-amz-max-parts", 1000)
    after = s3_headers.number(headers, "x-amz-part-number-marker", 0, most=10_000)
    later = [part for part in parts if part.number > after]
    listed = later[:limit]
    nodes += [
        ("PartNumberMarker", str(after)),
        ("NextPartNumberMarker", str(listed[-1].number if listed else after)),
        ("MaxParts", str(limit)),
        ("IsTruncated", "true" if len(later) > len(listed) else "false"),
    ]
    for part in listed:
        checksum = {"algorithm": info.checksum["algorithm"], "value": part.checksum}
        entry = [("PartNumber", str(part.number)), ("Size", str(part.size))]
        nodes.append(("Part", entry + s3_xml.checksum_nodes(checksum)))
    return nodes
