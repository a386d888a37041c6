"""The deletion of jobs that have ended: DeleteTrainingJob and DeleteHyperParameterTuningJob.

What they have made stays: artifacts, logs and metrics, and a tuning job's training jobs.
"""

from __future__ import annotations

from typing import Any

from lib.local.protocol import AwsError
from lib.local.store import FINISHED, TRAINING_JOB, TUNING_JOB, Store


def delete_training_job(store: Store, params: dict[str, Any]) -> None:
    """Delete a training job's description; its name may be used again.

    Raises
    ------
    AwsError
        ResourceInUse while it, or the tuning job that started it, has not ended; ResourceNotFound when
        there is none of that name.
    """

    def check(document: dict[str, Any]) -> None:
        status = document["TrainingJobStatus"]
        if status not in FINISHED:
            raise AwsError(
                "ResourceInUse", f"The request was rejected because the training job is in status {status}."
            )
        name = document.get("TuningJobArn", "").rpartition("/")[2]
        if name in store.unfinished(TUNING_JOB):
            raise AwsError(
                "ResourceInUse",
                f"The request was rejected because the training job belongs to the tuning job {name}, "
                "which has not ended.",
            )

    try:
        store.delete(TRAINING_JOB, params["TrainingJobName"], check)
    except AwsError as error:
        if error.code != TRAINING_JOB.missing[0]:
            raise
        raise AwsError("ResourceNotFound", error.message) from None


def delete_tuning_job(store: Store, params: dict[str, Any]) -> None:
    """Delete a tuning job's description.

    Raises
    ------
    AwsError
        ValidationException while it has not ended, ResourceNotFound when there is none of that name.
    """

    def check(document: dict[str, Any]) -> None:
        status = document["HyperParameterTuningJobStatus"]
        if status not in FINISHED:
            raise AwsError(
                "ValidationException",
                f"The request was rejected because the hyperparameter tuning job is in status {status}.",
            )

    store.delete(TUNING_JOB, params["HyperParameterTuningJobName"], check)
