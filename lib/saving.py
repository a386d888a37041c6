"""How executed notebooks reach the disk while papermill runs them: whole, without secrets, not too often.

papermill writes the notebook before and after every cell, straight to its place.  Under the scheme ``SCHEME`` the
text comes here instead: it is written under a temporary name and renamed, so that who looks at a running stage finds
a whole notebook; at most once in ``EVERY_SECONDS``, and at last by ``flush``.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lib import records, redaction
from lib.scraps import import_quickly

SCHEME = "reelbook-run:"
EVERY_SECONDS = 0.5


class Saver:
    """What papermill calls a handler, for the notebooks of one run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: dict[str, str] = {}
        self._written: dict[str, float] = {}

    def register(self) -> None:
        """Make papermill hand over what it writes to ``SCHEME`` followed by a path."""
        papermill_io = import_quickly("papermill.iorw").papermill_io
        papermill_io._handlers = [pair for pair in papermill_io._handlers if pair[0] != SCHEME]
        papermill_io.register(SCHEME, self)

    def write(self, text: str, path: str) -> None:
        """Keep a notebook's text, and write it unless it was written a moment ago."""
        with self._lock:
            self._pending[path] = text
        if time.monotonic() - self._written.get(path, 0.0) >= EVERY_SECONDS:
            self._write(path)

    def flush(self, target: Path | None = None) -> None:
        """Write what is pending: of one notebook now, of all those whose time has come."""
        now = time.monotonic()
        wanted = SCHEME + str(target) if target else None
        for path in list(self._pending):
            if path == wanted or (wanted is None and now - self._written.get(path, 0.0) >= EVERY_SECONDS):
                self._write(path)

    def _write(self, path: str) -> None:
        with self._lock:
            text = self._pending.pop(path, None)
            if text is not None:
                self._written[path] = time.monotonic()
                text = redaction.redact(text.replace(SCHEME, ""))
                records.write_text(Path(path.removeprefix(SCHEME)), text + "\n")

    def read(self, path: str) -> str:
        """Return a notebook's text (papermill's interface)."""
        return Path(path.removeprefix(SCHEME)).read_text(encoding="utf-8")

    def listdir(self, path: str) -> list[str]:
        """Return the files of a folder (papermill's interface)."""
        return [str(found) for found in Path(path.removeprefix(SCHEME)).iterdir()]

    def pretty_path(self, path: str) -> str:
        """Return a path for a log line (papermill's interface)."""
        return path.removeprefix(SCHEME)


class PapermillLog:
    """What papermill logs: nothing, for it is in the record; or what the cells print, to standard error, redacted.

    Parameters
    ----------
    shows_output : bool
        Whether cells' outputs are shown.
    """

    def __init__(self, shows_output: bool) -> None:
        self._logger = logging.getLogger("papermill")
        self._before = (self._logger.level, self._logger.propagate)
        self._handler = _Shown() if shows_output else None
        self._logger.propagate = False
        if self._handler is not None:
            self._logger.addHandler(self._handler)
            self._logger.setLevel(logging.INFO)
        else:
            self._logger.setLevel(logging.CRITICAL + 1)

    def close(self) -> None:
        """Let papermill log as before."""
        if self._handler is not None:
            self._logger.removeHandler(self._handler)
        self._logger.level, self._logger.propagate = self._before


class _Shown(logging.Handler):
    """Prints the outputs of cells among what papermill logs."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.funcName == "log_output_message":
            text = redaction.redact(record.getMessage()).rstrip("\n")
            if text and not text.startswith(("<IPython", "<Figure")):
                print(text, file=sys.stderr, flush=True)


def literal(path: Path) -> str:
    """Return a path in which papermill, for which paths are format strings, finds nothing to replace."""
    return str(path).replace("{", "{{").replace("}", "}}")


def executor(saver: Saver) -> Any:
    """Return papermill's ``execute_notebook``, with the saver registered."""
    papermill = import_quickly("papermill")
    saver.register()
    return papermill.execute_notebook
