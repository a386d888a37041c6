"""The stages of Reelbook as a DAG: one task a notebook, in the project's own Python.

Airflow only schedules.  Each task runs one notebook by ``lib.stage_runs`` in the environment of the checkout, so that
Airflow and the SageMaker SDK, whose packages exclude each other, never meet.  What a stage publishes is its XCom, what
its cells print is in the task's log, and the run's page is ``outputs/RUN/report.html`` of the checkout.

A task that is tried again takes up the SageMaker job of the attempt before.  08_clean_up is a teardown: it runs
whatever happened, and a run that failed before it stays failed.

Environment
-----------
REELBOOK_SCHEDULE
    When the DAG runs by itself: a cron expression; by default never.

``reelbook_project`` has the others.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

sys.path.append(str(Path(__file__).resolve().parent))  # Airflow does it for a bundle, not in every command
from reelbook_project import DAG_OPTIONS, JOIN, PARAMS, project_task

with DAG(
    "reelbook_stages",
    description="Reelbook: the notebooks from reviews to an evaluated model",
    doc_md=__doc__,
    schedule=os.environ.get("REELBOOK_SCHEDULE") or None,
    params=PARAMS,
    **DAG_OPTIONS,
) as dag:

    @task.branch
    def train_or_tune(params: dict[str, Any]) -> str:
        """Choose the branch."""
        return "04_tune" if params["tune"] else "03_train"

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def if_deploy(params: dict[str, Any]) -> bool:
        """Tell whether the model is to be served."""
        return bool(params["deploy"])

    collect = project_task("00_collect")
    preprocess = project_task("01_preprocess", collect)
    prepare = project_task("02_prepare", collect, preprocess)
    train = project_task("03_train", collect, preprocess, prepare)
    tune = project_task("04_tune", collect, preprocess, prepare)
    told = [collect, preprocess, prepare, train, tune]
    transform = project_task("05_transform", *told, rule=JOIN)
    evaluate = project_task("06_evaluate", *told, transform, rule=JOIN)
    deploy = project_task("07_deploy", *told, transform, evaluate, rule=JOIN)
    clean_up = project_task("08_clean_up", rule="all_done").as_teardown()

    prepare >> train_or_tune() >> [train, tune]
    evaluate >> if_deploy() >> deploy >> clean_up
