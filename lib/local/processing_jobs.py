"""Processing jobs: Reelbook's own image alone, whose entry point ``run`` is started as a child process.

A job's folder ``ROOT/jobs/ID/ml`` stands for the container's ``/opt/ml``: the inputs are laid out under
``processing``, and what the process leaves under an output's path goes to S3 when it has ended, whether it succeeded
or not.  (AWS: "How Amazon SageMaker Processing runs your processing container", CreateProcessingJob.)
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

from lib.local import inputs
from lib.local.algorithm import refuse_unless, unsupported
from lib.local.container import MAX_FAILURE_REASON
from lib.local.home import ROOT_VARIABLE
from lib.local.inputs import JobError
from lib.local.job_registry import INTERRUPTED, JobRegistry
from lib.local.logs import Logs
from lib.local.objects import Objects
from lib.local.protocol import AwsError
from lib.local.store import PROCESSING_JOB, REGION, Store
from lib.local.supervise import Child, JobQueue, child_environment

LOG_GROUP = "/aws/sagemaker/ProcessingJobs"
REPOSITORY_NAME = "reelbook"
ROOM = PurePosixPath("/opt/ml/processing")

_DAY_SECONDS = 86_400


class ProcessingJobs(JobRegistry["_ProcessingRun"]):
    """The Processing jobs of the local SageMaker; parameters as of `lib.local.jobs.TrainingJobs`.

    They have a queue of their own: such a job waits for training jobs that it has submitted.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        store: Store,
        objects: Objects,
        logs: Logs,
        queue: JobQueue,
        grace: float,
    ) -> None:
        super().__init__(PROCESSING_JOB, store, queue)
        self.root = root
        self.folder = folder
        self.objects = objects
        self.logs = logs
        self.grace = grace

    def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """Start a job: CreateProcessingJob.

        Raises
        ------
        AwsError
            ValidationException or ResourceInUse.
        """
        self._check(params)
        name = params["ProcessingJobName"]
        kept = {key: value for key, value in params.items() if key not in ("ProcessingJobName", "Tags")}
        limit = {"MaxRuntimeInSeconds": _DAY_SECONDS, **params.get("StoppingCondition", {})}
        document = {**kept, "StoppingCondition": limit, "ProcessingJobStatus": "InProgress"}
        return self.start(name, document, _ProcessingRun(self, name), params)

    def fail(self, document: dict[str, Any], reason: str) -> None:
        """Note in a job's document that it has failed now."""
        _finish(document, "Failed", reason)

    def _check(self, params: dict[str, Any]) -> None:
        application = params["AppSpecification"]
        image = application["ImageUri"]
        repository = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
        if repository != REPOSITORY_NAME:
            raise AwsError(
                "ValidationException",
                f"The local AWS processes with the image {REPOSITORY_NAME} only, but "
                f"AppSpecification.ImageUri is {image}.",
            )
        if application.get("ContainerEntrypoint"):
            raise unsupported("AppSpecification.ContainerEntrypoint")
        if application.get("ContainerArguments", [""])[0] != "run":
            raise AwsError(
                "ValidationException",
                "AppSpecification.ContainerArguments should begin with run: the local AWS has no other program.",
            )
        for member in ("ExperimentConfig",):
            if params.get(member):
                raise unsupported(member)
        if params.get("NetworkConfig", {}).get("VpcConfig"):
            raise unsupported("NetworkConfig.VpcConfig")
        count = params["ProcessingResources"]["ClusterConfig"]["InstanceCount"]
        refuse_unless(str(count), ("1",), "an instance count")
        for one in params.get("ProcessingInputs", []):
            source = one.get("S3Input")
            if not source:
                raise unsupported(f"the input {one['InputName']} without S3Input")
            refuse_unless(source.get("S3DataType"), ("S3Prefix",), "S3DataType")
            refuse_unless(source.get("S3CompressionType"), ("None",), "S3CompressionType")
            _place(Path(), source.get("LocalPath", ""))
            inputs.find(self.objects, source, params["RoleArn"])
        for one in params.get("ProcessingOutputConfig", {}).get("Outputs", []):
            target = one.get("S3Output")
            if not target:
                raise unsupported(f"the output {one['OutputName']} without S3Output")
            refuse_unless(target.get("S3UploadMode"), ("EndOfJob",), "S3UploadMode")
            _place(Path(), target.get("LocalPath", ""))
            inputs.check_output(self.objects, target["S3Uri"], "S3Output.S3Uri")


class _ProcessingRun:
    """One Processing job on its way, in a thread of the queue."""

    def __init__(self, jobs: ProcessingJobs, name: str) -> None:
        self._jobs = jobs
        self._name = name
        self._folder = jobs.folder / f"processing-{uuid.uuid4().hex}"
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._ended = self._overtime = self._shut_down = False

    def end(self, *, shutdown: bool = False, overtime: bool = False) -> None:
        """End the job early; a job that still waits in the queue ends here and now."""
        with self._lock:
            self._ended = True
            self._shut_down = self._shut_down or shutdown
            self._overtime = self._overtime or overtime
            if self._child:
                self._child.end(self._jobs.grace)
                if shutdown:
                    self._child.kill()
        if self._jobs.queue.withdraw(self._name):
            self.work()

    def work(self) -> None:
        """Take the job from its first step to its end."""
        failure, message = "", ""
        root = self._folder / "ml"
        try:
            document = self._jobs.store.get(PROCESSING_JOB, self._name)
            self._download(document, root)
            code = self._run(document, root)
            message = _message(root)
            self._upload(document, root)
            if code and not self._ended:
                failure = f"AlgorithmError: See job logs for more information, exit code: {code}"
        except JobError as error:
            failure = str(error)
        except Exception as error:  # a fault of the server, not of the job: say so where users look
            failure = f"InternalServerError: {type(error).__name__}: {error}"
        shutil.rmtree(self._folder, ignore_errors=True)

        def change(document: dict[str, Any]) -> None:
            if message:
                document["ExitMessage"] = message
            if self._shut_down:
                _finish(document, "Failed", INTERRUPTED)
            elif failure:
                _finish(document, "Failed", failure)
            elif self._overtime:
                _finish(document, "Stopped", "ClientError: MaxRuntimeInSeconds was exceeded")
            else:
                _finish(
                    document, "Stopped" if document["ProcessingJobStatus"] == "Stopping" else "Completed", ""
                )

        try:
            self._jobs.store.settle(PROCESSING_JOB, self._name, change)
        finally:
            self._jobs.forget(self._name)

    def _download(self, document: dict[str, Any], root: Path) -> None:
        root.mkdir(parents=True)
        (root / "output").mkdir()
        for one in document.get("ProcessingInputs", []):
            source = one["S3Input"]
            folder = _place(root, source["LocalPath"])
            folder.mkdir(parents=True, exist_ok=True)
            try:
                found = inputs.find(self._jobs.objects, source, document["RoleArn"])
            except AwsError as error:
                raise JobError(f"ClientError: Data download failed: {error.message}") from None
            inputs.place(found, folder)

    def _run(self, document: dict[str, Any], root: Path) -> int:
        """Run the image's entry point and return its exit code."""
        environment = child_environment(document.get("Environment", {}))
        environment |= {
            ROOT_VARIABLE: str(self._jobs.root),
            "PROCESSING_JOB_NAME": self._name,
            "AWS_REGION": REGION,
        }
        arguments = document["AppSpecification"]["ContainerArguments"][1:]
        command = [sys.executable, "-m", "lib.container", "run", *arguments, "--root", str(root)]
        started = time.time()
        with self._lock:
            if self._ended:
                return 0
            self._jobs.store.update(
                PROCESSING_JOB, self._name, lambda document: document.update(ProcessingStartTime=started)
            )
            self._child = child = Child(command, self._folder, environment)
        limit = document["StoppingCondition"]["MaxRuntimeInSeconds"]
        timer = threading.Timer(limit, self.end, kwargs={"overtime": True})
        timer.daemon = True
        timer.start()
        try:
            with self._jobs.logs.open_stream(LOG_GROUP, f"{self._name}/algo-1-{int(started)}") as log:
                for line in child.lines():
                    log.write(line)
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
            code = child.wait()
        return code

    def _upload(self, document: dict[str, Any], root: Path) -> None:
        """Store what lies under the outputs' paths, of a job that failed as well."""
        for one in document.get("ProcessingOutputConfig", {}).get("Outputs", []):
            target = one["S3Output"]
            folder = _place(root, target["LocalPath"])
            for path in sorted(folder.rglob("*")):
                if not path.is_file() or path.is_symlink():
                    continue
                uri = f"{target['S3Uri'].rstrip('/')}/{path.relative_to(folder).as_posix()}"
                bucket, key = inputs.split_uri(uri, "S3Output.S3Uri")
                try:
                    self._jobs.objects.put_file(bucket, key, path)
                except AwsError as error:
                    raise JobError(f"ClientError: The output cannot be stored: {error.message}") from None


def _place(root: Path, local_path: str) -> Path:
    """Return where a path of the container is on this machine.

    Raises
    ------
    AwsError
        ValidationException for a path outside of ``/opt/ml/processing``.
    """
    path = PurePosixPath(os.path.normpath(local_path or "."))
    if not path.is_relative_to(ROOM) or path == ROOM:
        raise AwsError("ValidationException", f"The LocalPath {local_path} does not lie in {ROOM}.")
    return root / "processing" / path.relative_to(ROOM)


def _message(root: Path) -> str:
    """Return what the process has written as its last words."""
    try:
        return (root / "output" / "message").read_bytes()[:MAX_FAILURE_REASON].decode("utf-8", "replace")
    except OSError:
        return ""


def _finish(document: dict[str, Any], status: str, reason: str) -> None:
    document["ProcessingEndTime"] = time.time()
    document["ProcessingJobStatus"] = status
    if reason:
        document["FailureReason"] = reason[:MAX_FAILURE_REASON]
