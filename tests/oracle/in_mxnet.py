"""What MXNet 1.9.1 does with a Factorization Machine; run by the Python of its own environment (`environment.py`).

    python in_mxnet.py FOLDER ...

Each folder holds ``task.json`` with the name of a task below and its settings, and the files that the task
takes; its results are written there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.ndarray import sparse

PREFIX, EPOCH = "model", 1  # as Module.load calls a model's files: model-symbol.json, model-0001.params
HEADS = {"regressor": "LinearRegressionOutput", "binary_classifier": "LogisticRegressionOutput"}


class Examples:
    """The rows of data.npz in batches, all of them in one by default; dense ones make all features active."""

    def __init__(self, folder: Path, batch_size: int | None = None) -> None:
        stored = np.load(folder / "data.npz")
        self.labels = stored["y"]
        size = batch_size or len(self.labels)
        if len(self.labels) % size:
            raise SystemExit("a partial batch would need a module of its own")
        self.batches = []
        for first in range(0, len(self.labels), size):
            label = mx.nd.array(self.labels[first : first + size])
            X = _rows(stored, first, first + size)
            self.batches.append(mx.io.DataBatch([X], [label]))
        self.data_shapes = [mx.io.DataDesc("data", (size, X.shape[1]))]
        self.label_shapes = [mx.io.DataDesc("out_label", (size,))]


def _rows(stored: np.lib.npyio.NpzFile, first: int, last: int) -> mx.nd.NDArray:
    if "dense" in stored:
        return mx.nd.array(stored["dense"][first:last])
    starts = stored["starts"][first : last + 1]
    entries = slice(starts[0], starts[-1])
    arrays = (stored["values"][entries], stored["columns"][entries], starts - starts[0])
    return sparse.csr_matrix(arrays, shape=(last - first, int(stored["shape"][1])))


def opened(folder: Path, rows: Examples) -> mx.mod.Module:
    """Return the module that MXNet loads from the folder's model, ready for rows."""
    module = mx.mod.Module.load(str(folder / PREFIX), EPOCH, label_names=["out_label"])
    module.bind(rows.data_shapes, rows.label_shapes)
    return module


def predicted(module: mx.mod.Module, rows: Examples) -> np.ndarray:
    """Return the module's output for all rows."""
    found = []
    for batch in rows.batches:
        module.forward(batch, is_train=False)
        found.append(module.get_outputs()[0].asnumpy().ravel())
    return np.concatenate(found)


def arrays_of(module: mx.mod.Module) -> dict[str, np.ndarray]:
    """Return the module's parameters."""
    return {name: array.asnumpy() for name, array in module.get_params()[0].items()}


def predict(folder: Path, task: dict) -> None:
    """Open a model and predict rows: result.npz gets the predictions, the parameters and how they are stored."""
    rows = Examples(folder)
    module = opened(folder, rows)
    listed = mx.nd.load(str(folder / f"{PREFIX}-{EPOCH:04d}.params"))
    stored = {f"storage {name}": np.array(array.stype) for name, array in listed.items()}
    np.savez(folder / "result.npz", predictions=predicted(module, rows), **arrays_of(module), **stored)


def train(folder: Path, task: dict) -> None:
    """Open a model and train it on: result.npz gets predictions, parameters and each epoch's RMSE.

    With ``save`` the trained parameters take the place of the others, written as MXNet does.
    """
    rows = Examples(folder, task["batch_size"])
    module = opened(folder, rows)
    module.init_optimizer(
        kvstore=None,
        optimizer="adam",
        optimizer_params={"learning_rate": 1.0, "wd": 1.0, **task["optimizer"]},
    )
    rmse = []
    for _ in range(task["epochs"]):
        squared = 0.0
        for batch in rows.batches:
            module.forward(batch, is_train=True)
            error = module.get_outputs()[0].asnumpy().ravel() - batch.label[0].asnumpy().ravel()
            squared += float((error.astype(float) ** 2).sum())
            module.backward()
            module.update()
        rmse.append((squared / len(rows.labels)) ** 0.5)
    if task.get("save"):
        module.save_params(str(folder / f"{PREFIX}-{EPOCH:04d}.params"))
    np.savez(folder / "result.npz", predictions=predicted(module, rows), rmse=rmse, **arrays_of(module))


def write(folder: Path, task: dict) -> None:
    """Build a model out of MXNet's own symbols and arrays, save it as MXNet does, and predict rows with it.

    start.npz holds ``linear``, ``bias`` and ``factors``.  ``stored_rows``, if given, are the only rows of
    weights and factors that are written; the others are 0.
    """
    start = np.load(folder / "start.npz")
    build = dense_graph if task["dense"] else sparse_graph
    symbol = build(task["predictor_type"], start["factors"].shape, task["variables"])
    symbol.save(str(folder / f"{PREFIX}-symbol.json"))

    def row_sparse(values: np.ndarray) -> object:
        kept = task["stored_rows"]
        if kept is None:
            return mx.nd.array(values).tostype("row_sparse")
        return sparse.row_sparse_array((values[kept], kept), shape=values.shape)

    if task["dense"]:
        arrays = {
            "Linear_Plus_Bias_weight": mx.nd.array(start["linear"][None]),
            "Linear_Plus_Bias_bias": mx.nd.array(start["bias"]),
            "v": mx.nd.array(start["factors"].T),
        }
    else:
        arrays = {
            "w1_weight": row_sparse(start["linear"][:, None]),
            "w0_weight": mx.nd.array(start["bias"]),
            "v": row_sparse(start["factors"]),
        }
    saved = {f"arg:{name}": array for name, array in arrays.items()}
    mx.nd.waitall()  # what is still being made would be saved as if it had no rows
    mx.nd.save(str(folder / f"{PREFIX}-{EPOCH:04d}.params"), saved)
    predict(folder, task)


def variable(name: str, shape: tuple[int, ...], settings: dict, stype: str = "default") -> mx.sym.Symbol:
    """Return a parameter with its rates and how it begins."""
    return mx.sym.Variable(
        name,
        shape=shape,
        stype=stype,
        lr_mult=settings["lr"],
        wd_mult=settings["wd"],
        init=mx.init.Normal(settings["init_sigma"]),
    )


def sparse_graph(kind: str, shape: tuple[int, int], variables: dict) -> mx.sym.Symbol:
    """Return the graph for sparse rows, as MXNet's example of a Factorization Machine has it."""
    d, _ = shape
    data = mx.sym.Variable("data", stype="csr")
    w1 = variable("w1_weight", (d, 1), variables["linear"], "row_sparse")
    w0 = variable("w0_weight", (1,), variables["bias"])
    v = variable("v", shape, variables["factors"], "row_sparse")
    linear = mx.sym.broadcast_add(mx.sym.dot(data, w1), w0)
    half_squares = 0.5 * mx.sym.square(mx.sym.dot(data, v))
    own = mx.sym.dot(mx.sym.square(data), mx.sym._internal._square_sum(v, axis=1, keepdims=True))
    positive = mx.sym.Concat(linear, half_squares, dim=1).sum(axis=1, keepdims=True)
    return _head(kind, positive + (-0.5 * own))


def dense_graph(kind: str, shape: tuple[int, int], variables: dict) -> mx.sym.Symbol:
    """Return a graph for dense rows, with the parameters that SageMaker stores for them."""
    d, k = shape
    data = mx.sym.Variable("data")
    weight = variable("Linear_Plus_Bias_weight", (1, d), variables["linear"])
    bias = variable("Linear_Plus_Bias_bias", (1,), variables["bias"])
    v = variable("v", (k, d), variables["factors"])
    linear = mx.sym.FullyConnected(data, weight, bias, num_hidden=1, name="Linear_Plus_Bias")
    sums = mx.sym.FullyConnected(data, v, no_bias=True, num_hidden=k)
    own = mx.sym.FullyConnected(mx.sym.square(data), mx.sym.square(v), no_bias=True, num_hidden=k)
    pairs = mx.sym.sum(mx.sym.square(sums) - own, axis=1, keepdims=True)
    return _head(kind, linear + 0.5 * pairs)


def _head(kind: str, output: mx.sym.Symbol) -> mx.sym.Symbol:
    return getattr(mx.sym, HEADS[kind])(data=output, label=mx.sym.Variable("out_label"), name="out")


TASKS = {"predict": predict, "train": train, "write": write}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        settings = json.loads(Path(name, "task.json").read_text())
        TASKS[settings["task"]](Path(name), settings)
