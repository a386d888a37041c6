"""The local SageMaker over HTTP, by AWS's own clients: boto3, and the SDK's sagemaker.core resources."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError
from sagemaker_kit import (
    BUCKET,
    RECORDIO,
    encode,
    hyperparameters,
    model_request,
    ratings,
    training_request,
    transform_request,
)

from lib import aws, fm, local

SECONDS = 120


@pytest.fixture(scope="module")
def account(local_aws: local.Server) -> aws.Account:
    """Return the account of the tests' local AWS, with the kit's data in its S3."""
    account = aws.connect("local")
    put_ratings()
    return account


def put_ratings() -> None:
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    X, y = ratings(600)
    s3.put_object(Bucket=BUCKET, Key="data/train/train.pbr", Body=encode(X[:450], y[:450]))
    s3.put_object(Bucket=BUCKET, Key="data/test/test.pbr", Body=encode(X[450:], y[450:]))
    for part in range(3):
        rows = X[450 + 50 * part : 500 + 50 * part]
        s3.put_object(Bucket=BUCKET, Key=f"data/parts/part-{part:05d}.pbr", Body=encode(rows))


def predictions(prefix: str) -> list[float]:
    s3 = boto3.client("s3")
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]]
    texts = [s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode() for key in sorted(keys)]
    return [json.loads(line)["score"] for text in texts for line in text.splitlines()]


def expected(uri: str, folder: Path) -> np.ndarray:
    archive = folder / "model.tar.gz"
    boto3.client("s3").download_file(BUCKET, uri.removeprefix(f"s3://{BUCKET}/"), str(archive))
    predicted: np.ndarray = fm.load(archive).predict(ratings(600)[0][450:])
    return predicted


def test_boto3_trains_transforms_and_reads_logs(account: aws.Account, tmp_path: Path) -> None:
    client = boto3.client("sagemaker")
    role = {"RoleArn": account.role_arn}
    arn = client.create_training_job(**training_request("by-boto3", **role))["TrainingJobArn"]
    client.get_waiter("training_job_completed_or_stopped").wait(
        TrainingJobName="by-boto3", WaiterConfig={"Delay": 1, "MaxAttempts": SECONDS}
    )
    job = client.describe_training_job(TrainingJobName="by-boto3")
    assert job["TrainingJobStatus"] == "Completed"
    assert job["TrainingJobArn"] == arn
    assert job["TrainingStartTime"] < job["TrainingEndTime"]
    uri = job["ModelArtifacts"]["S3ModelArtifacts"]

    client.create_model(**model_request("by-boto3", uri))
    client.create_transform_job(**transform_request("by-boto3", "by-boto3"))
    client.get_waiter("transform_job_completed_or_stopped").wait(
        TransformJobName="by-boto3", WaiterConfig={"Delay": 1, "MaxAttempts": SECONDS}
    )
    np.testing.assert_allclose(predictions("predictions/by-boto3/"), expected(uri, tmp_path), rtol=1e-6)

    logs = boto3.client("logs")
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix="by-boto3/", filterPattern="rmse"
    )
    messages = [event["message"] for page in pages for event in page["events"]]
    assert any("#quality_metric: host=algo-1, epoch=2, train rmse <loss>=" in text for text in messages)
    names = [
        item["TrainingJobName"]
        for page in client.get_paginator("list_training_jobs").paginate(MaxResults=1, NameContains="by-boto3")
        for item in page["TrainingJobSummaries"]
    ]
    assert names == ["by-boto3"]


def test_boto3_sees_aws_s_errors(account: aws.Account) -> None:
    client = boto3.client("sagemaker")
    with pytest.raises(ClientError, match="Requested resource not found"):
        client.describe_training_job(TrainingJobName="none")
    with pytest.raises(client.exceptions.ResourceNotFound):
        client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="none")
    with pytest.raises(ClientError, match="is not implemented by the local AWS"):
        client.list_notebook_instances()
    request = training_request("refused")
    request["ResourceConfig"]["InstanceType"] = "local"
    with pytest.raises(ClientError, match=r"1 validation error detected: Value 'local' at 'resourceConfig"):
        client.create_training_job(**request)


def wait(resource: Any, status: str) -> str:
    """Refresh an SDK resource until it has ended, and return its status."""
    deadline = time.monotonic() + SECONDS
    while (found := getattr(resource.refresh(), status)) in ("InProgress", "Stopping"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return str(found)


@pytest.mark.filterwarnings("ignore")  # the SDK's own warnings
def test_the_sdk_s_resources_train_tune_and_transform(account: aws.Account, tmp_path: Path) -> None:
    from sagemaker.core import image_uris, shapes
    from sagemaker.core.analytics import TrainingJobAnalytics
    from sagemaker.core.resources import HyperParameterTuningJob, Model, TrainingJob, TransformJob

    image = image_uris.retrieve("factorization-machines", region=account.region)
    source = {"s3_data_type": "S3Prefix", "s3_data_distribution_type": "FullyReplicated"}
    definition: dict[str, Any] = {
        "role_arn": account.role_arn,
        "algorithm_specification": {"training_image": image, "training_input_mode": "File"},
        "input_data_config": [
            {
                "channel_name": name,
                "content_type": RECORDIO,
                "data_source": {"s3_data_source": {**source, "s3_uri": f"s3://{BUCKET}/data/{name}/"}},
            }
            for name in ("train", "test")
        ],
        "output_data_config": {"s3_output_path": f"s3://{BUCKET}/models"},
        "resource_config": {"instance_type": "ml.m5.large", "instance_count": 1, "volume_size_in_gb": 10},
        "stopping_condition": {"max_runtime_in_seconds": 600},
    }
    job = TrainingJob.create(
        training_job_name="by-sdk",
        hyper_parameters=hyperparameters(),
        tags=[{"key": "run", "value": "1"}],
        **definition,
    )
    job.wait(poll=1, timeout=SECONDS, logs=True)
    assert job.training_job_status == "Completed"
    assert TrainingJob.get("by-sdk").hyper_parameters == hyperparameters()
    metrics = {item.metric_name: item.value for item in job.final_metric_data_list}
    assert metrics["test:rmse"] > 0
    assert [item.training_job_name for item in TrainingJob.get_all(name_contains="by-sdk")] == ["by-sdk"]
    measured = TrainingJobAnalytics("by-sdk").dataframe()
    assert set(measured["metric_name"]) == set(metrics)
    tested = measured.loc[measured["metric_name"] == "test:rmse", "value"]
    assert list(tested) == pytest.approx([metrics["test:rmse"]])

    tuning = HyperParameterTuningJob.create(
        hyper_parameter_tuning_job_name="by-sdk",
        hyper_parameter_tuning_job_config=shapes.HyperParameterTuningJobConfig(
            strategy="Random",
            random_seed=1,
            hyper_parameter_tuning_job_objective={"type": "Minimize", "metric_name": "test:rmse"},
            resource_limits={"max_number_of_training_jobs": 2, "max_parallel_training_jobs": 2},
            parameter_ranges=shapes.ParameterRanges(
                continuous_parameter_ranges=[
                    {"name": "factors_lr", "min_value": "0.0001", "max_value": "0.1"},
                ],
            ),
        ),
        training_job_definition=shapes.HyperParameterTrainingJobDefinition(
            static_hyper_parameters=hyperparameters(), **definition
        ),
    )
    assert wait(tuning, "hyper_parameter_tuning_job_status") == "Completed"
    assert tuning.training_job_status_counters.completed == 2
    assert tuning.best_training_job.training_job_name.startswith("by-sdk-00")
    assert len(list(tuning.get_all_training_jobs())) == 2

    uri = job.model_artifacts.s3_model_artifacts
    model = Model.create(
        model_name="by-sdk",
        execution_role_arn=account.role_arn,
        primary_container=shapes.ContainerDefinition(image=image, model_data_url=uri),
    )
    transform = TransformJob.create(
        transform_job_name="by-sdk",
        model_name="by-sdk",
        batch_strategy="MultiRecord",
        transform_input=shapes.TransformInput(
            data_source={
                "s3_data_source": {"s3_data_type": "S3Prefix", "s3_uri": f"s3://{BUCKET}/data/parts/"}
            },
            content_type=RECORDIO,
            split_type="RecordIO",
        ),
        transform_output=shapes.TransformOutput(
            s3_output_path=f"s3://{BUCKET}/predictions/by-sdk/",
            accept="application/jsonlines",
            assemble_with="Line",
        ),
        transform_resources=shapes.TransformResources(instance_type="ml.m5.large", instance_count=1),
    )
    transform.wait(poll=1, timeout=SECONDS, logs=True)
    np.testing.assert_allclose(predictions("predictions/by-sdk/"), expected(uri, tmp_path), rtol=1e-6)
    model.delete()
    assert "by-sdk" not in [item.model_name for item in Model.get_all()]
