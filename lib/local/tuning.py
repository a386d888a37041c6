"""Hyperparameter tuning jobs: training jobs with hyperparameters that a strategy proposes.

What the training jobs have come to is not kept a second time: counters and the best job are read from them
when asked for.  (AWS: "How hyperparameter tuning with Amazon SageMaker AI works".)
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from lib.local import algorithm
from lib.local.algorithm import refuse_unless, unsupported
from lib.local.container import MAX_FAILURE_REASON
from lib.local.jobs import INTERRUPTED, TrainingJobs
from lib.local.protocol import AwsError
from lib.local.store import FINISHED, TRAINING_JOB, TUNING_JOB, Page, Store
from lib.local.strategies import STRATEGIES, RandomSearch, Range, parse_ranges

_FAILURES_TO_GIVE_UP = 5
_ALL_FAILED = (
    "All training jobs failed. Please take a look at the training jobs failures to get more details."
)
_NO_OBJECTIVE = (
    "No objective metrics found after running {count} training jobs. Please ensure that the custom algorithm "
    "is emitting the objective metric as defined by the regular expression provided."
)
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


class TuningJobs:
    """The tuning jobs of the local SageMaker.

    Parameters
    ----------
    store : Store
        The state.
    training : TrainingJobs
        Runs the training jobs.
    """

    def __init__(self, store: Store, training: TrainingJobs) -> None:
        self.store = store
        self.training = training
        self._lock = threading.Lock()
        self._runs: dict[str, _TuningRun] = {}

    def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """Start a tuning job: CreateHyperParameterTuningJob.

        Raises
        ------
        AwsError
            ValidationException or ResourceInUse.
        """
        ranges = self._check(params)
        name = params["HyperParameterTuningJobName"]
        strategy = RandomSearch(ranges, params["HyperParameterTuningJobConfig"].get("RandomSeed"))
        with self._lock:
            document = self.store.create(TUNING_JOB, name, _document(params), tags=params.get("Tags"))
            run = self._runs[name] = _TuningRun(self, document, strategy)
        run.start()
        return {"HyperParameterTuningJobArn": document["HyperParameterTuningJobArn"]}

    def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return a job's description: DescribeHyperParameterTuningJob."""
        return self.with_results(self.store.get(TUNING_JOB, params["HyperParameterTuningJobName"]))

    def with_results(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return a job's description with counters and best job, as its training jobs are now."""
        summaries = [
            summarise(job, document) for job in self.store.children(document["HyperParameterTuningJobArn"])
        ]
        statuses = [item["TrainingJobStatus"] for item in summaries]
        objectives = [item["ObjectiveStatus"] for item in summaries]
        best = _best(summaries, document)
        return {
            **document,
            "TrainingJobStatusCounters": {
                "Completed": statuses.count("Completed"),
                "InProgress": statuses.count("InProgress") + statuses.count("Stopping"),
                "RetryableError": 0,
                "NonRetryableError": statuses.count("Failed"),
                "Stopped": statuses.count("Stopped"),
            },
            "ObjectiveStatusCounters": {
                status: objectives.count(status) for status in ("Succeeded", "Pending", "Failed")
            },
            **({"BestTrainingJob": best} if best else {}),
        }

    def stop(self, params: dict[str, Any]) -> None:
        """Stop a tuning job and its training jobs: StopHyperParameterTuningJob.

        Raises
        ------
        AwsError
            ValidationException when it has ended already.
        """
        name = params["HyperParameterTuningJobName"]

        def change(document: dict[str, Any]) -> None:
            status = document["HyperParameterTuningJobStatus"]
            if status in FINISHED:
                raise AwsError(
                    "ValidationException",
                    f"The request was rejected because the hyperparameter tuning job is in status {status}.",
                )
            document["HyperParameterTuningJobStatus"] = "Stopping"

        self.store.update(TUNING_JOB, name, change)
        with self._lock:
            run = self._runs.get(name)
        if run:
            run.end()

    def training_jobs(self, params: dict[str, Any], page: Page) -> dict[str, Any]:
        """Return a page of a job's training jobs: ListTrainingJobsForHyperParameterTuningJob."""
        document = self.store.get(TUNING_JOB, params["HyperParameterTuningJobName"])
        arn = document["HyperParameterTuningJobArn"]
        jobs, token = self.store.select(TRAINING_JOB, page, parent=arn)
        summaries = [summarise(job, document) for job in jobs]
        return {"TrainingJobSummaries": summaries, **({"NextToken": token} if token else {})}

    def recover(self) -> None:
        """Mark the jobs that an earlier server left unfinished as failed."""
        for name in self.store.unfinished(TUNING_JOB):
            self.store.update(TUNING_JOB, name, lambda document: _finish(document, "Failed", INTERRUPTED))

    def close(self) -> None:
        """Start no further training jobs; those that run are ended by `TrainingJobs.close`."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.end(shutdown=True)

    def join(self, timeout: float) -> None:
        """Wait for the tuning jobs to note their end, up to ``timeout`` seconds for each."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.join(timeout)

    def busy(self) -> bool:
        """Whether a tuning job is in progress."""
        with self._lock:
            return bool(self._runs)

    def forget(self, name: str) -> None:
        """Drop what is held of a job that has ended."""
        with self._lock:
            self._runs.pop(name, None)

    def _check(self, params: dict[str, Any]) -> list[Range]:
        config = params["HyperParameterTuningJobConfig"]
        strategy = config["Strategy"]
        if strategy not in STRATEGIES:
            raise AwsError(
                "ValidationException",
                f"The local AWS tunes by the strategy {' or '.join(STRATEGIES)} only, "
                f"but Strategy is {strategy}.",
            )
        refuse_unless(config.get("TrainingJobEarlyStoppingType"), ("Off",), "TrainingJobEarlyStoppingType")
        for member in ("TrainingJobDefinitions", "WarmStartConfig", "Autotune"):
            if params.get(member):
                raise unsupported(member)
        for member in ("BestObjectiveNotImproving", "ConvergenceDetected"):
            if config.get("TuningJobCompletionCriteria", {}).get(member):
                raise unsupported(f"TuningJobCompletionCriteria.{member}")
        definition, limits = params.get("TrainingJobDefinition"), config["ResourceLimits"]
        if not definition:
            raise AwsError("ValidationException", "TrainingJobDefinition is missing.")
        if "MaxNumberOfTrainingJobs" not in limits:
            raise AwsError("ValidationException", "ResourceLimits.MaxNumberOfTrainingJobs is missing.")
        _check_objective(config.get("HyperParameterTuningJobObjective"), definition)
        ranges = parse_ranges(config.get("ParameterRanges", {}))
        static = list(definition.get("StaticHyperParameters", {}))
        tuned = [item.name for item in ranges]
        for name in tuned:
            if name in static:
                raise AwsError("ValidationException", f"The hyperparameter {name} is both static and tuned.")
        self.training.check(_training_params(definition))
        algorithm.check_search(tuned, static, definition["AlgorithmSpecification"]["TrainingImage"])
        return ranges


class _TuningRun:
    """One tuning job on its way, in a thread of its own."""

    def __init__(self, jobs: TuningJobs, document: dict[str, Any], strategy: RandomSearch) -> None:
        self._jobs = jobs
        self._name: str = document["HyperParameterTuningJobName"]
        self._document = document
        self._strategy = strategy
        self._changed = threading.Condition()
        self._running: set[str] = set()
        self._failures = self._completions = 0
        self._values: list[float] = []
        self._ended = self._shut_down = False
        self._thread = threading.Thread(target=self._work, name=f"tuning {self._name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end."""
        self._thread.join(timeout)

    def end(self, *, shutdown: bool = False) -> None:
        """Start no further training job, and stop those that run (at a shutdown, others end them)."""
        with self._changed:
            self._ended = True
            self._shut_down = self._shut_down or shutdown
            running = [] if shutdown else list(self._running)
            self._changed.notify_all()
        for name in running:
            try:
                self._jobs.training.stop({"TrainingJobName": name})
            except AwsError:  # it has just ended
                continue

    def _work(self) -> None:
        failure: str | None = None
        try:
            self._search()
        except AwsError as error:  # a training job was refused: its input has gone, say
            failure = f"ClientError: {error.message}"
            self.end()
        except Exception as error:
            failure = f"InternalServerError: {type(error).__name__}: {error}"
            self.end()
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
        try:
            self._finish(failure)
        finally:
            self._jobs.forget(self._name)

    def _search(self) -> None:
        config = self._document["HyperParameterTuningJobConfig"]
        limits = config["ResourceLimits"]
        deadline = time.monotonic() + limits.get("MaxRuntimeInSeconds", math.inf)
        target = config.get("TuningJobCompletionCriteria", {}).get("TargetObjectiveMetricValue")
        for number in range(1, limits["MaxNumberOfTrainingJobs"] + 1):
            with self._changed:
                self._wait(lambda: len(self._running) < limits["MaxParallelTrainingJobs"], deadline)
                if self._ended or time.monotonic() >= deadline or self._settled(target):
                    break
                self._start_training_job(number)
        with self._changed:
            self._wait(lambda: not self._running or self._settled(target), deadline)
        self.end()

    def _wait(self, ready: Callable[[], bool], deadline: float) -> None:
        timeout = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        self._changed.wait_for(lambda: self._ended or ready(), timeout)

    def _settled(self, target: float | None) -> bool:
        """Whether the target is reached, or so many jobs have failed that the rest will too."""
        if self._failures >= _FAILURES_TO_GIVE_UP and not self._completions:
            return True
        if target is None or not self._values:
            return False
        return min(self._values) <= target if _minimizes(self._document) else max(self._values) >= target

    def _start_training_job(self, number: int) -> None:
        definition = self._document["TrainingJobDefinition"]
        arn = self._document["HyperParameterTuningJobArn"]
        tuned = self._strategy.propose()
        name = f"{self._name}-{number:03d}-{uuid.uuid4().hex[:8]}"
        specification = dict(definition["AlgorithmSpecification"])
        del specification["MetricDefinitions"]  # the algorithm's own, which no request may give
        params = {
            **_training_params(definition),
            "AlgorithmSpecification": specification,
            "TrainingJobName": name,
            "HyperParameters": {
                **definition.get("StaticHyperParameters", {}),
                **tuned,
                "_tuning_objective_metric": _objective(self._document)["MetricName"],
            },
            "Tags": self._jobs.store.tags(arn),
        }
        self._running.add(name)
        try:
            self._jobs.training.create(params, parent=arn, tuned=tuned, ended=self._note_end)
        except BaseException:
            self._running.discard(name)
            raise

    def _note_end(self, name: str) -> None:
        """Note what a training job that has ended came to; runs in that job's thread."""
        status, value = "Failed", None
        try:
            job = self._jobs.store.get(TRAINING_JOB, name)
            status, value = (
                job["TrainingJobStatus"],
                _final_value(job, _objective(self._document)["MetricName"]),
            )
            if value is not None:
                self._jobs.store.update(TRAINING_JOB, name, lambda document: None, score=value)
        finally:
            with self._changed:
                self._failures += status == "Failed"
                self._completions += status == "Completed"
                self._values += [] if value is None else [value]
                self._running.discard(name)
                self._changed.notify_all()

    def _finish(self, failure: str | None) -> None:
        counters = self._jobs.with_results(self._document)
        completed = counters["TrainingJobStatusCounters"]["Completed"]
        succeeded = counters["ObjectiveStatusCounters"]["Succeeded"]

        def change(document: dict[str, Any]) -> None:
            if self._shut_down:
                _finish(document, "Failed", INTERRUPTED)
            elif failure is not None:
                _finish(document, "Failed", failure)
            elif document["HyperParameterTuningJobStatus"] == "Stopping":
                _finish(document, "Stopped")
            elif not completed:
                _finish(document, "Failed", _ALL_FAILED)
            elif not succeeded:
                _finish(document, "Failed", _NO_OBJECTIVE.format(count=completed))
            else:
                _finish(document, "Completed")

        self._jobs.store.settle(TUNING_JOB, self._name, change)


# ---- descriptions


def summarise(job: dict[str, Any], tuning_job: dict[str, Any]) -> dict[str, Any]:
    """Return a training job's HyperParameterTrainingJobSummary.

    Parameters
    ----------
    job, tuning_job : dict
        The descriptions of the training job and of the tuning job that started it.
    """
    objective = _objective(tuning_job)
    value = _final_value(job, objective["MetricName"])
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


def _best(summaries: list[dict[str, Any]], tuning_job: dict[str, Any]) -> dict[str, Any] | None:
    succeeded = [item for item in summaries if item["ObjectiveStatus"] == "Succeeded"]
    if not succeeded:
        return None
    sign = 1 if _minimizes(tuning_job) else -1
    return min(
        succeeded, key=lambda item: sign * item["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
    )


def _objective(tuning_job: dict[str, Any]) -> dict[str, str]:
    objective: dict[str, str] = tuning_job["HyperParameterTuningJobConfig"][
        "HyperParameterTuningJobObjective"
    ]
    return objective


def _minimizes(tuning_job: dict[str, Any]) -> bool:
    return _objective(tuning_job)["Type"] == "Minimize"


def _final_value(job: dict[str, Any], metric: str) -> float | None:
    for item in job.get("FinalMetricDataList", []):
        if item["MetricName"] == metric:
            return float(item["Value"])
    return None


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


def _training_params(definition: dict[str, Any]) -> dict[str, Any]:
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


def _document(params: dict[str, Any]) -> dict[str, Any]:
    """Return a new job's description: the request's members, and what AWS fills in."""
    kept = {
        name: value for name, value in params.items() if name not in ("HyperParameterTuningJobName", "Tags")
    }
    definition = params["TrainingJobDefinition"]
    specification = {
        **definition["AlgorithmSpecification"],
        "MetricDefinitions": algorithm.metric_definitions(),
    }
    config = {"TrainingJobEarlyStoppingType": "Off", **params["HyperParameterTuningJobConfig"]}
    return {
        **kept,
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": {**definition, "AlgorithmSpecification": specification},
        "HyperParameterTuningJobStatus": "InProgress",
    }


def _finish(document: dict[str, Any], status: str, reason: str | None = None) -> None:
    document["HyperParameterTuningEndTime"] = now = time.time()
    document["HyperParameterTuningJobStatus"] = status
    document["ConsumedResources"] = {"RuntimeInSeconds": math.ceil(now - document["CreationTime"])}
    if reason is not None:
        document["FailureReason"] = reason[:MAX_FAILURE_REASON]
