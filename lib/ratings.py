"""From one file of reviews to the ratings that training needs: clean, without repeats, indexed and split.

::

    reviews = ratings.read("reviews.tsv.gz", memory_limit="1GB")
    reviews.summary()                                 # and .skipped, .examples, .quantiles(…), .star_counts()
    kept = reviews.keep(min_customer_ratings=5, min_video_ratings=10)
    parts = kept.split(seed=0, fractions=(0.6, 0.2, 0.2))
    parts.write("ratings")                            # train.parquet, validate.parquet, test.parquet, …

**The rules** stand in ``ratings.sql``, in SQL that Spark runs too:

- A row with an empty id, or a rating that is not a finite number, is malformed: skipped, counted and shown.
- Of several ratings of one video by one customer the latest counts, by ``review_date`` (ISO 8601 or a number).
  Of one date the highest counts, of those without a date the one furthest down in the file.
- Customers and videos with too few ratings are dropped in one pass: both are counted before anything is.
- Customers and videos are numbered from 0: most kept ratings first, then by id.
- A rating belongs to train, validate or test by the first digits of ``md5(customer_id|product_id|seed)``.
  Training rows are in the random order of the digits after them, for SageMaker trains in the order of the file;
  the others are ordered by customer, then video.

So the result does not depend on the order of equal rows, on the engine or on its threads.  The work is done by
DuckDB within a memory limit, on a database in a temporary folder that goes when the `Reviews` go.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from lib import review_files
from lib.errors import DataError, ParameterError, did_you_mean
from lib.files import atomically
from lib.sql_workspace import DuckDBWorkspace, Workspace

QUANTILES = (0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.96, 0.97, 0.98, 0.99, 1)
"""Where the long tail is looked at: mostly at its ends."""

PARTS = ("train", "validate", "test")

ENGINES = ("duckdb", "spark")
"""What may work out the rules."""

SQL = files("lib") / "ratings.sql"
"""The rules."""

_EXAMPLES_A_CAUSE = 3
_SPLIT_DIGITS = 8
_RATING_COLUMNS = "customer, video, star_rating, customer_id, product_id"
_COLUMNS_THERE = {*_RATING_COLUMNS.split(", "), "product_title", "ratings", "train_ratings"}
_VARIETY = """
    SELECT count(*), count(DISTINCT customer_id), count(DISTINCT product_id), min(star_rating), max(star_rating)
    FROM {table}
"""


def read(
    path: str | Path,
    *,
    engine: str = "duckdb",
    further: Sequence[str] = (),
    memory_limit: str = "1GB",
    threads: int | None = None,
    temp_directory: str | Path | None = None,
) -> Reviews:
    """Read a file of reviews, skip malformed rows and drop repeated ratings.

    Parameters
    ----------
    path : str or Path
        A local ``.tsv``, ``.tsv.gz``, ``.csv``, ``.csv.gz`` or ``.parquet`` file with a header and the columns
        ``customer_id``, ``product_id``, ``star_rating`` and, if it has them, ``product_title`` and
        ``review_date``; other columns are ignored.
    further : sequence of str
        Columns to carry along as text, to be features: see `Parts.further`.
    engine : {"duckdb", "spark"}
        What does the work; the result is the same.  Spark wants ``pyspark`` and Java, takes folders and URIs too,
        and works in the session that is active, or in one of its own on this machine: see `lib.spark_workspace`.
    memory_limit : str
        What the engine may hold in memory, such as ``"1GB"``; beyond it, it works on disk.
    threads : int, optional
        Threads the engine uses; by default as many as there are cores.
    temp_directory : str or Path, optional
        Where the temporary folder is made; by default the system's place for such.

    Raises
    ------
    DataError
        If the file is missing, empty, damaged or not what its name says, has no header or lacks a column, or
        more than half of its rows are malformed.
    ParameterError
        If a further column cannot be one, or the memory limit or the number of threads is not one.
    """
    further = list(dict.fromkeys(further))
    for name in further:
        if name in _COLUMNS_THERE:
            raise ParameterError(
                f"{name} cannot be a further column: the tables have one of that name anyway."
            )
    if engine not in ENGINES:
        guess = did_you_mean(str(engine), list(ENGINES)) or f"there are {' and '.join(ENGINES)}."
        raise ParameterError(f"There is no engine {engine!r}.", hint=guess[:1].upper() + guess[1:])
    if engine == "spark":
        return _read_by_spark(path, further, memory_limit, threads, temp_directory)
    path, columns = review_files.check(path, further)
    workspace = DuckDBWorkspace(SQL, memory_limit, threads, temp_directory)
    with _closed_on_failure(workspace):
        with workspace.working(f"reading {path}"):
            review_files.load(workspace.connection, path, columns, workspace.folder, further)
        return Reviews(path, columns, further, workspace)


def _read_by_spark(
    path: str | Path,
    further: list[str],
    memory_limit: str,
    threads: int | None,
    temp_directory: str | Path | None,
) -> Reviews:
    from lib import spark_reviews, spark_workspace

    spark_workspace.require()
    if not spark_reviews.is_remote(path):
        review_files.check(path, further)  # before a session is started
    workspace = spark_workspace.SparkWorkspace(SQL, memory_limit, threads, temp_directory)
    with _closed_on_failure(workspace):
        with workspace.working(f"reading {path}"):
            place, columns = spark_reviews.load(workspace, path, further)
        return Reviews(place, columns, further, workspace)


@contextmanager
def _closed_on_failure(workspace: Workspace) -> Iterator[None]:
    """Close a workspace when something fails: the error's traceback would keep its folder alive."""
    try:
        yield
    except BaseException:
        workspace.close()
        raise


class Reviews:
    """The clean ratings of a file, one for each customer and video.  Made by `read`.

    It is a context manager; without ``with`` it cleans up when it is garbage-collected or Python ends.

    Attributes
    ----------
    path : Path or str
        The file, or the URI.
    further : list of str
        The columns that are carried along.
    rows : int
        Its rows, malformed ones included, the header and blank lines not.
    skipped : DataFrame
        Malformed rows by cause: ``cause``, ``rows``.
    examples : DataFrame
        A few of them for each cause: ``line`` (of the text file, the header is 1; null where not known),
        ``cause``, ``content``.
    duplicates : int
        Rows dropped because the customer has rated the video in another row too.
    undated : int
        Well-formed rows without a usable date, in a file that has the column ``review_date``.
    ratings, customers, videos : int
        What is there after that.
    """

    def __init__(
        self, path: str | Path, columns: list[str], further: list[str], workspace: Workspace
    ) -> None:
        self.path = path
        self.further = further
        self._workspace = workspace
        self._kept: Kept | None = None
        with workspace.working(f"reading {path}"):
            workspace.make("checked", stored=False)
            self._count_rows("review_date" in columns)
            workspace.make("ratings")
            workspace.make("titles")
            workspace.forget_rows()
            self._variety = workspace.row(_VARIETY.format(table="ratings"))
        self.ratings, self.customers, self.videos = self._variety[:3]
        self.duplicates = self.rows - int(self.skipped["rows"].sum()) - self.ratings

    def _count_rows(self, dated: bool) -> None:
        workspace = self._workspace
        self.skipped = workspace.frame(
            """
            SELECT cause, count(*) AS rows FROM (
                SELECT cause FROM broken UNION ALL SELECT problem FROM checked WHERE problem IS NOT NULL
            ) GROUP BY cause ORDER BY rows DESC, cause
            """
        )
        malformed = int(self.skipped["rows"].sum())
        well_formed, undated = workspace.row(
            "SELECT count(*), count(*) FILTER (WHERE review_day IS NULL AND review_second IS NULL) FROM checked "
            "WHERE problem IS NULL"
        )
        self.undated: int = undated if dated else 0
        self.rows: int = well_formed + malformed
        if not self.rows:
            raise DataError(f"{self.path} has a header but no rows.", hint="Give a file with reviews.")
        self.examples = self._examples() if malformed else pd.DataFrame(columns=["line", "cause", "content"])
        if 2 * malformed > self.rows:
            first = self.examples.sort_values("line").iloc[0]
            raise DataError(
                f"{malformed:,} of {self.rows:,} rows of {self.path} are malformed, the first one "
                f"({first['cause']}): {first['content'][:100]!r}.",
                hint="Is it the right file, are its columns the right ones (`rating_column` and so on, where you named "
                "them), and does its name tell what it is (.tsv: tabs, .csv: commas)?",
            )

    def _examples(self) -> pd.DataFrame:
        return self._workspace.frame(
            f"""
            WITH malformed AS (
                SELECT line, cause, content FROM broken
                UNION ALL
                SELECT told.file_line, checked.problem, told.content
                FROM checked JOIN told ON told.line = checked.line
                WHERE checked.problem IS NOT NULL
            )
            SELECT line, cause, substr(coalesce(content, ''), 1, 200) AS content
            FROM (
                SELECT *, row_number() OVER (PARTITION BY cause ORDER BY line NULLS LAST, content) AS place
                FROM malformed
            ) AS placed
            WHERE place <= {_EXAMPLES_A_CAUSE}
            ORDER BY line NULLS LAST, cause, content
            """
        ).astype({"line": "Int64"})

    def summary(self) -> pd.DataFrame:
        """Return what was read and what is left of it: one row a kind, column ``count``."""
        counts = {
            "rows in the file": self.rows,
            "malformed rows, skipped": int(self.skipped["rows"].sum()),
            "repeated ratings, dropped": self.duplicates,
            "rows without a usable date": self.undated,
            "ratings": self.ratings,
            "customers": self.customers,
            "videos": self.videos,
        }
        return pd.DataFrame({"count": counts})

    def quantiles(
        self, by: Literal["customer_id", "product_id"], at: Sequence[float] = QUANTILES
    ) -> pd.DataFrame:
        """Return how many ratings a customer, or a video, has: the long tail in numbers.

        Parameters
        ----------
        by : {"customer_id", "product_id"}
            Of whom.
        at : sequence of float
            Quantiles between 0 and 1; between two counts the value is interpolated linearly.

        Returns
        -------
        DataFrame
            Indexed by ``quantile``; one column, ``ratings per customer`` or ``ratings per video``.
        """
        names = {"customer_id": "ratings per customer", "product_id": "ratings per video"}
        if by not in names:
            raise ParameterError(f"Quantiles are by customer_id or product_id, not {by!r}.")
        tally = self._workspace.frame(
            f"""
            SELECT ratings, count(*) AS times FROM (SELECT count(*) AS ratings FROM ratings GROUP BY {by})
            GROUP BY ratings ORDER BY ratings
            """
        )
        counts = np.repeat(tally["ratings"].to_numpy(), tally["times"].to_numpy())
        index = pd.Index(list(at), name="quantile", dtype=float)
        return pd.DataFrame({names[by]: np.quantile(counts, index)}, index=index)

    def star_counts(self) -> pd.DataFrame:
        """Return how often each rating was given: indexed by ``star_rating``, ascending, column ``ratings``."""
        return self._workspace.frame(
            "SELECT star_rating, count(*) AS ratings FROM ratings GROUP BY star_rating ORDER BY star_rating"
        ).set_index("star_rating")

    def keep(self, min_customer_ratings: int = 5, min_video_ratings: int = 10) -> Kept:
        """Keep customers and videos that have enough ratings, and number them.

        Parameters
        ----------
        min_customer_ratings, min_video_ratings : int
            The least number of ratings, counted on all of them before anything is dropped.  So what is kept
            may have fewer in the end.

        Raises
        ------
        DataError
            If nothing is left, or only one customer or one video, or all ratings are equal.
        ParameterError
            If a minimum is below 1.
        """
        for name, value in (
            ("min_customer_ratings", min_customer_ratings),
            ("min_video_ratings", min_video_ratings),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ParameterError(f"{name} must be a whole number from 1, not {value!r}.")
        _require_variety(self._variety, f"in {self.path}")
        self._kept = None
        with self._workspace.working("filtering the ratings"):
            self._workspace.define(
                "limits",
                f"SELECT {min_customer_ratings} AS min_customer_ratings, {min_video_ratings} AS min_video_ratings",
            )
            for name in ("kept", "customer_numbers", "video_numbers"):
                self._workspace.make(name)
            variety = self._workspace.row(_VARIETY.format(table="kept"))
        filters = f"with at least {min_customer_ratings} ratings a customer and {min_video_ratings} a video"
        _require_variety(variety, filters)
        self._kept = Kept(self, *variety[:3])
        return self._kept

    def close(self) -> None:
        """Delete the temporary database.  What was made from it by `keep` and `split` can no longer be used."""
        self._workspace.close()

    def __enter__(self) -> Reviews:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(eq=False)
class Kept:
    """Ratings of the customers and videos that have enough of them.  Made by `Reviews.keep`.

    Attributes
    ----------
    reviews : Reviews
        Where they come from; a later `Reviews.keep` takes this object's place.
    ratings, customers, videos : int
        How many there are.
    """

    reviews: Reviews
    ratings: int
    customers: int
    videos: int
    _parts: Parts | None = field(default=None, init=False, repr=False)

    def summary(self) -> pd.DataFrame:
        """Return what was kept: rows ``all`` and ``kept``, columns ratings, customers, videos and density.

        The density is the share of all pairs of a customer and a video that have a rating.
        """
        rows = [(held.ratings, held.customers, held.videos) for held in (self.reviews, self)]
        frame = pd.DataFrame(rows, index=["all", "kept"], columns=["ratings", "customers", "videos"])
        return frame.assign(density=frame["ratings"] / (frame["customers"] * frame["videos"]))

    def split(self, seed: int = 0, fractions: Sequence[float] = (0.6, 0.2, 0.2)) -> Parts:
        """Split the ratings at random into train, validate and test.

        Parameters
        ----------
        seed : int
            Another seed gives another split.
        fractions : three floats
            The shares of train, validate and test; they add up to 1.

        Raises
        ------
        DataError
            If a part is left without a rating.
        ParameterError
            If the fractions are not three positive numbers that add up to 1.
        """
        self._require_current()
        train_below, validate_below = _thresholds(fractions)
        workspace = self.reviews._workspace
        self._parts = None
        with workspace.working("splitting the ratings"):
            workspace.define(
                "split",
                f"SELECT '{int(seed)}' AS seed, '{train_below}' AS train_below, '{validate_below}' AS validate_below",
            )
            for name in ("parts", "customers", "videos"):
                workspace.make(name)
            counts = workspace.frame(
                """
                SELECT part, count(*) AS ratings, count(DISTINCT customer) AS customers,
                    count(DISTINCT video) AS videos
                FROM parts GROUP BY part
                """
            )
            cold = workspace.row(
                "SELECT (SELECT count(*) FROM customers WHERE train_ratings = 0), "
                "(SELECT count(*) FROM videos WHERE train_ratings = 0)"
            )
            further = self._further()
        counts = counts.set_index("part").reindex(list(PARTS), fill_value=0)
        for part in PARTS:
            if not counts.at[part, "ratings"]:
                raise DataError(
                    f"The split leaves no rating for {part}: there are only {self.ratings:,} ratings.",
                    hint="Give more reviews, or lower min_customer_ratings and min_video_ratings.",
                )
        without = pd.Series(cold, index=["customers", "videos"], name="without training rows")
        self._parts = Parts(self, counts, without, further)
        return self._parts

    def _further(self) -> pd.DataFrame:
        """Tell of each further column whose it is: the video's or the customer's where it never differs."""
        workspace, rows = self.reviews._workspace, []
        for place, name in enumerate(self.reviews.further):
            value = _further_value(place)
            filled = workspace.row(f"SELECT count({value}) / count(*) FROM parts")[0]
            owners = [
                owner
                for owner in ("video", "customer")
                if not workspace.row(
                    f"SELECT count(*) FROM (SELECT {owner} FROM parts GROUP BY {owner} "
                    f"HAVING count(DISTINCT {value}) > 1)"
                )[0]
            ]
            rows.append((name, (owners or ["rating"])[0], float(filled)))
        return pd.DataFrame(rows, columns=["column", "of", "filled"]).set_index("column")

    def _require_current(self) -> None:
        if self.reviews._kept is not self:
            raise DataError(
                "A later keep() has taken the place of these ratings.", hint="Use what it returned."
            )


@dataclass(eq=False)
class Parts:
    """The split ratings.  Made by `Kept.split`.

    Attributes
    ----------
    kept : Kept
        What was split; a later `Kept.split` takes this object's place.
    counts : DataFrame
        Indexed by part; columns ``ratings``, ``customers``, ``videos``: how many are in it.
    without_training : Series
        ``customers`` and ``videos`` that have no training row: a model knows nothing of them.
    further : DataFrame
        Indexed by the name of each further column; ``of`` (``video`` or ``customer`` where all their ratings have
        the same value or none, else ``rating``) and ``filled``, the share of ratings with a value.
    """

    kept: Kept
    counts: pd.DataFrame
    without_training: pd.Series
    further: pd.DataFrame

    def write(self, folder: str | Path) -> dict[str, Path]:
        """Write the parts and the tables of customers and videos as Parquet files, all or none.

        ``train.parquet``, ``validate.parquet`` and ``test.parquet`` have the columns customer and video (int32),
        star_rating (float32), customer_id and product_id (text); ``customers.parquet`` customer, customer_id,
        ratings, train_ratings; ``videos.parquet`` video, product_id, product_title, ratings, train_ratings.  Further
        columns (text, null where empty) are in the tables of whom they are, behind those.

        Parameters
        ----------
        folder : str or Path
            Where; it is made if need be, and files of these names are replaced.

        Returns
        -------
        dict
            The path of each: ``train``, ``validate``, ``test``, ``customers``, ``videos``.
        """
        self.kept._require_current()
        if self.kept._parts is not self:
            raise DataError(
                "A later split() has taken the place of these parts.", hint="Use what it returned."
            )
        workspace = self.kept.reviews._workspace
        queries = self.queries()
        paths = {name: Path(folder) / f"{name}.parquet" for name in queries}
        with workspace.working(f"writing to {folder}"), ExitStack() as stack:
            for name, query in queries.items():
                workspace.write(query, stack.enter_context(atomically(paths[name])))
        return paths

    def queries(self) -> dict[str, str]:
        """Return the SQL of each table that `write` writes, in its order."""
        workspace = self.kept.reviews._workspace
        own: dict[str, list[str]] = {owner: [] for owner in ("rating", "customer", "video")}
        for place, (name, owner) in enumerate(self.further["of"].items()):
            value = _further_value(place)
            selected = value if owner == "rating" else f"max({value})"
            own[owner].append(f"{selected} AS {workspace.quoted(str(name))}")
        selected = ", ".join([_RATING_COLUMNS, *own["rating"]])
        queries = {
            part: f"SELECT {selected} FROM parts WHERE part = '{part}' "
            f"ORDER BY {'random_order, ' if part == 'train' else ''}customer, video"
            for part in PARTS
        }
        for owner in ("customer", "video"):
            query = f"SELECT * FROM {owner}s"
            if own[owner]:
                values = f"SELECT {owner}, {', '.join(own[owner])} FROM parts GROUP BY {owner}"
                query += f" JOIN ({values}) AS own USING ({owner})"
            queries[f"{owner}s"] = f"{query} ORDER BY {owner}"
        return queries


def _further_value(place: int) -> str:
    """Return the SQL of a further column's value in the text that holds them all; null where it is empty."""
    return f"nullif(trim(split_part(further, chr(31), {place + 1})), '')"


def _require_variety(variety: tuple[Any, ...], where: str) -> None:
    """Refuse ratings that nothing can be learned from."""
    ratings, customers, videos, lowest, highest = variety
    fewer = "Give more reviews, or lower min_customer_ratings and min_video_ratings."
    if not ratings:
        raise DataError(f"No rating is left {where}.", hint=fewer)
    if customers == 1 or videos == 1:
        what = "customer" if customers == 1 else "video"
        raise DataError(f"There is only one {what} {where}: a recommender needs at least two.", hint=fewer)
    if lowest == highest:
        raise DataError(
            f"All {ratings:,} ratings {where} are equal ({lowest:g}): there is nothing to predict.",
            hint="Is star_rating the right column?",
        )


def _thresholds(fractions: Sequence[float]) -> tuple[str, str]:
    """Return below which hexadecimal digits a digest falls into train, and into train or validate."""
    shares = [float(share) for share in fractions]
    if (
        len(shares) != len(PARTS)
        or not all(share > 0 for share in shares)
        or not math.isclose(sum(shares), 1)
    ):
        raise ParameterError(
            f"The fractions of train, validate and test are three positive numbers that add up to 1, not {shares}."
        )
    size = 16**_SPLIT_DIGITS
    limits = (round(shares[0] * size), round((shares[0] + shares[1]) * size))
    train_below, validate_below = (f"{min(limit, size - 1):0{_SPLIT_DIGITS}x}" for limit in limits)
    return train_below, validate_below
