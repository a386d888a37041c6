"""The training loops: against a plain float64 reference, against MXNet, and their invariants."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from lib.errors import DataError, ModelError, ParameterError
from lib.fm import barrier, blocks, kernels, layout, metrics
from lib.fm.fit import Training
from lib.fm.hyperparameters import validate
from lib.fm.model import Model

BETA1, BETA2 = 0.9, 0.999


@dataclass
class Weights:
    """Bias, weights and factors of a model, in float64."""

    bias: float
    linear: np.ndarray
    factors: np.ndarray


@dataclass
class Options:
    """The settings of a reference run."""

    classifier: bool = False
    batch_size: int = 10
    epochs: int = 3
    lr: tuple[float, float, float] = (0.1, 0.02, 0.01)
    wd: tuple[float, float, float] = (0.01, 0.001, 0.0001)
    epsilon: float = 1e-8
    rescale: float | None = None
    clip: float = np.inf
    sums: np.ndarray = field(default_factory=lambda: np.zeros(metrics.SUMS))

    @property
    def settings(self) -> layout.Settings:
        rescale = 1 / self.batch_size if self.rescale is None else self.rescale
        return layout.Settings(
            *self.lr, *self.wd, self.epsilon, rescale, self.clip, self.batch_size, self.classifier
        )


def outputs(X: np.ndarray, start: Weights) -> np.ndarray:
    """The model's equation, in float64."""
    pairs = (X @ start.factors) ** 2 - X**2 @ start.factors**2
    return start.bias + X @ start.linear + 0.5 * pairs.sum(1)


def reference(X: sparse.csr_matrix, y: np.ndarray, start: Weights, options: Options) -> Weights:
    """Lazy Adam as MXNet does it, one line after another, in float64."""
    bias, linear, factors = start.bias, start.linear.copy(), start.factors.copy()
    theta = [np.array([[bias]]), linear[:, None], factors]
    first = [np.zeros_like(t) for t in theta]
    second = [np.zeros_like(t) for t in theta]
    size, step = options.batch_size, 0
    for _ in range(options.epochs):
        for begin in range(0, X.shape[0], size):
            block = X[begin : begin + size]
            dense, label = block.toarray().astype(float), y[begin : begin + size].astype(float)
            output = outputs(dense, Weights(theta[0][0, 0], theta[1][:, 0], theta[2]))
            if options.classifier:
                probability = 1 / (1 + np.exp(-output))
                options.sums[metrics.CROSS_ENTROPY] -= np.sum(
                    label * np.log(probability) + (1 - label) * np.log(1 - probability)
                )
                error = probability - label
            else:
                error = output - label
                options.sums[metrics.SQUARED] += np.sum(error**2)
                options.sums[metrics.ABSOLUTE] += np.sum(np.abs(error))
            sums = dense @ theta[2]
            gradients = [
                np.array([[error.sum()]]),
                (dense.T @ error)[:, None],
                dense.T @ (error[:, None] * sums) - ((dense**2).T @ error)[:, None] * theta[2],
            ]
            active = np.unique(block.indices)
            step += 1
            correction = np.sqrt(1 - BETA2**step) / (1 - BETA1**step)
            for group, rows in enumerate((np.array([0]), active, active)):
                t, m, v = theta[group], first[group], second[group]
                g = gradients[group][rows] * options.settings.rescale + options.wd[group] * t[rows]
                g = np.clip(g, -options.clip, options.clip)
                m[rows] = BETA1 * m[rows] + (1 - BETA1) * g
                v[rows] = BETA2 * v[rows] + (1 - BETA2) * g * g
                t[rows] -= options.lr[group] * correction * m[rows] / (np.sqrt(v[rows]) + options.epsilon)
    return Weights(float(theta[0][0, 0]), theta[1][:, 0], theta[2])


@dataclass
class Run:
    """A run of the kernels on one block, by several threads."""

    X: sparse.csr_matrix
    y: np.ndarray
    start: Weights
    options: Options
    threads: int = 1

    def __post_init__(self) -> None:
        k = self.start.factors.shape[1]
        planner = blocks.Planner(self.X.shape[1], self.options.batch_size)
        self.block = planner.plan(self.X, self.y.astype(np.float32))
        self.width = layout.width_of(k)
        self.table = np.zeros((self.X.shape[1], layout.row_floats(self.width)), np.float32)
        self.table[:, :k] = self.start.factors
        self.table[:, self.width] = self.start.linear
        self.state = np.array([self.start.bias, 0, 0, 0])

    def train(self, epochs: int | None = None) -> Weights:
        kernel, _ = kernels.load_training(self.width, self.block.weighted)
        work = layout.scratch(self.options.batch_size, self.block.largest_batch, self.width)
        with ThreadPoolExecutor(self.threads) as pool:
            for _ in range(self.options.epochs if epochs is None else epochs):
                arguments = (self.block.arrays, self.table, self.state, self.options.settings, work)
                arguments += (self.options.sums, 0, self.block.batches)
                shared = barrier.counters(self.threads)
                futures = [
                    pool.submit(kernel, *arguments, thread, self.threads, shared)
                    for thread in range(self.threads)
                ]
                assert {future.result() for future in futures} == {self.block.batches}
        k = self.start.factors.shape[1]
        return Weights(float(self.state[0]), self.table[:, self.width].copy(), self.table[:, :k].copy())


def trained(X: sparse.csr_matrix, y: np.ndarray, start: Weights, options: Options) -> Weights:
    """The same by the kernels."""
    run = Run(X, y, start, options)
    weights = run.train()
    assert run.state[3] == options.epochs * run.block.batches
    return weights


def one_hot(rng: np.random.Generator, n: int, customers: int, videos: int) -> sparse.csr_matrix:
    columns = np.stack([rng.integers(0, customers, n), customers + rng.integers(0, videos, n)], 1)
    shape = (n, customers + videos)
    return sparse.csr_matrix((np.ones(2 * n, np.float32), columns.ravel(), np.arange(0, 2 * n + 1, 2)), shape)


def ragged(rng: np.random.Generator, n: int, d: int) -> sparse.csr_matrix:
    """Rows of any length, empty ones among them, with values of any sign."""
    values = rng.normal(0, 1, (n, d)) * (rng.random((n, d)) < 0.3)
    values[n // 2] = 0
    return sparse.csr_matrix(values.astype(np.float32))


def random_start(rng: np.random.Generator, d: int, k: int) -> Weights:
    draw = rng.normal(0, 0.1, (d, k + 1)).astype(np.float32).astype(float)
    return Weights(0.25, draw[:, 0], draw[:, 1:])


CASES = {
    "one_hot": (lambda rng: one_hot(rng, 95, 12, 7), 8),
    "ragged": (lambda rng: ragged(rng, 57, 15), 5),
    "dense": (lambda rng: sparse.csr_matrix(rng.normal(0, 0.5, (40, 6)).astype(np.float32)), 3),
    "one_row": (lambda rng: sparse.csr_matrix(np.array([[1, 0, 2]], np.float32)), 1),
    "many_factors": (lambda rng: ragged(rng, 23, 9), 70),
    "a_register": (lambda rng: one_hot(rng, 95, 12, 7), 64),
    "odd_width": (lambda rng: one_hot(rng, 95, 30, 7), 24),
    "wide_rows": (lambda rng: sparse.csr_matrix(rng.normal(0, 0.1, (12, 300)).astype(np.float32)), 2),
}


@pytest.mark.parametrize("classifier", [False, True], ids=["regressor", "classifier"])
@pytest.mark.parametrize("case", CASES)
def test_kernels_follow_the_float64_reference(case, classifier):
    rng = np.random.default_rng(11)
    make, k = CASES[case]
    X = make(rng)
    y = rng.integers(0, 2, X.shape[0]) if classifier else rng.normal(3, 1, X.shape[0])
    y = y.astype(np.float32)
    start = random_start(rng, X.shape[1], k)
    expected, found = Options(classifier), Options(classifier)
    want = reference(X, y, start, expected)
    got = trained(X, y, start, found)
    assert got.bias == pytest.approx(want.bias, abs=2e-5)
    np.testing.assert_allclose(got.linear, want.linear, atol=2e-5)
    np.testing.assert_allclose(got.factors, want.factors, atol=2e-5)
    for place in (metrics.SQUARED, metrics.ABSOLUTE, metrics.CROSS_ENTROPY):
        assert found.sums[place] == pytest.approx(expected.sums[place], rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"clip": 0.02}, {"rescale": 0.5, "epsilon": 1e-3}, {"wd": (0.5, 0.4, 0.3)}, {"batch_size": 64}],
    ids=["clip", "rescale_and_eps", "strong_decay", "one_partial_batch"],
)
def test_kernels_follow_the_reference_for_other_settings(changes):
    rng = np.random.default_rng(12)
    X = ragged(rng, 57, 15)
    y = rng.normal(3, 1, 57).astype(np.float32)
    start = random_start(rng, 15, 5)
    want = reference(X, y, start, Options(**changes))
    got = trained(X, y, start, Options(**changes))
    np.testing.assert_allclose(got.factors, want.factors, atol=2e-5)
    np.testing.assert_allclose(got.linear, want.linear, atol=2e-5)
    assert got.bias == pytest.approx(want.bias, abs=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 70),
    d=st.integers(1, 20),
    k=st.integers(1, 8),
    density=st.floats(0, 1),
    ones=st.booleans(),
    classifier=st.booleans(),
    batch_size=st.integers(1, 80),
    threads=st.integers(1, 3),
    seed=st.integers(0, 10),
)
def test_kernels_follow_the_reference_for_data_of_any_shape(
    n, d, k, density, ones, classifier, batch_size, threads, seed
):
    rng = np.random.default_rng(seed)
    values = np.ones((n, d)) if ones else rng.normal(0, 1, (n, d))
    X = sparse.csr_matrix((values * (rng.random((n, d)) < density)).astype(np.float32))
    y = (rng.random(n) < 0.5).astype(np.float32)
    start = random_start(rng, d, k)
    # an epsilon this large keeps Adam from turning rounding errors into whole steps
    expected = Options(classifier, batch_size, 2, epsilon=1e-2)
    found = Options(classifier, batch_size, 2, epsilon=1e-2)
    want = reference(X, y, start, expected)
    got = Run(X, y, start, found, threads).train()
    assert got.bias == pytest.approx(want.bias, abs=1e-4)
    np.testing.assert_allclose(got.linear, want.linear, atol=1e-4)
    np.testing.assert_allclose(got.factors, want.factors, atol=1e-4)
    np.testing.assert_allclose(found.sums[:3], expected.sums[:3], rtol=1e-4, atol=1e-4)


def test_batches_with_more_entries_than_16_bits_count():
    rng = np.random.default_rng(13)
    X = sparse.csr_matrix(rng.normal(0, 0.05, (280, 250)).astype(np.float32))
    y = rng.normal(0, 1, 280).astype(np.float32)
    start = random_start(rng, 250, 3)
    options = Options(batch_size=280, epsilon=1e-2)
    assert planned(X, 280).shared_places.dtype == np.uint32
    want = reference(X, y, start, options)
    got = trained(X, y, start, options)
    np.testing.assert_allclose(got.factors, want.factors, atol=1e-4)
    np.testing.assert_allclose(got.linear, want.linear, atol=1e-4)


# What MXNet 1.9.1's Module and Adam (lazy_update, learning_rate 1, wd 1, lr_mult and wd_mult of each
# parameter) made of the data below in three epochs of batches of 8.
MXNET = {
    "regressor": (
        0.981132,
        [0.046064, 0.101807, 0.145403, 0.202141, 0.250548, 0.296163],
        [
            [0.045863, 0.033262],
            [-0.03082, -0.021725],
            [-0.041854, 0.002697],
            [-0.016563, -0.018549],
            [-0.113008, 0.016793],
            [0.069425, 0.006066],
        ],
    ),
    "binary_classifier": (
        0.748524,
        [-0.187167, -0.002058, 0.068129, 0.06425, 0.195256, 0.155037],
        [
            [0.115494, -0.044395],
            [0.013783, -0.064215],
            [-0.128042, -0.003265],
            [-0.088199, 0.01928],
            [-0.139284, 0.048778],
            [-0.032989, 0.07619],
        ],
    ),
}


@pytest.mark.parametrize("kind", MXNET)
def test_kernels_agree_with_mxnet(kind):
    row, column = np.arange(24)[:, None], np.arange(6)[None]
    stored = (row * 7 + column * 3) % 5 < 2
    X = sparse.csr_matrix(np.where(stored, 0.5 + (row + 2 * column) % 4 * 0.25, 0))
    y = 3 + np.sin(np.arange(24)) if kind == "regressor" else np.arange(24) ** 2 % 3 == 1
    start = Weights(0.1, 0.05 * (np.arange(6) - 2.5), 0.1 * np.cos(column.T + 2 * np.arange(2)))
    options = Options(kind != "regressor", 8, 3, (0.1, 0.02, 0.01), (0.01, 1e-3, 1e-5))
    got = trained(X, y, start, options)
    bias, linear, factors = MXNET[kind]
    assert got.bias == pytest.approx(bias, abs=1e-5)  # a float32 there, a float64 here
    np.testing.assert_allclose(got.linear, linear, atol=3e-6)
    np.testing.assert_allclose(got.factors, factors, atol=3e-6)


def test_the_first_step_goes_down_the_numerical_gradient():
    """Adam's first moment after one step is a tenth of the gradient of the mean half squared error."""
    rng = np.random.default_rng(4)
    X = ragged(rng, 20, 6)
    y = rng.normal(0, 1, 20)
    start = random_start(rng, 6, 3)
    dense = X.toarray().astype(float)

    def loss(weights: Weights) -> float:
        return float(np.mean(0.5 * (outputs(dense, weights) - y) ** 2))

    run = Run(X, y, start, Options(batch_size=20, wd=(0, 0, 0)))
    run.train(epochs=1)
    moments = run.table[:, layout.moments_at(8) :]
    nudge = 1e-5
    for j in range(6):
        for f in range(3):
            up, down = start.factors.copy(), start.factors.copy()
            up[j, f] += nudge
            down[j, f] -= nudge
            slope = loss(Weights(start.bias, start.linear, up)) - loss(
                Weights(start.bias, start.linear, down)
            )
            assert moments[j, f] / 0.1 == pytest.approx(slope / (2 * nudge), abs=1e-5)
    slope = loss(Weights(start.bias + nudge, start.linear, start.factors)) - loss(start)
    assert run.state[1] / 0.1 == pytest.approx(slope / nudge, abs=1e-4)


def test_features_that_never_occur_stay_as_they_were():
    rng = np.random.default_rng(5)
    X = one_hot(rng, 40, 10, 10)
    keep = ~np.isin(X.indices, (3, 15))
    X = sparse.csr_matrix((X.data * keep, X.indices, X.indptr), X.shape)
    X.eliminate_zeros()
    start = random_start(rng, 20, 4)
    got = trained(X, rng.normal(3, 1, 40), start, Options(wd=(1.0, 1.0, 1.0)))
    for feature in (3, 15):
        assert got.linear[feature] == np.float32(start.linear[feature])
        np.testing.assert_array_equal(got.factors[feature], start.factors[feature].astype(np.float32))
    others = np.setdiff1d(np.arange(20), (3, 15))
    assert (got.factors[others] != start.factors[others].astype(np.float32)).all()


@pytest.mark.parametrize("num_factors", [1, 8, 20, 60])
def test_the_added_factors_stay_zero_and_the_table_lies_on_cache_lines(num_factors):
    rng = np.random.default_rng(6)
    X = one_hot(rng, 60, 10, 5)
    given = {"feature_dim": 15, "num_factors": num_factors, "predictor_type": "regressor"}
    training = Training(X, rng.normal(3, 1, 60), validate(given))
    list(training)
    table, width = training._state.table, training._state.width
    assert table.ctypes.data % 64 == 0
    assert table.strides[0] % 64 == 0
    assert not table[:, num_factors:width].any()
    assert not table[:, width + 3 : layout.moments_at(width)].any()
    assert training.model().factors.shape == (15, num_factors)


def planned(X: sparse.csr_matrix, batch_size: int) -> layout.Block:
    return blocks.Planner(X.shape[1], batch_size).plan(X, np.zeros(X.shape[0], np.float32)).arrays


@pytest.mark.parametrize("case", CASES)
def test_every_entry_of_the_plan_is_an_entry_of_the_data(case):
    X = CASES[case][0](np.random.default_rng(7))
    n, size = X.shape[0], 10
    block = planned(X, size)
    rebuilt = np.zeros(X.shape, np.float32)
    for batch in range(len(block.single_batches) - 1):
        first, base = batch * size, int(block.starts[batch * size])
        owner = np.repeat(np.arange(n), np.diff(block.starts.astype(int)))[base:]
        singles = slice(*block.single_batches[batch : batch + 2])
        shared = range(*block.shared_batches[batch : batch + 2])
        features = [*block.single_features[singles], *(block.shared_features[active] for active in shared)]
        assert len(set(features)) == len(features)
        places = [[place] for place in block.single_places[singles]]
        for active in shared:
            places.append(list(block.shared_places[slice(*block.shared_starts[active : active + 2])]))
            assert len(places[-1]) > 1
            assert (np.diff(np.array(places[-1], int)) > 0).all()
        for feature, found in zip(features, places, strict=True):
            for place in map(int, found):
                if len(block.values):
                    rebuilt[owner[place], feature] = block.values[base + place]
                else:
                    rebuilt[first + place, feature] = 1
    np.testing.assert_array_equal(rebuilt, X.toarray())


def test_values_that_are_all_one_take_no_memory():
    X = one_hot(np.random.default_rng(8), 50, 10, 5)
    assert len(planned(X, 10).values) == 0
    assert planned(X, 10).single_places.dtype == np.uint16
    assert planned(X * 2, 10).values.tolist() == [2] * 100


@pytest.mark.parametrize("batch_size", [7, 16, 40, 500])
@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("classifier", [False, True], ids=["regressor", "classifier"])
@pytest.mark.parametrize("case", CASES)
def test_threads_do_not_change_a_bit(case, classifier, threads, batch_size):
    rng = np.random.default_rng(21)
    make, k = CASES[case]
    X = make(rng)
    y = (rng.random(X.shape[0]) < 0.5).astype(np.float32)
    start = random_start(rng, X.shape[1], k)
    runs = [Run(X, y, start, Options(classifier, batch_size), count) for count in (1, threads)]
    for run in runs:
        run.train()
    assert runs[0].table.tobytes() == runs[1].table.tobytes()
    assert runs[0].state.tobytes() == runs[1].state.tobytes()
    assert runs[0].options.sums.tobytes() == runs[1].options.sums.tobytes()


def test_threads_wait_in_vain_for_one_that_was_cancelled_and_change_nothing():
    rng = np.random.default_rng(22)
    run = Run(one_hot(rng, 50, 10, 5), rng.normal(3, 1, 50), random_start(rng, 15, 4), Options())
    kernel, _ = kernels.load_training(run.width, run.block.weighted)
    work = layout.scratch(10, 0, run.width)
    before, shared = run.table.copy(), barrier.counters(2)
    arguments = (run.block.arrays, run.table, run.state, run.options.settings, work, run.options.sums, 0, 5)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(kernel, *arguments, 1, 2, shared)
        barrier.cancel(shared)
        assert waiting.result(timeout=10) == kernels.CANCELLED
    assert run.table.tobytes() == before.tobytes()


def planted(seed: int, n: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Ratings made of biases and three strong factors, with little noise."""
    rng = np.random.default_rng(1)
    customers, videos = rng.normal(0, 1, (60, 4)), rng.normal(0, 1, (40, 4))
    X = one_hot(np.random.default_rng(seed), n, 60, 40)
    u, i = X.indices[::2], X.indices[1::2] - 60
    taste = (customers[u, 1:] * videos[i, 1:]).sum(1)
    y = 3 + 0.3 * customers[u, 0] + 0.3 * videos[i, 0] + 0.6 * taste
    return X, (y + np.random.default_rng(seed).normal(0, 0.1, n)).astype(np.float32)


PLANTED = {
    "num_factors": 8,
    "predictor_type": "regressor",
    "mini_batch_size": 50,
    "epochs": 60,
    "linear_lr": 0.01,
    "factors_lr": 0.02,
    "factors_init_sigma": 0.1,
}


SMALL = {"num_factors": 2, "predictor_type": "regressor"}


def fitted(X, y, *, seed=None, **given) -> tuple[Model, list[dict[str, float]]]:
    """A trained model, and the training metrics of its epochs."""
    training = Training(X, y, validate({"feature_dim": np.shape(X)[1]} | given), seed=seed)
    history = [report.metrics for report in training if report.ended]
    return training.model(), history


def test_planted_factors_are_recovered():
    X, y = planted(2, 4000)
    X_test, y_test = planted(3, 1000)
    model, history = fitted(X, y, seed=1, **PLANTED)
    biases_only, _ = fitted(X, y, seed=1, **PLANTED | {"factors_lr": 0, "factors_init_sigma": 0})

    def rmse(model):
        return np.sqrt(np.mean((model.predict(X_test) - y_test) ** 2))

    assert rmse(model) < 0.5 * rmse(biases_only)
    assert rmse(model) < 0.35
    assert history[0]["rmse"] > history[-1]["rmse"]
    assert len(history) == 60


def test_classifier_learns_and_predicts_probabilities():
    X, y = planted(2, 4000)
    labels = (y > 3).astype(np.float32)
    options = PLANTED | {"predictor_type": "binary_classifier", "epochs": 20}
    model, history = fitted(X, labels, **options)
    scores = model.predict(X)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert np.mean((scores > 0.5) == (labels > 0.5)) > 0.9
    assert history[-1]["binary_classification_accuracy"] > 0.9
    assert history[-1]["binary_f_1.000"] > 0.9


def test_repeats_give_the_same_bits_and_other_seeds_do_not():
    X, y = planted(2, 500)
    options = PLANTED | {"epochs": 3}
    first, again, other = (fitted(X, y, seed=seed, **options)[0] for seed in (7, 7, 8))
    assert first.factors.tobytes() == again.factors.tobytes()
    assert first.linear.tobytes() == again.linear.tobytes()
    assert first.bias == again.bias
    assert first.factors.tobytes() != other.factors.tobytes()


def test_the_seed_comes_from_the_environment(monkeypatch):
    X, y = planted(2, 100)
    options = PLANTED | {"epochs": 1}
    monkeypatch.setenv("REELBOOK_FM_SEED", "5")
    from_environment, _ = fitted(X, y, **options)
    given, _ = fitted(X, y, seed=5, **options)
    assert from_environment.factors.tobytes() == given.factors.tobytes()
    monkeypatch.setenv("REELBOOK_FM_SEED", "five")
    with pytest.raises(ParameterError, match="whole number"):
        fitted(X, y, **options)


def test_metrics_count_a_partial_batch_as_a_full_one():
    X, y = planted(2, 95)
    options = PLANTED | {"epochs": 1, "mini_batch_size": 10}
    model, history = fitted(X, y, **options | {"bias_lr": 0, "linear_lr": 0, "factors_lr": 0})
    squared = float(np.sum((model.predict(X).astype(float) - y) ** 2))
    assert history[0]["mse"] == pytest.approx(squared / 100, rel=1e-5)


def test_reports_stand_at_the_first_batch_and_at_every_interval():
    X, y = planted(2, 1000)
    hyperparameters = validate(
        PLANTED
        | {"feature_dim": 100, "epochs": 2, "mini_batch_size": 10, "batch_metrics_publish_interval": 30}
    )
    training = Training(X, y, hyperparameters)
    assert training.batches == 100
    reports = list(training)
    published = [(report.epoch, report.batch) for report in reports if training.publishes(report)]
    assert published == [(epoch, batch) for epoch in (0, 1) for batch in (0, 30, 60, 90)]
    assert [report.epoch for report in reports if report.ended] == [0, 1]
    assert training.updates == 200


@pytest.mark.parametrize(
    ("method", "options", "low", "high", "spread"),
    [
        ("normal", {"factors_init_sigma": 0.5}, -3, 3, 0.5),
        ("uniform", {"factors_init_scale": 0.2}, -0.2, 0.2, 0.2 / 3**0.5),
        ("uniform", {}, -0.07, 0.07, 0.07 / 3**0.5),
        ("constant", {"factors_init_value": 0.125}, 0.125, 0.125, 0),
    ],
)
def test_initial_weights(method, options, low, high, spread):
    X, y = planted(2, 100)
    hyperparameters = validate(PLANTED | {"feature_dim": 100, "factors_init_method": method} | options)
    factors = Training(X, y, hyperparameters, seed=1).model().factors
    assert factors.min() >= low
    assert factors.max() <= high
    assert factors.std() == pytest.approx(spread, rel=0.1, abs=1e-9)


def test_a_model_without_bias_and_weights_has_zeros_for_them():
    X, y = planted(2, 300)
    model, _ = fitted(X, y, **PLANTED | {"epochs": 2, "use_bias": "false", "use_linear": "false"})
    assert model.bias == 0
    assert not model.linear.any()


def test_divergence_is_told_with_the_learning_rates():
    X, y = planted(2, 300)
    with pytest.raises(ModelError, match=r"diverged.*Lower factors_lr .*factors_lr 1e\+20"):
        fitted(X, y, **PLANTED | {"factors_lr": 1e20})


def test_unscaled_features_are_advised_about():
    X = sparse.csr_matrix(np.array([[1, 2011.0], [1, 1994.0]], np.float32))
    training = Training(X, [3, 4], validate(SMALL | {"feature_dim": 2}))
    assert "Feature 1 holds values up to 2011" in training.advice
    assert Training(X / 2011, [3, 4], validate(SMALL | {"feature_dim": 2})).advice == ""


def test_repeated_entries_of_a_row_count_as_their_sum():
    twice = sparse.csr_matrix((np.float32([1, 1, 1]), [0, 0, 1], [0, 2, 3]), (2, 2))
    once = sparse.csr_matrix((np.float32([2, 1]), [0, 1], [0, 1, 2]), (2, 2))
    models = [fitted(X, [1, 2], **SMALL)[0] for X in (twice, once)]
    assert models[0].factors.tobytes() == models[1].factors.tobytes()
    assert twice.nnz == 3


def test_a_dense_array_makes_all_features_active():
    X = np.array([[1, 0, 0.5], [0, 0, 1]], np.float32)
    options = SMALL | {"linear_wd": 1.0, "linear_init_sigma": 1}
    dense, _ = fitted(X, [1, 2], **options)
    lazy, _ = fitted(sparse.csr_matrix(X), [1, 2], **options)
    assert dense.linear[1] != lazy.linear[1]
    assert dense.linear[0] == lazy.linear[0]


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.ones((3, 2)), np.ones(2), "3 examples, but labels of shape"),
        (np.ones((3, 2)), None, "no labels"),
        (np.ones((3, 2)), ["a", "b", "c"], "not numbers"),
        (np.ones((0, 2)), np.ones(0), "no rows"),
        (np.ones((3, 2)), np.array([1, np.nan, 2]), "labels hold values that are not finite.* in row 1"),
        (np.array([[1, np.inf]]), np.ones(1), "not finite.* in row 0, column 1"),
        (np.ones((2, 2, 2)), np.ones(2), "as a matrix"),
        (np.ones((3, 3)), np.ones(3), "takes 2 features"),
    ],
    ids=["too_few", "no_labels", "words", "no_rows", "nan_label", "infinite_value", "no_matrix", "columns"],
)
def test_bad_data_are_refused(X, y, message):
    with pytest.raises((DataError, ModelError), match=message):
        Training(X, y, validate(SMALL | {"feature_dim": 2}))


def test_a_classifier_refuses_other_labels_than_0_and_1():
    with pytest.raises(DataError, match="labels 0 and 1, but one label is 5"):
        fitted(np.ones((2, 2)), [1, 5], num_factors=2, predictor_type="binary_classifier")
