"""SageMaker's Factorization Machines by boto3: every waiter and paginator of what the local AWS has."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from typing import Any

import boto3
import botocore.exceptions
from tiny_data import (
    ENDLESS,
    HYPERPARAMETERS,
    RECORDIO,
    TEST,
    TRAIN,
    Flows,
    arguments,
    check_same,
    check_scores,
    json_body,
    recordio,
    scores_of_json,
    scores_of_lines,
    until,
)

given = arguments(__doc__)
flow = Flows(f"boto3 {boto3.__version__}")
s3, logs = boto3.client("s3"), boto3.client("logs")
sagemaker, runtime = boto3.client("sagemaker"), boto3.client("sagemaker-runtime")
bucket, name, uri = given.bucket, given.name, f"s3://{given.bucket}/{given.name}"
quick = {"Delay": 1, "MaxAttempts": 300}


def items(client: Any, operation: str, member: str, size: int = 2, **params: Any) -> list[dict[str, Any]]:
    """Return all items of a listing, so many a page."""
    pages = client.get_paginator(operation).paginate(PaginationConfig={"PageSize": size}, **params)
    return [item for page in pages for item in page.get(member, [])]


def refusal(call: Callable[..., Any], **params: Any) -> dict[str, str]:
    """Return the error that a call is answered with."""
    try:
        call(**params)
    except botocore.exceptions.ClientError as error:
        return dict(error.response["Error"])
    raise AssertionError(f"{call} was not refused")


def source(key: str) -> dict[str, Any]:
    return {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{uri}/{key}"}}


with flow("s3"):
    if bucket not in [item["Name"] for item in items(s3, "list_buckets", "Buckets")]:
        s3.create_bucket(Bucket=bucket)
    s3.get_waiter("bucket_exists").wait(Bucket=bucket)
    for key, rows, labels in [("train", TRAIN, True), ("test", TEST, True), ("rows", TEST, False)]:
        s3.put_object(Bucket=bucket, Key=f"{name}/{key}/{key}.pbr", Body=recordio(rows, labels))
        s3.get_waiter("object_exists").wait(Bucket=bucket, Key=f"{name}/{key}/{key}.pbr")
    for operation in ("list_objects", "list_objects_v2"):
        assert len(items(s3, operation, "Contents", Bucket=bucket, Prefix=f"{name}/")) == 3
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": f"{name}/rows/rows.pbr"})
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == recordio(TEST, labels=False)

with flow("s3 multipart"):
    key = f"{name}/parts"
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    where = {"Bucket": bucket, "Key": key, "UploadId": upload}
    for number, size in [(1, 5 << 20), (2, 5 << 20), (3, 1)]:
        s3.upload_part(**where, PartNumber=number, Body=bytes(size))
    parts = items(s3, "list_parts", "Parts", **where)
    assert [part["Size"] for part in parts] == [5 << 20, 5 << 20, 1]
    uploads = items(s3, "list_multipart_uploads", "Uploads", Bucket=bucket, Prefix=name)
    assert [item["UploadId"] for item in uploads] == [upload]
    tags = [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in parts]
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": tags})
    assert s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == (10 << 20) + 1
    s3.delete_object(Bucket=bucket, Key=key)
    s3.get_waiter("object_not_exists").wait(Bucket=bucket, Key=key)
    s3.create_bucket(Bucket=name)
    s3.delete_bucket(Bucket=name)
    s3.get_waiter("bucket_not_exists").wait(Bucket=name)

definition = {
    "AlgorithmSpecification": {"TrainingImage": given.image, "TrainingInputMode": "File"},
    "RoleArn": given.role,
    "InputDataConfig": [
        {"ChannelName": channel, "ContentType": RECORDIO, "DataSource": source(f"{channel}/")}
        for channel in ("train", "test")
    ],
    "OutputDataConfig": {"S3OutputPath": f"{uri}/models"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
    "StoppingCondition": {"MaxRuntimeInSeconds": 600},
}

with flow("train"):
    arn = sagemaker.create_training_job(
        TrainingJobName=name,
        HyperParameters=HYPERPARAMETERS,
        Tags=[{"Key": f"tag-{i}", "Value": str(i)} for i in range(3)],
        **definition,
    )["TrainingJobArn"]
    sagemaker.get_waiter("training_job_completed_or_stopped").wait(TrainingJobName=name, WaiterConfig=quick)
    job = sagemaker.describe_training_job(TrainingJobName=name)
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    rmse = {item["MetricName"]: item["Value"] for item in job["FinalMetricDataList"]}["test:rmse"]
    model_data = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert model_data == f"{uri}/models/{name}/output/model.tar.gz"
    listed = items(sagemaker, "list_training_jobs", "TrainingJobSummaries", NameContains=name)
    assert [item["TrainingJobArn"] for item in listed] == [arn]
    assert len(items(sagemaker, "list_tags", "Tags", 50, ResourceArn=arn)) == 3

with flow("logs"):
    group, stream = "/aws/sagemaker/TrainingJobs", f"{name}/"
    assert group in [g["logGroupName"] for g in items(logs, "describe_log_groups", "logGroups")]
    streams = items(
        logs, "describe_log_streams", "logStreams", logGroupName=group, logStreamNamePrefix=stream
    )
    assert [item["logStreamName"].startswith(f"{name}/algo-1-") for item in streams] == [True]
    wanted = {"logGroupName": group, "logStreamNamePrefix": stream, "filterPattern": "rmse"}
    assert any(
        f"rmse <loss>={rmse}"[:18] in e["message"]
        for e in items(logs, "filter_log_events", "events", **wanted)
    )

with flow("tune"):
    static = {key: value for key, value in HYPERPARAMETERS.items() if key != "linear_lr"}
    tuning_name = name[-32:]
    sagemaker.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=tuning_name,
        HyperParameterTuningJobConfig={
            "Strategy": "Random",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "test:rmse"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 3, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": {
                "ContinuousParameterRanges": [{"Name": "linear_lr", "MinValue": "0.003", "MaxValue": "0.03"}]
            },
        },
        TrainingJobDefinition={"StaticHyperParameters": static, **definition},
    )
    tuning = until(
        lambda: sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=tuning_name),
        lambda found: found["HyperParameterTuningJobStatus"] != "InProgress",
    )
    assert tuning["HyperParameterTuningJobStatus"] == "Completed", tuning.get("FailureReason")
    tuned = items(
        sagemaker,
        "list_training_jobs_for_hyper_parameter_tuning_job",
        "TrainingJobSummaries",
        HyperParameterTuningJobName=tuning_name,
    )
    values = {
        item["TrainingJobName"]: item["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
        for item in tuned
    }
    assert len(values) == 3
    assert tuning["BestTrainingJob"]["TrainingJobName"] == min(values, key=values.__getitem__)
    listing = "list_hyper_parameter_tuning_jobs", "HyperParameterTuningJobSummaries"
    assert len(items(sagemaker, *listing, NameContains=tuning_name)) == 1

with flow("model"):
    container = {"Image": given.image, "ModelDataUrl": model_data}
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=given.role, PrimaryContainer=container)
    assert sagemaker.describe_model(ModelName=name)["PrimaryContainer"]["ModelDataUrl"] == model_data
    assert len(items(sagemaker, "list_models", "Models", NameContains=name)) == 1

transform = {
    "ModelName": name,
    "BatchStrategy": "MultiRecord",
    "TransformInput": {"DataSource": source("rows/"), "ContentType": RECORDIO, "SplitType": "RecordIO"},
    "TransformOutput": {
        "S3OutputPath": f"{uri}/scores",
        "Accept": "application/jsonlines",
        "AssembleWith": "Line",
    },
    "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
}

with flow("transform"):
    sagemaker.create_transform_job(TransformJobName=name, **transform)
    sagemaker.get_waiter("transform_job_completed_or_stopped").wait(TransformJobName=name, WaiterConfig=quick)
    out = s3.get_object(Bucket=bucket, Key=f"{name}/scores/rows.pbr.out")["Body"].read().decode()
    batch_scores = scores_of_lines(out)
    check_scores(batch_scores, rmse)
    assert len(items(sagemaker, "list_transform_jobs", "TransformJobSummaries", NameContains=name)) == 1

with flow("endpoint"):
    for config in (f"{name}-1", f"{name}-2"):
        variant = {"VariantName": config, "ModelName": name, "InitialInstanceCount": 1}
        sagemaker.create_endpoint_config(
            EndpointConfigName=config, ProductionVariants=[{**variant, "InstanceType": "ml.m5.large"}]
        )
    assert len(items(sagemaker, "list_endpoint_configs", "EndpointConfigs", NameContains=name)) == 2
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=f"{name}-1")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig=quick)
    answer = runtime.invoke_endpoint(EndpointName=name, ContentType="application/json", Body=json_body(TEST))
    assert answer["InvokedProductionVariant"] == f"{name}-1"
    check_same(scores_of_json(answer["Body"].read()), batch_scores)
    sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=f"{name}-2")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig=quick)
    answer = runtime.invoke_endpoint(
        EndpointName=name, ContentType=RECORDIO, Accept="application/jsonlines", Body=recordio(TEST, False)
    )
    assert answer["InvokedProductionVariant"] == f"{name}-2"
    check_same(scores_of_lines(answer["Body"].read().decode()), batch_scores)
    assert len(items(sagemaker, "list_endpoints", "Endpoints", NameContains=name)) == 1

with flow("stop"):
    stopped = f"{name}-s"
    sagemaker.create_training_job(TrainingJobName=stopped, HyperParameters=ENDLESS, **definition)
    sagemaker.stop_training_job(TrainingJobName=stopped)
    sagemaker.get_waiter("training_job_completed_or_stopped").wait(
        TrainingJobName=stopped, WaiterConfig=quick
    )
    assert sagemaker.describe_training_job(TrainingJobName=stopped)["TrainingJobStatus"] == "Stopped"

with flow("errors"):
    not_there = refusal(sagemaker.describe_training_job, TrainingJobName="none")
    assert not_there == {"Code": "ValidationException", "Message": "Requested resource not found."}
    again = {"TrainingJobName": name, "HyperParameters": HYPERPARAMETERS, **definition}
    assert refusal(sagemaker.create_training_job, **again)["Code"] == "ResourceInUse"
    assert refusal(s3.get_object, Bucket=bucket, Key="none")["Code"] == "NoSuchKey"
    no_endpoint = {"EndpointName": "none", "ContentType": RECORDIO, "Body": b""}
    assert refusal(runtime.invoke_endpoint, **no_endpoint)["Code"] == "ValidationError"

with flow("clean up"):
    sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig=quick)
    for config in (f"{name}-1", f"{name}-2"):
        sagemaker.delete_endpoint_config(EndpointConfigName=config)
    sagemaker.delete_model(ModelName=name)
    keys = [
        {"Key": item["Key"]} for item in items(s3, "list_objects_v2", "Contents", Bucket=bucket, Prefix=name)
    ]
    assert not s3.delete_objects(Bucket=bucket, Delete={"Objects": keys}).get("Errors")
