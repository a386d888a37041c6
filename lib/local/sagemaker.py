"""The operations of the local SageMaker: what each answers, and which part of the server does it.

Requests come validated against botocore's service model and answers are projected on it
(`lib.local.protocol`), so documents are kept and returned whole.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lib.local import algorithm, inputs
from lib.local.algorithm import refuse_unless, unsupported
from lib.local.deletion import delete_training_job, delete_tuning_job
from lib.local.endpoints import Endpoints
from lib.local.jobs import TrainingJobs
from lib.local.logs import Logs
from lib.local.metrics import Metrics
from lib.local.objects import Objects
from lib.local.processing_jobs import ProcessingJobs
from lib.local.protocol import AwsError
from lib.local.quotas import Quotas
from lib.local.quotas import from_environment as quotas_from_environment
from lib.local.search import Search
from lib.local.serving import container_of, model_data_uri
from lib.local.store import (
    ENDPOINT,
    ENDPOINT_CONFIG,
    MODEL,
    PROCESSING_JOB,
    TRAINING_JOB,
    TRANSFORM_JOB,
    TUNING_JOB,
    Kind,
    Page,
    Store,
)
from lib.local.supervise import STOP_GRACE_SECONDS, JobQueue, end_leftovers
from lib.local.transform import TransformJobs
from lib.local.tuning import TuningJobs

JOBS_VARIABLE = "REELBOOK_LOCAL_JOBS"
"""The environment variable that says how many jobs run at once."""

_DEFAULT_JOBS = 2
_DEFAULT_PAGE = 10
_CLOSE_SECONDS = 10.0


@dataclass(frozen=True)
class _Listing:
    """A List operation: what it lists, the answer's member, and AWS's default order."""

    kind: Kind
    member: str
    sort_by: str
    descending: bool


_LISTINGS = {
    "ListTrainingJobs": _Listing(TRAINING_JOB, "TrainingJobSummaries", "CreationTime", False),
    "ListTransformJobs": _Listing(TRANSFORM_JOB, "TransformJobSummaries", "CreationTime", True),
    "ListHyperParameterTuningJobs": _Listing(TUNING_JOB, "HyperParameterTuningJobSummaries", "Name", False),
    "ListProcessingJobs": _Listing(PROCESSING_JOB, "ProcessingJobSummaries", "CreationTime", True),
    "ListModels": _Listing(MODEL, "Models", "CreationTime", True),
    "ListEndpoints": _Listing(ENDPOINT, "Endpoints", "CreationTime", True),
    "ListEndpointConfigs": _Listing(ENDPOINT_CONFIG, "EndpointConfigs", "CreationTime", True),
}


class SageMaker:
    """The local SageMaker.

    Attributes
    ----------
    endpoints : Endpoints
        What its Runtime passes requests on to.

    Parameters
    ----------
    root : Path
        The folder of the local AWS's state.
    objects : Objects
        Its S3.
    logs : Logs
        Its CloudWatch Logs.
    metrics : Metrics
        Its CloudWatch, which gets the metrics of training jobs.
    max_jobs : int, optional
        How many training and transform jobs run at once; ``REELBOOK_LOCAL_JOBS``, or 2.
    grace : float
        Seconds between SIGTERM and SIGKILL when a training job is stopped.

    Raises
    ------
    ReelbookError
        When the state file cannot be read.
    """

    def __init__(
        self,
        root: Path,
        objects: Objects,
        logs: Logs,
        metrics: Metrics,
        *,
        max_jobs: int | None = None,
        grace: float = STOP_GRACE_SECONDS,
    ) -> None:
        limits = quotas_from_environment()
        jobs_folder = Path(root) / "jobs"
        jobs_folder.mkdir(parents=True, exist_ok=True)
        self._jobs_folder = jobs_folder
        self._objects = objects
        self._store = Store(Path(root) / "sagemaker.sqlite")
        self._queue = JobQueue(max_jobs or _jobs_from_environment())
        self._training = TrainingJobs(jobs_folder, self._store, objects, logs, self._queue, grace)
        self._training.reporters.append(metrics.report)
        self._transform = TransformJobs(jobs_folder, self._store, objects, logs, self._queue)
        self._runs = JobQueue(self._queue.limit)  # of their own: they wait for jobs of the other queue
        self._processing = ProcessingJobs(
            Path(root), jobs_folder, self._store, objects, logs, self._runs, grace
        )
        self._tuning = TuningJobs(self._store, self._training)
        self.endpoints = Endpoints(jobs_folder, self._store, objects, logs)
        quotas = Quotas(self._store, limits)
        search = Search(self._store, {TUNING_JOB: self._tuning.with_results})
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
            "CreateTrainingJob": quotas.guard("training", self._training.create),
            "DescribeTrainingJob": self._training.describe,
            "StopTrainingJob": self._training.stop,
            "CreateHyperParameterTuningJob": self._tuning.create,
            "DescribeHyperParameterTuningJob": self._tuning.describe,
            "StopHyperParameterTuningJob": self._tuning.stop,
            "ListTrainingJobsForHyperParameterTuningJob": self._list_tuned_jobs,
            "CreateTransformJob": quotas.guard("transform", self._transform.create),
            "DescribeTransformJob": self._transform.describe,
            "StopTransformJob": self._transform.stop,
            "CreateProcessingJob": self._processing.create,
            "DescribeProcessingJob": self._processing.describe,
            "StopProcessingJob": self._processing.stop,
            "CreateModel": self._create_model,
            "DescribeModel": self._getter(MODEL),
            "DeleteModel": self._deleter(MODEL),
            "DeleteTrainingJob": lambda params: delete_training_job(self._store, params),
            "DeleteHyperParameterTuningJob": lambda params: delete_tuning_job(self._store, params),
            "Search": search.search,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": lambda params: self._store.delete_tags(params["ResourceArn"], params["TagKeys"]),
            "CreateEndpointConfig": self.endpoints.create_config,
            "DescribeEndpointConfig": self._getter(ENDPOINT_CONFIG),
            "DeleteEndpointConfig": self._deleter(ENDPOINT_CONFIG),
            "CreateEndpoint": quotas.guard("endpoint", self.endpoints.create),
            "DescribeEndpoint": self.endpoints.describe,
            "UpdateEndpoint": self.endpoints.update,
            "UpdateEndpointWeightsAndCapacities": self.endpoints.update_weights,
            "DeleteEndpoint": self.endpoints.delete,
            **{operation: self._lister(listing) for operation, listing in _LISTINGS.items()},
        }

    @property
    def operations(self) -> list[str]:
        """The names of the operations there are."""
        return sorted(self._operations)

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any] | None:
        """Do one operation.

        Parameters
        ----------
        operation : str
            Such as ``CreateTrainingJob``.
        params : dict
            The request's members, validated.

        Returns
        -------
        dict or None
            The answer's members, and possibly more; None for an operation that answers nothing.

        Raises
        ------
        AwsError
            As AWS would, and UnknownOperationException for an operation that is not there.
        """
        handler = self._operations.get(operation)
        if handler is None:
            raise AwsError(
                "UnknownOperationException", f"{operation} is not implemented by the local AWS.", status=501
            )
        try:
            return handler(params)
        except (sqlite3.DatabaseError, OSError) as error:
            raise AwsError(
                "InternalFailure", f"The local AWS could not do {operation}: {error}.", status=500
            ) from error

    def start(self) -> None:
        """Clear up after a server that was killed: end its processes, mark its jobs as failed."""
        end_leftovers(self._jobs_folder)
        self._training.recover()
        self._tuning.recover()
        self._transform.recover()
        self._processing.recover()
        self.endpoints.recover()

    def close(self) -> None:
        """End all jobs, which become Failed, and close the state file."""
        self._queue.hold()
        self._runs.hold()
        self._processing.close()
        self._tuning.close()
        self._training.close()
        self._transform.close()
        self.endpoints.close()
        self._queue.join(_CLOSE_SECONDS)
        self._runs.join(_CLOSE_SECONDS)
        self._tuning.join(_CLOSE_SECONDS)
        self._store.close()

    def busy(self) -> bool:
        """Whether a job runs or waits to run, or an endpoint changes."""
        return self._queue.busy() or self._runs.busy() or self._tuning.busy() or self.endpoints.busy()

    # ---- what is only kept

    def _getter(self, kind: Kind) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda params: self._store.get(kind, params[f"{kind.name}Name"])

    def _deleter(self, kind: Kind) -> Callable[[dict[str, Any]], None]:
        return lambda params: self._store.delete(kind, params[f"{kind.name}Name"])

    # ---- models

    def _create_model(self, params: dict[str, Any]) -> dict[str, Any]:
        containers = [params["PrimaryContainer"]] if "PrimaryContainer" in params else []
        containers += params.get("Containers", [])
        if len(containers) != 1:
            raise AwsError(
                "ValidationException",
                f"The local AWS serves models of one container, but {params['ModelName']} has {len(containers)}.",
            )
        self._check_container(container_of(params))
        kept = {name: value for name, value in params.items() if name not in ("ModelName", "Tags")}
        document = {"EnableNetworkIsolation": False, **kept}
        if "PrimaryContainer" in document:
            document["PrimaryContainer"] = {
                "Mode": "SingleModel",
                "Environment": {},
                **document["PrimaryContainer"],
            }
        document = self._store.create(MODEL, params["ModelName"], document, tags=params.get("Tags"))
        return {"ModelArn": document["ModelArn"]}

    def _check_container(self, container: dict[str, Any]) -> None:
        algorithm.check_image(container.get("Image"), "the container's Image")
        refuse_unless(container.get("Mode"), ("SingleModel",), "the container's Mode")
        for member in ("ModelPackageName", "MultiModelConfig", "AdditionalModelDataSources"):
            if container.get(member):
                raise unsupported(f"{member} in a container")
        source = container.get("ModelDataSource", {}).get("S3DataSource", {})
        refuse_unless(source.get("CompressionType"), ("Gzip",), "uncompressed model data:")
        if not (container.get("ModelDataUrl") or source):
            raise AwsError("ValidationException", "The container names no model data.")
        uri = model_data_uri(container)
        bucket, key = inputs.split_uri(uri, "ModelDataUrl")
        try:
            self._objects.get(bucket, key)
        except AwsError as error:
            if error.code not in ("NoSuchBucket", "NoSuchKey"):
                raise
            raise AwsError("ValidationException", f"Could not find model data at {uri}.") from None

    # ---- lists

    def _lister(self, listing: _Listing) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def list_page(params: dict[str, Any]) -> dict[str, Any]:
            if params.get("WarmPoolStatusEquals") or params.get("TrainingPlanArnEquals"):
                return {listing.member: []}  # there are neither warm pools nor training plans here
            page = _page(params, listing.sort_by, listing.descending)
            documents, token = self._store.select(listing.kind, page)
            if listing.kind is TUNING_JOB:
                documents = [_tuning_summary(self._tuning.with_results(item)) for item in documents]
            return {listing.member: documents, **({"NextToken": token} if token else {})}

        return list_page

    def _list_tuned_jobs(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._tuning.training_jobs(params, _page(params, "Name", descending=False))

    # ---- tags

    def _add_tags(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"Tags": self._store.add_tags(params["ResourceArn"], params["Tags"])}

    def _list_tags(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"Tags": self._store.tags(params["ResourceArn"])}


def _tuning_summary(document: dict[str, Any]) -> dict[str, Any]:
    config = document["HyperParameterTuningJobConfig"]
    return {**document, "Strategy": config["Strategy"], "ResourceLimits": config["ResourceLimits"]}


def _page(params: dict[str, Any], sort_by: str, descending: bool) -> Page:
    """Read the members that the List operations share."""
    order = params.get("SortOrder")
    return Page(
        name_contains=params.get("NameContains", ""),
        status=params.get("StatusEquals"),
        created_after=_seconds(params.get("CreationTimeAfter")),
        created_before=_seconds(params.get("CreationTimeBefore")),
        modified_after=_seconds(params.get("LastModifiedTimeAfter")),
        modified_before=_seconds(params.get("LastModifiedTimeBefore")),
        sort_by=params.get("SortBy", sort_by),
        descending=order == "Descending" if order else descending,
        limit=params.get("MaxResults", _DEFAULT_PAGE),
        token=params.get("NextToken") or None,
    )


def _seconds(moment: datetime | float | None) -> float | None:
    return moment.timestamp() if isinstance(moment, datetime) else moment


def _jobs_from_environment() -> int:
    """Return how many jobs run at once.

    Raises
    ------
    ParameterError
        When the variable is no number of 1 or more.
    """
    from lib.errors import ParameterError

    text = os.environ.get(JOBS_VARIABLE, str(_DEFAULT_JOBS))
    if not text.isdecimal() or int(text) < 1:
        raise ParameterError(
            f"The environment variable {JOBS_VARIABLE} is {text!r}, but should be 1 or more."
        )
    return int(text)
