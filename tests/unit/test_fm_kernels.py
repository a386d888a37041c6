"""The training loops: against a plain float64 reference, against MXNet, and their invariants."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import sparse

from lib import fm
from lib.errors import DataError, ModelError, ParameterError
from lib.fm import kernels, metrics
from lib.fm.fit import Training
from lib.fm.hyperparameters import validate

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
    def settings(self) -> kernels.Settings:
        rescale = 1 / self.batch_size if self.rescale is None else self.rescale
        return kernels.Settings(
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


def trained(X: sparse.csr_matrix, y: np.ndarray, start: Weights, options: Options) -> Weights:
    """The same by the kernels."""
    width = kernels.width_of(start.factors.shape[1])
    k = start.factors.shape[1]
    kernel, _ = kernels.load(width)
    rows = kernels.Rows(
        X.indptr.astype(np.int64), X.indices.astype(np.int32), X.data.astype(np.float32), y.astype(np.float32)
    )
    plan = kernels.make_plan(rows, X.shape[1], options.batch_size)
    table = kernels.empty_table(X.shape[1], width)
    table[:, :k] = start.factors
    table[:, 3 * width] = start.linear
    bias = np.array([start.bias, 0, 0])
    batches = len(plan.batches) - 1
    step = 0
    for _ in range(options.epochs):
        step = kernel(rows, plan, table, bias, options.settings, step, 0, batches, options.sums)
    assert step == options.epochs * batches
    return Weights(float(bias[0]), table[:, 3 * width].copy(), table[:, :k].copy())


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

    kernel, _ = kernels.load(8)
    rows = kernels.Rows(X.indptr.astype(np.int64), X.indices, X.data, y.astype(np.float32))
    plan = kernels.make_plan(rows, 6, 20)
    table = kernels.empty_table(6, 8)
    table[:, :3], table[:, 24] = start.factors, start.linear
    bias = np.array([start.bias, 0, 0])
    options = Options(batch_size=20, wd=(0, 0, 0))
    kernel(rows, plan, table, bias, options.settings, 0, 0, 1, np.zeros(metrics.SUMS))
    nudge = 1e-5
    for j in range(6):
        for f in range(3):
            up, down = start.factors.copy(), start.factors.copy()
            up[j, f] += nudge
            down[j, f] -= nudge
            slope = loss(Weights(start.bias, start.linear, up)) - loss(
                Weights(start.bias, start.linear, down)
            )
            assert table[j, 8 + f] / 0.1 == pytest.approx(slope / (2 * nudge), abs=1e-5)
    slope = loss(Weights(start.bias + nudge, start.linear, start.factors)) - loss(start)
    assert bias[1] / 0.1 == pytest.approx(slope / nudge, abs=1e-4)


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


def test_the_added_factors_stay_zero_and_the_table_lies_on_cache_lines():
    table = kernels.empty_table(50, 16)
    assert table.ctypes.data % 64 == 0
    assert table.strides[0] % 64 == 0
    rng = np.random.default_rng(6)
    X = one_hot(rng, 60, 10, 5)
    hyperparameters = validate({"feature_dim": 15, "num_factors": 3, "predictor_type": "regressor"})
    training = Training(X, rng.normal(3, 1, 60), hyperparameters)
    list(training)
    assert not training._table[:, 3:8].any()
    assert training.model().factors.shape == (15, 3)


def test_every_entry_of_the_plan_is_an_entry_of_the_data():
    rng = np.random.default_rng(7)
    X = ragged(rng, 33, 9)
    rows = kernels.Rows(X.indptr.astype(np.int64), X.indices, X.data, np.zeros(33, np.float32))
    plan = kernels.make_plan(rows, 9, 10)
    assert len(plan.batches) == 5
    rebuilt = np.zeros((33, 9), np.float32)
    for batch in range(4):
        features = plan.features[plan.batches[batch] : plan.batches[batch + 1]]
        assert len(set(features)) == len(features)
        for active in range(plan.batches[batch], plan.batches[batch + 1]):
            entries = slice(plan.starts[active], plan.starts[active + 1])
            assert (np.diff(plan.rows[entries]) > 0).all()
            rebuilt[batch * 10 + plan.rows[entries], plan.features[active]] = plan.values[entries]
    np.testing.assert_array_equal(rebuilt, X.toarray())


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


def test_planted_factors_are_recovered():
    X, y = planted(2, 4000)
    X_test, y_test = planted(3, 1000)
    machine = fm.FactorizationMachine(seed=1, **PLANTED).fit(X, y)
    biases_only = fm.FactorizationMachine(seed=1, **PLANTED | {"factors_lr": 0, "factors_init_sigma": 0}).fit(
        X, y
    )

    def rmse(model):
        return np.sqrt(np.mean((model.predict(X_test) - y_test) ** 2))

    assert rmse(machine) < 0.5 * rmse(biases_only)
    assert rmse(machine) < 0.35
    assert machine.history[0]["rmse"] > machine.history[-1]["rmse"]
    assert len(machine.history) == 60


def test_classifier_learns_and_predicts_probabilities():
    X, y = planted(2, 4000)
    labels = (y > 3).astype(np.float32)
    machine = fm.FactorizationMachine(**PLANTED | {"predictor_type": "binary_classifier", "epochs": 20})
    scores = machine.fit(X, labels).predict(X)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert np.mean((scores > 0.5) == (labels > 0.5)) > 0.9
    assert machine.history[-1]["binary_classification_accuracy"] > 0.9
    assert machine.history[-1]["binary_f_1.000"] > 0.9


def test_repeats_give_the_same_bits_and_other_seeds_do_not():
    X, y = planted(2, 500)
    options = PLANTED | {"epochs": 3}
    first = fm.FactorizationMachine(seed=7, **options).fit(X, y).model
    again = fm.FactorizationMachine(**options).fit(X, y, seed=7).model
    other = fm.FactorizationMachine(seed=8, **options).fit(X, y).model
    assert first.factors.tobytes() == again.factors.tobytes()
    assert first.linear.tobytes() == again.linear.tobytes()
    assert first.bias == again.bias
    assert first.factors.tobytes() != other.factors.tobytes()


def test_the_seed_comes_from_the_environment(monkeypatch):
    X, y = planted(2, 100)
    options = PLANTED | {"epochs": 1}
    monkeypatch.setenv("REELBOOK_FM_SEED", "5")
    from_environment = fm.FactorizationMachine(**options).fit(X, y).model
    given = fm.FactorizationMachine(seed=5, **options).fit(X, y).model
    assert from_environment.factors.tobytes() == given.factors.tobytes()
    monkeypatch.setenv("REELBOOK_FM_SEED", "five")
    with pytest.raises(ParameterError, match="whole number"):
        fm.FactorizationMachine(**options).fit(X, y)


def test_metrics_count_a_partial_batch_as_a_full_one():
    X, y = planted(2, 95)
    options = PLANTED | {
        "epochs": 1,
        "mini_batch_size": 10,
        "bias_lr": 0,
        "linear_lr": 0,
        "factors_lr": 0,
    }
    machine = fm.FactorizationMachine(**options).fit(X, y)
    squared = float(np.sum((machine.predict(X).astype(float) - y) ** 2))
    assert machine.history[0]["mse"] == pytest.approx(squared / 100, rel=1e-5)


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
    options = PLANTED | {"epochs": 2, "use_bias": "false", "use_linear": "false"}
    model = fm.FactorizationMachine(**options).fit(X, y).model
    assert model.bias == 0
    assert not model.linear.any()


def test_divergence_is_told_with_the_learning_rates():
    X, y = planted(2, 300)
    with pytest.raises(ModelError, match=r"diverged.*factors_lr 1e\+20"):
        fm.FactorizationMachine(**PLANTED | {"factors_lr": 1e20}).fit(X, y)


def test_unscaled_features_are_warned_about():
    X = sparse.csr_matrix(np.array([[1, 2011.0], [1, 1994.0]], np.float32))
    machine = fm.FactorizationMachine(num_factors=2, predictor_type="regressor")
    with pytest.warns(UserWarning, match="Feature 1 holds values up to 2011"):
        machine.fit(X, [3, 4])


def test_repeated_entries_of_a_row_count_as_their_sum():
    twice = sparse.csr_matrix((np.float32([1, 1, 1]), [0, 0, 1], [0, 2, 3]), (2, 2))
    once = sparse.csr_matrix((np.float32([2, 1]), [0, 1], [0, 1, 2]), (2, 2))
    fitted = [
        fm.FactorizationMachine(num_factors=2, predictor_type="regressor").fit(X, [1, 2]).model
        for X in (twice, once)
    ]
    assert fitted[0].factors.tobytes() == fitted[1].factors.tobytes()
    assert twice.nnz == 3


def test_a_dense_array_makes_all_features_active():
    X = np.array([[1, 0, 0.5], [0, 0, 1]], np.float32)
    options = {"num_factors": 2, "predictor_type": "regressor", "linear_wd": 1.0, "linear_init_sigma": 1}
    dense = fm.FactorizationMachine(**options).fit(X, [1, 2]).model
    lazy = fm.FactorizationMachine(**options).fit(sparse.csr_matrix(X), [1, 2]).model
    assert dense.linear[1] != lazy.linear[1]
    assert dense.linear[0] == lazy.linear[0]


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.ones((3, 2)), np.ones(2), "3 examples, but labels of shape"),
        (np.ones((3, 2)), None, "no labels"),
        (np.ones((3, 2)), ["a", "b", "c"], "not numbers"),
        (np.ones((0, 2)), np.ones(0), "no rows"),
        (np.ones((3, 2)), np.array([1, np.nan, 2]), "labels hold values that are not finite"),
        (np.array([[1, np.inf]]), np.ones(1), "examples hold values that are not finite"),
        (np.ones((2, 2, 2)), np.ones(2), "as a matrix"),
    ],
    ids=["too_few_labels", "no_labels", "words", "no_rows", "nan_label", "infinite_value", "no_matrix"],
)
def test_bad_data_are_refused(X, y, message):
    machine = fm.FactorizationMachine(num_factors=2, predictor_type="regressor")
    with pytest.raises((DataError, ModelError), match=message):
        machine.fit(X, y)


def test_a_classifier_refuses_other_labels_than_0_and_1():
    machine = fm.FactorizationMachine(num_factors=2, predictor_type="binary_classifier")
    with pytest.raises(DataError, match="labels 0 and 1, but one label is 5"):
        machine.fit(np.ones((2, 2)), [1, 5])


def test_a_machine_that_is_not_fitted_says_so():
    machine = fm.FactorizationMachine(num_factors=2, predictor_type="regressor")
    with pytest.raises(ModelError, match="not fitted"):
        machine.predict(np.ones((1, 2)))


def test_hyperparameters_are_checked_when_the_machine_is_made():
    with pytest.raises(ParameterError, match="num_factors"):
        fm.FactorizationMachine(num_factor=2, predictor_type="regressor")
