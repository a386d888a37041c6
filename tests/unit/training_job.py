"""A training job's folder as SageMaker lays it out, for the tests of the training container."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy import sparse

from lib import recordio
from lib.fm import train

REPOSITORY = Path(__file__).parents[2]
CUSTOMERS, VIDEOS = 40, 20
FEATURES = CUSTOMERS + VIDEOS
HYPERPARAMETERS = {
    "feature_dim": str(FEATURES),
    "num_factors": "4",
    "predictor_type": "regressor",
    "epochs": "4",
    "mini_batch_size": "100",
    "linear_lr": "0.05",
    "_tuning_objective_metric": "test:rmse",
}


def ratings(n: int, seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    columns = np.stack([rng.integers(0, CUSTOMERS, n), rng.integers(CUSTOMERS, FEATURES, n)], 1)
    taste = np.random.default_rng(9).normal(0, 0.7, FEATURES)
    y = np.clip(3.5 + taste[columns].sum(1) + rng.normal(0, 0.3, n), 1, 5)
    X = sparse.csr_matrix(
        (np.ones(2 * n, np.float32), columns.ravel(), np.arange(0, 2 * n + 1, 2)), (n, FEATURES)
    )
    return X, y.astype(np.float32)


class Job:
    """A training job's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "input" / "config"
        self.config.mkdir(parents=True)
        self.describe("hyperparameters", HYPERPARAMETERS)
        self.describe("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"]})
        self.channel("train", *ratings(950))

    def describe(self, name: str, content: object) -> None:
        (self.config / f"{name}.json").write_text(json.dumps(content))

    def hyperparameters(self, **changes: str) -> None:
        self.describe("hyperparameters", HYPERPARAMETERS | changes)

    def channel(self, name: str, X: object, y: object, file: str = "part-0.pbr") -> Path:
        folder = self.root / "input" / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / file).open("wb") as stream:
            recordio.write(stream, X, y)
        channels = {
            found.name: {"ContentType": "application/x-recordio-protobuf", "TrainingInputMode": "File"}
            for found in folder.parent.iterdir()
        }
        self.describe("inputdataconfig", channels)
        return folder / file

    def start(self, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "lib.fm", "train", "--root", str(self.root)],
            cwd=REPOSITORY,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **environment: str) -> list[str]:
        """Train in a process of its own and return its log."""
        output, errors = self.start(**environment).communicate(timeout=60)
        assert errors == ""
        return output.splitlines()

    def failure(self) -> str:
        """Train in this process and return what the failure file says."""
        assert train.main(self.root) == 1
        assert not list(self.root.glob("model/*"))
        return (self.root / "output" / "failure").read_text()


def values(log: list[str], pattern: str) -> list[float]:
    return [float(found[1]) for line in log if (found := re.search(pattern, line))]
