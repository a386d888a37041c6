"""Lets MXNet make the models of tests/fixtures/mxnet anew, which the ordinary tests open and train after it.

    .venv/bin/python tests/oracle/golden.py

Each is an artifact whose graph and parameters MXNet 1.9.1 wrote; golden.json has the rows that it was trained on, in
how it began, and what MXNet predicts with it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import exchange  # noqa: E402
import numpy as np  # noqa: E402
from scipy import sparse  # noqa: E402

from lib.fm.hyperparameters import validate  # noqa: E402

FIXTURES = ROOT / "tests" / "fixtures" / "mxnet"
ROWS, FEATURES, FACTORS, BATCH, EPOCHS = 24, 6, 2, 8, 5
RATES = {"linear_lr": 0.02, "factors_lr": 0.01, "mini_batch_size": BATCH, "epochs": EPOCHS}
MODELS = {
    "regressor": {"predictor_type": "regressor", **RATES},
    "classifier": {"predictor_type": "binary_classifier", **RATES},
    "clipped": {
        "predictor_type": "regressor",
        **RATES,
        "clip_gradient": 0.1,
        "eps": 1e-3,
        "rescale_grad": 0.3,
        "bias_wd": 0.1,
        "linear_wd": 0.05,
        "factors_wd": 0.02,
    },
    "of_dense_rows": {"predictor_type": "regressor", **RATES},
    "of_dense_rows_classifier": {"predictor_type": "binary_classifier", **RATES},
    "with_some_rows": {"predictor_type": "regressor"},
    "classifier_with_some_rows": {"predictor_type": "binary_classifier"},
}
STORED_ROWS = [1, 2, 5]


def main() -> None:
    """Make the models."""
    rng = np.random.default_rng(20)
    values = np.round(rng.normal(0, 1, (ROWS, FEATURES)), 2) * (rng.random((ROWS, FEATURES)) < 0.5) + 0.0
    X = sparse.csr_matrix(values.astype(np.float32))
    stars = np.round(3 + np.sin(np.arange(ROWS)), 2)
    start = {
        "bias": 0.125,
        "linear": np.round(rng.normal(0, 0.1, FEATURES), 3).tolist(),
        "factors": np.round(rng.normal(0, 0.3, (FEATURES, FACTORS)), 3).tolist(),
    }
    golden = {
        "rows": {"values": values.tolist(), "stars": stars.tolist()},
        "start": start,
        "stored_rows": STORED_ROWS,
        "models": {},
    }
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for name, given in MODELS.items():
        h = validate({"feature_dim": FEATURES, "num_factors": FACTORS, **given})
        y = (stars > 3).astype(np.float32) if h.classifier else stars.astype(np.float32)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            dense, trained = "dense" in name, "epochs" in given
            exchange.save_rows(folder, X, y, dense=dense)
            np.savez(
                folder / "start.npz",
                bias=np.float32([start["bias"]]),
                linear=np.float32(start["linear"]),
                factors=np.float32(start["factors"]),
            )
            result = exchange.run({folder: exchange.write_task(h, dense, None if trained else STORED_ROWS)})
            if trained:
                result = exchange.run({folder: exchange.train_task(h) | {"save": True}})
            own = given | {"feature_dim": FEATURES, "num_factors": FACTORS}
            parameters = {key: value for key, value in h.wire().items() if key in own}
            shutil.copy(exchange.pack(folder, parameters), FIXTURES / f"{name}.tar.gz")
            predictions = [round(float(value), 6) for value in result[folder]["predictions"]]
            golden["models"][name] = {"hyperparameters": parameters, "predictions": predictions}
    (FIXTURES / "golden.json").write_text(json.dumps(golden) + "\n")
    size = sum(path.stat().st_size for path in FIXTURES.iterdir())
    print(f"{FIXTURES.relative_to(ROOT)}: {len(MODELS)} models, {size:,} bytes")


if __name__ == "__main__":
    main()
