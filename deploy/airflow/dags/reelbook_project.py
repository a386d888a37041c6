"""What both DAGs share: where the project is, their parameters, and tasks in the project's own Python.

Environment
-----------
REELBOOK_HOME
    The checkout; by default the one that this file is in.
REELBOOK_PYTHON
    The project's Python; by default that of the checkout's ``.venv``.
REELBOOK_PARAMETERS_FILE
    The parameter file of a run that names none; by default ``parameters/local.yaml``.
REELBOOK_RETRIES
    How often a task that failed is tried again; by default twice, after 30 s and after a minute.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import Param, task

HOME = Path(os.environ.get("REELBOOK_HOME") or Path(__file__).resolve().parents[3])
PYTHON = os.environ.get("REELBOOK_PYTHON") or str(HOME / ".venv" / "bin" / "python")
JOIN = "none_failed_min_one_success"

DAG_OPTIONS: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),  # noqa: UP017  Airflow 3.0 runs on Python 3.9
    "catchup": False,
    "max_active_runs": 1,
    "render_template_as_native_obj": True,  # a request is a dict in a template, too
    "default_args": {
        "retries": int(os.environ.get("REELBOOK_RETRIES", "2")),
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": True,
    },
    "tags": ["reelbook", "sagemaker"],
}

PARAMS: dict[str, Param] = {
    "parameters_file": Param(
        os.environ.get("REELBOOK_PARAMETERS_FILE") or "parameters/local.yaml",
        type="string",
        description="as run_all.py -f",
    ),
    "parameters": Param({}, type="object", description="as run_all.py -p"),
    "tune": Param(False, type="boolean", description="search hyperparameters instead of training once"),
    "deploy": Param(False, type="boolean", description="serve an accepted model, until the clean-up"),
}


def in_project(
    home: str,
    what: str,
    stage: str,
    run: str,
    parameters_file: str,
    parameters: str,
    published: list[dict[str, Any] | None],
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
            stage_runs.run_id_from(str(run)),
            parameters_file=f"{home}/{parameters_file}",
            parameters=json.loads(parameters),
            published={name: value for each in published if each for name, value in each.items()},
        )
    except ReelbookError as error:
        sys.exit(str(error))  # in the log, without the traceback of a program that is well


def project_task(
    stage: str, *before: Any, task_id: str = "", what: str = "run", rule: str = "all_success"
) -> Any:
    """Return a task in the project's Python, which knows what the tasks before it have returned.

    Parameters
    ----------
    stage : str
        Such as ``03_train``.
    *before
        The tasks that it takes from.
    task_id : str, optional
        By default the stage's name.
    what : str
        ``run``: its notebook; ``request``: what its job would be submitted as.
    rule : str
        The trigger rule.
    """
    runner = task.external_python(
        python=PYTHON,
        task_id=task_id or stage,
        expect_airflow=False,
        expect_pendulum=False,
        trigger_rule=rule,
    )
    return runner(in_project)(
        home=str(HOME),
        what=what,
        stage=stage,
        run="{{ run_id }}",
        parameters_file="{{ params.parameters_file }}",
        # twice: once for the template, which makes a literal of what it reads, once for the project
        parameters="{{ dict(params.parameters, tune=params.tune, deploy=params.deploy) | tojson | tojson }}",
        published=list(before),
    )
