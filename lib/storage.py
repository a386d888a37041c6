"""Reads and writes S3 locations by their URI, through boto3's default session.

Call ``lib.aws.connect`` first.  Files are sent and fetched in parallel parts by boto3's transfer manager,
which gives a download its name only when it is complete.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.errors import ConnectionFailed, ServiceUnavailable, StorageError

if TYPE_CHECKING:
    import pandas as pd

_DENIED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled", "KMS.AccessDeniedException")
_BAD_CREDENTIALS = (
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UnrecognizedClientException",
)
_MISSING = ("NoSuchKey", "NotFound", "404")
_DELETE_BATCH = 1000


@dataclass(frozen=True)
class StoredObject:
    """An object under an S3 prefix.

    Attributes
    ----------
    uri, key : str
    size : int
        Bytes.
    etag : str
        Changes when the content does; without quotes.
    modified : datetime
        UTC.
    """

    uri: str
    key: str
    size: int
    etag: str
    modified: datetime


# ---- names


def split(uri: str) -> tuple[str, str]:
    """Return bucket and key of an S3 URI; the key is empty for a bucket.

    Raises
    ------
    StorageError
        When it is no S3 URI.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise StorageError(f"`{uri}` is no S3 location: it must look like s3://bucket/key.", uri=uri)
    return bucket, key


def join(uri: str, *parts: str) -> str:
    """Return the URI with parts appended, one slash between them."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def stage_uri(bucket: str, prefix: str, run_id: str, stage: str) -> str:
    """Return the prefix of what a stage of a run writes: ``s3://bucket/prefix/run_id/stage``."""
    parts = [part.strip("/") for part in (prefix, run_id, stage)]
    return f"s3://{bucket}/" + "/".join(part for part in parts if part)


# ---- buckets and listings


def ensure_bucket(bucket: str, region: str) -> None:
    """Make the bucket, unless it is there.

    Raises
    ------
    StorageError
        When it belongs to somebody else, its name is no bucket name, or it may not be made.
    """
    from botocore.exceptions import ClientError

    uri = f"s3://{bucket}"
    with _explained(uri, "made"):
        client = _client()
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if _code(error) not in ("404", "NoSuchBucket"):
                raise
            where = {} if region == "us-east-1" else {"LocationConstraint": region}
            options: dict[str, Any] = {"CreateBucketConfiguration": where} if where else {}
            try:
                client.create_bucket(Bucket=bucket, **options)
            except client.exceptions.BucketAlreadyOwnedByYou:  # another stage has just made it
                return


def list_objects(uri: str) -> list[StoredObject]:
    """Return the objects whose URI begins with ``uri``, ordered by key: what SageMaker calls an S3Prefix.

    Raises
    ------
    StorageError
        When the bucket is not there or cannot be listed.
    """
    bucket, prefix = split(uri)
    with _explained(uri, "listed"):
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [
            StoredObject(
                uri=f"s3://{bucket}/{item['Key']}",
                key=item["Key"],
                size=item["Size"],
                etag=item["ETag"].strip('"'),
                modified=item["LastModified"],
            )
            for page in pages
            for item in page.get("Contents", [])
        ]


def objects_named(uri: str) -> list[StoredObject]:
    """Return the object of that URI and those in the folder of that URI, but not its namesakes.

    ``s3://bucket/run`` means ``s3://bucket/run/x`` and not ``s3://bucket/run2/x``.

    Raises
    ------
    StorageError
        As `list_objects`.
    """
    folder = uri if uri.endswith("/") else f"{uri}/"
    return [item for item in list_objects(uri) if item.uri == uri or item.uri.startswith(folder)]


def exists(uri: str) -> bool:
    """Whether there is an object of exactly that URI."""
    from botocore.exceptions import ClientError

    bucket, key = split(uri)
    with _explained(uri, "looked up"):
        try:
            _client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _code(error) in (*_MISSING, "NoSuchBucket"):
                return False
            raise
        return True


# ---- files


def upload(path: str | os.PathLike[str], uri: str, progress: bool = False) -> str:
    """Copy a file to S3.

    Parameters
    ----------
    path : path
        The file.
    uri : str
        The object's URI; one that ends in ``/`` is completed with the file's name.
    progress : bool
        Show a progress bar on stderr, or in the notebook.

    Returns
    -------
    str
        The object's URI.

    Raises
    ------
    StorageError
        When the file cannot be read or the location not be written.
    """
    path = Path(path)
    uri = f"{uri}{path.name}" if uri.endswith("/") else uri
    bucket, key = split(uri)
    if not path.is_file():
        raise StorageError(f"There is no file {path} to upload to {uri}.", uri=uri)
    with _explained(uri, "written"), _bar(path.name, path.stat().st_size, progress) as advance:
        _client().upload_file(str(path), bucket, key, Callback=advance)
    return uri


def download(uri: str, path: str | os.PathLike[str], progress: bool = False) -> Path:
    """Copy an object to a file.

    Parameters
    ----------
    uri : str
        The object's URI.
    path : path
        The file, or a folder that gets a file of the object's name.
    progress : bool
        Show a progress bar on stderr, or in the notebook.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    StorageError
        When there is no such object, or it cannot be read; then no file is left.
    """
    bucket, key = split(uri)
    path = Path(path)
    path = path / key.rpartition("/")[2] if path.is_dir() else path
    with _explained(uri, "read"):
        path.parent.mkdir(parents=True, exist_ok=True)
        client = _client()
        size = client.head_object(Bucket=bucket, Key=key)["ContentLength"] if progress else 0
        with _bar(path.name, size, progress) as advance:  # under another name until it is complete
            client.download_file(bucket, key, str(path), Callback=advance)
    return path


def download_prefix(uri: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Copy all objects under a prefix into a folder, in the tree their keys make.

    Returns
    -------
    list of Path
        The files, ordered by key.

    Raises
    ------
    StorageError
        When there is nothing under the prefix, or a key leads out of the folder.
    """
    folder = Path(folder)
    objects = [item for item in objects_named(uri) if not item.key.endswith("/")]
    if not objects:
        raise StorageError(f"There is nothing under {uri}.", uri=uri)
    paths = []
    for item in objects:
        relative = item.uri.removeprefix(uri).lstrip("/") or item.key.rpartition("/")[2]
        path = folder / relative
        if not path.resolve().is_relative_to(folder.resolve()):
            raise StorageError(f"The key of {item.uri} leads out of the folder {folder}.", uri=item.uri)
        paths.append(download(item.uri, path))
    return paths


# ---- contents


def read_bytes(uri: str) -> bytes:
    """Return an object's bytes.

    Raises
    ------
    StorageError
        When there is no such object, or it cannot be read.
    """
    bucket, key = split(uri)
    with _explained(uri, "read"):
        data: bytes = _client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return data


def write_bytes(data: bytes, uri: str) -> str:
    """Make bytes an object and return its URI.

    Raises
    ------
    StorageError
        When the location cannot be written.
    """
    bucket, key = split(uri)
    with _explained(uri, "written"):
        _client().put_object(Bucket=bucket, Key=key, Body=data)
    return uri


def read_parquet(uri: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a Parquet object, or all of those under a prefix one behind the other, as a table.

    Parameters
    ----------
    columns : sequence of str, optional
        The columns to read; all by default.

    Raises
    ------
    StorageError
        When there is nothing, it is no Parquet, or a column is missing.
    """
    import pyarrow as pa
    from pyarrow import parquet

    objects = [item for item in objects_named(uri) if item.size]
    if not objects:
        raise StorageError(f"There is nothing at {uri}.", uri=uri)
    wanted = list(columns) if columns is not None else None
    tables = []
    for item in objects:
        try:
            file = parquet.ParquetFile(pa.BufferReader(read_bytes(item.uri)))
            missing = sorted(set(wanted or []) - set(file.schema_arrow.names))
            if missing:
                raise StorageError(f"{item.uri} has no column `{missing[0]}`.", uri=item.uri)
            tables.append(file.read(columns=wanted))
        except pa.ArrowInvalid:
            raise StorageError(f"{item.uri} is no Parquet file.", uri=item.uri) from None
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return frame


def write_parquet(frame: pd.DataFrame, uri: str) -> str:
    """Make a table a Parquet object, without its index, and return its URI.

    Raises
    ------
    StorageError
        When the location cannot be written.
    """
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    bucket, key = split(uri)
    buffer.seek(0)
    with _explained(uri, "written"):
        _client().upload_fileobj(buffer, bucket, key)
    return uri


def delete_prefix(uri: str) -> list[str]:
    """Delete all objects under a prefix, or the one object of that name.

    Returns
    -------
    list of str
        Their URIs.

    Raises
    ------
    StorageError
        When the URI names a whole bucket, or an object cannot be deleted.
    """
    bucket, prefix = split(uri)
    if not prefix.strip("/"):
        raise StorageError(f"{uri} is a whole bucket: name the prefix to delete in it.", uri=uri)
    found = objects_named(uri)
    with _explained(uri, "deleted"):
        for start in range(0, len(found), _DELETE_BATCH):
            keys = [{"Key": item.key} for item in found[start : start + _DELETE_BATCH]]
            answer = _client().delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            for failure in answer.get("Errors", []):
                name = f"s3://{bucket}/{failure['Key']}"
                raise StorageError(f"{name} cannot be deleted: {failure['Message']}", uri=name)
    return [item.uri for item in found]


# ---- what they share


_kept: tuple[Any, ...] = ()  # the last client, and what it was made for


def _client() -> Any:
    """Return a client of S3 for the connected target; making one takes as long as several requests."""
    global _kept
    import boto3

    session = boto3.DEFAULT_SESSION
    variables = [
        os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID")
    ]
    if session is None or not _kept or _kept[0] is not session or _kept[1] != variables:
        client = boto3.client("s3")
        _kept = (boto3.DEFAULT_SESSION, variables, client)
    return _kept[2]


@contextmanager
def _bar(name: str, size: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that adds bytes to a progress bar."""
    if not progress:
        yield lambda _: None
        return
    from lib.progress import bar as progress_bar

    with progress_bar(total=size, desc=name, unit="B", unit_scale=True) as bar:
        yield lambda amount: bar.update(amount) and None


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _explained(uri: str, done: str) -> Iterator[None]:
    """Turn what boto3 and the file system raise into one sentence about the URI.

    Parameters
    ----------
    done : str
        What was to be done with it: ``read``, ``written`` …
    """
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as boto

    try:
        yield
    except boto.ClientError as error:
        raise _explain_answer(error, uri, done) from error
    except (boto.EndpointConnectionError, boto.HTTPClientError, boto.ConnectionError) as error:
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        raise ServiceUnavailable(
            f"{uri} cannot be {done}: there is no answer from {endpoint}.",
            hint="Check the network or, for the local AWS, start it by `python run_all.py local start`.",
        ) from error
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.TokenRetrievalError) as error:
        raise ConnectionFailed(
            f"{uri} cannot be {done}: there are no valid AWS credentials.",
            hint="Call `lib.aws.connect` first; for AWS, run `aws configure` or `aws sso login`.",
        ) from error
    except boto.ParamValidationError as error:
        raise StorageError(f"{uri} is no valid S3 location.", uri=uri) from error
    except (boto.BotoCoreError, Boto3Error) as error:
        cause = error.__context__ or error.__cause__
        if isinstance(cause, boto.ClientError):  # the transfer manager wraps it
            raise _explain_answer(cause, uri, done) from error
        raise StorageError(f"{uri} cannot be {done}: {str(error).rstrip('.')}.", uri=uri) from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        reason = f"{error.strerror or error}{where}"
        raise StorageError(f"{uri} cannot be {done}: {reason}.", uri=uri) from error


def _explain_answer(error: Any, uri: str, done: str) -> Exception:
    """Return the error for what S3 answered."""
    code, bucket = _code(error), split(uri)[0]
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "NoSuchBucket" or (code in ("404", "NotFound") and error.operation_name == "HeadBucket"):
        return StorageError(f"{uri} cannot be {done}: there is no bucket `{bucket}`.", uri=uri)
    if code in _MISSING:
        hint = "Run the stage that writes it first."
        return StorageError(f"There is nothing at {uri}.", uri=uri, hint=hint)
    if code in _BAD_CREDENTIALS:
        return ConnectionFailed(
            f"{uri} cannot be {done}: the credentials are not valid (any more): {code}.",
            hint="Call `lib.aws.connect` again; for AWS, renew the credentials.",
        )
    if code in _DENIED:
        return StorageError(f"{uri} cannot be {done}: access is denied.", uri=uri, hint=_WHO)
    if code == "InsufficientStorage" or status == 507:
        return StorageError(
            f"{uri} cannot be {done}: the disk or the quota of the local AWS is full.",
            uri=uri,
            hint="Free some space, for example by deleting old runs.",
        )
    if code in ("InvalidBucketName", "BucketAlreadyExists"):
        why = "is no bucket name" if code == "InvalidBucketName" else "belongs to somebody else"
        return StorageError(f"The bucket name `{bucket}` {why}.", uri=uri, hint="Choose another `bucket`.")
    message = error.response.get("Error", {}).get("Message") or code
    return StorageError(f"{uri} cannot be {done}: {message.rstrip('.')} ({code}).", uri=uri)


_WHO = "Check that the credentials in use may do that."
