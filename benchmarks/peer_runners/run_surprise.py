"""Run scikit-surprise's SVD.

It cannot go on with a model, so it is run anew for each number of epochs.  Its rows are Python objects, made
here before the clock starts.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from common import Clock, Data, Judge, answer, read_job
from surprise import SVD, Trainset

job = read_job()
train = Data(job["train"])
customer, video = train.customers_and_videos()
of_customer: dict[int, list] = defaultdict(list)
of_video: dict[int, list] = defaultdict(list)
for u, i, r in zip(customer.tolist(), video.tolist(), train.y.tolist(), strict=True):
    of_customer[u].append((i, r))
    of_video[i].append((u, r))
customers, videos = train.fields
scale = (train.y.min(), train.y.max())
rows = Trainset(of_customer, of_video, customers, videos, len(train.y), scale, {}, {})
judge = Judge(job, train)
result = Clock()


def predict(data: Data) -> np.ndarray:
    customer, video = data.customers_and_videos()
    products = np.einsum("ij,ij->i", machine.pu[customer], machine.qi[video])
    return rows.global_mean + machine.bu[customer] + machine.bi[video] + products


for epochs in job["epoch_counts"]:
    clock = Clock()
    machine = SVD(
        n_factors=job["k"],
        n_epochs=epochs,
        lr_all=job["rate"],
        reg_all=job["l2"],
        random_state=job["seed"],
    )
    with clock.counted():
        machine.fit(rows)
    result.cpu, result.wall = clock.cpu, clock.wall
    result.point(epochs, judge(predict))
answer(job, result)
