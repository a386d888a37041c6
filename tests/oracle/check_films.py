"""The learning curve of a real SageMaker job, on the very ratings that it trained on: MovieLens 100k.

They are read out of RecBole's package, which carries them as an example, and stay in ``.bench/``.  GroupLens
lets them be used for research, with citation, and not be passed on; the licence is printed.

The job's rows were those of MovieLens' first split: of the ratings in the order of their file the first 20,000 are
the test, and the others are the training rows, sorted by customer and film.  It is a hard one: all of the test is of
459 customers.
"""

from __future__ import annotations

import exchange
import numpy as np
import pytest
from environment import ROOT

from benchmarks.support.ratings import FILMS_LICENCE, Rows, films
from lib.fm.fit import Training
from lib.fm.hyperparameters import validate
from lib.fm.metrics import evaluate

# from the job's log: 64 factors, the default hyperparameters, 50 epochs of batches of 1,000 rows
TRAIN_RMSE = {0: 1.8169, 1: 1.1113, 2: 1.1040, 49: 0.9417}
TEST = {"rmse": 1.0003, "absolute_loss": 0.7952}
SEEDS = 20
ALLOWED = 0.0015
GIVEN = {"num_factors": 64, "predictor_type": "regressor", "epochs": 50}


@pytest.fixture(scope="module")
def split(agreement) -> tuple[Rows, Rows]:
    """The training rows and the test rows."""
    agreement.notes.append(FILMS_LICENCE)
    rows = films(ROOT / ".bench" / "data")
    assert len(rows) == 100_000
    assert rows.fields == (943, 1682)

    def ordered(numbers: np.ndarray) -> Rows:
        customer, film = rows.X.indices.reshape(-1, 2)[numbers].T
        return rows.take(numbers[np.lexsort((film, customer))])

    test, train = ordered(np.arange(20_000)), ordered(np.arange(20_000, 100_000))
    assert len(np.unique(test.X.indices[::2])) == 459
    return train, test


def test_the_curve_is_that_of_the_real_job(split, agreement):
    """The job's seed is not known: the mean of many is compared, and in the first epoch their spread allowed."""
    train, test = split
    h = validate(GIVEN | {"feature_dim": train.X.shape[1]})
    curves, tests = [], []
    for seed in range(SEEDS):
        training = Training(train.X, train.y, h, seed=seed)
        curves.append([report.metrics["rmse"] for report in training if report.ended])
        tests.append(evaluate(training.outputs(test.X), test.y, classifier=False))
    mean, spread = np.mean(curves, axis=0), np.std(curves, axis=0)
    for epoch, real in TRAIN_RMSE.items():
        allowed = ALLOWED if epoch else 2 * float(spread[0])
        what = f"films, real job: train RMSE {mean[epoch]:.4f} of epoch {epoch}, {real:.4f} there"
        agreement.within(what, abs(mean[epoch] - real), allowed)
    for name, real in TEST.items():
        ours = float(np.mean([metrics[name] for metrics in tests]))
        agreement.within(
            f"films, real job: test {name} {ours:.4f}, {real:.4f} there", abs(ours - real), ALLOWED
        )


def test_the_curve_is_mxnets_from_the_same_start(split, tmp_path, agreement):
    train, _ = split
    h = validate(GIVEN | {"feature_dim": train.X.shape[1]})
    training = Training(train.X, train.y, h, seed=1)
    exchange.unpack(training.model(), tmp_path)
    exchange.save_rows(tmp_path, train.X, train.y)
    found = exchange.run({tmp_path: exchange.train_task(h)})[tmp_path]
    rmse = np.array([report.metrics["rmse"] for report in training if report.ended])
    agreement.within("films, MXNet: training RMSE of 50 epochs", np.abs(rmse - found["rmse"]).max(), 2e-5)
    apart = exchange.relative(training.model().predict(train.X), found["predictions"])
    agreement.within("films, MXNet: predictions after 4,000 steps", apart, 5e-5)
