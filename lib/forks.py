"""Kernels forked from one process that has done the heavy imports, instead of one import for each kernel.

A kernel's process needs about a second of processor time until it answers, one that submits jobs five more for the
SageMaker SDK: most of it imports, the same ones for every stage.  ``ForkServer`` starts one process that imports them
once and forks a kernel whenever it is asked to, in about 20 ms.  What a kernel finds imported is third-party modules
alone: ``lib`` is imported by each kernel anew, as its files are at that moment.

The two sides speak JSON lines over a socket pair.  The server's side is single-threaded and imports nothing that
starts a thread, which is what makes forking safe; it is used on Linux only.  When the runner ends, however it ends,
the socket closes, and the server kills what it has forked and ends too.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KERNEL = [
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "matplotlib_inline.backend_inline"),
    *("numpy", "pandas", "scipy.sparse", "matplotlib.pyplot", "boto3", "yaml", "scrapbook"),
]
SDK = ["sagemaker.core.image_uris", "sagemaker.core.resources", "sagemaker.core.shapes"]
START_SECONDS = 120.0  # how long the server may take to fork, on a machine under load
SUPPORTED = sys.platform == "linux"


class ForkedProcess:
    """A forked kernel, with the methods of ``subprocess.Popen`` that jupyter_client uses."""

    stdin = stdout = stderr = None

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self._server = server

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the signal's number when one ended it; None while it lives."""
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit status, or None while the process lives."""
        return self._server.status(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status.

        Raises
        ------
        subprocess.TimeoutExpired
        """
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("kernel", timeout or 0.0)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that forks kernels, seen from the runner.

    Parameters
    ----------
    log : Path
        Where the server's own standard error goes.
    environment : mapping
        Its environment; each kernel gets the one that it is started with.
    """

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs, log.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from lib import forks; forks.main({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # signals from the terminal are the runner's to judge
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=dict(environment),
            )
        self._socket = ours
        self._changed = threading.Condition()
        self._forked: list[int] = []
        self._ended: dict[int, int] = {}
        self._lost = False
        threading.Thread(target=self._listen, name="forks", daemon=True).start()

    def preload(self, modules: Sequence[str]) -> None:
        """Let the server import modules before it forks again; those that cannot be imported are passed over."""
        self._say({"import": list(modules)})

    def fork(
        self, arguments: Sequence[str], cwd: str, environment: Mapping[str, str], log: str
    ) -> ForkedProcess:
        """Fork a kernel.

        Parameters
        ----------
        arguments : sequence of str
            Those of ``python -m ipykernel_launcher``.
        cwd : str
        environment : mapping
        log : str
            The file to which its standard output and error are appended.

        Raises
        ------
        RuntimeError
            When the server does not answer.
        """
        with self._changed:
            before = len(self._forked)
            self._say({"fork": list(arguments), "cwd": cwd, "env": dict(environment), "log": log})
            self._changed.wait_for(lambda: len(self._forked) > before or self._lost, START_SECONDS)
            if len(self._forked) == before:
                raise RuntimeError("The process that starts kernels does not answer.")
            return ForkedProcess(self, self._forked[-1])

    def status(self, pid: int) -> int | None:
        """Return how a forked process ended, or None while it lives; one whose server is gone was killed."""
        with self._changed:
            return self._ended.get(pid, -signal.SIGKILL if self._lost else None)

    def close(self) -> None:
        """Kill the server and all that it has forked."""
        self._process.kill()
        self._process.wait()
        with self._changed:
            self._changed.wait_for(lambda: self._lost, 5)

    def _say(self, what: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it has ended, as will be noticed
            self._socket.sendall(json.dumps(what).encode() + b"\n")

    def _listen(self) -> None:
        """Take what the server says until it ends (in a thread)."""
        with self._socket, self._socket.makefile() as lines:
            with contextlib.suppress(OSError, ValueError):
                for line in lines:
                    said = json.loads(line)
                    with self._changed:
                        if "forked" in said:
                            self._forked.append(said["forked"])
                        else:
                            self._ended[said["ended"]] = said["status"]
                        self._changed.notify_all()
            with self._changed:
                for pid in set(self._forked) - set(self._ended):
                    _kill_group(pid)
                self._lost = True
                self._changed.notify_all()


def main(descriptor: int) -> None:
    """Serve until the runner ends, or be the kernel that it has asked for."""
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as ipykernel does
    order = _serve(socket.socket(fileno=descriptor))
    if order is not None:
        _become_kernel(order)


def _serve(channel: socket.socket) -> dict[str, Any] | None:
    """Import and fork as asked; return in a forked process with what was asked, in the server when it is over."""
    wake, woken = socket.socketpair()
    wake.setblocking(False)
    woken.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    _import(KERNEL)
    children: set[int] = set()
    pending = b""
    while True:
        ready, _, _ = select.select([channel, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _report_ended(channel, children)
        if channel not in ready:
            continue
        received = channel.recv(1 << 16)
        if not received:
            for pid in children:
                _kill_group(pid)
            return None
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "import" in order:
                _import(order["import"])
                continue
            pid = _fork()
            with contextlib.suppress(PermissionError, ProcessLookupError):  # the other has done it already
                os.setpgid(pid, pid or os.getpid())  # a group of its own, for signals
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (wake, woken, channel):
                    end.close()
                return dict(order)
            children.add(pid)
            _say(channel, {"forked": pid})


def _import(modules: Sequence[str]) -> None:
    from lib.scraps import import_quickly

    for name in modules:
        with contextlib.suppress(Exception):  # who needs it will say so
            import_quickly(name)
    gc.collect()
    gc.freeze()  # pages that no collection touches stay shared with the kernels


def _fork() -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python 3.12 counts OpenBLAS's threads, which takes care of forks by itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _report_ended(channel: socket.socket, children: set[int]) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            children.remove(pid)
            _say(channel, {"ended": pid, "status": os.waitstatus_to_exitcode(status)})


def _say(channel: socket.socket, what: dict[str, int]) -> None:
    with contextlib.suppress(OSError):  # the runner has ended, as will be read
        channel.sendall(json.dumps(what).encode() + b"\n")


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _become_kernel(order: Mapping[str, Any]) -> None:
    """Be what ``python -m ipykernel_launcher`` is, in a forked process."""
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    os.environ["JPY_PARENT_PID"] = str(os.getppid())
    time.tzset()
    for name in [name for name in sys.modules if name.partition(".")[0] == "lib"]:
        del sys.modules[name]  # to be imported as the files are now
    if sys.path[0] == "":
        del sys.path[0]  # as ipykernel_launcher does; IPython puts it back
    importlib.invalidate_caches()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # Python's own generator has seeded itself again
    sys.argv = ["ipykernel_launcher", *order["fork"]]
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()
