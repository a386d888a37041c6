"""Run a Factorization Machine written for torch as one would write it for speed on a processor.

Weight and factors of a feature are one row of one sparse embedding, so a batch costs one gather and one
sparse update; the optimizer is SparseAdam, torch's lazy Adam.  Rows are tensors in memory, and batches are
slices of them.  The penalty is on the rows that a batch uses, as in `lib.fm`.
"""

from __future__ import annotations

import numpy as np
import torch
from common import Clock, Data, Judge, answer, read_job, scores

job = read_job()
torch.manual_seed(job["seed"])
torch.set_num_threads(job["threads"])
train = Data(job["train"], np.float32)
judge = Judge(job, train)
n, d, k, size = len(train.y), train.X.shape[1], job["k"], job["batch"]
counts = np.diff(train.X.indptr)
if not (counts == counts[0]).all():
    raise SystemExit("This model takes the same number of features in every row.")
features = torch.from_numpy(train.X.indices.reshape(n, -1).astype(np.int64))
values = torch.from_numpy(train.X.data.reshape(n, -1))
labels = torch.from_numpy(train.y.astype(np.float32))
ones = bool((values == 1).all())

table = torch.nn.Embedding(d, k + 1, sparse=True)
torch.nn.init.normal_(table.weight, std=job.get("init", 0.01))
with torch.no_grad():
    table.weight[:, k] = 0
bias = torch.nn.Parameter(labels.mean().clone())
sparse_adam = torch.optim.SparseAdam(list(table.parameters()), lr=job["rate"])
adam = torch.optim.Adam([bias], lr=job["rate"])
clock = Clock()


def predict(data: Data) -> np.ndarray:
    weight = table.weight.detach().numpy()
    return scores(data.X, float(bias.detach()), weight[:, k], weight[:, :k])


for epoch in range(1, job["epochs"] + 1):
    with clock.counted():
        order = torch.randperm(n) if job.get("shuffle") else None
        for start in range(0, n, size):
            rows = slice(start, start + size) if order is None else order[start : start + size]
            gathered = table(features[rows])
            if not ones:
                gathered = gathered * values[rows].unsqueeze(2)
            factors = gathered[:, :, :k]
            sums = factors.sum(1)
            pairs = 0.5 * ((sums * sums).sum(1) - (factors * factors).sum((1, 2)))
            outputs = bias + gathered[:, :, k].sum(1) + pairs
            errors = outputs - labels[rows]
            loss = (errors * errors).mean()
            if job["l2"]:
                loss = loss + job["l2"] * (factors * factors).sum() / len(errors)
            sparse_adam.zero_grad()
            adam.zero_grad()
            loss.backward()
            sparse_adam.step()
            adam.step()
    clock.point(epoch, judge(predict))
answer(job, clock)
