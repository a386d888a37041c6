"""Which modules of ``lib`` a notebook reaches, found in the sources without running anything.

A module is reached by an import statement, wherever in the source it stands, or by its dotted name as a string,
as in ``[sys.executable, "-m", "lib.fm"]``.  Files that are not Python belong to the module beside them that has
their stem or names them.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from lib.records import ROOT

PACKAGE = "lib"

# Imports on which nothing that a stage computes depends.  The local AWS stores objects, which are looked at
# themselves: the code that stores them counts as little as AWS's own does.  From contracts, scraps makes a hint.
WITHOUT_EFFECT = {
    "lib.aws": "lib.local",
    "lib.scraps": "lib.contracts",
    "lib.local.processing_jobs": "lib.container",  # no notebook submits such a job
}

# The code of the jobs that these modules submit, where the target is local.
RUNS_JOBS = {"lib.jobs": "lib.local.algorithm", "lib.deployment": "lib.local.algorithm"}


class Reach:
    """The modules below a folder, read once each.

    Parameters
    ----------
    root : Path
        The folder that holds the package ``lib``.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._files = self._find()
        self._digests: dict[str, str] = {}
        self._stamps: dict[str, list[tuple[int, int, int]]] = {}
        self._next: dict[str, frozenset[str]] = {}
        self._others: dict[Path, list[Path]] = {}

    def digests(self, sources: Iterable[str]) -> dict[str, str]:
        """Return the digest of every module that some Python sources reach, by the module's name.

        Parameters
        ----------
        sources : iterable of str
            Python; what cannot be parsed reaches nothing.
        """
        waiting: set[str] = set()
        for source in sources:
            waiting |= self._named(source, package="")
        reached: set[str] = set()
        while waiting:
            module = waiting.pop()
            reached.add(module)
            waiting |= self._reaches(module) - reached
        return {module: self._digests[module] for module in sorted(reached)}

    def changed(self, modules: Iterable[str]) -> list[str]:
        """Return which of these modules have been written to since they were read here."""
        return [
            module
            for module in modules
            if self._stamps[module] != [_stamp(path) for path in self.files_of(module)]
        ]

    def files_of(self, module: str) -> list[Path]:
        """Return the files of a module: its own, and those that belong to it."""
        return self._parts(self._files[module])

    def _find(self) -> Mapping[str, Path]:
        files = {}
        for path in sorted((self._root / PACKAGE).rglob("*.py")):
            parts = path.relative_to(self._root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return files

    def _reaches(self, module: str) -> frozenset[str]:
        """Return what a module reaches in one step; and take its digest."""
        if module not in self._next:
            path = self._files[module]
            parts = self._parts(path)
            self._stamps[module] = [_stamp(part) for part in parts]
            source = path.read_bytes()
            is_package = path.name == "__init__.py"
            named = self._named(source.decode(), package=module if is_package else module.rpartition(".")[0])
            digest = hashlib.sha256(source)
            for beside in parts[1:]:
                digest.update(beside.read_bytes())
            self._digests[module] = digest.hexdigest()[:16]
            without_effect = WITHOUT_EFFECT.get(module, "-")
            named = {name for name in named if not f"{name}.".startswith(f"{without_effect}.")}
            jobs = {RUNS_JOBS[module]} & self._files.keys() if module in RUNS_JOBS else set()
            self._next[module] = frozenset(named | jobs)
        return self._next[module]

    def _named(self, source: str, package: str) -> set[str]:
        """Return the modules that a source imports or names, with the packages they are in."""
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return set()
        named: set[str] = set()
        named_modules = self._files.keys() - {PACKAGE}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = _absolute(node, package)
                named |= {base} | {f"{base}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Constant) and node.value in named_modules:
                named |= {str(node.value), f"{node.value}.__main__"}
        whole = {
            ".".join(name.split(".")[:count]) for name in named for count in range(1, name.count(".") + 2)
        }
        return whole & self._files.keys()

    def _parts(self, path: Path) -> list[Path]:
        """Return a module's file and those that belong to it, as ``ratings.sql`` to ``ratings.py``."""
        others = self._others.get(path.parent)
        if others is None:
            others = self._others[path.parent] = [
                other
                for other in sorted(path.parent.iterdir())
                if other.is_file() and other.suffix not in (".py", ".pyc") and not other.name.startswith(".")
            ]
        if not others:
            return [path]
        source = path.read_bytes()
        return [
            path,
            *(other for other in others if other.stem == path.stem or other.name.encode() in source),
        ]


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written or replaced."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return status.st_mtime_ns, status.st_size, status.st_ino


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the module that ``from … import`` names, without leading dots."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parents, *([node.module] if node.module else [])])
