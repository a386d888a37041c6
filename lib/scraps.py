"""What stages hand to each other: URIs and small numbers, published by name.

::

    run_id, train_uri = latest(run_id=run_id, train_uri=train_uri)    # third cell
    ...
    publish(model_uri=job.model_uri, validate_rmse=rmse)              # last cell

Under the runner ``latest`` changes nothing, because every input was given, and the runner collects what was
published.  By hand in JupyterLab ``publish`` writes to the scratch run, which no headless run ever looks at, and
``latest`` fills the inputs from there or from the last headless run, whichever is newer.
"""

from __future__ import annotations

import html
import importlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lib import records, redaction
from lib.errors import ScrapError
from lib.progress import headless
from lib.records import SCRATCH

LARGEST = 64_000  # bytes of JSON
TIMES = "published.json"  # of the scratch run: when each value was published

_importing = threading.RLock()
_published: set[str] = set()  # by this kernel
_named: str | None = None  # the run that an earlier call of latest() was given


def publish(**values: Any) -> None:
    """Hand values to later stages, and show them as a table.

    Parameters
    ----------
    **values
        Text, numbers, truth values, and lists and dicts of them; NumPy scalars become Python's.

    Raises
    ------
    ScrapError
        For None, NaN, infinity, anything else that JSON cannot hold or that is larger than ``LARGEST``, and
        for a name that this stage has published before.
    """
    plain = {name: _plain(name, value) for name, value in values.items()}
    if headless():
        for name in plain:
            if name in _published:
                raise ScrapError(f"`{name}` has been published before in this stage.")
    else:
        _add_to_scratch(plain)
    _published.update(plain)
    if not _in_notebook():
        print(_text_table(plain))
        return
    scrapbook = import_quickly("scrapbook")
    for name, value in plain.items():
        # With the encoder "json", the text "12" would come back as a number.
        scrapbook.glue(name, value, encoder="text" if isinstance(value, str) else "json")
    from IPython.display import display

    display({"text/html": _html_table(plain), "text/plain": _text_table(plain)}, raw=True)


def latest(**inputs: Any) -> tuple[Any, ...]:
    """Fill what is None when the notebook is run by hand, and say from where.

    Each value comes from the scratch run or the last headless run, whichever published it later; where ``run_id`` was
    given, from that run alone.  A ``run_id`` that was not given becomes that of the scratch run.

    Parameters
    ----------
    **inputs
        A stage's inputs by name, ``run_id`` among them; those that are not None stay as they are.

    Returns
    -------
    tuple
        The values in the order of the arguments.

    Raises
    ------
    ScrapError
        When no run has published a name; the message names the notebook to run first.
    """
    global _named
    _named = inputs.get("run_id", _named)
    if headless() or all(value is not None for value in inputs.values()):
        return tuple(inputs.values())
    outputs = records.outputs_folder()
    missing = [name for name, value in inputs.items() if value is None and name != "run_id"]
    named = _named
    runs = [records.check_run_id(named)] if named else [SCRATCH, records.last_run(outputs)]
    published = {run: _published_by(outputs / run) for run in runs if run}
    filled, taken = dict(inputs), dict[str, list[str]]()
    for name in missing:
        having = [run for run in published if name in published[run]]
        if not having:
            raise ScrapError(_nobody(name, named, published), hint=_run_first(name))
        newest = max(having, key=lambda run: published[run][name][1])
        filled[name] = published[newest][name][0]
        taken.setdefault(newest, []).append(name)
    for run, names in taken.items():
        print(f"From {_called(run)}: {', '.join(names)}.")
    if "run_id" in inputs and not named:
        filled["run_id"] = SCRATCH
        print("What this notebook makes belongs to the scratch run.")
    return tuple(filled.values())


def _published_by(folder: Path) -> dict[str, tuple[Any, float]]:
    """Return what a run has published, each value with its time in seconds since 1970."""
    scraps = records.read_scraps(folder)
    if not scraps:
        return {}
    whole = (folder / "scraps.json").stat().st_mtime
    path = folder / TIMES
    times = records.read_json(path) if path.exists() else {}
    return {name: (value, times.get(name, whole)) for name, value in scraps.items()}


def _called(run: str) -> str:
    return "the scratch run" if run == SCRATCH else f"the run {run}"


def _nobody(name: str, named: str | None, published: Mapping[str, Any]) -> str:
    runs = [run for run in published if published[run]]
    if not runs:
        return f"There is no run yet to take `{name}` from."
    if named:
        return f"The run {named} has not published `{name}`."
    return (
        f"Neither {' nor '.join(map(_called, runs))} has published `{name}`."
        if len(runs) > 1
        else (f"{_called(runs[0])[0].upper()}{_called(runs[0])[1:]} has not published `{name}`.")
    )


def secret(name: str) -> str:
    """Return the value of a parameter whose help begins with ``secret:``.

    It stands in the environment variable ``REELBOOK_SECRET_NAME`` and nowhere else: parameters end up in executed
    notebooks.

    Raises
    ------
    ScrapError
        When the variable is not set.
    """
    variable = redaction.variable(name)
    value = os.environ.get(variable, "")
    if not value:
        raise ScrapError(
            f"The secret `{name}` has no value.",
            hint=f"Set the environment variable {variable} and start again.",
        )
    return value


def collect(notebook: Path, expected: Collection[str]) -> dict[str, Any]:
    """Read what an executed notebook has published.

    Parameters
    ----------
    notebook : Path
        An executed notebook.
    expected : collection of str
        The names that its publish call declares.

    Returns
    -------
    dict of str to object
        In the order of ``expected``.

    Raises
    ------
    ScrapError
        When a declared name was not published, or one that is not declared was.
    """
    scraps = import_quickly("scrapbook").read_notebook(str(notebook)).scraps
    # scrapbook returns notebook nodes for dicts; through JSON they become plain ones
    found = {name: json.loads(json.dumps(scrap.data)) for name, scrap in scraps.items()}
    absent = [name for name in expected if name not in found]
    if absent:
        names = ", ".join(f"`{name}`" for name in absent)
        raise ScrapError(f"{notebook.name} ran to its end without publishing {names}.")
    extra = [name for name in found if name not in expected]
    if extra:
        raise ScrapError(
            f"{notebook.name} published `{extra[0]}`, which the publish call of its last cell does not name."
        )
    return {name: found[name] for name in expected}


def import_quickly(name: str) -> ModuleType:
    """Import a module of the Jupyter family without building grammars that nothing here uses.

    With JupyterLab installed, jsonschema's first import builds some 35 grammars from ``rfc3987_syntax`` to
    check IRIs, at 2.5 CPU seconds; notebook schemas hold none.  While that module cannot be imported,
    jsonschema goes without.
    """
    with _importing:
        if "jsonschema" in sys.modules or "rfc3987_syntax" in sys.modules:
            return importlib.import_module(name)
        sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
        try:
            return importlib.import_module(name)
        finally:
            del sys.modules["rfc3987_syntax"]


def preload() -> None:
    """Import what ``publish`` needs; the runner calls it in kernels that it starts ahead."""
    import_quickly("scrapbook")


def _plain(name: str, value: Any, part: str = "") -> Any:
    """Return a value as JSON can hold it, or say why it cannot."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()
    what = f"`{name}`{part}"
    if isinstance(value, float) and not math.isfinite(value):
        raise ScrapError(f"{what} cannot be published: it is {value}.")
    if type(value) in (str, int, float, bool):
        plain = value
    elif type(value) is list:
        plain = [_plain(name, item, f"{part}[{index}]") for index, item in enumerate(value)]
    elif type(value) is dict and all(type(key) is str for key in value):
        plain = {key: _plain(name, item, f"{part}[{key!r}]") for key, item in value.items()}
    else:
        kind = type(value).__name__
        raise ScrapError(
            f"{what} cannot be published: it is {'None' if value is None else f'of type {kind}'}.",
            hint="Publish text, numbers, true or false, and lists and dicts of them.",
        )
    if not part and len(json.dumps(plain)) > LARGEST:
        raise ScrapError(
            f"{what} cannot be published: it is larger than {LARGEST:,} bytes.",
            hint="Write it to S3 and publish its URI.",
        )
    return plain


def _add_to_scratch(values: Mapping[str, Any]) -> None:
    """Add values published by hand to the scratch run, each with its time."""
    folder = records.outputs_folder() / SCRATCH
    times = {name: moment for name, (_, moment) in _published_by(folder).items()}
    records.write_scraps(folder, {**records.read_scraps(folder), **values})
    records.write_json(folder / TIMES, {**times, **dict.fromkeys(values, time.time())})


def _run_first(name: str) -> str:
    """Say which notebook publishes a name."""
    from lib.contracts import publishers  # pydantic and YAML, which a stage's kernel does not need

    here = Path.cwd()
    folder = here if any(here.glob("*.ipynb")) else records.ROOT / "notebooks"
    notebooks = publishers(name, folder)
    if not notebooks:
        return f"Give `{name}` a value in the parameters cell: no notebook publishes it."
    return f"Run {' or '.join(notebooks)} first."


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _text_table(values: Mapping[str, Any]) -> str:
    width = max(map(len, values), default=0)
    return "\n".join(f"{name:<{width}}  {_shown(value)}" for name, value in values.items())


def _html_table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row" style="text-align: left">{html.escape(name)}</th>'
        f'<td style="text-align: left">{html.escape(_shown(value))}</td></tr>'
        for name, value in values.items()
    )
    head = '<tr><th scope="col">published</th><th scope="col">value</th></tr>'
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
