"""Arrow tables and streams become the same bytes as the matrices they hold."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recordio_oracle import written

from lib import recordio
from lib.errors import RecordIOError
from lib.recordio import arrow

RATINGS = pa.table(
    {
        "customer": pa.array([0, 2, 1], pa.int64()),
        "video": pa.array([1, 0, 1], pa.int16()),
        "stars": pa.array([5, 3, 4], pa.float32()),
    }
)
LISTS = pa.table(
    {
        "indices": pa.array([[0, 7], [], [3]], pa.list_(pa.int32())),
        "values": pa.array([[1.5, 2], [], [-1]], pa.list_(pa.float32())),
        "stars": [5, 3, 4],
    }
)


def as_recordio(data: object, **options: object) -> bytes:
    file = io.BytesIO()
    recordio.write_arrow(file, data, **options)
    return file.getvalue()


def test_columns_of_integers_become_one_hot() -> None:
    X = sp.csr_matrix([[1, 0, 0, 0, 1], [0, 0, 1, 1, 0], [0, 1, 0, 0, 1]], dtype=np.float32)
    data = as_recordio(RATINGS, one_hot={"customer": 3, "video": 2}, label="stars")
    assert data == written(X, [5, 3, 4])


def test_columns_of_lists_become_rows() -> None:
    X = sp.csr_matrix((np.array([1.5, 2, -1], np.float32), [0, 7, 3], [0, 2, 2, 3]), shape=(3, 9))
    options = {"indices": "indices", "feature_dim": 9}
    assert as_recordio(LISTS, values="values", label="stars", **options) == written(X, [5, 3, 4])
    X.data[:] = 1
    assert as_recordio(LISTS, **options) == written(X)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32),
    st.sampled_from([pa.int32(), pa.int64(), pa.uint16(), pa.uint64()]),
    st.sampled_from([pa.float32(), pa.float64(), pa.int8()]),
    st.sampled_from(["list", "large", "fixed", "fixed 0"]),
    st.integers(1, 3),
)
def test_any_form_of_list_in_any_batches_gives_the_bytes_of_the_matrix(
    seed: int, index: pa.DataType, number: pa.DataType, form: str, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    n, columns = int(rng.integers(1, 50)), 200
    width = {"fixed": 3, "fixed 0": 0}.get(form)
    counts = rng.integers(0, 5, n) if width is None else np.full(n, width)
    make = {"list": pa.list_, "large": pa.large_list}.get(form, lambda kind: pa.list_(kind, width))
    keys = [rng.integers(0, columns, count).tolist() for count in counts]
    values = [rng.integers(-9, 9, count).tolist() for count in counts]
    table = pa.table({"k": pa.array(keys, make(index)), "v": pa.array(values, make(number))})
    indptr = np.concatenate(([0], np.cumsum(counts)))
    flat = np.concatenate(values).astype(np.float32), np.concatenate(keys).astype(np.int32)
    X = sp.csr_matrix((*flat, indptr), shape=(n, columns))
    options = {"indices": "k", "values": "v", "feature_dim": columns, "threads": threads}
    assert as_recordio(table, **options) == written(X)
    first = int(rng.integers(0, n))
    assert as_recordio(table.slice(first), **options) == written(X[first:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrow, "BATCH_ROWS", 7)
        assert as_recordio(table.combine_chunks().to_batches()[0], **options) == written(X)
        assert as_recordio(table.to_reader(max_chunksize=11), **options) == written(X)


def test_a_stream_is_written_as_it_comes_and_its_rows_are_counted() -> None:
    file = io.BytesIO()
    sizes = []

    def stream() -> object:
        for batch in RATINGS.to_batches(max_chunksize=1):
            sizes.append(len(file.getvalue()))
            yield batch

    assert recordio.write_arrow(file, stream(), one_hot={"customer": 3, "video": 2}) == 3
    assert sizes[0] < sizes[1] < sizes[2]
    assert recordio.write_arrow(file, [], one_hot={"customer": 3}) == 0


BAD = {
    "neither": (RATINGS, {}, "needs either indices or one_hot"),
    "both": (RATINGS, {"indices": "a", "one_hot": {"b": 1}}, "needs either indices or one_hot"),
    "no width": (LISTS, {"indices": "indices"}, "needs feature_dim"),
    "missing": (
        RATINGS,
        {"one_hot": {"film": 3}},
        "0 columns named `film`.*They have customer, video, stars",
    ),
    "too large": (RATINGS, {"one_hot": {"customer": 2}}, "`customer`, row 1, is 2, outside 0 to 1"),
    "fractions": (RATINGS, {"one_hot": {"stars": 9}}, "`stars` holds float32, not integers"),
    "no lists": (RATINGS, {"indices": "video", "feature_dim": 9}, "`video` has the type int16, not lists"),
    "outside": (LISTS, {"indices": "indices", "feature_dim": 7}, "row 0, has column index 7, outside its 7"),
    "null": (
        pa.table({"a": pa.array([1, None])}),
        {"one_hot": {"a": 3}},
        "The column `a`, row 1, is null",
    ),
    "null in a list": (
        pa.table({"a": pa.array([[1], [None]])}),
        {"indices": "a", "feature_dim": 3},
        "The column `a` has nulls in its lists",
    ),
    "text": (pa.table({"a": ["x"]}), {"one_hot": {"a": 3}}, "`a` holds string, not numbers"),
    "float indices": (
        pa.table({"a": [[1.0]]}),
        {"indices": "a", "feature_dim": 3},
        "`a` holds float64, not integers",
    ),
    "other lengths": (
        pa.table({"a": [[1], [2]], "b": [[1.0], [1.0, 2.0]]}),
        {"indices": "a", "values": "b", "feature_dim": 3},
        "Row 1 has 1 `a` and 2 `b`",
    ),
    "a NaN": (
        pa.table({"a": [[1], [2]], "b": [[1.0], [float("nan")]]}),
        {"indices": "a", "values": "b", "feature_dim": 3},
        "X, row 1, column 2 is nan",
    ),
    "an infinite label": (
        pa.table({"a": [1, 1], "b": [0, float("inf")]}),
        {"one_hot": {"a": 3}, "label": "b"},
        "y, row 1 is inf",
    ),
    "a huge unsigned index": (
        pa.table({"a": pa.array([[2**64 - 1]], pa.list_(pa.uint64()))}),
        {"indices": "a", "feature_dim": 3},
        "row 0, has column index -1, outside",
    ),
    "no batches": ([1], {"one_hot": {"a": 3}}, "The data hold a int, not an Arrow record batch"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_refused(name: str) -> None:
    data, options, message = BAD[name]
    file = io.BytesIO()
    with pytest.raises(RecordIOError, match=message):
        recordio.write_arrow(file, data, **options)
    assert file.getvalue() == b""


def test_rows_are_counted_from_the_first_batch() -> None:
    with pytest.raises(RecordIOError, match="`customer`, row 1, is 2"):
        recordio.write_arrow(io.BytesIO(), RATINGS.to_batches(max_chunksize=1), one_hot={"customer": 2})
