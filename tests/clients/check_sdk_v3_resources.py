"""SageMaker's Factorization Machines by the resources of the SageMaker SDK v3 (`sagemaker.core.resources`)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import boto3
from sagemaker.core import image_uris, shapes
from sagemaker.core.analytics import TrainingJobAnalytics
from sagemaker.core.resources import (
    Endpoint,
    EndpointConfig,
    HyperParameterTuningJob,
    Model,
    TrainingJob,
    TransformJob,
)
from tiny_data import (
    ENDLESS,
    HYPERPARAMETERS,
    RECORDIO,
    TEST,
    Flows,
    arguments,
    check_same,
    check_scores,
    json_body,
    put_data,
    recordio,
    scores_of_json,
    scores_of_lines,
)

given = arguments(__doc__)
flow = Flows(f"sagemaker {version('sagemaker')}, sagemaker.core")
name, uri = given.name, f"s3://{given.bucket}/{given.name}"
image = image_uris.retrieve("factorization-machines", region=boto3.Session().region_name)
put_data(boto3.client("s3"), given.bucket, name)


def source(key: str) -> dict[str, Any]:
    return {"s3_data_source": {"s3_data_type": "S3Prefix", "s3_uri": f"{uri}/{key}"}}


definition: dict[str, Any] = {
    "role_arn": given.role,
    "algorithm_specification": {"training_image": image, "training_input_mode": "File"},
    "input_data_config": [
        {"channel_name": channel, "content_type": RECORDIO, "data_source": source(f"{channel}/")}
        for channel in ("train", "test")
    ],
    "output_data_config": {"s3_output_path": f"{uri}/models"},
    "resource_config": {"instance_type": "ml.m5.large", "instance_count": 1, "volume_size_in_gb": 10},
    "stopping_condition": {"max_runtime_in_seconds": 600},
}

with flow("TrainingJob"):
    job = TrainingJob.create(training_job_name=name, hyper_parameters=HYPERPARAMETERS, **definition)
    job.wait(poll=1, logs=True)
    assert job.training_job_status == "Completed"
    rmse = {item.metric_name: item.value for item in job.final_metric_data_list}["test:rmse"]
    assert TrainingJob.get(name).hyper_parameters == HYPERPARAMETERS
    assert [item.training_job_name for item in TrainingJob.get_all(name_contains=name)] == [name]
    stopped = TrainingJob.create(training_job_name=f"{name}-s", hyper_parameters=ENDLESS, **definition)
    stopped.stop()
    stopped.wait(poll=1)
    assert stopped.training_job_status == "Stopped"

with flow("TrainingJobAnalytics"):
    frame = TrainingJobAnalytics(name).dataframe()
    assert list(frame.loc[frame["metric_name"] == "test:rmse", "value"]) == [rmse]

with flow("HyperParameterTuningJob"):
    ranges = {
        "continuous_parameter_ranges": [{"name": "linear_lr", "min_value": "0.003", "max_value": "0.03"}]
    }
    static = {key: value for key, value in HYPERPARAMETERS.items() if key != "linear_lr"}
    tuning = HyperParameterTuningJob.create(
        hyper_parameter_tuning_job_name=name[-32:],
        hyper_parameter_tuning_job_config=shapes.HyperParameterTuningJobConfig(
            strategy="Bayesian",
            hyper_parameter_tuning_job_objective={"type": "Minimize", "metric_name": "test:rmse"},
            resource_limits={"max_number_of_training_jobs": 2, "max_parallel_training_jobs": 2},
            parameter_ranges=ranges,
        ),
        training_job_definition=shapes.HyperParameterTrainingJobDefinition(
            static_hyper_parameters=static, **definition
        ),
    )
    tuning.wait(poll=1)
    assert tuning.hyper_parameter_tuning_job_status == "Completed"
    jobs = {item.training_job_name: item for item in tuning.get_all_training_jobs()}
    objective = {
        key: item.final_hyper_parameter_tuning_job_objective_metric.value for key, item in jobs.items()
    }
    assert len(jobs) == 2
    assert tuning.best_training_job.training_job_name == min(objective, key=objective.__getitem__)
    found = HyperParameterTuningJob.get_all(name_contains=name[-32:])
    assert [item.hyper_parameter_tuning_job_name for item in found] == [name[-32:]]

with flow("Model"):
    container = {"image": image, "model_data_url": job.model_artifacts.s3_model_artifacts}
    model = Model.create(model_name=name, execution_role_arn=given.role, primary_container=container)
    assert Model.get(name).primary_container.model_data_url == job.model_artifacts.s3_model_artifacts
    assert [item.model_name for item in Model.get_all(name_contains=name)] == [name]

with flow("TransformJob"):
    transform = TransformJob.create(
        transform_job_name=name,
        model_name=name,
        batch_strategy="MultiRecord",
        transform_input={"data_source": source("rows/"), "content_type": RECORDIO, "split_type": "RecordIO"},
        transform_output={
            "s3_output_path": f"{uri}/scores",
            "accept": "application/jsonlines",
            "assemble_with": "Line",
        },
        transform_resources={"instance_type": "ml.m5.large", "instance_count": 1},
    )
    transform.wait(poll=1, logs=True)
    assert transform.transform_job_status == "Completed"
    out = boto3.client("s3").get_object(Bucket=given.bucket, Key=f"{name}/scores/rows.pbr.out")
    batch_scores = scores_of_lines(out["Body"].read().decode())
    check_scores(batch_scores, rmse)
    assert [item.transform_job_name for item in TransformJob.get_all(name_contains=name)] == [name]

with flow("EndpointConfig"):
    for config in (f"{name}-1", f"{name}-2"):
        variant = {"variant_name": config, "model_name": name, "instance_type": "ml.m5.large"}
        EndpointConfig.create(
            endpoint_config_name=config, production_variants=[{**variant, "initial_instance_count": 1}]
        )
    assert EndpointConfig.get(config).production_variants[0].model_name == name
    assert len(list(EndpointConfig.get_all(name_contains=name))) == 2

with flow("Endpoint"):
    endpoint = Endpoint.create(endpoint_name=name, endpoint_config_name=f"{name}-1")
    endpoint.wait_for_status("InService", poll=1)
    answer = endpoint.invoke(body=json_body(TEST), content_type="application/json")
    assert answer.invoked_production_variant == f"{name}-1"
    check_same(scores_of_json(answer.body.read()), batch_scores)
    endpoint.endpoint_config_name = f"{name}-2"
    endpoint.update()
    endpoint.wait_for_status("InService", poll=1)
    answer = endpoint.invoke(
        body=recordio(TEST, labels=False), content_type=RECORDIO, accept="application/jsonlines"
    )
    assert answer.invoked_production_variant == f"{name}-2"
    check_same(scores_of_lines(answer.body.read().decode()), batch_scores)
    weights = [{"variant_name": f"{name}-2", "desired_weight": 2}]
    endpoint.update_weights_and_capacities(desired_weights_and_capacities=weights)
    endpoint.wait_for_status("InService", poll=1)
    assert [item.endpoint_name for item in Endpoint.get_all(name_contains=name)] == [name]

with flow("delete"):
    endpoint.delete()
    endpoint.wait_for_delete(poll=1)
    for config in (f"{name}-1", f"{name}-2"):
        EndpointConfig.get(config).delete()
    model.delete()
    assert not list(Model.get_all(name_contains=name))
