"""What SageMaker is asked to do: train, tune, transform.  `lib.job_control` submits and waits.

Everything goes through the SDK's ``sagemaker.core`` resources, the same on AWS and on the local AWS.
The SDK takes seconds to import, so it is imported inside the functions that submit; ``preload`` pays for
it ahead of time.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lib import job_control, settings, storage
from lib.aws import Account
from lib.errors import DataError, JobFailed, ParameterError
from lib.fm import extensions as fm_extensions
from lib.fm import hyperparameters as fm_hyperparameters

RECORDIO = "application/x-recordio-protobuf"
RUN_TAG = "reelbook:run"
STAGE_TAG = "reelbook:stage"

OBJECTIVE_METRIC = "test:rmse"  # the one that SageMaker tunes a regressor by

# The most that SageMaker lets an algorithm wait that writes no checkpoints, as Factorization Machines
_SPOT_WAIT_SECONDS = 3600


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

    limits = settings.validate(settings.TrainingResources, training, "training")
    local = settings.local_hyperparameters(algorithm, extensions, target=account.target)
    wire = _wire(account, hyperparameters, local)
    request = {
        "role_arn": account.role_arn,
        "hyper_parameters": wire,
        **_training_definition(account, limits, train_uri, test_uri, output_uri),
    }
    identity = {"request": request, "inputs": _etags(train_uri, test_uri)}

    def create(name: str) -> None:
        TrainingJob.create(training_job_name=name, tags=tags(account, run_id, "train"), **_shapes(request))

    name = job_control.submit("training", run_id, "train", identity, create, length=63)
    rounds = fm_hyperparameters.validate(wire).rounds
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
        RandomSeed of the search.

    The other parameters are those of `train`.

    Raises
    ------
    ParameterError, JobFailed
        As `train`.
    """
    from sagemaker.core.resources import HyperParameterTuningJob

    resources = settings.validate(settings.TrainingResources, training, "training")
    limits = settings.validate(settings.TuningLimits, tuning, "tuning")
    local = settings.local_hyperparameters("adam", extensions, target=account.target, tuned=ranges)
    static = {name: value for name, value in hyperparameters.items() if name not in ranges}
    definition = {
        "role_arn": account.role_arn,
        "static_hyper_parameters": _wire(account, static, local, ranges),
        **_training_definition(account, resources, train_uri, test_uri, output_uri),
    }
    request = {
        "hyper_parameter_tuning_job_config": {
            "strategy": limits.strategy,
            "hyper_parameter_tuning_job_objective": {
                "type": "Minimize",
                "metric_name": OBJECTIVE_METRIC,
            },
            "resource_limits": {
                "max_number_of_training_jobs": limits.max_jobs,
                "max_parallel_training_jobs": min(limits.max_parallel_jobs, limits.max_jobs),
            },
            "parameter_ranges": parameter_ranges(ranges),
            "random_seed": seed,
        },
        "training_job_definition": definition,
    }
    identity = {"request": request, "inputs": _etags(train_uri, test_uri)}

    def create(name: str) -> None:
        HyperParameterTuningJob.create(
            hyper_parameter_tuning_job_name=name, tags=tags(account, run_id, "tune"), **_shapes(request)
        )

    name = job_control.submit("tuning", run_id, "tune", identity, create, length=32)
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
        OBJECTIVE_METRIC,
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
    resources = {"instance_type": limits.instance_type, "instance_count": limits.instance_count}
    output = {"accept": "application/jsonlines", "assemble_with": "Line"}
    if account.kms_key:
        resources["volume_kms_key_id"] = account.kms_key
        output["kms_key_id"] = account.kms_key
    request: dict[str, Any] = {
        "model_name": model_name,
        "transform_input": {
            "data_source": {"s3_data_source": {"s3_data_type": "S3Prefix", "s3_uri": input_uri}},
            "content_type": RECORDIO,
            "split_type": "RecordIO",
            "compression_type": "None",
        },
        "transform_resources": resources,
        "batch_strategy": "MultiRecord",
        "max_payload_in_mb": limits.max_payload_mb,
        "max_concurrent_transforms": limits.max_concurrent,
    }
    identity = {"request": request, "output": [output_uri, output], "inputs": _etags(input_uri, model_uri)}

    def create(name: str) -> None:
        to = {"transform_output": {**output, "s3_output_path": storage.join(output_uri, name)}}
        TransformJob.create(
            transform_job_name=name, tags=tags(account, run_id, "transform"), **_shapes({**request, **to})
        )

    name = job_control.submit("transform", run_id, "transform", identity, create, length=63)
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

    image = image_uri or _image_uri(account)
    made_of = {"model_uri": model_uri, "image": image, "role": account.role_arn, **_vpc(account)}
    name = job_control.job_name(run_id, "model", made_of, 63)
    if not job_control.find(job_control.client().describe_model, ModelName=name):
        container = _shape("ContainerDefinition", {"image": image, "model_data_url": model_uri})
        with job_control.refusals_explained("model", name):
            Model.create(
                model_name=name,
                execution_role_arn=account.role_arn,
                primary_container=container,
                tags=tags(account, run_id, stage),
                **_shapes(_vpc(account)),
            )
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


def parameter_ranges(ranges: dict[str, list[Any]]) -> dict[str, list[dict[str, Any]]]:
    """Turn ``{name: [low, high]}`` into SageMaker's ParameterRanges.

    Raises
    ------
    ParameterError
        For a name FM does not tune, or a range that is none.
    """
    continuous: list[dict[str, Any]] = []
    integer: list[dict[str, Any]] = []
    for name, values in ranges.items():
        settings.check_range(name, values)
        scaling = "Logarithmic" if values[0] > 0 else "Linear"
        low, high = (f"{value:.10g}" for value in values)
        bounds = {"name": name, "min_value": low, "max_value": high, "scaling_type": scaling}
        is_integer = fm_hyperparameters.tunable_kind(name) == "integer"
        (integer if is_integer else continuous).append(bounds)
    answer = {"continuous_parameter_ranges": continuous, "integer_parameter_ranges": integer}
    return {name: found for name, found in answer.items() if found}


# ---- what the functions above share


def _wire(
    account: Account, hyperparameters: dict[str, Any], local: dict[str, str], tuned: Iterable[str] = ()
) -> dict[str, str]:
    """Return the hyperparameters as on the wire, unless they hold a local extension and the target is AWS."""
    wire = fm_hyperparameters.to_wire({**hyperparameters, **local}, tuned=tuned)
    if account.target == "aws":
        given = {name: value for name, value in wire.items() if name in fm_extensions.NAMES}
        fm_extensions.refuse_on_aws(fm_extensions.read(given), lambda name: fm_extensions.PREFIX + name)
    return wire


def _image_uri(account: Account) -> str:
    from sagemaker.core import image_uris

    try:
        return str(image_uris.retrieve("factorization-machines", region=account.region))
    except ValueError as error:
        raise ParameterError(
            f"SageMaker has no Factorization Machines image for the region {account.region!r}: {error}",
            hint="Correct `account.region`, or give `training.image_uri` and `transform.image_uri`.",
        ) from error


def _training_definition(
    account: Account, limits: settings.TrainingResources, train_uri: str, test_uri: str, output_uri: str
) -> dict[str, Any]:
    """Return the members that CreateTrainingJob and a tuning job's TrainingJobDefinition share."""

    def channel(name: str, uri: str) -> dict[str, Any]:
        source = {"s3_data_type": "S3Prefix", "s3_uri": uri, "s3_data_distribution_type": "FullyReplicated"}
        return {"channel_name": name, "data_source": {"s3_data_source": source}, "content_type": RECORDIO}

    output = {"s3_output_path": output_uri}
    resources: dict[str, Any] = {
        "instance_type": limits.instance_type,
        "instance_count": limits.instance_count,
        "volume_size_in_gb": limits.volume_gb,
    }
    if account.kms_key:
        output["kms_key_id"] = account.kms_key
        resources["volume_kms_key_id"] = account.kms_key
    stopping = {"max_runtime_in_seconds": limits.max_run_seconds}
    definition: dict[str, Any] = {
        "algorithm_specification": {
            "training_image": limits.image_uri or _image_uri(account),
            "training_input_mode": "File",
        },
        "input_data_config": [channel("train", train_uri), channel("test", test_uri)],
        "output_data_config": output,
        "resource_config": resources,
        "stopping_condition": stopping,
        **_vpc(account),
    }
    if limits.spot:
        stopping["max_wait_time_in_seconds"] = limits.max_wait_seconds or max(
            limits.max_run_seconds, _SPOT_WAIT_SECONDS
        )
        definition["enable_managed_spot_training"] = True
        definition["checkpoint_config"] = {"s3_uri": storage.join(output_uri, "checkpoints")}
    return definition


def _vpc(account: Account) -> dict[str, Any]:
    if not account.subnets:
        return {}
    return {
        "vpc_config": {
            "subnets": list(account.subnets),
            "security_group_ids": list(account.security_group_ids),
        }
    }


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


def tags(account: Account, run_id: str, stage: str) -> list[Any]:
    """Return the tags of what a stage of a run makes, as the SDK's resources take them."""
    # Plain dicts: the SDK's resources disagree on which of its two Tag classes they take.
    pairs = {**account.tags, RUN_TAG: run_id, STAGE_TAG: stage}
    return [{"key": key, "value": value} for key, value in pairs.items()]


def _etags(*uris: str) -> dict[str, str]:
    return {item.uri: item.etag for uri in uris for item in storage.list_objects(uri)}


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
                    OBJECTIVE_METRIC: objective.get("Value"),
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
