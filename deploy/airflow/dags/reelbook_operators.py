"""Airflow's SageMaker operators, but a task that is tried again takes up the job of the attempt before.

The operators of the Amazon provider start a second job under another name, or fail on their own name (apache/airflow
#21941, #39502).  These look first: a job of that name that goes on or has completed is theirs; one that failed gets a
successor with a number behind its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.providers.amazon.aws.operators.sagemaker import (
    SageMakerModelOperator,
    SageMakerTrainingOperator,
    SageMakerTransformOperator,
    SageMakerTuningOperator,
)
from botocore.exceptions import ClientError

LONGEST = {"HyperParameterTuningJobName": 32}
GOES_ON = ("InProgress", "Completed")


class TakingUpHook(SageMakerHook):
    """A hook that creates what is not there yet."""

    def create_training_job(self, config: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """Create a training job, or take up the one of this name."""
        status = self._choose(config, "TrainingJobName", "TrainingJobStatus", self.describe_training_job)
        if not status:
            return super().create_training_job(config, *arguments, **options)
        if options.get("wait_for_completion", True):
            self.check_status(config["TrainingJobName"], "TrainingJobStatus", self.describe_training_job, 10)
        return _TAKEN_UP

    def create_tuning_job(self, config: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """Create a tuning job, or take up the one of this name; the operator waits for it."""
        name, status = "HyperParameterTuningJobName", "HyperParameterTuningJobStatus"
        if not self._choose(config, name, status, self.describe_tuning_job):
            return super().create_tuning_job(config, *arguments, **options)
        return _TAKEN_UP

    def create_transform_job(self, config: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """Create a transform job, or take up the one of this name."""
        status = self._choose(config, "TransformJobName", "TransformJobStatus", self.describe_transform_job)
        if not status:
            return super().create_transform_job(config, *arguments, **options)
        if options.get("wait_for_completion", True):
            self.check_status(
                config["TransformJobName"], "TransformJobStatus", self.describe_transform_job, 10
            )
        return _TAKEN_UP

    def create_model(self, config: dict[str, Any]) -> Any:
        """Create a model, or take up the one of this name: names hold a digest of what a model is made of."""
        if _described(self.describe_model, config["ModelName"]) is None:
            return super().create_model(config)
        return _TAKEN_UP

    def _choose(
        self, config: dict[str, Any], key: str, status: str, describe: Callable[[str], dict[str, Any]]
    ) -> str:
        """Put the name of the job to take up, or of the one to create, into a request; return the former's status."""
        wanted = config[key]
        for attempt in range(1, 100):
            ending = f"-{attempt}" if attempt > 1 else ""
            config[key] = wanted[: LONGEST.get(key, 63) - len(ending)] + ending
            found = _described(describe, config[key])
            if found is None:
                return ""
            if found[status] in GOES_ON:
                self.log.info("Took up %s, which is %s.", config[key], found[status])
                return str(found[status])
        raise RuntimeError(f"{wanted} has failed too often.")


_TAKEN_UP = {"ResponseMetadata": {"HTTPStatusCode": 200}}


def _described(describe: Callable[[str], dict[str, Any]], name: str) -> dict[str, Any] | None:
    try:
        return describe(name)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("ValidationException", "ResourceNotFound"):
            return None
        raise


class TrainingOperator(SageMakerTrainingOperator):
    """Train, or take up the training."""

    aws_hook_class = TakingUpHook


class TuningOperator(SageMakerTuningOperator):
    """Tune, or take up the tuning."""

    aws_hook_class = TakingUpHook


class ModelOperator(SageMakerModelOperator):
    """Make a model, unless it is there."""

    aws_hook_class = TakingUpHook


class TransformOperator(SageMakerTransformOperator):
    """Transform, or take up the transform."""

    aws_hook_class = TakingUpHook
