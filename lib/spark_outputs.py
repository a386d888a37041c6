"""What Spark leaves behind: folders of Parquet, and recordIO-protobuf written side by side from its partitions.

::

    tables = spark_outputs.write_tables(parts, "s3://bucket/run/ratings")      # what 02_prepare reads
    stored = spark_outputs.write_records(parts, "s3://bucket/run/recordio")    # what 03_train reads

A channel's part files, one behind the other in the order of their names, are byte for byte the one file that
``02_prepare`` writes without side features: training rows in their random order, the others by customer and
video, and empty columns for customers and videos without a training row.  A task that Spark tries again writes
the same file under the same name.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib import features, recordio
from lib.errors import DataError, ParameterError
from lib.ratings import PARTS, Parts

if TYPE_CHECKING:
    from lib.spark_workspace import SparkWorkspace

LABELLED = ("train", "validate")
"""The channels whose rows have labels; the test rows are for a batch transform job, which takes none."""


def write_tables(parts: Parts, place: str) -> dict[str, str]:
    """Write the parts and the tables of customers and videos as folders of Parquet files.

    The columns and the order of the rows are those of `lib.ratings.Parts.write`; the files of a folder are in
    the order of their names.

    Parameters
    ----------
    parts : Parts
        Split by Spark.
    place : str
        A folder, or a URI that this Spark writes; folders of these names in it are replaced.

    Returns
    -------
    dict
        The URI of each: ``train``, ``validate``, ``test``, ``customers``, ``videos``.

    Raises
    ------
    ParameterError
        If the parts were not split by Spark.
    DataError
        If the place cannot be written.
    """
    workspace = _workspace(parts)
    uri = _uri(place)
    uris = {}
    with workspace.working(f"writing to {place}"):
        for name, query in parts.queries().items():
            uris[name] = f"{uri}/{name}.parquet"
            workspace.write_parts(query, uris[name])
    return uris


def write_records(parts: Parts, place: str, files: int | None = None) -> pd.DataFrame:
    """Write the design matrices of all parts as recordIO-protobuf, from all of Spark's partitions at once.

    Parameters
    ----------
    parts : Parts
        Split by Spark.
    place : str
        A folder that all executors see, or an S3 URI, which they write by boto3.
    files : int, optional
        Into how many files each part is cut, about; by default Spark decides.

    Returns
    -------
    DataFrame
        A row a file, in the order of the rows: ``part``, ``file`` (its path or URI), ``rows``.

    Raises
    ------
    ParameterError
        If the parts were not split by Spark, or ``files`` is below 1.
    DataError
        If the place cannot be written.
    """
    workspace = _workspace(parts)
    if files is not None and files < 1:
        raise ParameterError(f"A part cannot be cut into {files} files.")
    uri = _uri(place)
    sizes = parts.kept.customers, parts.kept.videos
    written: list[tuple[str, str, int]] = []
    with workspace.working(f"writing to {place}"):
        for part in PARTS:
            rows = _ordered(workspace, part, files)
            task = partial(encode_partition, uri=f"{uri}/{part}", sizes=sizes, has_labels=part in LABELLED)
            found = rows.mapInArrow(task, "file string, rows bigint").collect()
            names = sorted((row["file"], row["rows"]) for row in found)
            written += [(part, name, count) for name, count in names]
            _remove_others(f"{uri}/{part}", {name for name, _ in names})
    return pd.DataFrame(written, columns=["part", "file", "rows"])


def write_text(parts: Parts, text: str, place: str) -> None:
    """Write a small file from the driver, to a path or a URI of Spark's file systems.

    Raises
    ------
    DataError
        If the place cannot be written.
    """
    workspace = _workspace(parts)
    with workspace.working(f"writing {place}"):
        context = workspace.spark.sparkContext
        path = context._jvm.org.apache.hadoop.fs.Path(_uri(place))
        stream = path.getFileSystem(context._jsc.hadoopConfiguration()).create(path, True)
        try:
            stream.write(bytearray(text.encode()))
        finally:
            stream.close()


def encode_partition(
    batches: Iterator[Any], uri: str, sizes: tuple[int, int], has_labels: bool
) -> Iterator[Any]:
    """Write a partition's rows as one recordIO-protobuf file; what `mapInArrow` runs in each task.

    Parameters
    ----------
    batches : iterator of pyarrow.RecordBatch
        Columns ``customer`` and ``video`` (null where the column stays empty) and ``star_rating``.
    uri : str
        The folder; the file is ``part-NNNNN.pbr`` after the partition's number.
    sizes : tuple of int
        Customers and videos: the matrix has as many columns as both together.
    has_labels : bool
        Whether ``star_rating`` is written as label.

    Yields
    ------
    pyarrow.RecordBatch
        One row, ``file`` and ``rows``, or none where the partition is empty.
    """
    import pyarrow as pa
    from pyspark import TaskContext

    context = TaskContext.get()
    name = f"part-{context.partitionId() if context else 0:05d}.pbr"
    count = 0
    with tempfile.TemporaryDirectory(prefix="reelbook-") as folder:
        path = Path(folder) / name
        with path.open("wb") as file:
            for batch in batches:
                columns = {column: batch.column(column) for column in batch.schema.names}
                X = matrix(columns["customer"], columns["video"], *sizes)
                y = columns["star_rating"].to_numpy(zero_copy_only=False) if has_labels else None
                recordio.write(file, X, y, threads=1)
                count += X.shape[0]
        if count:
            stored = _store(path, uri)
            yield pa.RecordBatch.from_pydict({"file": [stored], "rows": [count]})


def matrix(customer: Any, video: Any, customers: int, videos: int) -> sp.csr_matrix:
    """Build the rows of ratings, empty in the columns of those that are null.

    Parameters
    ----------
    customer, video : pyarrow.Array of int32 (n,)
        Numbers from 0, or null.
    customers, videos : int
        How many of each there are.

    Returns
    -------
    csr_matrix of float32 (n, customers + videos)

    Raises
    ------
    DataError
        A number is out of range.
    """
    pairs = np.empty((len(customer), 2), np.int64)
    for place, (values, size, what) in enumerate(
        ((customer, customers, "customer"), (video, videos, "video"))
    ):
        numbers = values.fill_null(-1).to_numpy(zero_copy_only=False)
        if numbers.max(initial=-1) >= size or numbers.min(initial=-1) < -1:
            raise DataError(f"A row has {what} {numbers.max()}, outside 0 to {size - 1}.")
        pairs[:, place] = numbers
    there = pairs >= 0
    pairs[:, 1] += customers
    indptr = np.concatenate(([0], np.cumsum(there.sum(axis=1))))
    indices = pairs[there]
    kind = np.int32 if max(customers + videos, len(indices)) <= np.iinfo(np.int32).max else np.int64
    ones = np.ones(len(indices), np.float32)
    shape = (len(pairs), customers + videos)
    return sp.csr_matrix((ones, indices.astype(kind), indptr.astype(kind)), shape=shape)


def _ordered(workspace: SparkWorkspace, part: str, files: int | None) -> Any:
    """Return a part's rows in the order in which they are written, as many partitions as files."""
    order = ["random_order", "customer", "video"] if part == "train" else ["customer", "video"]
    rows = workspace.spark.sql(
        f"""
        SELECT
            parts.customer, parts.video, star_rating, random_order,
            CASE WHEN customers.train_ratings > 0 THEN parts.customer END AS known_customer,
            CASE WHEN videos.train_ratings > 0 THEN parts.video END AS known_video
        FROM parts
        INNER JOIN customers ON parts.customer = customers.customer
        INNER JOIN videos ON parts.video = videos.video
        WHERE part = '{part}'
        """
    )
    cut = (
        rows.repartitionByRange(files, *order).sortWithinPartitions(*order) if files else rows.orderBy(*order)
    )
    return cut.selectExpr("known_customer AS customer", "known_video AS video", "star_rating")


def _workspace(parts: Parts) -> SparkWorkspace:
    from lib.spark_workspace import SparkWorkspace

    workspace = parts.kept.reviews._workspace
    if not isinstance(workspace, SparkWorkspace):
        raise ParameterError("These parts were not split by Spark.", hint='Read with engine="spark".')
    return workspace


def _uri(place: str) -> str:
    if "://" not in place:
        return Path(place).resolve().as_uri()
    return place.rstrip("/")


def _object(uri: str) -> str:
    """Return the URI of an S3 object as boto3 takes it; Hadoop has more names for the scheme."""
    return "s3://" + uri.partition("://")[2]


def _local(uri: str) -> Path | None:
    import urllib.parse

    return Path(urllib.parse.unquote(uri.removeprefix("file://"))) if uri.startswith("file:") else None


def _store(path: Path, uri: str) -> str:
    """Bring a file to its folder, where it appears when it is whole; return where it is."""
    folder = _local(uri)
    if folder is None:
        from lib import storage

        return storage.upload(path, f"{_object(uri)}/{path.name}")
    folder.mkdir(parents=True, exist_ok=True)
    partial_name = folder / f".{path.name}.{path.parent.name}"
    with suppress(FileNotFoundError):
        partial_name.unlink()
    shutil.copyfile(path, partial_name)
    partial_name.replace(folder / path.name)
    return str(folder / path.name)


def _remove_others(uri: str, written: set[str]) -> None:
    """Delete the parts of an earlier attempt, which a job would take too."""
    folder = _local(uri)
    if folder is not None:
        for path in folder.glob("part-*.pbr"):
            if str(path) not in written:
                path.unlink()
        return
    from lib import storage

    for stored in storage.list_objects(f"{_object(uri)}/part-"):
        if features.PART_NAME.search(stored.uri) and stored.uri not in written:
            storage.delete_prefix(stored.uri)
