"""Train, tune and transform by SageMaker.  `lib.job_requests` says what is asked, `lib.job_control` submits and waits.

Everything goes through the SDK's ``sagemaker.core`` resources, the same on AWS and on the local AWS.
The SDK takes seconds to import, so it is imported inside the functions that submit; ``preload`` pays for
it ahead of time.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lib import job_control, job_requests, settings, storage
from lib.aws import Account
from lib.errors import DataError, JobFailed
from lib.fm import hyperparameters as fm_hyperparameters


@dataclass(frozen=True)
class TrainingResult:
    """A finished training job.

    Attributes
    ----------
    job_name, model_uri : str
        The job's name and the S3 URI of its ``model.tar.gz``.
    metrics : dict of str to float
        The job's final metrics, such as ``test:rmse``.
    seconds, billable_seconds : int
        Training time and billable time as SageMaker reports them.
    """

    job_name: str
    model_uri: str
    metrics: dict[str, float]
    seconds: int
    billable_seconds: int


@dataclass(frozen=True)
class TuningResult:
    """A finished tuning job: all its training jobs and the best of them."""

    job_name: str
    objective_metric: str
    jobs: pd.DataFrame
    best: TrainingResult
    best_hyperparameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TransformResult:
    """A finished batch transform job: the S3 prefix of its ``.out`` objects."""

    job_name: str
    model_name: str
    predictions_uri: str


def preload() -> None:
    """Import the SageMaker SDK now, so that the first submission need not."""
    from sagemaker.core import image_uris, resources, shapes  # noqa: F401


def train(
    account: Account,
    run_id: str,
    *,
    train_uri: str,
    test_uri: str,
    output_uri: str,
    hyperparameters: dict[str, Any],
    algorithm: str = "adam",
    extensions: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    stop_on_interrupt: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Train a Factorization Machines model by a SageMaker training job and wait for it.

    Parameters
    ----------
    account : Account
        From ``lib.aws.connect``.
    run_id : str
        The run the job belongs to; part of its name and its tag.
    train_uri, test_uri : str
        S3 URIs (objects or prefixes) of recordIO-protobuf files: the channels ``train`` and ``test``.
    output_uri : str
        S3 prefix under which the job leaves ``JOB/output/model.tar.gz``.
    hyperparameters : dict
        By SageMaker's names, values of any plain type.
    algorithm : str
        ``adam``, as SageMaker trains, or ``bayesian``, on the local AWS only.
    extensions : dict
        See `lib.settings.ExtensionSettings`; on the local AWS only.
    training : dict
        See `lib.settings.TrainingResources`.
    stop_on_interrupt : bool
        Stop the job when the waiting for it is interrupted; otherwise it goes on, and is taken up by a retry.

    Raises
    ------
    ParameterError
        For an unknown hyperparameter or resource, or a local extension for the target AWS.
    JobFailed
        When the job fails or is stopped; the job's last log lines are printed.
    """
    from sagemaker.core.resources import TrainingJob

    request = job_requests.training(
        account,
        train_uri=train_uri,
        test_uri=test_uri,
        output_uri=output_uri,
        hyperparameters=hyperparameters,
        algorithm=algorithm,
        extensions=extensions,
        training=training,
    )
    identity = job_control.identity(request, train_uri, test_uri)

    def create(name: str) -> None:
        TrainingJob.create(
            training_job_name=name, tags=job_requests.tags(account, run_id, "train"), **_shapes(request)
        )

    name = job_control.submit("training", run_id, "train", identity, create)
    rounds = fm_hyperparameters.validate(request["hyper_parameters"]).rounds
    with job_control.epochs_shown(name, rounds, progress) as show:
        answer = job_control.wait("training", name, show, stop_on_interrupt=stop_on_interrupt)
    return _training_result(answer)


def tune(
    account: Account,
    run_id: str,
    *,
    train_uri: str,
    test_uri: str,
    output_uri: str,
    hyperparameters: dict[str, Any],
    ranges: dict[str, list[Any]],
    extensions: dict[str, Any] | None = None,
    tuning: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    seed: int = 0,
    stop_on_interrupt: bool = False,
    progress: bool = True,
) -> TuningResult:
    """Search hyperparameters by a SageMaker tuning job and wait for it.

    Parameters
    ----------
    ranges : dict of str to list
        ``[low, high]`` by name, searched on a logarithmic scale where ``low`` is above 0.
    extensions : dict
        As of `train`: of each training job of the search.
    tuning : dict
        See `lib.settings.TuningLimits`.
    seed : int
        Of the search, the same one for the same seed; RandomSeed is one more, since SDK v3 does not send 0.

    The other parameters are those of `train`.

    Raises
    ------
    ParameterError, JobFailed
        As `train`.
    """
    from sagemaker.core.resources import HyperParameterTuningJob

    limits = settings.validate(settings.TuningLimits, tuning, "tuning")
    request = job_requests.tuning(
        account,
        train_uri=train_uri,
        test_uri=test_uri,
        output_uri=output_uri,
        hyperparameters=hyperparameters,
        ranges=ranges,
        extensions=extensions,
        tuning=tuning,
        training=training,
        seed=seed,
    )
    identity = job_control.identity(request, train_uri, test_uri)

    def create(name: str) -> None:
        HyperParameterTuningJob.create(
            hyper_parameter_tuning_job_name=name,
            tags=job_requests.tags(account, run_id, "tune"),
            **_shapes(request),
        )

    name = job_control.submit("tuning", run_id, "tune", identity, create)
    with job_control.jobs_shown(limits.max_jobs, progress) as show:
        answer = job_control.wait("tuning", name, show, stop_on_interrupt=stop_on_interrupt)
    best = answer.get("BestTrainingJob")
    if not best:
        raise JobFailed(
            f"Tuning job {name} finished without one successful training job.",
            job=name,
            hint="Look at the log of one of its training jobs and narrow the ranges.",
        )
    described = job_control.client().describe_training_job(TrainingJobName=best["TrainingJobName"])
    return TuningResult(
        name,
        job_requests.OBJECTIVE_METRIC,
        _tuning_jobs(name),
        _training_result(described),
        best["TunedHyperParameters"],
    )


def transform(
    account: Account,
    run_id: str,
    *,
    model_uri: str,
    input_uri: str,
    output_uri: str,
    transform: dict[str, Any] | None = None,
    stop_on_interrupt: bool = False,
    progress: bool = True,
) -> TransformResult:
    """Apply a model to every object under ``input_uri`` by a SageMaker batch transform job.

    Creates the model ``RUN-model-DIGEST`` if it is not there yet.  Each input object ``KEY`` becomes
    ``KEY.out`` under ``output_uri/JOB``: JSON lines, one ``{"score": …}`` a record, in the input's order.

    Raises
    ------
    JobFailed
        When the job fails or is stopped.
    """
    from sagemaker.core.resources import TransformJob

    limits = settings.validate(settings.TransformResources, transform, "transform")
    model_name = create_model(account, run_id, "transform", model_uri=model_uri, image_uri=limits.image_uri)
    request, output = job_requests.transform(
        account, model_name=model_name, input_uri=input_uri, transform=transform
    )
    identity = job_control.identity(request, input_uri, model_uri, output=[output_uri, output])

    def create(name: str) -> None:
        to = {**output, "s3_output_path": storage.join(output_uri, name)}
        TransformJob.create(
            transform_job_name=name,
            tags=job_requests.tags(account, run_id, "transform"),
            **_shapes({**request, "transform_output": to}),
        )

    name = job_control.submit("transform", run_id, "transform", identity, create)
    parts = sum(not item.key.endswith("/") for item in storage.list_objects(input_uri))
    predictions_uri = storage.join(output_uri, name)
    with job_control.objects_shown(predictions_uri, parts, progress) as show:
        job_control.wait("transform", name, show, stop_on_interrupt=stop_on_interrupt)
    return TransformResult(name, model_name, predictions_uri)


def create_model(account: Account, run_id: str, stage: str, *, model_uri: str, image_uri: str = "") -> str:
    """Make an artifact a model of SageMaker's, unless it is one, and return its name ``RUN-model-DIGEST``.

    Parameters
    ----------
    stage : str
        Its tag.
    model_uri : str
        The S3 URI of ``model.tar.gz``.
    image_uri : str
        The algorithm's image; by default SageMaker's own of the region.

    Raises
    ------
    JobFailed
        When SageMaker refuses it.
    """
    from sagemaker.core.resources import Model

    request = job_requests.model(account, model_uri=model_uri, image_uri=image_uri)
    name = job_control.job_name(run_id, "model", request)
    if not job_control.find(job_control.client().describe_model, ModelName=name):
        with job_control.refusals_explained("model", name):
            Model.create(model_name=name, tags=job_requests.tags(account, run_id, stage), **_shapes(request))
    return name


def read_predictions(predictions_uri: str) -> np.ndarray:
    """Read a transform job's scores, part after part, in the order of the input's rows.

    Returns
    -------
    ndarray, float64, shape (n,)

    Raises
    ------
    DataError
        If there is no ``.out`` object, or one is not JSON lines with a ``score`` each.
    """
    parts = [item for item in storage.list_objects(predictions_uri) if item.key.endswith(".out")]
    if not parts:
        raise DataError(
            f"There are no predictions under {predictions_uri}.", hint="Run the transform stage again."
        )
    scores = []
    for part in parts:
        try:
            rows = pd.read_json(io.BytesIO(storage.read_bytes(part.uri)), lines=True, precise_float=True)
            if rows["score"].isna().any():
                raise ValueError("a line has no score")
            scores.append(rows["score"].to_numpy(dtype=np.float64))
        except (ValueError, KeyError) as error:
            raise DataError(
                f"{part.uri} is not JSON lines with a score each: {error}.",
                hint="Run the transform stage again.",
            ) from error
    return np.concatenate(scores)


# ---- what the functions above share


_SHAPE_OF = {
    "algorithm_specification": "AlgorithmSpecification",
    "input_data_config": "Channel",
    "output_data_config": "OutputDataConfig",
    "resource_config": "ResourceConfig",
    "stopping_condition": "StoppingCondition",
    "checkpoint_config": "CheckpointConfig",
    "vpc_config": "VpcConfig",
    "hyper_parameter_tuning_job_config": "HyperParameterTuningJobConfig",
    "training_job_definition": "HyperParameterTrainingJobDefinition",
    "primary_container": "ContainerDefinition",
    "transform_input": "TransformInput",
    "transform_output": "TransformOutput",
    "transform_resources": "TransformResources",
}


def _shape(shape: str, value: dict[str, Any]) -> Any:
    from sagemaker.core import shapes

    if shape == "HyperParameterTrainingJobDefinition":
        spec = value["algorithm_specification"]
        value = {**value, "algorithm_specification": _shape("HyperParameterAlgorithmSpecification", spec)}
    return getattr(shapes, shape)(**value)


def _shapes(request: dict[str, Any]) -> dict[str, Any]:
    """Turn a request of plain dicts into the SDK's pydantic shapes, member by member."""

    def convert(name: str, value: Any) -> Any:
        if name not in _SHAPE_OF:
            return value
        if isinstance(value, list):
            return [_shape(_SHAPE_OF[name], item) for item in value]
        return _shape(_SHAPE_OF[name], value)

    return {name: convert(name, value) for name, value in request.items()}


def _training_result(answer: dict[str, Any]) -> TrainingResult:
    metrics = {item["MetricName"]: float(item["Value"]) for item in answer.get("FinalMetricDataList", [])}
    return TrainingResult(
        answer["TrainingJobName"],
        answer["ModelArtifacts"]["S3ModelArtifacts"],
        metrics,
        int(answer.get("TrainingTimeInSeconds", 0)),
        int(answer.get("BillableTimeInSeconds", 0)),
    )


def _tuning_jobs(name: str) -> pd.DataFrame:
    """Return one row a training job: its tuned hyperparameters, objective, status, seconds."""
    pages = (
        job_control.client()
        .get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
        .paginate(HyperParameterTuningJobName=name)
    )
    rows = []
    for page in pages:
        for job in page["TrainingJobSummaries"]:
            objective = job.get("FinalHyperParameterTuningJobObjectiveMetric", {})
            ended, began = job.get("TrainingEndTime"), job.get("TrainingStartTime")
            rows.append(
                {
                    "training_job_name": job["TrainingJobName"],
                    **{key: _number(value) for key, value in job.get("TunedHyperParameters", {}).items()},
                    job_requests.OBJECTIVE_METRIC: objective.get("Value"),
                    "status": job["TrainingJobStatus"],
                    "seconds": (ended - began).total_seconds() if ended and began else None,
                }
            )
    return pd.DataFrame(rows).sort_values("training_job_name", ignore_index=True)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
