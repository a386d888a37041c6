"""The views of a SQL text, worked out by Spark: on a cluster, or on this machine when the data outgrows DuckDB.

::

    reviews = ratings.read("reviews.tsv.gz", engine="spark")       # a session of our own, on loopback, ends with it
    reviews = ratings.read("s3://bucket/reviews/", engine="spark")  # in the session that is active, as on EMR

``pyspark`` is no requirement of Reelbook and is imported here only, late.  Spark 3.5 and 4 run the same text: a
session has its own settings (ANSI mode, UTC, names told apart by case), whatever those of the cluster are, and its
own views.  What is stored is kept on the disks of the executors.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pandas as pd

from lib.errors import DataError, ParameterError, ReelbookError
from lib.sql_workspace import Workspace, check_threads

PYSPARK = "4.0.2"
"""The version of pyspark that is advised and tested: that of EMR Serverless emr-spark-8.0.0."""

_SQL_SETTINGS = {
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
}
_LOCAL_SETTINGS = {
    "spark.app.name": "reelbook",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "OFF",
}
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{letter}I": 1024**power for power, letter in enumerate("KMGT", 1)}
_BYTES_A_PIECE = 16_000_000
_LEAST_MEMORY = 512 * 1024**2  # Spark starts with no less

_CAUSES = (
    (
        (
            "Unexpected end of input stream",
            "incorrect header check",
            "incorrect data check",
            "invalid stored",
        ),
        "{doing} met a damaged file: it is cut off or spoilt.",
        "Fetch or compress it again.",
    ),
    (
        ("invalid block type", "invalid distance", "invalid code", "ZipException", "gzip stream"),
        "{doing} met a damaged file: it is cut off or spoilt.",
        "Fetch or compress it again.",
    ),
    (
        ("Java heap space", "GC overhead limit", "OutOfMemory", "Unable to acquire"),
        "The memory limit of {memory_limit} is too small for {doing}.",
        "Give a greater memory_limit, or the executors more memory.",
    ),
    (
        ("No space left", "Disk quota", "File too large"),
        "The disk refused {doing}: no space is left.",
        "Free some space, or choose another folder.",
    ),
    (
        ("PATH_NOT_FOUND", "Path does not exist", "FileNotFoundException", "No FileSystem for scheme"),
        "{doing} found nothing at that place: {reason}",
        "Look at the URI, and whether this Spark can read it.",
    ),
    (
        ("TIMESTAMP(NANOS", "PARQUET_TYPE_ILLEGAL", "Illegal Parquet type"),
        "{doing} met a column of a type that Spark does not read: {reason}",
        "Write its dates as text or in microseconds.",
    ),
)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # marked as missing
        return False


def require() -> None:
    """Make sure that Spark can be started.

    Raises
    ------
    ParameterError
        If pyspark or Java is missing.
    """
    if sys.modules.get("pyspark") is None and not _is_installed("pyspark"):
        raise ParameterError(
            "The engine spark needs pyspark, which is not installed.",
            hint=f"Say pip install pyspark=={PYSPARK}, or take engine: duckdb.",
        )
    home = os.environ.get("JAVA_HOME")
    java = Path(home, "bin", "java") if home else shutil.which("java")
    if not java or not os.access(java, os.X_OK):
        where = f"in JAVA_HOME, {home}" if home else "on the path"
        raise ParameterError(
            f"The engine spark needs Java 17 or newer, and there is none {where}.",
            hint="Install it (such as openjdk-17-jre-headless), or take engine: duckdb.",
        )


class SparkWorkspace(Workspace):
    """The views of a SQL text in a Spark session.

    Parameters
    ----------
    sql, temp_directory
        See `lib.sql_workspace.Workspace`.
    memory_limit : str
        The heap of a session of our own, which then works on disk; an active session has its own limits.
    threads : int, optional
        Of a session of our own; by default as many as there are cores.

    Attributes
    ----------
    spark : SparkSession
        With settings and views of its own.

    Raises
    ------
    ParameterError
        If pyspark or Java is missing, or the memory limit or the number of threads is not one.
    DataError
        If the folder cannot be made, or Spark does not start.
    """

    def __init__(
        self,
        sql: Traversable,
        memory_limit: str = "1GB",
        threads: int | None = None,
        temp_directory: str | Path | None = None,
    ) -> None:
        require()
        check_threads(threads)
        self.memory_limit = memory_limit
        heap = _mebibytes(memory_limit)
        super().__init__(sql, temp_directory)
        try:
            session = _session(heap, threads, self.folder)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.spark = session.newSession()
        for name, value in _SQL_SETTINGS.items():
            self.spark.conf.set(name, value)
        self._stored: dict[str, Any] = {}
        own = _hold(session)
        self._is_own = own is not None
        self.close = weakref.finalize(self, _close, self._stored, self.folder, own)

    def expect(self, size: int) -> None:
        """Cut the work of a session of our own into pieces that suit so many bytes of text."""
        pieces = min(400, max(2, size // _BYTES_A_PIECE))
        if self._is_own:
            self.spark.conf.set("spark.sql.shuffle.partitions", str(pieces))

    def make(self, name: str, stored: bool = True) -> None:
        """Make a view of the SQL text; stored means on disk, so that it is worked out only once."""
        frame = self.spark.sql(self.views[name])
        if stored:
            self.store(name, frame)
        else:
            frame.createOrReplaceTempView(name)

    def store(self, name: str, frame: Any) -> None:
        """Work out a data frame once, and give it a name."""
        from pyspark import StorageLevel

        before = self._stored.pop(name, None)
        kept = frame.persist(StorageLevel.DISK_ONLY)
        self._stored[name] = kept
        kept.count()
        kept.createOrReplaceTempView(name)
        if before is not None:
            before.unpersist()

    def define(self, name: str, query: str) -> None:
        """Make a small table of a query's result."""
        self.spark.sql(query).createOrReplaceTempView(name)

    def forget_rows(self) -> None:
        """Let go of the file's rows on disk."""
        self._stored.pop("file_rows").unpersist()

    def frame(self, sql: str) -> pd.DataFrame:
        """Return the result of a query."""
        with self.working("counting"):
            result = self.spark.sql(sql)
            rows = result.collect()
        frame = pd.DataFrame([tuple(row) for row in rows], columns=result.columns)
        if not rows:
            kinds = {"bigint": "int64", "int": "int32", "double": "float64", "float": "float32"}
            frame = frame.astype({name: kinds.get(kind, "object") for name, kind in result.dtypes})
        return frame

    def row(self, sql: str) -> tuple[Any, ...]:
        """Return the one row of a query."""
        with self.working("counting"):
            (row,) = self.spark.sql(sql).collect()
        return tuple(row)

    def write(self, query: str, path: Path) -> None:
        """Write the result of a query, in its order, as one Parquet file.

        Spark writes parts, side by side; they are put one behind the other, a batch at a time.
        """
        import pyarrow.parquet as pq

        parts = self.folder / f"{path.name}.parts"
        self.write_parts(query, parts.as_uri())
        files = sorted(parts.glob("part-*.parquet"))
        schema = pq.read_schema(files[0]).remove_metadata()
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for file in files:
                for batch in pq.ParquetFile(file).iter_batches(1 << 16):
                    writer.write_batch(batch.replace_schema_metadata(None))
        shutil.rmtree(parts)

    def write_parts(self, query: str, uri: str) -> None:
        """Write the result of a query as Parquet files in a folder, their names in the order of the rows."""
        self.spark.sql(query).write.mode("overwrite").parquet(uri)

    def quoted(self, name: str) -> str:
        """Return a name in backticks."""
        return "`" + name.replace("`", "``") + "`"

    @contextmanager
    def working(self, doing: str) -> Iterator[None]:
        """Turn what Spark or the disk refuses into one sentence; see `lib.sql_workspace.Workspace.working`."""
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        if not self.close.alive:  # type: ignore[attr-defined]
            raise DataError("These reviews are closed.", hint="Read the file again.")
        try:
            yield
        except ReelbookError:
            raise
        except (PySparkException, Py4JError, OSError) as error:
            raise _explained(error, doing, self.memory_limit) from error


def _explained(error: Exception, doing: str, memory_limit: str) -> DataError:
    text = str(error)
    reason = _reason(text)
    for signs, message, hint in _CAUSES:
        if any(sign in text for sign in signs):
            told = message.format(doing=doing, memory_limit=memory_limit, reason=reason)
            return DataError(told[:1].upper() + told[1:], hint=hint)
    return DataError(f"Spark failed {doing}: {reason}", hint="Its own log says more.")


def _reason(text: str) -> str:
    """Return the sentence in what Spark says: that of the innermost cause, without class and place."""
    causes = re.findall(r"Caused by: (?:[\w.$]+: )?(.+)", text)
    lines = [line.strip() for line in (causes[-1:] or text.splitlines()) if line.strip()]
    return (lines or ["it gave no reason."])[0][:300]


def _mebibytes(memory_limit: str) -> int:
    """Return a size such as ``1GB`` in MiB."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", memory_limit.upper())
    if not found or found[2] not in _UNITS:
        raise ParameterError(f"memory_limit {memory_limit!r} is not a size.", hint="Write it like 1GB.")
    size = float(found[1]) * _UNITS[found[2]]
    if size < _LEAST_MEMORY:
        raise ParameterError(
            f"Spark does not start with a memory_limit of {memory_limit}.", hint="Give it 600MB or more."
        )
    return int(size / 1024**2)


def _session(heap: int, threads: int | None, folder: Path) -> Any:
    """Return the active session, or start one on this machine."""
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    settings = {
        **_LOCAL_SETTINGS,
        "spark.driver.memory": f"{heap}m",
        "spark.local.dir": str(folder / "spill"),
        "spark.sql.warehouse.dir": (folder / "warehouse").as_uri(),
    }
    builder = SparkSession.builder.master(f"local[{threads or '*'}]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except (PySparkException, OSError) as error:
        raise DataError(f"Spark does not start: {_reason(str(error))}", hint="Is Java 17 there?") from error
    _OWN[session.sparkContext.applicationId] = 0
    return session


_OWN: dict[str, int] = {}
"""How many workspaces use a session that was started here, by its application's id."""


def _hold(session: Any) -> Any:
    """Count a workspace as a user of a session of our own; return the session if it is one."""
    name = session.sparkContext.applicationId
    if name not in _OWN:
        return None
    _OWN[name] += 1
    return session


def _close(stored: dict[str, Any], folder: Path, own: Any) -> None:
    with suppress(Exception):  # the session may be gone already, and with it all that is stored
        for frame in stored.values():
            frame.unpersist()
    if own is not None:
        with suppress(Exception):
            name = own.sparkContext.applicationId
            _OWN[name] -= 1
            if not _OWN[name]:
                del _OWN[name]
                own.stop()
    shutil.rmtree(folder, ignore_errors=True)
