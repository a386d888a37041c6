"""The codec gives SDK v2's bytes, and gives back what it was given."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recordio_oracle import (
    LABELS,
    MAGIC,
    ROWS,
    SDK_FLOAT32,
    SDK_OTHER_TYPES,
    Record,
    csr,
    entry,
    field,
    framed,
    protobuf_written,
    read,
    shuffled_record,
    varint,
    written,
)

from lib import recordio
from lib.errors import RecordIOError
from lib.recordio import frames, writer

WIDE = csr([1, 2, 4, 0.5], [0, 127, 300_000, 2_000_000_000], [0, 3, 4], 2_100_000_000)
GOLDEN_INPUT = {
    "sparse, labels": (sp.csr_matrix(ROWS), LABELS),
    "sparse": (sp.csr_matrix(ROWS), None),
    "dense, labels": (ROWS, LABELS),
    "dense": (ROWS, None),
    "big indices": (WIDE, np.array([5, 4], np.float32)),
    "unsorted, a column twice, a stored zero": (csr([1, 0, 3], [3, 1, 1], [0, 3], 5), None),
    "lengths of two bytes": (sp.csr_matrix(np.arange(1, 41, dtype=np.float32)[None]), np.ones(1, np.float32)),
}


def same(left: sp.csr_matrix, right: sp.csr_matrix) -> bool:
    """Tell whether two matrices store the same entries."""
    return left.shape == right.shape and all(
        np.array_equal(getattr(left, part), getattr(right, part)) for part in ("indptr", "indices", "data")
    )


# --- strategies ----------------------------------------------------------------------------------------


@st.composite
def matrices(draw: st.DrawFn) -> sp.csr_matrix:
    """Sparse matrices of many shapes; stored zeros, empty rows and big indices among them."""
    n = draw(st.integers(1, 40))
    columns = draw(st.sampled_from([1, 2, 127, 128, 129, 16_384, 2_097_152, 2**31 - 1, 2**40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    counts = rng.integers(0, min(columns, draw(st.sampled_from([1, 3, 60]))) + 1, n)
    indices = [np.sort(rng.choice(min(columns, 500), count, replace=False)) for count in counts]
    spread = columns // min(columns, 500)
    indices = np.concatenate(indices) * spread if counts.sum() else np.empty(0, np.int64)
    values = rng.normal(size=len(indices)).astype(np.float32)
    values[rng.random(len(values)) < 0.1] = 0
    if draw(st.booleans()):  # numbers that look like the magic
        values[rng.random(len(values)) < 0.5] = np.frombuffer(MAGIC, "<f4")[0]
    return sp.csr_matrix((values, indices, np.concatenate(([0], np.cumsum(counts)))), shape=(n, columns))


def labels_for(X: sp.csr_matrix, labelled: bool) -> np.ndarray | None:
    return np.arange(X.shape[0], dtype=np.float32) / 2 if labelled else None


# --- the same bytes as SDK v2 --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SDK_FLOAT32)
def test_writes_the_bytes_that_sdk_v2_wrote(name: str) -> None:
    X, y = GOLDEN_INPUT[name]
    assert written(X, y).hex() == SDK_FLOAT32[name]


@pytest.mark.parametrize("name", SDK_FLOAT32)
def test_reads_what_sdk_v2_wrote(name: str) -> None:
    X, y = GOLDEN_INPUT[name]
    X_read, y_read = read(bytes.fromhex(SDK_FLOAT32[name]))
    assert X_read.shape == X.shape
    assert (sp.csr_matrix(X) != X_read).nnz == 0
    assert X_read.dtype == np.float32
    assert X_read.has_sorted_indices
    assert (y is None and y_read is None) or np.array_equal(y, y_read)


@pytest.mark.parametrize("name", SDK_OTHER_TYPES)
def test_reads_the_float64_and_int32_tensors_of_sdk_v2(name: str) -> None:
    expected = {
        "float64 sparse": (ROWS, LABELS),
        "float64 dense": (ROWS, LABELS),
        "int64 sparse": (np.array([[0, 7, 0], [-3, 0, 2**31 - 1]]), [5, -4]),
        "int64 dense": (np.array([[0, 7], [-3, 1]]), [5, -4]),
    }
    X, y = read(bytes.fromhex(SDK_OTHER_TYPES[name]))
    np.testing.assert_array_equal(X.toarray(), expected[name][0].astype(np.float32))
    np.testing.assert_array_equal(y, expected[name][1])
    assert X.dtype == y.dtype == np.float32


@settings(deadline=None)
@given(matrices(), st.booleans())
def test_writes_the_bytes_that_protobuf_writes(X: sp.csr_matrix, labelled: bool) -> None:
    y = labels_for(X, labelled)
    assert written(X, y) == protobuf_written(X, y)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.booleans())
def test_writes_dense_rows_as_protobuf_does(columns: int, n: int, labelled: bool) -> None:
    X = np.random.default_rng(columns).normal(size=(n, columns)).astype(np.float32)
    y = labels_for(X, labelled)
    assert written(X, y) == protobuf_written(X, y)


def test_protobuf_parses_what_is_written() -> None:
    data = written(WIDE, [5, 4])
    record = Record()
    payloads = list(recordio.records(data, framed=False))
    record.ParseFromString(bytes(payloads[0]))
    tensor = record.features["values"].float32_tensor
    assert list(tensor.keys) == [0, 127, 300_000]
    assert list(tensor.values) == [1, 2, 4]
    assert list(tensor.shape) == [2_100_000_000]
    assert list(record.label["values"].float32_tensor.values) == [5]
    assert len(payloads) == 2


# --- reading gives back what was written ---------------------------------------------------------------


@settings(deadline=None)
@given(matrices(), st.booleans())
def test_read_gives_back_what_was_written(X: sp.csr_matrix, labelled: bool) -> None:
    y = labels_for(X, labelled)
    X_read, y_read = read(written(X, y))
    assert same(X_read, X)
    assert (y is None and y_read is None) or np.array_equal(y, y_read)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 30))
def test_dense_rows_come_back_without_their_zeros(seed: int, n: int, columns: int) -> None:
    X = np.random.default_rng(seed).integers(-1, 2, (n, columns)).astype(np.float32)
    X_read, _ = read(written(X))
    assert same(X_read, sp.csr_matrix(X))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "int64", "float16", "float64", ">f4"])
def test_any_real_dtype_is_written_as_float32(dtype: str) -> None:
    X = np.array([[1, 0], [0, 1], [1, 1]])
    expected = written(X.astype(np.float32), X[:, 0].astype(np.float32))
    assert written(X.astype(dtype), X[:, 0].astype(dtype)) == expected


@pytest.mark.parametrize(
    "form", [sp.csc_matrix, sp.coo_matrix, sp.lil_matrix, sp.dok_matrix, sp.bsr_matrix, sp.csr_array]
)
def test_any_sparse_format_is_written_as_csr(form: Callable[[sp.csr_matrix], object]) -> None:
    X = sp.csr_matrix(ROWS)
    assert written(form(X), LABELS) == written(X, LABELS)


def test_a_sliced_matrix_is_written_as_its_own_rows() -> None:
    X = sp.random(50, 20, density=0.2, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    assert written(X[10:30]) == written(X)[slice(*recordio.offsets(written(X))[[10, 30]])]


def test_a_matrix_of_no_rows_writes_nothing() -> None:
    assert written(sp.csr_matrix((0, 5), dtype=np.float32), np.empty(0)) == b""
    assert written(np.empty((0, 5))) == b""


def test_fields_may_come_in_any_order() -> None:
    chance = random.Random(0)
    rng = np.random.default_rng(0)
    columns = 300
    for _ in range(80):
        kind = chance.choice("fdi")
        n = chance.randint(1, 5)
        sparse = chance.random() < 0.6
        X = rng.integers(-3, 4, (n, columns)) * (rng.random((n, columns)) < 0.05)
        data = b""
        for number, row in enumerate(X.tolist()):
            keys = np.flatnonzero(row).tolist() if sparse else None
            values = [row[key] for key in keys] if sparse else row
            data += framed(shuffled_record(chance, kind, values, keys, columns, number - 1))
        X_read, y = read(data)
        np.testing.assert_array_equal(X_read.toarray(), X)
        np.testing.assert_array_equal(y, np.arange(n) - 1)


def test_records_of_different_types_and_forms_may_be_mixed() -> None:
    chance = random.Random(1)
    data = framed(shuffled_record(chance, "d", [1.5], [2], 4, 1))
    data += framed(shuffled_record(chance, "i", [0, 7, 0, -2], None, 4, 2))
    data += written(sp.csr_matrix(ROWS[:2]), [3, 4])
    X, y = read(data)
    np.testing.assert_array_equal(X.toarray(), [[0, 0, 1.5, 0], [0, 7, 0, -2], ROWS[0], ROWS[1]])
    np.testing.assert_array_equal(y, [1, 2, 3, 4])


def test_keys_out_of_order_are_sorted_and_repeated_ones_added() -> None:
    X, _ = read(written(csr([1, 2, 3], [3, 1, 1], [0, 3], 5)))
    assert same(X, csr([5, 1], [1, 3], [0, 2], 5))


def test_sparse_records_without_a_shape_take_feature_dim() -> None:
    tensor = field(1, struct.pack("<f", 2)) + field(2, varint(3))
    data = framed(entry(1, field(2, tensor))) + framed(entry(1, field(2, b"")))
    X, _ = read(data, feature_dim=6)
    assert same(X, csr([2], [3], [0, 1, 1], 6))
    with pytest.raises(RecordIOError, match=r"record 0 at byte 0 .*width.*Give feature_dim"):
        read(data)


# --- streaming -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(matrices(), st.booleans(), st.integers(1, 60), st.sampled_from([4, 8, 100, 1000]))
def test_streaming_equals_the_whole(X: sp.csr_matrix, labelled: bool, rows: int, block: int) -> None:
    y = labels_for(X, labelled)
    data = written(X, y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "BLOCK_BYTES", block)
        patch.setattr(writer, "BLOCK_BYTES", block)
        assert written(X, y) == data
        batches = list(recordio.iter_batches(io.BytesIO(data), rows=rows))
        assert recordio.offsets(data)[-1] == len(data)
    assert [piece.shape[0] for piece, _ in batches[:-1]] == [rows] * (len(batches) - 1)
    assert same(sp.vstack([piece for piece, _ in batches], format="csr"), X)
    assert [labels is not None for _, labels in batches] == [labelled] * len(batches)
    if labelled:
        assert np.array_equal(np.concatenate([labels for _, labels in batches]), y)


def test_a_record_longer_than_a_block_is_read() -> None:
    X = sp.csr_matrix(np.ones((2, frames.BLOCK_BYTES // 4), np.float32))
    data = written(X)
    assert len(data) > 2 * frames.BLOCK_BYTES
    assert same(read(data)[0], X)
    assert len(recordio.offsets(data)) == 3


def test_files_that_give_few_bytes_at_a_time_are_read() -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 7))

    X, y = recordio.read(Trickle(written(ROWS, LABELS)))
    assert same(X, sp.csr_matrix(ROWS))
    assert np.array_equal(y, LABELS)


def test_many_rows_that_look_like_the_magic_are_told_apart() -> None:
    X = np.full((20_000, 3), np.frombuffer(MAGIC, "<f4")[0])
    X_read, _ = read(written(X))
    assert np.array_equal(X_read.toarray(), X)


# --- splitting -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(matrices(), st.integers(0, 3000))
def test_pieces_put_together_are_the_whole(X: sp.csr_matrix, spare: int) -> None:
    data = written(X)
    longest = int(np.diff(recordio.offsets(data)).max())
    pieces = recordio.split(data, longest + spare)
    assert b"".join(data[start:end] for start, end in pieces) == data
    assert all(end - start <= longest + spare for start, end in pieces)
    assert same(sp.vstack([read(data[start:end])[0] for start, end in pieces], format="csr"), X)


def test_pieces_are_as_large_as_they_can_be() -> None:
    data = written(ROWS)
    assert len(data) == 120
    assert recordio.split(data, 80) == [(0, 80), (80, 120)]
    assert recordio.split(data, 79) == [(0, 40), (40, 80), (80, 120)]
    assert recordio.split(data, 10**9) == [(0, 120)]


def test_a_record_larger_than_a_piece_is_refused() -> None:
    with pytest.raises(RecordIOError, match="Record 0 at byte 0 has 40 bytes, more than the 39 of a piece"):
        recordio.split(written(ROWS), 39)


def test_records_are_files_by_themselves() -> None:
    data = written(sp.csr_matrix(ROWS), LABELS)
    single = list(recordio.records(memoryview(data)))
    assert b"".join(single) == data
    assert [read(bytes(record))[1].tolist() for record in single] == [[3], [0], [-1.5]]


@pytest.mark.parametrize("data", [b"", b"not records", written(ROWS)[:-1], written(ROWS) + MAGIC])
def test_splitting_refuses_what_reading_refuses(data: bytes) -> None:
    with pytest.raises(RecordIOError) as of_split:
        recordio.split(data, 1000)
    with pytest.raises(RecordIOError) as of_read:
        read(data)
    assert str(of_split.value) == str(of_read.value)
