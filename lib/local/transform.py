"""Batch transform jobs: a serving process answers every object under an S3 prefix.

The process is the algorithm's own server in the container contract (``GET /ping``, ``POST /invocations``)
on a loopback port.  Objects are taken in the order of their keys, several at once; each becomes ``KEY.out``.
(AWS: "Batch transform for inference with Amazon SageMaker AI".)
"""

from __future__ import annotations

import gzip
import shutil
import threading
import time
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.local import inputs, processing
from lib.local.algorithm import refuse_unless, unsupported
from lib.local.container import MAX_FAILURE_REASON
from lib.local.inputs import Found, JobError
from lib.local.job_registry import INTERRUPTED, JobRegistry
from lib.local.logs import Logs, LogStream
from lib.local.objects import DEFAULT_CONTENT_TYPE, Objects
from lib.local.protocol import AwsError
from lib.local.serving import Invoker, ModelServer
from lib.local.splitting import DEFAULT_PAYLOAD_MB, MAX_PAYLOAD_MB, is_single, mapped, payloads
from lib.local.store import MODEL, TRANSFORM_JOB, Store
from lib.local.supervise import JobQueue

LOG_GROUP = "/aws/sagemaker/TransformJobs"

_DEFAULT_TIMEOUT_SECONDS = 600
_DEFAULT_RETRIES = 3


class TransformJobs(JobRegistry["_TransformRun"]):
    """The batch transform jobs of the local SageMaker; parameters as of `lib.local.jobs.TrainingJobs`.

    What a job that is stopped has stored is removed again.
    """

    def __init__(self, folder: Path, store: Store, objects: Objects, logs: Logs, queue: JobQueue) -> None:
        super().__init__(TRANSFORM_JOB, store, queue)
        self.folder = folder
        self.objects = objects
        self.logs = logs

    def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """Start a job: CreateTransformJob.

        Raises
        ------
        AwsError
            ValidationException or ResourceInUse.
        """
        self._check(params)
        name = params["TransformJobName"]
        return self.start(name, _document(params), _TransformRun(self, name), params)

    def fail(self, document: dict[str, Any], reason: str) -> None:
        """Note in a job's document that it has failed now."""
        _finish(document, reason)

    def _check(self, params: dict[str, Any]) -> None:
        model = self.store.get(MODEL, params["ModelName"])
        source = params["TransformInput"]
        split = source.get("SplitType", "None")
        if params.get("BatchStrategy") == "SingleRecord" and split == "None":
            raise AwsError("ValidationException", "BatchStrategy SingleRecord needs a SplitType.")
        payload, concurrent = params.get("MaxPayloadInMB", 0), params.get("MaxConcurrentTransforms") or 1
        if payload * concurrent > MAX_PAYLOAD_MB:
            raise AwsError(
                "ValidationException",
                f"MaxConcurrentTransforms * MaxPayloadInMB is {payload * concurrent}, "
                f"but must not exceed {MAX_PAYLOAD_MB} MB.",
            )
        refuse_unless(split, ("None", "Line", "RecordIO"), "SplitType")
        refuse_unless(source.get("CompressionType"), ("None", "Gzip"), "TransformInput.CompressionType")
        processing.check(params)
        if params.get("DataCaptureConfig"):
            raise unsupported("DataCaptureConfig")
        inputs.check_source(source["DataSource"], "TransformInput.DataSource")
        role = model.get("ExecutionRoleArn", "")
        inputs.find(self.objects, source["DataSource"]["S3DataSource"], role)
        output = params["TransformOutput"]["S3OutputPath"]
        inputs.check_output(self.objects, output, "TransformOutput.S3OutputPath")


class _TransformRun:
    """One batch transform job on its way, in a thread of the queue."""

    def __init__(self, jobs: TransformJobs, name: str) -> None:
        self._jobs = jobs
        self._name = name
        self._folder = jobs.folder / f"transform-{uuid.uuid4().hex}"
        self._lock = threading.Lock()
        self._server: ModelServer | None = None
        self._ended = self._shut_down = False
        self._stored: list[tuple[str, str]] = []

    def end(self, *, shutdown: bool = False) -> None:
        """End the job early; a job that still waits in the queue ends here and now."""
        with self._lock:
            self._ended = True
            self._shut_down = self._shut_down or shutdown
            if self._server:
                self._server.kill()
        if self._jobs.queue.withdraw(self._name):
            self.work()

    def work(self) -> None:
        """Take the job from its first step to its end."""
        failure: str | None = None
        try:
            if not self._ended:
                self._transform(self._jobs.store.get(TRANSFORM_JOB, self._name))
        except JobError as error:
            failure = str(error)
        except AwsError as error:  # the model was deleted, say
            failure = f"ClientError: {error.message}"
        except Exception as error:  # a fault of the server, not of the job: say so where users look
            failure = f"InternalServerError: {type(error).__name__}: {error}"
        shutil.rmtree(self._folder, ignore_errors=True)

        def change(document: dict[str, Any]) -> None:
            if self._shut_down:
                _finish(document, INTERRUPTED)
            elif document["TransformJobStatus"] == "Stopping":
                self._remove_output()
                _finish(document, None, stopped=True)
            else:
                _finish(document, failure)

        try:
            self._jobs.store.settle(TRANSFORM_JOB, self._name, change)
        finally:
            self._jobs.forget(self._name)

    def _transform(self, document: dict[str, Any]) -> None:
        started = time.time()
        self._jobs.store.update(
            TRANSFORM_JOB, self._name, lambda document: document.update(TransformStartTime=started)
        )
        model = self._jobs.store.get(MODEL, document["ModelName"])
        stream = f"{self._name}/i-{uuid.uuid4().hex[:17]}-{int(started)}"
        with (
            self._jobs.logs.open_stream(LOG_GROUP, stream) as log,
            self._jobs.logs.open_stream(LOG_GROUP, f"{stream}/data-log") as data_log,
            self._served(model, document, log) as port,
        ):
            note = _note_writer(data_log)
            note(
                f"MaxConcurrentTransforms={document.get('MaxConcurrentTransforms') or 1}, "
                f"MaxPayloadInMB={document.get('MaxPayloadInMB', DEFAULT_PAYLOAD_MB)}, "
                f"BatchStrategy={'SINGLE_RECORD' if is_single(document) else 'MULTI_RECORD'}"
            )
            failures = self._transform_objects(document, self._find(document, model), port, note)
        if failures and not self._ended:
            kind = str(failures[0]).partition(":")[0]
            raise JobError(f"{kind}: See job logs for more information")

    def _transform_objects(
        self, document: dict[str, Any], found: list[Found], port: int, note: Callable[[str], None]
    ) -> list[JobError]:
        """Transform objects, MaxConcurrentTransforms at once; return what failed, in the objects' order."""
        settings = processing.Processing(document)
        left, failures = deque(enumerate(found)), {}

        def work(_: int) -> None:
            with closing(_invoker(port, document)) as invoker:
                while not self._ended:
                    try:
                        number, one = left.popleft()
                    except IndexError:
                        return
                    try:
                        self._transform_object(document, one, invoker, settings)
                    except JobError as error:
                        if not self._ended:
                            note(f"{one.item.key}: {error}")
                            failures[number] = error

        at_once = min(document.get("MaxConcurrentTransforms") or 1, len(found))
        with ThreadPoolExecutor(at_once, thread_name_prefix=f"transform {self._name}") as pool:
            for done in [pool.submit(work, number) for number in range(at_once)]:
                done.result()
        return [failures[number] for number in sorted(failures)]

    def _find(self, document: dict[str, Any], model: dict[str, Any]) -> list[Found]:
        source = document["TransformInput"]["DataSource"]["S3DataSource"]
        try:
            return inputs.find(self._jobs.objects, source, model.get("ExecutionRoleArn", ""))
        except AwsError as error:
            raise JobError(f"ClientError: {error.message}") from None

    def _transform_object(
        self, document: dict[str, Any], found: Found, invoker: Invoker, settings: processing.Processing
    ) -> None:
        """Send one object to the model, piece by piece, and store the answers as ``KEY.out``."""
        output = document["TransformOutput"]
        line_by_line = output.get("AssembleWith") == "Line"
        answers = self._folder / f"answers-{uuid.uuid4().hex}"
        with (
            self._plain(document, found) as path,
            mapped(path) as data,
            answers.open("wb") as file,
        ):
            for payload in payloads(data, document):
                answer = settings.stored(payload, invoker.invoke(settings.sent(payload)))
                file.write(answer)
                if line_by_line and not answer.endswith(b"\n"):
                    file.write(b"\n")
        bucket, key = inputs.split_uri(
            f"{output['S3OutputPath'].rstrip('/')}/{found.relative}.out", "S3OutputPath"
        )
        try:
            content_type = output.get("Accept") or DEFAULT_CONTENT_TYPE
            self._jobs.objects.put_file(bucket, key, answers, content_type=content_type)
        except AwsError as error:
            raise JobError(f"ClientError: The output cannot be stored: {error.message}") from None
        answers.unlink(missing_ok=True)
        self._stored.append((bucket, key))

    @contextmanager
    def _plain(self, document: dict[str, Any], found: Found) -> Iterator[Path]:
        """Give the file of an object's bytes, unpacked where they are gzipped."""
        if document["TransformInput"].get("CompressionType") != "Gzip":
            yield found.item.path
            return
        unpacked = self._folder / f"unpacked-{uuid.uuid4().hex}"
        try:
            try:
                inputs.unpack(found.item.path, unpacked)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise JobError(f"ClientError: The object is no whole gzip file: {error}") from None
            except FileNotFoundError:
                raise JobError("ClientError: The object has gone since it was listed") from None
            except OSError as error:
                raise JobError(f"ClientError: The object cannot be unpacked: {error.strerror}") from None
            yield unpacked
        finally:
            unpacked.unlink(missing_ok=True)

    def _remove_output(self) -> None:
        for bucket, key in self._stored:
            try:
                self._jobs.objects.delete(bucket, key)
            except AwsError:  # it is gone, which is what is wanted
                continue

    @contextmanager
    def _served(self, model: dict[str, Any], document: dict[str, Any], log: LogStream) -> Iterator[int]:
        """Run the model's server and give the port it answers on."""
        variables = {**document.get("Environment", {}), "SAGEMAKER_BATCH": "true"}
        folder = self._folder / "server"
        folder.mkdir(parents=True)
        server = ModelServer(folder, model, variables, self._jobs.objects, log)
        try:
            with self._lock:
                self._server = server
                if self._ended:
                    raise JobError("ClientError: The job was stopped.")
            server.wait_until_ready()
            yield server.port
        finally:
            server.close()


def _invoker(port: int, document: dict[str, Any]) -> Invoker:
    settings = document.get("ModelClientConfig", {})
    headers = {
        "Content-Type": document["TransformInput"].get("ContentType"),
        "Accept": document["TransformOutput"].get("Accept"),
    }
    return Invoker(
        port,
        {name: value for name, value in headers.items() if value},
        settings.get("InvocationsTimeoutInSeconds", _DEFAULT_TIMEOUT_SECONDS),
        settings.get("InvocationsMaxRetries", _DEFAULT_RETRIES),
    )


def _note_writer(log: LogStream) -> Callable[[str], None]:
    """Return a function that writes lines as the data-log of a job on AWS has them."""

    def note(text: str) -> None:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        log.write(f"{moment}:[sagemaker logs]: {text}")

    return note


def _document(params: dict[str, Any]) -> dict[str, Any]:
    """Return a new job's description: the request's members, and what AWS fills in."""
    kept = {name: value for name, value in params.items() if name not in ("TransformJobName", "Tags")}
    return {
        **kept,
        "TransformInput": {"CompressionType": "None", "SplitType": "None", **params["TransformInput"]},
        "TransformOutput": {"AssembleWith": "None", "KmsKeyId": "", **params["TransformOutput"]},
        "DataProcessing": {
            "InputFilter": "$",
            "OutputFilter": "$",
            "JoinSource": "None",
            **params.get("DataProcessing", {}),
        },
        "TransformJobStatus": "InProgress",
    }


def _finish(document: dict[str, Any], failure: str | None, *, stopped: bool = False) -> None:
    document["TransformEndTime"] = time.time()
    document["TransformJobStatus"] = (
        "Stopped" if stopped else "Failed" if failure is not None else "Completed"
    )
    if failure is not None:
        document["FailureReason"] = failure[:MAX_FAILURE_REASON]
