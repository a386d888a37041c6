"""What makes a stage up to date.

A stage is up to date when all that decides what it computes is what it was in an earlier run: its code cells, the
modules of ``lib`` that they reach, its parameters and the values published upstream, the ETags of its input
objects, local files that it reads and the versions of the packages; and when what it left is still there,
unchanged.  These are its *ingredients*; their digest is its *key*.  Whatever cannot be known is not up to date.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import records
from lib.contracts import Contract, read_contract
from lib.errors import ReelbookError
from lib.history import DONE, History
from lib.reach import Reach
from lib.records import ROOT, StageRecord
from lib.scraps import import_quickly
from lib.stages import RUN_ID, Stage

FRESH_SECONDS = 1.0
MOST_CAUSES = 3
LONGEST = 40  # characters of a value in an explanation

NO_INGREDIENTS = (RUN_ID, "stop_jobs", "prices")  # parameters on which no result depends

Ingredients = dict[str, Any]


@dataclass(frozen=True)
class Decision:
    """Whether a stage runs, and why.

    Attributes
    ----------
    key : str
        The digest of the ingredients; empty where one of them cannot be known.
    ingredients : dict
        As ``run.json`` has them.
    why : str
        Why the stage runs, or where it was executed, in words.
    found : StageRecord or None
        The record to reuse; None where the stage must run.
    run_id : str
        The run whose record that is.
    """

    key: str
    ingredients: Ingredients
    why: str
    found: StageRecord | None = None
    run_id: str = ""


class Objects:
    """Looks at what S3 holds under a URI; one connection a target."""

    def __init__(self) -> None:
        self._connected: tuple[Any, ...] | None = None
        self._seen: dict[str, tuple[float, dict[str, Any] | None]] = {}

    def state(self, uri: str, values: Mapping[str, Any], *, now: bool = False) -> dict[str, Any] | None:
        """Return the number, bytes and ETag of the objects under a URI.

        Parameters
        ----------
        uri : str
            S3 URI of an object or of a prefix.
        values : mapping
            A stage's parameters, of which ``target`` and ``account`` say where to look.
        now : bool
            Look again even where this was looked at less than ``FRESH_SECONDS`` ago: what one stage has just left
            is what the next one is about to read.

        Returns
        -------
        dict or None
            ``uri``, ``objects``, ``bytes``, ``etag``: that of the one object, or the digest of keys and ETags.
            None where there is no object, or where it cannot be looked at.
        """
        if "target" not in values:
            return None
        looked, state = self._seen.get(uri, (0.0, None))
        if now or time.monotonic() - looked > FRESH_SECONDS:
            began = time.monotonic()
            state = self._look(uri, values)
            self._seen[uri] = began, state
        return state

    def _look(self, uri: str, values: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            found = self._listed(uri, values)
        except ReelbookError:
            return None
        if not found:
            return None
        etag = found[0].etag
        if len(found) > 1 or found[0].uri != uri:
            etag = digest([(item.uri.removeprefix(uri), item.etag, item.size) for item in found])
        size = sum(item.size for item in found)
        return {"uri": uri, "objects": len(found), "bytes": size, "etag": etag}

    def jobs(self, scraps: Mapping[str, Any], values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what SageMaker says of the jobs that a stage has published (see ``lib.job_records``)."""
        from lib import job_records

        if "target" not in values or not job_records.named_in(scraps):
            return []
        try:
            self.connect(values)
            return job_records.describe(scraps, values.get("prices") or {})
        except ReelbookError:
            return []

    def connect(self, values: Mapping[str, Any]) -> None:
        """Connect this process to the target that a stage's parameters name."""
        from lib import aws

        import_quickly("boto3")  # papermill is being imported in another thread
        account = values.get("account") or {}
        wanted = (values["target"], json.dumps(account, sort_keys=True))
        if wanted != self._connected:
            self._connected, self._seen = None, {}
            aws.connect(values["target"], **account)
            self._connected = wanted

    def _listed(self, uri: str, values: Mapping[str, Any]) -> list[Any]:
        from lib import storage

        self.connect(values)
        return storage.objects_named(uri)


class Cache:
    """Decides which stages are up to date.

    Parameters
    ----------
    history : History
    objects : Objects
    own : RunRecord, optional
        The record of the run that is gone on with; it is looked at first.
    root : Path
        The folder that holds ``lib``.
    """

    def __init__(
        self, history: History, objects: Objects, own: records.RunRecord | None = None, root: Path = ROOT
    ) -> None:
        self.objects = objects
        self._history = history
        self._own = own
        self._root = root
        self._reach: Reach | None = None
        self._versions = records.versions()

    def has_run(self, name: str) -> bool:
        """Tell whether any run has a stage's record that might be reused."""
        return next(self._earlier(name), None) is not None

    def decide(
        self, stage: Stage, contract: Contract, values: Mapping[str, Any], *, forced: str = ""
    ) -> Decision:
        """Decide whether a stage runs.

        Parameters
        ----------
        stage : Stage
        contract : Contract
        values : mapping
            The value of each of its parameters.
        forced : str
            Why it runs in any case; empty: only where it is not up to date.
        """
        ingredients, unknown = self.ingredients(contract, values)
        key = "" if unknown or not stage.cached else digest(ingredients)
        if forced or not stage.cached:
            return Decision(key, ingredients, forced or "it runs every time")
        if unknown:
            return Decision("", ingredients, unknown)
        lost, newest = "", None
        for run_id, earlier in self._earlier(stage.name):
            newest = newest or (run_id, earlier)
            if earlier.key != key:
                continue
            missing = self._missing(earlier, values)
            if not missing:
                origin = earlier.origin or run_id
                return Decision(key, ingredients, f"up to date since the run {origin}", earlier, run_id)
            lost = lost or missing
        if lost:
            return Decision(key, ingredients, lost)
        if newest is None:
            return Decision(key, ingredients, "it has not run before")
        causes = differences(ingredients, newest[1].ingredients, contract)
        return Decision(key, ingredients, f"{causes} (run {newest[0]})" if causes else "it has no key yet")

    def ingredients(self, contract: Contract, values: Mapping[str, Any]) -> tuple[Ingredients, str]:
        """Return what decides what a stage computes, and what of it cannot be known, in words."""
        self._reach = self._reach or Reach(self._root)
        unknown = ""
        objects, files = {}, {}
        for name, value in values.items():
            for label, uri in uris(name, value):
                objects[label] = self.objects.state(uri, values)
                if objects[label] is None:
                    unknown = unknown or f"what is at {uri} cannot be looked at"
            if is_path(name, value):
                files[name] = self._file_digest(value)
                if files[name] is None:
                    unknown = unknown or f"{value} cannot be read"
        secret = {name for name, parameter in contract.parameters.items() if parameter.secret}
        ingredients = {
            "code": [_code_digest(source) for _, source in contract.code],
            "kernel": contract.kernel,
            "modules": self._reach.digests(source for _, source in contract.code),
            "parameters": {
                name: value
                for name, value in values.items()
                if name not in NO_INGREDIENTS and name not in secret
            },
            "objects": objects,
            "files": files,
            "versions": self._versions,
        }
        return ingredients, unknown

    def changed_meanwhile(self, decision: Decision, contract: Contract, values: Mapping[str, Any]) -> str:
        """Say which ingredient is no more what it was when the stage was decided on; empty where each is.

        What ran then is not what the key says: kernels are started ahead, and jobs read the sources later.
        """
        changed = self._reach.changed(decision.ingredients["modules"]) if self._reach else []
        if changed:
            return f"{changed[0]} was changed while the run was going on"
        try:
            if read_contract(contract.path).code != contract.code:
                return "the notebook was changed while the run was going on"
        except ReelbookError as error:
            return str(error)
        for label, before in decision.ingredients["objects"].items():
            if self.objects.state(before["uri"], values, now=True) != before:
                return f"{label} was changed while the stage ran ({before['uri']})"
        for name, digest in decision.ingredients["files"].items():
            if self._file_digest(values[name]) != digest:
                return f"{values[name]} was changed while the stage ran"
        return ""

    def outputs(self, scraps: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the state of the objects whose URIs a stage has published; None where one cannot be looked at."""
        found = {}
        for name, value in scraps.items():
            for label, uri in uris(name, value):
                found[label] = self.objects.state(uri, values, now=True)
                if found[label] is None:
                    return None
        return found

    def _file_digest(self, path: str) -> str | None:
        try:
            with (self._root / Path(path).expanduser()).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None

    def _earlier(self, name: str) -> Iterator[tuple[str, StageRecord]]:
        own = self._own.stage(name) if self._own else None
        if self._own and own and own.status in DONE:
            yield self._own.run_id, own
        yield from self._history.stages(name)

    def _missing(self, earlier: StageRecord, values: Mapping[str, Any]) -> str:
        """Say what is not there any more of what a stage has left; empty where all is."""
        labels = [label for name, value in earlier.scraps.items() for label, _ in uris(name, value)]
        if earlier.outputs is None or sorted(labels) != sorted(earlier.outputs):
            return "what it left was not recorded"
        for label, before in earlier.outputs.items():
            now = self.objects.state(before["uri"], values)
            if now is None:
                return f"its {label} is gone ({before['uri']})"
            if now != before:
                return f"its {label} has been changed since ({before['uri']})"
        return ""


def uris(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the S3 URIs in a value, each with the name of its place."""
    if isinstance(value, str) and value.startswith("s3://"):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from uris(f"{name}.{key}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from uris(f"{name}.{index}", inner)


def is_path(name: str, value: Any) -> bool:
    """Tell whether a parameter names a local file: it is called ``path`` or ``…_path``."""
    return isinstance(value, str) and bool(value) and (name == "path" or name.endswith("_path"))


def differences(now: Ingredients, before: Ingredients, contract: Contract) -> str:
    """Say in which ingredients two executions of a stage differ, the most telling first; empty where in none."""
    moved = [
        name
        for name, value in now.get("parameters", {}).items()
        if _is_uri(value) and _is_uri(old := before.get("parameters", {}).get(name)) and value != old
    ]
    now, before = ({**one, "objects": _without(one, "objects", moved)} for one in (now, before))
    causes = [
        *_code_changes(now.get("code", []), before.get("code", []), contract),
        *_changes(now, before, "parameters", "{name} is {now}, was {before}"),
        *_changes(now, before, "objects", "{name} holds other objects"),
        *_changes(now, before, "files", "the file of {name} has changed"),
        *_changes(now, before, "modules", "{name} has changed"),
        *_changes(now, before, "versions", "{name} is {now}, was {before}"),
    ]
    if now.get("kernel") != before.get("kernel"):
        causes.append("its kernel has changed")
    if len(causes) > MOST_CAUSES:
        causes = [*causes[: MOST_CAUSES - 1], f"{len(causes) - MOST_CAUSES + 1} other changes"]
    return "; ".join(causes)


def _code_changes(now: list[str], before: list[str], contract: Contract) -> list[str]:
    """Name the code cells that are not what they were."""
    import difflib

    if now == before:
        return []
    numbers = [number for number, _ in contract.code]
    changed: list[int] = []
    for tag, _, _, first, last in difflib.SequenceMatcher(None, before, now, autojunk=False).get_opcodes():
        if tag != "equal":
            changed += numbers[first:last]
    if not changed:
        return ["a code cell was taken away"]
    cells = ", ".join(map(str, changed))
    return [f"its code has changed in cell{'s' if len(changed) > 1 else ''} {cells}"]


def _changes(now: Ingredients, before: Ingredients, kind: str, sentence: str) -> list[str]:
    new, old = now.get(kind) or {}, before.get(kind) or {}
    texts = []
    for name in [*new, *(name for name in old if name not in new)]:
        if new.get(name) == old.get(name) and (name in new) == (name in old):
            continue
        if _is_uri(new.get(name)) and _is_uri(old.get(name)):
            texts.append(f"{name} is another one")
        elif name not in old:
            texts.append(f"{name} is new")
        elif name not in new:
            texts.append(f"{name} is not there any more")
        else:
            texts.append(sentence.format(name=name, now=_short(new[name]), before=_short(old[name])))
    return texts


def _is_uri(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("s3://")


def _without(ingredients: Ingredients, kind: str, names: list[str]) -> dict[str, Any]:
    return {name: value for name, value in (ingredients.get(kind) or {}).items() if name not in names}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"…{text[-LONGEST:]}"


def digest(value: Any) -> str:
    """Return the digest of a JSON value; the order of keys does not count."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _code_digest(source: str) -> str:
    """Return the digest of a cell's code: comments and white space do not count, where it is plain Python."""
    with contextlib.suppress(SyntaxError, ValueError):  # of a cell with magics the text itself counts
        source = ast.dump(ast.parse(source))
    return hashlib.sha256(source.encode()).hexdigest()[:16]
