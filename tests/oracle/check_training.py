"""MXNet 1.9.1 trains the graph of our artifact from the same start, and comes to the same after thousands of steps.

Both compute in float32, in different orders, so that every step differs by rounding, and the following ones carry
the differences on.  MXNet's Adam also takes 1 - 0.999 in float32, which makes its first steps 2e-5 shorter.  The
settings are those of a training that converges: where a rate is so high that rare features jump about, rounding
decides where they land, and two float32 programs part (as they part from the float64 reference).
"""

from __future__ import annotations

from pathlib import Path

import exchange
import numpy as np
import pytest
from scipy import sparse

from lib import fm
from lib.fm.fit import Training
from lib.fm.hyperparameters import Hyperparameters, validate

ROWS = 2000


def one_hot(rng: np.random.Generator) -> sparse.csr_matrix:
    """Rows of one customer and one video each, with long tails."""
    customer = (150 * rng.random(ROWS) ** 2).astype(int)
    video = 150 + (250 * rng.random(ROWS) ** 3).astype(int)
    columns = np.stack([customer, video], axis=1).ravel()
    arrays = (np.ones(2 * ROWS, np.float32), columns, 2 * np.arange(ROWS + 1))
    return sparse.csr_matrix(arrays, shape=(ROWS, 400))


def weighted(rng: np.random.Generator, width: int = 60) -> sparse.csr_matrix:
    """Rows of any number of features with values of any sign."""
    values = rng.normal(0, 1, (ROWS, width)) * (rng.random((ROWS, width)) < 5 / width)
    return sparse.csr_matrix(values.astype(np.float32))


def with_stored_zeros(rng: np.random.Generator) -> sparse.csr_matrix:
    """The same with zeros among the values: they make their features active, so that these decay."""
    X = weighted(rng)
    X.data[rng.random(X.nnz) < 0.5] = 0
    return X


OWN = {"epochs": 50, "mini_batch_size": 100, "factors_init_sigma": 0.1, "factors_lr": 0.01, "linear_lr": 0.01}
REGRESSOR, CLASSIFIER = {"predictor_type": "regressor"}, {"predictor_type": "binary_classifier"}
SLOW = {"mini_batch_size": 100, "factors_init_sigma": 0.1}  # and the default rates
CASES = {
    "one-hot, default rates": (one_hot, 16, SLOW | REGRESSOR | {"epochs": 200}),
    "one-hot, higher rates": (one_hot, 8, OWN | REGRESSOR | {"epochs": 10}),
    "one-hot, classifier": (one_hot, 8, SLOW | CLASSIFIER | {"epochs": 100}),
    "weighted": (weighted, 5, OWN | REGRESSOR),
    "weighted, classifier": (weighted, 5, OWN | CLASSIFIER),
    "weighted, 64 factors": (weighted, 64, SLOW | REGRESSOR | {"epochs": 50}),
    "clip, eps, rescale, decay": (
        weighted,
        5,
        SLOW
        | REGRESSOR
        | {"epochs": 50, "clip_gradient": 0.1, "eps": 1e-4, "rescale_grad": 0.02}
        | {"bias_wd": 0.03, "linear_wd": 0.02, "factors_wd": 0.01},
    ),
    "stored zeros": (with_stored_zeros, 3, SLOW | REGRESSOR | {"epochs": 20, "linear_wd": 0.1}),
    "negative clip": (weighted, 3, OWN | REGRESSOR | {"epochs": 5, "clip_gradient": -1}),
    "uniform and constant start": (
        weighted,
        3,
        OWN
        | CLASSIFIER
        | {"bias_init_method": "constant", "bias_init_value": -0.5}
        | {"linear_init_method": "uniform", "factors_init_method": "uniform", "factors_init_scale": 0.2},
    ),
    "dense": (lambda rng: weighted(rng, 20), 4, OWN | REGRESSOR),
    "dense, classifier": (lambda rng: weighted(rng, 20), 4, OWN | CLASSIFIER | {"epochs": 20}),
}
ALLOWED = 5e-5  # parameters and predictions, in units of the largest of their kind
ALLOWED_RMSE = 2e-5


def lay_out(folder: Path, start: fm.Model, h: Hyperparameters, dense: bool) -> None:
    """Leave the model where MXNet finds it: as our artifact, or with a graph for dense rows of MXNet's own."""
    if not dense:
        exchange.unpack(start, folder)
        return
    np.savez(folder / "start.npz", linear=start.linear, factors=start.factors, bias=np.float32([start.bias]))
    exchange.run({folder: exchange.write_task(h, dense=True)})


def theirs(found: exchange.Results, predictor_type: str) -> fm.Model:
    """Return the model that MXNet came to."""
    if "w1_weight" in found:
        return fm.Model(found["w0_weight"][0], found["w1_weight"][:, 0], found["v"], predictor_type)
    linear, bias = found["Linear_Plus_Bias_weight"][0], found["Linear_Plus_Bias_bias"][0]
    return fm.Model(bias, linear, found["v"].T, predictor_type)


@pytest.mark.parametrize("case", CASES)
def test_mxnet_trains_to_the_same(case, tmp_path, agreement):
    rng = np.random.default_rng(3)
    make, k, given = CASES[case]
    X = make(rng)
    y = (rng.random(ROWS) < 0.4) if given["predictor_type"] == "binary_classifier" else rng.normal(3, 1, ROWS)
    y = y.astype(np.float32)
    h = validate({"feature_dim": X.shape[1], "num_factors": k} | given)
    dense = case.startswith("dense")
    training = Training(X.toarray() if dense else X, y, h, seed=3)
    exchange.save_rows(tmp_path, X, y, dense=dense)
    lay_out(tmp_path, training.model(), h, dense)
    found = exchange.run({tmp_path: exchange.train_task(h)})[tmp_path]

    history = [report.metrics for report in training if report.ended]
    ours, other = training.model(), theirs(found, h.predictor_type)
    apart = max(
        exchange.relative(mine, its)
        for mine, its in (
            (np.array([ours.bias]), np.array([other.bias])),
            (ours.linear, other.linear),
            (ours.factors, other.factors),
            (ours.predict(X), found["predictions"]),
        )
    )
    agreement.within(f"{case}: parameters and predictions after {training.updates:,} steps", apart, ALLOWED)
    if not h.classifier:
        rmse = np.array([metrics["rmse"] for metrics in history])
        apart = np.abs(rmse - found["rmse"]).max()
        agreement.within(f"{case}: training RMSE of {h.epochs} epochs", apart, ALLOWED_RMSE)
