"""One stage of a run, for schedulers that run each stage as a task of its own: Airflow, a container.

The run's folder is the same as if ``run_all.py`` had run all stages; what earlier stages have published elsewhere,
on another machine, is handed in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

from lib import console, plan, records, runner
from lib.errors import ReelbookError
from lib.plan import Plan, Request, Workflow
from lib.records import RunRecord

LONGEST_RUN_ID = 30


class StageFailed(ReelbookError):
    """A stage has failed; the message is what ``run_all.py`` prints about it."""


class Given(TypedDict, total=False):
    """What a scheduler hands in with the stages that it runs; each may be left out.

    Attributes
    ----------
    parameters_file : str or Path
        As ``-f``; by default the run's own, or ``parameters/local.yaml``.
    parameters : mapping
        As ``-p``.
    published : mapping
        What earlier stages have published, where the run's folder may not hold it.
    workflow : Workflow
        Another one than Reelbook's own.
    """

    parameters_file: str | Path | None
    parameters: Mapping[str, Any] | None
    published: Mapping[str, Any] | None
    workflow: Workflow | None


def run_stage(stage: str, run_id: str, **given: Unpack[Given]) -> dict[str, Any]:
    """Run one stage of a run, and write the run's page anew.

    What the cells print goes to standard error as it comes.

    Parameters
    ----------
    stage : str
        Its name, such as ``03_train``.
    run_id : str
        The run, begun by the first stage that is run.
    **given
        See `Given`.

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
    record = _run(planned(run_id, only=stage, **given))
    return dict(next(one for one in record.stages if one.name == stage).scraps)


def run_stages(
    run_id: str, *, start: str | None = None, stop: str | None = None, **given: Unpack[Given]
) -> RunRecord:
    """Run stages of a run, from the first to the last asked for, as `run_stage` runs one."""
    return _run(planned(run_id, start=start, stop=stop, **given))


def _run(made: Plan) -> RunRecord:
    record = runner.run(made, runner.Options(log_output=True))
    runner.write_report(made.folder)
    selected = {stage.name for stage in made.selected}
    for stage in record.stages:
        if stage.name in selected and stage.status == "failed":
            raise StageFailed(console.failure_text(stage))
    return record


def planned(
    run_id: str,
    *,
    only: str | None = None,
    start: str | None = None,
    stop: str | None = None,
    **given: Unpack[Given],
) -> Plan:
    """Plan one stage of a run, or several, with what earlier ones have published elsewhere.

    Parameters
    ----------
    run_id : str
        A run that may have been begun or not.
    only, start, stop : str, optional
        As ``--only``, ``--from`` and ``--to``.
    **given
        See `Given`.
    """
    workflow = given.get("workflow") or Workflow()
    folder = workflow.outputs / records.check_run_id(run_id)
    published = given.get("published")
    if published:
        folder.mkdir(parents=True, exist_ok=True)
        kept = records.read_scraps(folder)
        if {name: value for name, value in published.items() if kept.get(name) != value}:
            records.write_scraps(folder, {**kept, **published})
    file = given.get("parameters_file")
    asked = {"--only": only, "--from": start, "--to": stop}
    request = Request(
        run_id=run_id,
        only=only,
        start=start if only else start or workflow.stages[0].name,  # a run that may be there already
        stop=stop,
        parameters_file=Path(file) if file else None,
        command_line=[(name, json.dumps(value)) for name, value in (given.get("parameters") or {}).items()],
        command=" ".join(
            [
                "run_all.py",
                *(f"{option} {name}" for option, name in asked.items() if name),
                "--run-id",
                run_id,
            ]
        ),
    )
    return plan.make(workflow, request)


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
