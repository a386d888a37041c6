"""What training, transform and Processing jobs share: they are created, described, stopped, and found after a kill."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

from lib.local.protocol import AwsError
from lib.local.store import FINISHED, Kind, Store
from lib.local.supervise import JobQueue

INTERRUPTED = "InternalServerError: The local AWS was stopped while this job was running."


class Run(Protocol):
    """One job on its way."""

    def work(self) -> None:
        """Take the job from its first step to its end, in a thread of the queue."""

    def end(self, *, shutdown: bool = False) -> None:
        """End the job early: it is stopped, or with ``shutdown`` the server is."""


AnyRun = TypeVar("AnyRun", bound=Run)


class JobRegistry(ABC, Generic[AnyRun]):
    """The jobs of one kind.

    Parameters
    ----------
    kind : Kind
        Such as ``store.TRAINING_JOB``.
    store : Store
        The state.
    queue : JobQueue
        Bounds how many jobs run at once.
    """

    def __init__(self, kind: Kind, store: Store, queue: JobQueue) -> None:
        self.store = store
        self.queue = queue
        self._kind = kind
        self._lock = threading.Lock()
        self._runs: dict[str, AnyRun] = {}

    @abstractmethod
    def fail(self, document: dict[str, Any], reason: str) -> None:
        """Note in a job's document that it has failed now."""

    def note_stopping(self, document: dict[str, Any]) -> None:
        """Note in a job's document that it is asked to stop."""
        document[f"{self._kind.name}Status"] = "Stopping"

    def start(
        self,
        name: str,
        document: dict[str, Any],
        run: AnyRun,
        params: dict[str, Any],
        parent: str | None = None,
    ) -> dict[str, Any]:
        """Put a new job into the state and into the queue; return what its creation is answered with.

        Raises
        ------
        AwsError
            ResourceInUse.
        """
        with self._lock:
            document = self.store.create(self._kind, name, document, parent=parent, tags=params.get("Tags"))
            self._runs[name] = run
        self.queue.submit(name, run.work)
        arn = f"{self._kind.name}Arn"
        return {arn: document[arn]}

    def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return a job's description, as Describe… does."""
        return self.store.get(self._kind, params[f"{self._kind.name}Name"])

    def stop(self, params: dict[str, Any]) -> None:
        """Ask a job to stop, as Stop… does.  It ends soon after, at the latest after the grace.

        Raises
        ------
        AwsError
            ValidationException when it has ended already.
        """
        name = params[f"{self._kind.name}Name"]

        def change(document: dict[str, Any]) -> None:
            status = document[f"{self._kind.name}Status"]
            if status in FINISHED:
                what = self._kind.name.removesuffix("Job").lower()
                raise AwsError(
                    "ValidationException",
                    f"The request was rejected because the {what} job is in status {status}.",
                )
            self.note_stopping(document)

        self.store.update(self._kind, name, change)
        with self._lock:
            run = self._runs.get(name)
        if run:
            run.end()

    def recover(self) -> None:
        """Mark the jobs that an earlier server left unfinished as failed."""
        for name in self.store.unfinished(self._kind):
            self.store.update(self._kind, name, lambda document: self.fail(document, INTERRUPTED))

    def close(self) -> None:
        """End all jobs at once; they become Failed."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.end(shutdown=True)

    def forget(self, name: str) -> None:
        """Drop what is held of a job that has ended."""
        with self._lock:
            self._runs.pop(name, None)
