"""What the tests of the local SageMaker share: a server without HTTP, tiny data, well-formed requests."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from lib import recordio
from lib.local.logs import Logs
from lib.local.metrics import Metrics
from lib.local.objects import Objects
from lib.local.protocol import parse, render
from lib.local.sagemaker import SageMaker

BUCKET = "sagemaker-tests"
IMAGE = "382416733822.dkr.ecr.us-east-1.amazonaws.com/factorization-machines:1"
ROLE = "arn:aws:iam::123456789012:role/local"
RECORDIO = "application/x-recordio-protobuf"
CUSTOMERS, VIDEOS = 40, 20
FEATURES = CUSTOMERS + VIDEOS
FINISHED = ("Completed", "Failed", "Stopped")


class Aws:
    """The local SageMaker, its S3 and its logs in one folder; requests and answers as on the wire."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.objects = Objects(root)
        self.logs = Logs(root)
        self.metrics = Metrics(root)
        self.sagemaker = SageMaker(root, self.objects, self.logs, self.metrics, **settings)
        self.objects.create_bucket(BUCKET)

    def __enter__(self) -> Aws:
        self.sagemaker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.sagemaker.close()
        self.metrics.close()
        self.objects.close()

    def call(self, operation: str, **params: Any) -> dict[str, Any]:
        checked = parse("sagemaker", operation, json.dumps(params).encode())
        answer = render("sagemaker", operation, self.sagemaker.call(operation, checked))
        return json.loads(json.dumps(answer))

    def describe(self, kind: str, name: str) -> dict[str, Any]:
        return self.call(f"Describe{kind}", **{f"{kind}Name": name})

    def wait(self, kind: str, name: str, *, seconds: float = 60) -> dict[str, Any]:
        """Return the job's description once it has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self.describe(kind, name)
            if answer[f"{kind}Status"] in FINISHED:
                return answer
            time.sleep(0.02)
        raise AssertionError(f"{kind} {name} has not ended after {seconds} s")

    def log_lines(self, group: str, job: str) -> list[str]:
        """Return all lines of a job's log, once there is one."""
        groups = self.logs.call("DescribeLogGroups", {"logGroupNamePrefix": group})["logGroups"]
        if not groups:
            return []
        events = self.logs.call("FilterLogEvents", {"logGroupName": group, "logStreamNamePrefix": f"{job}/"})
        return [event["message"] for event in events["events"]]

    def wait_for_log(self, group: str, job: str, text: str, *, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not any(text in line for line in self.log_lines(group, job)):
            assert time.monotonic() < deadline, f"{job} has not logged {text!r} after {seconds} s"
            time.sleep(0.05)

    def put(self, key: str, data: bytes) -> str:
        self.objects.put_bytes(BUCKET, key, data)
        return f"s3://{BUCKET}/{key}"

    def read(self, uri: str) -> bytes:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.objects.get(bucket, key).path.read_bytes()

    def keys(self, prefix: str) -> list[str]:
        return [item.key for item in self.objects.list(BUCKET, prefix)]

    def put_ratings(self, rows: int = 600, seed: int = 0) -> None:
        """Put the channels data/train and data/test, and data/parts without labels."""
        X, y = ratings(rows, seed)
        test = rows * 3 // 4
        self.put("data/train/train.pbr", encode(X[:test], y[:test]))
        self.put("data/test/test.pbr", encode(X[test:], y[test:]))
        for part, start in enumerate(range(test, rows, 50)):
            self.put(f"data/parts/part-{part:05d}.pbr", encode(X[start : start + 50]))


def ratings(rows: int, seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return one-hot customers and videos, and stars that depend on both."""
    random = np.random.default_rng(seed)
    customer, video = random.integers(0, CUSTOMERS, rows), random.integers(0, VIDEOS, rows)
    columns = np.stack([customer, CUSTOMERS + video], axis=1).ravel()
    X = sp.csr_matrix(
        (np.ones(2 * rows, np.float32), columns, np.arange(0, 2 * rows + 1, 2)), (rows, FEATURES)
    )
    y = 3 + random.normal(size=CUSTOMERS)[customer] + random.normal(size=VIDEOS)[video]
    return X, y.astype(np.float32)


def encode(X: sp.csr_matrix, y: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    recordio.write(file, X, y)
    return file.getvalue()


def hyperparameters(**changes: Any) -> dict[str, str]:
    values = {
        "feature_dim": FEATURES,
        "num_factors": 4,
        "predictor_type": "regressor",
        "epochs": 3,
        "mini_batch_size": 50,
        **changes,
    }
    return {name: str(value) for name, value in values.items()}


ENDLESS = hyperparameters(epochs=100_000_000, batch_metrics_publish_interval=1_000_000_000)
"""Hyperparameters of a job that only a stop ends."""


def channel(name: str, uri: str | None = None, **changes: Any) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri or f"s3://{BUCKET}/data/{name}/"}
    return {
        "ChannelName": name,
        "ContentType": RECORDIO,
        "DataSource": {"S3DataSource": source},
        **changes,
    }


def training_definition(**changes: Any) -> dict[str, Any]:
    """Return what a training job's request and a tuning job's definition have in common."""
    return {
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "RoleArn": ROLE,
        "InputDataConfig": [channel("train"), channel("test")],
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/models"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        **changes,
    }


def training_request(name: str, **changes: Any) -> dict[str, Any]:
    return training_definition(TrainingJobName=name, **{"HyperParameters": hyperparameters(), **changes})


def transform_request(name: str, model: str, **changes: Any) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/data/parts/"}
    return {
        "TransformJobName": name,
        "ModelName": model,
        "BatchStrategy": "MultiRecord",
        "TransformInput": {
            "DataSource": {"S3DataSource": source},
            "ContentType": RECORDIO,
            "SplitType": "RecordIO",
        },
        "TransformOutput": {
            "S3OutputPath": f"s3://{BUCKET}/predictions/{name}",
            "Accept": "application/jsonlines",
            "AssembleWith": "Line",
        },
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        **changes,
    }


def model_request(name: str, uri: str, **changes: Any) -> dict[str, Any]:
    return {
        "ModelName": name,
        "ExecutionRoleArn": ROLE,
        "PrimaryContainer": {"Image": IMAGE, "ModelDataUrl": uri},
        **changes,
    }
