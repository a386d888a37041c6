"""Measure how long a fresh process takes until its first epoch is done; see ``launch.py``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

BEGAN = time.perf_counter()
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support import ratings  # noqa: E402  the checkout is not installed
from lib.fm.fit import Training  # noqa: E402
from lib.fm.hyperparameters import validate  # noqa: E402


def main() -> None:
    """Run the job that the command line names."""
    job = json.loads(Path(sys.argv[1]).read_text())
    imported = time.perf_counter()
    rows = ratings.generated(1000, 100, 50)
    settings = validate({"feature_dim": 150, "num_factors": job["k"], "predictor_type": "regressor"})
    made = time.perf_counter()
    training = Training(rows.X, rows.y, settings, seed=0)
    for _ in training:
        pass
    trained = time.perf_counter()
    answer = {
        "imports": imported - BEGAN,
        "training": trained - made,
        "compile": training.compile_seconds or 0.0,
    }
    Path(job["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
