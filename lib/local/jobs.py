"""Training jobs: real ones, each a child process in SageMaker's container contract.

A job's folder ``ROOT/jobs/ID/ml`` stands for the container's ``/opt/ml``: hyperparameters, channels and
resources are laid out there, the algorithm runs on it, and what it leaves in ``model`` becomes
``model.tar.gz`` in S3.  (AWS: "How Amazon SageMaker provides training information", "How Amazon SageMaker
processes training output".)
"""

from __future__ import annotations

import math
import random
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.local import algorithm, archive, checkpoints, container, inputs
from lib.local.algorithm import refuse_unless, unsupported
from lib.local.container import MAX_FAILURE_REASON
from lib.local.inputs import JobError
from lib.local.job_registry import INTERRUPTED, JobRegistry
from lib.local.logs import Logs, LogStream
from lib.local.objects import Objects
from lib.local.protocol import AwsError
from lib.local.store import REGION, TRAINING_JOB, Store
from lib.local.supervise import Child, JobQueue, child_environment

LOG_GROUP = "/aws/sagemaker/TrainingJobs"

_DAY_SECONDS = 86_400
_STOPPED = "Stopped"
_OVERTIME = "MaxRuntimeExceeded"
_SHUTDOWN = "Shutdown"
_INPUT_MODES = ("File", "FastFile", "Pipe")
_LAST_MESSAGES = {
    "Completed": "Training job completed",
    "Failed": "Training job failed",
    _STOPPED: "Training job stopped",
    _OVERTIME: "Training job runtime exceeded MaxRuntimeInSeconds provided",
}


def enter(document: dict[str, Any], secondary_status: str, message: str) -> None:
    """Note in a training job's document that it comes into a secondary status now."""
    now = time.time()
    transitions = document.setdefault("SecondaryStatusTransitions", [])
    if transitions:
        transitions[-1].setdefault("EndTime", now)
    transitions.append({"Status": secondary_status, "StartTime": now, "StatusMessage": message})
    document["SecondaryStatus"] = secondary_status


def finish(document: dict[str, Any], status: str, secondary_status: str, reason: str | None = None) -> None:
    """Note in a training job's document that it has ended."""
    enter(document, secondary_status, _LAST_MESSAGES[secondary_status])
    document["SecondaryStatusTransitions"][-1]["EndTime"] = document["TrainingEndTime"] = time.time()
    document["TrainingJobStatus"] = status
    if reason is not None:
        document["FailureReason"] = reason[:MAX_FAILURE_REASON]
    if "TrainingStartTime" in document:
        seconds = max(1, math.ceil(document["TrainingEndTime"] - document["TrainingStartTime"]))
        document["TrainingTimeInSeconds"] = document["BillableTimeInSeconds"] = seconds


class TrainingJobs(JobRegistry["_TrainingRun"]):
    """The training jobs of the local SageMaker.

    Parameters
    ----------
    folder : Path
        Where jobs have their folders.
    store, objects, logs
        The state, S3 and CloudWatch Logs.
    queue : JobQueue
        Bounds how many jobs run at once.
    grace : float
        Seconds between SIGTERM and SIGKILL when a job is stopped.

    Attributes
    ----------
    reporters : list of callable
        Each is told a job's name, a metric's name and value, and the time, as the log comes to say them.
    """

    def __init__(
        self, folder: Path, store: Store, objects: Objects, logs: Logs, queue: JobQueue, grace: float
    ) -> None:
        super().__init__(TRAINING_JOB, store, queue)
        self.folder = folder
        self.objects = objects
        self.logs = logs
        self.grace = grace
        self.reporters: list[Callable[[str, str, float, float], None]] = []

    def create(
        self,
        params: dict[str, Any],
        *,
        parent: str | None = None,
        tuned: dict[str, str] | None = None,
        ended: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Start a training job: CreateTrainingJob.

        Parameters
        ----------
        params : dict
            The request's members.
        parent : str, optional
            The ARN of the tuning job that starts it.
        tuned : dict, optional
            The hyperparameters that the tuning job chose.
        ended : callable, optional
            Called with the job's name when it has ended.

        Raises
        ------
        AwsError
            ValidationException or ResourceInUse.
        """
        self.check(params)
        name = params["TrainingJobName"]
        document = _document(params)
        if parent is not None:
            document |= {"TuningJobArn": parent, "TunedHyperParameters": tuned or {}}
        if self.queue.full():
            message = f"Waiting: the local AWS runs {self.queue.limit} jobs at once"
            enter(document, "Pending", message)
        else:
            enter(document, "Starting", "Starting the training job")
        return self.start(name, document, _TrainingRun(self, name, ended), params, parent)

    def check(self, params: dict[str, Any]) -> None:
        """Refuse a job that the local AWS cannot run, or that AWS would refuse.

        Raises
        ------
        AwsError
            ValidationException.
        """
        for member in ("AlgorithmSpecification", "ResourceConfig"):
            if member not in params:
                raise AwsError("ValidationException", f"{member} is missing.")
        for member in ("ServerlessJobConfig", "ModelPackageConfig"):
            if params.get(member):
                raise unsupported(member)
        specification = params["AlgorithmSpecification"]
        algorithm.check_image(specification.get("TrainingImage"), "AlgorithmSpecification.TrainingImage")
        if specification.get("MetricDefinitions"):
            raise AwsError(
                "ValidationException",
                "You can't override the metric definitions for Amazon SageMaker algorithms. "
                "Please retry the request without specifying metric definitions.",
            )
        for member in ("ContainerEntrypoint", "ContainerArguments"):
            if specification.get(member):
                raise unsupported(f"AlgorithmSpecification.{member}")
        mode = specification["TrainingInputMode"]
        refuse_unless(mode, _INPUT_MODES, "the input mode")
        _check_resources(params)
        names = [channel["ChannelName"] for channel in params.get("InputDataConfig", [])]
        for channel in params.get("InputDataConfig", []):
            name = channel["ChannelName"]
            if names.count(name) > 1:
                raise AwsError("ValidationException", f"The channel name {name} is used more than once.")
            if name in (".", ".."):
                raise AwsError("ValidationException", f"{name} cannot be a channel's name.")
            _check_channel(channel, mode)
            inputs.find(self.objects, channel["DataSource"]["S3DataSource"], params["RoleArn"])
        kept = params.get("CheckpointConfig")
        if kept:
            inputs.check_output(self.objects, kept["S3Uri"], "CheckpointConfig.S3Uri")
            place = kept.get("LocalPath")
            refuse_unless(place, (checkpoints.LOCAL_PATH,), "CheckpointConfig.LocalPath")
        output = params["OutputDataConfig"]
        refuse_unless(output.get("CompressionType"), ("GZIP",), "the output compression")
        inputs.check_output(self.objects, output["S3OutputPath"], "OutputDataConfig.S3OutputPath")

    def fail(self, document: dict[str, Any], reason: str) -> None:
        """Note in a job's document that it has failed now."""
        finish(document, "Failed", "Failed", reason)

    def note_stopping(self, document: dict[str, Any]) -> None:
        """Note in a job's document that it is asked to stop, once."""
        if document["TrainingJobStatus"] == "InProgress":
            super().note_stopping(document)
            enter(document, "Stopping", "Stopping the training job")


class _TrainingRun:
    """One training job on its way, in a thread of the queue."""

    def __init__(self, jobs: TrainingJobs, name: str, ended: Callable[[str], None] | None) -> None:
        self._jobs = jobs
        self._name = name
        self._ended = ended
        self._folder = jobs.folder / f"training-{uuid.uuid4().hex}"
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._why_ended: str | None = None
        self._metrics: dict[str, dict[str, Any]] = {}

    def end(self, *, shutdown: bool = False, overtime: bool = False) -> None:
        """End the job early; a job that still waits in the queue ends here and now."""
        why = _SHUTDOWN if shutdown else _OVERTIME if overtime else _STOPPED
        with self._lock:
            self._why_ended = self._why_ended or why
            if self._child:
                self._child.end(self._jobs.grace)
                if shutdown:
                    self._child.kill()
        if self._jobs.queue.withdraw(self._name):
            self.work()

    def work(self) -> None:
        """Take the job from its first step to its end."""
        failure: str | None = None
        try:
            self._folder.mkdir(parents=True)
            document = self._jobs.store.get(TRAINING_JOB, self._name)
            if document["SecondaryStatus"] == "Pending":
                self._enter("Starting", "Starting the training job")
            self._download(document)
            self._train(document)
            self._upload(document)
        except JobError as error:
            failure = str(error)
        except Exception as error:  # a fault of the server, not of the job: say so where users look
            failure = f"InternalServerError: {type(error).__name__}: {error}"
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            self._finish(failure)
        finally:
            self._jobs.forget(self._name)
            if self._ended:
                self._ended(self._name)

    # ---- the steps; each does nothing once the job is to end

    def _download(self, document: dict[str, Any]) -> None:
        root = self._folder / "ml"
        container.make_folders(root)
        if self._why_ended:
            return
        self._enter("Downloading", "Downloading input data", TrainingStartTime=time.time())
        channels = document.get("InputDataConfig", [])
        for channel in channels:
            if self._why_ended:
                return
            folder = root / "input" / "data" / channel["ChannelName"]
            folder.mkdir()
            source = channel["DataSource"]["S3DataSource"]
            try:
                found = inputs.find(self._jobs.objects, source, document["RoleArn"])
            except AwsError as error:
                raise JobError(f"ClientError: Data download failed: {error.message}") from None
            if "ShuffleConfig" in channel:
                random.Random(channel["ShuffleConfig"]["Seed"]).shuffle(found)
            piped = _mode_of(channel, document["AlgorithmSpecification"]["TrainingInputMode"]) == "Pipe"
            inputs.place(
                found,
                folder,
                numbered=piped or "ShuffleConfig" in channel,
                gzipped=channel.get("CompressionType") == "Gzip",
            )
        if "CheckpointConfig" in document:
            checkpoints.restore(
                self._jobs.objects, document["CheckpointConfig"]["S3Uri"], root / "checkpoints"
            )
        container.write_configuration(root, document)

    def _train(self, document: dict[str, Any]) -> None:
        environment = child_environment(
            {
                **document.get("Environment", {}),
                "TRAINING_JOB_NAME": self._name,
                "TRAINING_JOB_ARN": document["TrainingJobArn"],
                "AWS_REGION": REGION,
            }
        )
        with self._lock:
            if self._why_ended:
                return
            message = "Training image download completed. Training in progress."
            self._enter("Training", message)
            command = algorithm.train_command(self._folder / "ml")
            self._child = child = Child(command, self._folder, environment)
        limit = document["StoppingCondition"]["MaxRuntimeInSeconds"]
        timer = threading.Timer(limit, self.end, kwargs={"overtime": True})
        timer.daemon = True
        timer.start()
        definitions = document["AlgorithmSpecification"]["MetricDefinitions"]
        expressions = [(item["Name"], re.compile(item["Regex"])) for item in definitions]
        try:
            with (
                self._jobs.logs.open_stream(LOG_GROUP, f"{self._name}/algo-1-{int(time.time())}") as log,
                self._synced(document, log),
            ):
                for line in child.lines():
                    log.write(line)
                    self._read_metrics(line, expressions)
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
            code = child.wait()
        if code and not self._why_ended:
            raise JobError(container.failure_reason(self._folder / "ml", code))

    @contextmanager
    def _synced(self, document: dict[str, Any], log: LogStream) -> Iterator[None]:
        """Take checkpoints to S3 meanwhile, and at the end, however it comes."""
        if "CheckpointConfig" not in document:
            yield
            return
        uri, folder = document["CheckpointConfig"]["S3Uri"], self._folder / "ml" / "checkpoints"
        sync = checkpoints.Sync(self._jobs.objects, folder, uri, log.write)
        try:
            yield
        finally:
            sync.finish()

    def _read_metrics(self, line: str, expressions: list[tuple[str, re.Pattern[str]]]) -> None:
        for name, expression in expressions:
            found = expression.search(line)
            try:
                value = float(found[1]) if found else math.nan
            except ValueError:
                continue
            if math.isfinite(value):
                now = time.time()
                self._metrics[name] = {"MetricName": name, "Value": value, "Timestamp": now}
                for report in self._jobs.reporters:
                    report(self._name, name, value, now)

    def _upload(self, document: dict[str, Any]) -> None:
        model = self._folder / "ml" / "model"
        if self._why_ended == _SHUTDOWN or (self._why_ended and not any(model.iterdir())):
            return
        packed = self._folder / "model.tar.gz"
        self._enter("Uploading", "Uploading generated training model")
        archive.pack(model, packed)
        uri = f"{document['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{self._name}/output/model.tar.gz"
        bucket, key = inputs.split_uri(uri, "OutputDataConfig.S3OutputPath")
        try:
            self._jobs.objects.put_file(bucket, key, packed, content_type="application/x-tar")
        except AwsError as error:
            raise JobError(f"ClientError: Artifact upload failed: {error.message}") from None
        self._update(lambda document: document.update(ModelArtifacts={"S3ModelArtifacts": uri}))

    def _finish(self, failure: str | None) -> None:
        def change(document: dict[str, Any]) -> None:
            if self._metrics:
                document["FinalMetricDataList"] = list(self._metrics.values())
            if self._why_ended == _SHUTDOWN:
                finish(document, "Failed", "Failed", INTERRUPTED)
            elif failure is not None:
                finish(document, "Failed", "Failed", failure)
            elif self._why_ended == _OVERTIME:
                finish(document, _STOPPED, _OVERTIME)
            elif document["TrainingJobStatus"] == "Stopping":
                finish(document, _STOPPED, _STOPPED)
            else:
                finish(document, "Completed", "Completed")

        self._jobs.store.settle(TRAINING_JOB, self._name, change)

    def _enter(self, secondary_status: str, message: str, **members: Any) -> None:
        def change(document: dict[str, Any]) -> None:
            if document["TrainingJobStatus"] == "InProgress" or secondary_status == "Uploading":
                enter(document, secondary_status, message)
            document.update(members)

        self._update(change)

    def _update(self, change: Callable[[dict[str, Any]], None]) -> None:
        self._jobs.store.update(TRAINING_JOB, self._name, change)


def _check_resources(params: dict[str, Any]) -> None:
    resources = params.get("ResourceConfig")
    if not resources:
        raise AwsError("ValidationException", "ResourceConfig is missing.")
    for member in ("InstanceGroups", "InstancePreferences", "TrainingPlanArn"):
        if resources.get(member):
            raise unsupported(f"ResourceConfig.{member}")
    count = resources.get("InstanceCount", 1)
    if count != 1:
        raise AwsError(
            "ValidationException",
            f"The local AWS trains on one instance, with all cores of this machine, but "
            f"ResourceConfig.InstanceCount is {count}.",
        )
    stopping = params.get("StoppingCondition", {})
    if params.get("EnableManagedSpotTraining"):
        wait, run = stopping.get("MaxWaitTimeInSeconds"), stopping.get("MaxRuntimeInSeconds", _DAY_SECONDS)
        if wait is None or wait < run:
            raise AwsError(
                "ValidationException",
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to "
                "MaxRuntimeInSeconds.",
            )


def _mode_of(channel: dict[str, Any], mode: str) -> str:
    """Return a channel's input mode; its job's where it has none of its own."""
    own: str = channel.get("InputMode", mode)
    return own


def _check_channel(channel: dict[str, Any], job_mode: str) -> None:
    """Refuse a channel whose data could not be given as they are asked for."""
    name = channel["ChannelName"]
    mode = _mode_of(channel, job_mode)
    refuse_unless(mode, _INPUT_MODES, f"in channel {name} the input mode")
    if channel.get("CompressionType") == "Gzip" and mode != "Pipe":
        raise AwsError(
            "ValidationException",
            f"The channel {name} has CompressionType Gzip, which is for the input mode Pipe, not {mode}.",
        )
    if channel.get("RecordWrapperType") == "RecordIO":
        raise AwsError(
            "ValidationException",
            f"The channel {name} has RecordWrapperType RecordIO, which wraps each object in a record of its own; "
            "objects that are recordIO-protobuf already need none.",
        )
    inputs.check_source(channel["DataSource"], f"channel {name}")


def _document(params: dict[str, Any]) -> dict[str, Any]:
    """Return a new job's description: the request's members, and what AWS fills in."""
    kept = {name: value for name, value in params.items() if name not in ("TrainingJobName", "Tags")}
    return {
        "HyperParameters": {},
        "EnableNetworkIsolation": False,
        "EnableInterContainerTrafficEncryption": False,
        "EnableManagedSpotTraining": False,
        "ProfilingStatus": "Disabled",
        **kept,
        "AlgorithmSpecification": {
            "EnableSageMakerMetricsTimeSeries": False,
            **params["AlgorithmSpecification"],
            "MetricDefinitions": algorithm.metric_definitions(),
        },
        "OutputDataConfig": {"KmsKeyId": "", "CompressionType": "GZIP", **params["OutputDataConfig"]},
        "StoppingCondition": {"MaxRuntimeInSeconds": _DAY_SECONDS, **params.get("StoppingCondition", {})},
        "TrainingJobStatus": "InProgress",
    }
