"""Quotas of instances: jobs and endpoints beyond them are refused in AWS's words, and accepted once there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sagemaker_kit import BUCKET, ENDLESS, Aws, model_request, training_request, transform_request

from lib.errors import ParameterError
from lib.local.protocol import AwsError
from lib.local.quotas import VARIABLE, from_environment


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setenv(VARIABLE, "training=1, transform=0,endpoint=3")
    with Aws(tmp_path, grace=5.0) as aws:
        aws.put_ratings()
        aws.put("model.tar.gz", b"not looked into")
        aws.call("CreateModel", **model_request("model", f"s3://{BUCKET}/model.tar.gz"))
        yield aws


def refusal(aws: Aws, operation: str, **params: Any) -> str:
    with pytest.raises(AwsError) as caught:
        aws.call(operation, **params)
    assert caught.value.code == "ResourceLimitExceeded"
    return caught.value.message


def test_a_training_job_beyond_the_quota_is_refused_until_there_is_room(aws: Aws) -> None:
    aws.call("CreateTrainingJob", **training_request("first", HyperParameters=ENDLESS))
    said = refusal(aws, "CreateTrainingJob", **training_request("second"))
    assert said.startswith(
        "The account-level service limit 'Number of instances for training usage' is 1 Instances, with current "
        "utilization of 1 Instances and a request delta of 1 Instances."
    )
    assert VARIABLE in said
    aws.call("StopTrainingJob", TrainingJobName="first")
    aws.wait("TrainingJob", "first")
    aws.call("CreateTrainingJob", **training_request("second"))
    assert aws.wait("TrainingJob", "second")["TrainingJobStatus"] == "Completed"


def test_a_quota_of_none_refuses_all(aws: Aws) -> None:
    assert "is 0 Instances" in refusal(aws, "CreateTransformJob", **transform_request("any", "model"))


def test_the_instances_of_all_variants_count(aws: Aws) -> None:
    variant = {"ModelName": "model", "InstanceType": "ml.m5.large"}
    for name, counts in (("three", (1, 2)), ("four", (2, 2)), ("one", (1,))):
        variants = [
            {**variant, "VariantName": f"v{number}", "InitialInstanceCount": count}
            for number, count in enumerate(counts)
        ]
        aws.call("CreateEndpointConfig", EndpointConfigName=name, ProductionVariants=variants)
    said = refusal(aws, "CreateEndpoint", EndpointName="a", EndpointConfigName="four")
    assert "request delta of 4 Instances" in said
    aws.call("CreateEndpoint", EndpointName="a", EndpointConfigName="three")
    said = refusal(aws, "CreateEndpoint", EndpointName="b", EndpointConfigName="one")
    assert "current utilization of 3 Instances" in said


@pytest.mark.parametrize(
    "text", ["training", "training=", "training=-1", "train=1", "training=1;endpoint=2", "=3"]
)
def test_a_variable_that_says_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ParameterError, match=VARIABLE):
        from_environment()


def test_without_the_variable_there_is_no_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert from_environment() == {}
