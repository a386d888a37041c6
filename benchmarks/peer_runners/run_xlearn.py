"""Run xLearn's Factorization Machine on text files, the input that it is made for.

It has no way to go on with a model, so it is run anew for each number of epochs.  The seconds of an epoch
are those of the longest run less those of the shortest, so reading the text does not count.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import xlearn
from common import Clock, Data, Judge, answer, read_job, write_libsvm

os.environ.setdefault("USER", "nobody")  # part of its log's name; without it, it crashes
job = read_job()
train = Data(job["train"])
clock = Clock()
judge = Judge(job, train)
counts = job["epoch_counts"]
settings = {
    "task": "reg",
    "k": job["k"],
    "lr": job["rate"],
    "lambda": job["l2"],
    "opt": job["optimizer"],
    "init": job.get("init", 0.66),
    "nthread": job["threads"],
}

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    write_libsvm(train, folder / "train.txt")
    if judge.data is not None:
        write_libsvm(judge.data, folder / "test.txt")
    spent = {}
    errors = {}
    for place, epochs in enumerate([counts[0], *counts]):  # the first run only makes binary files of the text
        machine = xlearn.create_fm()
        machine.setQuiet()
        if not job.get("norm"):
            machine.disableNorm()
        machine.disableEarlyStop()
        if job["threads"] == 1:
            machine.disableLockFree()
        machine.setTrain(str(folder / "train.txt"))
        cpu, wall = time.process_time(), time.perf_counter()
        machine.fit({**settings, "epoch": epochs}, str(folder / "model"))
        spent[epochs] = (time.process_time() - cpu, time.perf_counter() - wall)
        if judge.data is not None and place:
            machine.setTest(str(folder / "test.txt"))
            machine.predict(str(folder / "model"), str(folder / "out.txt"))
            errors[epochs] = judge(lambda _: np.loadtxt(folder / "out.txt"))
    first, last = min(counts), max(counts)
    each = [(long - short) / (last - first) for long, short in zip(spent[last], spent[first], strict=True)]
    for epochs in counts:
        clock.cpu, clock.wall = each[0] * epochs, each[1] * epochs
        clock.point(epochs, errors.get(epochs, float("nan")))
answer(job, clock)
