"""The views of a SQL text, worked out in a temporary DuckDB: bounded memory, one sentence for what goes wrong."""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.errors import DataError, ParameterError

if TYPE_CHECKING:
    import duckdb

_VIEW = re.compile(r"^CREATE OR REPLACE TEMPORARY VIEW (\w+) AS\n(.*?);$", re.DOTALL | re.MULTILINE)


class Workspace:
    """A DuckDB database in a temporary folder, and the views of a SQL text to make in it.

    Parameters
    ----------
    sql : Path
        The SQL text: statements ``CREATE OR REPLACE TEMPORARY VIEW name AS`` that end in a semicolon.
    memory_limit : str
        What DuckDB may hold in memory, such as ``"1GB"``.
    threads : int, optional
        By default as many as there are cores.
    temp_directory : str or Path, optional
        Where the folder is made; by default the system's place for such.

    Attributes
    ----------
    connection : DuckDB connection
    folder : Path
        The temporary folder.
    views : dict of str
        The query of each view in the SQL text.
    close : callable
        Deletes everything; done too when the object is garbage-collected or Python ends.

    Raises
    ------
    ParameterError
        If the memory limit or the number of threads is not one.
    DataError
        If the folder cannot be made.
    """

    def __init__(
        self, sql: Path, memory_limit: str, threads: int | None, temp_directory: str | Path | None
    ) -> None:
        import duckdb

        if threads is not None and threads < 1:
            raise ParameterError(f"threads must be a whole number from 1, not {threads!r}.")
        self.memory_limit = memory_limit
        self.views: dict[str, str] = dict(_VIEW.findall(sql.read_text(encoding="utf-8")))
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="reelbook-sql-", dir=temp_directory))
        except OSError as error:
            place = temp_directory or tempfile.gettempdir()
            raise DataError(
                f"A temporary folder cannot be made in {place}: {error.strerror}.",
                hint="Choose another temp_directory.",
            ) from error
        config: dict[str, Any] = {"memory_limit": memory_limit, "temp_directory": str(self.folder / "spill")}
        if threads is not None:
            config["threads"] = int(threads)
        try:
            self.connection = duckdb.connect(str(self.folder / "workspace.duckdb"), config=config)
        except duckdb.IOException as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise DataError(
                f"A database cannot be made in {self.folder.parent}.", hint="Choose another temp_directory."
            ) from error
        except duckdb.Error as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise ParameterError(
                f"memory_limit {memory_limit!r} is not a size.", hint="Write it like 1GB."
            ) from error
        self.close = weakref.finalize(self, _close, self.connection, self.folder)

    def run(self, sql: str) -> None:
        """Execute one or more statements."""
        self.connection.execute(sql)

    def make(self, name: str, stored: bool = True) -> None:
        """Make a view of the SQL text; stored means as a table, so that it is worked out only once."""
        self.run(f"CREATE OR REPLACE {'TABLE' if stored else 'VIEW'} {name} AS {self.views[name]}")

    def frame(self, sql: str) -> pd.DataFrame:
        """Return the result of a query."""
        with self.working("counting"):
            frame: pd.DataFrame = self.connection.execute(sql).df()
        return frame

    def row(self, sql: str) -> tuple[Any, ...]:
        """Return the one row of a query."""
        with self.working("counting"):
            (row,) = self.connection.execute(sql).fetchall()
        return tuple(row)

    @contextmanager
    def working(self, doing: str) -> Iterator[None]:
        """Turn what DuckDB or the disk refuses into one sentence.

        Parameters
        ----------
        doing : str
            What is being done, such as ``reading reviews.tsv``.

        Raises
        ------
        DataError
            If the memory limit is too small, the disk is full or gone, or the workspace is closed.
        """
        import duckdb

        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise DataError(
                f"The memory limit of {self.memory_limit} is too small for {doing}.",
                hint="Give a greater memory_limit, or room on the disk of temp_directory.",
            ) from error
        except (duckdb.IOException, duckdb.TransactionException, duckdb.FatalException, OSError) as error:
            raise DataError(
                f"The disk refused {doing}: {_reason(error)}.",
                hint="Free some space, or choose another folder.",
            ) from error
        except duckdb.ConnectionException as error:
            raise DataError("These reviews are closed.", hint="Read the file again.") from error


def _reason(error: Exception) -> str:
    if "No space left" in str(error):
        return "no space is left"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0]


def _close(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    connection.close()
    shutil.rmtree(folder, ignore_errors=True)
