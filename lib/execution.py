"""One execution of one stage's notebook: by papermill, on a kernel of its own, in a thread of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from lib import saving
from lib.contracts import Contract
from lib.kernels import START_SECONDS, Kernel, KernelPool, close_event_loop


class StageTimeout(Exception):
    """A stage ran longer than its limit."""


class Execution:
    """A notebook that is being executed.

    Parameters
    ----------
    contract : Contract
        Whose notebook.
    target : Path
        Where the executed notebook goes.
    values : mapping
        The stage's parameters.
    order : str
        Under what name ``kernels`` was asked for the kernel.
    kernels : KernelPool
    saver : Saver
    cell_seconds, stage_seconds : int, optional
        How long one cell, and the whole notebook, may run.
    log_output : bool
        Let papermill log what the cells print.

    Attributes
    ----------
    future : Future
        Done when the notebook has ended, well or not.
    kernel : Kernel or None
        None until it is up.
    """

    def __init__(
        self,
        contract: Contract,
        target: Path,
        values: Mapping[str, Any],
        *,
        order: str,
        kernels: KernelPool,
        saver: saving.Saver,
        cell_seconds: int | None = None,
        stage_seconds: int | None = None,
        log_output: bool = False,
    ) -> None:
        self.contract = contract
        self.target = target
        self.values = values
        self.future: Future[None] = Future()
        self.kernel: Kernel | None = None
        self._order, self._kernels, self._saver = order, kernels, saver
        self._cell_seconds, self._stage_seconds = cell_seconds, stage_seconds
        self._log_output = log_output
        self._began: float | None = None
        self._overdue: float | None = None
        self._killed = False

    def start(self) -> None:
        """Start the thread."""
        self.future.set_running_or_notify_cancel()
        threading.Thread(target=self._run, name=f"notebook-{self.contract.stage}", daemon=True).start()

    @property
    def raised(self) -> BaseException | None:
        """What ended the execution early, once it has ended."""
        if self._overdue is not None:
            return StageTimeout(f"The stage ran longer than its limit of {self._stage_seconds} s.")
        return self.future.exception() if self.future.done() else None

    def keep_time(self, grace: float) -> None:
        """Interrupt the notebook when its time is over, and kill its kernel when that takes too long.

        Parameters
        ----------
        grace : float
            Seconds that an interrupted cell may take to tidy up.
        """
        now = time.monotonic()
        if self._stage_seconds is None or self._began is None or self.kernel is None or self.future.done():
            return
        if self._overdue is None and now - self._began > self._stage_seconds:
            self._overdue = now
            self.kernel.interrupt()
        elif self._overdue is not None and now - self._overdue > grace and not self._killed:
            self._killed = True
            self.kernel.kill()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs."""
        if self.kernel is not None:
            self.kernel.interrupt()

    def kill(self) -> None:
        """End the kernel at once, or take it back where it is not up yet."""
        if self.kernel is not None:
            self.kernel.kill()
        else:
            self._kernels.forget(self._order)

    def _run(self) -> None:
        try:
            self.kernel = self._kernels.take(self._order).result()
            self._began = time.monotonic()
            self._execute(self.kernel)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(None)
        finally:
            with contextlib.suppress(Exception):
                close_event_loop()

    def _execute(self, kernel: Kernel) -> None:
        given = {
            name: value
            for name, value in self.values.items()
            if value != self.contract.parameters[name].default and not self.contract.parameters[name].secret
        }
        try:
            saving.executor(self._saver)(
                saving.literal(self.contract.path.absolute()),
                saving.SCHEME + saving.literal(self.target),
                parameters=given,
                language="python",
                km=kernel.manager,
                progress_bar=False,
                log_output=self._log_output,
                execution_timeout=self._cell_seconds,
                start_timeout=START_SECONDS,
            )
        finally:
            kernel.hang_up()
            self._saver.flush(self.target)
