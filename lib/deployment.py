"""Models served live: a SageMaker endpoint is made and waited for, and asked for predictions.

The same on AWS and on the local AWS.  `lib.cleanup` deletes what is made here.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from lib import job_control, job_requests, jobs, recordio, settings
from lib.aws import Account
from lib.errors import JobFailed, ModelError
from lib.progress import bar as bar_of

MAX_PAYLOAD_BYTES = 5 * 10**6
"""What a request may have at most: all of SageMaker's real-time quotas, old and new, are above it."""

_ATTEMPTS = 100
_TOLERANCE = 1e-4  # of float32 sums in another order
_MAX_ROWS = 10_000
_IN_PROGRESS = ("Creating", "Updating", "SystemUpdating", "RollingBack")
_LOG_GROUP = "/aws/sagemaker/Endpoints"


@dataclass(frozen=True)
class Deployment:
    """What serves a model: the names of the model, the endpoint config and the endpoint."""

    model_name: str
    endpoint_config_name: str
    endpoint_name: str


def deploy(
    account: Account,
    run_id: str,
    *,
    model_uri: str,
    endpoint: dict[str, Any] | None = None,
    progress: bool = True,
) -> Deployment:
    """Serve a model at a SageMaker endpoint and wait until it answers.

    An endpoint that an earlier attempt at the same left is taken up.

    Parameters
    ----------
    account : Account
        From ``lib.aws.connect``.
    run_id : str
        The run that it belongs to; part of the names, and the tag.
    model_uri : str
        The S3 URI of ``model.tar.gz``.
    endpoint : dict
        See `lib.settings.EndpointResources`.

    Raises
    ------
    ParameterError
        For an unknown resource.
    JobFailed
        When SageMaker refuses it, or the endpoint does not come up; the last lines of its log are printed.
    """
    from sagemaker.core.resources import Endpoint, EndpointConfig
    from sagemaker.core.shapes import ProductionVariant

    resources = settings.validate(settings.EndpointResources, endpoint, "endpoint")
    tags = job_requests.tags(account, run_id, "deploy")
    model = jobs.create_model(account, run_id, "deploy", model_uri=model_uri, image_uri=resources.image_uri)
    made_of = {"model": model, "resources": resources.model_dump(), "kms_key": account.kms_key}
    config = job_control.job_name(run_id, "endpoint-config", made_of, 63)
    client = job_control.client()
    if not job_control.find(client.describe_endpoint_config, EndpointConfigName=config):
        variant = ProductionVariant(
            variant_name="all",
            model_name=model,
            instance_type=resources.instance_type,
            initial_instance_count=resources.instance_count,
        )
        with job_control.refusals_explained("endpoint config", config):
            EndpointConfig.create(
                endpoint_config_name=config,
                production_variants=[variant],
                tags=tags,
                **({"kms_key_id": account.kms_key} if account.kms_key else {}),
            )
    for attempt in range(_ATTEMPTS):
        name = job_control.job_name(run_id, "endpoint", [made_of, attempt], 63)
        found = job_control.find(client.describe_endpoint, EndpointName=name)
        if found is None:
            with job_control.refusals_explained("endpoint", name):
                Endpoint.create(endpoint_name=name, endpoint_config_name=config, tags=tags)
        elif found["EndpointStatus"] not in ("InService", *_IN_PROGRESS):
            continue
        else:
            print(
                f"Took up the endpoint {name}, which is {found['EndpointStatus']}: same model, same resources."
            )
        _wait(name, progress)
        return Deployment(model, config, name)
    raise JobFailed(f"The endpoint of run {run_id} failed {_ATTEMPTS} times.", job=name)


class Predictor:
    """Asks an endpoint for the scores of rows.

    Parameters
    ----------
    endpoint_name : str

    Attributes
    ----------
    seconds : list of float
        How long each request took.
    """

    def __init__(self, endpoint_name: str) -> None:
        import boto3

        self.endpoint_name = endpoint_name
        self.seconds: list[float] = []
        self._client = boto3.client("sagemaker-runtime")

    def predict(self, X: sp.csr_matrix) -> np.ndarray:
        """Return the endpoint's scores, in as many requests as the rows need.

        Parameters
        ----------
        X : csr_matrix, shape (n, feature_dim)

        Returns
        -------
        ndarray, float64, shape (n,)

        Raises
        ------
        ModelError
            When the endpoint cannot be asked, or the model refuses the rows; the sentence has its words.
        """
        scores = [self._ask(payload, rows) for payload, rows in _payloads(X)]
        return np.concatenate(scores) if scores else np.zeros(0)

    def milliseconds(self, X: sp.csr_matrix, requests: int) -> float:
        """Return the median time that one request for the rows takes, over so many requests."""
        before = len(self.seconds)
        for _ in range(requests):
            self.predict(X)
        return float(np.median(self.seconds[before:])) * 1000

    def _ask(self, payload: bytes, rows: int) -> np.ndarray:
        from botocore.exceptions import BotoCoreError, ClientError

        began = time.perf_counter()
        try:
            answer = self._client.invoke_endpoint(
                EndpointName=self.endpoint_name,
                ContentType=job_requests.RECORDIO,
                Accept="application/json",
                Body=payload,
            )
            body = answer["Body"].read()
        except ClientError as error:
            answered: Any = error.response
            said = answered.get("OriginalMessage") or answered["Error"].get("Message", str(error))
            raise ModelError(
                f"The endpoint {self.endpoint_name} did not answer: {said.rstrip('.')}."
            ) from error
        except BotoCoreError as error:
            raise ModelError(f"The endpoint {self.endpoint_name} cannot be asked: {error}") from error
        self.seconds.append(time.perf_counter() - began)
        try:
            scores = np.array([item["score"] for item in json.loads(body)["predictions"]], np.float64)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"The endpoint {self.endpoint_name} answered what are no predictions: {body[:80]!r}."
            ) from error
        if len(scores) != rows:
            raise ModelError(
                f"The endpoint {self.endpoint_name} answered {rows} rows with {len(scores)} scores."
            )
        return scores


def check_agreement(served: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference between an endpoint's scores and those they should be.

    Parameters
    ----------
    served, wanted : array, shape (n,)
        Scores of the same rows.

    Raises
    ------
    ModelError
        When they differ by more than rounding: the endpoint serves another model.
    """
    difference = np.abs(served - wanted)
    worst = int(difference.argmax())
    if not difference[worst] <= _TOLERANCE * (1 + abs(wanted[worst])):
        raise ModelError(
            f"The endpoint scores row {worst} {served[worst]:.6g}, but it should be {wanted[worst]:.6g}.",
            hint="It serves another model: run the stages from 05_transform again.",
        )
    return float(difference[worst])


def _payloads(X: sp.csr_matrix) -> Iterator[tuple[bytes, int]]:
    """Cut rows into recordIO-protobuf payloads that one request may have, each with its number of rows."""
    start = 0
    while start < X.shape[0]:
        stop = min(start + _MAX_ROWS, X.shape[0])
        payload = _encode(X[start:stop])
        while len(payload) > MAX_PAYLOAD_BYTES and stop - start > 1:
            stop = start + (stop - start) // 2
            payload = _encode(X[start:stop])
        yield payload, stop - start
        start = stop


def _encode(X: sp.csr_matrix) -> bytes:
    file = io.BytesIO()
    recordio.write(file, X)
    return file.getvalue()


def _wait(name: str, progress: bool) -> None:
    """Wait until an endpoint answers; raise JobFailed where it comes to nothing."""
    began = time.monotonic()
    with bar_of(total=1, unit="endpoint", disable=not progress) as bar:
        while True:
            answer = job_control.find(job_control.client().describe_endpoint, EndpointName=name)
            status = answer["EndpointStatus"] if answer else "Deleted"
            bar.set_description(status)
            if answer is None or status not in _IN_PROGRESS:
                break
            time.sleep(min(10.0, max(0.1, 0.05 * (time.monotonic() - began))))
        bar.n = int(status == "InService")
    if status == "InService":
        return
    lines = list(job_control.LogTail(f"{_LOG_GROUP}/{name}", "all").new_lines())[-12:]
    if lines:
        print(f"The last lines of the log of {name}:", *lines, sep="\n  ")
    reason = (answer or {}).get("FailureReason", status)
    raise JobFailed(
        f"The endpoint {name} ended as {status}: {reason}".rstrip(".") + ".",
        job=name,
        reason=reason,
        log_lines=lines,
        hint="Correct what the reason names and run the stage again; a new endpoint will be made.",
    )
