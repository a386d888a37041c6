"""The local extensions: their names, early stopping, the learning-rate finder, and averages of seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from lib.errors import DataError, ModelError, ParameterError
from lib.fm import extensions, fold, lr_finder
from lib.fm.early_stopping import EarlyStopping
from lib.fm.extensions import Extensions, check_together, read, refuse_on_aws
from lib.fm.fit import Training
from lib.fm.hyperparameters import Hyperparameters, validate

CUSTOMERS, VIDEOS = 60, 40
FEATURES = CUSTOMERS + VIDEOS


def ratings(n: int, seed: int = 0, noise: float = 0.4) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return ratings by customers and of videos that have a taste in common."""
    rng = np.random.default_rng(seed)
    columns = np.stack([rng.integers(0, CUSTOMERS, n), rng.integers(CUSTOMERS, FEATURES, n)], 1)
    truth = np.random.default_rng(9)
    weights, factors = truth.normal(0, 0.5, FEATURES), truth.normal(0, 0.6, (FEATURES, 2))
    y = 3.5 + weights[columns].sum(1) + (factors[columns[:, 0]] * factors[columns[:, 1]]).sum(1)
    X = sparse.csr_matrix(
        (np.ones(2 * n, np.float32), columns.ravel(), np.arange(0, 2 * n + 1, 2)), (n, FEATURES)
    )
    return X, (y + rng.normal(0, noise, n)).astype(np.float32)


def hyperparameters(**changes: object) -> Hyperparameters:
    given = {"feature_dim": FEATURES, "num_factors": 4, "predictor_type": "regressor", "mini_batch_size": 100}
    return validate(given | {"linear_lr": 0.01, "factors_lr": 0.01, "epochs": 30} | changes)


def rmse(outputs: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((outputs - y) ** 2)))


# ---- names, ranges, and what goes together


def test_by_default_all_are_off_and_nothing_is_on_the_wire():
    assert read({}) == Extensions()
    assert Extensions().wire() == {}
    assert not Extensions().bayesian


def test_what_differs_from_its_default_is_on_the_wire_and_read_back():
    asked = read(
        {"local_seeds": 4, "local_fold": True, "local_early_stopping": "3", "local_lr_finder": "0.1"}
    )
    assert asked.wire() == {
        "local_seeds": "4",
        "local_fold": "true",
        "local_early_stopping": "3",
        "local_lr_finder": "0.1",
    }
    assert read(asked.wire()) == asked
    assert read({"local_seeds": "1", "local_samples": "200"}).wire() == {}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"local_seed": "2"}, "no local extension `local_seed`. Did you mean `local_seeds`?"),
        ({"local_zzzzzzzz": "2"}, "There are local_algorithm, "),
        ({"local_seeds": "0"}, "`local_seeds` must be 1 or more, not '0'"),
        ({"local_seeds": "101"}, "`local_seeds` must be 100 or less"),
        ({"local_seeds": "2.5"}, "`local_seeds` must be a whole number"),
        ({"local_early_stopping": "-1"}, "`local_early_stopping` must be 0 or more"),
        ({"local_lr_finder": "1.5"}, "`local_lr_finder` must be 1 or less"),
        ({"local_lr_finder": True}, "`local_lr_finder` must be a number"),
        ({"local_fold": "yes"}, "`local_fold` must be true or false"),
        ({"local_fold": "true"}, "`local_fold` needs `local_seeds` of 2 or more"),
        ({"local_algorithm": "bayes"}, "`local_algorithm` must be one of 'adam' or 'bayesian', not 'bayes'"),
        ({"local_samples": "50"}, "`local_samples` has no meaning with `local_algorithm: adam`"),
        (
            {"local_algorithm": "bayesian", "local_seeds": "2"},
            "`local_seeds` has no meaning with `local_algorithm: bayesian`",
        ),
        ({"local_algorithm": "bayesian", "local_samples": "0"}, "`local_samples` must be 1 or more"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(values, sentence):
    with pytest.raises(ParameterError) as refused:
        read(values)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_extension_is_refused_for_aws_by_the_name_that_the_user_knows():
    others = {
        "algorithm": "bayesian",
        "early_stopping": 3,
        "lr_finder": 0.1,
        "seeds": 2,
        "fold": True,
        "samples": 9,
        "burn_in": 9,
    }
    assert set(others) == set(Extensions.model_fields)
    for name, value in others.items():
        with pytest.raises(ParameterError, match=f"`my {name}: .*` is a local extension, which SageMaker"):
            refuse_on_aws(Extensions.model_validate({name: value}), lambda known: f"my {known}")
    refuse_on_aws(Extensions(), str)
    check_together(Extensions(), str)


def test_they_are_hyperparameters_that_the_artifact_does_not_show():
    checked = hyperparameters(local_seeds="3", _kvstore="auto")
    assert checked.extensions.seeds == 3
    assert checked.rounds == 3 * 30
    assert not any(name.startswith(extensions.PREFIX) for name in checked.wire())
    assert checked.wire(local=True) == {**checked.wire(), "local_seeds": "3"}
    assert validate(checked.wire(local=True)) == checked


# ---- early stopping


def test_early_stopping_keeps_the_best_of_an_error_that_turns_up():
    X, y = ratings(1500)
    X_test, y_test = ratings(800, seed=1)
    training = Training(X, y, hyperparameters(factors_lr=0.03, factors_init_sigma=0.1, epochs=200))
    stopping = EarlyStopping(5, X_test, y_test)
    losses = []
    for report in training:
        if report.ended:
            metrics = stopping.after(training, report.epoch)
            losses.append(rmse(training.model().outputs(X_test), y_test))
            assert metrics["rmse"] == pytest.approx(losses[-1], rel=1e-5)
            if stopping.exhausted:
                break
    best = int(np.argmin(losses))
    assert 0 < best < 190  # it did turn up
    assert len(losses) == best + 1 + 5
    assert stopping.best_epoch == best
    assert stopping.best_loss == pytest.approx(losses[best], rel=1e-5)
    assert rmse(training.model(stopping.best).outputs(X_test), y_test) == pytest.approx(
        losses[best], rel=1e-5
    )


def test_early_stopping_without_rows_is_one_sentence():
    X, y = ratings(10)
    with pytest.raises(DataError, match="no test rows"):
        EarlyStopping(3, X[:0], y[:0])


# ---- the learning-rate finder


def trained_rmse(rates: dict[str, float]) -> float:
    X_test, y_test = ratings(800, seed=1, noise=0.1)
    training = Training(*ratings(4000, noise=0.1), hyperparameters(**rates))
    for _ in training:
        pass
    return rmse(training.outputs(X_test), y_test)


@pytest.mark.parametrize("off", [0.01, 100.0])
def test_rates_that_are_found_train_better_than_those_a_hundred_times_off(off):
    start = {"bias_lr": 0.1 * off, "linear_lr": 0.01 * off, "factors_lr": 0.01 * off}
    found = lr_finder.find(*ratings(4000, noise=0.1), hyperparameters(**start), share=0.3)
    assert set(found.rates) == set(start)
    factors = {found.rates[name] / start[name] for name in start}
    assert max(factors) == pytest.approx(min(factors))
    assert trained_rmse(found.rates) < 0.9 * trained_rmse(start)


def test_the_finder_keeps_to_its_share_of_the_training():
    h = hyperparameters(epochs=400, mini_batch_size=50)
    X, y = ratings(1000)
    all_batches = 400 * 20
    found = lr_finder.find(X, y, h, share=0.1)
    assert found.batches <= 0.11 * all_batches
    assert found.batches == sum(trial.batches for trial in found.trials)
    assert lr_finder.find(X, y, h, share=0.1) == found


def test_the_finder_tells_a_divergence_from_a_loss():
    X, y = ratings(400)
    found = lr_finder.find(
        X, y, hyperparameters(factors_lr=1e18, bias_lr=0, linear_lr=0, epochs=2), share=0.2
    )
    assert any("diverged" in trial.outcome for trial in found.trials)
    assert any("held-out loss" in trial.outcome for trial in found.trials)
    assert found.rates["bias_lr"] == 0
    with pytest.raises(ModelError, match="no rates at which the training does not diverge"):
        lr_finder.find(X, y, hyperparameters(factors_lr=1e30, epochs=2), share=0.2)


def test_the_finder_needs_rows_to_hold_out():
    with pytest.raises(DataError, match="there are only 1 rows"):
        lr_finder.find(*ratings(1), hyperparameters(), share=0.1)


def test_the_finder_that_is_asked_to_stop_leaves_the_rates_as_they_are():
    h = hyperparameters()
    found = lr_finder.find(*ratings(200), h, share=0.1, asked_to_stop=lambda: True)
    assert found.rates == {name: getattr(h, name) for name in lr_finder.RATES}
    assert found.trials == []


# ---- averages of seeds


def test_the_average_of_seeds_predicts_the_mean_of_their_predictions():
    X, y = ratings(1500)
    X_test, y_test = ratings(800, seed=1)
    models = []
    for seed in range(4):
        training = Training(X, y, hyperparameters(factors_init_sigma=0.1), seed=seed)
        for _ in training:
            pass
        models.append(training.model())
    average = fold.average(models)
    assert average.num_factors == 4 * 4
    alone = [model.outputs(X_test) for model in models]
    np.testing.assert_allclose(average.outputs(X_test), np.mean(alone, axis=0), rtol=1e-4)
    assert rmse(average.outputs(X_test), y_test) < min(rmse(outputs, y_test) for outputs in alone)
