"""A fitted design as files: a folder, or an S3 URI, of JSON and Parquet."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from lib.errors import DataError
from lib.files import atomically

VERSION = 1
STATE = "design.json"
TABLES = ("customers", "videos", "rated")


def write(place: str | Path, state: dict[str, Any], tables: dict[str, pd.DataFrame]) -> str:
    """Write a design's state and tables, the state last: where it is, all is.

    Parameters
    ----------
    place : str or Path
        A folder, or an S3 URI.
    state : dict
        What JSON can hold.
    tables : dict of DataFrame
        By name, one of `TABLES`.

    Returns
    -------
    str
        The place.

    Raises
    ------
    DataError, StorageError
        If the folder or the URI cannot be written.
    """
    if _is_uri(place):
        from lib import storage

        with tempfile.TemporaryDirectory(prefix="reelbook-") as folder:
            write(folder, state, tables)
            storage.delete_prefix(storage.join(str(place), STATE))
            for name in [*(f"{name}.parquet" for name in tables), STATE]:
                storage.upload(Path(folder) / name, storage.join(str(place), name))
        return str(place)
    (Path(place) / STATE).unlink(missing_ok=True)  # or a crash would leave it beside tables of another design
    for name, table in tables.items():
        with atomically(Path(place) / f"{name}.parquet") as partial:
            table.to_parquet(partial, index=False)
    with atomically(Path(place) / STATE) as partial:
        partial.write_text(json.dumps({"version": VERSION, **state}, indent=1, ensure_ascii=False), "utf-8")
    return str(place)


def read(place: str | Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Read what `write` wrote.

    Raises
    ------
    DataError
        If it is no design, not whole, or of a later version.
    StorageError
        If the URI cannot be read.
    """
    if _is_uri(place):
        from lib import storage

        with tempfile.TemporaryDirectory(prefix="reelbook-") as folder:
            storage.download_prefix(storage.join(str(place), ""), folder)
            return _read(Path(folder), str(place))
    return _read(Path(place), str(place))


def _read(folder: Path, place: str) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    import pyarrow

    for name in (STATE, "customers.parquet", "videos.parquet"):
        if not (folder / name).is_file():
            raise DataError(f"There is no design at {place}: it has no {name}.")
    try:
        state = json.loads((folder / STATE).read_text("utf-8"))
        if state["version"] != VERSION:
            raise DataError(
                f"The design at {place} is of version {state['version']}; this program reads version {VERSION}."
            )
        tables = {
            name: pd.read_parquet(folder / f"{name}.parquet")
            for name in TABLES
            if name != "rated" or "rated" in state["features"]
        }
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise damaged(place) from error
    return state, tables


def damaged(place: str | Path) -> DataError:
    """Return the error for a design whose files do not hold what they should."""
    return DataError(f"The design at {place} is damaged.", hint="Run 02_prepare again.")


def _is_uri(place: str | Path) -> bool:
    return isinstance(place, str) and place.startswith("s3://")
