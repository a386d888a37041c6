"""What stages hand to each other: URIs and small numbers, published by name.

::

    run_id, train_uri = latest(run_id=run_id, train_uri=train_uri)    # third cell
    ...
    publish(model_uri=job.model_uri, validate_rmse=rmse)              # last cell

Under the runner ``latest`` changes nothing, because every input was given, and the runner collects what was
published.  By hand in JupyterLab ``latest`` fills the inputs from the last run, and ``publish`` adds to that
run, so that the next notebook finds the values.
"""

from __future__ import annotations

import html
import importlib
import json
import math
import os
import sys
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lib import records, redaction
from lib.errors import ScrapError

HEADLESS = "REELBOOK_HEADLESS"  # the runner sets it in the kernels it starts
BY_HAND = "by-hand"  # the run that begins when a notebook is opened by hand and there is none yet
LARGEST = 64_000  # bytes of JSON

_importing = threading.RLock()
_published: set[str] = set()  # by this kernel
_run_by_hand: str | None = None  # the run that latest() chose in this kernel


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
        _add_to_run(plain)
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
    """Fill what is None from the last run, when the notebook is run by hand.

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
        When there is no run yet, or it has not published a name; the message names the notebook to run first.
    """
    global _run_by_hand
    if headless() or all(value is not None for value in inputs.values()):
        _run_by_hand = inputs.get("run_id") or _run_by_hand
        return tuple(inputs.values())
    outputs = records.outputs_folder()
    missing = [name for name, value in inputs.items() if value is None and name != "run_id"]
    run_id = inputs.get("run_id") or records.last_run(outputs)
    if run_id is None:
        if missing:
            raise ScrapError(f"There is no run yet to take `{missing[0]}` from.", hint=_run_first(missing[0]))
        print(f"There is no run yet: this begins one named {BY_HAND}.")
        _run_by_hand = BY_HAND
        return (BY_HAND,)
    records.check_run_id(run_id)
    scraps = records.read_scraps(outputs / run_id)
    for name in missing:
        if name not in scraps:
            raise ScrapError(f"The run {run_id} has not published `{name}`.", hint=_run_first(name))
    _run_by_hand = run_id
    filled = {name: scraps[name] if name in missing else value for name, value in inputs.items()}
    if "run_id" in inputs:
        filled["run_id"] = run_id
    print(
        f"From the run {run_id}: {', '.join(missing)}." if missing else f"This belongs to the run {run_id}."
    )
    return tuple(filled.values())


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


def headless() -> bool:
    """Tell whether the runner, not a person, executes this notebook."""
    return bool(os.environ.get(HEADLESS))


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


def _add_to_run(values: Mapping[str, Any]) -> None:
    """Add values published by hand to the run that they belong to, and make it the last run."""
    outputs = records.outputs_folder()
    run_id = records.check_run_id(_run_by_hand or records.last_run(outputs) or BY_HAND)
    folder = outputs / run_id
    records.write_scraps(folder, {**records.read_scraps(folder), **values})
    records.set_last_run(outputs, run_id)


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
