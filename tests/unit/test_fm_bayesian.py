"""Bayesian Factorization Machines: what is planted is found, and doubt is as large as it should be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import sparse
from scipy.special import ndtr

from lib.errors import DataError, ModelError, ParameterError
from lib.fm import memory
from lib.fm.bayesian import Sampling
from lib.fm.fold import average
from lib.fm.model import Model

CUSTOMERS, VIDEOS = 120, 60
COVERAGES = (0.5, 0.8, 0.9, 0.95)


def planted(n: int, *, noise: float = 0.5, seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Rows of two fields, their outputs without noise, and labels about 3.5."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99)
    d = CUSTOMERS + VIDEOS
    model = Model(3.5, truth.normal(0, 0.4, d), truth.normal(0, 0.6, (d, 3)))
    columns = np.stack([rng.integers(0, CUSTOMERS, n), CUSTOMERS + rng.integers(0, VIDEOS, n)], axis=1)
    starts = np.arange(0, 2 * n + 1, 2)
    X = sparse.csr_matrix((np.ones(2 * n, np.float32), columns.ravel(), starts), shape=(n, d))
    clean = model.outputs(X)
    return X, clean, clean + noise * rng.normal(size=n).astype(np.float32)


def run(sampling: Sampling) -> list:
    return list(sampling)


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.fixture(scope="module")
def sampled() -> tuple[Sampling, list]:
    X, _, y = planted(6000)
    test = planted(3000, seed=1)
    sampling = Sampling(
        X, y, num_factors=4, samples=140, burn_in=20, test=(test[0], test[2]), threads=1, seed=3
    )
    return sampling, run(sampling)


def test_a_planted_model_is_found(sampled: tuple[Sampling, list]):
    sampling, reports = sampled
    X, clean, _ = planted(3000, seed=1)
    assert rmse(sampling.posterior_mean(X), clean) < 0.3 * float(clean.std())
    assert reports[-1].test["rmse"] == pytest.approx(
        math.hypot(0.5, rmse(sampling.test_mean, clean)), abs=0.02
    )
    noise = [1 / math.sqrt(report.noise_precision) for report in reports[-20:]]
    assert np.mean(noise) == pytest.approx(0.5, abs=0.03)


def test_reports_count_sweeps_and_draws(sampled: tuple[Sampling, list]):
    sampling, reports = sampled
    assert [report.sweep for report in reports] == list(range(160))
    assert sampling.sweeps == 160
    assert reports[19].draws == 0
    assert reports[-1].draws == sampling.draws == sampling.kept == 160 - 4 * 20
    assert set(reports[0].train) == {"rmse", "mse", "absolute_loss"}


def test_the_mean_of_the_test_rows_is_that_of_the_kept_draws(sampled: tuple[Sampling, list]):
    sampling, _ = sampled
    X = planted(3000, seed=1)[0]
    np.testing.assert_allclose(sampling.test_mean, sampling.posterior_mean(X), atol=1e-6)
    for coverage in COVERAGES:
        np.testing.assert_allclose(
            sampling.test_interval(coverage), sampling.interval(X, coverage), atol=1e-5
        )


@pytest.mark.parametrize("coverage", COVERAGES)
def test_intervals_hold_the_share_they_say(sampled: tuple[Sampling, list], coverage: float):
    sampling, _ = sampled
    X, _, y = planted(3000, seed=2)
    low, high = sampling.interval(X, coverage)
    assert np.mean((low <= y) & (y <= high)) == pytest.approx(coverage, abs=0.03)


def test_spread_is_the_doubt_about_the_model(sampled: tuple[Sampling, list]):
    sampling, _ = sampled
    X, clean, _ = planted(3000, seed=1)
    error = (sampling.posterior_mean(X) - clean) / sampling.spread(X)
    assert float(np.sqrt(np.mean(error**2))) == pytest.approx(1, abs=0.2)
    rare = sparse.csr_matrix(([1.0], ([0], [0])), shape=(1, CUSTOMERS + VIDEOS))
    assert sampling.spread(rare).shape == (1,)


def test_the_folded_model_predicts_the_posterior_mean(sampled: tuple[Sampling, list]):
    sampling, _ = sampled
    X = planted(3000, seed=1)[0]
    model = sampling.model()
    assert (model.num_factors, model.predictor_type) == (4, "regressor")
    assert rmse(model.predict(X), sampling.posterior_mean(X)) < 0.1
    assert rmse(sampling.model(40).predict(X), sampling.posterior_mean(X)) < 0.01
    averaged = average([model, model])
    np.testing.assert_allclose(averaged.predict(X), model.predict(X), atol=1e-5)


def test_diagnostics_tell_of_the_chain(sampled: tuple[Sampling, list]):
    found = sampled[0].diagnostics()
    assert set(found) == {
        "train_rmse", "noise_precision", "bias", "linear_size", "factors_size", "outputs",
    }  # fmt: skip
    assert found["outputs"].r_hat < 1.2
    assert 10 < found["outputs"].effective <= 200
    assert found["noise_precision"].mean == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("kind", ["two fields", "wide", "dense"])
def test_any_number_of_threads_gives_the_same_bits(kind: str):
    X, _, y = planted(2000)
    if kind != "two fields":
        extra = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
        X = sparse.hstack([X, extra], format="csr")
    if kind == "dense":
        X = X.toarray()[:, -5:]
    models = []
    for threads in (1, 2, 3):
        sampling = Sampling(X, y, num_factors=5, samples=6, burn_in=2, threads=threads, test=(X, y))
        run(sampling)
        models.append((sampling.model(), sampling.test_mean))
    for model, mean in models[1:]:
        assert model.bias == models[0][0].bias
        np.testing.assert_array_equal(model.factors, models[0][0].factors)
        np.testing.assert_array_equal(model.linear, models[0][0].linear)
        np.testing.assert_array_equal(mean, models[0][1])


def test_the_seed_decides_the_draws():
    X, _, y = planted(500)
    means = []
    for seed in (1, 1, 2):
        sampling = Sampling(X, y, num_factors=2, samples=5, burn_in=0, seed=seed)
        run(sampling)
        means.append(sampling.posterior_mean(X))
    assert (means[0] == means[1]).all()
    assert (means[0] != means[2]).any()


def test_wider_rows_find_a_planted_model_too():
    rng = np.random.default_rng(0)
    X = sparse.random(4000, 40, density=0.15, random_state=rng, format="csr").astype(np.float32)
    truth = Model(-1, rng.normal(0, 0.3, 40), rng.normal(0, 0.8, (40, 2)))
    clean = truth.outputs(X)
    y = clean + 0.1 * rng.normal(size=4000)
    sampling = Sampling(X[:3000], y[:3000], num_factors=3, samples=60, burn_in=30, rounds=1)
    assert sampling.blocks == [40]
    run(sampling)
    assert rmse(sampling.posterior_mean(X[3000:]), clean[3000:]) < 0.1
    assert rmse(sampling.model().predict(X[3000:]), clean[3000:]) < 0.15


def test_linear_regression_has_its_closed_form():
    """Rows of one feature have no pairs: what is left is a normal mean for each feature."""
    rng = np.random.default_rng(0)
    features = np.repeat(np.arange(20), 100)
    X = sparse.csr_matrix((np.ones(2000), (np.arange(2000), features)), shape=(2000, 20))
    y = rng.normal(size=20)[features] + 0.5 * rng.normal(size=2000)
    sampling = Sampling(X, y, num_factors=1, samples=2000, burn_in=20, rounds=1, threads=1)
    run(sampling)
    one_each = sparse.identity(20, format="csr")
    means = np.array([y[features == feature].mean() for feature in range(20)])
    np.testing.assert_allclose(sampling.posterior_mean(one_each), means, atol=0.02)
    np.testing.assert_allclose(sampling.spread(one_each), 0.5 / math.sqrt(100), rtol=0.15)


def test_the_scale_of_the_labels_does_not_matter():
    X, _, y = planted(800)
    predictions = []
    for labels in (y, 1000 * y - 7000):
        sampling = Sampling(X, labels, num_factors=3, samples=10, burn_in=4, threads=1)
        run(sampling)
        predictions.append(np.stack([sampling.posterior_mean(X), *sampling.interval(X, 0.8)]))
    np.testing.assert_allclose(1000 * predictions[0] - 7000, predictions[1], atol=5)


def test_it_can_be_left_and_gone_on_with():
    X, _, y = planted(500)
    options = {"num_factors": 2, "samples": 8, "burn_in": 2, "threads": 1, "rounds": 1}
    whole, parts = Sampling(X, y, **options), Sampling(X, y, **options)
    run(whole)
    for report in parts:
        if report.sweep == 4:
            break
    assert (parts.sweeps, parts.draws) == (5, 3)
    early = parts.posterior_mean(X)
    assert [report.sweep for report in parts] == [5, 6, 7, 8, 9]
    np.testing.assert_array_equal(parts.posterior_mean(X), whole.posterior_mean(X))
    assert (early != parts.posterior_mean(X)).any()
    assert list(parts) == []


def test_before_the_first_draw_the_model_is_the_present_state():
    X, _, y = planted(500)
    sampling = Sampling(X, y, num_factors=2, samples=5, burn_in=5, rounds=1)
    next(iter(sampling))
    assert rmse(sampling.model().predict(X), y) < 2 * float(np.std(y))
    with pytest.raises(ModelError, match="There are no draws yet: 1 of 5 sweeps"):
        sampling.posterior_mean(X)
    with pytest.raises(ModelError, match="There are no test rows"):
        sampling.test_mean


def test_kept_draws_are_spaced_evenly():
    X, _, y = planted(500)
    sampling = Sampling(X, y, num_factors=2, samples=20, burn_in=0, keep=6)
    run(sampling)
    assert (sampling.draws, sampling.kept) == (20, 6)


def test_rows_held_out_set_the_width_of_intervals():
    """Noise of heavy tails: normal intervals of half the labels would hold far more."""
    X, clean, _ = planted(24_000)
    y = clean + 0.5 * np.random.default_rng(1).standard_t(2.1, 24_000)
    shares = []
    for held_out in (0.0, 0.2):
        sampling = Sampling(
            X[:12_000], y[:12_000], num_factors=3, samples=30, burn_in=10, rounds=1, held_out=held_out
        )
        run(sampling)
        low, high = sampling.interval(X[12_000:], 0.5)
        shares.append(np.mean((low <= y[12_000:]) & (y[12_000:] <= high)))
    assert shares[0] > 0.6
    assert shares[1] == pytest.approx(0.5, abs=0.04)


def test_probabilities_are_calibrated():
    X, clean, _ = planted(9000)
    chance = ndtr(1.2 * (clean - 3.5))
    y = np.random.default_rng(5).random(9000) < chance
    sampling = Sampling(
        X[:6000], y[:6000], num_factors=4, predictor_type="binary_classifier", samples=60, burn_in=20,
        test=(X[6000:], y[6000:]),
    )  # fmt: skip
    report = run(sampling)[-1]
    best = float(np.maximum(chance, 1 - chance).mean())
    assert report.test["binary_classification_accuracy"] > best - 0.05
    probability = sampling.posterior_mean(X[6000:])
    for low in np.arange(0, 1, 0.2):
        inside = (probability >= low) & (probability < low + 0.2)
        assert probability[inside].mean() == pytest.approx(chance[6000:][inside].mean(), abs=0.05)
    low, high = sampling.interval(X[6000:], 0.9)
    assert ((low >= 0) & (low <= high) & (high <= 1)).all()
    assert np.mean((low <= chance[6000:]) & (chance[6000:] <= high)) == pytest.approx(0.9, abs=0.06)
    model = sampling.model()
    assert model.classifier
    assert rmse(model.predict(X[6000:]), probability) < 0.04
    assert "noise_precision" not in sampling.diagnostics()


def test_constant_labels_are_predicted():
    X, _, _ = planted(300)
    sampling = Sampling(X, np.full(300, 4.0), num_factors=2, samples=20, burn_in=20, rounds=1)
    run(sampling)
    np.testing.assert_allclose(sampling.posterior_mean(X), 4, atol=0.3)


def test_one_row_is_enough():
    sampling = Sampling(np.array([[1.0, 2.0]]), [3.0], num_factors=2, samples=3, burn_in=0)
    run(sampling)
    assert np.isfinite(sampling.posterior_mean([[1.0, 2.0]])).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_factors": 0}, "num_factors must be a whole number of 1 or more, not 0"),
        ({"num_factors": 2.5}, "num_factors must be a whole number"),
        ({"samples": 0}, "samples must be a whole number of 1 or more"),
        ({"burn_in": -1}, "burn_in must be a whole number of 0 or more"),
        ({"keep": 0}, "keep must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"rounds": 200}, "leave no draws"),
        ({"blocks": [100, 100]}, "have 200 columns in all, but the examples have 180"),
        ({"blocks": [180, 0]}, "1 or more each"),
        ({"predictor_type": "ranker"}, "regressor or binary_classifier, not 'ranker'"),
        ({"held_out": 1.0}, "held_out must be a share"),
        ({"threads": 0}, "threads"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str):
    X, _, y = planted(50)
    with pytest.raises(ParameterError, match=message):
        Sampling(X, y, **options)


def test_a_coverage_out_of_range_is_refused(sampled: tuple[Sampling, list]):
    with pytest.raises(ParameterError, match="coverage must be between 0 and 1, not 90"):
        sampled[0].interval(planted(5)[0], 90)


def test_bad_data_are_refused():
    X, _, y = planted(50)
    with pytest.raises(DataError, match=r"row 7"):
        Sampling(X, np.where(np.arange(50) == 7, np.nan, y))
    with pytest.raises(DataError, match=r"row 3"):
        Sampling(X, np.where(np.arange(50) == 3, 2, 1), predictor_type="binary_classifier")
    with pytest.raises(DataError, match="50 examples, but labels of shape"):
        Sampling(X, y[:-1])
    with pytest.raises(DataError, match="no rows"):
        Sampling(X[:0], y[:0])
    dense = X.toarray()
    dense[4, 9] = np.inf
    with pytest.raises(DataError, match=r"row 4, column 9"):
        Sampling(dense, y)
    with pytest.raises(ModelError, match="takes 180 features, but the examples have 3"):
        Sampling(X, y, test=(np.ones((2, 3)), [1, 2]))
    with pytest.raises(DataError, match="column"):
        Sampling(sparse.csr_matrix((X.data, X.indices - 200, X.indptr), shape=X.shape), y)


def test_what_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch):
    X, _, y = planted(50)
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    with pytest.raises(ModelError, match=r"50 rows of 180 features with 32 factors needs about .* 10 kB are"):
        Sampling(X, y)
