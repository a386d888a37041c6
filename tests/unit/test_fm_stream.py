"""Training from files and matrices, held or on disk; threads; what is refused at the door; memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from lib import recordio
from lib.errors import DataError, ModelError, ParameterError
from lib.fm import memory
from lib.fm.ahead import made_ahead
from lib.fm.blocks import Planner, cut
from lib.fm.checks import checked_examples
from lib.fm.crew import run_together
from lib.fm.fit import Training
from lib.fm.hyperparameters import validate
from lib.fm.layout import scratch

FEATURES = 40
GIVEN = {
    "feature_dim": FEATURES,
    "num_factors": 5,
    "predictor_type": "regressor",
    "mini_batch_size": 30,
    "epochs": 3,
    "factors_lr": 0.01,
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Let even small data be several blocks."""
    monkeypatch.setattr("lib.fm.blocks._BLOCK_ENTRIES", 200)


def examples(n: int, *, weighted: bool = False) -> tuple[sparse.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(3)
    columns = np.stack([rng.integers(0, 25, n), rng.integers(25, FEATURES, n)], 1)
    values = rng.normal(0, 1, 2 * n) if weighted else np.ones(2 * n)
    arrays = (values.astype(np.float32), columns.ravel().astype(np.int32), np.arange(0, 2 * n + 1, 2))
    return sparse.csr_matrix(arrays, (n, FEATURES)), rng.integers(1, 6, n).astype(np.float32)


def write(folder: Path, X: sparse.csr_matrix, y: np.ndarray, cuts: list[int]) -> list[Path]:
    paths = []
    for first, last in zip([0, *cuts], [*cuts, len(y)], strict=True):
        paths.append(folder / f"part-{len(paths)}")
        with paths[-1].open("wb") as file:
            recordio.write(file, X[first:last], y[first:last])
    return paths


def bits(training: Training) -> bytes:
    ended = [report for report in training if report.ended]
    model = training.model()
    measured = np.array([report.metrics["mse"] for report in ended])
    return b"".join([model.factors.tobytes(), model.linear.tobytes(), measured.tobytes()])


@pytest.mark.parametrize("weighted", [False, True], ids=["ones", "values"])
@pytest.mark.parametrize("n", [29, 300, 1001])
def test_files_and_matrix_held_or_on_disk_give_the_same_bits(tmp_path, n, weighted):
    X, y = examples(n, weighted=weighted)
    hyperparameters = validate(GIVEN)
    paths = write(tmp_path, X, y, [n // 5, n // 2])  # batches span files
    trainings = [
        Training(X, y, hyperparameters, threads=1),
        Training.from_files(paths, hyperparameters),
        Training.from_files(paths, hyperparameters, memory_bytes=0, threads=2),
        Training(X, y, hyperparameters, memory_bytes=4000),
    ]
    assert len({bits(training) for training in trainings}) == 1
    for training in trainings:
        assert (training.records, training.batches, training.updates) == (n, -(-n // 30), 3 * -(-n // 30))
    held = [training._examples.held_bytes > 0 for training in trainings]
    spilled = [training._examples.spilled_bytes > 0 for training in trainings]
    assert held[:3] == [True, True, False]
    assert spilled[:3] == [False, False, True]
    if n == 1001:
        assert held[3]
        assert spilled[3]


def test_block_size_does_not_change_a_bit(monkeypatch):
    X, y = examples(1001, weighted=True)
    found = set()
    for entries in (1, 100, 1 << 20):
        monkeypatch.setattr("lib.fm.blocks._BLOCK_ENTRIES", entries)
        found.add(bits(Training(X, y, validate(GIVEN))))
    assert len(found) == 1


@pytest.mark.parametrize("predictor_type", ["regressor", "binary_classifier"])
@pytest.mark.parametrize("batch", [3, 100, 5000])
def test_threads_do_not_change_a_bit_of_a_training(monkeypatch, batch, predictor_type):
    monkeypatch.setattr("lib.fm.crew._WAIT_SECONDS", 1e-12)  # several threads even for small batches
    X, y = examples(700)
    hyperparameters = validate(GIVEN | {"mini_batch_size": batch, "predictor_type": predictor_type})
    labels = y if predictor_type == "regressor" else (y > 3).astype(np.float32)
    found = []
    for threads in (1, 2, 3, 4):
        training = Training(X, labels, hyperparameters, threads=threads)
        list(training)
        found.append(training._state.table.tobytes() + training._state.bias.tobytes())
    assert len(set(found)) == 1


def test_the_first_epoch_may_be_left_and_begun_again(tmp_path):
    X, y = examples(1000)
    training = Training.from_files(write(tmp_path, X, y, [500]), validate(GIVEN))
    assert training.records is None
    assert training.batches is None
    assert next(iter(training)).records == 30
    reports = [report for report in training.epoch() if report.ended]
    assert reports[0].records == training.records == 1000


def test_reports_count_rows_and_batches_over_blocks():
    X, y = examples(1001)
    training = Training(X, y, validate(GIVEN | {"batch_metrics_publish_interval": 7, "epochs": 2}))
    reports = list(training)
    published = [report.batch for report in reports if training.publishes(report)]
    assert published == [0, 7, 14, 21, 28] * 2
    assert [report.records for report in reports if report.ended] == [1001, 1001]
    assert all(report.records == min(1001, 30 * (report.batch + 1)) for report in reports)


def test_outputs_are_those_of_the_model():
    X, y = examples(700, weighted=True)
    training = Training(X, y, validate(GIVEN), threads=2)
    list(training)
    found = training.outputs(X)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, training.model().outputs(X), atol=2e-5)
    assert training.outputs(X[:0]).shape == (0,)
    assert training.outputs(X[5:6])[0] == found[5]


def test_other_data_continue_where_the_first_ended():
    X, y = examples(600)
    whole = Training(X, y, validate(GIVEN | {"epochs": 1}))
    parts = Training(X[:300], y[:300], validate(GIVEN | {"epochs": 1}))
    list(whole)
    list(parts)
    parts.continue_with(X[300:], y[300:])
    list(parts)
    assert parts.updates == whole.updates == 20
    assert parts.model().factors.tobytes() == whole.model().factors.tobytes()
    with pytest.raises(ModelError, match="takes 40 features"):
        parts.continue_with(np.ones((3, 2)), np.ones(3))


def test_learning_rates_can_change_between_epochs():
    X, y = examples(300)
    training = Training(X, y, validate(GIVEN))
    list(training.epoch())
    before = training.model()
    training.set_learning_rates(bias=0, linear=0, factors=0)
    assert training.learning_rates == {"bias": 0, "linear": 0, "factors": 0}
    list(training.epoch(1))
    after = training.model()
    assert after.bias == before.bias
    assert after.factors.tobytes() == before.factors.tobytes()
    training.set_learning_rates(factors=0.1)
    list(training.epoch(2))
    assert training.model().linear.tobytes() == before.linear.tobytes()
    assert training.model().factors.tobytes() != before.factors.tobytes()
    with pytest.raises(ParameterError, match="linear_lr must be a finite number"):
        training.set_learning_rates(linear=-1)


def test_a_group_that_is_not_used_gets_no_learning_rate():
    X, y = examples(300)
    training = Training(X, y, validate(GIVEN | {"use_linear": "false"}))
    training.set_learning_rates(linear=0.5)
    list(training)
    assert not training.model().linear.any()


def test_a_snapshot_brings_the_parameters_back():
    X, y = examples(300)
    training = Training(X, y, validate(GIVEN))
    list(training.epoch())
    best = training.snapshot()
    kept = training.model()
    list(training.epoch(1))
    assert training.model().factors.tobytes() != kept.factors.tobytes()
    training.restore(best)
    assert training.model().factors.tobytes() == kept.factors.tobytes()
    assert training.model().linear.tobytes() == kept.linear.tobytes()
    assert training.model().bias == kept.bias
    list(training.epoch(2))
    again = training.snapshot(into=best)
    assert again.factors is best.factors
    assert training.model(again).factors.tobytes() == training.model().factors.tobytes()


def test_finishing_gives_the_same_model():
    X, y = examples(300)
    training = Training(X, y, validate(GIVEN))
    list(training)
    expected = training.model()
    finished = training.finish()
    assert finished.factors.tobytes() == expected.factors.tobytes()
    assert finished.linear.tobytes() == expected.linear.tobytes()
    assert finished.bias == expected.bias
    assert (training.records, training.updates) == (300, 30)
    for use in (lambda: list(training), lambda: training.outputs(X), training.model, training.finish):
        with pytest.raises(ModelError, match="training is finished"):
            use()


def test_an_interrupt_leaves_whole_batches_and_no_threads(monkeypatch):
    monkeypatch.setattr("lib.fm.blocks._BLOCK_ENTRIES", 1 << 18)
    X, y = examples(50_000)
    training = Training(X, y, validate(GIVEN | {"epochs": 100_000}), threads=2)
    list(training.epoch())  # compiles
    before = set(threading.enumerate())
    interrupt = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        interrupt.start()
        list(training)
    interrupt.join()
    assert set(threading.enumerate()) <= before
    assert training.updates > 0
    list(training.epoch())
    assert np.isfinite(training.model().factors).all()


def test_a_thread_that_cannot_be_started_leaves_none_waiting():
    X, y = examples(300)
    training = Training(X, y, validate(GIVEN))
    block = next(iter(training._examples))
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()
    pool.shutdown()
    settings = training._settings
    arguments = (block.arrays, training._state.table, training._state.bias, settings)
    arguments += (scratch(30, 0, training._state.width), np.zeros(7), 0, block.batches)
    with pytest.raises(RuntimeError, match="shutdown"):
        run_together(training._crew.kernel(False), arguments, 2, pool)
    assert training.updates == 0


def test_rows_without_entries_train_the_bias_alone():
    X, y = sparse.csr_matrix((70, FEATURES), dtype=np.float32), np.full(70, 3, np.float32)
    training = Training(X, y, validate(GIVEN | {"epochs": 60}))
    before = training.model()
    list(training)
    assert training.model().factors.tobytes() == before.factors.tobytes()
    assert training.model().bias == pytest.approx(3, abs=0.1)
    assert training.outputs(X).tolist() == [np.float32(training.model().bias)] * 70


def test_dense_records_make_all_features_active(tmp_path):
    X = np.random.default_rng(5).normal(0, 1, (50, FEATURES)).astype(np.float32)
    X[X < 0] = 0
    y = np.arange(50, dtype=np.float32) % 5
    with (tmp_path / "dense").open("wb") as file:
        recordio.write(file, X, y)
    hyperparameters = validate(GIVEN)
    from_file = Training.from_files([tmp_path / "dense"], hyperparameters)
    assert bits(from_file) == bits(Training(X, y, hyperparameters))
    assert bits(from_file) != bits(Training(sparse.csr_matrix(X), y, hyperparameters))


def test_pieces_are_cut_into_the_same_rows():
    X, y = examples(100)
    pieces = [(X[:7], y[:7]), (X[7:8], y[7:8]), (X[8:60], y[8:60]), (X[60:], y[60:])]
    found = list(cut(iter(pieces), 25))
    assert [len(labels) for _, labels in found] == [25, 25, 25, 25]
    np.testing.assert_array_equal(sparse.vstack([part for part, _ in found]).toarray(), X.toarray())
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), y)
    assert [len(labels) for _, labels in cut(iter(pieces), 30)] == [30, 30, 30, 10]


def test_a_planner_does_not_confuse_batches_when_its_counter_overflows():
    X, y = examples(90)
    planner = Planner(FEATURES, 30)
    expected = planner.plan(X, y)
    planner._seen = (1 << 32) - 2
    for again in (planner.plan(X, y), planner.plan(X, y)):
        for got, want in zip(again.arrays, expected.arrays, strict=True):
            np.testing.assert_array_equal(got, want)


# --- what is refused ---------------------------------------------------------------------------------------


def test_a_truncated_file_among_good_ones_is_named_with_its_record(tmp_path):
    X, y = examples(300)
    paths = write(tmp_path, X, y, [100, 200])
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[:-10])
    names = [f"train/{path.name}" for path in paths]
    training = Training.from_files(paths, validate(GIVEN), names=names)
    with pytest.raises(DataError, match=r"train/part-1.*[Rr]ecord 99"):
        list(training)
    with pytest.raises(DataError, match=r"train/part-1"):
        list(training)


def test_files_without_labels_or_not_there_are_named(tmp_path):
    X, _ = examples(50)
    with (tmp_path / "bare").open("wb") as file:
        recordio.write(file, X)
    with pytest.raises(DataError, match="bare has no labels"):
        Training.from_files([tmp_path / "bare"], validate(GIVEN))
    with pytest.raises(DataError, match=r"gone cannot be read"):
        Training.from_files([tmp_path / "gone"], validate(GIVEN))
    with pytest.raises(DataError, match="no files"):
        Training.from_files([], validate(GIVEN))


def test_a_classifier_names_the_record_with_another_label(tmp_path):
    X, y = examples(200)
    labels = (y > 3).astype(np.float32)
    labels[170] = 5
    paths = write(tmp_path, X, labels, [100])
    training = Training.from_files(paths, validate(GIVEN | {"predictor_type": "binary_classifier"}))
    with pytest.raises(DataError, match=r"record 70 of .*part-1 has the label 5"):
        list(training)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "dense"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_values_that_are_not_finite_are_named_with_row_and_column(kind, value):
    dense = np.eye(4)
    dense[2, 1] = value
    X = dense if kind == "dense" else sparse.csr_matrix(dense).asformat(kind)
    with pytest.raises(DataError, match=r"not finite.* in row 2, column 1"):
        checked_examples(X, 4)


@pytest.mark.parametrize(
    ("indices", "message"),
    [([0, -1, 1], "row 1 holds an entry of column -1"), ([0, 1, 7], "row 1 holds an entry of column 7")],
)
def test_indices_outside_the_columns_are_refused(indices, message):
    X = sparse.csr_matrix((np.ones(3), [0, 1, 1], [0, 1, 3]), (2, 4))
    X.indices = np.array(indices, np.int32)
    with pytest.raises(DataError, match=f"have 4 columns, but {message}"):
        Training(X, np.ones(2), validate(GIVEN | {"feature_dim": 4}))


@pytest.mark.parametrize("starts", [[0, 3, 1], [0, 1, 9], [1, 2, 3], [0, 3]])
def test_row_starts_that_do_not_fit_are_refused(starts):
    X = sparse.csr_matrix((np.ones(3), [0, 1, 1], [0, 1, 3]), (2, 4))
    X.indptr = np.array(starts, np.int32)
    with pytest.raises(DataError, match="indptr does not divide"):
        checked_examples(X, 4)


@pytest.mark.parametrize("group", ["linear", "factors"])
def test_divergence_names_the_rate_to_lower(group):
    X, y = examples(300)
    given = GIVEN | {f"{group}_lr": 1e30, f"{'linear' if group == 'factors' else 'factors'}_lr": 1e-3}
    training = Training(X * np.float32(1e9), y, validate(given))
    with pytest.raises(ModelError, match=rf"diverged in epoch 0.*the {group} first\. Lower {group}_lr"):
        list(training)


def test_divergence_of_features_that_do_not_come_again_is_told_with_the_model():
    X = sparse.csr_matrix(np.eye(2, dtype=np.float32))
    given = {"feature_dim": 2, "num_factors": 2, "predictor_type": "regressor", "mini_batch_size": 1}
    training = Training(X, [1, 2], validate(given | {"linear_init_sigma": 0, "bias_init_sigma": 0}))
    list(training)
    training._state.linear[1] = np.nan
    with pytest.raises(ModelError, match="the linear first"):
        training.model()


# --- memory -----------------------------------------------------------------------------------------------


def test_a_model_larger_than_the_memory_is_refused_with_the_figures():
    given = GIVEN | {"feature_dim": 2_000_000_000, "num_factors": 64}
    with pytest.raises(ModelError, match=r"2,000,000,000 with num_factors 64 needs 1\.66 TB .* available"):
        Training(sparse.csr_matrix((1, 2_000_000_000), dtype=np.float32), [1], validate(given))


def test_the_memory_for_data_comes_from_the_environment(monkeypatch, tmp_path):
    X, y = examples(300)
    monkeypatch.setenv("REELBOOK_FM_MEMORY_BYTES", "0")
    training = Training(X, y, validate(GIVEN))
    list(training)
    assert training._examples.held_bytes == 0
    monkeypatch.setenv("REELBOOK_FM_MEMORY_BYTES", "much")
    with pytest.raises(ParameterError, match="whole number of bytes, not 'much'"):
        Training(X, y, validate(GIVEN))


def test_what_is_available_is_positive_and_sizes_are_readable():
    there = memory.available()
    assert there is None or there > 1 << 20
    assert [memory.size(n) for n in (999, 1000, 1_664_000_000_000)] == ["999 bytes", "1 kB", "1.66 TB"]


PEAK = """
import resource, sys
import numpy as np
from scipy import sparse
from lib.fm.crew import run_together
from lib.fm.fit import Training
from lib.fm.hyperparameters import validate
from lib import recordio
small = validate({"feature_dim": 10, "num_factors": 64, "predictor_type": "regressor"})
with open(sys.argv[1], "rb") as file:
    recordio.read(file)
X = sparse.csr_matrix(np.eye(10, dtype=np.float32))
warm = Training(X, np.ones(10), small)
list(warm)
warm.finish()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
given = {"feature_dim": int(sys.argv[3]), "num_factors": 64, "predictor_type": "regressor", "epochs": 2}
training = Training.from_files([sys.argv[2]], validate(given))
list(training)
training.finish()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_stays_near_data_parameters_and_moments(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    n, d = 400_000, 150_000
    rng = np.random.default_rng(1)
    columns = np.stack([rng.integers(0, d // 2, n), rng.integers(d // 2, d, n)], 1).ravel().astype(np.int32)
    X = sparse.csr_matrix((np.ones(2 * n, np.float32), columns, np.arange(0, 2 * n + 1, 2)), (n, d))
    small, large = tmp_path / "small", tmp_path / "large"
    for path, rows in ((small, 1000), (large, n)):
        with path.open("wb") as file:
            recordio.write(file, X[:rows], np.ones(rows, np.float32))
    command = [sys.executable, "-c", PEAK, str(small), str(large), str(d)]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    data = 8 * X.nnz + 12 * n
    assert peak < 1.3 * (data + 4 * (3 * 64 + 3) * d)


def test_blocks_ahead_come_in_order_and_bring_errors():
    assert list(made_ahead(range(50), 2)) == list(range(50))

    def failing():
        yield 1
        raise DataError("no more")

    found = []
    with pytest.raises(DataError, match="no more"):
        found.extend(made_ahead(failing(), 2))
    ahead = made_ahead(iter(range(1000)), 2)
    assert next(ahead) == 0
    ahead.close()
