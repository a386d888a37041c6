"""The learning curve of a real SageMaker job, on generated ratings of the same kind.

The real job trained on 80,000 of 100,000 ratings that 943 customers gave 1,682 films (1 to 5 stars, mean 3.53,
standard deviation 1.126), sorted by customer, with 64 factors and the default hyperparameters for 50 epochs; half
of the customers had four in ten of their ratings set aside as the test.  What its log says is below.  Here only the
marginals are the same, so the curve is to be of that shape, not the same; ``make oracle`` compares with the real
ratings.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import sparse

from lib.fm.fit import Training
from lib.fm.hyperparameters import validate
from lib.fm.metrics import evaluate

CUSTOMERS, FILMS, RATINGS = 943, 1682, 100_000
TRAIN_RMSE = {0: 1.8169, 1: 1.1113, 2: 1.1040, 49: 0.9417}  # by epoch
TEST_RMSE, TEST_MAE = 1.0003, 0.7952
OF_THAT_SHAPE = 0.03  # how far the generated ratings' curve may be from the real one


def films(seed: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Ratings with long tails, sorted by customer and film; films that many watch are liked better."""
    rng = np.random.default_rng(seed)
    activity = 20 + np.minimum(rng.lognormal(3.85, 1.15, CUSTOMERS), 700)
    counts = np.diff(np.rint(np.cumsum(activity * RATINGS / activity.sum())), prepend=0).astype(int)
    popularity = -6 * (rng.permutation(FILMS) / FILMS) ** 0.7  # the logarithm of a film's share
    customer = np.repeat(np.arange(CUSTOMERS), counts)
    watched = [np.argsort(-popularity - rng.gumbel(size=FILMS))[:count] for count in counts]
    film = np.concatenate([np.sort(chosen) for chosen in watched])

    of_customers = rng.normal(0, 0.44, CUSTOMERS)
    of_films = rng.normal(0, 0.48, FILMS) + 0.38 * (popularity - popularity.mean()) / popularity.std()
    tastes, traits = rng.normal(0, 0.5, (CUSTOMERS, 3)), rng.normal(0, 0.5, (FILMS, 3))
    scores = of_customers[customer] + of_films[film] + (tastes[customer] * traits[film]).sum(axis=1)
    scores += rng.normal(0, 0.91, RATINGS)
    stars = np.clip(np.rint(scores - scores.mean() + 3.59), 1, 5)

    columns = np.stack([customer, CUSTOMERS + film], axis=1).ravel()
    shape = (RATINGS, CUSTOMERS + FILMS)
    X = sparse.csr_matrix((np.ones(2 * RATINGS, np.float32), columns, 2 * np.arange(RATINGS + 1)), shape)
    return X, stars.astype(np.float32)


def hard_split(X: sparse.csr_matrix, seed: int) -> np.ndarray:
    """Which rows are the test: 20,000 of those of the first half of the customers."""
    rng = np.random.default_rng(seed)
    of_first_half = np.flatnonzero(X.indices[::2] < CUSTOMERS // 2)
    test = np.zeros(X.shape[0], bool)
    test[rng.choice(of_first_half, 20_000, replace=False)] = True
    return test


def curve(X: sparse.csr_matrix, y: np.ndarray, test: np.ndarray, seed: int) -> tuple[list[float], dict]:
    given = {"feature_dim": X.shape[1], "num_factors": 64, "predictor_type": "regressor", "epochs": 50}
    training = Training(X[~test], y[~test], validate(given), seed=seed)
    by_epoch = [report.metrics["rmse"] for report in training if report.ended]
    return by_epoch, evaluate(training.outputs(X[test]), y[test], classifier=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_curve_has_the_shape_of_a_real_jobs(seed):
    X, y = films(seed)
    assert (y.mean(), y.std()) == (pytest.approx(3.53, abs=0.03), pytest.approx(1.126, abs=0.03))
    test = hard_split(X, seed)
    by_epoch, tested = curve(X, y, test, seed)
    for epoch, real in TRAIN_RMSE.items():
        assert by_epoch[epoch] == pytest.approx(real, abs=OF_THAT_SHAPE), epoch
    assert all(later < earlier for earlier, later in itertools.pairwise(by_epoch))
    assert tested["rmse"] == pytest.approx(TEST_RMSE, abs=OF_THAT_SHAPE)
    assert tested["absolute_loss"] == pytest.approx(TEST_MAE, abs=OF_THAT_SHAPE)
    assert tested["rmse"] > by_epoch[-1]


def test_the_order_of_the_rows_counts_and_shuffled_ones_train_better():
    """With the real ratings shuffled rows gave a test RMSE of 0.944 after as many epochs."""
    X, y = films(0)
    test = hard_split(X, 0)
    order = np.random.default_rng(0).permutation(X.shape[0])
    _, in_order = curve(X, y, test, 0)
    _, shuffled = curve(X[order], y[order], test[order], 0)
    assert shuffled["rmse"] < in_order["rmse"] - 0.01
