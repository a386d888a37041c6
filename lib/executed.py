"""The truth about an executed notebook.

What papermill leaves is not always true: after a dead kernel, a cell that ran too long or an ``exit(0)`` the
saved notebook says "completed" for cells that never ran.  A stage has succeeded when papermill returned, every
code cell ran to its end, and every declared value was published; here that is judged, and the saved notebook
corrected where it claims more.
"""

from __future__ import annotations

import contextlib
import html
import re
from pathlib import Path
from typing import Any

from lib import errors, records
from lib.contracts import Contract
from lib.records import StageFailure
from lib.scraps import collect, import_quickly

INJECTED_TAG = "injected-parameters"
MARKER_TAG = "papermill-error-cell-tag"  # papermill's own: it removes such cells before it executes again

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def settle(
    executed: Path,
    contract: Contract,
    raised: BaseException | None,
    *,
    death: str = "",
    last_words: str = "",
    interrupted_by: str = "",
) -> tuple[dict[str, Any], StageFailure | None]:
    """Judge an executed notebook, and correct it on disk where the stage did not succeed.

    Parameters
    ----------
    executed : Path
        What papermill saved; it may be missing or half-written, and is then written anew.
    contract : Contract
        The notebook's contract.
    raised : BaseException or None
        What papermill raised, or what prevented the start of a kernel.
    death, last_words : str
        How the kernel's process ended, and what it wrote last, if it has ended.
    interrupted_by : str
        The signal that stopped the run, if one did.

    Returns
    -------
    scraps : dict of str to object
        What was published; ``{}`` after a failure.
    failure : StageFailure or None
        Why the stage did not succeed.
    """
    failure = StageFailure("Interrupted", f"{interrupted_by} stopped the run.")
    if interrupted_by and not executed.exists():
        return {}, failure
    notebook = _load(executed) or _unexecuted(contract.path)
    failing = _failing_cell(notebook, ended_early=raised is not None or bool(interrupted_by))
    if not interrupted_by:
        if raised is None and failing is None:
            try:
                return collect(executed, contract.publishes), None
            except errors.ScrapError as error:
                failure = StageFailure("ScrapError", str(error))
        else:
            failure = _failure(notebook, failing, raised, death, last_words)
    if failing is not None:
        failure.cell = _own_number(notebook, failing)
        failure.source = notebook.cells[failing].source
    _correct(notebook, failing, failure)
    _save(notebook, executed)
    return {}, failure


def plain(text: str) -> str:
    """Return a text without terminal colours."""
    return _ANSI.sub("", text)


def _load(path: Path) -> Any:
    """Return the notebook without error markers, or None where there is none or half a one."""
    nbformat = import_quickly("nbformat")
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception:  # half-written JSON fails in many ways
        return None
    notebook.cells = [cell for cell in notebook.cells if MARKER_TAG not in cell.metadata.get("tags", [])]
    return notebook


def _unexecuted(path: Path) -> Any:
    """Return a notebook as its author left it, without outputs."""
    notebook = import_quickly("nbformat").read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def _failing_cell(notebook: Any, ended_early: bool) -> int | None:
    """Return the index of the cell at which the execution ended early, or None."""
    code = [
        index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()
    ]
    for index in code:
        if _state(notebook.cells[index]).get("exception"):
            return index
    if ended_early:
        return max((index for index in code if _state(notebook.cells[index]).get("start_time")), default=None)
    for index in code:
        cell = notebook.cells[index]
        if cell.execution_count is None or _state(cell).get("status") != "completed":
            return index
    return None


def _failure(
    notebook: Any, failing: int | None, raised: BaseException | None, death: str, last_words: str
) -> StageFailure:
    """Say in words what ended the execution early."""
    output = _error_output(notebook.cells[failing]) if failing is not None else None
    kind = type(raised).__name__
    if output is not None and kind in ("PapermillExecutionError", "NoneType"):
        if output.ename == "SystemExit":
            message = f"The cell ended the notebook by exit({output.evalue}); the cells after it never ran."
            return StageFailure("SystemExit", message)
        message = plain(output.evalue).strip() or output.ename
        return StageFailure(output.ename, message, traceback=plain("\n".join(output.traceback)))
    if raised is None:
        return StageFailure("CellNotExecuted", "The cell was not executed.")
    if kind == "DeadKernelError" or (kind == "RuntimeError" and death):
        how = f": {death}" if death else ""
        return StageFailure("DeadKernelError", f"The kernel died{how}.", traceback=last_words)
    if kind == "CellTimeoutError":
        limit = re.search(r"after (\d+) seconds", str(raised))
        seconds = f" of {limit.group(1)} s" if limit else ""
        return StageFailure(kind, f"The cell ran longer than its limit{seconds}.")
    if kind == "NoSuchKernel":
        name = getattr(raised, "name", "")
        return StageFailure(
            kind, f"The notebook asks for the Jupyter kernel {name!r}, which is not installed."
        )
    return StageFailure(kind, plain(str(raised)).strip() or kind)


def _error_output(cell: Any) -> Any:
    return next((output for output in cell.get("outputs", []) if output.output_type == "error"), None)


def _own_number(notebook: Any, index: int) -> int:
    """Return a cell's number, from 1, in the notebook as its author knows it."""
    before = notebook.cells[: index + 1]
    return sum(INJECTED_TAG not in cell.metadata.get("tags", []) for cell in before)


def _state(cell: Any) -> dict[str, Any]:
    return dict(cell.metadata.get("papermill") or {})


def _correct(notebook: Any, failing: int | None, failure: StageFailure) -> None:
    """Take back what the saved notebook wrongly claims, and mark the failure for a reader."""
    for cell in notebook.cells:
        state = cell.metadata.setdefault("papermill", {})
        skipped = cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None
        if skipped or not state.get("start_time"):
            state.update(exception=None, start_time=None, end_time=None, duration=None, status="pending")
    if failing is not None:
        notebook.cells[failing].metadata["papermill"].update(exception=True, status="failed")
    notebook.metadata.setdefault("papermill", {})["exception"] = True
    where = f" in cell {failure.cell}" if failure.cell else ""
    what = "was interrupted" if failure.kind == "Interrupted" else "failed"
    reason = html.escape(failure.message.splitlines()[0])
    if failing is not None:
        later = [cell for cell in notebook.cells[failing + 1 :] if cell.get("execution_count") is not None]
        consequence = "" if later else "; no cell below has run"
        notebook.cells.insert(failing, _marker(f"**This stage {what} here**{consequence}.", "here"))
    notebook.cells.insert(0, _marker(f"**This stage {what}{where}.** {failure.kind}: {reason}", "top"))


def _marker(text: str, place: str) -> Any:
    """Return a Markdown cell that papermill would remove before it executes the notebook again."""
    cell = import_quickly("nbformat").v4.new_markdown_cell(text, id=f"failure-{place}")
    cell.metadata["tags"] = [MARKER_TAG]
    cell.metadata["papermill"] = {"status": "completed"}
    return cell


def _save(notebook: Any, path: Path) -> None:
    """Write the notebook; where that is impossible leave none rather than a false or broken one."""
    try:
        records.write_text(path, import_quickly("nbformat").writes(notebook) + "\n")
    except errors.ReelbookError:
        with contextlib.suppress(OSError):
            path.unlink()
