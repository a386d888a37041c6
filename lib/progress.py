"""Progress of long work: a bar for who watches, lines for who reads an executed notebook later."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

HEADLESS = "REELBOOK_HEADLESS"  # the runner sets it in the kernels it starts
LINE_SECONDS = 20.0  # how often work that goes on says how far it is


def headless() -> bool:
    """Tell whether the runner started this process, so that nobody watches it."""
    return os.environ.get(HEADLESS) == "1"


def bar(iterable: Iterable[Any] | None = None, *, disable: bool = False, **options: Any) -> Any:
    """Return tqdm's bar; headless, one that prints a line at the end and every ``LINE_SECONDS``.

    Parameters
    ----------
    iterable : iterable, optional
        What to go through.
    disable : bool
        Show nothing.
    **options
        Those of tqdm: ``total``, ``desc``, ``unit``, ``unit_scale``.
    """
    if headless() and not disable:
        return Lines(iterable, **options)
    from tqdm.auto import tqdm

    return tqdm(iterable, disable=disable, **options)


class Lines:
    """As much of tqdm's bar as is used here, told in lines.

    Attributes
    ----------
    n : float
        How much is done; whoever sets it calls ``refresh``.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        total: float | None = None,
        desc: str = "",
        unit: str = "it",
        unit_scale: bool = False,
    ) -> None:
        self.n: float = 0
        self.total = total
        self._iterable = iterable
        self._desc, self._unit, self._scale = desc, unit.strip(), unit_scale
        self._postfix = ""
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable or ():
            yield item
            self.update()
        self.close()

    def update(self, amount: float = 1) -> None:
        """Count what is done."""
        self.n += amount
        self.refresh()

    def set_description(self, text: str, refresh: bool = True) -> None:
        """Take what is being done."""
        self._desc = text

    def set_postfix(self, values: dict[str, Any], refresh: bool = True) -> None:
        """Take what else is to be told."""
        self._postfix = ", ".join(f"{name} {value}" for name, value in values.items())

    def refresh(self) -> None:
        """Print a line, if the last one is long ago."""
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._tell()

    def close(self) -> None:
        """Print the last line."""
        self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        parts = [
            f"{self._desc}:" if self._desc else "",
            self._amount(),
            f"in {self._told - self._began:.1f} s",
        ]
        print(" ".join(filter(None, parts)) + (f", {self._postfix}" if self._postfix else ""), flush=True)

    def _amount(self) -> str:
        if self._unit == "B":
            return f"{self.n / 1e6:.1f} MB" if self.n >= 1e5 else f"{self.n:,.0f} bytes"
        done = f"{self.n:,.0f}"
        if self.total is not None:
            done += f" of {self.total:,.0f}"
        return f"{done} {self._unit}{'' if (self.total or self.n) == 1 or self._unit.endswith('s') else 's'}"
