"""A model's serving process: the algorithm's server on a loopback port, in the container contract.

(AWS: "Custom Inference Code with Hosting Services", ``GET /ping`` and ``POST /invocations``.)
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from lib.errors import ModelError
from lib.local import algorithm, archive, inputs
from lib.local.inputs import JobError
from lib.local.logs import LogStream
from lib.local.objects import Objects
from lib.local.protocol import AwsError
from lib.local.store import REGION
from lib.local.supervise import Child, child_environment

_START_SECONDS = 120.0
_END_SECONDS = 5.0
_PING_SECONDS = 0.05
_MAX_SAID = 1024
_NO_PING = (
    "AlgorithmError: Model container failed to respond to ping; Ensure /ping endpoint is implemented and "
    "responds with an HTTP 200 status code"
)


def container_of(model: dict[str, Any]) -> dict[str, Any]:
    """Return the one container of a model's description."""
    container: dict[str, Any] = (
        model["PrimaryContainer"] if "PrimaryContainer" in model else model["Containers"][0]
    )
    return container


def model_data_uri(container: dict[str, Any]) -> str:
    """Return the S3 URI of a container's ``model.tar.gz``."""
    uri: str = container.get("ModelDataUrl") or container["ModelDataSource"]["S3DataSource"]["S3Uri"]
    return uri


class ModelServer:
    """The serving process of a model.

    Parameters
    ----------
    folder : Path
        An empty folder of the process's own; ``ml`` in it stands for ``/opt/ml``.
    model : dict
        The model's description.
    variables : dict
        Environment variables beside those of the model.
    objects : Objects
        Where the model's archive is.
    log : LogStream
        Where the process's output goes.

    Raises
    ------
    JobError
        When the model's archive is gone or cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        model: dict[str, Any],
        variables: dict[str, str],
        objects: Objects,
        log: LogStream,
    ) -> None:
        root = folder / "ml"
        (root / "model").mkdir(parents=True)
        container = container_of(model)
        bucket, key = inputs.split_uri(model_data_uri(container), "ModelDataUrl")
        try:
            archive.unpack(objects.get(bucket, key).path, root / "model")
        except (AwsError, ModelError) as error:
            raise JobError(f"ClientError: The model data cannot be used: {error.message}") from None
        self.port = _free_port()
        environment = child_environment(
            {**container.get("Environment", {}), **variables, "AWS_REGION": REGION}
        )
        self._child = Child(algorithm.serve_command(root, self.port), folder, environment)
        self._reader = threading.Thread(target=self._copy_output, args=(log,), daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._child.running

    def wait_until_ready(self) -> None:
        """Wait for the first answer to ``/ping``.

        Raises
        ------
        JobError
            When the process ends before it, or takes too long.
        """
        deadline = time.monotonic() + _START_SECONDS
        while self._child.running and time.monotonic() < deadline:
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
                    connection.request("GET", "/ping")
                    if connection.getresponse().status == 200:
                        return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(_PING_SECONDS)
        raise JobError(_NO_PING)

    def kill(self) -> None:
        """End the process at once; requests that are under way fail."""
        self._child.kill()

    def close(self) -> None:
        """End the process and wait until its last output is in the log."""
        self._child.end(_END_SECONDS)
        self._child.wait()
        self._reader.join()

    def _copy_output(self, log: LogStream) -> None:
        for line in self._child.lines():
            log.write(line)


class Invoker:
    """Sends payloads to a server's ``/invocations`` over one connection.

    Parameters
    ----------
    port : int
        The server's port.
    headers : dict
        Content-Type and Accept.
    timeout : float
        Seconds to wait for an answer.
    retries : int
        How often a request that met a fault of the server is sent again.
    """

    def __init__(self, port: int, headers: dict[str, str], timeout: float, retries: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._headers = headers
        self._retries = retries

    def invoke(self, payload: memoryview) -> bytes:
        """Return the model's answer.

        Raises
        ------
        JobError
            ClientError for an answer 4xx, AlgorithmError for 5xx or none at all.
        """
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                self._connection.request("POST", "/invocations", payload, self._headers)
                answer = self._connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()
                if last:
                    break
                continue
            if answer.status == 200:
                return body
            if answer.status < 500 or last:
                kind = "ClientError" if answer.status < 500 else "AlgorithmError"
                said = body[:_MAX_SAID].decode("utf-8", "replace").strip()
                raise JobError(f"{kind}: Bad HTTP status received from algorithm: {answer.status} {said}")
        raise JobError("AlgorithmError: Unable to get response from algorithm")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
