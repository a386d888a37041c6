"""Run cornac's matrix factorization with biases: single-example descent, epoch by epoch."""

from __future__ import annotations

import numpy as np
from common import Clock, Data, Judge, answer, read_job
from cornac.data import Dataset
from cornac.models import MF

job = read_job()
train = Data(job["train"], np.float32)
customer, video = train.customers_and_videos()
customers, videos = train.fields
rows = Dataset(
    customers,
    videos,
    dict(zip(range(customers), range(customers), strict=True)),
    dict(zip(range(videos), range(videos), strict=True)),
    (customer, video, train.y.astype(np.float32)),
)
rng = np.random.default_rng(job["seed"])
k = job["k"]
machine = MF(
    k=k,
    max_iter=1,
    learning_rate=job["rate"],
    lambda_reg=job["l2"],
    num_threads=job["threads"],
    init_params={
        "U": (0.01 * rng.standard_normal((customers, k))).astype(np.float32),
        "V": (0.01 * rng.standard_normal((videos, k))).astype(np.float32),
    },
)
clock = Clock()
judge = Judge(job, train, np.float32)


def predict(data: Data) -> np.ndarray:
    customer, video = data.customers_and_videos()
    products = np.einsum("ij,ij->i", machine.u_factors[customer], machine.i_factors[video])
    return machine.global_mean + machine.u_biases[customer] + machine.i_biases[video] + products


for epoch in range(1, job["epochs"] + 1):
    with clock.counted():
        machine.fit(rows)  # goes on from the factors of the call before
    clock.point(epoch, judge(predict))
answer(job, clock)
