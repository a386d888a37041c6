"""The requests of a run's jobs, for schedulers that submit them without a notebook: Airflow, Step Functions.

Each is what the stage's notebook would submit, name and tags included: who submits it after the notebook, or the
notebook after it, finds the same job.  The SageMaker SDK's version 2 had this as ``workflow.airflow.training_config``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib import aws, job_control, job_requests, plan, records, settings, storage
from lib.aws import Account
from lib.fm import hyperparameters as fm_hyperparameters
from lib.plan import Plan, Request, Workflow


def job_config(
    stage: str,
    run_id: str,
    *,
    parameters_file: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    published: Mapping[str, Any] | None = None,
    workflow: Workflow | None = None,
) -> dict[str, Any]:
    """Return what boto3 takes to create a stage's job.

    Parameters
    ----------
    stage : str
        ``03_train``, ``04_tune`` or ``05_transform``.
    run_id, parameters_file, parameters, published, workflow
        As of `lib.stage_runs.run_stage`.

    Returns
    -------
    dict
        The request of CreateTrainingJob or CreateHyperParameterTuningJob; for ``05_transform`` two, under ``Model``
        and ``Transform``.

    Raises
    ------
    ReelbookError
        For a missing input or a wrong parameter.
    """
    made = planned(
        stage,
        run_id,
        parameters_file=parameters_file,
        parameters=parameters,
        published=published,
        workflow=workflow,
    )
    values = made.values(stage, made.scraps)
    account = aws.connect(values["target"], **values["account"])
    uri = storage.stage_uri(values["bucket"], values["prefix"], run_id, stage)
    return _CONFIGS[stage](account, run_id, uri, values)


def requests(
    run_id: str,
    *,
    parameters_file: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    workflow: Workflow | None = None,
) -> dict[str, Any]:
    """Return the requests of the jobs that follow on the preparation, for a state machine to submit.

    Returns
    -------
    dict
        ``tune``: which of the two it is; ``train`` or ``tuning``: its request; ``model`` and ``transform``: theirs,
        without ModelDataUrl, for which nothing is trained yet.
    """
    given = dict(parameters or {})
    stage = "04_tune" if _tunes(run_id, parameters_file, given, workflow) else "03_train"
    request = job_config(stage, run_id, parameters_file=parameters_file, parameters=given, workflow=workflow)
    if stage == "03_train":  # a state names the same members in every run
        request.setdefault("EnableManagedSpotTraining", False)
        request.pop("CheckpointConfig", None)  # the algorithm writes no checkpoints on SageMaker
    made = planned(stage, run_id, parameters_file=parameters_file, parameters=given, workflow=workflow)
    values = made.values(stage, made.scraps)
    account = aws.connect(values["target"], **values["account"])
    after = _own_values(made, "05_transform")
    limits = settings.validate(settings.TransformResources, after["transform"], "transform")
    model_name = f"{run_id}-model"
    transform, output = job_requests.transform(
        account, model_name=model_name, input_uri=made.scraps["test_uri"], transform=after["transform"]
    )
    uri = storage.stage_uri(values["bucket"], values["prefix"], run_id, "05_transform")
    name = f"{run_id}-transform"
    to = {"transform_output": {**output, "s3_output_path": storage.join(uri, name)}}
    model = job_requests.model(account, model_uri="s3://", image_uri=limits.image_uri)
    del model["primary_container"]["model_data_url"]
    return {
        "tune": stage == "04_tune",
        "tuning" if stage == "04_tune" else "train": request,
        "model": _named("CreateModel", model, account, run_id, "transform", model_name=model_name),
        "transform": _named(
            "CreateTransformJob",
            {**transform, **to},
            account,
            run_id,
            "transform",
            transform_job_name=name,
        ),
    }


def _tunes(
    run_id: str, parameters_file: str | Path | None, given: Mapping[str, Any], workflow: Workflow | None
) -> bool:
    made = planned("02_prepare", run_id, parameters_file=parameters_file, parameters=given, workflow=workflow)
    return bool(made.given["tune"].value) if "tune" in made.given else False


def _own_values(made: Plan, stage: str) -> dict[str, Any]:
    """Return a stage's parameters, but for those that other stages publish."""
    return {name: made.own_value(one) for name, one in made.contracts[stage].parameters.items()}


def planned(
    stage: str,
    run_id: str,
    *,
    parameters_file: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    published: Mapping[str, Any] | None = None,
    workflow: Workflow | None = None,
) -> Plan:
    """Plan one stage of a run, with what earlier stages have published elsewhere; see `lib.stage_runs.run_stage`."""
    workflow = workflow or Workflow()
    folder = workflow.outputs / records.check_run_id(run_id)
    if published:
        folder.mkdir(parents=True, exist_ok=True)
        kept = records.read_scraps(folder)
        if {name: value for name, value in published.items() if kept.get(name) != value}:
            records.write_scraps(folder, {**kept, **published})
    request = Request(
        run_id=run_id,
        only=stage,
        parameters_file=Path(parameters_file) if parameters_file else None,
        command_line=[(name, json.dumps(value)) for name, value in (parameters or {}).items()],
        command=f"run_all.py --only {stage} --run-id {run_id}",
    )
    return plan.make(workflow, request)


def _train(account: Account, run_id: str, uri: str, values: Mapping[str, Any]) -> dict[str, Any]:
    request = job_requests.training(
        account,
        train_uri=values["train_uri"],
        test_uri=values["validate_uri"],
        output_uri=uri,
        hyperparameters=_hyperparameters(values),
        algorithm=values["algorithm"],
        extensions=values["extensions"],
        training=values["training"],
    )
    identity = {"request": request, "inputs": job_control.etags(values["train_uri"], values["validate_uri"])}
    name, _ = job_control.choose_name("training", run_id, "train", identity)
    return _named("CreateTrainingJob", request, account, run_id, "train", training_job_name=name)


def _tune(account: Account, run_id: str, uri: str, values: Mapping[str, Any]) -> dict[str, Any]:
    request = job_requests.tuning(
        account,
        train_uri=values["train_uri"],
        test_uri=values["validate_uri"],
        output_uri=uri,
        hyperparameters=_hyperparameters(values),
        ranges=values["ranges"],
        extensions=values["extensions"],
        tuning=values["tuning"],
        training=values["training"],
        seed=values["seed"],
    )
    identity = {"request": request, "inputs": job_control.etags(values["train_uri"], values["validate_uri"])}
    name, _ = job_control.choose_name("tuning", run_id, "tune", identity)
    operation = "CreateHyperParameterTuningJob"
    return _named(operation, request, account, run_id, "tune", hyper_parameter_tuning_job_name=name)


def _transform(account: Account, run_id: str, uri: str, values: Mapping[str, Any]) -> dict[str, Any]:
    limits = settings.validate(settings.TransformResources, values["transform"], "transform")
    model = job_requests.model(account, model_uri=values["model_uri"], image_uri=limits.image_uri)
    model_name = job_control.job_name(run_id, "model", model)
    request, output = job_requests.transform(
        account, model_name=model_name, input_uri=values["test_uri"], transform=values["transform"]
    )
    inputs = job_control.etags(values["test_uri"], values["model_uri"])
    identity = {"request": request, "output": [uri, output], "inputs": inputs}
    name, _ = job_control.choose_name("transform", run_id, "transform", identity)
    to = {"transform_output": {**output, "s3_output_path": storage.join(uri, name)}}
    return {
        "Model": _named("CreateModel", model, account, run_id, "transform", model_name=model_name),
        "Transform": _named(
            "CreateTransformJob", {**request, **to}, account, run_id, "transform", transform_job_name=name
        ),
    }


_CONFIGS = {"03_train": _train, "04_tune": _tune, "05_transform": _transform}


def _hyperparameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the notebooks gather from their parameters."""
    own = {name: values[name] for name in fm_hyperparameters.NAMES if name in values}
    return {**own, "predictor_type": "regressor", **values["hyperparameters"]}


def _named(
    operation: str, request: dict[str, Any], account: Account, run_id: str, word: str, **name: str
) -> dict[str, Any]:
    tags = job_requests.tags(account, run_id, word)
    return job_requests.as_api(operation, {**name, **request, "tags": tags})
