"""Service quotas: how many instances jobs and endpoints may use at once, as an AWS account limits them.

There are none unless the environment variable ``REELBOOK_LOCAL_INSTANCES`` says so: ``training=4,endpoint=2``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from lib.errors import ParameterError
from lib.local.protocol import AwsError
from lib.local.store import ENDPOINT, ENDPOINT_CONFIG, TRAINING_JOB, TRANSFORM_JOB, Page, Store

VARIABLE = "REELBOOK_LOCAL_INSTANCES"
USAGES = ("training", "transform", "endpoint")

Operation = Callable[[dict[str, Any]], dict[str, Any]]


def from_environment() -> dict[str, int]:
    """Return the most instances at once by usage; usages without a quota are left out.

    Raises
    ------
    ParameterError
        When the variable says something else.
    """
    limits = {}
    for part in filter(None, os.environ.get(VARIABLE, "").split(",")):
        usage, _, number = part.strip().partition("=")
        if usage not in USAGES or not number.isdecimal():
            raise ParameterError(
                f"The environment variable {VARIABLE} has {part.strip()!r}, but should be like "
                "training=4,transform=2,endpoint=8."
            )
        limits[usage] = int(number)
    return limits


class Quotas:
    """The quotas of one local SageMaker.

    Parameters
    ----------
    store : Store
        Tells what is in use.
    limits : dict of str to int
        The most instances at once by usage: ``training``, ``transform``, ``endpoint``.
    """

    def __init__(self, store: Store, limits: dict[str, int]) -> None:
        self._store = store
        self._limits = limits
        self._lock = threading.Lock()

    def guard(self, usage: str, create: Operation) -> Operation:
        """Return an operation that is refused where it would exceed the quota of a usage.

        It raises ResourceLimitExceeded in AWS's words.
        """
        if usage not in self._limits:
            return create

        def guarded(params: dict[str, Any]) -> dict[str, Any]:
            with self._lock:  # of two at once, the second sees the first
                self._check(usage, params)
                return create(params)

        return guarded

    def _check(self, usage: str, params: dict[str, Any]) -> None:
        limit, used, wanted = self._limits[usage], self._used(usage), self._wanted(usage, params)
        if used + wanted > limit:
            raise AwsError(
                "ResourceLimitExceeded",
                f"The account-level service limit 'Number of instances for {usage} usage' is {limit} Instances, "
                f"with current utilization of {used} Instances and a request delta of {wanted} Instances. "
                f"Please raise it in {VARIABLE} and restart the local AWS, or wait until there is room.",
            )

    def _used(self, usage: str) -> int:
        if usage == "endpoint":
            endpoints, _ = self._store.select(ENDPOINT, Page())
            variants = [item for one in endpoints for item in one.get("Wanted") or one.get("Serving", [])]
            return sum(int(item["Count"]) for item in variants)
        kind = TRAINING_JOB if usage == "training" else TRANSFORM_JOB
        jobs = [self._store.get(kind, name) for name in self._store.unfinished(kind)]
        return sum(_instances(job) for job in jobs)

    def _wanted(self, usage: str, params: dict[str, Any]) -> int:
        if usage != "endpoint":
            return _instances(params)
        config = self._store.get(ENDPOINT_CONFIG, params["EndpointConfigName"])
        return sum(int(variant["InitialInstanceCount"]) for variant in config["ProductionVariants"])


def _instances(job: dict[str, Any]) -> int:
    resources = job.get("TransformResources") or job.get("ResourceConfig", {})
    return int(resources.get("InstanceCount", 1))
