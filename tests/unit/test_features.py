"""The design matrix, and the files and S3 objects made of it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import features, local, recordio, storage
from lib.errors import DataError, RecordIOError

CUSTOMERS, VIDEOS = 30, 7


def ratings(n: int) -> sp.csr_matrix:
    rng = np.random.default_rng(n)
    return features.design_matrix(
        rng.integers(0, CUSTOMERS, n), rng.integers(0, VIDEOS, n), CUSTOMERS, VIDEOS
    )


def read(path: Path) -> tuple[sp.csr_matrix, np.ndarray | None]:
    with path.open("rb") as file:
        return recordio.read(file)


def equal(left: sp.csr_matrix, right: sp.csr_matrix) -> bool:
    return left.shape == right.shape and (left != right).nnz == 0


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the operating system refuse longer files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- the design matrix ---------------------------------------------------------------------------------


def test_a_rating_is_a_one_for_its_customer_and_a_one_for_its_video() -> None:
    X = features.design_matrix([0, 2, 1], [1, 0, 1], customers=3, videos=2)
    np.testing.assert_array_equal(X.toarray(), [[1, 0, 0, 0, 1], [0, 0, 1, 1, 0], [0, 1, 0, 0, 1]])
    assert X.dtype == np.float32
    assert X.indices.dtype == X.indptr.dtype == np.int32
    assert X.has_canonical_format


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 60), st.integers(0, 2**32))
def test_the_matrix_gives_back_both_indices(customers: int, videos: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    customer, video = rng.integers(0, customers, n), rng.integers(0, videos, n)
    X = features.design_matrix(customer, video, customers, videos)
    assert X.shape == (n, customers + videos)
    pairs = X.indices.reshape(n, 2)
    np.testing.assert_array_equal(pairs[:, 0], customer)
    np.testing.assert_array_equal(pairs[:, 1] - customers, video)
    assert (X.sum(axis=1) == 2).all()


def test_columns_of_a_table_are_taken() -> None:
    table = pd.DataFrame({"customer": [1, 0], "video": [0, 1]}, index=[7, 3]).astype("int32")
    X = features.design_matrix(table["customer"], table["video"], 2, 2)
    np.testing.assert_array_equal(X.toarray(), [[0, 1, 1, 0], [1, 0, 0, 1]])


def test_small_integers_do_not_overflow() -> None:
    X = features.design_matrix(np.array([120], np.int8), np.array([100], np.int8), 121, 101)
    assert X.indices.tolist() == [120, 221]


def test_indices_beyond_int32_become_int64() -> None:
    X = features.design_matrix([2**31], [5], 2**31 + 1, 6)
    assert X.indices.dtype == np.int64
    assert X.indices.tolist() == [2**31, 2**31 + 6]


@pytest.mark.parametrize(
    ("customer", "video", "message"),
    [
        ([0, 1], [0], "2 customers' and 1 videos' indices"),
        ([0, 3], [0, 1], "Row 1 has customer 3, outside 0 to 2"),
        ([0, 1], [-1, 1], "Row 0 has video -1, outside 0 to 1"),
        ([0.0, 1.0], [0, 1], "customer index has shape .* dtype float64"),
        ([0, 1], [[0, 1]], r"video index has shape \(1, 2\)"),
        (["a", "b"], [0, 1], "customer index .* dtype <U1"),
        (5, [0, 1], r"customer index has shape \(\)"),
    ],
)
def test_bad_indices_are_refused(customer: object, video: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        features.design_matrix(customer, video, 3, 2)


def test_a_count_of_none_is_refused() -> None:
    with pytest.raises(DataError, match="The number of videos is 0"):
        features.design_matrix([0], [0], 1, 0)


# --- files ---------------------------------------------------------------------------------------------


def test_a_file_holds_the_matrix_and_its_labels(tmp_path: Path) -> None:
    X, y = ratings(100), np.arange(100)
    path = features.write_file(tmp_path / "new" / "train.pbr", X, y)
    X_read, y_read = read(path)
    assert equal(X_read, X)
    np.testing.assert_array_equal(y_read, y)
    assert [file.name for file in path.parent.iterdir()] == ["train.pbr"]


@pytest.mark.parametrize(("n", "rows", "sizes"), [(25, 10, [10, 10, 5]), (20, 10, [10, 10]), (3, 10, [3])])
def test_parts_hold_the_rows_in_order_without_labels(
    tmp_path: Path, n: int, rows: int, sizes: list[int]
) -> None:
    X = ratings(n)
    paths = list(features.write_part_files(tmp_path, X, rows))
    assert [path.name for path in paths] == [f"part-{part:05d}.pbr" for part in range(len(sizes))]
    pieces = [read(path) for path in paths]
    assert [piece.shape[0] for piece, _ in pieces] == sizes
    assert all(y is None for _, y in pieces)
    assert equal(sp.vstack([piece for piece, _ in pieces]), X)


def test_a_file_is_not_replaced_by_a_bad_one(tmp_path: Path) -> None:
    path = features.write_file(tmp_path / "train.pbr", ratings(10), np.ones(10))
    before = path.read_bytes()
    with pytest.raises(RecordIOError, match="10 rows and y has 9"):
        features.write_file(path, ratings(10), np.ones(9))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["train.pbr"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    X = ratings(10_000)
    path = tmp_path / "train.pbr"
    with (
        files_of_at_most(4096),
        pytest.raises(DataError, match=r"train\.pbr cannot be written: File too large"),
    ):
        features.write_file(path, X)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "write", [features.write_file, lambda path, X: list(features.write_part_files(path, X))]
)
def test_no_rows_are_refused(tmp_path: Path, write: object) -> None:
    with pytest.raises(DataError, match="There are no rows to write"):
        write(tmp_path / "x", ratings(0))
    assert list(tmp_path.iterdir()) == []


def test_a_bad_late_row_is_refused_before_the_first_part(tmp_path: Path) -> None:
    X = ratings(25)
    X.data[-1] = np.nan
    with pytest.raises(RecordIOError, match="X, row 24"):
        list(features.write_part_files(tmp_path, X, rows=10))
    with pytest.raises(RecordIOError, match="X is a list, not a matrix"):
        list(features.write_part_files(tmp_path, [[1, 0]], rows=10))
    with pytest.raises(DataError, match="A part cannot have 0 rows"):
        list(features.write_part_files(tmp_path, ratings(5), rows=0))
    assert list(tmp_path.iterdir()) == []


# --- S3 ------------------------------------------------------------------------------------------------


@pytest.fixture
def uri(local_aws: local.Server, request: pytest.FixtureRequest) -> str:
    storage.ensure_bucket("features", "us-east-1")
    return f"s3://features/{request.node.name}"


def test_a_channel_is_one_object(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X, y = ratings(100), np.arange(100)
    stored = features.write_channel(X, y, uri, name="test.pbr", progress=False)
    assert stored == f"{uri}/test.pbr"
    X_read, y_read = read(storage.download(stored, tmp_path / "x.pbr"))
    assert equal(X_read, X)
    np.testing.assert_array_equal(y_read, y)
    assert capsys.readouterr() == ("", "")

    assert features.write_channel(X, y, uri) == f"{uri}/train.pbr"
    assert "train.pbr" in capsys.readouterr().err


def test_parts_are_objects_and_those_of_an_earlier_attempt_go(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    X = ratings(25)
    storage.write_bytes(b"", f"{uri}/notes.txt")
    assert features.write_parts(X, uri, rows=5, progress=False) == 5
    assert capsys.readouterr() == ("", "")
    assert features.write_parts(X, uri, rows=10) == 3
    assert "3/3" in capsys.readouterr().err
    names = [stored.key.rpartition("/")[2] for stored in storage.list_objects(uri)]
    assert names == ["notes.txt", "part-00000.pbr", "part-00001.pbr", "part-00002.pbr"]
    pieces = [read(storage.download(f"{uri}/{name}", tmp_path / name))[0] for name in names[1:]]
    assert equal(sp.vstack(pieces), X)


def test_bad_rows_store_nothing(uri: str) -> None:
    X = ratings(25)
    X.data[-1] = np.inf
    with pytest.raises(RecordIOError, match="X, row 24"):
        features.write_parts(X, uri, rows=10)
    with pytest.raises(RecordIOError, match="X, row 24"):
        features.write_channel(X, np.ones(25), uri)
    assert storage.list_objects(uri) == []
