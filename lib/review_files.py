"""One local file of reviews, checked at the door and read into DuckDB.

The file's name says its format: ``.tsv``, ``.csv``, either of them with ``.gz``, or ``.parquet``.  Every value is
read as text; what the values must be like is said once, in ``ratings.sql``.  Here are the faults of the file and
of its lines: not there, empty, another format, damaged, no header, a column missing, a line with too many fields.

A TSV file is read as Amazon writes its customer reviews: a line is a review, tabs part the fields, and a quote is
a character like any other.  A CSV file follows RFC 4180: a value may stand in double quotes, and then hold commas,
line breaks and doubled quotes.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import duckdb

REQUIRED = ("customer_id", "product_id", "star_rating")
OPTIONAL = ("product_title", "review_date")
FORMATS = (".tsv", ".tsv.gz", ".csv", ".csv.gz", ".parquet")

SEPARATOR = "\x1f"
"""Stands between the values of further columns: the unit separator of ASCII, which no text has."""

_SEPARATOR = "chr(31)"
_KNOWN_LINE = "rowid + 2 + (SELECT count(*) FROM rejected WHERE rows_before <= file_rows.rowid)"
_GZIP_START = b"\x1f\x8b"
_PARQUET_START = b"PAR1"
_LONGEST_HEADER = 1_000_000  # characters
_NEVER_IN_TEXT = "\x01"  # as delimiter it makes a line one field

_LINE_FAULTS = {
    "MISSING COLUMNS": "wrong number of columns",
    "TOO MANY COLUMNS": "wrong number of columns",
    "INVALID ENCODING": "not UTF-8 text",
    "LINE SIZE OVER MAXIMUM": "line longer than 2 MB",
    "UNQUOTED VALUE": "broken quotes",
}


def check(path: str | Path, further: Sequence[str] = ()) -> tuple[Path, list[str]]:
    """Make sure that a file can be a file of reviews, and return its path and the names of its columns.

    Parameters
    ----------
    path : str or Path
        A local file.
    further : sequence of str
        Names of columns that it must have too.

    Raises
    ------
    DataError
        If there is no such file, its name tells no format that is read, it is empty, it is not what its name
        says, it has no header, or a required column is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"There is no file {path}." if not path.exists() else f"{path} is not a file.",
            hint="Give the path of a file of reviews.",
        )
    if not path.name.lower().endswith(FORMATS):
        raise DataError(
            f"The name of {path} does not tell a format that can be read.",
            hint=f"It must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.",
        )
    columns = _parquet_columns(path) if _is_parquet(path) else _text_columns(path)
    check_columns(path, columns, further)
    return path, columns


def load(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    columns: list[str],
    folder: Path,
    further: Sequence[str] = (),
) -> None:
    """Read a file into DuckDB.

    Makes the table ``file_rows`` (the five columns as text, null where the file has no such column, and
    ``further``), the view ``raw`` that ``ratings.sql`` reads, the table ``broken`` (``line``, ``cause``,
    ``content``) of the lines that cannot be read as a row, and the view ``told`` of the others (``line`` as in
    ``raw``, ``file_line`` in the text file, null where not known, and ``content``).

    Parameters
    ----------
    connection : DuckDB connection
        An empty database.
    path, columns
        From `check`.
    folder : Path
        A temporary folder.
    further : sequence of str
        Columns whose values the text ``further`` holds, in this order, each but the last followed by
        `SEPARATOR`; null where there are none.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    # DuckDB expands * and [ in names: give it one without.
    plain_name = folder / ("reviews" + next(end for end in FORMATS[::-1] if path.name.lower().endswith(end)))
    plain_name.symlink_to(path.resolve())
    with verified(path), _readable(path):
        if _is_parquet(path):
            _load_parquet(connection, plain_name, columns, further)
        elif _delimiter(path) == "\t":
            _load_lines(connection, plain_name, columns, further)
        else:
            _load_quoted(connection, plain_name, columns, further)
    is_lines = path.name.lower().endswith((".tsv", ".tsv.gz"))
    connection.execute(
        f"""
        CREATE VIEW told AS
        SELECT
            rowid AS line,
            {_KNOWN_LINE if is_lines else "NULL"} AS file_line,
            {content_of_fields()} AS content
        FROM file_rows
        """
    )


def content_of_fields() -> str:
    """Return the SQL of how a malformed row is shown: its fields with their names."""
    fields = ", ".join(f"concat('{name}=', coalesce({name}, ''))" for name in REQUIRED + OPTIONAL)
    return f"concat_ws(' ', {fields})"


def _load_lines(
    connection: duckdb.DuckDBPyConnection, path: Path, columns: list[str], further: Sequence[str]
) -> None:
    """Read lines whole and split them: no quote or stray character can join or lose a line."""
    fields = _selected({name: f"fields[{place + 1}]" for place, name in enumerate(columns)}, further)
    connection.execute(
        f"""
        CREATE TABLE file_rows AS
        SELECT {fields}, len(fields) AS fields, CASE WHEN len(fields) <> {len(columns)} THEN text[:1000] END AS text
        FROM (
            SELECT text, string_split(text, chr(9)) AS fields
            FROM read_csv(?, delim = '{_NEVER_IN_TEXT}', quote = '', escape = '', header = true, strict_mode = false,
                          auto_detect = false, columns = {{'text': 'VARCHAR'}}, store_rejects = true, rejects_limit = 0)
        )
        """,
        [str(path)],
    )
    _store_rejected(connection)
    connection.execute(
        f"""
        CREATE TABLE broken AS
        SELECT
            {_KNOWN_LINE} AS line,
            'wrong number of columns' AS cause,
            text AS content
        FROM file_rows WHERE fields <> {len(columns)}
        UNION ALL
        SELECT line, cause, content FROM rejected
        """
    )
    _make_raw(connection, f"fields = {len(columns)}")


def _load_quoted(
    connection: duckdb.DuckDBPyConnection, path: Path, columns: list[str], further: Sequence[str]
) -> None:
    types = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(len(columns)))
    values = _selected({name: f"c{place}" for place, name in enumerate(columns)}, further)
    connection.execute(
        f"""
        CREATE TABLE file_rows AS
        SELECT {values}
        FROM read_csv(?, delim = ',', quote = '"', escape = '"', header = true, strict_mode = true,
                      auto_detect = false, columns = {{{types}}}, store_rejects = true, rejects_limit = 0)
        """,
        [str(path)],
    )
    _store_rejected(connection)
    connection.execute("CREATE TABLE broken AS SELECT line, cause, content FROM rejected")
    _make_raw(connection, "true")


def _load_parquet(
    connection: duckdb.DuckDBPyConnection, path: Path, columns: list[str], further: Sequence[str]
) -> None:
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in columns}
    values = _selected({name: f"CAST({column} AS VARCHAR)" for name, column in quoted.items()}, further)
    connection.execute(f"CREATE TABLE file_rows AS SELECT {values} FROM read_parquet(?)", [str(path)])
    connection.execute(
        "CREATE TABLE rejected (line BIGINT, cause VARCHAR, content VARCHAR, rows_before BIGINT)"
    )
    connection.execute("CREATE TABLE broken AS SELECT line, cause, content FROM rejected")
    _make_raw(connection, "true")


def _selected(values: Mapping[str, str], further: Sequence[str]) -> str:
    """Return what is selected for ``file_rows`` from the SQL expressions of the file's columns.

    Of several columns of one name the last counts; `check` refuses that for those that matter.
    """
    selected = [f"{values.get(name, 'NULL::VARCHAR')} AS {name}" for name in REQUIRED + OPTIONAL]
    texts = [f"replace(coalesce({values[name]}, ''), {_SEPARATOR}, ' ')" for name in further]
    joined = f"concat_ws({_SEPARATOR}, {', '.join(texts)})" if texts else "NULL::VARCHAR"
    return ", ".join([*selected, f"{joined} AS further"])


def _store_rejected(connection: duckdb.DuckDBPyConnection) -> None:
    """Keep the lines that DuckDB's reader refused, one row each, with the number of good rows before them."""
    causes = " ".join(f"WHEN '{theirs}' THEN '{ours}'" for theirs, ours in _LINE_FAULTS.items())
    connection.execute(
        f"""
        CREATE TABLE rejected AS
        SELECT *, line - 1 - row_number() OVER (ORDER BY line) AS rows_before
        FROM (
            SELECT
                line,
                min(CASE error_type {causes} ELSE 'cannot be parsed' END) AS cause,
                trim(min(csv_line)[:1000], chr(10) || chr(13)) AS content
            FROM reject_errors GROUP BY line
        )
        """
    )


def _make_raw(connection: duckdb.DuckDBPyConnection, whole: str) -> None:
    connection.execute(
        f"""
        CREATE VIEW raw AS
        SELECT {", ".join(REQUIRED + OPTIONAL)}, further, rowid AS line FROM file_rows WHERE {whole}
        """
    )


def _is_parquet(path: str | Path) -> bool:
    return str(path).lower().endswith(".parquet")


def _delimiter(path: str | Path) -> str:
    return "\t" if str(path).lower().endswith((".tsv", ".tsv.gz")) else ","


def header_columns(path: str | Path, header: str) -> list[str]:
    """Return the names in the first line of a TSV or CSV file, told apart by the file's name."""
    header = header.rstrip("\r\n")
    return header.split("\t") if _delimiter(path) == "\t" else next(csv.reader([header], strict=False))


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise DataError(f"{path} is empty.", hint="Give a file with reviews.")
    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except (pyarrow.ArrowException, OSError) as error:
        what = "a damaged Parquet file" if start == _PARQUET_START else "not a Parquet file"
        raise DataError(f"{path} is {what}.", hint="Write it again, or correct its name.") from error


def _text_columns(path: Path) -> list[str]:
    """Return the names in the first line of a TSV or CSV file."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP_START
    named_gzip = path.name.lower().endswith(".gz")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.", hint="Give a file with reviews.")
    if is_gzip != named_gzip:
        raise DataError(
            f"{path} is named .gz but is not a gzip file." if named_gzip else f"{path} is a gzip file.",
            hint="Correct its name: " + ("without .gz." if named_gzip else "it must end in .gz."),
        )
    with _readable(path), gzip.open(path, "rb") if is_gzip else path.open("rb") as file:
        line = file.readline(_LONGEST_HEADER)
    if not line.strip():
        raise DataError(f"{path} holds no header, its first line is empty.", hint="Give a file with reviews.")
    try:
        header = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text.", hint="Save it as UTF-8.") from error
    if "\x00" in header:
        raise DataError(f"{path} is not UTF-8 text.", hint="Save it as UTF-8, or correct its name.")
    return header_columns(path, header)


def check_columns(path: str | Path, columns: list[str], further: Sequence[str]) -> None:
    """Make sure that a file's columns are those that are needed, each once.

    Raises
    ------
    DataError
        If one is missing or there twice.
    """
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        there = ", ".join(columns[:20])[:300]
        if len(missing) == len(REQUIRED) and any(map(_is_number, columns)):
            raise DataError(
                f"{path} has no header: its first line is {there}.",
                hint=f"The first line must name the columns, among them {', '.join(REQUIRED)}.",
            )
        guess = did_you_mean(missing[0], columns)
        raise DataError(
            f"{path} has no column {' or '.join(missing)}; its columns are {there}.",
            hint=guess[:1].upper() + guess[1:] if guess else _other_delimiter(path, columns),
        )
    for name in further:
        if name not in columns:
            there = ", ".join(columns[:20])[:300]
            guess = did_you_mean(name, columns)
            raise DataError(
                f"The ratings have no column {name}; there are {there}.",
                hint=guess[:1].upper() + guess[1:]
                if guess
                else "Name side features after the columns of the reviews.",
            )
    for name in (*REQUIRED, *OPTIONAL, *further):
        if columns.count(name) > 1:
            raise DataError(f"{path} has {columns.count(name)} columns {name}.", hint="Rename all but one.")


def _other_delimiter(path: str | Path, columns: list[str]) -> str:
    separators = {"\t": "tabs", ",": "commas"}
    other = "," if _delimiter(path) == "\t" else "\t"
    if len(columns) == 1 and other in columns[0]:
        return f"Its fields are parted by {separators[other]}: name it {'.csv' if other == ',' else '.tsv'}."
    return f"It must have {', '.join(REQUIRED)}; {' and '.join(OPTIONAL)} are welcome."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def verified(path: Path) -> Iterator[None]:
    """Verify a gzip file's checksum beside the work: DuckDB takes damaged data for the end of the file."""
    if not path.name.lower().endswith(".gz"):
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        verification = pool.submit(_verify_gzip, path)
        try:
            yield
        finally:
            verification.result()


def _verify_gzip(path: Path) -> None:
    with _readable(path), gzip.open(path, "rb") as file:
        while file.read(1 << 20):
            pass


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a file into one sentence."""
    import duckdb

    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or cut off.", hint="Fetch or compress it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path} cannot be read: {reason}", hint="Look for stray carriage returns and unclosed quotes."
        ) from error
