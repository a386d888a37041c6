"""What SageMaker is asked for: the requests of training, tuning and transform jobs, as plain dicts.

The notebooks submit them by the SDK (`lib.jobs`), whose names of members they have; ``as_api`` turns them into what
boto3 and schedulers submit, member by member as botocore's service model has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lib import settings, storage
from lib.aws import Account
from lib.errors import ParameterError
from lib.fm import extensions as fm_extensions
from lib.fm import hyperparameters as fm_hyperparameters

RECORDIO = "application/x-recordio-protobuf"
RUN_TAG = "reelbook:run"
STAGE_TAG = "reelbook:stage"

OBJECTIVE_METRIC = "test:rmse"  # the one that SageMaker tunes a regressor by

# The most that SageMaker lets an algorithm wait that writes no checkpoints, as Factorization Machines
_SPOT_WAIT_SECONDS = 3600


def training(
    account: Account,
    *,
    train_uri: str,
    test_uri: str,
    output_uri: str,
    hyperparameters: dict[str, Any],
    algorithm: str = "adam",
    extensions: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the request of a training job, but for its name and tags; the parameters are those of `lib.jobs.train`.

    Raises
    ------
    ParameterError
        For an unknown hyperparameter or resource, or a local extension for the target AWS.
    """
    limits = settings.validate(settings.TrainingResources, training, "training")
    local = settings.local_hyperparameters(algorithm, extensions, target=account.target)
    return {
        "role_arn": account.role_arn,
        "hyper_parameters": _wire(account, hyperparameters, local),
        **_training_definition(account, limits, train_uri, test_uri, output_uri),
    }


def tuning(
    account: Account,
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
) -> dict[str, Any]:
    """Return the request of a tuning job, but for its name and tags; the parameters are those of `lib.jobs.tune`.

    Raises
    ------
    ParameterError
        As `training`.
    """
    resources = settings.validate(settings.TrainingResources, training, "training")
    limits = settings.validate(settings.TuningLimits, tuning, "tuning")
    local = settings.local_hyperparameters("adam", extensions, target=account.target, tuned=ranges)
    static = {name: value for name, value in hyperparameters.items() if name not in ranges}
    definition = {
        "role_arn": account.role_arn,
        "static_hyper_parameters": _wire(account, static, local, ranges),
        **_training_definition(account, resources, train_uri, test_uri, output_uri),
    }
    return {
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
            "random_seed": seed
            + 1,  # SDK v3 leaves a member that is 0 out, and the search would be another each time
        },
        "training_job_definition": definition,
    }


def transform(
    account: Account, *, model_name: str, input_uri: str, transform: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the request of a transform job, but for name, tags and output, and the output's settings without its URI.

    Parameters
    ----------
    model_name : str
    input_uri : str
        S3 prefix of recordIO-protobuf files.
    transform : dict
        See `lib.settings.TransformResources`.

    Raises
    ------
    ParameterError
        For an unknown resource.
    """
    limits = settings.validate(settings.TransformResources, transform, "transform")
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
    return request, output


def model(account: Account, *, model_uri: str | None, image_uri: str = "") -> dict[str, Any]:
    """Return the request of a model, but for its name and tags; the parameters are those of `lib.jobs.create_model`.

    ``model_uri`` is None for a model that is not trained yet: the request then lacks it.
    """
    container = {"image": image_uri or builtin_image_uri(account)}
    if model_uri is not None:
        container["model_data_url"] = model_uri
    return {"execution_role_arn": account.role_arn, "primary_container": container, **vpc(account)}


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


def vpc(account: Account) -> dict[str, Any]:
    """Return the member of a request that places a job into the account's VPC; empty where it has none."""
    if not account.subnets:
        return {}
    return {
        "vpc_config": {
            "subnets": list(account.subnets),
            "security_group_ids": list(account.security_group_ids),
        }
    }


def tags(account: Account, run_id: str, stage: str) -> list[Any]:
    """Return the tags of what a stage of a run makes, as the SDK's resources take them."""
    # Plain dicts: the SDK's resources disagree on which of its two Tag classes they take.
    pairs = {**account.tags, RUN_TAG: run_id, STAGE_TAG: stage}
    return [{"key": key, "value": value} for key, value in pairs.items()]


def as_api(operation: str, request: dict[str, Any]) -> dict[str, Any]:
    """Turn a request with the SDK's names of members into what the API takes.

    Parameters
    ----------
    operation : str
        Of SageMaker's API, such as ``CreateTrainingJob``.
    request : dict
        Members by the SDK's names, such as ``role_arn``, or by the API's own.

    Raises
    ------
    ParameterError
        For a member that the operation does not have.
    """
    import botocore.session

    model = botocore.session.get_session().get_service_model("sagemaker")
    converted: dict[str, Any] = _converted(model.operation_model(operation).input_shape, request, operation)
    return converted


def _converted(shape: Any, value: Any, where: str) -> Any:
    if shape.type_name == "structure":
        members = {name.lower(): name for name in shape.members}
        converted = {}
        for key, inner in value.items():
            name = members.get(key.replace("_", "").lower())
            if name is None:
                raise ParameterError(f"{where} has no member {key!r}.")
            converted[name] = _converted(shape.members[name], inner, f"{where}.{name}")
        return converted
    if shape.type_name == "list":
        return [_converted(shape.member, inner, where) for inner in value]
    return value


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
            "training_image": limits.image_uri or builtin_image_uri(account),
            "training_input_mode": "File",
        },
        "input_data_config": [channel("train", train_uri), channel("test", test_uri)],
        "output_data_config": output,
        "resource_config": resources,
        "stopping_condition": stopping,
        **vpc(account),
    }
    if limits.spot:
        stopping["max_wait_time_in_seconds"] = limits.max_wait_seconds or max(
            limits.max_run_seconds, _SPOT_WAIT_SECONDS
        )
        definition["enable_managed_spot_training"] = True
        definition["checkpoint_config"] = {"s3_uri": storage.join(output_uri, "checkpoints")}
    return definition


def builtin_image_uri(account: Account) -> str:
    """Return the URI of SageMaker's own image of the algorithm in the account's region.

    Raises
    ------
    ParameterError
        Where the region has none.
    """
    from sagemaker.core import image_uris

    try:
        return str(image_uris.retrieve("factorization-machines", region=account.region))
    except ValueError as error:
        raise ParameterError(
            f"SageMaker has no Factorization Machines image for the region {account.region!r}: {error}",
            hint="Correct `account.region`, or give `training.image_uri` and `transform.image_uri`.",
        ) from error
