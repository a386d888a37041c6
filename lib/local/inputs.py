"""The S3 side of a job: which objects a prefix or a manifest means, and where they go on disk."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.local.algorithm import refuse_unless, unsupported
from lib.local.objects import ObjectInfo, Objects
from lib.local.protocol import AwsError
from lib.local.store import REGION

_COPY_BYTES = 1024 * 1024
_NO_LINKS_HERE = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)


class JobError(Exception):
    """Ends a job as Failed; its text is the job's FailureReason."""


def split_uri(uri: str, member: str) -> tuple[str, str]:
    """Return the bucket and key of an S3 URI.

    Parameters
    ----------
    uri : str
        Such as ``s3://bucket/some/key``.
    member : str
        The request's member that holds it, for the message.

    Raises
    ------
    AwsError
        ValidationException, for a URI of another scheme or without a bucket.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise AwsError("ValidationException", f"{member} is {uri}, but should be s3://BUCKET/KEY.")
    return bucket, key


@dataclass(frozen=True)
class Found:
    """An object of a data source, and the path it has in a channel's folder, or in a transform's output."""

    item: ObjectInfo
    relative: str


def check_source(source: dict[str, Any], member: str) -> None:
    """Refuse a DataSource other than an S3 prefix or a manifest.

    Raises
    ------
    AwsError
        ValidationException.
    """
    for other in set(source) - {"S3DataSource"}:
        raise unsupported(f"{other} in {member}")
    if "S3DataSource" not in source:
        raise AwsError("ValidationException", f"{member} names no S3DataSource.")
    kind = source["S3DataSource"].get("S3DataType")
    if kind == "AugmentedManifestFile":
        raise AwsError(
            "ValidationException",
            f"{member} is an AugmentedManifestFile, whose lines Factorization Machines cannot read: "
            "it takes recordIO-protobuf.",
        )
    refuse_unless(kind, ("S3Prefix", "ManifestFile"), f"{member}.S3DataSource.S3DataType")


def find(objects: Objects, source: dict[str, Any], role: str) -> list[Found]:
    """Return the objects of an S3DataSource: those of a manifest in its order, those of a prefix by their keys.

    Parameters
    ----------
    source : dict
        An S3DataSource: S3DataType and S3Uri.
    role : str
        The role that is named where nothing is found.

    Raises
    ------
    AwsError
        ValidationException, with AWS's text where there are none, or a manifest that is none.
    """
    uri = source["S3Uri"]
    bucket, prefix = split_uri(uri, "S3Uri")
    if source.get("S3DataType") == "ManifestFile":
        return _of_manifest(objects, uri)
    try:
        found = [
            Found(item, relative_key(prefix, item.key))
            for item in objects.list(bucket, prefix)
            if not item.key.endswith("/")  # a folder's marker
        ]
    except AwsError as error:
        if error.code != "NoSuchBucket":
            raise
        found = []
    if not found:
        raise AwsError(
            "ValidationException",
            f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the '
            f"bucket exists in the selected region ({REGION}), that objects exist under that S3 prefix, and "
            f'that the role "{role}" has "s3:ListBucket" permissions on bucket "{bucket}".',
        )
    return found


def _of_manifest(objects: Objects, uri: str) -> list[Found]:
    """Return the objects that a manifest names: ``[{"prefix": "s3://BUCKET/FOLDER/"}, "KEY", …]``."""
    try:
        listed = json.loads(_object(objects, uri, f"The manifest {uri}").path.read_bytes())
    except (ValueError, RecursionError):
        listed = None
    form = 'a JSON list of {"prefix": "s3://BUCKET/FOLDER/"} and of keys below it'
    if not (isinstance(listed, list) and len(listed) > 1 and isinstance(listed[0], dict)):
        raise AwsError("ValidationException", f"The manifest {uri} should be {form}.")
    prefix = listed[0].get("prefix")
    if not isinstance(prefix, str) or not all(isinstance(name, str) and name for name in listed[1:]):
        raise AwsError("ValidationException", f"The manifest {uri} should be {form}.")
    seen: set[str] = set()
    for name in listed[1:]:
        if name in seen:
            raise AwsError("ValidationException", f"The manifest {uri} names {name} twice.")
        seen.add(name)
    return [
        Found(_object(objects, prefix + name, f"{prefix}{name}, which the manifest {uri} names,"), name)
        for name in listed[1:]
    ]


def _object(objects: Objects, uri: str, what: str) -> ObjectInfo:
    bucket, key = split_uri(uri, "S3Uri")
    try:
        return objects.get(bucket, key)
    except AwsError as error:
        if error.code not in ("NoSuchBucket", "NoSuchKey"):
            raise
        raise AwsError("ValidationException", f"{what} does not exist.") from None


def check_output(objects: Objects, uri: str, member: str) -> None:
    """Refuse an output location whose bucket does not exist.

    Raises
    ------
    AwsError
        ValidationException.
    """
    bucket = split_uri(uri, member)[0]
    try:
        objects.bucket(bucket)
    except AwsError as error:
        if error.code != "NoSuchBucket":
            raise
        raise AwsError("ValidationException", f"The bucket {bucket} of {member} does not exist.") from None


def relative_key(prefix: str, key: str) -> str:
    """Return an object's path under the S3 prefix that found it.

    Below the prefix as a folder, that is the rest of the key; an object named in full keeps its last
    part; one that only begins like the prefix is taken relative to the prefix's own folder.
    """
    folder = prefix.rstrip("/") + "/"
    if prefix and key.startswith(folder) and key != folder:
        return key[len(folder) :]
    return key[prefix.rfind("/") + 1 :]


def place(found: list[Found], folder: Path, *, numbered: bool = False, gzipped: bool = False) -> None:
    """Put objects into a channel's folder, as hard links where the file system can, else as copies.

    Parameters
    ----------
    found : list of Found
        The objects.
    folder : Path
        The channel's.
    numbered : bool
        Whether files are named by their place in the list, which a pipe would give them in, rather than by key.
    gzipped : bool
        Whether objects are unpacked.

    Raises
    ------
    JobError
        For a key that would lie outside the folder or cannot be a file's name, an object that has gone or is no
        gzip file.
    """
    digits = len(str(len(found)))
    for number, one in enumerate(found):
        key = one.item.key
        parts = [f"{number:0{digits}d}"] if numbered else one.relative.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise JobError(f"ClientError: Data download failed: the key {key!r} cannot be a file's name.")
        target = folder.joinpath(*parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if gzipped:
                unpack(one.item.path, target)
            else:
                _link_or_copy(one.item.path, target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise JobError(
                f"ClientError: Data download failed: the key {key!r} is a file and a folder at once."
            ) from None
        except FileNotFoundError:
            raise JobError(
                f"ClientError: Data download failed:NoSuchKey (404): The object {key!r} has gone."
            ) from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise JobError(
                f"ClientError: Data download failed: the object {key!r} is no whole gzip file: {error}."
            ) from None
        except OSError as error:
            raise JobError(
                f"ClientError: Data download failed: {key!r} cannot be stored: {error.strerror}."
            ) from None


def unpack(source: Path, target: Path) -> None:
    """Write what a gzip file holds; raises what `gzip` raises for one that is damaged or none."""
    with gzip.open(source, "rb") as packed, target.open("xb") as file:
        shutil.copyfileobj(packed, file, _COPY_BYTES)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS_HERE:
            raise
        shutil.copyfile(source, target)
