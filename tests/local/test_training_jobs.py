"""Training jobs: real processes in the container contract, from the request to the artifact."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sagemaker_kit import (
    BUCKET,
    ENDLESS,
    FEATURES,
    IMAGE,
    ROLE,
    Aws,
    channel,
    encode,
    hyperparameters,
    ratings,
    training_request,
)

from lib import fm
from lib.local.container import failure_reason
from lib.local.inputs import JobError, find, place, relative_key
from lib.local.jobs import LOG_GROUP
from lib.local.objects import Objects
from lib.local.protocol import AwsError
from lib.local.supervise import REPOSITORY, start_time


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with Aws(tmp_path_factory.mktemp("aws"), grace=20.0) as aws:
        aws.put_ratings()
        yield aws


@pytest.fixture(scope="module")
def completed(aws: Aws) -> dict[str, Any]:
    """Return the description of a job that has completed."""
    tags = [{"Key": "run", "Value": "1"}]
    aws.call("CreateTrainingJob", **training_request("completed", Tags=tags))
    return aws.wait("TrainingJob", "completed")


def refused(aws: Aws, **changes: Any) -> str:
    """Return the text of the ValidationException that a request meets, which leaves nothing behind."""
    with pytest.raises(AwsError) as caught:
        aws.call("CreateTrainingJob", **training_request("refused", **changes))
    assert caught.value.code == "ValidationException"
    with pytest.raises(AwsError, match="not found"):
        aws.describe("TrainingJob", "refused")
    return caught.value.message


# ---- a job that completes


def test_a_job_goes_through_all_its_states_in_time(completed: dict[str, Any]) -> None:
    assert completed["TrainingJobStatus"] == completed["SecondaryStatus"] == "Completed"
    transitions = completed["SecondaryStatusTransitions"]
    assert [item["Status"] for item in transitions] == [
        "Starting",
        "Downloading",
        "Training",
        "Uploading",
        "Completed",
    ]
    for before, after in pairwise(transitions):
        assert before["StartTime"] <= before["EndTime"] <= after["StartTime"]
    assert completed["CreationTime"] <= completed["TrainingStartTime"] < completed["TrainingEndTime"]
    assert completed["TrainingTimeInSeconds"] == completed["BillableTimeInSeconds"] >= 1


def test_a_job_is_described_with_its_request_and_aws_s_defaults(completed: dict[str, Any]) -> None:
    assert completed["TrainingJobArn"] == "arn:aws:sagemaker:us-east-1:123456789012:training-job/completed"
    assert completed["HyperParameters"] == hyperparameters()
    assert completed["RoleArn"] == ROLE
    assert completed["AlgorithmSpecification"]["TrainingImage"] == IMAGE
    assert completed["OutputDataConfig"]["S3OutputPath"] == f"s3://{BUCKET}/models"
    assert completed["StoppingCondition"] == {"MaxRuntimeInSeconds": 600}
    assert completed["EnableManagedSpotTraining"] is False
    assert [item["ChannelName"] for item in completed["InputDataConfig"]] == ["train", "test"]


def test_its_artifact_is_a_model_that_predicts(aws: Aws, completed: dict[str, Any], tmp_path: Path) -> None:
    uri = completed["ModelArtifacts"]["S3ModelArtifacts"]
    assert uri == f"s3://{BUCKET}/models/completed/output/model.tar.gz"
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(aws.read(uri))
    X, y = ratings(600)
    predictions = fm.load(archive).predict(X[450:])
    rmse = float(((predictions - y[450:]) ** 2).mean() ** 0.5)
    metrics = {item["MetricName"]: item["Value"] for item in completed["FinalMetricDataList"]}
    assert metrics["test:rmse"] == pytest.approx(rmse, rel=1e-5)


def test_its_final_metrics_are_the_last_of_its_log(aws: Aws, completed: dict[str, Any]) -> None:
    lines = aws.log_lines(LOG_GROUP, "completed")
    last_epoch = [line for line in lines if "epoch=2, train rmse <loss>=" in line][-1]
    metrics = {item["MetricName"]: item for item in completed["FinalMetricDataList"]}
    assert metrics["train:rmse:epoch"]["Value"] == float(last_epoch.rpartition("=")[2])
    assert metrics["train:progress"]["Value"] == 100
    assert {"train:rmse", "train:mse", "test:rmse", "test:mse", "train:throughput"} <= set(metrics)
    start, end = completed["TrainingStartTime"], completed["TrainingEndTime"]
    assert all(start <= item["Timestamp"] <= end for item in metrics.values())


def test_its_log_is_a_stream_named_after_job_and_host(aws: Aws, completed: dict[str, Any]) -> None:
    answer = aws.logs.call(
        "DescribeLogStreams", {"logGroupName": LOG_GROUP, "logStreamNamePrefix": "completed/"}
    )
    (stream,) = answer["logStreams"]
    started = int(stream["logStreamName"].removeprefix("completed/algo-1-"))
    assert started <= stream["firstEventTimestamp"] / 1000 <= completed["TrainingEndTime"] + 0.001


def test_it_leaves_no_folder_and_no_process(aws: Aws, completed: dict[str, Any]) -> None:
    assert completed["TrainingJobStatus"] == "Completed"
    assert list((aws.root / "jobs").iterdir()) == []
    assert not aws.sagemaker.busy()


def test_it_is_listed_and_tagged(aws: Aws, completed: dict[str, Any]) -> None:
    found = aws.call("ListTrainingJobs", NameContains="omplete", StatusEquals="Completed")
    assert [job["TrainingJobName"] for job in found["TrainingJobSummaries"]] == ["completed"]
    tags = aws.call("ListTags", ResourceArn=completed["TrainingJobArn"])["Tags"]
    assert tags == [{"Key": "run", "Value": "1"}]


def test_its_name_is_taken_for_ever(aws: Aws, completed: dict[str, Any]) -> None:
    with pytest.raises(AwsError) as caught:
        aws.call("CreateTrainingJob", **training_request("completed"))
    assert caught.value.code == "ResourceInUse"
    assert caught.value.message == (
        "Training job names must be unique within an AWS account and region, and a training job with this "
        f"name already exists ({completed['TrainingJobArn']})"
    )


def test_stopping_a_job_that_has_ended_is_refused(aws: Aws, completed: dict[str, Any]) -> None:
    with pytest.raises(AwsError) as caught:
        aws.call("StopTrainingJob", TrainingJobName="completed")
    assert caught.value.message == (
        "The request was rejected because the training job is in status Completed."
    )
    assert aws.describe("TrainingJob", "completed") == completed


def test_what_has_no_effect_here_is_accepted_and_echoed(aws: Aws) -> None:
    extras = {
        "EnableManagedSpotTraining": True,
        "StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120},
        "CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/checkpoints"},
        "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
        "EnableNetworkIsolation": True,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/models/", "KmsKeyId": "alias/key"},
        "ResourceConfig": {
            "InstanceType": "ml.c5.xlarge",
            "InstanceCount": 1,
            "VolumeSizeInGB": 50,
            "VolumeKmsKeyId": "alias/key",
        },
        "Environment": {"NAME": "value", "PYTHONPATH": "/nowhere"},
    }
    classifier = hyperparameters(predictor_type="binary_classifier", epochs=1)
    labels = (ratings(100)[1] > 3).astype("float32")
    aws.put("classes/train.pbr", encode(ratings(100)[0], labels))
    whole_key = channel("train", f"s3://{BUCKET}/classes/train.pbr", InputMode="FastFile")
    request = training_request("extras", HyperParameters=classifier, InputDataConfig=[whole_key], **extras)
    aws.call("CreateTrainingJob", **request)
    answer = aws.wait("TrainingJob", "extras")
    assert answer["TrainingJobStatus"] == "Completed"
    assert answer["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/models/extras/output/model.tar.gz"
    for name, value in extras.items():
        assert answer[name] == (value | answer[name]), name
    metrics = {item["MetricName"] for item in answer["FinalMetricDataList"]}
    assert {"train:binary_classification_accuracy", "train:binary_f_beta"} <= metrics


# ---- jobs that do not


def test_a_job_the_algorithm_refuses_fails_with_its_reason(aws: Aws) -> None:
    wrong = hyperparameters(feature_dim=FEATURES + 1)
    aws.call("CreateTrainingJob", **training_request("wrong", HyperParameters=wrong))
    answer = aws.wait("TrainingJob", "wrong")
    assert answer["TrainingJobStatus"] == answer["SecondaryStatus"] == "Failed"
    assert answer["FailureReason"].startswith("ClientError: ")
    assert str(FEATURES + 1) in answer["FailureReason"]
    assert answer["FailureReason"].endswith(", exit code: 1")
    assert "ModelArtifacts" not in answer
    assert answer["SecondaryStatusTransitions"][-1]["StatusMessage"] == "Training job failed"
    assert aws.keys("models/wrong") == []


def test_a_stopped_job_keeps_what_it_has_trained(aws: Aws) -> None:
    aws.call("CreateTrainingJob", **training_request("stopped", HyperParameters=ENDLESS))
    aws.wait_for_log(LOG_GROUP, "stopped", "epoch=1, train rmse")
    assert aws.describe("TrainingJob", "stopped")["SecondaryStatus"] == "Training"
    assert aws.sagemaker.busy()
    aws.call("StopTrainingJob", TrainingJobName="stopped")
    assert aws.describe("TrainingJob", "stopped")["TrainingJobStatus"] in ("Stopping", "Stopped")
    answer = aws.wait("TrainingJob", "stopped")
    assert answer["TrainingJobStatus"] == answer["SecondaryStatus"] == "Stopped"
    assert [item["Status"] for item in answer["SecondaryStatusTransitions"]] == [
        "Starting",
        "Downloading",
        "Training",
        "Stopping",
        "Uploading",
        "Stopped",
    ]
    assert "FailureReason" not in answer
    assert aws.keys("models/stopped") == ["models/stopped/output/model.tar.gz"]


def test_a_job_that_takes_too_long_is_stopped(aws: Aws) -> None:
    limit = {"MaxRuntimeInSeconds": 1}
    request = training_request("overtime", HyperParameters=ENDLESS, StoppingCondition=limit)
    aws.call("CreateTrainingJob", **request)
    answer = aws.wait("TrainingJob", "overtime")
    assert (answer["TrainingJobStatus"], answer["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert answer["TrainingTimeInSeconds"] >= 1


def test_jobs_wait_their_turn_and_can_be_stopped_while_they_wait(tmp_path: Path) -> None:
    with Aws(tmp_path, max_jobs=1) as aws:
        aws.put_ratings()
        for name in ("first", "second", "third"):
            aws.call("CreateTrainingJob", **training_request(name, HyperParameters=ENDLESS))
        assert aws.describe("TrainingJob", "second")["SecondaryStatus"] == "Pending"
        aws.call("StopTrainingJob", TrainingJobName="second")
        second = aws.describe("TrainingJob", "second")
        assert (second["TrainingJobStatus"], second["SecondaryStatus"]) == ("Stopped", "Stopped")
        assert "TrainingStartTime" not in second
        aws.call("StopTrainingJob", TrainingJobName="first")
        assert aws.wait("TrainingJob", "first")["TrainingJobStatus"] == "Stopped"
        aws.wait_for_log(LOG_GROUP, "third", "epoch=0")
        third = aws.describe("TrainingJob", "third")
        assert [item["Status"] for item in third["SecondaryStatusTransitions"]][:2] == ["Pending", "Starting"]
    with Aws(tmp_path) as aws:
        third = aws.describe("TrainingJob", "third")
        assert third["TrainingJobStatus"] == "Failed"
        assert third["FailureReason"].startswith("InternalServerError: ")


def test_an_input_that_has_gone_fails_the_job(tmp_path: Path) -> None:
    with Aws(tmp_path, max_jobs=1) as aws:
        aws.put_ratings()
        aws.call("CreateTrainingJob", **training_request("first", HyperParameters=ENDLESS))
        aws.call("CreateTrainingJob", **training_request("second"))
        aws.objects.delete(BUCKET, "data/train/train.pbr")
        aws.call("StopTrainingJob", TrainingJobName="first")
        answer = aws.wait("TrainingJob", "second")
        assert answer["TrainingJobStatus"] == "Failed"
        assert answer["FailureReason"].startswith("ClientError: Data download failed: No S3 objects found")


# ---- requests that are refused


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 1}},
            "The local AWS trains on one instance, with all cores of this machine, but ResourceConfig.InstanceCount "
            "is 2.",
        ),
        (
            {"AlgorithmSpecification": {"TrainingImage": "1/xgboost:1", "TrainingInputMode": "File"}},
            "AlgorithmSpecification.TrainingImage names the image 1/xgboost:1.",
        ),
        (
            {
                "AlgorithmSpecification": {
                    "TrainingImage": IMAGE,
                    "TrainingInputMode": "File",
                    "MetricDefinitions": [{"Name": "x", "Regex": "x"}],
                }
            },
            "You can't override the metric definitions for Amazon SageMaker algorithms.",
        ),
        (
            {"InputDataConfig": [channel("train", f"s3://{BUCKET}/nothing/")]},
            f'No S3 objects found under S3 URL "s3://{BUCKET}/nothing/" given in input data source.',
        ),
        ({"InputDataConfig": [channel("train", "s3://no-such-bucket/x")]}, "No S3 objects found under"),
        ({"InputDataConfig": [channel("train", "https://example.com/x")]}, "should be s3://BUCKET/KEY"),
        (
            {"InputDataConfig": [channel("train"), channel("train")]},
            "channel name train is used more than once",
        ),
        (
            {"InputDataConfig": [channel("..", f"s3://{BUCKET}/data/train/")]},
            ".. cannot be a channel's name.",
        ),
        ({"InputDataConfig": [channel("train", CompressionType="Gzip")]}, "is for the input mode Pipe"),
        ({"OutputDataConfig": {"S3OutputPath": "s3://no-such-bucket/x"}}, "The bucket no-such-bucket of"),
        ({"EnableManagedSpotTraining": True}, "Invalid MaxWaitTimeInSeconds."),
    ],
)
def test_a_job_that_cannot_run_here_is_refused_in_one_sentence(
    aws: Aws, changes: dict[str, Any], text: str
) -> None:
    assert text in refused(aws, **changes)


# ---- the channels


@pytest.mark.parametrize(
    ("prefix", "key", "relative"),
    [
        ("data/train/", "data/train/a.pbr", "a.pbr"),
        ("data/train", "data/train/a/b.pbr", "a/b.pbr"),
        ("data/train/a.pbr", "data/train/a.pbr", "a.pbr"),
        ("data/tr", "data/train/a.pbr", "train/a.pbr"),
        ("", "a.pbr", "a.pbr"),
        ("data/", "data/../../a.pbr", "../../a.pbr"),
    ],
)
def test_a_key_is_taken_relative_to_its_prefix(prefix: str, key: str, relative: str) -> None:
    assert relative_key(prefix, key) == relative


@pytest.mark.parametrize(
    "keys",
    [
        ["../escaped"],
        ["a/../../escaped"],
        ["/absolute"],
        ["a//b"],
        ["./a"],
        ["a\0b"],
        ["a", "a/b"],
        ["é" * 200],
    ],
)
def test_a_key_that_cannot_be_a_file_in_the_channel_fails_the_download(
    tmp_path: Path, keys: list[str]
) -> None:
    objects = Objects(tmp_path / "aws")
    objects.create_bucket(BUCKET)
    for key in keys:
        objects.put_bytes(BUCKET, f"data/{key}", b"x")
    folder = tmp_path / "work" / "channel"
    folder.mkdir(parents=True)
    with pytest.raises(JobError, match=r"ClientError: Data download failed: "):
        place(find(objects, {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/data/"}, ""), folder)
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"channel"}
    objects.close()


# ---- reasons


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("boom", 1, "AlgorithmError: boom, exit code: 1"),
        ("ClientError: wrong\n", 1, "ClientError: wrong, exit code: 1"),
        (None, 3, "AlgorithmError: The algorithm gave no reason; its log may tell, exit code: 3"),
        (
            None,
            137,
            "ClientError: Please use an instance type with more memory, or reduce the size of job data "
            "processed on an instance., exit code: 137",
        ),
    ],
)
def test_the_failure_reason_is_the_algorithm_s(
    tmp_path: Path, text: str | None, code: int, reason: str
) -> None:
    (tmp_path / "output").mkdir()
    if text is not None:
        (tmp_path / "output" / "failure").write_text(text)
    assert failure_reason(tmp_path, code) == reason


def test_a_long_failure_reason_is_cut_before_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "failure").write_text("ä" * 5000)
    reason = failure_reason(tmp_path, 1)
    assert len(reason) == 1024
    assert reason.endswith("ä, exit code: 1")


# ---- a killed server

SERVER = textwrap.dedent(
    f"""
    import sys, time
    from pathlib import Path

    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from sagemaker_kit import ENDLESS, Aws, training_request

    with Aws(Path(sys.argv[1]), max_jobs=1) as aws:
        aws.put_ratings()
        for name in ("running", "waiting"):
            aws.call("CreateTrainingJob", **training_request(name, HyperParameters=ENDLESS))
        aws.wait_for_log({LOG_GROUP!r}, "running", "epoch=0")
        print("ready", flush=True)
        time.sleep(600)
    """
)


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while start_time(pid) is not None:
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.02)


def test_a_killed_server_leaves_no_process_and_its_jobs_fail(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        (note,) = (tmp_path / "jobs").glob("*/process.json")
        pid = int(note.read_text().partition('"pid": ')[2].partition(",")[0])
        assert start_time(pid) is not None
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        server.stdout.close()
    if sys.platform == "linux":  # the kernel ends it; elsewhere the next server does
        wait_until_gone(pid)
    with Aws(tmp_path) as aws:
        wait_until_gone(pid)
        assert list((tmp_path / "jobs").iterdir()) == []
        assert not aws.sagemaker.busy()
        for name in ("running", "waiting"):
            answer = aws.describe("TrainingJob", name)
            assert answer["TrainingJobStatus"] == answer["SecondaryStatus"] == "Failed"
            assert answer["FailureReason"].startswith("InternalServerError: ")
            assert answer["TrainingEndTime"] >= answer["CreationTime"]
        aws.call("CreateTrainingJob", **training_request("next"))
        assert aws.wait("TrainingJob", "next")["TrainingJobStatus"] == "Completed"
