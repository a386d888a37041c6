"""A DAG that trains, tunes, transforms and serves Factorization Machines by Airflow's SageMaker operators.

It is an ordinary DAG for AWS: in an Airflow whose AWS connection (or AWS_* variables) points at the local AWS it
runs there.
"""

from __future__ import annotations

import itertools
from typing import Any

from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerDeleteModelOperator,
    SageMakerEndpointConfigOperator,
    SageMakerEndpointOperator,
    SageMakerModelOperator,
    SageMakerTrainingOperator,
    SageMakerTransformOperator,
    SageMakerTuningOperator,
)
from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
from airflow.providers.amazon.aws.sensors.sagemaker import (
    SageMakerEndpointSensor,
    SageMakerTrainingSensor,
    SageMakerTransformSensor,
    SageMakerTuningSensor,
)
from airflow.sdk import DAG

NAME, URI = "{{ params.name }}", "s3://{{ params.bucket }}/{{ params.name }}"
RECORDIO = "application/x-recordio-protobuf"
STATIC = {
    "feature_dim": "{{ params.feature_dim }}",
    "num_factors": "4",
    "predictor_type": "regressor",
    "epochs": "20",
    "mini_batch_size": "50",
}


def source(key: str) -> dict[str, Any]:
    return {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{URI}/{key}/"}}


definition = {
    "AlgorithmSpecification": {"TrainingImage": "{{ params.image }}", "TrainingInputMode": "File"},
    "RoleArn": "{{ params.role }}",
    "InputDataConfig": [
        {"ChannelName": key, "ContentType": RECORDIO, "DataSource": source(key)} for key in ("train", "test")
    ],
    "OutputDataConfig": {"S3OutputPath": f"{URI}/models"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": "1", "VolumeSizeInGB": "10"},
    "StoppingCondition": {"MaxRuntimeInSeconds": "600"},
}
training = {
    "TrainingJobName": NAME,
    "HyperParameters": {**STATIC, "linear_lr": "0.03"},
    **definition,
}
tuning = {
    "HyperParameterTuningJobName": NAME,
    "HyperParameterTuningJobConfig": {
        "Strategy": "Random",
        "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "test:rmse"},
        "ResourceLimits": {"MaxNumberOfTrainingJobs": "2", "MaxParallelTrainingJobs": "2"},
        "ParameterRanges": {
            "ContinuousParameterRanges": [{"Name": "linear_lr", "MinValue": "0.003", "MaxValue": "0.03"}]
        },
    },
    "TrainingJobDefinition": {"StaticHyperParameters": STATIC, **definition},
}
model_data = "{{ ti.xcom_pull('train')['Training']['ModelArtifacts']['S3ModelArtifacts'] }}"
model = {
    "ModelName": NAME,
    "ExecutionRoleArn": "{{ params.role }}",
    "PrimaryContainer": {"Image": "{{ params.image }}", "ModelDataUrl": model_data},
}
transform = {
    "TransformJobName": NAME,
    "ModelName": NAME,
    "BatchStrategy": "MultiRecord",
    "TransformInput": {"DataSource": source("rows"), "ContentType": RECORDIO, "SplitType": "RecordIO"},
    "TransformOutput": {
        "S3OutputPath": f"{URI}/scores",
        "Accept": "application/jsonlines",
        "AssembleWith": "Line",
    },
    "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": "1"},
}


def endpoint_config(config: str) -> dict[str, Any]:
    variant = {"VariantName": "all", "ModelName": NAME, "InstanceType": "ml.m5.large"}
    return {
        "EndpointConfigName": config,
        "ProductionVariants": [{**variant, "InitialInstanceCount": "1"}],
    }


often = {"poke_interval": 1, "timeout": 600}
params = {"name": "", "bucket": "", "role": "", "image": "", "feature_dim": 1}
with DAG("factorization_machines", schedule=None, params=params) as dag:
    steps = [
        S3KeySensor(task_id="data", bucket_key=f"{URI}/train/*.pbr", wildcard_match=True, **often),
        SageMakerTrainingOperator(task_id="train", config=training, check_interval=1),
        SageMakerTrainingSensor(task_id="trained", job_name=NAME, **often),
        SageMakerTuningOperator(task_id="tune", config=tuning, wait_for_completion=False),
        SageMakerTuningSensor(task_id="tuned", job_name=NAME, **often),
        SageMakerModelOperator(task_id="model", config=model),
        SageMakerTransformOperator(task_id="transform", config=transform, check_interval=1),
        SageMakerTransformSensor(task_id="transformed", job_name=NAME, **often),
        SageMakerEndpointConfigOperator(task_id="endpoint_config", config=endpoint_config(NAME)),
        SageMakerEndpointOperator(
            task_id="endpoint",
            config={"EndpointName": NAME, "EndpointConfigName": NAME},
            check_interval=1,
        ),
        SageMakerEndpointSensor(task_id="in_service", endpoint_name=NAME, **often),
        SageMakerEndpointOperator(  # there is an endpoint of this name, so that it is updated
            task_id="endpoint_again",
            config={
                "EndpointConfig": endpoint_config(f"{NAME}-2"),
                "Endpoint": {"EndpointName": NAME, "EndpointConfigName": f"{NAME}-2"},
            },
            check_interval=1,
        ),
        SageMakerModelOperator(task_id="other_model", config={**model, "ModelName": f"{NAME}-2"}),
        SageMakerDeleteModelOperator(task_id="delete_model", config={"ModelName": f"{NAME}-2"}),
    ]
    for before, after in itertools.pairwise(steps):
        before >> after
