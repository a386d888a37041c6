"""The SQLite file that names the buckets, objects and unfinished uploads of the local S3."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.errors import ReelbookError
from lib.local.blobs import no_space

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE buckets (name TEXT PRIMARY KEY, created REAL NOT NULL, region TEXT NOT NULL);
CREATE TABLE objects (
    bucket TEXT NOT NULL, key BLOB NOT NULL, blob TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    modified REAL NOT NULL, headers TEXT NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY (bucket, key)
) WITHOUT ROWID;
CREATE TABLE uploads (
    id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, started REAL NOT NULL,
    headers TEXT NOT NULL, checksum TEXT NOT NULL
);
CREATE TABLE parts (
    upload TEXT NOT NULL, number INTEGER NOT NULL, blob TEXT NOT NULL, size INTEGER NOT NULL,
    etag TEXT NOT NULL, modified REAL NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY (upload, number)
) WITHOUT ROWID;
"""
_TO_VERSION_2 = """
ALTER TABLE buckets ADD COLUMN tags TEXT NOT NULL DEFAULT '{}';
ALTER TABLE objects ADD COLUMN tags TEXT NOT NULL DEFAULT '{}';
ALTER TABLE uploads ADD COLUMN tags TEXT NOT NULL DEFAULT '{}';
CREATE TABLE object_parts (
    blob TEXT NOT NULL, number INTEGER NOT NULL, size INTEGER NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY (blob, number)
) WITHOUT ROWID;
"""


class Index:
    """The open index; safe to use from any thread.

    Every transaction is on disk when it returns, so a killed process or machine leaves the index as it
    was before or after a change, never between.

    Parameters
    ----------
    path : Path
        The file, made where it is missing.

    Raises
    ------
    ReelbookError
        When the file is no index of this version.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._database = _open(path)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Return all rows that a query finds."""
        with self._lock:
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Lock the index and commit at the end, or undo on an error.

        Raises
        ------
        AwsError
            InsufficientStorage when the disk is full.
        """
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
                self._database.execute("COMMIT")
            except BaseException as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                    raise no_space() from error
                raise


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    problem = ""
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        missing = {0: _SCHEMA + _TO_VERSION_2, 1: _TO_VERSION_2}
        if version in missing:
            script = f"BEGIN; {missing[version]} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            database.executescript(script)
        elif version != _SCHEMA_VERSION:
            problem = f"it is of version {version}, not {_SCHEMA_VERSION}"
        else:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            problem = "" if found == "ok" else f"it is damaged ({found.splitlines()[-1]})"
    except sqlite3.DatabaseError as error:
        problem = str(error)
    if problem:
        database.close()
        raise ReelbookError(
            f"The local AWS cannot read its index of objects {path}: {problem}.",
            hint="`python run_all.py local reset` starts it afresh, without its jobs and objects.",
        )
    return database
