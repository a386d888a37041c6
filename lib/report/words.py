"""Times, numbers and values as a person reads them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

LONGEST = 2_000  # characters of a value
NARROW = "\u00a0"  # between a number and its unit: no line break
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


@dataclass(frozen=True)
class Shown:
    """A value as the page shows it.

    Attributes
    ----------
    kind : str
        ``number``, ``text``, ``code`` (JSON), or ``pairs`` (a mapping).
    text : str
        What is read; empty for pairs.
    exact : str
        A number with all its digits, where ``text`` has fewer; else empty.
    pairs : tuple of (str, Shown)
        Of a mapping.
    """

    kind: str
    text: str = ""
    exact: str = ""
    pairs: tuple[tuple[str, Shown], ...] = ()


def duration(seconds: float | None) -> str:
    """Return a time span in words, such as ``1 min 12 s``; empty for None."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    seconds = max(0.0, seconds)
    if seconds < 0.05:
        return f"0{NARROW}s"
    if seconds < 9.95:
        return f"{seconds:.1f}{NARROW}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NARROW}s"
    if whole < 3600:
        return f"{whole // 60}{NARROW}min {whole % 60:02}{NARROW}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}{NARROW}h {minutes % 60:02}{NARROW}min"
    hours = round(seconds / 3600)
    return f"{hours // 24}{NARROW}d {hours % 24}{NARROW}h"


def tick(seconds: float) -> str:
    """Return a place on a time axis in its shortest words, such as ``1 min``."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{NARROW}{unit}"
    if seconds < 60:
        return f"{seconds:g}{NARROW}s"
    return duration(seconds)


def moment(time: datetime | None) -> str:
    """Return a point in time in words, such as ``23 November 2026, 03:10 UTC``; empty for None."""
    if time is None:
        return ""
    time = time.astimezone(UTC)
    return f"{time.day}{NARROW}{MONTHS[time.month - 1]} {time.year}, {time:%H:%M}{NARROW}UTC"


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun, such as ``1 figure`` or ``3 figures``."""
    return f"{number:,}{NARROW}{one if number == 1 else many or one + 's'}"


def number(value: float) -> str:
    """Return a measured number to four digits, a whole number with separators."""
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−") if abs(value) < 10**18 else f"{float(value):.3e}"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if value == 0 or 0.01 <= abs(value) < 1000:
        text = f"{value:.4f}"
    elif 1000 <= abs(value) < 1e15:
        text = f"{value:,.1f}"
    else:
        text = f"{value:.4g}"
    return text.replace("-", "−")


def percent(share: float) -> str:
    """Return a share without its sign, such as ``1.8 %``."""
    share = abs(share) * 100
    return f"{share:.1f}{NARROW}%" if share < 99.95 else f"{share:,.0f}{NARROW}%"


def measured(value: Any) -> Shown:
    """Return a published value: numbers are rounded and keep their exact digits beside."""
    if isinstance(value, bool):
        return Shown("text", "yes" if value else "no")
    if isinstance(value, int | float):
        try:
            text = number(value)
        except (OverflowError, ValueError):  # a whole number of hundreds of digits
            return Shown("text", "a number too large to show")
        exact = repr(value) if isinstance(value, float) and math.isfinite(value) else ""
        return Shown("number", text, exact)
    if (
        isinstance(value, dict)
        and value
        and all(not isinstance(part, dict | list) for part in value.values())
    ):
        pairs = tuple((shortened(str(name), 200), measured(part)) for name, part in list(value.items())[:50])
        return Shown("pairs", pairs=pairs)
    return _as_given(value)


def given(value: Any) -> Shown:
    """Return a parameter's value exactly as it was given."""
    if isinstance(value, bool):
        return Shown("text", "true" if value else "false")
    if isinstance(value, int | float):
        try:
            text = f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else repr(value)
        except ValueError:
            return Shown("text", "a number too large to show")
        if "e-0" in text:  # 1e-05
            text = f"{Decimal(text):f}"
        return Shown("number", text)
    return _as_given(value)


def signed_percent(share: float) -> str:
    """Return a share with a minus sign where it is negative."""
    return f"−{percent(share)}" if share < -0.0005 else percent(share)


def change(value: float) -> str:
    """Return a change of a metric with its sign."""
    return f"{value:+.4f}".replace("-", "−") if abs(value) >= 0.00005 else "±0"


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return a text, cut where it is longer than that, with what was cut told."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]} … ({len(text) - longest:,} more characters)"


def _as_given(value: Any) -> Shown:
    """Return text as it is and anything else as JSON."""
    if value is None:
        return Shown("text", "none")
    if isinstance(value, str):
        return Shown("text", shortened(value)) if value.strip() else Shown("text", "(empty)")
    if isinstance(value, list) and value and all(isinstance(part, int | float | str) for part in value):
        return Shown("text", shortened(", ".join(str(part) for part in value[:LONGEST])))
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        text = "a value too large to show"
    return Shown("text", "(empty)") if text in ("{}", "[]") else Shown("code", shortened(text))
