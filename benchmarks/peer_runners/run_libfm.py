"""Run a libFM binary: Gibbs sampling (``mcmc``), coordinate descent (``als``) or descent (``sgd``).

It prints the test error after each iteration.  Its CPU seconds are those of the process, less those of a run
of one iteration, which reads the text; predicting the test rows is part of each iteration.
"""

from __future__ import annotations

import re
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from common import Clock, Data, Judge, answer, read_job, write_libsvm

job = read_job()
train = Data(job["train"])
clock = Clock()
judge = Judge(job, train)


def run(folder: Path, iterations: int) -> tuple[float, float, list[float]]:
    """Return CPU seconds, wall seconds and the test error after each iteration."""
    options = {
        "-task": "r",
        "-method": job["solver"],
        "-train": str(folder / "train.txt"),
        "-test": str(folder / "test.txt"),
        "-dim": f"1,1,{job['k']}",
        "-iter": str(iterations),
        "-init_stdev": str(job.get("init", 0.1)),
        "-seed": str(job["seed"]),
    }
    if job["solver"] == "sgd":
        options["-learn_rate"] = str(job["rate"])
    if job["solver"] != "mcmc":
        options["-regular"] = f"0,{job['l2_w']},{job['l2_v']}"
    began, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    words = [word for option in options.items() for word in option]
    done = subprocess.run([job["binary"], *words], capture_output=True, text=True, check=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return cpu, time.perf_counter() - wall, [float(x) for x in re.findall(r"Test=([0-9.eE+-]+)", done.stdout)]


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    write_libsvm(train, folder / "train.txt")
    if judge.data is not None:
        write_libsvm(judge.data, folder / "test.txt")
    else:
        (folder / "test.txt").write_text((folder / "train.txt").open().readline())
    once = run(folder, 1)
    epochs = max(2, job["epochs"])
    cpu, wall, errors = run(folder, epochs)
    each = ((cpu - once[0]) / (epochs - 1), (wall - once[1]) / (epochs - 1))
    for epoch, rmse in enumerate(errors, 1):
        clock.cpu, clock.wall = each[0] * epoch, each[1] * epoch
        clock.point(epoch, rmse)
answer(job, clock)
