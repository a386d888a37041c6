"""The compiled loops agree with the careful decoder on everything, and never leave their arrays."""

from __future__ import annotations

import ctypes
import io
import mmap
import random
import struct
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from recordio_oracle import LABELS, MAGIC, ROWS, csr, entry, field, framed, shuffled_record, written

from lib import recordio
from lib.errors import RecordIOError
from lib.recordio import frames, kernels, reader, writer
from lib.recordio.layout import LABEL_SIZE
from lib.recordio.protobuf import MARGIN

Outcome = str | tuple

PAGE = mmap.PAGESIZE
PROT_NONE = 0


@contextmanager
def carefully() -> Iterator[None]:
    """Read without compiled loops."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (frames, reader):
            patch.setattr(module, "is_worth_compiling", lambda size: False)
        yield


@contextmanager
def blocks_of(size: int) -> Iterator[None]:
    """Read and write in blocks of another size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "BLOCK_BYTES", size)
        patch.setattr(frames, "LAST_BYTES", size // 4)
        patch.setattr(writer, "BLOCK_BYTES", size)
        patch.setattr(writer, "BLOCK_NUMBERS", max(1, size // 8))
        yield


def outcome(data: bytes, **options: object) -> Outcome:
    """Return what reading gives, as something that can be compared: the arrays or the error's text."""
    try:
        X, y = recordio.read(io.BytesIO(data), **options)
    except RecordIOError as error:
        return str(error)
    arrays = (X.indptr, X.indices, X.data, y if y is not None else "none")
    return X.shape, [array if isinstance(array, str) else (array.dtype, array.tolist()) for array in arrays]


def careful_outcome(data: bytes, **options: object) -> Outcome:
    with carefully():
        return outcome(data, **options)


class Pieces:
    """A file that can only be read, and gives odd numbers of bytes."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, 1001))


# --- the same as the careful decoder -------------------------------------------------------------------


@st.composite
def rows(draw: st.DrawFn) -> sp.csr_matrix | np.ndarray:
    """Sparse and dense rows with short and long records, zeros, and keys out of order among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(1, 60))
    if draw(st.booleans()):
        return rng.integers(-1, 2, (n, draw(st.integers(1, 200)))).astype(np.float32)
    columns = draw(st.sampled_from([1, 2, 127, 128, 129, 300, 70_000, 3_000_000, 2**28, 2**31 - 1, 2**40]))
    counts = rng.integers(0, draw(st.sampled_from([1, 3, 40, 300])) + 1, n)
    indices = rng.integers(0, columns, counts.sum())
    indptr = np.concatenate(([0], np.cumsum(counts)))
    values = rng.integers(-1, 2, len(indices)).astype(np.float32)
    X = sp.csr_matrix((values, indices, indptr), shape=(n, columns))
    if draw(st.booleans()):
        X.sum_duplicates()
    return X


@settings(deadline=None, max_examples=200)
@given(
    rows(), st.booleans(), st.booleans(), st.integers(1, 3), st.sampled_from([64, 500, 5000]), st.booleans()
)
def test_both_ways_of_reading_give_the_same(
    X: sp.csr_matrix | np.ndarray, labelled: bool, keep_zeros: bool, threads: int, block: int, whole: bool
) -> None:
    y = np.arange(X.shape[0]) if labelled else None
    data = written(X, y)
    expected = careful_outcome(data, keep_zeros=keep_zeros)
    with blocks_of(block):
        assert outcome(data, keep_zeros=keep_zeros, threads=threads) == expected
        file = Pieces(data) if whole else io.BytesIO(data)
        batches = list(recordio.iter_batches(file, rows=7, keep_zeros=keep_zeros, threads=threads))
    assert [batch.shape[0] for batch, _ in batches[:-1]] == [7] * (len(batches) - 1)
    together = sp.vstack([batch for batch, _ in batches], format="csr")
    assert (together.shape, together.indices.tolist(), together.data.tolist()) == (
        expected[0],
        expected[1][1][1],
        expected[1][2][1],
    )


@settings(deadline=None, max_examples=60)
@given(rows(), st.booleans(), st.sampled_from([64, 500, 5000]))
def test_the_bytes_do_not_depend_on_threads_and_blocks(
    X: sp.csr_matrix | np.ndarray, labelled: bool, block: int
) -> None:
    y = np.arange(X.shape[0]) if labelled else None
    expected = written(X, y)
    with blocks_of(block):
        for threads in (1, 2, 3):
            file = io.BytesIO()
            recordio.write(file, X, y, threads=threads)
            assert file.getvalue() == expected


def test_zeros_of_dense_records_are_kept_if_asked_for() -> None:
    for data in (written(ROWS, LABELS), written(np.tile(ROWS, (30_000, 1)))):
        X, _ = recordio.read(io.BytesIO(data), keep_zeros=True)
        assert X.nnz == X.shape[0] * X.shape[1]
        assert np.array_equal(X.toarray()[:3], ROWS)
        assert recordio.read(io.BytesIO(data))[0].nnz == X.nnz // 3
        assert careful_outcome(data, keep_zeros=True) == outcome(data, keep_zeros=True)


def test_unusual_records_among_usual_ones_are_read() -> None:
    chance = random.Random(3)
    usual = written(sp.csr_matrix(ROWS), LABELS)
    unusual = framed(shuffled_record(chance, "d", [1.5], [2], 4, 1))
    data = b"".join(usual * chance.randint(1, 30) + unusual for _ in range(20))
    expected = careful_outcome(data)
    for block in (100, 1000, 10_000):
        with blocks_of(block):
            assert outcome(data, threads=2) == expected


def test_a_first_record_that_misleads_about_the_width_does_not_change_it() -> None:
    two_pieces = field(1, struct.pack("<2f", 1, 2)) * 2
    misleading = framed(entry(1, field(2, two_pieces)))
    narrow = written(np.ones((50, 2)))
    data = misleading + narrow
    with blocks_of(len(data)):
        for threads in (1, 2, 3):
            assert outcome(data, threads=threads).startswith("the data: record ")
            assert "has 2 columns, the records before it have 4" in outcome(data, threads=threads)
            assert outcome(misleading + written(np.ones((50, 4))), threads=threads)[0] == (51, 4)


def test_records_much_longer_than_a_block_do_not_disturb_those_before_them() -> None:
    rng = np.random.default_rng(0)
    parts = [written(sp.random(200, 5000, density=d, format="csr", rng=rng)) for d in (0.001, 0.9, 0.001) * 3]
    data = b"".join(parts)
    expected = careful_outcome(data)
    with blocks_of(3000):
        assert outcome(data, threads=2) == expected
        X, _ = recordio.read(Pieces(data), threads=2)
    assert X.indices.tolist() == expected[1][1][1]


def test_more_entries_than_int32_can_count_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    X = sp.random(500, 90, density=0.2, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    monkeypatch.setattr(reader, "LARGEST_INT32", 100)
    with blocks_of(1000):
        X_read, _ = recordio.read(io.BytesIO(written(X)), threads=2)
    assert (X_read != X).nnz == 0


def test_files_are_read_from_where_they_stand_and_to_their_end() -> None:
    data = written(ROWS, LABELS)
    file = io.BytesIO(b"12345" + data)
    file.seek(5)
    X, _ = recordio.read(file)
    assert np.array_equal(X.toarray(), ROWS)
    assert file.tell() == len(data) + 5


def test_a_batch_is_not_changed_by_the_next_ones() -> None:
    X = sp.random(4000, 90, density=0.2, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    with blocks_of(1000):
        batches = list(recordio.iter_batches(io.BytesIO(written(X)), rows=33, threads=2))
    assert (sp.vstack([batch for batch, _ in batches]) != X).nnz == 0


def test_reading_that_is_given_up_leaves_no_threads() -> None:
    before = threading.active_count()
    with blocks_of(1000):
        batches = recordio.iter_batches(io.BytesIO(written(np.tile(ROWS, (3000, 1)))), rows=10, threads=3)
        next(batches)
        batches.close()
    assert threading.active_count() == before


def test_memory_is_bounded_when_streaming() -> None:
    X = sp.csr_matrix(np.eye(1000, dtype=np.float32))
    once = written(X, np.ones(1000))
    times = 2000

    class Endless:
        left = times * len(once)
        place = 0

        def read(self, size: int) -> bytes:
            size = min(size, self.left, len(once) - self.place)
            piece = once[self.place : self.place + size]
            self.left -= size
            self.place = (self.place + size) % len(once)
            return piece

        def write(self, piece: memoryview) -> int:
            return len(piece)

    tracemalloc.start()
    count = sum(X.shape[0] for X, _ in recordio.iter_batches(Endless(), threads=2))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 1000 * times
    assert peak < times * len(once) / 2


def test_importing_and_reading_a_small_file_does_not_load_the_compiler() -> None:
    program = (
        "import io, sys; from lib import recordio; "
        f"recordio.read(io.BytesIO({written(ROWS, LABELS)!r})); "
        "print([name for name in ('numba', 'pyarrow', 'lib.recordio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "['lib.recordio']\n"), done.stderr


def test_preparing_says_whether_it_compiled() -> None:
    recordio.prepare()
    seconds = recordio.prepare()
    assert seconds is None or seconds >= 0


# --- damage --------------------------------------------------------------------------------------------


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Flip bits, overwrite bytes, cut pieces out, or cut the end off."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        place = chance.randrange(len(changed))
        kind = chance.random()
        if kind < 0.4:
            changed[place] ^= 1 << chance.randrange(8)
        elif kind < 0.8:
            changed[place] = chance.choice([0, 1, 0x0A, 0x12, 0x1A, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        elif kind < 0.9:
            del changed[place : place + chance.choice([1, 4, 8])]
        else:
            del changed[place:]
        if not changed:
            break
    return bytes(changed)


def samples() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    wide = sp.random(8, 3000, density=0.01, format="csr", dtype=np.float32, rng=rng)
    return {
        "two features, labels": written(csr([1] * 16, [3, 900] * 8, range(0, 17, 2), 1000), np.ones(8)),
        "two features": written(csr([1] * 16, [3, 200_000] * 8, range(0, 17, 2), 300_000)),
        "wide, labels": written(wide, np.ones(8)),
        "dense, labels": written(np.tile(ROWS, (3, 1)), np.ones(9)),
        "dense": written(rng.normal(size=(5, 60))),
        "empty rows": written(sp.csr_matrix((6, 5), dtype=np.float32), np.ones(6)),
        "unsorted": written(csr([1, 2, 3] * 4, [3, 1, 1] * 4, range(0, 13, 3), 5)),
    }


@pytest.mark.parametrize("name", samples())
def test_damaged_files_have_the_same_fate_in_both_ways_of_reading(name: str) -> None:
    chance = random.Random(name)
    good = samples()[name]
    refused = 0
    for _ in range(700):
        data = damaged(good, chance)
        options = {"keep_zeros": chance.random() < 0.3, "feature_dim": chance.choice([None, None, 5, 1000])}
        expected = careful_outcome(data, **options)
        assert outcome(data, threads=1, **options) == expected
        in_parts = outcome(data, threads=3, **options)
        assert isinstance(in_parts, str) == isinstance(expected, str)
        refused += isinstance(expected, str)
    assert refused > 100


class Guarded:
    """Memory between two pages that cannot be touched: the process dies if anything passes its ends."""

    def __init__(self, size: int) -> None:
        self.pages = -(-size // PAGE)
        self.map = mmap.mmap(-1, (self.pages + 2) * PAGE)
        self.bytes = np.frombuffer(self.map, np.uint8)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for page in (0, self.pages + 1):
            address = self.bytes.ctypes.data + page * PAGE
            assert protect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), PROT_NONE) == 0

    def at_the_end(self, size: int) -> np.ndarray:
        """Return so many bytes, of which the last is the last before the page behind."""
        end = (self.pages + 1) * PAGE
        return self.bytes[end - size : end]

    def at_the_begin(self, size: int) -> np.ndarray:
        """Return so many bytes, of which the first is the first behind the page before."""
        return self.bytes[PAGE : PAGE + size]


@pytest.mark.parametrize("name", samples())
@pytest.mark.parametrize("side", [Guarded.at_the_end, Guarded.at_the_begin])
def test_decoding_damaged_records_stays_inside_its_arrays(
    name: str, side: Callable[[Guarded, int], np.ndarray]
) -> None:
    chance = random.Random(name)
    good = samples()[name]
    memory, into = Guarded(4 * PAGE), [Guarded(2 * PAGE) for _ in range(4)]
    starts = np.empty(100, np.int64)
    columns = recordio.read(io.BytesIO(good))[0].shape[1]
    for _ in range(3000):
        content = damaged(good, chance) if chance.random() < 0.9 else good
        data = side(memory, len(content) + MARGIN)
        data[: len(content)] = np.frombuffer(content, np.uint8)
        data[len(content) :] = chance.choice([0, 0x80, 0xFF])
        count, end, _ = kernels.scanner()(data[: len(content)], starts)
        assert 0 <= end <= len(content)
        room = chance.choice([0, 1, 5, 400])
        row_ends, keys, values, labels = (
            side(array, 4 * size).view(dtype)
            for array, size, dtype in zip(
                into, (count, room, room, count), (np.int32, np.int32, np.uint32, np.uint32), strict=True
            )
        )
        entries, found = kernels.decoder()(
            data,
            starts[:count],
            chance.choice([columns, columns, columns, 1, 2**31 - 1]),
            chance.random() < 0.5,
            chance.random() < 0.5,
            row_ends,
            keys,
            values,
            labels,
        )
        assert 0 <= entries <= room
        assert found in (kernels.ORDERED, kernels.UNORDERED, kernels.UNUSUAL)


@pytest.mark.parametrize("name", samples())
@pytest.mark.parametrize("labelled", [True, False])
def test_decoding_a_record_that_ends_anywhere_stays_inside_the_data(name: str, labelled: bool) -> None:
    memory = Guarded(PAGE)
    arrays = [np.empty(1000, dtype) for dtype in (np.int32, np.int32, np.uint32, np.uint32)]
    payload = bytes(next(recordio.records(samples()[name], framed=False)))
    for size in range(len(payload)):
        content = framed(payload[:size])
        for rest in (bytes(MARGIN), b"\xff" * MARGIN, payload[size:].ljust(MARGIN, b"\0")[:MARGIN]):
            data = memory.at_the_end(len(content) + MARGIN)
            data[:] = np.frombuffer(content + rest, np.uint8)
            _, found = kernels.decoder()(data, np.zeros(1, np.int64), 1000, labelled, False, *arrays)
            assert found == kernels.UNUSUAL or size == len(payload) - LABEL_SIZE  # without its label


@settings(deadline=None, max_examples=150)
@given(rows().filter(sp.issparse), st.booleans())
def test_encoding_stays_inside_its_buffer(X: sp.csr_matrix, labelled: bool) -> None:
    y = np.ones(X.shape[0], np.float32) if labelled else None
    guarded = Guarded(1 << 18)

    class Buffer:
        def reserve(self, size: int) -> np.ndarray:
            return guarded.at_the_end(size)

    encode = writer._sparse_encoding(X, y)
    assert bytes(encode(0, X.shape[0], Buffer())) == written(X, y)


@pytest.mark.parametrize("columns", [127, 2**7 + 1, 2**14, 2**21, 2**28, 2**28 + 1, 2**35, 2**56, 2**62])
def test_keys_of_every_size_are_written_and_read(columns: int) -> None:
    keys = np.array([0, columns // 2, columns - 1])
    X = sp.csr_matrix((np.ones(3, np.float32), keys, [0, 1, 1, 3]), shape=(3, columns))
    X_read, _ = recordio.read(io.BytesIO(written(X)))
    assert X_read.indices.tolist() == keys.tolist()
    assert X_read.shape == X.shape


def test_values_that_look_like_the_magic_are_no_records() -> None:
    X = np.full((20_000, 3), np.frombuffer(MAGIC, "<f4")[0])
    with blocks_of(1000):
        assert np.array_equal(recordio.read(io.BytesIO(written(X)), threads=2)[0].toarray(), X)
