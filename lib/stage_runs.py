"""One stage of a run, for schedulers that run each stage as a task of its own: Airflow, a container.

The run's folder is the same as if ``run_all.py`` had run all stages; what earlier stages have published elsewhere,
on another machine, is handed in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib import console, job_configs, runner
from lib.errors import ReelbookError
from lib.plan import Workflow

LONGEST_RUN_ID = 30


class StageFailed(ReelbookError):
    """A stage has failed; the message is what ``run_all.py`` prints about it."""


def run_stage(
    stage: str,
    run_id: str,
    *,
    parameters_file: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    published: Mapping[str, Any] | None = None,
    workflow: Workflow | None = None,
) -> dict[str, Any]:
    """Run one stage of a run, and write the run's page anew.

    What the cells print goes to standard error as it comes.

    Parameters
    ----------
    stage : str
        Its name, such as ``03_train``.
    run_id : str
        The run, begun by the first stage that is run.
    parameters_file : str or Path, optional
        As ``-f``; by default the run's own, or ``parameters/local.yaml``.
    parameters : mapping, optional
        As ``-p``.
    published : mapping, optional
        What earlier stages have published, where the run's folder may not hold it.
    workflow : Workflow, optional
        Another one than Reelbook's own.

    Returns
    -------
    dict
        What the stage has published; empty where it was not wanted, such as ``07_deploy`` of a model that was not
        accepted.

    Raises
    ------
    StageFailed
        With what went wrong and where.
    ReelbookError
        When the stage cannot be run at all: an unknown stage or parameter, a missing input.
    """
    workflow = workflow or Workflow()
    made = job_configs.planned(
        stage,
        run_id,
        parameters_file=parameters_file,
        parameters=parameters,
        published=published,
        workflow=workflow,
    )
    record = runner.run(made, runner.Options(log_output=True))
    runner.write_report(made.folder)
    ended = next(one for one in record.stages if one.name == stage)
    if ended.status == "failed":
        raise StageFailed(console.failure_text(ended))
    return dict(ended.scraps)


def run_id_from(name: str) -> str:
    """Return a run id made from a scheduler's name for a run, such as ``manual__2026-11-23T03:00:00+00:00``.

    It is the same for the same name, and different for different ones: what a run id cannot hold, or is too long,
    is made up for by a digest.

    >>> run_id_from("nightly-7")
    'nightly-7'
    >>> run_id_from("manual__2026-11-23T03:00:00+00:00")
    'manual-20261123t030000-01dddc'
    """
    if re.fullmatch(rf"[a-z0-9][a-z0-9-]{{0,{LONGEST_RUN_ID - 1}}}", name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    words = re.sub(r"(?<=\d)[-:](?=\d)|\+.*$", "", name.lower())
    start = re.sub(r"[^a-z0-9]+", "-", words).strip("-")[: LONGEST_RUN_ID - 7].strip("-")
    return f"{start}-{digest}" if start else f"run-{digest}"
