"""Train with `lib.fm` as a job says, in a process of its own; see ``launch.py``.

The data are a file of rows, or recordIO files that are streamed through ``memory_bytes``.  The answer has, for
each batch size, the CPU and wall seconds of each epoch, with the set-up in the first, the largest memory
 above what the process had before it took the data, and a digest of the model's bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support import ratings
from lib.fm.fit import Training
from lib.fm.hyperparameters import validate


def resident_mb() -> float:
    """Return the memory that the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_mb() -> float:
    """Return the most memory that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def digest(training: Training) -> str:
    """Return a digest of the bits of a model's parameters."""
    model = training.model()
    bits = hashlib.sha256(repr(model.bias).encode())
    bits.update(model.linear)
    bits.update(memoryview(model.factors).cast("B"))
    return bits.hexdigest()


def main() -> None:
    """Run the job that the command line names."""
    job = json.loads(Path(sys.argv[1]).read_text())
    common = {"num_factors": job["k"], "predictor_type": "regressor", "batch_metrics_publish_interval": 10**9}
    tiny = ratings.generated(10, 40, 20) if job["ones"] else ratings.generated_wide(10, 60)
    settings = validate({**common, "feature_dim": 60, "mini_batch_size": 5})
    for _ in Training(tiny.X, tiny.y, settings, seed=0):
        pass  # loads the machine code, or compiles it
    before = resident_mb()
    data = ratings.load(job["data"]) if "data" in job else None
    answers = []
    for size in job["batches"]:
        settings = validate(
            {
                **common,
                "feature_dim": job["features"],
                "mini_batch_size": size,
                "epochs": job["epochs"],
                **job.get("settings", {}),
            }
        )
        cpu, wall = time.process_time(), time.perf_counter()
        limits = {"seed": job["seed"], "memory_bytes": job.get("memory_bytes")}
        if data is None:
            training = Training.from_files(job["files"], settings, **limits)
        else:
            training = Training(data.X, data.y, settings, **limits)
        epochs = []  # setting up is part of the first
        for report in training:
            if report.ended:
                epochs.append({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall})
                cpu, wall = time.process_time(), time.perf_counter()
        most = peak_mb()
        answers.append(
            {
                "batch": size,
                "epochs": epochs,
                "peak_mb": most - before,
                "bits": digest(training) if job["bits"] else "",
            }
        )
        del training
    Path(job["answer"]).write_text(json.dumps({"runs": answers}))


if __name__ == "__main__":
    main()
