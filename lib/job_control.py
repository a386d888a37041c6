"""Name, submit and follow SageMaker jobs; read their logs.  `lib.jobs` says what is submitted.

A job's name is a function of the run id, the stage, the request and the ETags of its inputs.  So a
retried stage finds its own running or finished job and takes it up, and a changed hyperparameter or
changed input makes a new job.  A job that failed is not taken up: the next attempt gets the next name.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pandas as pd

from lib import storage
from lib.errors import ConnectionFailed, DataError, JobFailed, ServiceUnavailable

TRAINING_LOGS = "/aws/sagemaker/TrainingJobs"
TRANSFORM_LOGS = "/aws/sagemaker/TransformJobs"
LOG_GROUPS = {"training": TRAINING_LOGS, "transform": TRANSFORM_LOGS}
_FINISHED = ("Completed", "Failed", "Stopped")
_EPOCH_LINE = re.compile(r"#quality_metric: host=\S+, epoch=(\d+), train (\w+) <\w+>=(\S+)")
_LOCAL_LINE = re.compile(r"#local_metric: host=\S+, epoch=(\d+), test (\w+) <\w+>=(\S+)")
_PROGRESS_LINE = re.compile(r"#progress_metric: host=\S+, completed (\S+) % of epochs")
_LOG_LINES_SHOWN = 12
_LOG_ATTEMPTS = 20  # seconds that a finished job's log may be behind


def client() -> Any:
    """Return a boto3 client of SageMaker for the connected target."""
    import boto3

    return boto3.client("sagemaker")


class LogTail:
    """Reads a job's log lines as they come, each line once.

    Parameters
    ----------
    group : str
        ``/aws/sagemaker/TrainingJobs`` or ``/aws/sagemaker/TransformJobs``.
    job_name : str
        The job whose streams (one a host) are read.
    """

    def __init__(self, group: str, job_name: str) -> None:
        import boto3

        self._logs = boto3.client("logs")
        self._group = group
        self._prefix = f"{job_name}/"
        self._tokens: dict[str, str] = {}
        self._complained = False

    def new_lines(self) -> Iterator[str]:
        """Yield the lines that have come since the last call, oldest first within a stream.

        A log that cannot be read now (no permission, throttling) has no new lines: the job goes on without.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield from self._read()
        except (BotoCoreError, ClientError) as error:
            if not self._complained:
                print(f"The log {self._group}/{self._prefix}… cannot be read: {error}")
            self._complained = True

    def _read(self) -> Iterator[str]:
        try:
            pages = self._logs.get_paginator("describe_log_streams").paginate(
                logGroupName=self._group, logStreamNamePrefix=self._prefix
            )
            streams = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
        except self._logs.exceptions.ResourceNotFoundException:
            return
        for stream in streams:
            while True:
                last = self._tokens.get(stream)
                page = self._logs.get_log_events(
                    logGroupName=self._group,
                    logStreamName=stream,
                    startFromHead=True,
                    **({"nextToken": last} if last else {}),
                )
                self._tokens[stream] = page["nextForwardToken"]
                yield from (event["message"] for event in page["events"])
                if page["nextForwardToken"] == last:
                    break


def learning_curve(job_name: str) -> pd.DataFrame:
    """Return the training metrics of each epoch, read from the job's log.

    Returns
    -------
    DataFrame
        Indexed by ``epoch`` (from 0; of a Bayesian model by its sweeps), one float column a metric: ``rmse``,
        ``mse``, ``absolute_loss``; where a local extension has measured the test channel, ``test_rmse`` and so on.

    Raises
    ------
    DataError
        When the log has no such line: CloudWatch may be some seconds behind the job, so it is asked for a while.
    """
    tail, rows = LogTail(TRAINING_LOGS, job_name), dict[int, dict[str, float]]()
    for _ in range(_LOG_ATTEMPTS):
        curve = _curve(tail.new_lines(), rows)
        if len(curve):
            return curve
        time.sleep(1)
    raise DataError(
        f"The log of the training job {job_name} has no training metrics.",
        hint="Run the stage again later: it takes up the finished job.",
    )


def _curve(lines: Iterator[str], rows: dict[int, dict[str, float]]) -> pd.DataFrame:
    """Add the epoch lines among ``lines`` to ``rows`` and return them all as a table."""
    for line in lines:
        for pattern, prefix in ((_EPOCH_LINE, ""), (_LOCAL_LINE, "test_")):
            match = pattern.search(line)
            if match:
                rows.setdefault(int(match[1]), {})[prefix + match[2]] = float(match[3])
    curve = pd.DataFrame.from_dict(rows, orient="index").sort_index()
    curve.index.name = "epoch"
    return curve


def stem(run_id: str) -> str:
    """Return the part of a run id that all names of the run contain: tuning job names are short."""
    return run_id[:18].rstrip("-")


def job_name(run_id: str, word: str, identity: Any, length: int = 63) -> str:
    """Return ``RUN-WORD-DIGEST``, at most ``length`` characters; the digest is that of ``identity``."""
    digest = hashlib.sha256(json.dumps([run_id, identity], sort_keys=True, default=str).encode()).hexdigest()
    room = length - len(word) - 10
    start = run_id if len(run_id) <= room else stem(run_id)
    return f"{start}-{word}-{digest[:8]}"


def find(describe: Callable[..., Any], **name: str) -> dict[str, Any] | None:
    """Return what ``describe(**name)`` answers, or None where there is no such thing.

    Raises
    ------
    ConnectionFailed
        When SageMaker does not answer, or the credentials are refused.
    """
    from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError

    try:
        answer: dict[str, Any] = describe(**name)
    except ClientError as error:
        message = error.response["Error"].get("Message", "")
        code = error.response["Error"].get("Code", "")
        if code == "ResourceNotFound" or "not found" in message or "Could not find" in message:
            return None
        raise ConnectionFailed(
            f"SageMaker refused to answer: {code}: {message.rstrip('.')}.",
            hint="Check the credentials and what they are allowed to do.",
        ) from error
    except (EndpointConnectionError, HTTPClientError) as error:
        raise _no_answer(error) from error
    return answer


LONGEST_NAME = {"training": 63, "tuning": 32, "transform": 63}  # characters that SageMaker allows

_JOBS: dict[str, dict[str, str]] = {
    "training": {"op": "describe_training_job", "key": "TrainingJob", "logs": TRAINING_LOGS},
    "tuning": {"op": "describe_hyper_parameter_tuning_job", "key": "HyperParameterTuningJob", "logs": ""},
    "transform": {"op": "describe_transform_job", "key": "TransformJob", "logs": TRANSFORM_LOGS},
}


def _describe(kind: str, name: str) -> dict[str, Any] | None:
    return find(getattr(client(), _JOBS[kind]["op"]), **{_JOBS[kind]["key"] + "Name": name})


def etags(*uris: str) -> dict[str, str]:
    """Return the ETags of the objects under S3 URIs, by the objects' URIs."""
    return {item.uri: item.etag for uri in uris for item in storage.list_objects(uri)}


def identity(request: dict[str, Any], *inputs: str, output: Any = None) -> dict[str, Any]:
    """Return what makes a job this job, for its name: its request and the ETags of its inputs.

    Parameters
    ----------
    request : dict
        From `lib.job_requests`.
    *inputs : str
        S3 URIs of what the job reads.
    output : any JSON value, optional
        Where its output goes, where the request does not say so.
    """
    made = {"request": request, "inputs": etags(*inputs)}
    return made if output is None else {**made, "output": output}


def choose_name(kind: str, run_id: str, word: str, identity: Any) -> tuple[str, str]:
    """Return the name of the job for a request: of the one that an earlier attempt left, or of a new one.

    Parameters
    ----------
    kind : str
        ``training``, ``tuning`` or ``transform``.
    identity : any JSON value
        From `identity`.

    Returns
    -------
    name : str
    status : str
        ``InProgress`` or ``Completed``; empty where there is no such job yet.

    Raises
    ------
    JobFailed
        When too many attempts have failed.
    ConnectionFailed
        When SageMaker does not answer.
    """
    for attempt in range(100):
        name = job_name(run_id, word, [identity, attempt], LONGEST_NAME[kind])
        found = _describe(kind, name)
        status = str(found[_JOBS[kind]["key"] + "Status"]) if found else ""
        if found is None or status == "InProgress" or (status == "Completed" and _output_exists(kind, found)):
            return name, status
    raise JobFailed(f"The {kind} job of run {run_id} failed 100 times.", job=name)


def submit(kind: str, run_id: str, word: str, identity: Any, create: Callable[[str], None]) -> str:
    """Create the job, or take up the one that an earlier attempt at the same request left.

    Parameters
    ----------
    kind, run_id, word, identity
        As of `choose_name`.
    create : callable
        Creates the job under the name it is given.

    Returns
    -------
    str
        The job's name.

    Raises
    ------
    JobFailed
        When SageMaker refuses the request.
    """
    name, status = choose_name(kind, run_id, word, identity)
    if status:
        print(f"Took up the {kind} job {name}, which is {status}: same request, same inputs.")
        return name
    with refusals_explained(kind, name):
        create(name)
    return name


@contextmanager
def refusals_explained(kind: str, name: str) -> Iterator[None]:
    """Turn what SageMaker answers to a request it refuses into one sentence.

    Raises
    ------
    JobFailed
        When SageMaker refuses the request.
    ConnectionFailed
        When it does not answer.
    """
    from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError

    what = f"{kind} job" if kind in _JOBS else kind
    try:
        yield
    except ClientError as error:
        reason = error.response["Error"].get("Message", str(error))
        raise JobFailed(
            f"SageMaker refused the {what} {name}: {reason}",
            job=name,
            reason=reason,
            hint="Correct the parameter it names and run the stage again.",
        ) from error
    except (EndpointConnectionError, HTTPClientError) as error:
        raise _no_answer(error) from error


def _no_answer(error: Exception) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"SageMaker does not answer: {str(error).rstrip('.')}.",
        hint="Run the stage again: it takes up a job that still runs.",
    )


def _output_exists(kind: str, answer: dict[str, Any]) -> bool:
    if kind == "training":
        return storage.exists(answer["ModelArtifacts"]["S3ModelArtifacts"])
    if kind == "transform":
        inputs = storage.list_objects(answer["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])
        outputs = storage.list_objects(answer["TransformOutput"]["S3OutputPath"] + "/")
        return bool(outputs) and len(outputs) == len(inputs)
    best = answer.get("BestTrainingJob")
    found = _describe("training", best["TrainingJobName"]) if best else None
    return found is not None and _output_exists("training", found)


def wait(
    kind: str, name: str, show: Callable[[dict[str, Any]], None], *, stop_on_interrupt: bool = False
) -> dict[str, Any]:
    """Poll until the job has ended, showing its progress, and return its description.

    Parameters
    ----------
    kind, name : str
        Which job.
    show : callable
        Called with every description of the job.
    stop_on_interrupt : bool
        Stop the job when the waiting is interrupted (KeyboardInterrupt); otherwise it goes on.

    Raises
    ------
    JobFailed
        Unless the job completed; its last log lines are printed and carried by the error.
    """
    try:
        answer = _wait(kind, name, show)
    except KeyboardInterrupt:
        if stop_on_interrupt:
            _stop(kind, name)
        raise
    status = answer[_JOBS[kind]["key"] + "Status"]
    if status == "Completed":
        return answer
    group = _JOBS[kind]["logs"]
    lines = list(LogTail(group, name).new_lines())[-_LOG_LINES_SHOWN:] if group else []
    if lines:
        print(f"The last lines of the log of {name}:", *lines, sep="\n  ")
    reason = answer.get("FailureReason") or answer.get("SecondaryStatus") or status
    raise JobFailed(
        f"The {kind} job {name} ended as {status}: {reason}".rstrip(".") + ".",
        job=name,
        reason=reason,
        log_lines=lines,
        hint="Correct what the reason names and run the stage again; a new job will be submitted.",
    )


def _wait(kind: str, name: str, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Poll until the job has ended, and return its description."""
    started = time.monotonic()
    while True:
        answer = _describe(kind, name)
        if answer is None:
            raise JobFailed(f"The {kind} job {name} has vanished.", job=name)
        show(answer)
        if answer[_JOBS[kind]["key"] + "Status"] in _FINISHED:
            return answer
        time.sleep(min(10.0, max(0.25, 0.05 * (time.monotonic() - started))))


def _stop(kind: str, name: str) -> None:
    """Ask SageMaker to stop a job; one that has just ended cannot be stopped, and need not."""
    from botocore.exceptions import ClientError

    with suppress(ClientError):
        getattr(client(), _JOBS[kind]["op"].replace("describe_", "stop_"))(
            **{_JOBS[kind]["key"] + "Name": name}
        )
        print(f"The {kind} job {name} was asked to stop.")


def wait_until_ended(kind: str, name: str, seconds: float = 180) -> bool:
    """Wait for a job that was stopped: it may still upload.  Return whether it has ended in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = _describe(kind, name)
        if answer is None or answer[_JOBS[kind]["key"] + "Status"] in _FINISHED:
            return True
        time.sleep(0.5)
    return False


# ---- progress: each yields the function that `wait` calls with every description of the job

Show = Callable[[dict[str, Any]], None]


@contextmanager
def epochs_shown(name: str, epochs: int, progress: bool) -> Iterator[Show]:
    """Show a training job's epochs and last training metrics on one line, read from its log."""
    tail, rows = LogTail(TRAINING_LOGS, name), dict[int, dict[str, float]]()

    def show(answer: dict[str, Any]) -> None:
        lines = list(tail.new_lines())
        done = [float(match[1]) for line in lines if (match := _PROGRESS_LINE.search(line))]
        curve = _curve(iter(lines), rows)
        bar.set_description(answer.get("SecondaryStatus", ""), refresh=False)
        if done:
            bar.n = round(done[-1] / 100 * epochs)
        if len(curve):
            metrics = {str(metric): f"{value:.4f}" for metric, value in curve.iloc[-1].items()}
            bar.set_postfix(metrics, refresh=False)
        bar.refresh()

    with _bar(epochs, "epoch", progress) as bar:
        yield show


@contextmanager
def jobs_shown(max_jobs: int, progress: bool) -> Iterator[Show]:
    """Show how many training jobs of a tuning job are done, and the best objective."""

    def show(answer: dict[str, Any]) -> None:
        counts = answer["TrainingJobStatusCounters"]
        bar.n = counts["Completed"] + counts["NonRetryableError"] + counts["Stopped"]
        best = answer.get("BestTrainingJob", {}).get("FinalHyperParameterTuningJobObjectiveMetric")
        if best:
            bar.set_postfix({best["MetricName"]: f"{best['Value']:.4f}"}, refresh=False)
        bar.refresh()

    with _bar(max_jobs, "job", progress) as bar:
        yield show


@contextmanager
def objects_shown(output_uri: str, objects: int, progress: bool) -> Iterator[Show]:
    """Show how many objects a transform job has answered."""

    def show(answer: dict[str, Any]) -> None:
        bar.n = len(storage.list_objects(output_uri))
        bar.refresh()

    with _bar(objects, "object", progress) as bar:
        yield show


def _bar(total: int, unit: str, progress: bool) -> Any:
    from lib.progress import bar

    return bar(total=total, unit=unit, disable=not progress)
