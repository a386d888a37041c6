"""Reviews at Spark's door: one local file, or a folder or URI of many, with the same columns and the same faults.

Makes the tables that `lib.review_files` makes in DuckDB, and tells lines that are no rows for the same reasons:

- A **TSV** file is read by lines, in pieces, side by side; a compressed one on one core, for gzip is one stream.
- A **Parquet** file is read by Spark, and its values become the text that DuckDB makes of them.
- A **CSV** file is read by DuckDB in one task, for a value may hold line breaks, and what its quotes mean should
  not depend on the engine.  A large one is better cut into several.

Of several files the order is that of their names; a line equal to the header is no row.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib import review_files
from lib.errors import DataError
from lib.review_files import FORMATS, OPTIONAL, REQUIRED, content_of_fields

if TYPE_CHECKING:
    from lib.spark_workspace import SparkWorkspace

LONGEST_LINE = 2_000_000
"""Bytes of a line, with its end, that DuckDB's reader takes."""

_FILE_SHIFT = 1 << 40  # bytes: places in a file are below it
_ROW_MASK = (1 << 33) - 1  # of monotonically_increasing_id: the row's number in its partition
_NANOSECONDS = """
    CASE
        WHEN pmod({0}, 1000) = 0 THEN CAST(timestamp_micros({0} DIV 1000) AS STRING)
        ELSE concat(
            CAST(timestamp_seconds(({0} - pmod({0}, 1000000000)) DIV 1000000000) AS STRING), '.',
            rtrim('0', lpad(CAST(pmod({0}, 1000000000) AS STRING), 9, '0'))
        )
    END
"""
_TEXT = (*REQUIRED, *OPTIONAL, "further")


def is_remote(path: str | Path) -> bool:
    """Whether a path is for Spark's file systems rather than one local file: a URI, or a folder."""
    return "://" in str(path) or Path(path).is_dir()


def load(workspace: SparkWorkspace, path: str | Path, further: Sequence[str]) -> tuple[str | Path, list[str]]:
    """Read reviews into a Spark session, and return their place and the names of their columns.

    Makes the stored table ``file_rows`` and the views ``raw``, ``broken`` and ``told``, as
    `lib.review_files.load` does.

    Parameters
    ----------
    workspace : SparkWorkspace
        Of which nothing was made yet.
    path : str or Path
        A local file, a folder, or a URI that this Spark reads.
    further : sequence of str
        Columns to carry along.

    Raises
    ------
    DataError
        As in `lib.review_files`, or if the files of a folder differ in format or header.
    """
    if is_remote(path):
        place: str | Path = str(path)
        files = _files(workspace, str(path))
        columns = _columns(workspace, files, further)
        rows = _rows(workspace, files, columns, further)
        workspace.store("file_rows", rows)
    else:
        place, columns = review_files.check(path, further)
        with review_files.verified(place):
            plain = workspace.folder / f"reviews{_format(str(place))}"  # Spark expands * and [ in names
            plain.symlink_to(place.resolve())
            workspace.expect(place.stat().st_size * (4 if plain.name.endswith((".gz", ".parquet")) else 1))
            workspace.store("file_rows", _rows(workspace, [plain.as_uri()], columns, further))
    spark = workspace.spark
    spark.sql(f"SELECT {', '.join(_TEXT)}, line FROM file_rows WHERE cause IS NULL").createOrReplaceTempView(
        "raw"
    )
    spark.sql(
        "SELECT file_line AS line, cause, content FROM file_rows WHERE cause IS NOT NULL"
    ).createOrReplaceTempView("broken")
    spark.sql(
        f"SELECT line, file_line, {content_of_fields()} AS content FROM file_rows"
    ).createOrReplaceTempView("told")
    return place, columns


def _rows(workspace: SparkWorkspace, files: list[str], columns: list[str], further: Sequence[str]) -> Any:
    ending = _format(files[0])
    read = {".tsv": _of_lines, ".csv": _of_quoted, ".parquet": _of_parquet}[ending.removesuffix(".gz")]
    return read(workspace, files, columns, further)


def _selected(
    values: dict[str, str], further: Sequence[str], texts: dict[str, str] | None = None
) -> list[str]:
    """Return what is selected from the SQL of each column; as in `lib.review_files`."""
    texts = texts or values
    chosen = [f"{values.get(name, 'CAST(NULL AS STRING)')} AS {name}" for name in REQUIRED + OPTIONAL]
    parts = [f"replace(coalesce({texts[name]}, ''), chr(31), ' ')" for name in further]
    joined = f"concat_ws(chr(31), {', '.join(parts)})" if parts else "CAST(NULL AS STRING)"
    return [*chosen, f"{joined} AS further"]


def _of_lines(workspace: SparkWorkspace, files: list[str], columns: list[str], further: Sequence[str]) -> Any:
    """Read lines whole and split them: no quote or stray character can join or lose a line."""
    lines = workspace.spark.read.text(files).selectExpr(
        "value AS text",
        "_metadata.file_path AS file",
        "_metadata.file_block_start AS block",
        f"monotonically_increasing_id() & {_ROW_MASK} AS number",
    )
    places = _line_places(workspace, lines, files)
    width = len(columns)
    fields = {name: f"fields[{place}]" for place, name in enumerate(columns)}
    bad_text = "encode(text, 'UTF-8') <> CAST(text AS BINARY)"
    header = "line = 0" if len(files) == 1 else "block = 0 AND text = header"
    header_text = workspace.spark.createDataFrame([("\t".join(columns),)], "header string")
    shown = "translate(decode(encode(text, 'UTF-8'), 'UTF-8'), '\ufffd', '?')"
    content = f"CASE WHEN {bad_text} THEN {shown} ELSE text END"
    return (
        places.crossJoin(header_text.hint("broadcast"))
        .where(f"text <> '' AND NOT ({header})")
        .selectExpr(
            "line",
            "line + 1 AS file_line" if len(files) == 1 else "CAST(NULL AS BIGINT) AS file_line",
            "text",
            "split(text, chr(9), -1) AS fields",
            f"CASE WHEN octet_length(text) >= {LONGEST_LINE} THEN 'line longer than 2 MB' "
            f"WHEN {bad_text} THEN 'not UTF-8 text' "
            f"WHEN size(split(text, chr(9), -1)) <> {width} THEN 'wrong number of columns' END AS cause",
        )
        .selectExpr(
            "line",
            "file_line",
            *(_guarded(text) for text in _selected(fields, further)),
            "cause",
            f"CASE WHEN cause IS NOT NULL THEN substr({content}, 1, 1000) END AS content",
        )
    )


def _guarded(selected: str) -> str:
    """Return a selected value that is null where the line is no row: it may have fewer fields."""
    value, _, name = selected.rpartition(" AS ")
    return f"CASE WHEN cause IS NULL THEN {value} END AS {name}"


def _line_places(workspace: SparkWorkspace, lines: Any, files: list[str]) -> Any:
    """Add ``line``: its number from 0 in one file, and something that rises as it does in several."""
    from pyspark.sql import functions

    spark = workspace.spark
    if len(files) > 1:
        order = _order(workspace, files)
        named = lines.withColumnRenamed("file", "found").join(
            order, [order["file"] == functions.col("found")]
        )
        return named.selectExpr("text", "block", f"place * {_FILE_SHIFT} + block + number AS line")
    if _format(files[0]).endswith(".gz"):  # one piece
        return lines.selectExpr("text", "block", "number AS line")
    counts = lines.groupBy("block").agg({"number": "min", "*": "count"}).collect()
    starts, line = [], 0
    for block, row in sorted((row["block"], row) for row in counts):
        starts.append((block, line - row["min(number)"]))
        line += row["count(1)"]
    offsets = spark.createDataFrame(starts or [(0, 0)], "block bigint, offset bigint")
    return lines.join(offsets.hint("broadcast"), "block").selectExpr(
        "text", "block", "number + offset AS line"
    )


def _of_parquet(
    workspace: SparkWorkspace, files: list[str], columns: list[str], further: Sequence[str]
) -> Any:
    """Read Parquet, its values as text; those of float columns as DuckDB, and Python, write them."""
    from pyspark.sql import functions

    spark = workspace.spark
    frame = spark.read.parquet(*files)
    types = dict(frame.dtypes) | dict.fromkeys(_nanoseconds(files[0]), "nanoseconds")
    plain, texts = {}, {}
    as_text = functions.udf(_float_text, "string")
    for name in columns:
        quoted = workspace.quoted(name)
        plain[name] = f"CAST({quoted} AS STRING)"
        texts[name] = plain[name]
        if types[name] == "timestamp":
            texts[name] = plain[name] = f"concat(CAST({quoted} AS STRING), '+00')"
        if types[name] == "nanoseconds":
            texts[name] = plain[name] = _NANOSECONDS.format(quoted)
        is_text = name in further or name in ("customer_id", "product_id", "product_title")
        if types[name] in ("float", "double") and is_text:
            single = types[name] == "float"
            made = f"text of {name}"
            frame = frame.withColumn(made, as_text(functions.col(quoted), functions.lit(single)))
            texts[name] = workspace.quoted(made)
            if name in ("customer_id", "product_id", "product_title"):
                plain[name] = texts[name]
    order = _order(workspace, files)
    return (
        frame.withColumn("found in file", functions.expr("_metadata.file_path"))
        .withColumn("found at row", functions.expr("_metadata.row_index"))
        .join(order, order["file"] == functions.col("found in file"))
        .selectExpr(
            f"place * {_FILE_SHIFT} + `found at row` AS line",
            "CAST(NULL AS BIGINT) AS file_line",
            *_selected(plain, further, texts),
            "CAST(NULL AS STRING) AS cause",
            "CAST(NULL AS STRING) AS content",
        )
    )


def _order(workspace: SparkWorkspace, files: list[str]) -> Any:
    """Return each file's place; Spark may spell the name of one that it has read in another way."""
    import urllib.parse

    spellings = {}
    for place, file in enumerate(files):
        for name in (file, urllib.parse.unquote(file)):
            spellings[name] = spellings[name.replace("file:///", "file:/", 1)] = place
    rows = [(place, name) for name, place in spellings.items()]
    return workspace.spark.createDataFrame(rows, "place bigint, file string").hint("broadcast")


def _nanoseconds(file: str) -> list[str]:
    """Return which columns of a local Parquet file are timestamps in nanoseconds, which Spark reads as numbers."""
    if not file.startswith("file://"):
        return []
    import urllib.parse

    import pyarrow.parquet as pq

    schema = pq.read_schema(urllib.parse.unquote(file.removeprefix("file://")))
    return [field.name for field in schema if str(field.type) == "timestamp[ns]"]


def _float_text(value: float | None, single: bool) -> str | None:
    import numpy as np

    if value is None:
        return None
    return str(np.float32(value)) if single else repr(value)


def _of_quoted(
    workspace: SparkWorkspace, files: list[str], columns: list[str], further: Sequence[str]
) -> Any:
    """Read each CSV file by DuckDB in a task of its own."""
    spark = workspace.spark
    if files[0].startswith("file:"):
        places = spark.createDataFrame(list(enumerate(files)), "place bigint, file string")
        whole = places.selectExpr("place", "file", "CAST(NULL AS BINARY) AS content")
    else:
        order = _order(workspace, files)
        found = spark.read.format("binaryFile").load(files)
        whole = found.join(order, order["file"] == found["path"]).select("place", "file", "content")
    text = ", ".join(f"{name} string" for name in _TEXT)
    task = partial(_quoted_rows, columns=list(columns), further=list(further))
    spread = whole.repartition(len(files)) if len(files) > 1 else whole
    return spread.mapInArrow(task, f"line bigint, file_line bigint, {text}, cause string, content string")


def _quoted_rows(batches: Iterator[Any], columns: list[str], further: list[str]) -> Iterator[Any]:
    """Yield the rows and the broken lines of CSV files, as Arrow batches; runs in a task."""
    import urllib.parse

    import duckdb
    import pyarrow as pa

    kinds = [pa.int64(), pa.int64(), *[pa.string()] * (len(_TEXT) + 2)]
    names = ["line", "file_line", *_TEXT, "cause", "content"]
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    for batch in batches:
        for place, file, content in zip(*(batch.column(n).to_pylist() for n in range(3)), strict=True):
            with tempfile.TemporaryDirectory(prefix="reelbook-csv-") as name, duckdb.connect() as connection:
                folder = Path(name)
                path = Path(urllib.parse.unquote(file.removeprefix("file://")))
                if content is not None:
                    path = folder / f"given{_format(file)}"
                    path.write_bytes(content)
                review_files.load(connection, path, columns, folder, further)
                known = f"{place * _FILE_SHIFT} + raw.line"
                rows: Any = connection.execute(
                    f"""
                    SELECT {known} AS line, NULL::BIGINT AS file_line, {", ".join(_TEXT)},
                        NULL::VARCHAR AS cause, NULL::VARCHAR AS content FROM raw
                    UNION ALL
                    SELECT {place * _FILE_SHIFT} + line, line, NULL, NULL, NULL, NULL, NULL, NULL, cause, content
                    FROM broken
                    """
                )
                for found in rows.to_arrow_reader(100_000):
                    yield found.cast(schema)


# Where there are many


def _files(workspace: SparkWorkspace, uri: str) -> list[str]:
    """Return the URIs of the files of reviews at a place, in the order of their names."""
    spark = workspace.spark
    uri = uri if "://" in uri else Path(uri).resolve().as_uri()
    jvm: Any = spark.sparkContext._jvm
    place = jvm.org.apache.hadoop.fs.Path(uri)
    system = place.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration())
    found = system.globStatus(jvm.org.apache.hadoop.fs.Path(uri))
    names: list[tuple[str, int]] = []
    for status in found or []:
        inside: Any = system.listStatus(status.getPath()) if status.isDirectory() else [status]
        names += [(item.getPath().toUri().toString(), item.getLen()) for item in inside if item.isFile()]
    files = sorted(
        (name, size)
        for name, size in names
        if name.lower().endswith(FORMATS) and not name.rpartition("/")[2].startswith(("_", "."))
    )
    if not files:
        raise DataError(
            f"There is no file of reviews at {uri}.",
            hint=f"Their names must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.",
        )
    empty = [name for name, size in files if not size]
    if empty:
        raise DataError(f"{empty[0]} is empty.", hint="Remove it, or give a file with reviews.")
    kinds = sorted({_format(name).removesuffix(".gz") for name, _ in files})
    if len(kinds) > 1:
        raise DataError(
            f"The files at {uri} are of different formats: {' and '.join(kinds)}.", hint="Give those of one."
        )
    return [re.sub("^file:/+", "file:///", name) for name, _ in files]


def _columns(workspace: SparkWorkspace, files: list[str], further: Sequence[str]) -> list[str]:
    """Return the columns of the files, which must be the same in all of them."""
    if _format(files[0]) == ".parquet":
        columns = list(workspace.spark.read.parquet(*files).columns)
        review_files.check_columns(files[0], columns, further)
        return columns
    first = {}
    for file in files:
        line = workspace.spark.read.text(file).first()
        first[file] = review_files.header_columns(file, line[0] if line else "")
    columns = first[files[0]]
    review_files.check_columns(files[0], columns, further)
    other = next((file for file in files if first[file] != columns), None)
    if other:
        raise DataError(
            f"{other} has other columns than {files[0]}: {', '.join(first[other])[:300]}.",
            hint="Give files with the same columns in the same order.",
        )
    return columns


def _format(name: str) -> str:
    return next(end for end in FORMATS[::-1] if name.lower().endswith(end))
