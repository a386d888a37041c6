"""Run myFM's Gibbs sampler: an epoch is a sweep; the prediction is the mean over the sweeps after the burn-in."""

from __future__ import annotations

import time

import numpy as np
from common import Clock, Data, Judge, answer, read_job
from myfm import MyFMRegressor

job = read_job()
train = Data(job["train"])
clock = Clock()
judge = Judge(job, train)
burn_in = job.get("burn_in", 5)
sums = np.zeros(0 if judge.data is None else len(judge.data.y))
at = {"cpu": time.process_time(), "wall": time.perf_counter(), "kept": 0}


def after_sweep(sweep: int, machine: object, *_: object) -> tuple[bool, None]:
    global sums
    clock.cpu += time.process_time() - at["cpu"]
    clock.wall += time.perf_counter() - at["wall"]
    rmse = float("nan")
    if judge.data is not None:
        scores = machine.predict_score(judge.data.X, [])
        if sweep >= burn_in:
            sums += scores
            at["kept"] += 1
        rmse = judge(lambda _: sums / at["kept"] if at["kept"] else scores)
    clock.point(sweep + 1, rmse)
    at["cpu"], at["wall"] = time.process_time(), time.perf_counter()
    return False, None


MyFMRegressor(rank=job["k"], random_seed=job["seed"]).fit(
    train.X,
    train.y,
    n_iter=job["epochs"],
    n_kept_samples=1,
    group_shapes=train.fields or None,
    callback=after_sweep,
)
answer(job, clock)
