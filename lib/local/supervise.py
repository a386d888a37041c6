"""Child processes of the local AWS: started, ended with grace, never orphaned; and the queue they wait in.

A child runs in its own session, with a minimal environment that holds no credentials.  It dies with the
server: on Linux by the kernel's own hand, elsewhere at the server's next start, which finds its process id
and start time in the job's folder.  A process id alone would not do: it may belong to another by then.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STOP_GRACE_SECONDS = 120.0
"""Between SIGTERM and SIGKILL, as SageMaker's StopTrainingJob has it."""

_LAUNCHER = Path(__file__).with_name("launch.py")
_PROCESS_FILE = "process.json"
_MAX_LINE_BYTES = 256 * 1024
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS")
_NEVER_FROM_A_REQUEST = ("PYTHON", "LD_", "DYLD_")


def child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child: what Python needs, and the request's own variables.

    Parameters
    ----------
    variables : mapping
        The request's Environment.  Names that change how programs are loaded are left out.
    """
    environment = {
        name: value for name, value in variables.items() if not name.startswith(_NEVER_FROM_A_REQUEST)
    }
    environment |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    return environment


class Child:
    """A running child process.

    Parameters
    ----------
    command : list of str
        The program, by its full path, and its arguments.
    folder : Path
        The job's folder: the working directory, where the process is also noted.
    environment : mapping
        The whole environment; see `child_environment`.
    """

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]
        self._process = subprocess.Popen(
            [*launcher, *command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._timer: threading.Timer | None = None
        note = json.dumps({"pid": self._process.pid, "started": start_time(self._process.pid)})
        temporary = folder / f"{_PROCESS_FILE}.new"
        temporary.write_text(note)
        temporary.replace(folder / _PROCESS_FILE)

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def lines(self) -> Iterator[str]:
        """Yield what the process prints on either stream, line by line as it comes, until it ends."""
        output = self._process.stdout
        assert output is not None
        with output:
            while line := output.readline(_MAX_LINE_BYTES):
                yield line.decode("utf-8", "replace").rstrip("\n")

    def wait(self) -> int:
        """Wait for the end and return the exit code; 128 + N for a process that signal N ended."""
        code = self._process.wait()
        if self._timer:
            self._timer.cancel()
        return code if code >= 0 else 128 - code

    def end(self, grace: float) -> None:
        """Ask the process to end, and kill it after ``grace`` seconds; returns at once."""
        self._signal(signal.SIGTERM)
        if self._timer is None:
            self._timer = threading.Timer(grace, self.kill)
            self._timer.daemon = True
            self._timer.start()

    def kill(self) -> None:
        """Kill the process and everything in its group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.running:
            _signal_group(self._process.pid, number)


def start_time(pid: int) -> str | None:
    """Return when a process started, in words that differ between any two processes of that id.

    Returns
    -------
    str or None
        None where there is no such process.
    """
    if sys.platform == "linux":
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        fields = status.rpartition(")")[2].split()  # proc(5): from field 3, the state, on
        state, ticks = fields[0], fields[19]
        return None if state == "Z" else f"{boot}/{ticks}"
    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    return answer.stdout.strip() or None


def end_leftovers(jobs: Path) -> None:
    """Kill the processes that an earlier server left, and remove their folders.

    Parameters
    ----------
    jobs : Path
        The folder that holds one folder a job.
    """
    for folder in jobs.iterdir():
        try:
            note = json.loads((folder / _PROCESS_FILE).read_text())
            pid, started = int(note["pid"]), note["started"]
        except (OSError, ValueError, KeyError, TypeError):
            pid, started = 0, None
        if started is not None and start_time(pid) == started:
            _signal_group(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # it has just ended
        return


class JobQueue:
    """Runs jobs in threads, at most so many at once, in the order they came.

    A job keeps its thread to its end.  That matters: the kernel kills a child when the thread that
    started it dies.

    Parameters
    ----------
    limit : int
        How many jobs run at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, Callable[[], None]]] = deque()
        self._threads: set[threading.Thread] = set()
        self._held = False

    def full(self) -> bool:
        """Whether a job that is submitted now has to wait."""
        with self._lock:
            return len(self._threads) >= self.limit

    def busy(self) -> bool:
        """Whether a job runs or waits."""
        with self._lock:
            return bool(self._threads or self._waiting)

    def submit(self, key: str, work: Callable[[], None]) -> None:
        """Run ``work`` as soon as there is room; ``key`` names it for `withdraw`."""
        with self._lock:
            self._waiting.append((key, work))
            self._start_waiting()

    def withdraw(self, key: str) -> bool:
        """Take a job that still waits out of the queue; False where it runs or ran already."""
        with self._lock:
            found = [entry for entry in self._waiting if entry[0] == key]
            for entry in found:
                self._waiting.remove(entry)
            return bool(found)

    def hold(self) -> None:
        """Start no further job; those that wait can still be withdrawn."""
        with self._lock:
            self._held = True

    def join(self, timeout: float) -> None:
        """Wait for the running jobs, up to ``timeout`` seconds for each."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout)

    def _start_waiting(self) -> None:
        while self._waiting and len(self._threads) < self.limit and not self._held:
            key, work = self._waiting.popleft()
            thread = threading.Thread(target=self._run, args=(work,), name=f"job {key}", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
                self._start_waiting()
