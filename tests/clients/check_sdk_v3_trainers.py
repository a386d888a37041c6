"""SageMaker's Factorization Machines by SDK v3: ModelTrainer, HyperparameterTuner, Transformer, ModelBuilder."""

from __future__ import annotations

from importlib.metadata import version

import boto3
from sagemaker.core import image_uris
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.parameter import ContinuousParameter
from sagemaker.core.transformer import Transformer
from sagemaker.serve import ModelBuilder
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, OutputDataConfig
from sagemaker.train.tuner import HyperparameterTuner
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
flow = Flows(f"sagemaker {version('sagemaker')}")
name, uri = given.name, f"s3://{given.bucket}/{given.name}"
session = Session(default_bucket=given.bucket)
s3 = boto3.client("s3")
put_data(s3, given.bucket, name)
channels = [
    InputData(channel_name=channel, data_source=f"{uri}/{channel}/", content_type=RECORDIO)
    for channel in ("train", "test")
]
trainer = ModelTrainer(
    training_image=image_uris.retrieve("factorization-machines", region=session.boto_region_name),
    role=given.role,
    base_job_name=name,
    hyperparameters=HYPERPARAMETERS,
    compute=Compute(instance_type="ml.m5.large", instance_count=1),
    output_data_config=OutputDataConfig(s3_output_path=f"{uri}/models"),
    sagemaker_session=session,
)

with flow("ModelTrainer.train"):
    trainer.train(channels, logs=True)
    job = trainer._latest_training_job
    assert job.training_job_status == "Completed"
    rmse = {item.metric_name: item.value for item in job.final_metric_data_list}["test:rmse"]

with flow("HyperparameterTuner.tune"):
    tuner = HyperparameterTuner(
        trainer,
        objective_metric_name="test:rmse",
        objective_type="Minimize",
        hyperparameter_ranges={"linear_lr": ContinuousParameter(0.003, 0.03, scaling_type="Logarithmic")},
        max_jobs=2,
        max_parallel_jobs=2,
        base_tuning_job_name=name[-20:],
    )
    tuner.tune(channels)
    assert tuner.describe().hyper_parameter_tuning_job_status == "Completed"
    assert tuner.best_training_job().startswith(tuner.latest_tuning_job.hyper_parameter_tuning_job_name)

with flow("ModelBuilder.build"):
    builder = ModelBuilder(  # of an image that brings its own server, without an InferenceSpec
        image_uri=trainer.training_image,
        s3_model_data_url=job.model_artifacts.s3_model_artifacts,
        role_arn=given.role,
        sagemaker_session=session,
    )
    model = builder.build(model_name=name)
    assert model.primary_container.model_data_url == job.model_artifacts.s3_model_artifacts

with flow("Transformer.transform"):
    transformer = Transformer(
        model_name=name,
        instance_count=1,
        instance_type="ml.m5.large",
        strategy="MultiRecord",
        assemble_with="Line",
        accept="application/jsonlines",
        output_path=f"{uri}/scores",
        sagemaker_session=session,
    )
    transformer.transform(f"{uri}/rows/", content_type=RECORDIO, split_type="RecordIO")
    out = s3.get_object(Bucket=given.bucket, Key=f"{name}/scores/rows.pbr.out")["Body"].read().decode()
    batch_scores = scores_of_lines(out)
    check_scores(batch_scores, rmse)

with flow("ModelBuilder.deploy, Endpoint.invoke"):
    endpoint = builder.deploy(endpoint_name=name, instance_type="ml.m5.large", initial_instance_count=1)
    answer = endpoint.invoke(body=json_body(TEST), content_type="application/json")
    check_same(scores_of_json(answer.body.read()), batch_scores)
    endpoint.delete()
    endpoint.wait_for_delete(poll=1)
    transformer.delete_model()
