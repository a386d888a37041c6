"""Ratings to features: the sparse design matrix, and its way to S3 as recordIO-protobuf.

A rating of a customer for a video is a row with two ones: one in the customer's column, one in the
video's.  Columns are customers first, then videos::

              customer 0   1   2 | video 0   1
    rating 0           1   0   0 |       0   1
    rating 1           0   0   1 |       1   0

`lib.design` adds columns of what else is known.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from lib import recordio
from lib.errors import DataError
from lib.files import atomically

TRAIN_NAME = "train.pbr"
ROWS_PER_PART = 10_000
MOST_PARTS = 100_000  # part-00000 to part-99999
PART_NAME = re.compile(r"/part-\d{5,}\.pbr$")


def design_matrix(customer: Any, video: Any, customers: int, videos: int) -> sp.csr_matrix:
    """Build the one-hot design matrix of ratings.

    Parameters
    ----------
    customer, video : array of int (n,)
        Who rated what, as indices from 0.
    customers, videos : int
        How many of each there are.

    Returns
    -------
    csr_matrix of float32 (n, customers + videos)
        With two ones a row; the indices are int32 where that is enough.

    Raises
    ------
    DataError
        The arrays differ in length or are not one-dimensional integers, or an index is out of range.
    """
    customer_index = _checked_index(customer, customers, "customer")
    video_index = _checked_index(video, videos, "video")
    n = len(customer_index)
    if len(video_index) != n:
        raise DataError(
            f"There are {n:,} customers' and {len(video_index):,} videos' indices, not one a rating."
        )

    largest = max(customers + videos, 2 * n)
    index_type = np.int32 if largest <= np.iinfo(np.int32).max else np.int64
    indices = np.empty((n, 2), index_type)
    indices[:, 0] = customer_index
    indices[:, 1] = video_index
    indices[:, 1] += customers
    indptr = np.arange(0, 2 * n + 1, 2, dtype=index_type)
    ones = np.ones(2 * n, np.float32)
    return sp.csr_matrix((ones, indices.reshape(-1), indptr), shape=(n, customers + videos))


def _checked_index(values: Any, count: int, what: str) -> np.ndarray:
    index = np.asarray(values)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise DataError(
            f"The {what} index has shape {index.shape} and dtype {index.dtype}; "
            "it must be one-dimensional and of integers."
        )
    if count < 1:
        raise DataError(f"The number of {what}s is {count}; it must be 1 or more.")
    if index.size and (index.min() < 0 or index.max() >= count):
        row = int(((index < 0) | (index >= count)).argmax())
        raise DataError(f"Row {row} has {what} {index[row]}, outside 0 to {count - 1}.")
    return index


def write_file(path: str | Path, X: Any, y: Any = None) -> Path:
    """Write a matrix, and labels if there are any, as one recordIO-protobuf file.

    Parameters
    ----------
    path : path
        Appears when it is complete, not before; its folder is made.
    X : scipy sparse matrix or ndarray (n, d)
        The features.
    y : array (n,), optional
        The labels.

    Raises
    ------
    DataError
        X or y cannot be written, has no rows, or the disk refuses.
    """
    _check_has_rows(X)
    with atomically(path) as partial, partial.open("wb") as file:
        recordio.write(file, X, y)
    return Path(path)


def write_part_files(folder: str | Path, X: Any, rows: int = ROWS_PER_PART) -> Iterator[Path]:
    """Write a matrix as files of up to ``rows`` rows, without labels, yielding each as it is complete.

    The files are ``part-00000.pbr``, ``part-00001.pbr``, …, so that the order of their names is the order
    of the rows.

    Parameters
    ----------
    folder : path
        Is made if it is not there.
    X : scipy sparse matrix or ndarray (n, d)
        The features.
    rows : int
        The most rows of a file.

    Raises
    ------
    DataError
        As `write_file`, or ``rows`` is less than 1.
    """
    parts = _count_parts(X, rows)
    X = X.tocsr() if sp.issparse(X) else X
    for part in range(parts):
        first = part * rows
        yield write_file(Path(folder) / f"part-{part:05d}.pbr", X[first : first + rows])


def write_channel(X: Any, y: Any, uri: str, *, name: str = TRAIN_NAME, progress: bool = True) -> str:
    """Store a matrix and its labels as a training job's channel of one file.

    Parameters
    ----------
    X : scipy sparse matrix or ndarray (n, d)
        The features.
    y : array (n,)
        The labels.
    uri : str
        The channel's S3 URI, a folder.
    name : str
        The file's name in it.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    str
        The file's URI.

    Raises
    ------
    DataError
        X or y cannot be written.
    StorageError
        The location cannot be written.
    """
    from lib import storage

    with tempfile.TemporaryDirectory(prefix="reelbook-") as folder:
        path = write_file(Path(folder) / name, X, y)
        return storage.upload(path, storage.join(uri, name), progress=progress)


def write_parts(X: Any, uri: str, rows: int = ROWS_PER_PART, *, progress: bool = True) -> int:
    """Store a matrix without labels in parts, as the input of a batch transform job.

    One part at a time is on this machine's disk.  Parts of an earlier attempt that this one does not
    replace are deleted, as a job would take them too.

    Parameters
    ----------
    X : scipy sparse matrix or ndarray (n, d)
        The features.
    uri : str
        The S3 URI, a folder.
    rows : int
        The most rows of a part.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    int
        The number of parts.

    Raises
    ------
    DataError
        X cannot be written, has no rows, or ``rows`` is less than 1.
    StorageError
        The location cannot be written.
    """
    from lib import progress as progress_of
    from lib import storage

    parts = _count_parts(X, rows)
    uris = set()
    with tempfile.TemporaryDirectory(prefix="reelbook-") as folder:
        files = write_part_files(folder, X, rows)
        for path in progress_of.bar(files, total=parts, unit="part", desc="upload", disable=not progress):
            uris.add(storage.upload(path, storage.join(uri, path.name)))
            path.unlink()
    for stored in storage.list_objects(storage.join(uri, "part-")):
        if PART_NAME.search(stored.uri) and stored.uri not in uris:
            storage.delete_prefix(stored.uri)
    return parts


def _count_parts(X: Any, rows: int) -> int:
    """Return the number of parts, after checking all that could be wrong with any of them."""
    if rows < 1:
        raise DataError(f"A part cannot have {rows} rows.")
    recordio.check(X)
    _check_has_rows(X)
    parts: int = -(-X.shape[0] // rows)
    if parts > MOST_PARTS:
        raise DataError(
            f"{X.shape[0]:,} rows make {parts:,} parts of {rows:,}; only {MOST_PARTS:,} have names in order.",
            hint="Take more rows a part.",
        )
    return parts


def _check_has_rows(X: Any) -> None:
    if getattr(X, "shape", None) and X.shape[0] == 0:
        raise DataError("There are no rows to write.", hint="Check what the steps before left over.")
