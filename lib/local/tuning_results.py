"""What a tuning job has come to: its training jobs' summaries, counters, the best of them.

Nothing of it is kept a second time: it is read from the training jobs when asked for.
"""

from __future__ import annotations

import math
import time
from typing import Any

from lib.local.container import MAX_FAILURE_REASON
from lib.local.job_registry import INTERRUPTED
from lib.local.store import FINISHED


def summarise(job: dict[str, Any], tuning_job: dict[str, Any]) -> dict[str, Any]:
    """Return a training job's HyperParameterTrainingJobSummary.

    Parameters
    ----------
    job, tuning_job : dict
        The descriptions of the training job and of the tuning job that started it.
    """
    objective = objective_of(tuning_job)
    value = final_value(job, objective["MetricName"])
    copied = (
        "TrainingJobName",
        "TrainingJobArn",
        "CreationTime",
        "TrainingStartTime",
        "TrainingEndTime",
        "TrainingJobStatus",
        "TunedHyperParameters",
        "FailureReason",
    )
    summary = {name: job[name] for name in copied if name in job}
    if job["TrainingJobStatus"] not in FINISHED:
        return {**summary, "ObjectiveStatus": "Pending"}
    if value is None or job["TrainingJobStatus"] == "Failed":
        return {**summary, "ObjectiveStatus": "Failed"}
    metric = {"Type": objective["Type"], "MetricName": objective["MetricName"], "Value": value}
    return {
        **summary,
        "FinalHyperParameterTuningJobObjectiveMetric": metric,
        "ObjectiveStatus": "Succeeded",
    }


def best(summaries: list[dict[str, Any]], tuning_job: dict[str, Any]) -> dict[str, Any] | None:
    """Return the summary with the best objective; None where none has one."""
    succeeded = [item for item in summaries if item["ObjectiveStatus"] == "Succeeded"]
    if not succeeded:
        return None
    sign = 1 if minimizes(tuning_job) else -1
    return min(
        succeeded, key=lambda item: sign * item["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
    )


def objective_of(tuning_job: dict[str, Any]) -> dict[str, str]:
    """Return a tuning job's HyperParameterTuningJobObjective."""
    objective: dict[str, str] = tuning_job["HyperParameterTuningJobConfig"][
        "HyperParameterTuningJobObjective"
    ]
    return objective


def minimizes(tuning_job: dict[str, Any]) -> bool:
    """Whether a tuning job's objective is better the lower it is."""
    return objective_of(tuning_job)["Type"] == "Minimize"


def final_value(job: dict[str, Any], metric: str) -> float | None:
    """Return a training job's final value of a metric; None where it has none."""
    for item in job.get("FinalMetricDataList", []):
        if item["MetricName"] == metric:
            return float(item["Value"])
    return None


def counters(jobs: list[dict[str, Any]], summaries: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the counters of a tuning job, from its training jobs and their summaries."""
    statuses = [item["TrainingJobStatus"] for item in summaries]
    objectives = [item["ObjectiveStatus"] for item in summaries]
    retried = sum(was_interrupted(job) for job in jobs)
    return {
        "TrainingJobStatusCounters": {
            "Completed": statuses.count("Completed"),
            "InProgress": statuses.count("InProgress") + statuses.count("Stopping"),
            "RetryableError": retried,
            "NonRetryableError": statuses.count("Failed") - retried,
            "Stopped": statuses.count("Stopped"),
        },
        "ObjectiveStatusCounters": {
            status: objectives.count(status) for status in ("Succeeded", "Pending", "Failed")
        },
    }


def was_interrupted(job: dict[str, Any]) -> bool:
    """Whether a training job failed because the local AWS was stopped or killed."""
    return bool(job.get("FailureReason") == INTERRUPTED)


def finish(document: dict[str, Any], status: str, reason: str | None = None) -> None:
    """Note in a tuning job's document that it has ended."""
    document["HyperParameterTuningEndTime"] = now = time.time()
    document["HyperParameterTuningJobStatus"] = status
    document["ConsumedResources"] = {"RuntimeInSeconds": max(0, math.ceil(now - document["CreationTime"]))}
    if reason is not None:
        document["FailureReason"] = reason[:MAX_FAILURE_REASON]
