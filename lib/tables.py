"""Tables of ratings as people have them, checked and turned into the one form that the workflow reads.

Comes in: delimited text (tab, comma, semicolon or bar; gzip or not) or Parquet, with whatever names its
columns have, and optionally a second table with the titles.  Goes out: ``reviews.tsv.gz``, tab-separated
text without quoting, with the columns ``customer_id``, ``product_id``, ``star_rating`` and, where known,
``product_title`` and ``review_date``.

Values are handed on as text and are not judged here: that a rating is no number is for `lib.ratings` to find
and count.  Lines that do not even split into the right number of columns are handed on too, each as a line
of one column, so that they are counted there as well.
"""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from lib.errors import DataError, ParameterError, did_you_mean
from lib.files import atomically

if TYPE_CHECKING:
    import duckdb

TEXT_SUFFIXES = (".tsv", ".csv", ".txt", ".tsv.gz", ".csv.gz", ".txt.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")
DELIMITERS = "\t,;|"
ENCODINGS = ("utf-8", "latin-1", "utf-16")

SNIFFED = 1 << 16
"""Bytes at the start of a file that are looked at to tell what it is."""

FOREIGN_FORMATS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word document",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x28\xb5\x2f\xfd": "a zstandard archive",
    b"SQLite format 3": "an SQLite database",
    b"ARROW1": "an Arrow file",
    b"{": "JSON",
    b"[": "JSON",
    b"<": "a web page or XML",
}
"""First bytes of files that are often mistaken for a table."""


@dataclass(frozen=True)
class Table:
    """A file with ratings, and what its columns are called.

    Attributes
    ----------
    path : Path
        Delimited text with a header, or Parquet.
    customer, product, rating : str
        Names of the columns that must be there.
    title, date : str
        Names of the columns that may be there.  Dates are handed on as they are, but whole numbers of 9 or 10
        digits are taken as seconds since 1970, of 12 or 13 as milliseconds, and become days.
    titles : Path, optional
        A second table with the columns ``product`` and ``title``.
    further : tuple of str
        Columns of either table to hand on too, under their names.  Of both, that of the ratings.
    encoding : str
        ``utf-8``, ``latin-1`` or ``utf-16``, of text files.
    """

    path: Path
    customer: str = "customer_id"
    product: str = "product_id"
    rating: str = "star_rating"
    title: str = "product_title"
    date: str = "review_date"
    titles: Path | None = None
    further: tuple[str, ...] = ()
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Relation:
    """A file as DuckDB reads it: its columns, and the SQL expression that yields them as ``c0``, ``c1``, …"""

    path: Path
    columns: list[str]
    sql: str

    def column(self, name: str, parameter: str, optional: bool = False) -> str | None:
        """Return the SQL name of a column; None where an optional one is missing."""
        if name in self.columns:
            return f"c{self.columns.index(name)}"
        if optional:
            return None
        there = ", ".join(self.columns[:20]) + (", …" if len(self.columns) > 20 else "")
        guess = did_you_mean(name, self.columns)
        raise DataError(
            f"{self.path} has no column `{name}`; its first row names these: {there}.",
            hint=f"{guess[:1].upper()}{guess[1:]} Set {parameter} to the right name.".strip(),
        )


def convert(table: Table, out: str | Path) -> int:
    """Write a table of ratings as ``reviews.tsv.gz``.

    Parameters
    ----------
    table : Table
        What to read.
    out : str or Path
        The file to write; it appears under this name only when complete.

    Returns
    -------
    int
        Rows written, malformed ones included.

    Raises
    ------
    DataError
        If a file is missing, empty, damaged or of another format, or lacks a column.
    ParameterError
        If the encoding is not known.
    """
    import duckdb

    if table.encoding not in ENCODINGS:
        raise ParameterError(f"encoding is {table.encoding}.", hint=f"Known are {', '.join(ENCODINGS)}.")
    ratings = _open(table.path, table.encoding, keep_rejects=True)
    columns = {
        "customer_id": ratings.column(table.customer, "customer_column"),
        "product_id": ratings.column(table.product, "product_column"),
        "star_rating": ratings.column(table.rating, "rating_column"),
        "product_title": ratings.column(
            table.title, "title_column", table.titles is not None or table.title == Table.title
        ),
        "review_date": ratings.column(table.date, "date_column", table.date == Table.date),
    }
    titles = None
    if table.titles is not None:
        titles = _open(table.titles, table.encoding)
        product = titles.column(table.product, "product_column")
        title = titles.column(table.title, "title_column")
    of_titles = _add_further(table, ratings, titles, columns)
    with tempfile.TemporaryDirectory(prefix="reelbook-") as folder, atomically(out) as partial:
        try:
            with duckdb.connect() as connection:
                connection.execute(f"SET memory_limit = '1GB'; SET temp_directory = {_literal(folder)}")
                join = ""
                if titles is not None:
                    connection.execute(
                        f"CREATE TEMP TABLE titles AS SELECT {product} AS product, first({title}) AS title{of_titles} "
                        f"FROM {titles.sql} GROUP BY {product}"
                    )
                    # Reviews stay in their order: probe the titles in one thread, and never the other way round.
                    connection.execute(
                        "SET threads = 1; SET disabled_optimizers = 'join_order,build_side_probe_side'"
                    )
                    join = f" LEFT JOIN titles ON {columns['product_id']} = titles.product"
                    columns["product_title"] = "titles.title"
                rows = _copy(connection, ratings, columns, join, partial)
                rows += _append_rejects(connection, partial)
        except duckdb.Error as error:
            raise DataError(
                f"{table.path} cannot be converted: {_first_line(error)}.",
                hint="Check that the file is complete, its encoding is the one given, and the disk has room.",
            ) from error
        if rows == 0:
            raise DataError(f"{table.path} has a header and no rows.", hint="Give a file with ratings.")
    return rows


def _add_further(
    table: Table, ratings: Relation, titles: Relation | None, columns: dict[str, str | None]
) -> str:
    """Add the further columns to those that are written; return what is to be selected of the titles for them."""
    of_titles = ""
    for place, name in enumerate(table.further):
        if columns.get(name) is not None:
            continue
        if name in ratings.columns:
            columns[name] = ratings.column(name, "")
        elif titles is not None and name in titles.columns:
            columns[name] = f"titles.further{place}"
            of_titles += f", first({titles.column(name, '')}) AS further{place}"
        else:
            known = [*ratings.columns, *(titles.columns if titles else [])]
            guess = did_you_mean(name, known)
            raise DataError(
                f"The ratings have no column {name}; there are {', '.join(dict.fromkeys(known))}.",
                hint=guess[:1].upper() + guess[1:]
                or "Name side features after the columns of the ratings or titles.",
            )
    return of_titles


def _copy(
    connection: duckdb.DuckDBPyConnection,
    ratings: Relation,
    columns: dict[str, str | None],
    join: str,
    out: Path,
) -> int:
    """Let DuckDB stream the ratings into a gzip-compressed TSV; return the number of rows."""
    date = columns["review_date"]
    expressions = {name: column for name, column in columns.items() if column is not None}
    if date is not None:
        expressions["review_date"] = (
            f"CASE WHEN regexp_full_match({date}, '[0-9]{{9,10}}') THEN "
            f"strftime(make_timestamp({date}::BIGINT * 1000000), '%Y-%m-%d') "
            f"WHEN regexp_full_match({date}, '[0-9]{{12,13}}') THEN "
            f"strftime(make_timestamp({date}::BIGINT * 1000), '%Y-%m-%d') ELSE {date} END"
        )
    selected = ", ".join(
        f"translate({expression}, e'\\t\\r\\n', '   ') AS {_quoted(name)}"
        for name, expression in expressions.items()
    )
    copied = connection.execute(
        f"COPY (SELECT {selected} FROM {ratings.sql}{join}) TO {_literal(out)} "
        "(FORMAT csv, HEADER, DELIMITER '\t', QUOTE '', ESCAPE '', COMPRESSION gzip)"
    ).fetchall()
    return int(copied[0][0])


def _append_rejects(connection: duckdb.DuckDBPyConnection, out: Path) -> int:
    """Append the lines that DuckDB could not split, each as one column; return how many."""
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE table_name = 'reject_errors'")
    if not tables.fetchall():
        return 0
    rejects = connection.execute(
        "SELECT any_value(csv_line) FROM reject_errors GROUP BY line_byte_position ORDER BY line_byte_position"
    )
    rows = 0
    with gzip.open(out, "ab") as file:  # a gzip file may have several members
        while found := rejects.fetchmany(10_000):
            lines = [" ".join((line or "").split()) or "unreadable" for (line,) in found]
            file.write(("\n".join(lines) + "\n").encode())
            rows += len(lines)
    return rows


def _open(path: Path, encoding: str, keep_rejects: bool = False) -> Relation:
    """Check that a file is there and what its name says; return how to read it."""
    kind = _sniff(path, encoding)
    if kind == "parquet":
        return _open_parquet(path)
    compressed = kind == "gzip"
    with _reader(path, compressed) as file:
        head = file.read(SNIFFED)
    text = head.decode(encoding, errors="ignore").removeprefix("\ufeff")
    header = next(iter(text.splitlines()), "")
    delimiter = max(DELIMITERS, key=lambda mark: len(_split(header, mark)))
    columns = _split(header, delimiter)
    quote = "" if delimiter == "\t" and not header.startswith('"') else '"'
    names = ", ".join(f"c{number}: 'VARCHAR'" for number in range(len(columns)))
    options = [
        "auto_detect = false",
        "header = true",
        f"delim = {_literal(delimiter)}",
        f"quote = {_literal(quote)}",
        f"escape = {_literal(quote)}",
        f"encoding = {_literal(encoding)}",
        f"compression = {_literal('gzip' if compressed else 'none')}",
        f"columns = {{{names}}}",
        "store_rejects = true" if keep_rejects else "ignore_errors = true",
    ]
    return Relation(path, columns, f"read_csv({_literal(path)}, {', '.join(options)})")


def _open_parquet(path: Path) -> Relation:
    import duckdb

    try:
        with duckdb.connect() as connection:
            described = connection.execute(
                f"DESCRIBE SELECT * FROM read_parquet({_literal(path)})"
            ).fetchall()
    except duckdb.Error as error:
        raise DataError(
            f"{path} is not a complete Parquet file: {_first_line(error)}.",
            hint="Write it anew or copy it again.",
        ) from error
    columns = [str(row[0]) for row in described]
    quoted = (name.replace('"', '""') for name in columns)
    selected = ", ".join(f'CAST("{name}" AS VARCHAR) AS c{number}' for number, name in enumerate(quoted))
    return Relation(path, columns, f"(SELECT {selected} FROM read_parquet({_literal(path)}))")


def _sniff(path: Path, encoding: str) -> str:
    """Return ``text``, ``gzip`` (text inside) or ``parquet`` for a file that can be read, or raise DataError."""
    if "://" in str(path) or str(path).startswith("s3:/"):
        raise DataError(f"{path} is an address and not a file.", hint="Copy it to this machine first.")
    if not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        guess = did_you_mean(path.name, beside)
        raise DataError(f"{path} does not exist.", hint=guess[:1].upper() + guess[1:] or "Check the path.")
    if path.is_dir():
        raise DataError(f"{path} is a folder and not a file.", hint="Give the path of one file.")
    try:
        with _reader(path, compressed=False) as file:
            head = file.read(SNIFFED)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not head:
        raise DataError(f"{path} is empty.", hint="Give a file with a header and ratings.")

    name = path.name.lower()
    kind = "gzip" if head.startswith(b"\x1f\x8b") else "parquet" if head.startswith(b"PAR1") else "text"
    if kind == "parquet" and name.endswith(TEXT_SUFFIXES):
        raise DataError(f"{path} is Parquet and not text.", hint="Rename it to end in .parquet.")
    if kind == "gzip":
        if name.endswith(PARQUET_SUFFIXES):
            raise DataError(f"{path} is compressed by gzip and not Parquet.", hint="Unpack it first.")
        try:
            with _reader(path, compressed=True) as file:
                head = file.read(SNIFFED)
        except (OSError, EOFError) as error:
            raise DataError(f"{path} is a damaged gzip file: {error}.", hint="Copy it again.") from error
        if not head:
            raise DataError(f"{path} is empty when unpacked.", hint="Give a file with a header and ratings.")
    if kind != "parquet":
        foreign = _foreign(head, encoding)
        if kind == "text" and name.endswith(".gz"):
            raise DataError(
                f"{path} is {foreign or 'plain text'} and not gzip.", hint="Rename it or copy it again."
            )
        if foreign or name.endswith(PARQUET_SUFFIXES):
            raise DataError(
                f"{path} is {foreign or 'plain text'} and not {_expected(name)}.",
                hint="Ratings come as tab- or comma-separated text with a header, or as Parquet.",
            )
        _check_encoding(path, head, encoding)
    return kind


def _foreign(head: bytes, encoding: str) -> str:
    """Return what else the first bytes are, such as ``a PNG image``; empty for text."""
    for signature, description in FOREIGN_FORMATS.items():
        if head.lstrip().startswith(signature):
            return description
    return "a binary file" if b"\x00" in head and encoding != "utf-16" else ""


def _expected(name: str) -> str:
    if name.endswith(PARQUET_SUFFIXES):
        return "Parquet"
    return "delimited text" if name.endswith(TEXT_SUFFIXES) else "a table"


def _check_encoding(path: Path, head: bytes, encoding: str) -> None:
    try:
        head.decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else a character is cut by the end of what was read
            raise DataError(
                f"{path} is not {encoding}: byte {error.start} is none of its characters.",
                hint="Set encoding to latin-1 or utf-16, or save the file as UTF-8.",
            ) from error


def _reader(path: Path, compressed: bool) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if compressed else path.open("rb")


def _split(header: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]


def _first_line(error: duckdb.Error) -> str:
    """Return what DuckDB says, without the kind of error that it says first."""
    message = str(error).splitlines()[0].split(": ", 1)[-1].rstrip(".")
    if '"exception_message"' in message:  # an error of a writing thread comes as JSON
        message = json.loads(message[message.index("{") :])["exception_message"]
    return message


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: object) -> str:
    """Quote a text for SQL."""
    return "'" + str(text).replace("'", "''") + "'"
