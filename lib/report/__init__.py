"""Pages of runs: each one file that opens offline, on a phone and on paper.

>>> from lib import report
>>> report.write("outputs/20261123-031032")  # doctest: +SKIP

The page of a run is made from ``run.json`` and the executed notebooks beside it, and from the earlier records that
its metrics are compared with, so it can be made again at any time.  All is taken as untrusted text: what it holds is
escaped, and what is missing or broken is told in a sentence where it would have been.
"""

from __future__ import annotations

from pathlib import Path

from lib import comparison, history, records
from lib.comparison import Comparison
from lib.errors import ReelbookError
from lib.report import diff_page, index, notebook_page, page, reading

__all__ = ["LARGEST", "NAME", "write", "write_diff", "write_index"]

NAME = "report.html"
INDEX = "index.html"
LARGEST = 5_000_000  # bytes of a page: an e-mail takes it, a phone opens it


def write(run_folder: str | Path, *, notebooks: bool = True) -> Path:
    """Write the page of a run, whatever state the run is in, and those of its executed notebooks.

    Parameters
    ----------
    run_folder : str or Path
        A folder with ``run.json`` and the executed notebooks.
    notebooks : bool
        Write a page of each executed notebook as well.

    Returns
    -------
    Path
        ``report.html`` in that folder; it refers to files beside it, the index above it, and nothing else.

    Raises
    ------
    ReelbookError
        When there is no record of a run, it cannot be read, or the page cannot be written.
    """
    folder = Path(run_folder)
    run = reading.read(folder)
    since, changes = _since(folder)
    pages = {}
    for stage in run.stages if notebooks else ():
        made = notebook_page.page_of(folder / stage.notebook, run.run_id) if stage.notebook else None
        if made is not None:
            pages[stage.notebook] = made
    html = page.render(run, since=since, changes=changes, pages=pages)
    if len(html.encode()) >= LARGEST:
        html = page.render(reading.without_figures(run), since=since, changes=changes, pages=pages)
    if len(html.encode()) >= LARGEST:
        raise ReelbookError(
            f"The record of the run {folder.name} is too large for a page of {LARGEST // 1_000_000} MB.",
            hint="Publish less: write large values to S3 and publish their URIs.",
        )
    target = folder / NAME
    records.write_text(target, html)
    for name, made in pages.items():
        records.write_text((folder / name).with_suffix(".html"), made)
    return target


def write_index(outputs: Path) -> Path:
    """Write the page over all runs, and return its path."""
    target = outputs / INDEX
    records.write_text(target, index.render(outputs, list(history.History(outputs).runs())))
    return target


def write_diff(outputs: Path, compared: Comparison) -> Path:
    """Write the page that compares two runs into the folder of the second, and return its path."""
    target = outputs / compared.after.run_id / f"diff-{compared.before.run_id}.html"
    records.write_text(target, diff_page.render(outputs, compared))
    return target


def _since(folder: Path) -> tuple[str, tuple[comparison.Metric, ...]]:
    """Return the last run that this one can be compared with, and how the metrics have changed since."""
    try:
        run = records.read_run(folder)
        earlier = history.comparable(run, history.History(folder.absolute().parent)) if run else None
    except ReelbookError:
        return "", ()
    if run is None or earlier is None:
        return "", ()
    return earlier.run_id, comparison.metric_changes(earlier, run)
