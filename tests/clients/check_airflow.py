"""SageMaker's Factorization Machines by Airflow: the operators and sensors of its Amazon provider.

Each task is carried out as a worker would, without a scheduler.  ``aws_conn_id=None``: credentials as boto3 finds them.
"""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import version
from typing import Any

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp())
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "false")

import boto3
from airflow.providers.amazon.aws.operators import sagemaker as operators
from airflow.providers.amazon.aws.sensors import sagemaker as sensors
from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
from tiny_data import (
    HYPERPARAMETERS,
    RECORDIO,
    TEST,
    Flows,
    arguments,
    check_same,
    check_scores,
    json_body,
    put_data,
    scores_of_json,
    scores_of_lines,
)

given = arguments(__doc__)
flow = Flows(f"airflow {version('apache-airflow')}, provider {version('apache-airflow-providers-amazon')}")
name, uri = given.name, f"s3://{given.bucket}/{given.name}"
s3, runtime = boto3.client("s3"), boto3.client("sagemaker-runtime")
put_data(s3, given.bucket, name)


def run(kind: Any, task: str, **settings: Any) -> Any:
    """Carry out a task and return what it gives."""
    return kind(task_id=task, aws_conn_id=None, **settings).execute({})


def watch(kind: Any, task: str, **settings: Any) -> None:
    """Carry out a sensor."""
    run(kind, task, poke_interval=1, timeout=300, **settings)


def source(key: str) -> dict[str, Any]:
    return {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{uri}/{key}"}}


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
quick = {"wait_for_completion": True, "check_interval": 1}

with flow("S3KeySensor"):
    watch(S3KeySensor, "data", bucket_name=given.bucket, bucket_key=[f"{name}/train/*"], wildcard_match=True)

with flow("SageMakerTrainingOperator"):
    config = {"TrainingJobName": name, "HyperParameters": HYPERPARAMETERS, **definition}
    trained = run(operators.SageMakerTrainingOperator, "train", config=config, print_log=True, **quick)
    job = trained["Training"]
    assert job["TrainingJobStatus"] == "Completed"
    rmse = {item["MetricName"]: item["Value"] for item in job["FinalMetricDataList"]}["test:rmse"]
    model_data = job["ModelArtifacts"]["S3ModelArtifacts"]

with flow("SageMakerTrainingSensor"):
    config = {**config, "TrainingJobName": f"{name}-2"}
    run(operators.SageMakerTrainingOperator, "train2", config=config, wait_for_completion=False)
    watch(sensors.SageMakerTrainingSensor, "trained", job_name=f"{name}-2", print_log=True)

with flow("SageMakerTuningOperator, SageMakerTuningSensor"):
    static = {key: value for key, value in HYPERPARAMETERS.items() if key != "linear_lr"}
    ranges = [{"Name": "linear_lr", "MinValue": "0.003", "MaxValue": "0.03"}]
    tuning = {
        "HyperParameterTuningJobName": name[-32:],
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "test:rmse"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 2, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": {"ContinuousParameterRanges": ranges},
        },
        "TrainingJobDefinition": {"StaticHyperParameters": static, **definition},
    }
    run(operators.SageMakerTuningOperator, "tune", config=tuning, **quick)
    watch(sensors.SageMakerTuningSensor, "tuned", job_name=name[-32:])

with flow("SageMakerModelOperator"):
    container = {"Image": given.image, "ModelDataUrl": model_data}
    model = {"ModelName": name, "ExecutionRoleArn": given.role, "PrimaryContainer": container}
    assert run(operators.SageMakerModelOperator, "model", config=model)["Model"]["ModelName"] == name

with flow("SageMakerTransformOperator, SageMakerTransformSensor"):
    transform = {
        "TransformJobName": name,
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
    run(operators.SageMakerTransformOperator, "transform", config=transform, **quick)
    watch(sensors.SageMakerTransformSensor, "transformed", job_name=name)
    out = s3.get_object(Bucket=given.bucket, Key=f"{name}/scores/rows.pbr.out")["Body"].read().decode()
    batch_scores = scores_of_lines(out)
    check_scores(batch_scores, rmse)

with flow("SageMakerEndpointConfigOperator, SageMakerEndpointOperator, SageMakerEndpointSensor"):
    variant = {"VariantName": "all", "ModelName": name, "InitialInstanceCount": 1}
    variants = [{**variant, "InstanceType": "ml.m5.large"}]
    config = {"EndpointConfigName": name, "ProductionVariants": variants}
    run(operators.SageMakerEndpointConfigOperator, "config", config=config)
    endpoint = {"EndpointName": name, "EndpointConfigName": name}
    run(operators.SageMakerEndpointOperator, "endpoint", config=endpoint, operation="create", **quick)
    watch(sensors.SageMakerEndpointSensor, "in_service", endpoint_name=name)
    answer = runtime.invoke_endpoint(EndpointName=name, ContentType="application/json", Body=json_body(TEST))
    check_same(scores_of_json(answer["Body"].read()), batch_scores)

with flow("SageMakerEndpointOperator, update"):
    config = {**config, "EndpointConfigName": f"{name}-2"}
    run(operators.SageMakerEndpointConfigOperator, "config2", config=config)
    endpoint = {"EndpointName": name, "EndpointConfigName": f"{name}-2"}
    run(operators.SageMakerEndpointOperator, "update", config=endpoint, operation="update", **quick)

with flow("SageMakerDeleteModelOperator"):
    client = boto3.client("sagemaker")
    client.delete_endpoint(EndpointName=name)  # Airflow has no operator for it
    run(operators.SageMakerDeleteModelOperator, "delete", config={"ModelName": name})
