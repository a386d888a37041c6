"""Artifacts whose graph and parameters MXNet 1.9.1 wrote: opened, explained, served, and trained after.

``tests/oracle/golden.py`` made them; ``make oracle`` compares with MXNet itself, and more.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fm_reference import Reference, Weights, weights_of
from scipy import sparse

from lib import fm
from lib.fm import formats
from lib.fm.fit import Training
from lib.fm.hyperparameters import validate
from lib.fm.state import Snapshot

FOLDER = Path(__file__).parents[1] / "fixtures" / "mxnet"
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
MODELS = GOLDEN["models"]
TRAINED = [name for name in MODELS if "epochs" in MODELS[name]["hyperparameters"]]
X = np.array(GOLDEN["rows"]["values"], np.float32)
STARS = np.array(GOLDEN["rows"]["stars"], np.float32)


def opened(name: str) -> fm.Model:
    return fm.load(FOLDER / f"{name}.tar.gz")


def start() -> Weights:
    """How all of them began."""
    return Weights(*(np.array(GOLDEN["start"][group]) for group in ("bias", "linear", "factors")))


def data(name: str) -> tuple[object, np.ndarray]:
    """The rows and labels that MXNet trained a model on."""
    classifier = MODELS[name]["hyperparameters"]["predictor_type"] == "binary_classifier"
    y = (STARS > 3).astype(np.float32) if classifier else STARS
    return (X if "dense" in name else sparse.csr_matrix(X)), y


@pytest.mark.parametrize("name", MODELS)
def test_it_predicts_what_mxnet_predicts_with_it(name):
    model = opened(name)
    assert model.predictor_type == MODELS[name]["hyperparameters"]["predictor_type"]
    assert model.training_parameters == MODELS[name]["hyperparameters"]
    np.testing.assert_allclose(model.predict(X), MODELS[name]["predictions"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_it_can_be_saved_again_and_is_the_same(name, tmp_path):
    model = opened(name)
    again = fm.load(model.save(tmp_path / "model.tar.gz"))
    assert weights_of(again).furthest(weights_of(model)) == {"bias": 0, "linear": 0, "factors": 0}
    assert again.predictor_type == model.predictor_type
    assert again.training_parameters.items() >= model.training_parameters.items()


@pytest.mark.parametrize("name", [name for name in MODELS if "some_rows" in name])
def test_rows_that_mxnet_did_not_store_are_0(name):
    model, stored = opened(name), GOLDEN["stored_rows"]
    want = start()
    others = np.setdiff1d(np.arange(X.shape[1]), stored)
    want.linear[others], want.factors[others] = 0, 0
    assert weights_of(model).furthest(want)["factors"] < 1e-7
    assert not model.factors[others].any()
    assert not model.linear[others].any()


@pytest.mark.parametrize("name", TRAINED)
def test_training_from_the_same_start_comes_to_what_mxnet_came_to(name):
    want = weights_of(opened(name))
    h = validate(MODELS[name]["hyperparameters"])
    rows, y = data(name)
    training = Training(rows, y, h)
    training.restore(
        Snapshot(start().bias, start().linear.astype(np.float32), start().factors.astype(np.float32))
    )
    list(training)
    for group, apart in weights_of(training.model()).furthest(want).items():
        assert apart < 1e-5, group


@pytest.mark.parametrize("name", TRAINED)
def test_the_float64_reference_comes_to_what_mxnet_came_to(name):
    want = weights_of(opened(name))
    rows, y = data(name)
    if "dense" in name:  # every feature is active
        n, d = X.shape
        rows = sparse.csr_matrix((X.ravel(), np.tile(np.arange(d), n), d * np.arange(n + 1)), X.shape)
    reference = Reference(validate(MODELS[name]["hyperparameters"]), start())
    reference.train(rows, y)
    for group, apart in reference.weights.furthest(want).items():
        assert apart < 1e-5, group


@pytest.mark.parametrize("name", MODELS)
def test_it_can_be_explained(name):
    model = opened(name)
    explained = model.explain(X[1])
    assert explained.score == pytest.approx(MODELS[name]["predictions"][1], rel=1e-5)
    assert explained.table["contribution"].sum() == pytest.approx(explained.output, rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_it_can_be_served(name):
    model = opened(name)
    body = json.dumps({"instances": [{"features": row} for row in X.astype(float).tolist()]}).encode()
    scores = model.predict(formats.read_request(body, formats.JSON, model.feature_dim))
    answer = json.loads(formats.write_answer(model, scores, formats.JSON))
    found = [row["score"] for row in answer["predictions"]]
    np.testing.assert_allclose(found, MODELS[name]["predictions"], rtol=1e-5, atol=1e-6)
