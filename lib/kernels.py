"""Jupyter kernels started ahead of the stages that need them.

Starting a kernel and importing what a stage imports takes seconds; while one stage runs, the kernels of the
next ones are started in a background thread and execute their notebooks' import statements, without leaving
names behind.  ``KernelPool`` owns every kernel it starts and ends them all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from types import TracebackType
from typing import Any

from lib.forks import SDK, SUPPORTED, ForkServer
from lib.progress import HEADLESS
from lib.records import ROOT
from lib.scraps import import_quickly

START_SECONDS = 120  # how long a kernel may take to answer for the first time, on a machine under load
WARM_UP_SECONDS = 300  # how long a notebook's imports may take

_LOG = logging.getLogger("reelbook.kernels")  # jupyter_client logs tracebacks of errors that we report
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False


@dataclass
class Kernel:
    """A running kernel.

    Attributes
    ----------
    manager : jupyter_client.KernelManager
        What papermill takes as ``km``.
    log : Path
        What the process wrote to its standard error outside of any cell.
    """

    manager: Any
    log: Path

    def hang_up(self) -> None:
        """Close the connections that papermill opened, in the thread that used them."""
        for client in self.manager.clients:
            client.stop_channels()
        self.manager.clients.clear()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process and those that it started in its process group, at once."""
        self._signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)

    def death(self) -> str:
        """Return how the process ended, in words; an empty string while it lives."""
        process = getattr(self.manager.provisioner, "process", None)
        code = process.poll() if process is not None else None
        if code is None:
            return ""
        if code >= 0:
            return f"it ended with status {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"{name} ended it" + (", often because memory ran out" if name == "SIGKILL" else "")

    def last_words(self, lines: int = 5) -> str:
        """Return the last lines that the process wrote to its standard error."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _signal(self, number: int) -> None:
        process = getattr(self.manager.provisioner, "process", None)
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.name == "posix":
                    os.killpg(process.pid, number)  # jupyter_client starts each kernel in a group of its own
                else:
                    process.send_signal(number)


@dataclass
class _Order:
    """A kernel that was asked for."""

    kernel_name: str
    imports: Sequence[str]
    submits: bool = False
    future: Future[Kernel] = field(default_factory=Future)
    forgotten: bool = False


class KernelPool:
    """Starts kernels one after the other in a background thread, and ends them all.

    Parameters
    ----------
    folder : Path
        The working directory of the kernels: the notebooks' folder.
    fork : bool
        Fork kernels from one process that has done the heavy imports, where the system allows it.
    """

    def __init__(self, folder: Path, fork: bool = SUPPORTED) -> None:
        # Here and not in the threads, where papermill's imports would meet these half-way.
        import_quickly("jupyter_client.manager")
        import_quickly("jupyter_client.blocking.client")
        import_quickly("lib.kernel_clients")
        self._folder = folder
        self._sockets = Path(tempfile.mkdtemp(prefix="reelbook-", dir=_short_temporary_folder()))
        self._fork = fork
        self._forks: ForkServer | None = None
        self._orders: dict[str, _Order] = {}
        self._started: list[Kernel] = []
        self._lock = threading.Lock()
        self._closing = False
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernels-start")
        self._ender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernels-end")

    def __enter__(self) -> KernelPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def order(self, stage: str, kernel_name: str, imports: Sequence[str], *, submits: bool = False) -> None:
        """Ask for a stage's kernel; those asked for first are started first.

        Parameters
        ----------
        stage : str
            The stage's name, by which the kernel is taken.
        kernel_name : str
            The Jupyter kernel's name, such as ``python3``.
        imports : sequence of str
            Import statements to execute ahead; those that fail are passed over, for the notebook's own cell
            to fail in its turn.
        submits : bool
            Whether the SageMaker SDK is to be imported as well.
        """
        if stage not in self._orders and not self._closing:
            if self._fork and self._forks is None:
                self._forks = ForkServer(self._sockets / "forks.log", _environment())
            order = self._orders[stage] = _Order(kernel_name, imports, submits)
            self._starter.submit(self._fulfil, order)

    def take(self, stage: str) -> Future[Kernel]:
        """Return a stage's kernel, to be had when it is up.

        The future raises what prevented the start: ``jupyter_client``'s NoSuchKernel, or RuntimeError.
        """
        return self._orders[stage].future

    def forget(self, stage: str) -> None:
        """Take back what was asked for a stage that will not run."""
        order = self._orders.get(stage)
        if order is not None:
            order.forgotten = True

    def end(self, kernel: Kernel, *, at_once: bool = False) -> None:
        """End a kernel and remove its files; unless at once, its exit handlers run first."""
        if at_once:
            kernel.kill()
        self._ender.submit(_shut_down, kernel, at_once)

    def close(self) -> None:
        """End all kernels, also one that is being started."""
        with self._lock:
            self._closing = True
            for kernel in self._started:
                kernel.kill()
        if self._forks is not None:
            self._forks.close()
        self._starter.submit(close_event_loop)
        self._starter.shutdown(wait=True)
        self._ender.submit(self._shut_down_all)
        self._ender.submit(close_event_loop)
        self._ender.shutdown(wait=True)
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _fulfil(self, order: _Order) -> None:
        """Start one kernel (in the background thread)."""
        try:
            if order.forgotten or self._closing:
                raise RuntimeError("the kernel is not needed any more")
            order.future.set_result(self._start(order))
        except BaseException as error:
            order.future.set_exception(error)

    def _start(self, order: _Order) -> Kernel:
        if self._forks is not None and order.submits:
            self._forks.preload(SDK)
        kernel = self._launch(order.kernel_name)
        self._warm_up(kernel, order, order.imports)
        if kernel.death() and order.imports and not self._closing:
            # An import ended the process: let it do so in the notebook's own cell, where it can be seen.
            kernel = self._launch(order.kernel_name)
            self._warm_up(kernel, order, [])
        return kernel

    def _launch(self, kernel_name: str) -> Kernel:
        """Start a kernel's process."""
        number = len(self._started) + 1
        from lib.kernel_clients import RememberingManager

        kernel = Kernel(
            RememberingManager(
                forks=self._forks,
                kernel_name=kernel_name,
                transport="ipc" if os.name == "posix" else "tcp",
                connection_file=str(self._sockets / f"{number}.json"),
                log=_LOG,
            ),
            self._sockets / f"{number}.log",
        )
        with self._lock, kernel.log.open("w") as log:
            if self._closing:
                raise RuntimeError("the run has ended")
            self._started.append(kernel)
            kernel.manager.start_kernel(
                cwd=str(self._folder),
                env=_environment(),
                extra_arguments=["--HistoryManager.enabled=False"],
                stdout=log,
                stderr=log,
            )
        return kernel

    def _warm_up(self, kernel: Kernel, order: _Order, imports: Sequence[str]) -> None:
        """Wait until a kernel answers, and let it import what the notebook will import."""
        from jupyter_client.blocking.client import BlockingKernelClient

        client = BlockingKernelClient(connection_file=kernel.manager.connection_file, log=_LOG)
        client.load_connection_file()
        client.parent = kernel.manager
        client.start_channels()
        try:
            request = client.execute(
                _warm_up_code(imports, order.submits and bool(imports)), silent=True, store_history=False
            )
            deadline = time.monotonic() + START_SECONDS + WARM_UP_SECONDS
            while time.monotonic() < deadline and not kernel.death():
                if self._closing or order.forgotten:
                    return
                with contextlib.suppress(Empty):
                    if client.get_shell_msg(timeout=0.5)["parent_header"].get("msg_id") == request:
                        return
        finally:
            client.stop_channels()

    def _shut_down_all(self) -> None:
        for kernel in self._started:
            _shut_down(kernel, at_once=True)


def close_event_loop() -> None:
    """Close the event loop that jupyter_client has made for this thread, and end what waits in it."""
    import asyncio

    from jupyter_core.utils import ensure_event_loop

    loop = ensure_event_loop()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


def _shut_down(kernel: Kernel, at_once: bool) -> None:
    """End a kernel's process, if it has not ended, and remove its files."""
    with contextlib.suppress(Exception):  # a kernel that never started has nothing to be removed
        kernel.manager.shutdown_kernel(now=at_once)


def _environment() -> dict[str, str]:
    """Return the kernels' environment: ours, ``lib`` importable, and the sign that no person is there."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        HEADLESS: "1",
    }


def _short_temporary_folder() -> str | None:
    """Return a folder for sockets, whose whole path may have no more than about 100 bytes."""
    return "/tmp" if os.name == "posix" and len(tempfile.gettempdir()) > 60 else None


def _warm_up_code(imports: Sequence[str], submits: bool) -> str:
    """Return code that executes import statements without leaving a name in the notebook's namespace."""
    statements = list(imports)
    # Not in a thread, although nobody needs scrapbook before the last cell: cells would meet half-imported modules.
    if any("scraps" in statement for statement in imports):
        statements.append("from lib import scraps; scraps.preload()")
    if submits:  # after scraps: the SDK would import jsonschema without the shortcut that scraps takes
        statements.append("from lib import jobs; jobs.preload()")
    return (
        "def _ahead(statements):\n"
        "    import contextlib\n"
        "    for statement in statements:\n"
        "        with contextlib.suppress(Exception):\n"
        "            exec(statement, {})\n"
        f"_ahead({statements!r})\n"
        "del _ahead\n"
    )
