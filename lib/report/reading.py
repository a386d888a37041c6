"""Reads a run for its page: ``run.json`` and the executed notebooks, tolerantly.

A run that is going on, was killed, or was written by another version is still worth a page.  So whatever has
the wrong type counts as absent, and what cannot be read becomes a note: a sentence the page shows there.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib import records
from lib.errors import ReelbookError
from lib.report import words

FIGURE_BUDGET = 4_000_000  # characters of all figures together, in base64
LONGEST_NAME = 200
LONGEST_SOURCE = 8_000
LONGEST_TRACEBACK = 20_000

_PNG = b"\x89PNG\r\n\x1a\n"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FAILING_LINE = re.compile(r"^Cell In\[\d+\], line (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Figure:
    """A picture of an executed notebook.

    Attributes
    ----------
    png : str
        Base64 without white space.
    alt : str
        What it shows, in words; never empty.
    described : bool
        Whether the notebook gave these words.
    width, height : int
        Pixels.
    """

    png: str
    alt: str
    described: bool
    width: int
    height: int


@dataclass(frozen=True)
class Failure:
    """Why a stage did not complete."""

    kind: str
    message: str
    cell: int | None
    lines: tuple[str, ...]  # of the failing cell's source
    line: int | None  # the failing one, from 1
    traceback: str
    hint: str


_CONSOLE = {
    "training-job": "jobs",
    "hyper-parameter-tuning-job": "hyper-tuning-jobs",
    "transform-job": "transform-jobs",
    "endpoint": "endpoints",
}
_ARN = re.compile(
    rf"arn:aws:sagemaker:(?P<region>[a-z0-9-]+):\d+:(?P<kind>{'|'.join(_CONSOLE)})/(?P<name>[A-Za-z0-9-]+)"
)


@dataclass(frozen=True)
class Stage:
    """One stage of a run, as far as it could be read."""

    name: str
    title: str
    notebook: str  # a file name that is in the folder, or empty
    status: str
    why: str
    started: datetime | None
    ended: datetime | None
    seconds: float | None
    parameters: dict[str, Any]
    needs: tuple[str, ...]
    publishes: tuple[str, ...]
    scraps: dict[str, Any]
    failure: Failure | None
    origin: str = ""  # of a reused stage, the run in which it was executed
    attempts: tuple[Failure, ...] = ()  # what made earlier attempts fail
    jobs: tuple[dict[str, Any], ...] = ()
    read: tuple[tuple[str, dict[str, Any]], ...] = ()  # objects, by name
    left: tuple[tuple[str, dict[str, Any]], ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run, as far as it could be read."""

    run_id: str
    status: str
    started: datetime | None
    ended: datetime | None
    seconds: float | None
    command: str
    parameters_file: str
    parameters: dict[str, Any]
    target: str
    stages: tuple[Stage, ...]
    versions: dict[str, Any]
    python: str
    machine: str
    git: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class _Budget:
    """How many characters of figures the page still takes."""

    left: int = field(default=FIGURE_BUDGET)

    def takes(self, figure: Figure) -> bool:
        if len(figure.png) > self.left:
            return False
        self.left -= len(figure.png)
        return True


def read(folder: Path) -> Run:
    """Read a run's record and the figures of its notebooks.

    Raises
    ------
    ReelbookError
        When there is no ``run.json``, or it is not a JSON object.
    """
    path = folder / "run.json"
    if not path.exists():
        raise ReelbookError(
            f"{records.shown(folder)} has no run.json, so there is no run to make a page of.",
            hint="Start a run with `make run`, or name the folder of one below outputs/.",
        )
    try:
        value = records.read_json(path)
    except RecursionError:
        raise ReelbookError(f"{records.shown(path)} is not the record of a run.") from None
    notes = []
    if not isinstance(value.get("stages"), list) or not value["stages"]:
        notes.append("The record of this run names no stages.")
    budget = _Budget()
    stages = tuple(_stage(stage, folder, budget) for stage in _list(value.get("stages")))
    return Run(
        run_id=_text(value.get("run_id"), LONGEST_NAME) or folder.absolute().name,
        status=_text(value.get("status"), LONGEST_NAME) or "unknown",
        started=_time(value.get("started")),
        ended=_time(value.get("ended")),
        seconds=_seconds(value.get("seconds")),
        command=_text(value.get("command")),
        parameters_file=_text(value.get("parameters_file"), LONGEST_NAME),
        parameters=_mapping(value.get("parameters")),
        target=_text(value.get("target"), LONGEST_NAME),
        stages=stages,
        versions=_mapping(value.get("versions")),
        python=_text(value.get("python"), LONGEST_NAME),
        machine=_text(value.get("machine"), LONGEST_NAME),
        git=_mapping(value.get("git")),
        notes=tuple(notes),
    )


def without_figures(run: Run) -> Run:
    """Return the run without pictures, each stage saying that it has been left without."""
    stages = [
        dataclasses.replace(stage, figures=(), notes=(*stage.notes, _left_out(len(stage.figures), stage)))
        if stage.figures
        else stage
        for stage in run.stages
    ]
    return dataclasses.replace(run, stages=tuple(stages))


def _stage(value: Any, folder: Path, budget: _Budget) -> Stage:
    """Read one stage, and its executed notebook where it has run."""
    value = _mapping(value)
    name = _text(value.get("name"), LONGEST_NAME)
    file = value.get("notebook") or f"{name}.ipynb"
    status = _text(value.get("status"), LONGEST_NAME) or "unknown"
    stage = Stage(
        name=name or "unnamed",
        title=_text(value.get("title"), LONGEST_NAME) or name.replace("_", " ") or "Unnamed stage",
        notebook=file if _is_file_name(file) and (folder / file).is_file() else "",
        status=status,
        why=_text(value.get("why")),
        started=_time(value.get("started")),
        ended=_time(value.get("ended")),
        seconds=_seconds(value.get("seconds")),
        parameters=_mapping(value.get("parameters")),
        needs=tuple(_text(need, LONGEST_NAME) for need in _list(value.get("needs"))),
        publishes=tuple(_text(name, LONGEST_NAME) for name in _list(value.get("publishes"))),
        scraps=_mapping(value.get("scraps")),
        failure=_failure(value.get("error")),
        origin=_text(value.get("origin"), LONGEST_NAME),
        attempts=tuple(
            failure
            for attempt in _list(value.get("attempts"))
            if (failure := _failure(_mapping(attempt).get("error")))
        ),
        jobs=tuple(_job(job) for job in _list(value.get("jobs"))),
        read=_objects(_mapping(value.get("ingredients")).get("objects")),
        left=_objects(value.get("outputs")),
    )
    if stage.notebook:
        figures, notes = _figures(folder / stage.notebook, stage, budget)
        return dataclasses.replace(stage, figures=figures, notes=notes)
    if status in ("pending", "skipped", "running"):
        return stage
    return dataclasses.replace(stage, notes=("Its executed notebook is missing, and its figures with it.",))


def _job(value: Any) -> dict[str, Any]:
    """Return a job's fields as the page shows them."""
    job = _mapping(value)
    texts = {name: _text(job.get(name), LONGEST_NAME) for name in ("kind", "name", "arn", "instance_type")}
    numbers = {name: job.get(name) for name in ("instance_count", "billable_seconds", "estimated_cost")}
    return (
        texts
        | {name: _seconds(number) for name, number in numbers.items()}
        | {"link": _console(texts["arn"])}
    )


def _console(arn: str) -> str:
    """Return the address of a job's page in AWS's console, or an empty string where its ARN is none."""
    found = _ARN.fullmatch(arn)
    if found is None:
        return ""
    region, page, name = found["region"], _CONSOLE[found["kind"]], found["name"]
    return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/{page}/{name}"


def _objects(value: Any) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return the state of objects, by name; what is no such state is passed over."""
    found = []
    for name, state in _mapping(value).items():
        state = _mapping(state)
        objects, size = _seconds(state.get("objects")), _seconds(state.get("bytes"))
        if objects is not None and size is not None:
            shown = {"uri": _text(state.get("uri")), "objects": int(objects), "bytes": int(size)}
            found.append(
                (words.shortened(str(name), LONGEST_NAME), shown | {"etag": _text(state.get("etag"), 80)})
            )
    return tuple(found)


def _failure(value: Any) -> Failure | None:
    if not isinstance(value, dict):
        return None
    cell = value.get("cell")
    source = _text(value.get("source"), LONGEST_SOURCE).rstrip()
    traceback = _text(value.get("traceback"), None)
    line = _FAILING_LINE.search(traceback)
    if len(traceback) > LONGEST_TRACEBACK:
        traceback = "…\n" + traceback[-LONGEST_TRACEBACK:]
    return Failure(
        kind=_text(value.get("kind"), LONGEST_NAME) or "Error",
        message=_text(value.get("message")).strip() or "No message was recorded.",
        cell=cell if isinstance(cell, int) and not isinstance(cell, bool) and 0 < cell < 100_000 else None,
        lines=tuple(source.split("\n")) if source else (),
        line=int(line.group(1)) if line and len(line.group(1)) < 6 else None,
        traceback=traceback.strip("\n"),
        hint=_text(value.get("hint")),
    )


def _figures(path: Path, stage: Stage, budget: _Budget) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """Return the figures of an executed notebook that fit into the page, and sentences on what is amiss."""
    try:
        notebook = json.loads(path.read_bytes())
        cells = notebook["cells"]
        outputs = [output for cell in cells for output in _list(_mapping(cell).get("outputs"))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        if stage.status == "running":
            return (), ()  # it is being written just now
        return (), (
            f"{path.name} is not a whole notebook: it cannot be read, so its figures are missing here.",
        )
    figures: list[Figure] = []
    broken = dropped = 0
    for output in outputs:
        output = _mapping(output)
        data = _mapping(output.get("data")).get("image/png")
        if data is None:
            continue
        described = _text(_mapping(_mapping(output.get("metadata")).get("image/png")).get("alt")).strip()
        nameless = f"Figure {len(figures) + 1} of {stage.title}; the notebook does not describe it."
        figure = _figure(data, described, nameless)
        if figure is None:
            broken += 1
        elif budget.takes(figure):
            figures.append(figure)
        else:
            dropped += 1
    notes = []
    if broken:
        what = "One output is" if broken == 1 else f"{broken} outputs are"
        notes.append(f"{what} no PNG picture and cannot be shown.")
    if dropped:
        notes.append(_left_out(dropped, stage))
    return tuple(figures), tuple(notes)


def _figure(data: Any, described: str, nameless: str) -> Figure | None:
    """Return a picture if the data is a PNG, whose first chunk holds width and height."""
    if isinstance(data, list):
        data = "".join(part for part in data if isinstance(part, str))
    if not isinstance(data, str):
        return None
    try:
        png = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    if not png.startswith(_PNG) or len(png) < 24 or png[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", png[16:24])
    if not (0 < width < 20_000 and 0 < height < 20_000):
        return None
    return Figure(base64.b64encode(png).decode(), described or nameless, bool(described), width, height)


def _left_out(figures: int, stage: Stage) -> str:
    figures_are = "One figure is" if figures == 1 else f"{figures} figures are"
    return f"{figures_are} left out to keep this page small: see {stage.notebook}."


def _is_file_name(value: Any) -> bool:
    """Tell whether a value is a notebook's plain file name, nothing that leads elsewhere."""
    return isinstance(value, str) and re.fullmatch(r"[\w][\w .+-]{0,150}\.ipynb", value) is not None


def _text(value: Any, longest: int | None = words.LONGEST) -> str:
    """Return a value's text without terminal colours; empty for what is no text."""
    if not isinstance(value, str):
        return ""
    value = _ANSI.sub("", value).replace("\r\n", "\n")
    return value if longest is None else words.shortened(value, longest)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e10 else None


def _time(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
