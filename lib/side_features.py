"""What is known of a rating beyond who and what: how a column of a table becomes columns of the design matrix.

A side feature is asked for by name, ``name`` or ``name:kind``:

==============  ========================================================================================
``month``       the month of ``review_date``, one column a month (2014-03)
``rated``       what else the customer rated (see `lib.design`)
``COLUMN``      any column of the data, of the kind that its values look like
==============  ========================================================================================

==============  ========================================================================================
kind            columns of the design matrix
==============  ========================================================================================
``category``    one for each value: 1 in the value's column
``categories``  one for each value; a row may have several, parted by a comma or a bar (Drama, Comedy)
``number``      one: the number, scaled to [-1, 1]
``log``         one: the logarithm of 1 + the number, scaled to [-1, 1]; for counts with a long tail
==============  ========================================================================================

Values stay within [-1, 1], which Factorization Machines need to learn well.  Of n categories in one row each
has the value 1/√n, as SVD++ weighs the items of a customer (Koren 2008, Factorization Meets the Neighborhood):
the row's part then has the length 1, like a single category's, and so one learning rate and one prior serve
rows with few and with many values.  With 1/n, rows with many would hardly move.

Categories that come later than the training have no column, and leave their part of the row empty: the model
falls back to what else it knows.  With ``buckets`` they share some more columns instead, chosen by a hash
(feature hashing, Weinberger et al. 2009).  Categories that are too rare for a column of their own are sent
there too, so that these columns learn: what is rare stands for what is new.  The hash has no sign, for a new
category should meet what the rare ones have in common, not that times a random sign.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.errors import DataError, ParameterError, did_you_mean

KINDS = ("category", "categories", "number", "log")
MONTH, RATED = "month", "rated"
DATE_COLUMN = "review_date"
SEPARATORS = re.compile(r"\s*[,|]\s*")

RARE = 5
"""Categories with fewer training rows share the hashed columns, where there are any."""

OUTLIERS = 0.01
"""Share of the training rows at each end whose numbers are clipped to -1 and 1."""

_NESTED = (list, tuple, dict, set, np.ndarray)  # what a cell of a table may hold and a feature may not
_WHOLE = re.compile(r"-?\d+\.0")
_ISO_MONTH = re.compile(r"((?:1[89]|2[01])\d\d)-?(0[1-9]|1[0-2])(?:\D.*|-?\d\d.*|$)", re.DOTALL)
_SECONDS = re.compile(r"-?\d{9,10}(\.\d*)?")
_MILLISECONDS = re.compile(r"-?\d{12,13}(\.\d*)?")

_NOT_FEATURES = {
    "star_rating": "is what is to be predicted",
    "customer": "is in the design matrix anyway",
    "customer_id": "is in the design matrix anyway",
    "video": "is in the design matrix anyway",
    "product_id": "is in the design matrix anyway",
}


@dataclass(frozen=True)
class Feature:
    """A side feature as it was asked for.  Made by `parse`.

    Attributes
    ----------
    name : str
        ``month``, ``rated`` or the column's name.
    column : str
        Where its values stand; empty for ``rated``.
    kind : str
        One of `KINDS`, ``month`` or ``rated``; empty: what the values look like.
    """

    name: str
    column: str
    kind: str

    def __str__(self) -> str:
        return self.name if self.kind in ("", MONTH, RATED) else f"{self.name}:{self.kind}"


def parse(features: Sequence[str]) -> list[Feature]:
    """Read the names of side features.

    Parameters
    ----------
    features : sequence of str
        ``name`` or ``name:kind``, each name once.

    Raises
    ------
    ParameterError
        If it is no list of names, a kind is not known, a name is there twice or cannot be a feature.
    """
    if not isinstance(features, (list, tuple)) or not all(
        isinstance(text, str) and text.partition(":")[0].strip() for text in features
    ):
        raise ParameterError(
            f"Side features are a list of names, not {features!r}.", hint="Write them like [month, rated]."
        )
    parsed: list[Feature] = []
    for text in features:
        name, colon, kind = (part.strip() for part in text.partition(":"))
        if colon and (kind not in KINDS or name in (MONTH, RATED)):
            guess = did_you_mean(kind, list(KINDS))
            raise ParameterError(
                f"The side feature {text} is of no known kind."
                if name not in (MONTH, RATED)
                else f"The side feature {name} has no kind to choose.",
                hint=guess[:1].upper() + guess[1:] if guess else f"The kinds are {', '.join(KINDS)}.",
            )
        if name in _NOT_FEATURES:
            raise ParameterError(f"{name} cannot be a side feature: it {_NOT_FEATURES[name]}.")
        if name in {feature.name for feature in parsed}:
            raise ParameterError(f"The side feature {name} is asked for twice.", hint="Name it once.")
        column = {MONTH: DATE_COLUMN, RATED: ""}.get(name, name)
        parsed.append(Feature(name, column, name if name in (MONTH, RATED) else kind))
    return parsed


def columns(features: Sequence[str]) -> list[str]:
    """Return the columns that side features are made of, each once.

    Raises
    ------
    ParameterError
        As `parse`.
    """
    return list(dict.fromkeys(feature.column for feature in parse(features) if feature.column))


def look(values: pd.Series) -> str:
    """Return the kind that values look like: ``number``, ``categories`` or ``category``.

    Numbers are numbers (truth values are not), text with a comma or a bar in it is several categories.
    """
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
        return "category"
    known = pd.Series(values.dropna().unique())
    known = known[known.astype(str).str.strip() != ""]
    if len(known) and pd.to_numeric(known, errors="coerce").notna().all():
        return "number"
    return "categories" if known.astype(str).str.contains("[,|]").any() else "category"


def fit(
    feature: Feature, values: pd.Series, rows: np.ndarray | None = None, buckets: int = 0
) -> Categories | Number:
    """Learn from the training data which columns a feature has.

    Parameters
    ----------
    feature : Feature
        Any but ``rated``.
    values : Series (n,)
        Its values.
    rows : int array (n,), optional
        How many training rows have each; by default one.  Those of none do not count.
    buckets : int
        Hashed columns for rare and later categories.

    Returns
    -------
    Categories or Number

    Raises
    ------
    DataError
        If no training row has a usable value.
    """
    rows = np.ones(len(values), np.int64) if rows is None else np.asarray(rows)
    values = values.reset_index(drop=True)[rows > 0]
    rows = rows[rows > 0]
    if values.dtype == object and (nested := values.map(lambda value: isinstance(value, _NESTED))).any():
        raise DataError(
            f"The column {feature.column} holds {type(values[nested].iloc[0]).__name__}s, not one value a row.",
            hint="Write several categories as text, such as Drama, Comedy.",
        )
    kind = feature.kind or look(values)
    if kind in ("number", "log"):
        return Number.fit(feature.name, values, rows, logarithmic=kind == "log")
    return Categories.fit(feature.name, kind, values, rows, buckets)


@dataclass(frozen=True)
class Categories:
    """Columns of a feature with categories; a row has none, one or several.

    Attributes
    ----------
    name : str
        The feature's.
    kind : {"category", "categories", "month"}
    known : list of str
        The categories with a column of their own, in the order of the columns.
    buckets : int
        Hashed columns, behind those.
    typical : str
        The value that most training rows have.
    """

    name: str
    kind: str
    known: list[str]
    buckets: int
    typical: str
    _column: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_column", {category: n for n, category in enumerate(self.known)})

    @classmethod
    def fit(cls, name: str, kind: str, values: pd.Series, rows: np.ndarray, buckets: int) -> Categories:
        """Learn the categories; see `lib.side_features.fit`."""
        codes, distinct = pd.factorize(values)
        there = codes >= 0
        times = np.bincount(codes[there], rows[there], minlength=len(distinct))
        counts: dict[str, float] = {}
        for value, count in zip(distinct, times.tolist(), strict=True):
            for category in _split(value, kind):
                counts[category] = counts.get(category, 0) + count
        if not counts:
            column = DATE_COLUMN if kind == MONTH else name
            what = "usable date" if kind == MONTH else "value"
            raise DataError(f"No training row has a {what} in the column {column}.")
        least = RARE if buckets else 1
        known = sorted(category for category, count in counts.items() if count >= least)
        ordered = (_split(distinct[n], kind) for n in np.argsort(-times, kind="stable"))
        typical = ", ".join(next(categories for categories in ordered if categories))
        return cls(name, kind, known, buckets, typical)

    @property
    def size(self) -> int:
        """Number of columns."""
        return len(self.known) + self.buckets

    @property
    def names(self) -> list[str]:
        """Of the columns, such as ``genre=Drama``."""
        hashed = [f"{self.name}: others, {bucket}" for bucket in range(self.buckets)]
        return [f"{self.name}={category}" for category in self.known] + hashed

    def encode(self, values: pd.Series) -> sp.csr_matrix:
        """Return the values' columns, float32 (n, size): n categories have the value 1/√n each."""
        codes, distinct = pd.factorize(values)
        found = [self._columns(_split(value, self.kind)) for value in distinct] + [[]]
        counts = np.array([len(columns) for columns in found])
        indptr = np.concatenate([[0], counts.cumsum()])
        indices = np.array([column for columns in found for column in columns], np.int32)
        data = (1 / np.sqrt(np.repeat(counts, counts))).astype(np.float32)
        table = sp.csr_matrix((data, indices, indptr), shape=(len(found), self.size))
        return table[codes]  # a missing value has the code -1, which is the last, empty row

    def unseen(self, values: pd.Series) -> int:
        """Return how many of the values hold a category without a column of its own."""
        codes, distinct = pd.factorize(values)
        strange = [any(text not in self._column for text in _split(value, self.kind)) for value in distinct]
        return int(np.array([*strange, False])[codes].sum())

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {key: getattr(self, key) for key in ("name", "kind", "known", "buckets", "typical")}

    def _columns(self, categories: list[str]) -> list[int]:
        """Return the columns of a row's categories, ascending, each once."""
        found = set()
        for category in categories:
            if category in self._column:
                found.add(self._column[category])
            elif self.buckets:
                found.add(len(self.known) + bucket(category, self.buckets))
        return sorted(found)


@dataclass(frozen=True)
class Number:
    """The column of a number.

    Attributes
    ----------
    name : str
        The feature's.
    low, high : float
        What becomes -1 and 1; beyond it is clipped.
    logarithmic : bool
        Whether they are of log(1 + number).
    typical : str
        The median number.
    """

    name: str
    low: float
    high: float
    logarithmic: bool
    typical: str
    size: int = 1

    @classmethod
    def fit(cls, name: str, values: pd.Series, rows: np.ndarray, logarithmic: bool) -> Number:
        """Learn the range; see `lib.side_features.fit`."""
        numbers = _numbers(values, logarithmic, name)
        there = np.isfinite(numbers)
        if not there.any():
            raise DataError(f"No training row has a number in the column {name}.")
        order = np.argsort(numbers[there], kind="stable")
        ordered, weight = numbers[there][order], rows[there][order].cumsum()
        low, median, high = (
            float(ordered[np.searchsorted(weight, share * weight[-1])])
            for share in (OUTLIERS, 0.5, 1 - OUTLIERS)
        )
        return cls(name, low, high, logarithmic, repr(float(np.expm1(median)) if logarithmic else median))

    @property
    def names(self) -> list[str]:
        """Of the column."""
        return [f"log(1 + {self.name})" if self.logarithmic else self.name]

    def encode(self, values: pd.Series) -> sp.csr_matrix:
        """Return the scaled numbers, float32 (n, 1); what is no number has no entry."""
        numbers = _numbers(values, self.logarithmic, self.name)
        width = self.high - self.low
        scaled = (2 * (numbers - self.low) / width - 1).clip(-1, 1) if width > 0 else 0 * numbers
        filled = np.isfinite(scaled) & (scaled != 0)
        indptr = np.concatenate([[0], filled.cumsum()])
        data = scaled[filled].astype(np.float32)
        return sp.csr_matrix((data, np.zeros(len(data), np.int32), indptr), shape=(len(values), 1))

    def unseen(self, values: pd.Series) -> int:
        """Return how many of the values are beyond the range of the training."""
        numbers = _numbers(values, self.logarithmic, self.name)
        return int(((numbers < self.low) | (numbers > self.high)).sum())

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {key: getattr(self, key) for key in ("name", "low", "high", "logarithmic", "typical")}


def from_json(state: dict[str, Any]) -> Categories | Number:
    """Return the columns of a feature as `Categories.to_json` or `Number.to_json` wrote them."""
    return Categories(**state) if "known" in state else Number(**state)


def bucket(text: str, buckets: int) -> int:
    """Return the hashed column of a category, from 0: the same in any process and on any machine."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % buckets


def _split(value: Any, kind: str) -> list[str]:
    """Return a value's categories, each once; none of an empty value."""
    if kind == MONTH:
        month = _month(value)
        return [month] if month else []
    text = str(value).strip()
    parts = SEPARATORS.split(text) if kind == "categories" else [text]
    # A column with gaps turns whole numbers into floats, and Parquet's floats are cast to text as 7.0.
    parts = [part[:-2] if _WHOLE.fullmatch(part) else part for part in parts]
    return list(dict.fromkeys(part for part in parts if part))


def _month(value: Any) -> str:
    """Return the month of ISO 8601 text, or of seconds or milliseconds since 1970, as 2014-03; empty if it is none.

    Seconds have 9 or 10 digits and milliseconds 12 or 13, as in `lib.tables`.
    """
    text = str(value).strip()
    if _SECONDS.fullmatch(text) or _MILLISECONDS.fullmatch(text):
        seconds = float(text) / (1000 if _MILLISECONDS.fullmatch(text) else 1)
        return (datetime(1970, 1, 1) + timedelta(seconds=seconds)).strftime("%Y-%m")
    found = _ISO_MONTH.fullmatch(text)
    return f"{found[1]}-{found[2]}" if found else ""


def _numbers(values: pd.Series, logarithmic: bool, name: str) -> np.ndarray:
    """Return values as float64 (n,), NaN where they are no number; of log(1 + value) if wanted."""
    if pd.api.types.is_datetime64_any_dtype(values):
        raise DataError(f"The column {name} holds dates, not numbers.", hint=f"Ask for {name}:category.")
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    if not logarithmic:
        return numbers
    if (numbers < 0).any():
        raise DataError(
            f"The column {name} holds {np.nanmin(numbers):g}, which has no place on a logarithmic scale.",
            hint=f"Ask for {name}:number.",
        )
    logarithms: np.ndarray = np.log1p(numbers)
    return logarithms
