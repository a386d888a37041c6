"""Fills the templates of all pages.

Jinja escapes everything that is put into a page.  A page forbids itself, by a content security policy, to run or load
anything: only its own style sheet, known by its hash, and pictures inside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lib.report import words

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def render(template: str, *sheets: str, style: str = "", **values: Any) -> str:
    """Return a page.

    Parameters
    ----------
    template : str
        A file of this folder.
    *sheets : str
        Style sheets of this folder, beside ``page.css``.
    style : str
        Further style.
    **values
        What the template shows.
    """
    css = "\n".join((HERE / sheet).read_text(encoding="utf-8") for sheet in ("page.css", *sheets)) + style
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    html = _environment().get_template(template).render(style=css, style_hash=digest, **values)
    return _UNPRINTABLE.sub("\ufffd", html)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": words.duration,
        "moment": words.moment,
        "given": words.given,
        "measured": words.measured,
        "number_and_name": number_and_name,
        "breakable": breakable,
        "change": words.change,
        "told": told,
        "link": lambda name: "./" + quote(name),
    }
    return environment


def told(value: Any) -> str:
    """Return a value in one line."""
    if value is None:
        return "–"
    return words.shortened(
        value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False), 200
    )


def number_and_name(title: str) -> tuple[str, str]:
    """Split a stage's title or name into its number and the rest: ``03_train`` is ``03`` and ``train``."""
    found = re.fullmatch(r"(\d{1,3})[ _.:–-]+(.+)", title, re.DOTALL)
    number, name = (found.group(1), found.group(2)) if found else ("", title)
    return number, name if " " in name else name.replace("_", " ")


def breakable(text: str) -> list[str]:
    """Split a text after each slash, where a browser may break the line."""
    return re.findall(r"[^/]*/+|[^/]+", text)
