"""The notebooks read like notebooks: a story that calls lib, clean, with the contract in its place."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
STAGES, EXPLORE = sorted(FOLDER.glob("[0-9]*.ipynb")), sorted(FOLDER.glob("explore/*.ipynb"))
of_all = pytest.mark.parametrize("path", STAGES + EXPLORE, ids=lambda path: path.stem)
of_stages = pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text())["cells"]


def code(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code"]


def prose(path: Path) -> str:
    return "\n\n".join("".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "markdown")


@of_all
def test_it_is_committed_without_outputs(path):
    for cell in cells(path):
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@of_stages
def test_it_opens_with_a_title_that_begins_with_its_number_and_a_table_of_what_it_gives(path):
    first = "".join(cells(path)[0]["source"])
    assert first.startswith(f"# {path.stem[:2]} ")
    assert "| gives |" in first


@of_all
def test_sections_are_numbered_in_order_and_the_last_says_what_the_stage_does_not_do(path):
    headings = re.findall(r"^## (.*)$", prose(path), flags=re.M)
    assert headings[-1] == f"What this {'stage' if path in STAGES else 'notebook'} does not do"
    assert [int(text.split(".")[0]) for text in headings[:-1]] == list(range(1, len(headings)))


@of_all
def test_the_parameters_are_the_second_cell(path):
    tagged = [n for n, cell in enumerate(cells(path)) if "parameters" in cell["metadata"].get("tags", [])]
    assert tagged == [1]


@of_all
def test_cells_are_short_and_define_nothing(path):
    for source in code(path)[1:]:
        assert len(source.splitlines()) <= 15, source
        kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.While, ast.Try)
        assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


@of_all
def test_no_cell_asks_which_target_it_runs_on(path):
    for source in code(path):
        names = [
            name.id
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.If | ast.IfExp)
            for name in ast.walk(node.test)
            if isinstance(name, ast.Name)
        ]
        assert "target" not in names


@of_stages
def test_what_its_table_says_it_gives_is_what_it_publishes(path):
    table = "".join(cells(path)[0]["source"]).partition("| gives |")[2]
    told = set(
        re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:] if "|" in row))
    )
    last = ast.parse(code(path)[-1])
    (call,) = [
        node
        for node in ast.walk(last)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "publish"
    ]
    assert told == {keyword.arg for keyword in call.keywords}


@of_stages
def test_what_its_table_says_it_takes_is_what_it_requires(path):
    table = "".join(cells(path)[0]["source"]).partition("| takes |")[2].partition("| gives |")[0]
    told = set(
        re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:] if "|" in row))
    )
    required = {
        node.target.id
        for node in ast.parse(code(path)[0]).body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.value, ast.Constant)
        and node.value.value is None
    }
    assert told - {"run_id"} == required - {"run_id"}


@of_all
def test_every_line_of_the_parameters_cell_is_a_parameter_with_its_help(path):
    for line in code(path)[0].splitlines():
        assert re.fullmatch(r"\w+: (str|int|float|bool|list|dict) = .+  # \S.*", line), line
        assert len(line) <= 120


def test_there_is_something_to_explore():
    assert [path.stem for path in EXPLORE] == ["compare_runs", "look_into_a_model"]
