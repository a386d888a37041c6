"""What the client scripts share: tiny ratings as recordIO-protobuf, and one printed line for each flow.

Only the standard library, so that it runs beside any client.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import struct
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CUSTOMERS, VIDEOS = 20, 10
FEATURES = CUSTOMERS + VIDEOS
RECORDIO = "application/x-recordio-protobuf"
HYPERPARAMETERS = {
    "feature_dim": str(FEATURES),
    "num_factors": "4",
    "predictor_type": "regressor",
    "epochs": "20",
    "mini_batch_size": "50",
    "linear_lr": "0.03",
}
ENDLESS = HYPERPARAMETERS | {"epochs": "100000000", "batch_metrics_publish_interval": "1000000000"}
"""Hyperparameters of a job that only a stop ends."""

Rating = tuple[int, int, float]


def ratings(rows: int, seed: int) -> list[Rating]:
    """Return customers, videos and stars: 3, and what the customer and the video each add to it."""
    draw, bias = random.Random(seed), random.Random("biases")
    customers = [bias.gauss(0, 1) for _ in range(CUSTOMERS)]
    videos = [bias.gauss(0, 1) for _ in range(VIDEOS)]
    pairs = [(draw.randrange(CUSTOMERS), draw.randrange(VIDEOS)) for _ in range(rows)]
    return [(customer, video, 3 + customers[customer] + videos[video]) for customer, video in pairs]


TRAIN, TEST = ratings(1000, 1), ratings(200, 2)
STARS = [stars for _, _, stars in TEST]


def recordio(rows: list[Rating], labels: bool = True) -> bytes:
    """Return the file that SageMaker's Factorization Machines read: one-hot customer and video, and stars."""
    records = []
    for customer, video, stars in rows:
        record = _entry(1, b"values", _floats(1.0, 1.0), (customer, CUSTOMERS + video))
        if labels:
            record += _entry(2, b"values", _floats(stars))
        padding = bytes(-len(record) % 4)
        records.append(struct.pack("<II", 0xCED7230A, len(record)) + record + padding)
    return b"".join(records)


def put_data(s3: Any, bucket: str, prefix: str) -> None:
    """Upload TRAIN, TEST and TEST without its stars by a client of boto3; make the bucket if need be."""
    if bucket not in [item["Name"] for item in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=bucket)
    for key, rows, labels in [("train", TRAIN, True), ("test", TEST, True), ("rows", TEST, False)]:
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{key}/{key}.pbr", Body=recordio(rows, labels))


def json_body(rows: list[Rating]) -> str:
    """Return the same features as the JSON that its endpoints take."""
    instances = [
        {
            "data": {
                "features": {
                    "keys": [customer, CUSTOMERS + video],
                    "shape": [FEATURES],
                    "values": [1.0, 1.0],
                }
            }
        }
        for customer, video, _ in rows
    ]
    return json.dumps({"instances": instances})


def _entry(map_field: int, key: bytes, values: bytes, keys: tuple[int, ...] = ()) -> bytes:
    tensor = _field(1, values)
    if keys:
        tensor += _field(2, b"".join(map(_varint, keys))) + _field(3, _varint(FEATURES))
    return _field(map_field, _field(1, key) + _field(2, _field(2, tensor)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def scores_of_lines(text: str) -> list[float]:
    """Return the scores of an answer in JSON lines."""
    return [json.loads(line)["score"] for line in text.splitlines()]


def scores_of_json(text: str | bytes) -> list[float]:
    """Return the scores of an answer in JSON."""
    return [item["score"] for item in json.loads(text)["predictions"]]


def rmse(scores: list[float]) -> float:
    """Return the root of the mean squared error of the scores for TEST."""
    assert len(scores) == len(STARS), f"{len(scores)} scores for {len(STARS)} rows"
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(scores, STARS, strict=True)) / len(STARS))


def check_scores(scores: list[float], job_rmse: float | None = None) -> None:
    """Check that the scores for TEST follow its stars, and have the error that the training job found."""
    error = rmse(scores)
    assert error < 0.5, f"the scores' RMSE is {error}, and the stars' standard deviation is about 1.4"
    if job_rmse is not None:
        assert math.isclose(error, job_rmse, rel_tol=1e-4), f"RMSE is {error}, by the job {job_rmse}"


def check_same(scores: list[float], others: list[float]) -> None:
    """Check that two ways to ask one model give the same scores."""
    assert len(scores) == len(others)
    assert all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-5) for a, b in zip(scores, others, strict=True))


def until(read: Callable[[], Any], wanted: Callable[[Any], bool], seconds: float = 600) -> Any:
    """Return what ``read`` returns, once it is what is wanted."""
    deadline = time.monotonic() + seconds
    while not wanted(found := read()):
        assert time.monotonic() < deadline, f"still {found!r} after {seconds} s"
        time.sleep(0.2)
    return found


def arguments(about: str | None) -> argparse.Namespace:
    """Return the script's arguments, with a name for what this run creates."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--bucket", default="sagemaker-clients", help="made if it is not there")
    parser.add_argument("--role", default="arn:aws:iam::123456789012:role/local")
    parser.add_argument(
        "--image", default="382416733822.dkr.ecr.us-east-1.amazonaws.com/factorization-machines:1"
    )
    given = parser.parse_args()
    given.name = f"{sys.argv[0].rpartition('check_')[2].partition('.')[0]}-{uuid.uuid4().hex[:6]}".replace(
        "_", "-"
    )
    return given


class Flows:
    """Print a line ``client version | flow | ok`` for each flow; the first that fails ends the program."""

    def __init__(self, client: str) -> None:
        self.client = client

    @contextmanager
    def __call__(self, flow: str) -> Iterator[None]:
        """Run one flow."""
        try:
            yield
        except BaseException:
            traceback.print_exc()
            print(f"{self.client} | {flow} | failed", flush=True)
            sys.exit(1)
        print(f"{self.client} | {flow} | ok", flush=True)
