"""What a run leaves in ``outputs/RUN/``: ``run.json``, ``scraps.json`` and the name of the last run.

Every file is written under a temporary name and then renamed, so a reader never meets half a file and a
run that is killed leaves the last true state behind.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib import redaction
from lib.errors import ParameterError, ReelbookError
from lib.files import atomically

ROOT = Path(__file__).resolve().parents[1]
OUTPUTS_VARIABLE = "REELBOOK_OUTPUTS"
SCRATCH = "scratch"  # the run of notebooks that are run by hand; it has no run.json and is never reused
RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,29}")
PACKAGES = (
    *("papermill", "nbclient", "ipykernel", "scrapbook", "sagemaker", "boto3"),
    *("numpy", "pandas", "scipy", "duckdb", "pyarrow", "numba", "matplotlib"),
)


@dataclass
class StageFailure:
    """Why a stage failed.

    Attributes
    ----------
    kind : str
        The exception's class name.
    message : str
        What went wrong, without the traceback.
    cell : int or None
        The failing cell, counted from 1 over the cells of the stage's own notebook; None where no cell
        failed.
    source : str
        The failing cell's source.
    traceback : str
        Plain text, possibly empty.
    hint : str
        What to do next.
    """

    kind: str
    message: str
    cell: int | None = None
    source: str = ""
    traceback: str = ""
    hint: str = ""


@dataclass
class Attempt:
    """An execution of a stage that failed and was followed by another one."""

    started: str
    seconds: float
    error: StageFailure


@dataclass
class StageRecord:
    """One stage of a run, as ``run.json`` tells it.

    Attributes
    ----------
    status : str
        ``pending``, ``running``, ``completed``, ``reused``, ``failed``, ``skipped`` or ``interrupted``.
    why : str
        Why it ran, was reused or was skipped, in words.
    origin : str
        Of a reused stage, the run in which it was executed.
    key : str
        The digest of ``ingredients`` (see ``lib.cache``); empty: the stage is never reused.
    outputs : dict or None
        What it left in S3: by name, ``uri``, ``objects``, ``bytes``, ``etag``; what it read is among the
        ingredients.  None where that could not be looked at.
    jobs : list of dict
        The SageMaker jobs it published, see ``lib.job_records``.
    attempts : list of Attempt
        The executions before the last one.
    """

    name: str
    title: str
    notebook: str
    status: str = "pending"
    why: str = ""
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    publishes: list[str] = field(default_factory=list)
    scraps: dict[str, Any] = field(default_factory=dict)
    origin: str = ""
    key: str = ""
    ingredients: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] | None = None
    jobs: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    error: StageFailure | None = None


@dataclass
class RunRecord:
    """A run, as ``run.json`` tells it.

    ``parameters`` is what the parameter file and the command line gave, ``command_line`` the ``-p`` pairs
    as they were typed, so that a run which is continued is continued with its own parameters.  ``git`` has the
    checkout's ``commit``, ``branch`` and whether it was ``dirty``; it is empty outside of a checkout.
    """

    run_id: str
    status: str = "running"  # running, completed, failed, interrupted
    started: str = ""
    ended: str | None = None
    seconds: float | None = None
    command: str = ""
    parameters_file: str | None = None
    command_line: list[list[str]] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    target: str = ""
    stages: list[StageRecord] = field(default_factory=list)
    scraps: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    python: str = ""
    machine: str = ""
    git: dict[str, Any] = field(default_factory=dict)

    def stage(self, name: str) -> StageRecord | None:
        """Return the record of one stage, or None."""
        return next((stage for stage in self.stages if stage.name == name), None)


def outputs_folder() -> Path:
    """Return the folder of all runs: ``$REELBOOK_OUTPUTS``, or ``outputs/`` in the checkout."""
    return Path(os.environ.get(OUTPUTS_VARIABLE) or ROOT / "outputs")


def now() -> str:
    """Return the time as ISO-8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def seconds_since(started: str) -> float:
    """Return the seconds since a time that ``now`` returned."""
    return round((datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds(), 3)


def shown(path: Path | str) -> str:
    """Return a path as a user would type it: relative where it lies below the working directory."""
    with contextlib.suppress(ValueError, OSError):
        return str(Path(path).absolute().relative_to(Path.cwd()))
    return str(path)


def write_text(path: Path, text: str) -> None:
    """Write a whole file under a temporary name and rename it.

    Raises
    ------
    DataError
        When it cannot be written, for instance because the disk is full; the old file stays as it was.
    """
    with atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON (see ``write_text``)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ReelbookError
        When the file is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReelbookError(
            f"{shown(path)} cannot be read: {error}.", hint="Delete that run's folder, or start a new run."
        ) from error
    if not isinstance(value, dict):
        raise ReelbookError(
            f"{shown(path)} holds no JSON object.", hint="Delete that run's folder, or start a new run."
        )
    return value


def check_run_id(run_id: str) -> str:
    """Return a run id if it can be one: it becomes part of job names, S3 keys and a folder's name.

    Raises
    ------
    ParameterError
        When it is not 1 to 30 small letters, digits and hyphens, the first not a hyphen.
    """
    if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
        raise ParameterError(
            f"The run id {run_id!r} is not 1 to 30 small letters, digits and hyphens that begin with a "
            "letter or digit."
        )
    return run_id


def new_run_id(outputs: Path) -> str:
    """Return a run id made of the UTC time, ``YYYYMMDD-HHMMSS``, that no run has yet."""
    moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    candidate, number = moment, 2
    while (outputs / candidate).exists():
        candidate, number = f"{moment}-{number}", number + 1
    return candidate


def last_run(outputs: Path) -> str | None:
    """Return the id of the last run, or None when there is none or its folder is gone."""
    try:
        run_id = (outputs / "last_run").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return run_id if RUN_ID.fullmatch(run_id) and (outputs / run_id).is_dir() else None


def set_last_run(outputs: Path, run_id: str) -> None:
    """Make a run the last one."""
    write_text(outputs / "last_run", run_id + "\n")


def read_scraps(folder: Path) -> dict[str, Any]:
    """Return what a run has published so far, ``{}`` when nothing."""
    path = folder / "scraps.json"
    return read_json(path) if path.exists() else {}


def write_scraps(folder: Path, scraps: dict[str, Any]) -> None:
    """Write what a run has published."""
    write_json(folder / "scraps.json", redaction.redact_value(scraps))


def write_run(folder: Path, run: RunRecord) -> None:
    """Write ``run.json``, without secrets."""
    text = json.dumps(asdict(run), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / "run.json", redaction.redact(text))


def run_files(outputs: Path) -> list[Path]:
    """Return the ``run.json`` of every run, the last one written first."""
    found = []
    for path in outputs.glob("*/run.json"):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def read_run(folder: Path) -> RunRecord | None:
    """Read ``run.json``; None when the folder has none, as a run begun by hand has not.

    Raises
    ------
    ReelbookError
        When the file is there and is not a run's record.
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    value = read_json(path)
    try:
        stages = []
        for stage in value.pop("stages"):
            failure, attempts = stage.pop("error"), stage.pop("attempts", [])
            record = StageRecord(**stage, error=StageFailure(**failure) if failure else None)
            record.attempts = [
                Attempt(**{**attempt, "error": StageFailure(**attempt["error"])}) for attempt in attempts
            ]
            stages.append(record)
        return RunRecord(**value, stages=stages)
    except (TypeError, KeyError, AttributeError) as error:
        raise ReelbookError(
            f"{shown(path)} is not the record of a run: {error}.", hint="Start a new run."
        ) from error


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def machine() -> str:
    """Return the operating system, the processor's kind and the number of CPUs in one line."""
    return f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs"


def checkout(root: Path = ROOT) -> dict[str, Any]:
    """Return the commit and branch of a Git checkout, and whether files differ from it; ``{}`` where there is none."""
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--untracked-files=normal"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    heads = dict(
        line.removeprefix("# branch.").partition(" ")[::2]
        for line in done.stdout.splitlines()
        if line.startswith("# branch.")
    )
    if heads.get("oid") in (None, "(initial)"):
        return {}
    changed = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    return {"commit": heads["oid"], "branch": heads.get("head", ""), "dirty": bool(changed)}


class RunLock:
    """Holds a run's folder for one process, for as long as that lives: the system lets go of it, even when killed.

    Raises
    ------
    ReelbookError
        When another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Any = None

    def __enter__(self) -> RunLock:
        self._file = (self._folder / ".lock").open("a+")
        if not _lock(self._file):
            self._file.close()
            raise ReelbookError(
                f"The run {self._folder.name} is going on in another process.",
                hint=f"Look at it by `run_all.py watch {self._folder.name}`, or wait until it has ended.",
            )
        return self

    def __exit__(self, *unused: object) -> None:
        self._file.close()


def is_going_on(folder: Path) -> bool:
    """Tell whether a process runs this run."""
    try:
        with (folder / ".lock").open("r+") as file:
            return not _lock(file)
    except OSError:
        return False


def _lock(file: Any) -> bool:
    """Lock a file without waiting; where the system has no such locks, every attempt succeeds."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
