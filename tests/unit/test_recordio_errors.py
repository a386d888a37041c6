"""The codec refuses bad input before it writes, and bad files with a sentence that says where."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

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
    csr,
    entry,
    field,
    framed,
    read,
    varint,
    written,
)

from lib import recordio
from lib.errors import RecordIOError
from lib.recordio import frames

# --- bad input to write --------------------------------------------------------------------------------

NAN = float("nan")
BAD_INPUT = {
    "a list": ([[1, 2]], None, "X is a list, not a matrix"),
    "a vector": (np.ones(3), None, "X has 1 dimension"),
    "three dimensions": (np.ones((2, 2, 2)), None, "X has 3 dimension"),
    "no columns": (np.ones((2, 0)), None, r"no columns.*\(2, 0\)"),
    "objects": (np.array([["a", None]]), None, "X has dtype object"),
    "text": (np.array([["1", "2"]]), None, "X has dtype <U1"),
    "complex": (sp.csr_matrix([[1j]]), None, "X has dtype complex128"),
    "fewer labels": (ROWS, [1, 2], "X has 3 rows and y has 2 labels"),
    "labels in a column": (ROWS, np.ones((3, 1)), r"y has shape \(3, 1\)"),
    "ragged labels": (ROWS, [[1], [1, 2], 3], "y cannot be made an array"),
    "labels missing": (ROWS, [1, None, 2], "y has dtype object"),
    "a NaN label": (ROWS, [1, NAN, 2], "y, row 1 is nan, not a finite number"),
    "a NaN": (np.array([[1.0, 2], [3, NAN]]), None, "X, row 1, column 1 is nan"),
    "a sparse infinity": (csr([1, np.inf], [0, 4], [0, 1, 1, 2], 5), None, "X, row 2, column 4 is inf"),
    "too large": (np.array([[1e39]]), None, r"X, row 0, column 0 is 1e\+39, too large for float32"),
    "index too large": (csr([1, 1], [0, 2], [0, 1, 2], 5), None, "row 1, has column index 7, outside its 5"),
    "negative index": (csr([1, 1], [0, 2], [0, 1, 2], 5), None, "row 1, has column index -1, outside its 5"),
    "indptr too long": (csr([1, 1], [0, 2], [0, 1, 2], 5), None, "indptr does not rise from 0"),
    "bad csc": (sp.csc_matrix(ROWS), None, "not a valid csc matrix"),
}
BAD_INPUT["index too large"][0].indices[1] = 7
BAD_INPUT["negative index"][0].indices[1] = -1
BAD_INPUT["indptr too long"][0].indptr[2] = 3
BAD_INPUT["bad csc"][0].indices[0] = 1000


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_refused_before_anything_is_written(name: str) -> None:
    X, y, message = BAD_INPUT[name]
    file = io.BytesIO()
    with pytest.raises(RecordIOError, match=message):
        recordio.write(file, X, y)
    with pytest.raises(RecordIOError, match=message):
        recordio.check(X, y)
    assert file.getvalue() == b""


def test_a_late_bad_row_is_refused_before_anything_is_written() -> None:
    X = sp.csr_matrix(np.ones((100_000, 2), np.float32))
    X.data[-1] = NAN
    file = io.BytesIO()
    with pytest.raises(RecordIOError, match="X, row 99999, column 1 is nan"):
        recordio.write(file, X)
    assert file.getvalue() == b""


@pytest.mark.parametrize("mode", ["w", "rb"])
def test_write_needs_a_file_open_for_writing_in_binary_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.pbr"
    path.touch()
    with path.open(mode) as file, pytest.raises(RecordIOError, match=r'binary mode. Say open\(path, "wb"\)'):
        recordio.write(file, ROWS)
    with pytest.raises(RecordIOError, match="binary mode"):
        recordio.write(str(path), ROWS)


@pytest.mark.parametrize("mode", ["r", "wb"])
def test_read_needs_a_file_open_for_reading_in_binary_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.pbr"
    path.write_bytes(written(ROWS))
    with path.open(mode) as file, pytest.raises(RecordIOError, match=r'binary mode. Say open\(path, "rb"\)'):
        recordio.read(file)
    with pytest.raises(RecordIOError, match="binary mode"):
        recordio.read(str(path))


# --- bad files -----------------------------------------------------------------------------------------


def with_values(content: bytes, label: bytes = b"") -> bytes:
    return framed(entry(1, field(2, content)) + (entry(2, label) if label else b""))


ONE = field(1, struct.pack("<f", 1))
LABEL = field(2, ONE)
SPARSE = ONE + field(2, varint(2)) + field(3, varint(4))
GOOD = with_values(SPARSE, LABEL)
BAD_RECORDS = {
    "payload of nothing": (framed(b""), "has no features"),
    "label only": (framed(entry(2, LABEL)), "has no features"),
    "an empty value": (framed(entry(1, b"") + entry(2, LABEL)), "has no features"),
    "not protobuf": (framed(b"\xff" * 12), "is not a valid protobuf message"),
    "a field past its end": (framed(b"\x0a\x7f\x00\x00"), "is not a valid protobuf message"),
    "group wire type": (framed(b"\x0b\x0c"), "is not a valid protobuf message"),
    "field number 0": (framed(b"\x02\x00"), "is not a valid protobuf message"),
    "half a float": (with_values(field(1, bytes(6)), LABEL), "is not a valid protobuf message"),
    "an unfinished key": (
        with_values(ONE + field(2, b"\x80") + field(3, b"\x04"), LABEL),
        "is not a valid protobuf message",
    ),
    "an endless key": (
        with_values(ONE + field(2, b"\x80" * 10 + b"\x01") + field(3, b"\x04"), LABEL),
        "is not a valid protobuf message",
    ),
    "more keys": (
        with_values(ONE + field(2, b"\x01\x02") + field(3, b"\x04"), LABEL),
        "has not as many keys as values",
    ),
    "an index outside": (
        with_values(ONE + field(2, varint(9)) + field(3, b"\x04"), LABEL),
        "has index 9, outside its 4 columns",
    ),
    "an index of 64 bits": (
        with_values(ONE + field(2, varint(2**64 - 1)) + field(3, b"\x04"), LABEL),
        "has index -1, outside its 4 columns",
    ),
    "another width": (
        with_values(ONE + field(2, varint(2)) + field(3, b"\x05"), LABEL),
        "has 5 columns, the records before it have 4",
    ),
    "another dense width": (with_values(ONE, LABEL), "has 1 columns, the records before it have 4"),
    "a shape unlike the values": (
        with_values(ONE + field(3, b"\x04"), LABEL),
        "has not as many values as its shape says",
    ),
    "a shape of 0": (with_values(field(3, b"\x00"), LABEL), "has no columns"),
    "two dimensions": (
        with_values(ONE + field(3, b"\x01\x01"), LABEL),
        "holds a tensor of several dimensions",
    ),
    "NaN": (
        with_values(field(1, struct.pack("<f", NAN)) + field(2, b"\x01") + field(3, b"\x04"), LABEL),
        "holds nan in column 1, not a finite float32",
    ),
    "a NaN label": (
        with_values(SPARSE, field(2, field(1, struct.pack("<f", NAN)))),
        "has a label that is not a finite float32",
    ),
    "no label": (with_values(SPARSE), "has no label, the records before it have one"),
    "two labels": (with_values(SPARSE, field(2, field(1, bytes(8)))), "has more than one label"),
    "another name": (
        framed(entry(1, field(2, SPARSE), b"in0")),
        "holds the feature 'in0', where only 'values' can be read",
    ),
    "another label's name": (
        framed(entry(1, field(2, SPARSE)) + entry(2, LABEL, b"score")),
        "holds the label 'score', where only 'values' can be read",
    ),
    "a field beyond the record": (
        framed(bytes.fromhex("0a100a06") + b"values" + bytes.fromhex("120512050a" + "ff" * 9 + "01")),
        "is not a valid protobuf message",
    ),
    "no name": (framed(field(1, field(2, field(2, SPARSE)))), "holds a feature without a name"),
    "a name twice": (framed(entry(1, field(2, SPARSE)) * 2), "holds the feature 'values' twice"),
    "two tensors": (
        framed(entry(1, field(2, SPARSE) + field(3, b""))),
        "holds two tensors as its feature",
    ),
    "an image": (framed(entry(1, field(9, field(1, b"PNG")))), "holds bytes as its feature, not numbers"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_a_bad_record_is_refused_and_named(name: str) -> None:
    bad, message = BAD_RECORDS[name]
    with pytest.raises(RecordIOError) as error:
        read(GOOD * 3 + bad + GOOD)
    assert f"record 3 at byte {3 * len(GOOD)} {message}" in str(error.value)


def test_a_bad_record_of_a_later_block_is_counted_from_the_file_s_start(tmp_path: Path) -> None:
    n = 2 * frames.BLOCK_BYTES // len(GOOD)
    path = tmp_path / "train.pbr"
    path.write_bytes(GOOD * n + BAD_RECORDS["an index outside"][0])
    with path.open("rb") as file, pytest.raises(RecordIOError) as error:
        recordio.read(file)
    where = f"{path}: record {n} at byte {n * len(GOOD):,}"
    assert str(error.value) == f"{where} has index 9, outside its 4 columns. Indices count from 0."


def test_a_label_after_records_without_is_refused() -> None:
    with pytest.raises(
        RecordIOError, match="record 3 at byte 120 has a label, the records before it have none"
    ):
        read(written(ROWS) + written(ROWS, LABELS))


def test_another_width_than_feature_dim_is_refused() -> None:
    with pytest.raises(RecordIOError, match="record 0 at byte 0 has 4 columns, feature_dim is 5"):
        read(written(ROWS), feature_dim=5)
    with pytest.raises(RecordIOError, match="feature_dim is 0"):
        read(written(ROWS), feature_dim=0)
    with pytest.raises(RecordIOError, match="A batch cannot have 0 rows"):
        next(recordio.iter_batches(io.BytesIO(written(ROWS)), rows=0))


FOREIGN = {
    "gzip": (gzip.compress(b"x"), "it is gzip-compressed"),
    "Parquet": (b"PAR1" + bytes(20), "it is a Parquet file"),
    "zip": (b"PK\x03\x04" + bytes(20), "it is a zip archive"),
    "text": (b"customer_id\tproduct_id\n", "it is text"),
    "short text": (b"a", "it is text"),
    "JSON": (b'{"instances": []}', "it is text"),
    "noise": (bytes(range(128, 228)), "it begins otherwise"),
    "empty": (b"", "is empty: it holds no records"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_refused(name: str) -> None:
    data, message = FOREIGN[name]
    with pytest.raises(RecordIOError, match=message):
        read(data)


@pytest.mark.parametrize("missing", range(1, 40))
def test_a_truncated_file_is_refused(missing: int) -> None:
    data = written(ROWS)
    ends = "ends inside its first 8 bytes" if missing > 32 else f"lacks {missing} of its bytes"
    with pytest.raises(RecordIOError, match=f"truncated: record 2 at byte 80 {ends}"):
        read(data[:-missing])


def test_a_gap_between_records_is_refused() -> None:
    with pytest.raises(RecordIOError, match="no record begins at byte 40, where record 1 should"):
        read(written(ROWS[:1]) + bytes(4) + written(ROWS[1:]))


def test_an_impossible_length_is_refused() -> None:
    data = written(ROWS) + MAGIC + struct.pack("<I", 2**30) + bytes(100)
    with pytest.raises(RecordIOError, match="record 3 at byte 120 says it has 1,073,741,824 bytes"):
        read(data)


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from([*SDK_FLOAT32.values(), *SDK_OTHER_TYPES.values()]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from([None, 4]),
)
def test_damaged_bytes_are_read_or_refused_but_nothing_else(
    golden: str, damages: list[tuple[int, int]], feature_dim: int | None
) -> None:
    data = bytearray.fromhex(golden)
    for place, byte in damages:
        data[place % len(data)] = byte
    try:
        X, y = read(bytes(data), feature_dim)
    except RecordIOError:
        return
    assert np.isfinite(X.data).all()
    assert y is None or len(y) == X.shape[0]
    assert X.indices.size == 0 or 0 <= X.indices.min() <= X.indices.max() < X.shape[1]


@pytest.mark.parametrize("loaded", [False, True])
def test_a_width_of_0_is_refused_by_both_decoders(loaded: bool) -> None:
    """Whether the kernels are loaded makes no difference."""
    if loaded:
        recordio.prepare()
    width_0 = framed(entry(1, field(2, field(3, b"\x00"))))
    with pytest.raises(RecordIOError, match=r"no columns|has no features"):
        read(width_0 * 3)


def test_long_rows_of_a_small_file_take_memory_as_the_file_has_it() -> None:
    content = written(np.ones((2, 500_000), np.float32))
    (X, _), *more = recordio.iter_batches(io.BytesIO(content))
    assert (X.shape, more) == ((2, 500_000), [])


def test_an_indptr_that_wraps_around_is_refused() -> None:
    X = sp.csr_matrix((43, 5), dtype=np.float32)
    X.indptr = (np.arange(44) * 100_000_000).astype(np.int64).astype(np.int32)
    X.indptr[-1] = 0
    with pytest.raises(RecordIOError, match="indptr does not rise"):
        written(X)
