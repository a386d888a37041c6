"""What a run left on the target, and its removal: endpoints, models, jobs that still run, its S3 prefix.

Only what carries the run's own tag is listed, so nothing of anybody else is ever touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from lib.job_control import client, find, stem, wait_until_ended
from lib.job_requests import RUN_TAG


@dataclass(frozen=True)
class Resource:
    """One thing a run made on the target: what kind, its name, its state, when it was made."""

    kind: str
    name: str
    status: str
    created: datetime


# In what SageMaker answers where there is nothing left to stop or delete
_OVER = ("is in status", "not found", "Could not find")

_RUNNING = ("InProgress", "Stopping")

_KINDS: dict[str, dict[str, str]] = {
    "endpoint": {"list": "list_endpoints", "items": "Endpoints", "key": "Endpoint", "end": "delete_endpoint"},
    "endpoint config": {
        "list": "list_endpoint_configs",
        "items": "EndpointConfigs",
        "key": "EndpointConfig",
        "end": "delete_endpoint_config",
    },
    "model": {"list": "list_models", "items": "Models", "key": "Model", "end": "delete_model"},
    "tuning job": {
        "list": "list_hyper_parameter_tuning_jobs",
        "items": "HyperParameterTuningJobSummaries",
        "key": "HyperParameterTuningJob",
        "end": "stop_hyper_parameter_tuning_job",
    },
    "training job": {
        "list": "list_training_jobs",
        "items": "TrainingJobSummaries",
        "key": "TrainingJob",
        "end": "stop_training_job",
    },
    "transform job": {
        "list": "list_transform_jobs",
        "items": "TransformJobSummaries",
        "key": "TransformJob",
        "end": "stop_transform_job",
    },
}


def created_by(run_id: str) -> list[Resource]:
    """List what a run left on the target: endpoints, models, and jobs that still run.

    Only what carries the run's tag is listed, so nothing of anybody else.
    """
    sagemaker = client()
    found = []
    for kind, names in _KINDS.items():
        filters = [{"StatusEquals": status} for status in _RUNNING] if kind.endswith(" job") else [{}]
        for status in filters:
            pages = sagemaker.get_paginator(names["list"]).paginate(NameContains=stem(run_id), **status)
            for item in (item for page in pages for item in page[names["items"]]):
                key = names["key"]
                tags = sagemaker.list_tags(ResourceArn=item[f"{key}Arn"])["Tags"]
                if {"Key": RUN_TAG, "Value": run_id} in tags:
                    state = item.get(f"{key}Status", "")
                    found.append(Resource(kind, item[f"{key}Name"], state, item["CreationTime"]))
    return found


def remove(resources: list[Resource]) -> None:
    """Delete the models, endpoint configs and endpoints listed; stop the jobs listed.

    What has ended or gone since it was listed is passed over: stopping a tuning job stops its training jobs.
    It waits for endpoints that are being made, which cannot be deleted until they are, and for the stopped
    jobs to end, because until then they may still write.
    """
    sagemaker = client()
    for resource in resources:
        if resource.kind == "endpoint":
            _wait_until_settled(resource.name)
        names = _KINDS[resource.kind]
        end: Callable[..., Any] = getattr(sagemaker, names["end"])
        try:
            end(**{f"{names['key']}Name": resource.name})
        except ClientError as error:
            if not any(words in error.response["Error"].get("Message", "") for words in _OVER):
                raise
    for resource in resources:
        if resource.kind.endswith(" job"):
            wait_until_ended(resource.kind.removesuffix(" job"), resource.name)


def _wait_until_settled(endpoint: str, seconds: float = 900) -> None:
    """Wait for an endpoint that is being made or changed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = find(client().describe_endpoint, EndpointName=endpoint)
        if answer is None or not answer["EndpointStatus"].endswith("ing"):
            return
        time.sleep(0.5)
