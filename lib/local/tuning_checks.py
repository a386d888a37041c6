"""What a tuning job may ask for: objective, ranges, strategy, limits, warm start.

(AWS: CreateHyperParameterTuningJob, "Run a Warm Start Hyperparameter Tuning Job".)
"""

from __future__ import annotations

from typing import Any

from lib.local import algorithm
from lib.local.algorithm import refuse_unless, unsupported
from lib.local.protocol import AwsError
from lib.local.ranges import Range, parse_ranges
from lib.local.store import FINISHED, TUNING_JOB, Store
from lib.local.strategies import STRATEGIES, grid_of
from lib.local.tuning_results import objective_of

IDENTICAL = "IdenticalDataAndAlgorithm"

_SHARED_MEMBERS = (
    "AlgorithmSpecification",
    "RoleArn",
    "InputDataConfig",
    "VpcConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "StoppingCondition",
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining",
    "CheckpointConfig",
    "RetryStrategy",
    "Environment",
)
"""The members that a TrainingJobDefinition and a CreateTrainingJob request have in common."""


def check(params: dict[str, Any], store: Store) -> list[Range]:
    """Refuse a tuning job that cannot be, or that the local AWS cannot run; return what it searches.

    Raises
    ------
    AwsError
        ValidationException, or the one of a parent that is not there.
    """
    config = params["HyperParameterTuningJobConfig"]
    for member in ("TrainingJobDefinitions", "Autotune"):
        if params.get(member):
            raise unsupported(member)
    if config.get("TuningJobCompletionCriteria", {}).get("ConvergenceDetected"):
        raise unsupported("TuningJobCompletionCriteria.ConvergenceDetected")
    definition = params.get("TrainingJobDefinition")
    if not definition:
        raise AwsError("ValidationException", "TrainingJobDefinition is missing.")
    _check_objective(config.get("HyperParameterTuningJobObjective"), definition)
    ranges = parse_ranges(config.get("ParameterRanges", {}))
    _check_strategy(config, ranges, definition)
    static = list(definition.get("StaticHyperParameters", {}))
    tuned = [item.name for item in ranges]
    for name in tuned:
        if name in static:
            raise AwsError("ValidationException", f"The hyperparameter {name} is both static and tuned.")
    image = definition["AlgorithmSpecification"].get("TrainingImage")
    algorithm.check_image(image, "AlgorithmSpecification.TrainingImage")
    algorithm.check_search(tuned, static, image)
    _check_parents(params, store)
    return ranges


def hyperband_epochs(config: dict[str, Any], definition: dict[str, Any]) -> tuple[int, int]:
    """Return the least epochs of a training job under Hyperband, and those of a whole one."""
    limits = config.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {})
    epochs = int(definition.get("StaticHyperParameters", {}).get("epochs", 1))
    highest = min(limits.get("MaxResource", epochs), epochs)
    return limits.get("MinResource", 1), highest


def _check_strategy(config: dict[str, Any], ranges: list[Range], definition: dict[str, Any]) -> None:
    strategy, limits = config["Strategy"], config["ResourceLimits"]
    refuse_unless(strategy, STRATEGIES, "the strategy")
    most = limits.get("MaxNumberOfTrainingJobs")
    if strategy == "Grid":
        size = grid_of(ranges).size
        if most is not None and most != size:
            raise AwsError(
                "ValidationException",
                f"MaxNumberOfTrainingJobs is {most}, but the grid has {size} combinations. Leave it out.",
            )
    elif most is None:
        raise AwsError("ValidationException", "ResourceLimits.MaxNumberOfTrainingJobs is missing.")
    if strategy == "Hyperband":
        if config.get("TrainingJobEarlyStoppingType", "Off") != "Off":
            text = "TrainingJobEarlyStoppingType must be Off for the strategy Hyperband, which stops jobs itself."
            raise AwsError("ValidationException", text)
        if any(item.name == "epochs" for item in ranges):
            text = "The strategy Hyperband decides on the epochs itself: epochs cannot be tuned."
            raise AwsError("ValidationException", text)
        lowest, highest = hyperband_epochs(config, definition)
        if not lowest <= highest:
            text = f"MinResource is {lowest}, which is above the {highest} epochs of a training job."
            raise AwsError("ValidationException", text)


def _check_parents(params: dict[str, Any], store: Store) -> None:
    warm = params.get("WarmStartConfig")
    if not warm:
        return
    config, definition = params["HyperParameterTuningJobConfig"], params["TrainingJobDefinition"]
    for parent in warm["ParentHyperParameterTuningJobs"]:
        name = parent.get("HyperParameterTuningJobName", "")
        document = store.get(TUNING_JOB, name)
        status = document["HyperParameterTuningJobStatus"]
        if status not in FINISHED:
            text = f"The parent tuning job {name} is in status {status}; it must be Completed, Stopped or Failed."
            raise AwsError("ValidationException", text)
        if objective_of(document) != config["HyperParameterTuningJobObjective"]:
            text = f"The parent tuning job {name} has another objective metric."
            raise AwsError("ValidationException", text)
        theirs = document["TrainingJobDefinition"]
        same = all(
            theirs.get(member) == definition.get(member) for member in ("InputDataConfig",)
        ) and theirs["AlgorithmSpecification"].get("TrainingImage") == definition[
            "AlgorithmSpecification"
        ].get("TrainingImage")
        if warm["WarmStartType"] == IDENTICAL and not same:
            text = f"The warm start type {IDENTICAL} needs the data and the image of the parent tuning job {name}."
            raise AwsError("ValidationException", text)


def _check_objective(objective: dict[str, str] | None, definition: dict[str, Any]) -> None:
    if not objective:
        raise AwsError("ValidationException", "HyperParameterTuningJobObjective is missing.")
    metric, direction = objective["MetricName"], objective["Type"]
    image = definition["AlgorithmSpecification"].get("TrainingImage")
    if metric not in algorithm.OBJECTIVES:
        raise AwsError(
            "ValidationException",
            f"The objective metric for the hyperparameter tuning job, [{metric}], isn't valid for the "
            f"[{image}] algorithm. Choose a valid objective metric: {', '.join(algorithm.OBJECTIVES)}.",
        )
    if direction != algorithm.OBJECTIVES[metric]:
        raise AwsError(
            "ValidationException",
            f"The objective metric type, [{direction}], that you specified for objective metric, [{metric}], "
            f"isn't valid for the [{image}] algorithm. Choose a valid objective metric type.",
        )


def training_params(definition: dict[str, Any]) -> dict[str, Any]:
    """Return the CreateTrainingJob members that a TrainingJobDefinition gives."""
    params = {name: definition[name] for name in _SHARED_MEMBERS if name in definition}
    resources = definition.get("HyperParameterTuningResourceConfig")
    if resources:
        if resources.get("InstanceConfigs"):
            raise unsupported("HyperParameterTuningResourceConfig.InstanceConfigs")
        params["ResourceConfig"] = {
            name: value for name, value in resources.items() if name != "AllocationStrategy"
        }
    return params
