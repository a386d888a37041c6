"""Run fastFM: coordinate descent (``als``), Gibbs sampling (``mcmc``) or single-example descent (``sgd``)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from common import Clock, Data, Judge, answer, read_job
from fastFM import als, mcmc, sgd

job = read_job()
train = Data(job["train"])
columns = sp.csc_matrix(train.X)
clock = Clock()
judge = Judge(job, train)
solver = job["solver"]
common = {"n_iter": 0, "rank": job["k"], "random_state": job["seed"], "init_stdev": job.get("init", 0.1)}


def predict(data: Data) -> np.ndarray:
    return machine.predict(sp.csc_matrix(data.X))


if solver == "als":
    machine = als.FMRegression(l2_reg_w=job["l2_w"], l2_reg_V=job["l2_v"], **common)
    for epoch in range(1, job["epochs"] + 1):
        with clock.counted():
            if epoch == 1:
                machine.n_iter = 1
                machine.fit(columns, train.y)
            else:
                machine.fit(columns, train.y, n_more_iter=1)
        clock.point(epoch, judge(predict))
elif solver == "mcmc":
    machine = mcmc.FMRegression(**common)
    test = sp.csc_matrix(judge.data.X) if judge.data is not None else columns[:1]
    for epoch in range(1, job["epochs"] + 1):
        with clock.counted():  # the solver predicts the test rows itself; that is part of its time
            if epoch == 1:
                machine.n_iter = 1
                mean = machine.fit_predict(columns, train.y, test)
            else:
                mean = machine.fit_predict(columns, train.y, test, n_more_iter=1)
        clock.point(epoch, judge(lambda _: mean))  # noqa: B023
else:
    penalties = {"l2_reg_w": job["l2_w"], "l2_reg_V": job["l2_v"]}
    result = Clock()
    for epochs in job["epoch_counts"]:  # it cannot go on with a model
        common["n_iter"] = epochs * len(train.y)  # its iterations are single examples
        machine = sgd.FMRegression(step_size=job["rate"], **penalties, **common)
        clock = Clock()
        with clock.counted():
            machine.fit(columns, train.y)
        result.cpu, result.wall = clock.cpu, clock.wall
        result.point(epochs, judge(predict))
    clock = result
answer(job, clock)
