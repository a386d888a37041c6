"""Training as a user meets it follows a plain float64 reference of the algorithm, as near as float32 can."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from fm_reference import Reference, Weights, logistic, outputs, weights_of
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from scipy import sparse

from lib import fm, recordio
from lib.fm.fit import Training
from lib.fm.hyperparameters import Hyperparameters, validate

SURE = 1e-4  # outputs nearer to 0 may be of either sign after rounding
DISCRETE = ("binary_classification_accuracy", "binary_f_1.000")


def hyperparameters(
    feature_dim: int, num_factors: int, classifier: bool, **others: object
) -> Hyperparameters:
    kind = "binary_classifier" if classifier else "regressor"
    given = {"feature_dim": feature_dim, "num_factors": num_factors, "predictor_type": kind}
    return validate(given | {name: value for name, value in others.items() if value is not None})


@dataclass
class Outcome:
    """What a training came to: weights, each epoch's metrics, and the smallest output without sign."""

    weights: Weights
    history: list[dict[str, float]]
    margin: float = np.inf


def by_reference(X, y, h: Hyperparameters, start: Weights, noise: int | None = None) -> Outcome:
    reference = Reference(h, start, None if noise is None else np.random.default_rng(noise))
    history = reference.train(X, y)
    return Outcome(reference.weights, history, reference.margin)


def by_kernels(training: Training) -> Outcome:
    history = [report.metrics for report in training if report.ended]
    return Outcome(weights_of(training.model()), history)


def assert_within_rounding(found: Outcome, X, y, h: Hyperparameters, start: Weights) -> dict[str, float]:
    """Compare with the reference: be no further off than a few times what rounding does to the reference itself."""
    want = by_reference(X, y, h, start)
    disturbed = [by_reference(X, y, h, start, noise) for noise in range(3)]
    allowed = {}
    for group, off in found.weights.furthest(want.weights).items():
        size = float(np.abs(getattr(want.weights, group)).max(initial=0))
        by_noise = max(one.weights.furthest(want.weights)[group] for one in disturbed)
        allowed[group] = 10 * by_noise + 1e-6 * (1 + size)
        assert off <= allowed[group], f"{group} is off by {off:.2g}, allowed are {allowed[group]:.2g}"
    sure = min(one.margin for one in (want, *disturbed)) > SURE
    for epoch, metrics in enumerate(want.history):
        assert found.history[epoch].keys() == metrics.keys()
        for name, value in metrics.items():
            if name not in DISCRETE:
                by_noise = max(abs(one.history[epoch][name] - value) for one in disturbed)
                assert abs(found.history[epoch][name] - value) <= 10 * by_noise + 1e-5 * (1 + abs(value)), (
                    name
                )
            elif sure:
                assert found.history[epoch][name] == pytest.approx(value, abs=1e-12), name
    return allowed


def rows(rng: np.random.Generator, n: int, d: int, density: float, values: str) -> sparse.csr_matrix:
    """Rows of any number of features, empty ones among them, whose values are ones, signed, or partly 0."""
    stored = rng.random((n, d)) < density
    row, column = np.nonzero(stored)
    numbers = {
        "ones": np.ones(len(row)),
        "signed": rng.normal(0, 1, len(row)),
        "with_zeros": rng.integers(-1, 3, len(row)) * 0.5,
    }[values]
    return sparse.csr_matrix((numbers.astype(np.float32), (row, column)), shape=(n, d))


def labels(rng: np.random.Generator, n: int, classifier: bool) -> np.ndarray:
    y = rng.random(n) < 0.5 if classifier else rng.normal(3, 1, n)
    return y.astype(np.float32)


def with_repeated_columns(X: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same rows, each value stored as two parts, and the columns in no order."""
    halves = np.repeat(X.data / 2, 2).astype(np.float32)
    again = sparse.csr_matrix((halves, np.repeat(X.indices, 2), 2 * X.indptr), X.shape)
    backwards = [np.arange(first, last)[::-1] for first, last in itertools.pairwise(again.indptr)]
    order = np.concatenate(backwards)
    return sparse.csr_matrix((again.data[order], again.indices[order], again.indptr), X.shape)


@st.composite
def settings_of_a_training(draw: st.DrawFn) -> dict[str, object]:
    """All hyperparameters but the sizes."""

    def maybe(values: st.SearchStrategy) -> object:
        return draw(st.none() | values)

    drawn: dict[str, object] = {
        "epochs": draw(st.integers(1, 3)),
        "mini_batch_size": draw(st.integers(1, 90)),
        "clip_gradient": maybe(st.sampled_from([-1, 0, 1e-3, 0.05, 10])),
        "eps": maybe(st.sampled_from([1e-10, 1e-6, 1e-3, 0.1])),
        "rescale_grad": maybe(st.sampled_from([1e-3, 0.02, 1.0])),
        "use_bias": draw(st.booleans()),
        "use_linear": draw(st.booleans()),
        "batch_metrics_publish_interval": draw(st.integers(1, 5)),
    }
    for group in ("bias", "linear", "factors"):
        drawn[f"{group}_lr"] = maybe(st.sampled_from([0, 1e-4, 0.01, 0.1]))
        drawn[f"{group}_wd"] = maybe(st.sampled_from([0, 1e-5, 0.01, 0.5]))
        method = drawn[f"{group}_init_method"] = draw(st.sampled_from(["normal", "uniform", "constant"]))
        drawn[f"{group}_init_sigma"] = maybe(st.sampled_from([0, 1e-3, 0.1]))
        drawn[f"{group}_init_scale"] = maybe(st.sampled_from([0, 0.05, 0.3]))
        drawn[f"{group}_init_value"] = draw(st.sampled_from([-0.2, 0, 0.1])) if method == "constant" else None
    return drawn


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 25),
    k=st.sampled_from([1, 2, 3, 5, 7, 8, 20, 70]),
    density=st.sampled_from([0, 0.05, 0.3, 1]),
    values=st.sampled_from(["ones", "signed", "with_zeros"]),
    form=st.sampled_from(["csr", "repeated_columns", "csc", "dense"]),
    classifier=st.booleans(),
    others=settings_of_a_training(),
    threads=st.integers(1, 3),
    memory_bytes=st.sampled_from([None, 0]),
    seed=st.integers(0, 1000),
)
def test_any_training_follows_the_reference(
    n, d, k, density, values, form, classifier, others, threads, memory_bytes, seed
):
    rng = np.random.default_rng(seed)
    X, y = rows(rng, n, d, density, values), labels(rng, n, classifier)
    h = hyperparameters(d, k, classifier, **others)
    data = {
        "csr": X,
        "repeated_columns": with_repeated_columns(X),
        "csc": X.tocsc(),
        "dense": X.toarray(),
    }[form]
    training = Training(data, y, h, seed=seed, threads=threads, memory_bytes=memory_bytes)
    start = weights_of(training.model())
    if form == "dense":  # all its features are active in every batch
        X = sparse.csr_matrix((X.toarray().ravel(), np.tile(np.arange(d), n), np.arange(n + 1) * d), X.shape)
    allowed = assert_within_rounding(by_kernels(training), X, y, h, start)
    event(f"rounding allows {max(1e-6, 10.0 ** round(np.log10(max(allowed.values()))))}")


USUAL = {"n": 60, "d": 12, "k": 4, "density": 0.3, "scale": 1}
CASES = {
    "one row": {"n": 1, "d": 3, "k": 1, "density": 1},
    "one row of one feature": {"n": 1, "d": 1, "k": 2, "density": 1},
    "rows without features": {"density": 0},
    "empty rows between": {"d": 30, "density": 0.03},
    "few features, many rows": {"n": 300, "d": 2, "density": 0.8},
    "many features, few rows": {"n": 8, "d": 2000, "density": 0.01},
    "wide rows": {"n": 30, "d": 300, "density": 0.9, "scale": 0.1},
    "one factor": {"n": 90, "k": 1},
    "eight factors": {"n": 90, "k": 8},
    "seventy factors": {"n": 40, "k": 70},
    "a batch larger than the data": {"mini_batch_size": 1000},
    "a batch of one row": {"mini_batch_size": 1},
    "a partial last batch": {"n": 61, "mini_batch_size": 20},
    "gradients clipped": {"clip_gradient": 0.01},
    "gradients rescaled": {"rescale_grad": 1.0, "eps": 1e-4},
    "strong decay": {"bias_wd": 0.5, "linear_wd": 0.4, "factors_wd": 0.3},
    "no bias": {"use_bias": "false"},
    "no weights": {"use_linear": "false"},
    "large values": {"scale": 30},
}


@pytest.mark.parametrize("classifier", [False, True], ids=["regressor", "classifier"])
@pytest.mark.parametrize("case", CASES)
def test_trainings_of_many_shapes_differ_by_less_than_2e_5(case, classifier):
    rng = np.random.default_rng(7)
    options = USUAL | CASES[case]
    n, d, k, density, scale = (options.pop(name) for name in USUAL)
    X = scale * rows(rng, n, d, density, "signed")
    y = labels(rng, n, classifier)
    own = {
        "epochs": 3,
        "mini_batch_size": 16,
        "factors_lr": 0.01,
        "linear_lr": 0.02,
        "factors_init_sigma": 0.1,
    }
    h = hyperparameters(d, k, classifier, **own | options)
    training = Training(X.astype(np.float32), y, h, seed=1)
    start = weights_of(training.model())
    want = by_reference(X, y, h, start)
    got = by_kernels(training)
    assert max(got.weights.furthest(want.weights).values()) < 2e-5
    for metrics, expected in zip(got.history, want.history, strict=True):
        assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_recordio_files_train_as_the_matrix_that_they_hold(tmp_path):
    rng = np.random.default_rng(3)
    X, y = rows(rng, 70, 15, 0.3, "signed"), labels(rng, 70, False)
    paths = []
    for number, part in enumerate((slice(0, 30), slice(30, 70))):
        paths.append(tmp_path / f"part-{number}.pbr")
        with paths[-1].open("wb") as file:
            recordio.write(file, X[part], y[part])
    h = hyperparameters(15, 5, False, epochs=3, mini_batch_size=16, factors_lr=0.01)
    training = Training.from_files(paths, h, seed=2)
    start = weights_of(training.model())
    assert_within_rounding(by_kernels(training), X, y, h, start)


@pytest.mark.parametrize("classifier", [False, True], ids=["regressor", "classifier"])
def test_predictions_follow_the_equation_before_and_after_saving(tmp_path, classifier):
    rng = np.random.default_rng(4)
    X, y = rows(rng, 50, 12, 0.4, "signed"), labels(rng, 50, classifier)
    training = Training(X, y, hyperparameters(12, 6, classifier, factors_init_sigma=0.5), seed=5)
    list(training)
    model = training.model()
    want = outputs(X.toarray().astype(float), weights_of(model))
    np.testing.assert_allclose(training.outputs(X), want, rtol=1e-5, atol=1e-5)
    want = logistic(want) if classifier else want
    again = fm.load(model.save(tmp_path / "model.tar.gz"))
    np.testing.assert_allclose(model.predict(X), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_the_reference_notices_dense_adam():
    """It has teeth: moments that also move where a feature is not active are far beyond rounding."""
    rng = np.random.default_rng(6)
    X, y = rows(rng, 60, 20, 0.05, "ones"), labels(rng, 60, False)
    h = hyperparameters(20, 4, False, epochs=2, mini_batch_size=5)
    lazy = Training(X, y, h, seed=1)
    start = weights_of(lazy.model())
    with pytest.raises(AssertionError, match="is off by"):
        assert_within_rounding(by_kernels(Training(X.toarray(), y, h, seed=1)), X, y, h, start)
    assert_within_rounding(by_kernels(lazy), X, y, h, start)
