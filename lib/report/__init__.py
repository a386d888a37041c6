"""The page of a run: one file that opens offline, on a phone and on paper.

>>> from lib import report
>>> report.write("outputs/20261123-031032")  # doctest: +SKIP

It is made from ``run.json`` and the executed notebooks beside it, and from nothing else, so it can be made
again at any time.  Both are taken as untrusted text: what they hold is escaped, and what is missing or broken
is told in a sentence where it would have been.
"""

from __future__ import annotations

from pathlib import Path

from lib import records
from lib.errors import ReelbookError
from lib.report import page, reading

__all__ = ["LARGEST", "NAME", "write"]

NAME = "report.html"
LARGEST = 5_000_000  # bytes of a page: an e-mail takes it, a phone opens it


def write(run_folder: str | Path) -> Path:
    """Write the page of a run, whatever state the run is in.

    Parameters
    ----------
    run_folder : str or Path
        A folder with ``run.json`` and the executed notebooks.

    Returns
    -------
    Path
        ``report.html`` in that folder; it refers to the notebooks beside it and to nothing else.

    Raises
    ------
    ReelbookError
        When there is no record of a run, it cannot be read, or the page cannot be written.
    """
    folder = Path(run_folder)
    run = reading.read(folder)
    html = page.render(run)
    if len(html.encode()) >= LARGEST:
        html = page.render(reading.without_figures(run))
    if len(html.encode()) >= LARGEST:
        raise ReelbookError(
            f"The record of the run {folder.name} is too large for a page of {LARGEST // 1_000_000} MB.",
            hint="Publish less: write large values to S3 and publish their URIs.",
        )
    target = folder / NAME
    records.write_text(target, html)
    return target
