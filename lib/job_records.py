"""What a run's record says of its SageMaker jobs: names, ARNs, instances, billable seconds, an estimate of the cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lib.job_control import client, find

if TYPE_CHECKING:
    import pandas as pd

# The scraps that name jobs, by the kind of job.
SCRAPS = {
    "training": "training_job_name",
    "tuning": "tuning_job_name",
    "transform": "transform_job_name",
    "endpoint": "endpoint_name",
}


def named_in(scraps: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the jobs among a stage's scraps, by their kind."""
    return {kind: str(scraps[name]) for kind, name in SCRAPS.items() if scraps.get(name)}


def describe(scraps: Mapping[str, Any], prices: Mapping[str, float]) -> list[dict[str, Any]]:
    """Ask SageMaker for the jobs that a stage has published.

    Parameters
    ----------
    scraps : mapping
        What the stage published.
    prices : mapping of str to float
        US dollars an hour by instance type; what costs are estimated by.

    Returns
    -------
    list of dict
        ``kind``, ``name``, ``arn``, ``instance_type``, ``instance_count``, ``billable_seconds`` of one instance (None
        for an endpoint, which is billed until it is deleted) and, where the price is known, ``estimated_cost`` in US
        dollars.  A tuning job counts the seconds of all its training jobs, the best of which is not listed again.

    Raises
    ------
    ConnectionFailed
        When SageMaker does not answer, or the credentials are refused.
    """
    names = named_in(scraps)
    if "tuning" in names:
        names.pop("training", None)
    found = [job for kind, name in names.items() if (job := _DESCRIBED[kind](name))]
    for job in found:
        price = prices.get(job["instance_type"])
        if price is not None and job["billable_seconds"] is not None:
            hours = job["billable_seconds"] * job["instance_count"] / 3600
            job["estimated_cost"] = round(hours * price, 4)
    return found


def bill(prices: Mapping[str, float], **names: str) -> pd.DataFrame:
    """Return a table of jobs: what they ran on, how long, and what that may cost.

    Parameters
    ----------
    prices : mapping of str to float
        US dollars an hour by instance type.
    **names
        Names of jobs, as ``training_job_name=…``.
    """
    import pandas as pd

    table = pd.DataFrame(
        {
            "job": job["name"],
            "kind": job["kind"],
            "instances": f"{job['instance_count']} × {job['instance_type']}",
            "billable seconds": job["billable_seconds"],
            "estimated cost, USD": job.get("estimated_cost", "no price given"),
        }
        for job in describe(names, prices)
    )
    return table.set_index("job") if len(table) else table


def logged(names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the kinds and names of the jobs that have logs: of a tuning job, those that it has started."""
    found = [(kind, name) for kind, name in names.items() if kind in ("training", "transform")]
    if "tuning" in names:
        found = [pair for pair in found if pair[0] != "training"]
        found += [("training", name) for name in sorted(_trained_by(names["tuning"]))]
    return found


def _training(name: str) -> dict[str, Any] | None:
    answer = find(client().describe_training_job, TrainingJobName=name)
    if answer is None:
        return None
    seconds = answer.get("BillableTimeInSeconds", answer.get("TrainingTimeInSeconds", 0))
    return _job("training", name, answer["TrainingJobArn"], answer["ResourceConfig"], seconds)


def _tuning(name: str) -> dict[str, Any] | None:
    answer = find(client().describe_hyper_parameter_tuning_job, HyperParameterTuningJobName=name)
    if answer is None:
        return None
    jobs = [job for trained in _trained_by(name) if (job := _training(trained))]
    seconds = sum(job["billable_seconds"] for job in jobs)
    resources = answer["TrainingJobDefinition"]["ResourceConfig"]
    return _job("tuning", name, answer["HyperParameterTuningJobArn"], resources, seconds)


def _trained_by(name: str) -> Iterator[str]:
    """Yield the names of a tuning job's training jobs."""
    pages = client().get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    for page in pages.paginate(HyperParameterTuningJobName=name):
        yield from (job["TrainingJobName"] for job in page["TrainingJobSummaries"])


def _transform(name: str) -> dict[str, Any] | None:
    answer = find(client().describe_transform_job, TransformJobName=name)
    if answer is None:
        return None
    begun, ended = answer.get("TransformStartTime"), answer.get("TransformEndTime")
    seconds = round((ended - begun).total_seconds()) if begun and ended else 0
    return _job("transform", name, answer["TransformJobArn"], answer["TransformResources"], seconds)


def _endpoint(name: str) -> dict[str, Any] | None:
    answer = find(client().describe_endpoint, EndpointName=name)
    if answer is None:
        return None
    config = find(client().describe_endpoint_config, EndpointConfigName=answer["EndpointConfigName"]) or {}
    variants = config.get("ProductionVariants", [{}])
    resources = {
        "InstanceType": variants[0].get("InstanceType", ""),
        "InstanceCount": variants[0].get("InitialInstanceCount", 1),
    }
    return _job("endpoint", name, answer["EndpointArn"], resources, None)


_DESCRIBED = {"training": _training, "tuning": _tuning, "transform": _transform, "endpoint": _endpoint}


def _job(kind: str, name: str, arn: str, resources: Mapping[str, Any], seconds: int | None) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "arn": arn,
        "instance_type": resources["InstanceType"],
        "instance_count": resources["InstanceCount"],
        "billable_seconds": seconds,
    }
