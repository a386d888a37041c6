"""Train by a job of the local AWS: recordIO bytes in S3 to artifact in S3; see ``launch.py``.

The local AWS is one of its own, in the folder that REELBOOK_LOCAL_ROOT names, and is stopped at the end.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support import ratings
from lib import aws, features, jobs, local, storage


def main() -> None:
    """Run the job that the command line names."""
    job = json.loads(Path(sys.argv[1]).read_text())
    data = ratings.load(job["data"])
    account = aws.connect("local")
    try:
        storage.ensure_bucket("bench", account.region)
        jobs.preload()
        began = time.perf_counter()
        train = features.write_channel(data.X, data.y, "s3://bench/data/train", progress=False)
        uploaded = time.perf_counter() - began
        few = data.take(slice(0, 10_000))
        test = features.write_channel(few.X, few.y, "s3://bench/data/test", progress=False)
        began = time.perf_counter()
        done = jobs.train(
            account,
            "bench",
            train_uri=train,
            test_uri=test,
            output_uri="s3://bench/model",
            hyperparameters={
                "feature_dim": data.X.shape[1],
                "num_factors": job["k"],
                "predictor_type": "regressor",
                "epochs": job["epochs"],
                "mini_batch_size": job["batch"],
            },
            progress=False,
        )
        trained = time.perf_counter() - began
        answer = {
            "upload": uploaded,
            "train": trained,
            "input_mb": sum(found.size for found in storage.list_objects(train)) / 2**20,
            "artifact_mb": sum(found.size for found in storage.list_objects(done.model_uri)) / 2**20,
        }
        Path(job["answer"]).write_text(json.dumps(answer))
    finally:
        local.stop()


if __name__ == "__main__":
    main()
