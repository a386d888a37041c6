"""MXNet 1.9.1 opens the artifacts that we write and predicts the same, and we open those that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import exchange
import numpy as np
import pytest
from scipy import sparse

from lib import fm
from lib.fm.fit import Training
from lib.fm.hyperparameters import validate

KINDS = ("regressor", "binary_classifier")
SAME = 1e-5  # predictions, in units of the largest
ROWS, FEATURES = 200, 50


def some_rows(seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (ROWS, FEATURES)) * (rng.random((ROWS, FEATURES)) < 0.2)
    return sparse.csr_matrix(values.astype(np.float32)), (rng.random(ROWS) < 0.5).astype(np.float32)


def some_model(kind: str, num_factors: int = 7) -> fm.Model:
    rng = np.random.default_rng(1)
    factors = rng.normal(0, 0.3, (FEATURES, num_factors))
    return fm.Model(3.5, rng.normal(0, 0.5, FEATURES), factors, kind)


def trained(kind: str, num_factors: int, X: object, y: np.ndarray) -> fm.Model:
    h = validate(
        {
            "feature_dim": FEATURES,
            "num_factors": num_factors,
            "predictor_type": kind,
            "mini_batch_size": 20,
            "epochs": 3,
            "factors_lr": 0.01,
        }
    )
    training = Training(X, y, h)
    list(training)
    return training.model()


@pytest.mark.parametrize("kind", KINDS)
def test_mxnet_opens_and_predicts_with_what_we_train_and_write(kind, tmp_path, agreement):
    X, y = some_rows()
    models = {
        tmp_path / "sparse": trained(kind, 7, X, y),
        tmp_path / "dense": trained(kind, 1, X.toarray(), y),
        tmp_path / "many factors": trained(kind, 64, X, y),
    }
    for folder, model in models.items():
        folder.mkdir()
        exchange.unpack(model, folder)
        exchange.save_rows(folder, X, y)
    results = exchange.run({folder: {"task": "predict"} for folder in models})
    for folder, model in models.items():
        found = results[folder]
        np.testing.assert_array_equal(found["v"], model.factors)
        np.testing.assert_array_equal(found["w1_weight"][:, 0], model.linear)
        assert found["w0_weight"] == np.float32(model.bias)
        stored = {name: str(found[f"storage arg:{name}"]) for name in ("v", "w1_weight", "w0_weight")}
        assert stored == {"v": "row_sparse", "w1_weight": "row_sparse", "w0_weight": "default"}
        apart = exchange.relative(found["predictions"], model.predict(X))
        agreement.within(f"MXNet predicts with our {kind}, {folder.name}", apart, SAME)


@pytest.mark.parametrize("kind", KINDS)
def test_we_open_and_predict_with_what_mxnet_writes(kind, tmp_path, agreement):
    X, y = some_rows()
    model = some_model(kind)
    said = {"feature_dim": str(FEATURES), "num_factors": str(model.num_factors), "predictor_type": kind}
    h = validate(said)
    tasks = {
        tmp_path / "row-sparse": exchange.write_task(h),
        tmp_path / "row-sparse, some rows": exchange.write_task(h, stored_rows=[0, 3, 4, 17, FEATURES - 1]),
        tmp_path / "row-sparse, no rows": exchange.write_task(h, stored_rows=[]),
        tmp_path / "of dense input": exchange.write_task(h, dense=True),
    }
    for folder, settings in tasks.items():
        folder.mkdir()
        start = {"linear": model.linear, "factors": model.factors, "bias": np.float32([model.bias])}
        np.savez(folder / "start.npz", **start)
        exchange.save_rows(folder, X, y, dense=settings["dense"])
    results = exchange.run(tasks)

    again: dict[Path, Path] = {}
    for folder, settings in tasks.items():
        linear, factors = model.linear.copy(), model.factors.copy()
        if settings["stored_rows"] is not None:
            others = np.setdiff1d(np.arange(FEATURES), settings["stored_rows"])
            linear[others], factors[others] = 0, 0
        for parameters in (said, {}):  # without them the kind is read from the graph
            found = fm.load(exchange.pack(folder, parameters))
            assert found.predictor_type == kind
            np.testing.assert_array_equal(found.linear, linear)
            np.testing.assert_array_equal(found.factors, factors)
        apart = exchange.relative(found.predict(X), results[folder]["predictions"])
        agreement.within(f"we predict with MXNet's {kind}, {folder.name}", apart, SAME)
        again[folder] = folder / "again"
        again[folder].mkdir()
        exchange.unpack(found, again[folder])
        exchange.save_rows(again[folder], X, y)

    whole = tmp_path / "row-sparse"  # all of whose bytes can be the same
    assert (again[whole] / exchange.PARAMS).read_bytes() == (whole / exchange.PARAMS).read_bytes()
    assert computation(again[whole] / exchange.SYMBOL) == computation(whole / exchange.SYMBOL)
    reopened = exchange.run({folder: {"task": "predict"} for folder in again.values()})
    apart = max(
        exchange.relative(reopened[again[folder]]["predictions"], results[folder]["predictions"])
        for folder in tasks
    )
    agreement.within(f"MXNet predicts with its {kind}s that we opened and saved", apart, SAME)


def computation(path: Path) -> object:
    """Return what a graph computes: its nodes, down from the output, without the names of inner ones."""
    graph = json.loads(path.read_text())

    def node(number: int) -> tuple:
        found = graph["nodes"][number]
        own = found["name"] if found["op"] == "null" else found["op"]
        attributes = found.get("attrs", {})
        inputs = tuple((node(source), output) for source, output, _ in found["inputs"])
        return own, tuple(sorted(attributes.items())), inputs

    ((head, output, _),) = graph["heads"]
    assert graph["nodes"][head]["name"] == "out"
    return node(head), output


def test_the_graph_tells_mxnet_the_hyperparameters_of_the_training(tmp_path):
    own = {"bias_lr": 0.2, "linear_lr": 0.03, "factors_lr": 0.004, "bias_wd": 0.5, "linear_wd": 0.06}
    h = validate({"feature_dim": FEATURES, "num_factors": 7, "predictor_type": "regressor", **own})
    model = some_model("regressor")
    model = fm.Model(model.bias, model.linear, model.factors, training_parameters=h.wire())
    exchange.unpack(model, tmp_path)
    graph = json.loads((tmp_path / exchange.SYMBOL).read_text())
    found = {node["name"]: node["attrs"] for node in graph["nodes"] if "__lr_mult__" in node.get("attrs", {})}
    for group, name in (("bias", "w0_weight"), ("linear", "w1_weight"), ("factors", "v")):
        assert float(found[name]["__lr_mult__"]) == getattr(h, f"{group}_lr")
        assert float(found[name]["__wd_mult__"]) == getattr(h, f"{group}_wd")
