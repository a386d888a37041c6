"""What the tests of searches and lists share: jobs that are only kept, and tokens that were never given out."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from sagemaker_kit import Aws, channel, hyperparameters

from lib.local.protocol import AwsError
from lib.local.store import TRAINING_JOB, TUNING_JOB


def refused(aws: Aws, operation: str, **params: Any) -> tuple[str, str]:
    with pytest.raises(AwsError) as caught:
        aws.call(operation, **params)
    return caught.value.code, caught.value.message


def put_job(aws: Aws, name: str, **changes: Any) -> str:
    """Put a training job that has ended into the store, and return its ARN."""
    tags = changes.pop("Tags", None)
    parent = changes.pop("parent", None)
    document = {
        "TrainingJobStatus": "Completed",
        "HyperParameters": hyperparameters(),
        "InputDataConfig": [channel("train"), channel("test")],
        **changes,
    }
    store = aws.sagemaker._store
    arn: str = store.create(TRAINING_JOB, name, document, parent=parent, tags=tags)["TrainingJobArn"]
    return arn


def metric(value: float, name: str = "test:rmse") -> list[dict[str, Any]]:
    return [{"MetricName": name, "Value": value, "Timestamp": 1.0}]


def put_tuning_job(aws: Aws, name: str, status: str = "Completed") -> str:
    objective = {"Type": "Minimize", "MetricName": "test:rmse"}
    config = {
        "Strategy": "Random",
        "ResourceLimits": {"MaxParallelTrainingJobs": 1, "MaxNumberOfTrainingJobs": 1},
        "HyperParameterTuningJobObjective": objective,
    }
    document = {"HyperParameterTuningJobConfig": config, "HyperParameterTuningJobStatus": status}
    kept = aws.sagemaker._store.create(TUNING_JOB, name, document)
    arn: str = kept["HyperParameterTuningJobArn"]
    return arn


def token(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


BAD_TOKENS = [
    "x",
    "ä",
    "bm8=",
    token(True),
    token([0, "text", "name"]),
    token([1, 2.0, "name"]),
    token([0, True, "name"]),
    token([9, "text", "name"]),
    token(["x"]),
    base64.urlsafe_b64encode(b"[" * 6000).decode(),
]
