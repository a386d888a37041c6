"""SageMaker's Factorization Machines by Airflow: runs `dags/factorization_machines.py` without a scheduler."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

DAGS = Path(__file__).with_name("dags")
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp()  # before Airflow is imported
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(DAGS)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "false"
sys.path.insert(0, str(DAGS))

import boto3  # noqa: E402
from airflow.utils.db import initdb  # noqa: E402
from factorization_machines import dag, steps  # noqa: E402
from tiny_data import (  # noqa: E402
    FEATURES,
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
flow = Flows(f"airflow {version('apache-airflow')}, amazon {version('apache-airflow-providers-amazon')}")
name = given.name
s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
put_data(s3, given.bucket, name)

initdb()
run = dag.test(run_conf={**vars(given), "feature_dim": FEATURES})
states = {task.task_id: task.state for task in run.get_task_instances()}
for step in steps:
    with flow(f"{type(step).__name__}: {step.task_id}"):
        assert states[step.task_id] == "success", f"it is {states[step.task_id]}; its log is above"

with flow("answers of the transform job and the endpoint"):
    metrics = sagemaker.describe_training_job(TrainingJobName=name)["FinalMetricDataList"]
    rmse = {item["MetricName"]: item["Value"] for item in metrics}["test:rmse"]
    out = s3.get_object(Bucket=given.bucket, Key=f"{name}/scores/rows.pbr.out")["Body"].read().decode()
    batch_scores = scores_of_lines(out)
    check_scores(batch_scores, rmse)
    assert sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"] == f"{name}-2"
    answer = boto3.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=name, ContentType="application/json", Body=json_body(TEST)
    )
    check_same(scores_of_json(answer["Body"].read()), batch_scores)
    assert [item["ModelName"] for item in sagemaker.list_models(NameContains=name)["Models"]] == [name]

sagemaker.delete_endpoint(EndpointName=name)
for config in (name, f"{name}-2"):
    sagemaker.delete_endpoint_config(EndpointConfigName=config)
sagemaker.delete_model(ModelName=name)
