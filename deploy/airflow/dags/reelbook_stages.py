"""The stages of Reelbook as a DAG: one task a notebook, in the project's own Python.

Airflow only schedules.  Each task runs one notebook by ``lib.stage_runs`` in the environment of the checkout, so that
Airflow and the SageMaker SDK, whose packages exclude each other, never meet.  What a stage publishes is its XCom, what
its cells print is in the task's log, and the run's page is ``outputs/RUN/report.html`` of the checkout.

A task that is tried again takes up the SageMaker job of the attempt before.  08_clean_up is a teardown: it runs
whatever happened, and a run that failed before it stays failed.

Environment
-----------
REELBOOK_HOME
    The checkout; by default the one that this file is in.
REELBOOK_PYTHON
    The project's Python; by default that of the checkout's ``.venv``.
REELBOOK_RETRIES
    How often a task that failed is tried again; by default twice, after 30 s and after a minute.
REELBOOK_SCHEDULE
    When the DAG runs by itself: a cron expression; by default never.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, task

HOME = Path(os.environ.get("REELBOOK_HOME") or Path(__file__).resolve().parents[3])
PYTHON = os.environ.get("REELBOOK_PYTHON") or str(HOME / ".venv" / "bin" / "python")


def run_stage(
    home: str,
    stage: str,
    run: str,
    parameters_file: str,
    parameters: str,
    published: list[dict[str, Any] | None],
) -> dict[str, Any]:
    """Run one stage (in the project's Python: this function's source is all that gets there)."""
    import json
    import sys

    sys.path.insert(0, home)
    from lib.errors import ReelbookError
    from lib.stage_runs import run_id_from
    from lib.stage_runs import run_stage as run_one

    scraps = {name: value for each in published if each for name, value in each.items()}
    try:
        return run_one(
            stage,
            run_id_from(run),
            parameters_file=f"{home}/{parameters_file}",
            parameters=json.loads(parameters),
            published=scraps,
        )
    except ReelbookError as error:
        sys.exit(str(error))  # in the log, without the traceback of a program that is well


with DAG(
    "reelbook_stages",
    description="Reelbook: the notebooks from reviews to an evaluated model",
    doc_md=__doc__,
    schedule=os.environ.get("REELBOOK_SCHEDULE") or None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),  # noqa: UP017  Airflow 3.0 runs on Python 3.9
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": int(os.environ.get("REELBOOK_RETRIES", "2")),
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": True,
    },
    params={
        "parameters_file": Param("parameters/local.yaml", type="string", description="as run_all.py -f"),
        "parameters": Param({}, type="object", description="as run_all.py -p"),
        "tune": Param(False, type="boolean", description="search hyperparameters instead of training once"),
        "deploy": Param(False, type="boolean", description="serve an accepted model, until the clean-up"),
    },
    tags=["reelbook", "sagemaker"],
) as dag:
    GIVEN = "{{ dict(params.parameters, tune=params.tune, deploy=params.deploy) | tojson }}"

    def stage(name: str, *before: Any, rule: str = "all_success") -> Any:
        """Return the task of a stage that takes from the stages before it."""
        runner = task.external_python(
            python=PYTHON, task_id=name, expect_airflow=False, expect_pendulum=False, trigger_rule=rule
        )
        return runner(run_stage)(
            home=str(HOME),
            stage=name,
            run="{{ run_id }}",
            parameters_file="{{ params.parameters_file }}",
            parameters=GIVEN,
            published=list(before),
        )

    @task.branch
    def train_or_tune(params: dict[str, Any]) -> str:
        """Choose the branch."""
        return "04_tune" if params["tune"] else "03_train"

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def if_deploy(params: dict[str, Any]) -> bool:
        """Tell whether the model is to be served."""
        return bool(params["deploy"])

    collect = stage("00_collect")
    preprocess = stage("01_preprocess", collect)
    prepare = stage("02_prepare", collect, preprocess)
    train = stage("03_train", collect, preprocess, prepare)
    tune = stage("04_tune", collect, preprocess, prepare)
    told = [collect, preprocess, prepare, train, tune]
    transform = stage("05_transform", *told, rule="none_failed_min_one_success")
    evaluate = stage("06_evaluate", *told, transform, rule="none_failed_min_one_success")
    deploy = stage("07_deploy", *told, transform, evaluate, rule="none_failed_min_one_success")
    clean_up = stage("08_clean_up", rule="all_done").as_teardown()

    prepare >> train_or_tune() >> [train, tune]
    evaluate >> if_deploy() >> deploy >> clean_up
