"""Hands models and rows to MXNet and back, through folders that in_mxnet.py works on."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import environment
import numpy as np
from scipy import sparse

from lib import fm
from lib.fm.hyperparameters import Hyperparameters

IN_MXNET = Path(__file__).parent / "in_mxnet.py"
SYMBOL, PARAMS = "model-symbol.json", "model-0001.params"  # as MXNet's Module.load looks for them

Results = dict[str, np.ndarray]


def run(tasks: Mapping[Path, dict]) -> dict[Path, Results]:
    """Let MXNet carry out a task in each folder, and return the results by folder."""
    for folder, task in tasks.items():
        (folder / "task.json").write_text(json.dumps(task))
    command = [str(environment.python()), "-W", "ignore", str(IN_MXNET), *map(str, tasks)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {folder: dict(np.load(folder / "result.npz")) for folder in tasks}


def train_task(h: Hyperparameters) -> dict:
    """Return the task to train a model by some hyperparameters."""
    names = {"clip_gradient": "clip_gradient", "eps": "epsilon", "rescale_grad": "rescale_grad"}
    given = {theirs: getattr(h, ours) for ours, theirs in names.items() if getattr(h, ours) is not None}
    return {"task": "train", "epochs": h.epochs, "batch_size": h.mini_batch_size, "optimizer": given}


def write_task(h: Hyperparameters, dense: bool = False, stored_rows: list[int] | None = None) -> dict:
    """Return the task to build and write a model for sparse or dense rows, with all or some rows stored."""
    variables = {
        group: {what: getattr(h, f"{group}_{what}") for what in ("lr", "wd", "init_sigma")}
        for group in ("bias", "linear", "factors")
    }
    return {
        "task": "write",
        "dense": dense,
        "predictor_type": h.predictor_type,
        "variables": variables,
        "stored_rows": stored_rows,
    }


def save_rows(folder: Path, X: sparse.csr_matrix, y: np.ndarray, *, dense: bool = False) -> None:
    """Write rows (n, d) and labels (n,) for MXNet; as a dense array they make all features active."""
    if dense:
        np.savez(folder / "data.npz", y=y, dense=X.toarray())
    else:
        np.savez(folder / "data.npz", y=y, values=X.data, columns=X.indices, starts=X.indptr, shape=X.shape)


def unpack(model: fm.Model, folder: Path) -> None:
    """Write a model's artifact, and lay its members out for MXNet, as people do with SageMaker's."""
    with tarfile.open(model.save(folder / "model.tar.gz")) as archive:
        archive.extract("model_algo-1", folder, filter="data")
    with zipfile.ZipFile(folder / "model_algo-1") as members:
        members.extractall(folder)
    (folder / "symbol.json").rename(folder / SYMBOL)
    (folder / "params").rename(folder / PARAMS)


def pack(folder: Path, training_parameters: Mapping[str, str]) -> Path:
    """Make an artifact of what MXNet saved, laid out as SageMaker does, and return its path."""
    meta = {
        "version": 1,
        "epoch_number": 1,
        "training_parameters": dict(training_parameters),
        "label_names": ["out_label"],
    }
    member = io.BytesIO()
    with zipfile.ZipFile(member, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (
            ("meta.json", json.dumps(meta).encode()),
            ("symbol.json", (folder / SYMBOL).read_bytes()),
            ("params", (folder / PARAMS).read_bytes()),
        ):
            archive.writestr(zipfile.ZipInfo(name), content)
    entry = tarfile.TarInfo("model_algo-1")
    entry.size = member.tell()
    member.seek(0)
    path = folder / "model.tar.gz"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(entry, member)
    path.write_bytes(gzip.compress(content.getvalue(), mtime=0))
    return path


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference, in units of the largest number."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
