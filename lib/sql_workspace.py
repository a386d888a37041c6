"""The views of a SQL text, worked out by an engine: a temporary DuckDB here, Spark in `lib.spark_workspace`.

What goes wrong is told in one sentence, and what was made goes when the workspace is closed.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib.errors import DataError, ParameterError

if TYPE_CHECKING:
    import duckdb

_VIEW = re.compile(r"^CREATE OR REPLACE TEMPORARY VIEW (\w+) AS\n(.*?);$", re.DOTALL | re.MULTILINE)


class Workspace(ABC):
    """What works out the views of a SQL text: the base of the engines.

    Parameters
    ----------
    sql : file
        The SQL text: statements ``CREATE OR REPLACE TEMPORARY VIEW name AS`` that end in a semicolon.
    temp_directory : str or Path, optional
        Where the temporary folder is made; by default the system's place for such.

    Attributes
    ----------
    folder : Path
        The temporary folder.
    views : dict of str
        The query of each view in the SQL text.
    close : callable
        Deletes everything; done too when the object is garbage-collected or Python ends.

    Raises
    ------
    DataError
        If the folder cannot be made.
    """

    close: Callable[[], Any]

    def __init__(self, sql: Traversable, temp_directory: str | Path | None) -> None:
        self.views: dict[str, str] = dict(_VIEW.findall(sql.read_text(encoding="utf-8")))
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="reelbook-sql-", dir=temp_directory or None))
        except OSError as error:
            place = temp_directory or tempfile.gettempdir()
            raise DataError(
                f"A temporary folder cannot be made in {place}: {error.strerror}.",
                hint="Choose another temp_directory.",
            ) from error

    @abstractmethod
    def make(self, name: str, stored: bool = True) -> None:
        """Make a view of the SQL text; stored means that it is worked out only once."""

    @abstractmethod
    def define(self, name: str, query: str) -> None:
        """Make a small table of a query's result."""

    @abstractmethod
    def forget_rows(self) -> None:
        """Let go of the file's rows: everything that is made from them is stored."""

    @abstractmethod
    def frame(self, sql: str) -> pd.DataFrame:
        """Return the result of a query."""

    @abstractmethod
    def row(self, sql: str) -> tuple[Any, ...]:
        """Return the one row of a query."""

    @abstractmethod
    def write(self, query: str, path: Path) -> None:
        """Write the result of a query, in its order, as one Parquet file."""

    @abstractmethod
    def quoted(self, name: str) -> str:
        """Return a name of any characters as SQL spells it."""

    @abstractmethod
    def working(self, doing: str) -> AbstractContextManager[None]:
        """Turn what the engine or the disk refuses into one sentence.

        Parameters
        ----------
        doing : str
            What is being done, such as ``reading reviews.tsv``.

        Raises
        ------
        DataError
            If the memory limit is too small, the disk is full or gone, or the workspace is closed.
        """


class DuckDBWorkspace(Workspace):
    """A DuckDB database in a temporary folder, and the views of a SQL text to make in it.

    Parameters
    ----------
    sql, temp_directory
        See `Workspace`.
    memory_limit : str
        What DuckDB may hold in memory, such as ``"1GB"``.
    threads : int, optional
        By default as many as there are cores.

    Attributes
    ----------
    connection : DuckDB connection

    Raises
    ------
    ParameterError
        If the memory limit or the number of threads is not one.
    DataError
        If the folder cannot be made.
    """

    def __init__(
        self,
        sql: Traversable,
        memory_limit: str = "1GB",
        threads: int | None = None,
        temp_directory: str | Path | None = None,
    ) -> None:
        import duckdb

        check_threads(threads)
        self.memory_limit = memory_limit
        super().__init__(sql, temp_directory)
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

    def make(self, name: str, stored: bool = True) -> None:
        """Make a view of the SQL text; stored means as a table, so that it is worked out only once."""
        self.connection.execute(
            f"CREATE OR REPLACE {'TABLE' if stored else 'VIEW'} {name} AS {self.views[name]}"
        )

    def define(self, name: str, query: str) -> None:
        """Make a small table of a query's result."""
        self.connection.execute(f"CREATE OR REPLACE TABLE {name} AS {query}")

    def forget_rows(self) -> None:
        """Drop the file's rows."""
        self.connection.execute("DROP VIEW told; DROP VIEW checked; DROP VIEW raw; DROP TABLE file_rows")

    def write(self, query: str, path: Path) -> None:
        """Write the result of a query, in its order, as one Parquet file."""
        place = str(path).replace("'", "''")
        self.connection.execute(f"COPY ({query}) TO '{place}' (FORMAT parquet, COMPRESSION zstd)")

    def quoted(self, name: str) -> str:
        """Return a name in double quotes."""
        return '"' + name.replace('"', '""') + '"'

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
        """Turn what DuckDB or the disk refuses into one sentence; see `Workspace.working`."""
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


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that is none.

    Raises
    ------
    ParameterError
        If it is below 1.
    """
    if threads is not None and threads < 1:
        raise ParameterError(f"threads must be a whole number from 1, not {threads!r}.")


def _reason(error: Exception) -> str:
    if "No space left" in str(error):
        return "no space is left"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0]


def _close(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    connection.close()
    shutil.rmtree(folder, ignore_errors=True)
