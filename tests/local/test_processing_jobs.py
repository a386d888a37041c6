"""Processing jobs: what is refused, how they fail, stop, run out of time, and what they leave in S3."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from lib import aws, local, storage

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/reelbook:1"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def client(local_aws: local.Server) -> Any:
    storage.ensure_bucket("processing", "us-east-1")
    return boto3.client("sagemaker")


def request(run: str, *arguments: str, **members: Any) -> dict[str, Any]:
    output = {
        "S3Uri": f"s3://processing/{run}/run",
        "LocalPath": "/opt/ml/processing/output/run",
        "S3UploadMode": "EndOfJob",
    }
    return {
        "ProcessingJobName": f"{run}-{next(NUMBERS)}",
        "RoleArn": aws.LOCAL_ROLE,
        "AppSpecification": {
            "ImageUri": IMAGE,
            "ContainerArguments": ["run", "--run-id", run, *arguments],
        },
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 30}
        },
        "ProcessingOutputConfig": {"Outputs": [{"OutputName": "run", "S3Output": output}]},
        **members,
    }


def given(run: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return the input that holds the run's parameters."""
    uri = f"s3://processing/{run}/given"
    boto3.client("s3").put_object(
        Bucket="processing", Key=f"{run}/given/parameters.json", Body=json.dumps(parameters).encode()
    )
    source = {"S3Uri": uri, "LocalPath": "/opt/ml/processing/input/given", "S3DataType": "S3Prefix"}
    return [{"InputName": "given", "S3Input": {**source, "S3InputMode": "File"}}]


def ended(client: Any, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found: dict[str, Any] = client.describe_processing_job(ProcessingJobName=name)
        if found["ProcessingJobStatus"] in ("Completed", "Failed", "Stopped"):
            return found
        time.sleep(0.1)
    raise AssertionError("the job does not end")


def test_a_job_leaves_its_output_and_its_log(client: Any) -> None:
    made = request("plain", "--to", "00_collect", ProcessingInputs=given("plain", ratings=500))
    made["Tags"] = [{"Key": "reelbook:run", "Value": "plain"}]
    arn = client.create_processing_job(**made)["ProcessingJobArn"]
    assert arn.endswith(f":processing-job/{made['ProcessingJobName']}")
    found = ended(client, made["ProcessingJobName"])
    assert found["ProcessingJobStatus"] == "Completed", found
    assert found["ProcessingStartTime"] <= found["ProcessingEndTime"]
    assert json.loads(storage.read_bytes("s3://processing/plain/run/scraps.json"))["review_count"] == 500
    log = boto3.client("logs")
    (stream,) = log.describe_log_streams(
        logGroupName="/aws/sagemaker/ProcessingJobs", logStreamNamePrefix=made["ProcessingJobName"]
    )["logStreams"]
    events = log.get_log_events(
        logGroupName="/aws/sagemaker/ProcessingJobs", logStreamName=stream["logStreamName"]
    )["events"]
    assert any("00_collect" in event["message"] for event in events)
    listed = client.list_processing_jobs(NameContains="plain")["ProcessingJobSummaries"]
    assert [job["ProcessingJobName"] for job in listed] == [made["ProcessingJobName"]]
    assert client.list_tags(ResourceArn=arn)["Tags"] == made["Tags"]


def test_a_job_that_fails_says_why_and_leaves_what_it_has(client: Any) -> None:
    inputs = given("fails", ratings=500, side_features=["no_such_column"])
    made = request("fails", "--to", "01_preprocess", ProcessingInputs=inputs)
    client.create_processing_job(**made)
    found = ended(client, made["ProcessingJobName"])
    assert found["ProcessingJobStatus"] == "Failed"
    assert "no_such_column" in found["ExitMessage"]
    assert "exit code: 1" in found["FailureReason"]
    assert storage.list_objects("s3://processing/fails/run")


def test_a_job_can_be_stopped_and_has_its_time(client: Any) -> None:
    long = given("long", ratings=3_000_000)
    stopped = request("long", ProcessingInputs=long)
    client.create_processing_job(**stopped)
    time.sleep(2)
    client.stop_processing_job(ProcessingJobName=stopped["ProcessingJobName"])
    assert ended(client, stopped["ProcessingJobName"])["ProcessingJobStatus"] == "Stopped"
    with pytest.raises(ClientError, match="is in status Stopped"):
        client.stop_processing_job(ProcessingJobName=stopped["ProcessingJobName"])
    overdue = request("long", ProcessingInputs=long, StoppingCondition={"MaxRuntimeInSeconds": 2})
    client.create_processing_job(**overdue)
    found = ended(client, overdue["ProcessingJobName"])
    assert found["ProcessingJobStatus"] == "Stopped"
    assert "MaxRuntimeInSeconds" in found["FailureReason"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"AppSpecification": {"ImageUri": "other:1", "ContainerArguments": ["run"]}},
            "with the image reelbook only",
        ),
        ({"AppSpecification": {"ImageUri": IMAGE, "ContainerArguments": ["sh"]}}, "should begin with run"),
        (
            {
                "AppSpecification": {
                    "ImageUri": IMAGE,
                    "ContainerEntrypoint": ["sh"],
                    "ContainerArguments": ["run"],
                }
            },
            "ContainerEntrypoint",
        ),
        (
            {
                "ProcessingResources": {
                    "ClusterConfig": {
                        "InstanceCount": 2,
                        "InstanceType": "ml.m5.large",
                        "VolumeSizeInGB": 1,
                    }
                }
            },
            "instance count",
        ),
        (
            {
                "ProcessingOutputConfig": {
                    "Outputs": [
                        {
                            "OutputName": "x",
                            "S3Output": {
                                "S3Uri": "s3://processing/x",
                                "LocalPath": "/etc",
                                "S3UploadMode": "EndOfJob",
                            },
                        }
                    ]
                }
            },
            "does not lie in /opt/ml/processing",
        ),
        (
            {
                "ProcessingOutputConfig": {
                    "Outputs": [
                        {
                            "OutputName": "x",
                            "S3Output": {
                                "S3Uri": "s3://processing/x",
                                "LocalPath": "/opt/ml/processing/../../../etc",
                                "S3UploadMode": "EndOfJob",
                            },
                        }
                    ]
                }
            },
            "does not lie in /opt/ml/processing",
        ),
        (
            {
                "ProcessingOutputConfig": {
                    "Outputs": [
                        {
                            "OutputName": "x",
                            "S3Output": {
                                "S3Uri": "s3://none-such/x",
                                "LocalPath": "/opt/ml/processing/x",
                                "S3UploadMode": "EndOfJob",
                            },
                        }
                    ]
                }
            },
            "bucket none-such",
        ),
        (
            {
                "ProcessingInputs": [
                    {
                        "InputName": "x",
                        "S3Input": {
                            "S3Uri": "s3://processing/nothing-here",
                            "LocalPath": "/opt/ml/processing/input/x",
                            "S3DataType": "S3Prefix",
                            "S3InputMode": "File",
                        },
                    }
                ]
            },
            "No S3 objects found",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(client: Any, members: dict[str, Any], message: str) -> None:
    made = {**request("refused"), **members}
    with pytest.raises(ClientError, match=message):
        client.create_processing_job(**made)
    assert not client.list_processing_jobs(NameContains=made["ProcessingJobName"])["ProcessingJobSummaries"]


def test_a_name_is_used_once(client: Any) -> None:
    made = request("twice", "--to", "00_collect", ProcessingInputs=given("twice", ratings=500))
    client.create_processing_job(**made)
    with pytest.raises(ClientError, match="already exists"):
        client.create_processing_job(**made)
    ended(client, made["ProcessingJobName"])
