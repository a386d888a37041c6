"""The S3 side of a job: what a URI names, which objects a prefix means, and where they go on disk."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from lib.local.algorithm import refuse_unless, unsupported
from lib.local.objects import ObjectInfo, Objects
from lib.local.protocol import AwsError
from lib.local.store import REGION

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


def check_source(source: dict[str, Any], member: str) -> None:
    """Refuse a DataSource other than an S3 prefix.

    Raises
    ------
    AwsError
        ValidationException.
    """
    for other in set(source) - {"S3DataSource"}:
        raise unsupported(f"{other} in {member}")
    if "S3DataSource" not in source:
        raise AwsError("ValidationException", f"{member} names no S3DataSource.")
    refuse_unless(
        source["S3DataSource"].get("S3DataType"), ("S3Prefix",), f"{member}.S3DataSource.S3DataType"
    )


def find(objects: Objects, uri: str, role: str) -> list[ObjectInfo]:
    """Return the objects under an S3 prefix in the order of their keys, without folder markers.

    Raises
    ------
    AwsError
        ValidationException with AWS's text where there are none.
    """
    bucket, prefix = split_uri(uri, "S3Uri")
    try:
        found = [item for item in objects.list(bucket, prefix) if not item.key.endswith("/")]
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


def place(found: list[ObjectInfo], prefix: str, folder: Path) -> None:
    """Put objects into a channel's folder, as hard links where the file system can, else as copies.

    Raises
    ------
    JobError
        For a key that would lie outside the folder or cannot be a file's name, or an object that has gone.
    """
    for item in found:
        relative = relative_key(prefix, item.key)
        parts = relative.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise JobError(
                f"ClientError: Data download failed: the key {item.key!r} cannot be a file's name."
            )
        target = folder.joinpath(*parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(item.path, target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise JobError(
                f"ClientError: Data download failed: the key {item.key!r} is a file and a folder at once."
            ) from None
        except FileNotFoundError:
            raise JobError(
                f"ClientError: Data download failed:NoSuchKey (404): The object {item.key!r} has gone."
            ) from None
        except OSError as error:
            raise JobError(
                f"ClientError: Data download failed: {item.key!r} cannot be stored: {error.strerror}."
            ) from None


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS_HERE:
            raise
        shutil.copyfile(source, target)
