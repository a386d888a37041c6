"""Reelbook with SageMaker's jobs as tasks of their own: training, tuning, model, transform, endpoint.

The DAG of the article "Build end-to-end machine learning workflows with Amazon SageMaker and Apache Airflow": the
reviews are prepared by the notebooks, then jobs are submitted by the SageMaker operators and waited for by Airflow's
triggerer, which costs no worker (``deferrable``).  What they submit is what the notebooks would submit: each request is
worked out in the project's own Python by ``lib.job_configs``, as ``training_config`` of the SageMaker SDK once did.

Operators find AWS by the connection ``aws_default``, or by the variables of ``python run_all.py local env``.

Environment
-----------
REELBOOK_HOME
    The checkout; by default the one that this file is in.
REELBOOK_PYTHON
    The project's Python; by default that of the checkout's ``.venv``.
REELBOOK_RETRIES
    How often a task that failed is tried again; by default twice, after 30 s and after a minute.
REELBOOK_DEFERRABLE
    ``false``: tasks wait in a worker.
REELBOOK_CHECK_SECONDS
    How often a job is looked at; by default every 30 s.
REELBOOK_AWS_CONN
    The connection; empty: boto3's own way, by environment and profile.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerEndpointConfigOperator,
    SageMakerEndpointOperator,
)
from airflow.sdk import DAG, Param, task

sys.path.append(
    str(Path(__file__).resolve().parent)
)  # Airflow does it for a bundle, but not in every command
from reelbook_operators import ModelOperator, TrainingOperator, TransformOperator, TuningOperator

HOME = Path(os.environ.get("REELBOOK_HOME") or Path(__file__).resolve().parents[3])
PYTHON = os.environ.get("REELBOOK_PYTHON") or str(HOME / ".venv" / "bin" / "python")
SUBMITTING: dict[str, Any] = {
    "aws_conn_id": os.environ.get("REELBOOK_AWS_CONN", "aws_default") or None,
    "deferrable": os.environ.get("REELBOOK_DEFERRABLE", "true") != "false",
    "check_interval": int(os.environ.get("REELBOOK_CHECK_SECONDS", "30")),
}
JOIN = "none_failed_min_one_success"


def in_project(
    home: str, what: str, stage: str, run: str, parameters_file: str, parameters: str, published: list[Any]
) -> dict[str, Any]:
    """Run a stage, or work out the request of its job (in the project's Python, which gets this source alone)."""
    import json
    import sys

    sys.path.insert(0, home)
    from lib import job_configs, stage_runs
    from lib.errors import ReelbookError

    do = {"run": stage_runs.run_stage, "request": job_configs.job_config}[what]
    try:
        return do(
            stage,
            stage_runs.run_id_from(run),
            parameters_file=f"{home}/{parameters_file}",
            parameters=json.loads(parameters),
            published={name: value for each in published if each for name, value in each.items()},
        )
    except ReelbookError as error:
        sys.exit(str(error))


with DAG(
    "reelbook_jobs",
    description="Reelbook: prepare, then train or tune, transform, evaluate and serve by SageMaker operators",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),  # noqa: UP017  Airflow 3.0 runs on Python 3.9
    catchup=False,
    max_active_runs=1,
    render_template_as_native_obj=True,
    default_args={
        "retries": int(os.environ.get("REELBOOK_RETRIES", "2")),
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": True,
    },
    params={
        "parameters_file": Param("parameters/local.yaml", type="string", description="as run_all.py -f"),
        "parameters": Param({}, type="object", description="as run_all.py -p"),
        "tune": Param(False, type="boolean", description="search hyperparameters instead of training once"),
        "deploy": Param(False, type="boolean", description="serve the model, until the clean-up"),
        "endpoint_instance": Param("ml.m5.large", type="string", description="what it is served on"),
    },
    tags=["reelbook", "sagemaker"],
) as dag:
    GIVEN = "{{ dict(params.parameters, tune=params.tune, deploy=params.deploy) | tojson | tojson }}"

    def project(task_id: str, what: str, stage: str, *before: Any, rule: str = "all_success") -> Any:
        """Return a task in the project's Python, which knows what the tasks before it have returned."""
        runner = task.external_python(
            python=PYTHON, task_id=task_id, expect_airflow=False, expect_pendulum=False, trigger_rule=rule
        )
        return runner(in_project)(
            home=str(HOME),
            what=what,
            stage=stage,
            run="{{ run_id }}",
            parameters_file="{{ params.parameters_file }}",
            parameters=GIVEN,
            published=list(before),
        )

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

    collect = project("00_collect", "run", "00_collect")
    preprocess = project("01_preprocess", "run", "01_preprocess", collect)
    prepare = project("02_prepare", "run", "02_prepare", collect, preprocess)
    prepared = [collect, preprocess, prepare]

    train_request = project("train_request", "request", "03_train", *prepared)
    train = TrainingOperator(
        task_id="train",
        config=returned("train_request", ""),
        check_if_job_exists=False,
        print_log=False,
        **SUBMITTING,
    )
    tune_request = project("tune_request", "request", "04_tune", *prepared)
    tune = TuningOperator(task_id="tune", config=returned("tune_request", ""), **SUBMITTING)

    model = model_of(train.output, tune.output)
    transform_request = project("transform_request", "request", "05_transform", *prepared, model)
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
    evaluate = project("06_evaluate", "run", "06_evaluate", *prepared, model, predictions)

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
    clean_up = project("08_clean_up", "run", "08_clean_up", rule="all_done").as_teardown()

    prepare >> train_or_tune() >> [train_request, tune_request]
    train_request >> train
    tune_request >> tune
    transform_request >> make_model >> transform
    if_deploy(evaluated=evaluate) >> endpoint_config >> endpoint >> clean_up
