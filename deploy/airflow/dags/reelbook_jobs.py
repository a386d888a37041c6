"""Reelbook with SageMaker's jobs as tasks of their own: training, tuning, model, transform, endpoint.

The DAG of the article "Build end-to-end machine learning workflows with Amazon SageMaker and Apache Airflow": the
reviews are prepared by the notebooks, then jobs are submitted by the SageMaker operators and waited for by Airflow's
triggerer, which costs no worker (``deferrable``).  What they submit is what the notebooks would submit: each request is
worked out in the project's own Python by ``lib.job_configs``, as ``training_config`` of the SageMaker SDK once did.

Operators find AWS by the connection ``aws_default``, or by the variables of ``python run_all.py local env``.

Environment
-----------
REELBOOK_DEFERRABLE
    ``false``: tasks wait in a worker.
REELBOOK_CHECK_SECONDS
    How often a job is looked at; by default every 30 s.
REELBOOK_AWS_CONN
    The connection; empty: boto3's own way, by environment and profile.

``reelbook_project`` has the others.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerEndpointConfigOperator,
    SageMakerEndpointOperator,
)
from airflow.sdk import DAG, Param, task

sys.path.append(str(Path(__file__).resolve().parent))  # Airflow does it for a bundle, not in every command
from reelbook_operators import ModelOperator, TrainingOperator, TransformOperator, TuningOperator
from reelbook_project import DAG_OPTIONS, JOIN, PARAMS, project_task

SUBMITTING: dict[str, Any] = {
    "aws_conn_id": os.environ.get("REELBOOK_AWS_CONN", "aws_default") or None,
    "deferrable": os.environ.get("REELBOOK_DEFERRABLE", "true") != "false",
    "check_interval": int(os.environ.get("REELBOOK_CHECK_SECONDS", "30")),
}

with DAG(
    "reelbook_jobs",
    description="Reelbook: prepare, then train or tune, transform, evaluate and serve by SageMaker operators",
    doc_md=__doc__,
    schedule=None,
    params={
        **PARAMS,
        "endpoint_instance": Param("ml.m5.large", type="string", description="what it is served on"),
    },
    **DAG_OPTIONS,
) as dag:

    def returned(task_id: str, path: str) -> str:
        """Return a template of a part of what a task has returned."""
        return "{{ ti.xcom_pull(task_ids='" + task_id + "')" + path + " }}"

    @task.branch
    def train_or_tune(params: dict[str, Any]) -> str:
        """Choose the branch."""
        return "tune_request" if params["tune"] else "train_request"

    @task(trigger_rule=JOIN)
    def model_of(trained: dict[str, Any] | None, tuned: dict[str, Any] | None) -> dict[str, str]:
        """Return the artifact of the training job, or of the best one of the tuning job, as a stage publishes it."""
        from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook

        job = (trained or {}).get("Training")
        if not job:
            best = (tuned or {})["Tuning"]["BestTrainingJob"]["TrainingJobName"]
            hook = SageMakerHook(aws_conn_id=SUBMITTING["aws_conn_id"])
            job = hook.describe_training_job(best)
        return {
            "model_uri": job["ModelArtifacts"]["S3ModelArtifacts"],
            "training_job_name": job["TrainingJobName"],
        }

    @task
    def predictions_of(transformed: dict[str, Any]) -> dict[str, str]:
        """Return what 05_transform would publish."""
        job = transformed["Transform"]
        return {
            "predictions_uri": job["TransformOutput"]["S3OutputPath"],
            "model_name": job["ModelName"],
            "transform_job_name": job["TransformJobName"],
        }

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def if_deploy(evaluated: dict[str, Any], params: dict[str, Any]) -> bool:
        """Tell whether the model is to be served: it is wanted, and it was accepted."""
        return bool(params["deploy"] and evaluated["accepted"])

    collect = project_task("00_collect")
    preprocess = project_task("01_preprocess", collect)
    prepare = project_task("02_prepare", collect, preprocess)
    prepared = [collect, preprocess, prepare]

    train_request = project_task("03_train", *prepared, task_id="train_request", what="request")
    train = TrainingOperator(
        task_id="train",
        config=returned("train_request", ""),
        check_if_job_exists=False,
        print_log=False,
        **SUBMITTING,
    )
    tune_request = project_task("04_tune", *prepared, task_id="tune_request", what="request")
    tune = TuningOperator(task_id="tune", config=returned("tune_request", ""), **SUBMITTING)

    model = model_of(train.output, tune.output)
    transform_request = project_task(
        "05_transform", *prepared, model, task_id="transform_request", what="request"
    )
    make_model = ModelOperator(
        task_id="model",
        config=returned("transform_request", "['Model']"),
        aws_conn_id=SUBMITTING["aws_conn_id"],
    )
    transform = TransformOperator(
        task_id="transform",
        config=returned("transform_request", "['Transform']"),
        check_if_job_exists=False,
        **SUBMITTING,
    )
    predictions = predictions_of(transform.output)
    evaluate = project_task("06_evaluate", *prepared, model, predictions)

    NAME = returned("transform_request", "['Transform']['TransformJobName']")
    TAGS = returned("transform_request", "['Model']['Tags']")
    endpoint_config = SageMakerEndpointConfigOperator(
        task_id="endpoint_config",
        config={
            "EndpointConfigName": NAME,
            "ProductionVariants": [
                {
                    "VariantName": "main",
                    "ModelName": returned("transform_request", "['Model']['ModelName']"),
                    "InstanceType": "{{ params.endpoint_instance }}",
                    "InitialInstanceCount": 1,
                }
            ],
            "Tags": TAGS,
        },
        aws_conn_id=SUBMITTING["aws_conn_id"],
    )
    endpoint = SageMakerEndpointOperator(
        task_id="endpoint",
        config={"EndpointName": NAME, "EndpointConfigName": NAME, "Tags": TAGS},
        **SUBMITTING,
    )
    clean_up = project_task("08_clean_up", rule="all_done").as_teardown()

    prepare >> train_or_tune() >> [train_request, tune_request]
    train_request >> train
    tune_request >> tune
    transform_request >> make_model >> transform
    if_deploy(evaluated=evaluate) >> endpoint_config >> endpoint >> clean_up
