"""The serving processes behind an endpoint: one a production variant, and who gets the next request.

A process is started when its endpoint is made or updated, and again when a request finds that it has died
or that the server was started anew.  An endpoint's processes change all at once (`Deployment`): requests
go to the old ones until the new ones answer, and the old ones end when their last request is answered.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.local.inputs import JobError
from lib.local.logs import Logs, LogStream
from lib.local.objects import Objects
from lib.local.protocol import AwsError
from lib.local.serving import ModelServer

LOG_GROUP = "/aws/sagemaker/Endpoints"


class Variant:
    """One production variant of an endpoint and its serving process.

    Parameters
    ----------
    endpoint : str
        The endpoint's name.
    description : dict
        The variant as the endpoint config has it (ProductionVariant).
    model : dict
        The description of its model.
    folder : Path
        Where the process gets a folder of its own.
    objects, logs
        S3 and CloudWatch Logs.
    """

    def __init__(
        self,
        endpoint: str,
        description: dict[str, Any],
        model: dict[str, Any],
        folder: Path,
        objects: Objects,
        logs: Logs,
    ) -> None:
        self.name: str = description["VariantName"]
        self._endpoint = endpoint
        self._model = model
        self._folder = folder
        self._objects = objects
        self._logs = logs
        self._lock = threading.Lock()
        self._server: ModelServer | None = None
        self._log: LogStream | None = None
        self._own_folder: Path | None = None
        self._closed = False

    @property
    def port(self) -> int | None:
        """The port of the process where it answers now, else None."""
        server = self._server
        return server.port if server and server.running else None

    def start(self, refused: int | None = None) -> int:
        """Make sure that the process answers, and return its port.

        The process dies with the thread that calls this.

        Parameters
        ----------
        refused : int, optional
            A port on which nobody answered: where it is the process's, that is ended and a new one started.

        Raises
        ------
        JobError
            When it does not start; the text is AWS's FailureReason.
        """
        with self._lock:
            port = self.port
            if port is not None and port != refused:
                return port
            self._end()
            if self._closed:
                raise JobError("The endpoint was deleted.")
            folder = self._own_folder = self._folder / f"endpoint-{uuid.uuid4().hex}"
            stream = f"{self.name}/i-{uuid.uuid4().hex[:17]}"
            log = self._log = self._logs.open_stream(f"{LOG_GROUP}/{self._endpoint}", stream)
            try:
                server = ModelServer(folder, self._model, {}, self._objects, log)
                self._server = server
                if self._closed:  # `kill` came too early to see it
                    server.kill()
                server.wait_until_ready()
            except JobError as error:
                self._end()
                raise JobError(_failure_reason(self.name, str(error))) from None
            except BaseException:
                self._end()
                raise
            return server.port

    def kill(self) -> None:
        """End the process at once, also one that is just starting."""
        self._closed = True
        server = self._server
        if server:
            server.kill()

    def close(self) -> None:
        """End the process and remove its folder."""
        self.kill()
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._server:
            self._server.kill()
            self._server.close()
        if self._log:
            self._log.close()
        if self._own_folder:
            shutil.rmtree(self._own_folder, ignore_errors=True)
        self._server = self._log = self._own_folder = None


class Deployment:
    """The variants that serve an endpoint at one time, with their weights.

    Parameters
    ----------
    variants : list of Variant
    weights : mapping of str to float
        A variant's share of the requests is its weight over the sum of all.
    """

    def __init__(self, variants: list[Variant], weights: Mapping[str, float]) -> None:
        self.variants = {variant.name: variant for variant in variants}
        self.weights = dict(weights)
        self._changed = threading.Condition()
        self._under_way = 0

    def start(self) -> None:
        """Start every variant's process.

        Raises
        ------
        JobError
            When one of them does not start; none runs then.
        """
        try:
            for variant in self.variants.values():
                variant.start()
        except BaseException:
            self.close()
            raise

    def choose(self, wanted: str | None) -> Variant:
        """Return the variant that gets the next request: the one named, else one by weight.

        Raises
        ------
        AwsError
            ValidationError where there is none of that name, or no variant has a weight above 0.
        """
        if wanted:
            if wanted not in self.variants:
                raise AwsError("ValidationError", f"Variant {wanted} not found for Request")
            return self.variants[wanted]
        weights = self.weights
        if not sum(weights.values()):
            text = "The endpoint has no variant with a weight above 0; name one in TargetVariant."
            raise AwsError("ValidationError", text)
        names = list(weights)
        return self.variants[random.choices(names, [weights[name] for name in names])[0]]

    def enter(self) -> None:
        """Note that a request is under way."""
        with self._changed:
            self._under_way += 1

    def leave(self) -> None:
        """Note that a request is answered."""
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def drain(self, seconds: float) -> None:
        """Wait until no request is under way, at most so long; then end all processes."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, max(0.0, deadline - time.monotonic()))
        self.close()

    def kill(self) -> None:
        """End all processes at once, also those that are just starting."""
        for variant in self.variants.values():
            variant.kill()

    def close(self) -> None:
        """End all processes."""
        self.kill()
        for variant in self.variants.values():
            variant.close()


def _failure_reason(variant: str, reason: str) -> str:
    """Return AWS's FailureReason of an endpoint whose variant does not answer."""
    if reason.startswith("AlgorithmError"):
        return (
            f"The primary container for production variant {variant} did not pass the ping health check. "
            "Please check CloudWatch logs for this endpoint."
        )
    return f"{reason} (production variant {variant})"
