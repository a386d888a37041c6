"""How two runs differ: parameters, code, packages, data and metrics."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib import history
from lib.errors import ReelbookError
from lib.history import LOWER_IS_BETTER, METRICS
from lib.records import RunRecord, StageRecord, read_json

LONGEST_DIFF = 40  # lines of one cell's difference
NOT_COMPARED = ("run_id",)


@dataclass(frozen=True)
class Change:
    """A value that differs: its name, its value in either run (None: it has none), and the stages that have it."""

    name: str
    before: Any
    after: Any
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metric:
    """A metric in both runs; ``better`` is None where they are equal."""

    name: str
    before: float
    after: float
    better: bool | None

    @property
    def change(self) -> float:
        """The second minus the first."""
        return self.after - self.before


@dataclass(frozen=True)
class CodeChange:
    """A stage's code cell that differs: its number in the second run's notebook, and a unified difference."""

    stage: str
    cell: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """How the run ``after`` differs from the run ``before``.

    Attributes
    ----------
    before, after : RunRecord
    parameters, versions, data, modules : tuple of Change
        What differs; ``modules`` are those of ``lib``, by the digest of their sources, ``data`` the objects that
        stages have read, and ``checkout`` the Git commit.
    code : tuple of CodeChange
    metrics : tuple of Metric
        Those that both runs have.
    same_test : bool
        Whether both were measured by the same test ratings: else the metrics say little.
    stages : tuple of (str, StageRecord or None, StageRecord or None)
        Every stage that either has.
    """

    before: RunRecord
    after: RunRecord
    parameters: tuple[Change, ...]
    code: tuple[CodeChange, ...]
    modules: tuple[Change, ...]
    versions: tuple[Change, ...]
    checkout: tuple[Change, ...]
    data: tuple[Change, ...]
    metrics: tuple[Metric, ...]
    same_test: bool
    stages: tuple[tuple[str, StageRecord | None, StageRecord | None], ...] = field(default=())


def compare(outputs: Path, before: RunRecord, after: RunRecord) -> Comparison:
    """Compare two runs by their records and executed notebooks.

    Parameters
    ----------
    outputs : Path
        The folder of all runs.
    before, after : RunRecord
    """
    names = [stage.name for stage in after.stages]
    names += [stage.name for stage in before.stages if stage.name not in names]
    stages = tuple((name, before.stage(name), after.stage(name)) for name in sorted(names))
    tested = history.measured_by(before), history.measured_by(after)
    return Comparison(
        before=before,
        after=after,
        parameters=_parameters(stages),
        code=tuple(
            change
            for name, one, other in stages
            if one and other
            for change in _code(name, _notebook(outputs, before, one), _notebook(outputs, after, other))
        ),
        modules=_of_ingredient(stages, "modules"),
        versions=_changes(before.versions, after.versions),
        checkout=_changes(before.git, after.git),
        data=_of_ingredient(stages, "objects"),
        metrics=metric_changes(before, after),
        same_test=tested[0] is not None and tested[0] == tested[1],
        stages=stages,
    )


def metric_changes(before: RunRecord, after: RunRecord) -> tuple[Metric, ...]:
    """Return the metrics that both runs have."""
    one, other = history.metrics(before), history.metrics(after)
    return tuple(
        Metric(
            name,
            one[name],
            other[name],
            None if one[name] == other[name] else (other[name] < one[name]) == LOWER_IS_BETTER[name],
        )
        for name in METRICS
        if name in one and name in other
    )


_Stages = tuple[tuple[str, StageRecord | None, StageRecord | None], ...]


def _parameters(stages: _Stages) -> tuple[Change, ...]:
    """Return the parameters that differ in any stage that has run in both, but for what stages hand to each other."""
    handed = {name for _, *both in stages for stage in both if stage for name in stage.scraps}
    found: dict[tuple[str, str, str], list[str]] = {}
    for stage, one, other in stages:
        if not (one and other and one.parameters and other.parameters):
            continue
        for change in _changes(one.parameters, other.parameters):
            if change.name not in handed and change.name not in NOT_COMPARED:
                key = (change.name, json.dumps(change.before), json.dumps(change.after))
                found.setdefault(key, []).append(stage)
    return tuple(
        Change(name, json.loads(one), json.loads(other), tuple(names))
        for (name, one, other), names in found.items()
    )


def _of_ingredient(stages: _Stages, kind: str) -> tuple[Change, ...]:
    """Return what differs of one kind of ingredients, each once."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for stage, one, other in stages:
        if not (one and other and one.ingredients and other.ingredients):
            continue
        before, after = (
            {name: _content(value) for name, value in (record.ingredients.get(kind) or {}).items()}
            for record in (one, other)
        )
        for change in _changes(before, after):
            found.setdefault((change.name, str(change.before), str(change.after)), []).append(stage)
    return tuple(Change(name, one, other, tuple(names)) for (name, one, other), names in found.items())


def _content(value: Any) -> Any:
    """Return what an ingredient holds, in words: of objects not where they are."""
    if isinstance(value, dict) and "etag" in value:
        objects = f"{value['objects']} object{'s' if value['objects'] != 1 else ''}"
        return f"{objects}, {value['bytes']:,} bytes, {value['etag'][:12]}"
    return value


def _changes(before: dict[str, Any], after: dict[str, Any]) -> tuple[Change, ...]:
    names = [*after, *(name for name in before if name not in after)]
    return tuple(
        Change(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def _notebook(outputs: Path, run: RunRecord, stage: StageRecord) -> list[tuple[str, str]]:
    """Return number and source of each code cell of an executed notebook, without what the runner put in."""
    try:
        cells = read_json(outputs / run.run_id / stage.notebook)["cells"]
    except (ReelbookError, KeyError):
        return []
    found, number = [], 0
    for cell in cells:
        tags = cell.get("metadata", {}).get("tags", [])
        if "injected-parameters" in tags or "papermill-error-cell-tag" in tags:
            continue
        number += 1
        if cell.get("cell_type") == "code" and "parameters" not in tags:
            source = cell.get("source", "")
            found.append((str(number), source if isinstance(source, str) else "".join(source)))
    return found


def _code(stage: str, before: list[tuple[str, str]], after: list[tuple[str, str]]) -> list[CodeChange]:
    """Return the code cells that differ, cell by cell."""
    if not before or not after:
        return []
    one, other = [source for _, source in before], [source for _, source in after]
    found = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        cells = ", ".join(number for number, _ in after[c:d]) or ", ".join(
            number for number, _ in before[a:b]
        )
        lines = list(
            difflib.unified_diff(
                "\n".join(one[a:b]).splitlines(), "\n".join(other[c:d]).splitlines(), lineterm="", n=1
            )
        )[2:]
        found.append(CodeChange(stage, cells, tuple(lines[:LONGEST_DIFF])))
    return found
