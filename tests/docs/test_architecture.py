"""docs/architecture.md is true: its rooms are there, and the walls between them hold."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "lib").rglob("*.py"))}


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """Return the modules of ``lib`` that a module imports, at its top or everywhere in it."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name in MODULES} - {module_name(path)}


def room(name: str) -> str:
    return ".".join(name.split(".")[:2])


def test_nothing_imports_the_local_aws_but_lib_aws():
    importers = {
        room(name)
        for name, path in MODULES.items()
        if any(room(used) == "lib.local" for used in imports(path, everywhere=True))
    }
    assert importers == {"lib.local", "lib.aws"}


@pytest.mark.parametrize(
    ("low", "may_use"),
    [
        ("lib.errors", set()),
        ("lib.threads", {"lib.errors"}),
        ("lib.compiled", set()),
        ("lib.recordio", {"lib.errors", "lib.threads", "lib.compiled"}),
        ("lib.fm", {"lib.errors", "lib.recordio", "lib.threads", "lib.compiled"}),
        ("lib.local", {"lib.errors", "lib.recordio", "lib.fm", "lib.threads", "lib.compiled"}),
    ],
)
def test_the_lower_rooms_use_only_what_is_below_them(low, may_use):
    used = {
        room(other)
        for name, path in MODULES.items()
        if room(name) == low
        for other in imports(path, everywhere=True)
    }
    assert used - {low, "lib"} <= may_use


@pytest.mark.parametrize("name", ["runner", "plan", "kernels", "console", "report"])
def test_nothing_below_imports_what_runs_the_workflow(name):
    workflow = {"lib.runner", "lib.plan", "lib.kernels", "lib.console", "lib.report", "lib.executed"}
    workflow |= {"lib.execution", "lib.forecast", "lib.commands", "lib.preflight", "lib.notices"}
    workflow |= {"lib.stage_runs", "lib.job_configs", "lib.container"}
    importers = {
        room(module)
        for module, path in MODULES.items()
        if f"lib.{name}" in {room(used) for used in imports(path, everywhere=True)}
    }
    assert importers <= workflow


def test_there_are_no_circles():
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        graph.setdefault(room(name), set()).update(
            room(used) for used in imports(path, everywhere=True) if used != "lib"
        )
    graph = {name: used - {name} for name, used in graph.items()}
    assert list(TopologicalSorter(graph).static_order())


def test_every_room_is_on_the_page():
    for name in {room(name) for name in MODULES} - {"lib"}:
        stem = name.removeprefix("lib.")
        assert f"`{stem}.py`" in TEXT or f"`lib/{stem}.py`" in TEXT or f"`lib/{stem}/`" in TEXT, name


def test_modules_stay_small():
    sizes = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: size for name, size in sizes.items() if size > 600} == {}
