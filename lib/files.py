"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.errors import DataError


@contextmanager
def atomically(path: str | Path) -> Iterator[Path]:
    """Lend a temporary name beside ``path``; rename it when all went well, delete it when not.

    Raises
    ------
    DataError
        If the operating system refuses: no such folder can be made, the disk is full, and so on.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Free some space or choose another folder.",
        ) from error
