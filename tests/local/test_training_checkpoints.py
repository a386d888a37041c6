"""Managed spot and checkpoints: what a stopped, a killed and a tuned job leave in S3, and go on from."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from sagemaker_kit import BUCKET, Aws, encode, hyperparameters, ratings, training_request
from test_tuning_jobs import request as tuning_request

from lib import local
from lib.local.jobs import LOG_GROUP
from lib.local.protocol import AwsError

LONG = hyperparameters(epochs=3000, batch_metrics_publish_interval=1_000_000)
SPOT = {
    "EnableManagedSpotTraining": True,
    "StoppingCondition": {"MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 900},
}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with Aws(tmp_path_factory.mktemp("aws"), grace=20.0) as aws:
        aws.put_ratings()
        yield aws


def kept_at(where: str) -> dict[str, Any]:
    return {"CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/{where}"}}


def going_on(lines: list[str]) -> int:
    """Return the epoch after which a job's log says that it went on; -1 where it began anew."""
    found = [line for line in lines if "from the checkpoint" in line]
    return int(found[0].partition("after epoch=")[2].partition(",")[0]) if found else -1


def test_a_stopped_job_is_resumed_and_ends_as_if_it_had_not_been(aws: Aws) -> None:
    aws.call("CreateTrainingJob", **training_request("whole", HyperParameters=LONG))
    request = {"HyperParameters": LONG, **SPOT, **kept_at("kept")}
    aws.call("CreateTrainingJob", **training_request("stopped", **request))
    aws.wait_for_log(LOG_GROUP, "stopped", "epoch=200,")
    aws.call("StopTrainingJob", TrainingJobName="stopped")
    assert aws.wait("TrainingJob", "stopped")["TrainingJobStatus"] == "Stopped"
    assert aws.keys("kept/") == ["kept/checkpoint.npz"]
    aws.call("CreateTrainingJob", **training_request("resumed", **request))
    answer = aws.wait("TrainingJob", "resumed")
    assert answer["TrainingJobStatus"] == "Completed"
    assert answer["EnableManagedSpotTraining"] is True
    assert answer["CheckpointConfig"] == {"S3Uri": f"s3://{BUCKET}/kept"}
    assert going_on(aws.log_lines(LOG_GROUP, "resumed")) >= 200  # the epoch that it was stopped after
    whole = aws.wait("TrainingJob", "whole")["ModelArtifacts"]["S3ModelArtifacts"]
    assert aws.read(answer["ModelArtifacts"]["S3ModelArtifacts"]) == aws.read(whole)


def test_a_job_without_a_checkpoint_config_keeps_none(aws: Aws) -> None:
    before = aws.keys("")
    aws.call("CreateTrainingJob", **training_request("plain"))
    aws.wait("TrainingJob", "plain")
    assert set(aws.keys("")) - set(before) == {"models/plain/output/model.tar.gz"}


def test_a_place_that_cannot_be_is_refused(aws: Aws) -> None:
    for config, text in (
        ({"S3Uri": "s3://no-such-bucket/x"}, "The bucket no-such-bucket of CheckpointConfig.S3Uri"),
        ({"S3Uri": f"s3://{BUCKET}/x", "LocalPath": "/tmp/x"}, "CheckpointConfig.LocalPath /tmp/x"),
    ):
        with pytest.raises(AwsError, match=text):
            aws.call("CreateTrainingJob", **training_request("refused", CheckpointConfig=config))


def test_the_training_jobs_of_a_tuning_job_keep_their_own(aws: Aws) -> None:
    asked = tuning_request("tuned", jobs=2, definition=kept_at("tuned"))
    aws.call("CreateHyperParameterTuningJob", **asked)
    aws.wait("HyperParameterTuningJob", "tuned")
    jobs = aws.call("ListTrainingJobs", NameContains="tuned-", SortBy="Name")["TrainingJobSummaries"]
    names = [job["TrainingJobName"] for job in jobs]
    assert aws.keys("tuned/") == [f"tuned/{name}/checkpoint.npz" for name in names]


def test_after_a_kill_a_job_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    root = tmp_path / "root"

    def client(service: str) -> Any:
        server = local.start(root)
        return boto3.client(
            service,
            endpoint_url=server.endpoint,
            region_name="us-east-1",
            aws_access_key_id=server.credentials.access_key,
            aws_secret_access_key=server.credentials.secret_key,
        )

    try:
        s3, sagemaker = client("s3"), client("sagemaker")
        s3.create_bucket(Bucket=BUCKET)
        X, y = ratings(600)
        s3.put_object(Bucket=BUCKET, Key="data/train/a.pbr", Body=encode(X, y))
        s3.put_object(Bucket=BUCKET, Key="data/test/a.pbr", Body=encode(X, y))
        endless = {"HyperParameters": hyperparameters(epochs=100_000_000), **kept_at("kept")}
        sagemaker.create_training_job(**training_request("killed", **endless))
        deadline = time.monotonic() + 60
        while not s3.list_objects_v2(Bucket=BUCKET, Prefix="kept/")["KeyCount"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(local.start(root).pid, signal.SIGKILL)
        sagemaker, logs = client("sagemaker"), client("logs")
        assert sagemaker.describe_training_job(TrainingJobName="killed")["TrainingJobStatus"] == "Failed"
        sagemaker.create_training_job(**training_request("again", **endless))
        lines: list[str] = []
        while going_on(lines) < 0:
            assert time.monotonic() < deadline, lines
            time.sleep(0.1)
            groups = logs.describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix="again/")
            for stream in groups["logStreams"]:
                events = logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream["logStreamName"])
                lines = [event["message"] for event in events["events"]]
    finally:
        local.stop(root)
