"""The tables that the benchmarks print, as Markdown, and the machine that they were measured on."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path


class Report:
    """Markdown that is printed while it grows, and in the end put into a page.

    A page has a place for each script, between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts: list[str] = []

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(text)
        print(f"\n{text}", flush=True)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table under a title."""
        lines = [f"**{title}**", "", _line(header), _line(["---", *["---:"] * (len(header) - 1)])]
        self.text("\n".join([*lines, *(_line(row) for row in rows)]))

    def put_into(self, page: Path) -> None:
        """Replace what stands at this script's place in a page.

        Raises
        ------
        ValueError
            The page has no such place.
        """
        begin, end = f"<!-- begin {self.name} -->\n", f"<!-- end {self.name} -->"
        before, mark, rest = page.read_text().partition(begin)
        _, last_mark, after = rest.partition(end)
        if not mark or not last_mark:
            raise ValueError(f"{page} has no place for {self.name}.")
        page.write_text(before + begin + "\n" + "\n\n".join(self.parts) + "\n\n" + end + after)


def machine() -> str:
    """Return one line that names the machine, the interpreter and the day."""
    import numba
    import numpy

    return (
        f"{_processor()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB; Python {platform.python_version()}, "
        f"numpy {numpy.__version__}, numba {numba.__version__}; {datetime.date.today().isoformat()}."
    )


def figure(value: float | None, digits: int = 2) -> str:
    """Return a number with a few significant digits, or a dash for none."""
    if value is None or value != value:
        return "–"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    before = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(0, digits + 1 - before) if before else digits + 1}f}"


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _processor() -> str:
    names = ""
    if Path("/proc/cpuinfo").is_file():
        found = [
            x.split(":", 1)[1] for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x
        ]
        names = found[0].strip() if found else ""
    return names or platform.processor() or platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
