"""What a notebook takes and gives, read from its source without running anything.

It takes what stands in its parameters cell, the second cell, one ``name: type = default  # help`` a line.  It
gives what stands in the one ``publish(name=value, ...)`` call of its last code cell.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import ContractError, did_you_mean
from lib.parameters import TYPES, Parameter, coerce
from lib.records import shown

_SUBMISSION = re.compile(r"\bjobs\.(?:train|tune|transform)\(|\bdeployment\.deploy\(")


@dataclass(frozen=True)
class Contract:
    """What a notebook takes and gives, read from its source.

    Attributes
    ----------
    stage : str
        The stage's name.
    path : Path
        The notebook.
    title : str
        The text of its first H1, or its name.
    kernel : str
        The name of the Jupyter kernel it asks for.
    parameters : dict of str to Parameter
        In the order of the parameters cell.
    publishes : tuple of str
        The names of the publish call, in its order.
    imports : tuple of str
        Its top-level import statements, as source.
    cells : int
        How many cells it has.
    code : tuple of (int, str)
        Number, from 1 over all cells, and source of each code cell but the parameters cell.
    """

    stage: str
    path: Path
    title: str
    kernel: str
    parameters: dict[str, Parameter]
    publishes: tuple[str, ...]
    imports: tuple[str, ...]
    cells: int
    code: tuple[tuple[int, str], ...] = ()

    @property
    def submits(self) -> bool:
        """Whether its code submits a job, and so needs the SageMaker SDK."""
        return any(_SUBMISSION.search(source) for _, source in self.code)


def read_contract(path: Path) -> Contract:
    """Read what a notebook takes and gives, without running anything.

    Raises
    ------
    ContractError
        With one sentence for each thing that is wrong, a line each.
    """
    reader = _NotebookReader(path)
    contract = reader.read()
    if reader.problems:
        raise ContractError("\n".join(reader.problems))
    return contract


def publishers(name: str, folder: Path) -> list[str]:
    """Return the notebooks of a folder that publish a name; those that cannot be read are passed over."""
    found = []
    for path in sorted(folder.glob("*.ipynb")):
        try:
            if name in read_contract(path).publishes:
                found.append(path.name)
        except ContractError:
            continue
    return found


class _NotebookReader:
    """Reads one notebook's contract and collects what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []

    def read(self) -> Contract:
        """Return the contract; where ``problems`` is not empty it is not whole."""
        notebook = self._load()
        cells = notebook["cells"]
        trees = {
            index: self._parse(index, _source(cell))
            for index, cell in enumerate(cells)
            if cell.get("cell_type") == "code" and _source(cell).strip()
        }
        return Contract(
            stage=self.path.stem,
            path=self.path,
            title=_title(cells) or self.path.stem,
            kernel=notebook.get("metadata", {}).get("kernelspec", {}).get("name", "python3"),
            parameters=self._parameters(cells, trees),
            publishes=self._publishes(trees),
            imports=tuple(
                ast.unparse(statement)
                for tree in trees.values()
                for statement in tree.body
                if isinstance(statement, (ast.Import, ast.ImportFrom))
            ),
            cells=len(cells),
            code=tuple((index + 1, _source(cells[index])) for index in trees if index != 1),
        )

    def where(self, index: int, line: int | None = None) -> str:
        """Return notebook, cell (counted from 1) and line for a message."""
        return f"{self.path.name}, cell {index + 1}" + (f", line {line}" if line else "")

    def _load(self) -> dict[str, Any]:
        try:
            notebook = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            siblings = [path.stem for path in self.path.parent.glob("*.ipynb")]
            guess = did_you_mean(self.path.stem, siblings)
            raise ContractError(
                f"There is no notebook {shown(self.path)}{': ' + guess if guess else '.'}"
            ) from None
        except (OSError, ValueError) as error:
            raise ContractError(f"{shown(self.path)} is not a notebook: {error}.") from None
        if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
            raise ContractError(f"{shown(self.path)} is not a notebook of format 4.")
        return notebook

    def _parse(self, index: int, source: str) -> ast.Module:
        """Parse a cell; magics and shell lines count as empty statements."""
        if source.lstrip().startswith("%%"):
            return ast.Module([], [])
        lines = [
            re.sub(r"^(\s*)[%!].*$", r"\1pass", line) if re.match(r"\s*[%!]", line) else line
            for line in source.splitlines()
        ]
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        try:
            return compile("\n".join(lines), self.path.name, "exec", flags, dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            reason = getattr(error, "msg", None) or str(error)
            self.problems.append(f"{self.where(index, line)}: this is not Python: {reason}.")
            return ast.Module([], [])

    def _parameters(self, cells: list[Any], trees: Mapping[int, ast.Module]) -> dict[str, Parameter]:
        tagged = [
            index
            for index, cell in enumerate(cells)
            if "parameters" in cell.get("metadata", {}).get("tags", []) and cell.get("cell_type") == "code"
        ]
        if tagged != [1]:
            self.problems.append(self._where_is_the_parameters_cell(tagged))
            return {}
        parameters: dict[str, Parameter] = {}
        helps = _comments(_source(cells[1]))
        for statement in trees.get(1, ast.Module([], [])).body:
            parameter = self._parameter(statement, helps)
            if parameter is None:
                continue
            if parameter.name in parameters:
                self.problems.append(f"{parameter.where}: `{parameter.name}` is a parameter twice.")
            parameters[parameter.name] = parameter
        return parameters

    def _where_is_the_parameters_cell(self, tagged: list[int]) -> str:
        if not tagged:
            return f"{self.where(1)}: the second cell must be a code cell with the tag `parameters`."
        if len(tagged) > 1:
            numbers = ", ".join(str(index + 1) for index in tagged)
            return f"{self.path.name}: cells {numbers} have the tag `parameters`; only cell 2 may."
        return f"{self.where(tagged[0])}: the cell with the tag `parameters` must be the second cell."

    def _parameter(self, statement: ast.stmt, helps: Mapping[int, str]) -> Parameter | None:
        """Read one line of the parameters cell, or note what is wrong with it."""
        where = self.where(1, statement.lineno)
        if (
            not isinstance(statement, ast.AnnAssign)
            or not isinstance(statement.target, ast.Name)
            or statement.value is None
            or statement.lineno != statement.end_lineno
            or not helps.get(statement.lineno)
        ):
            self.problems.append(f"{where}: each line must read `name: type = default  # help`.")
            return None
        name, annotation = statement.target.id, ast.unparse(statement.annotation)
        if annotation not in TYPES:
            self.problems.append(f"{where}: `{name}` is {annotation}; a type is one of {', '.join(TYPES)}.")
            return None
        try:
            default = ast.literal_eval(statement.value)
        except ValueError:
            self.problems.append(f"{where}: the default of `{name}` is not a plain value.")
            return None
        if default is not None:
            try:
                default = coerce(default, annotation)
            except ValueError as error:
                self.problems.append(f"{where}: the default of `{name}` is {default!r}, {error}.")
                return None
        return Parameter(name, annotation, default, helps[statement.lineno], where)

    def _publishes(self, trees: Mapping[int, ast.Module]) -> tuple[str, ...]:
        calls = [
            (index, node)
            for index, tree in trees.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and _is_publish(node.func)
        ]
        last = max(trees, default=0)
        if not calls:
            self.problems.append(
                f"{self.where(last)}: the last code cell must call `publish(name=value, ...)`."
            )
            return ()
        if len(calls) > 1:
            (index, _), (again, node) = calls[:2]
            self.problems.append(
                f"{self.where(again, node.lineno)}: `publish` is called twice, first in cell {index + 1}; "
                "once is allowed."
            )
        index, call = calls[-1]
        if index != last:
            self.problems.append(
                f"{self.where(index, call.lineno)}: `publish` must be called in the last code cell, cell {last + 1}."
            )
        names = tuple(keyword.arg for keyword in call.keywords if keyword.arg)
        if call.args or len(names) != len(call.keywords) or not names:
            self.problems.append(
                f"{self.where(index, call.lineno)}: `publish` takes keyword arguments only, `publish(name=value)`."
            )
        return names


def _is_publish(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr == "publish" and ast.unparse(function.value).split(".")[-1] == "scraps"
    return isinstance(function, ast.Name) and function.id == "publish"


def _source(cell: Mapping[str, Any]) -> str:
    """Return a cell's source, which the file format holds as one text or as a list of lines."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _title(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the first H1."""
    for cell in cells:
        if cell.get("cell_type") == "markdown":
            heading = re.search(r"^# +(.+)$", _source(cell), flags=re.MULTILINE)
            if heading:
                return heading.group(1).strip()
    return ""


def _comments(source: str) -> dict[int, str]:
    """Return the comment that ends each line, by line number from 1."""
    comments = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                comments[token.start[0]] = token.string.lstrip("# ").strip()
    except (tokenize.TokenError, SyntaxError):
        pass  # the cell is no Python, which its parsing has said already
    return comments
