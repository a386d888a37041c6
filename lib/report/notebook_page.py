"""The page of an executed notebook: its words, code and outputs, to be read without Jupyter.

Markdown is turned into HTML by mistune, code is coloured by Pygments, and HTML that a cell has shown, as tables of
pandas, keeps what bleach knows to be harmless.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lib.report import rendering, words

PICTURE_BUDGET = 4_000_000  # characters of all pictures together, in base64
LONGEST_OUTPUT = 20_000  # characters of a text that a cell has shown

_TAGS = {
    *(
        "table",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
        "caption",
        "p",
        "div",
        "span",
        "br",
        "hr",
        "b",
        "i",
        "em",
    ),
    *(
        "strong",
        "code",
        "pre",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "sub",
        "sup",
        "a",
    ),
    *("blockquote", "details", "summary", "small", "kbd"),
}
_ATTRIBUTES = {"th": ["scope", "colspan", "rowspan"], "td": ["colspan", "rowspan"], "a": ["href", "title"]}
_NOT_SHOWN = re.compile(r"<(style|script)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_INJECTED, _PARAMETERS, _MARKER = "injected-parameters", "parameters", "papermill-error-cell-tag"


@dataclass(frozen=True)
class Output:
    """What a cell has shown: ``text``, ``error``, ``table`` (harmless HTML) or ``picture`` (PNG in base64)."""

    kind: str
    text: str
    alt: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of the page; ``html`` is harmless."""

    kind: str
    html: str
    label: str = ""
    state: str = ""
    anchor: str = ""
    title: str = ""
    folded: str = ""
    outputs: tuple[Output, ...] = ()


def page_of(notebook: Path, run_id: str) -> str | None:
    """Return the page of an executed notebook; None where that is no whole notebook.

    Parameters
    ----------
    notebook : Path
    run_id : str
        The run it belongs to.
    """
    try:
        return render(json.loads(notebook.read_bytes())["cells"], notebook.name, run_id)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def render(cells: list[Any], file: str, run_id: str) -> str:
    """Return the page of a notebook's cells."""
    made = list(_cells(cells))
    title = next((cell.title for cell in made if cell.title), file.removesuffix(".ipynb"))
    ran = sum(cell.state in ("ran", "given") for cell in made)
    failed = sum(cell.state == "failed" for cell in made)
    summary = f"{words.count(ran, 'code cell')} ran to the end" + ("; one failed." if failed else ".")
    return rendering.render(
        "notebook.html.j2",
        "notebook.css",
        style=_colours(),
        title=title,
        run_id=run_id,
        summary=summary,
        chapters=[cell for cell in made if cell.anchor],
        cells=made,
        file=file,
    )


def _cells(cells: list[Any]) -> Iterator[Cell]:
    number, budget = 0, PICTURE_BUDGET
    for cell in cells:
        source = _joined(cell.get("source"))
        tags = (cell.get("metadata") or {}).get("tags") or []
        if _INJECTED not in tags and _MARKER not in tags:
            number += 1
        if cell.get("cell_type") == "markdown":
            yield _prose(source, number)
        elif cell.get("cell_type") == "code" and source.strip():
            outputs = []
            for output in cell.get("outputs") or []:
                shown = _output(output, budget)
                if shown is not None:
                    budget -= len(shown.text) if shown.kind == "picture" else 0
                    outputs.append(shown)
            status = ((cell.get("metadata") or {}).get("papermill") or {}).get("status")
            ran = cell.get("execution_count") is not None
            state = "failed" if status == "failed" else "ran" if ran else "pending"
            label = f"Cell {number}" + ("" if ran else ", which did not run")
            if _INJECTED in tags:
                label, state = "Given for this run", "given" if ran else "pending"
            folded = "Parameters and their defaults" if _PARAMETERS in tags else ""
            yield Cell("code", _code(source), label, state, folded=folded, outputs=tuple(_merged(outputs)))


def _prose(source: str, number: int) -> Cell:
    heading = re.match(r"(#{1,3}) +(.+)", source)
    title = heading.group(2).strip() if heading and len(heading.group(1)) == 1 else ""
    chapter = heading.group(2).strip() if heading and len(heading.group(1)) == 2 else ""
    if title:  # it stands in the page's head
        source = source[heading.end() :] if heading else source
    html = _harmless(str(_markdown()(source)))
    return Cell("markdown", html, anchor=f"chapter-{number}" if chapter else "", title=title or chapter)


def _output(output: dict[str, Any], budget: int) -> Output | None:
    """Return what an output shows, the richest kind that it has."""
    kind = output.get("output_type")
    if kind == "stream":
        return Output("text", _plain(_joined(output.get("text"))))
    if kind == "error":
        text = _plain("\n".join(str(line) for line in output.get("traceback") or []))
        return Output("error", text or f"{output.get('ename')}: {output.get('evalue')}")
    data = output.get("data") or {}
    if "image/png" in data:
        png = "".join(_joined(data["image/png"]).split())
        alt = ((output.get("metadata") or {}).get("image/png") or {}).get(
            "alt"
        ) or "A figure that is not described"
        if not re.fullmatch(r"[A-Za-z0-9+/=]+", png):
            return Output("text", "(a picture that cannot be shown)")
        if len(png) > budget:
            return Output("text", f"(a picture is left out to keep this page small: {alt})")
        return Output("picture", png, alt)
    if "text/html" in data:
        return Output("table", _harmless(words.shortened(_joined(data["text/html"]), 500_000)))
    if "text/plain" in data:
        return Output("text", _plain(_joined(data["text/plain"])))
    return None


def _merged(outputs: list[Output]) -> Iterator[Output]:
    """Yield the outputs, texts that follow each other as one."""
    held: Output | None = None
    for output in outputs:
        if held is not None and output.kind == held.kind == "text":
            held = Output("text", held.text.rstrip("\n") + "\n" + output.text)
            continue
        if held is not None:
            yield held
        held = output
    if held is not None:
        yield held


def _plain(text: str) -> str:
    """Return a text as a terminal would leave it: what a carriage return goes over is gone."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in _ANSI.sub("", text).split("\n")]
    return words.shortened("\n".join(lines).strip("\n"), LONGEST_OUTPUT)


def _joined(text: Any) -> str:
    return text if isinstance(text, str) else "".join(str(part) for part in text or [])


def _harmless(html: str) -> str:
    """Return HTML without anything that could run, load or restyle."""
    import bleach

    return str(
        bleach.clean(
            _NOT_SHOWN.sub("", html),
            tags=_TAGS,
            attributes=_ATTRIBUTES,
            protocols=["https", "mailto"],
            strip=True,
        )
    )


@cache
def _markdown() -> Any:
    import mistune

    return mistune.create_markdown(plugins=["table", "strikethrough", "url"])


def _code(source: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return str(highlight(source, PythonLexer(), HtmlFormatter(cssclass="highlight")))


@cache
def _colours() -> str:
    """Return the style of coloured code, for a light and a dark page."""
    from pygments.formatters import HtmlFormatter

    light, dark = (
        re.sub(r"background(-color)?:[^;}]*;?", "", HtmlFormatter(style=style).get_style_defs(".highlight"))
        for style in ("xcode", "monokai")  # the ones whose every colour can be read on our ground
    )
    return f"\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
