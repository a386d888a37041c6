"""The requests of a run's jobs, for schedulers that submit them without a notebook: Airflow, Step Functions.

Each is what the stage's notebook would submit, name and tags included: who submits it after the notebook, or the
notebook after it, finds the same job.  The SageMaker SDK's version 2 had this as ``workflow.airflow.training_config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from lib import aws, job_control, job_requests, settings, stage_runs, storage
from lib.aws import Account
from lib.fm import hyperparameters as fm_hyperparameters
from lib.stage_runs import Given

_FITTING = {
    "03_train": ("training", "train", "CreateTrainingJob", "training_job_name"),
    "04_tune": ("tuning", "tune", "CreateHyperParameterTuningJob", "hyper_parameter_tuning_job_name"),
}


def job_config(stage: str, run_id: str, **given: Unpack[Given]) -> dict[str, Any]:
    """Return what boto3 takes to create a stage's job.

    Parameters
    ----------
    stage : str
        ``03_train``, ``04_tune`` or ``05_transform``.
    run_id : str
    **given
        See `lib.stage_runs.Given`.

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
    made = stage_runs.planned(run_id, only=stage, **given)
    values = made.values(stage, made.scraps)
    account = aws.connect(values["target"], **values["account"])
    return (_fitting if stage in _FITTING else _transform)(stage, account, run_id, values)


def requests(run_id: str, **given: Unpack[Given]) -> dict[str, Any]:
    """Return the requests of the jobs that follow on the preparation, for a state machine to submit.

    Returns
    -------
    dict
        ``tune``: which of the two it is; ``train`` or ``tuning``: its request; ``model`` and ``transform``: theirs,
        without ModelDataUrl, for which nothing is trained yet.
    """
    made = stage_runs.planned(run_id, start="03_train", **given)
    stage = "04_tune" if "04_tune" in made.wiring.active else "03_train"
    values = made.values(stage, made.scraps)
    account = aws.connect(values["target"], **values["account"])
    request = _fitting(stage, account, run_id, values)
    if stage == "03_train":  # a state names the same members in every run
        request.setdefault("EnableManagedSpotTraining", False)
        request.pop("CheckpointConfig", None)  # the algorithm writes no checkpoints on SageMaker
    after = {**made.own_values("05_transform"), "test_uri": made.scraps["test_uri"], "model_uri": None}
    applied = _transform("05_transform", account, run_id, after)
    return {
        "tune": stage == "04_tune",
        "tuning" if stage == "04_tune" else "train": request,
        "model": applied["Model"],
        "transform": applied["Transform"],
    }


def _fitting(stage: str, account: Account, run_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request of the training or of the tuning job."""
    kind, word, operation, key = _FITTING[stage]
    inputs = {"train_uri": values["train_uri"], "test_uri": values["validate_uri"]}
    shared = {
        **inputs,
        "output_uri": _stage_uri(stage, run_id, values),
        "hyperparameters": _hyperparameters(values),
        "extensions": values["extensions"],
        "training": values["training"],
    }
    if kind == "training":
        request = job_requests.training(account, **shared, algorithm=values["algorithm"])
    else:
        own = {name: values[name] for name in ("ranges", "tuning", "seed")}
        request = job_requests.tuning(account, **shared, **own)
    identity = job_control.identity(request, *inputs.values())
    name, _ = job_control.choose_name(kind, run_id, word, identity)
    return _named(operation, request, account, run_id, word, **{key: name})


def _transform(stage: str, account: Account, run_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the requests of the model and of the transform job.

    The names of a model that is not trained yet (``model_uri`` is None) and of its job have no digest.
    """
    limits = settings.validate(settings.TransformResources, values["transform"], "transform")
    model_uri = values["model_uri"]
    model = job_requests.model(account, model_uri=model_uri, image_uri=limits.image_uri)
    model_name = job_control.job_name(run_id, "model", model) if model_uri else f"{run_id}-model"
    request, output = job_requests.transform(
        account, model_name=model_name, input_uri=values["test_uri"], transform=values["transform"]
    )
    uri = _stage_uri(stage, run_id, values)
    name = f"{run_id}-transform"
    if model_uri:
        identity = job_control.identity(request, values["test_uri"], model_uri, output=[uri, output])
        name, _ = job_control.choose_name("transform", run_id, "transform", identity)
    request["transform_output"] = {**output, "s3_output_path": storage.join(uri, name)}
    return {
        "Model": _named("CreateModel", model, account, run_id, "transform", model_name=model_name),
        "Transform": _named(
            "CreateTransformJob", request, account, run_id, "transform", transform_job_name=name
        ),
    }


def _stage_uri(stage: str, run_id: str, values: Mapping[str, Any]) -> str:
    return storage.stage_uri(values["bucket"], values["prefix"], run_id, stage)


def _hyperparameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the notebooks gather from their parameters."""
    own = {name: values[name] for name in fm_hyperparameters.NAMES if name in values}
    return {**own, "predictor_type": "regressor", **values["hyperparameters"]}


def _named(
    operation: str, request: dict[str, Any], account: Account, run_id: str, word: str, **name: str
) -> dict[str, Any]:
    tags = job_requests.tags(account, run_id, word)
    return job_requests.as_api(operation, {**name, **request, "tags": tags})
