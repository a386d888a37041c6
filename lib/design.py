"""The design matrix with side features: fitted on the training ratings, the same wherever it is built again.

::

    design = Design(customers, videos, ["genre", "month", "rated"]).fit(train)
    X = design.transform(test)                  # CSR float32, (ratings, design.feature_dim)
    design.names[12_345], design.blocks         # what each column is; how many columns each feature has
    design.save("design")                       # a folder or an S3 URI: JSON and Parquet
    Design.load("design").transform(test)       # the same matrix, in another process

The columns are customers first, then videos, as without side features, then those of each feature in the order
in which they were asked for.  What a feature is known of, a video, a customer or the rating itself, follows from
the table that has its column.

**What else the customer rated** (``rated``) is a second set of columns for the videos: each one that the
customer has a training rating of has the value 1/√|N(u)|, N(u) being all of those (Koren 2008, SVD++; as a
Factorization Machine: Rendle 2012).  Which stars they gave is not in it.  A row's own video is left out of its
N(u), in training too: it is what *else* they rated, for with it every training row would hold a pair of columns
that no row to be predicted ever holds.  Validation and test ratings are never in it.

**Unknown customers and videos** leave their part of the row empty, so that the model falls back to the bias and
whatever else is known; that is counted and told by a warning.  Nothing raises.  The same holds for those in the
tables that have no training rating: an untrained column would bring noise, or in Gibbs sampling the mean of its
prior, which is that of the average video and not of the average rating.  Measured on videos left out of the
training (`benchmarks/features.py`): empty is best, the untrained column worse, and a column that they share with
rare videos worst, for what is rare is so for a reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib import design_blocks, design_files, identities, rated, side_features
from lib.design_blocks import Block
from lib.errors import DataError, ParameterError, did_you_mean
from lib.side_features import RATED, Categories, Feature, Number

WEIGHT = 0.1
"""What the values of side features are multiplied by unless said otherwise; `Design` says why."""

MOST_RATED = 30
"""Videos of a customer that ``rated`` uses, unless said otherwise."""

_TRAINED = "has_training_ratings"

CHUNK = 100_000
"""Rows built at a time: bounds what is held beside the result."""


class Design:
    """A design matrix to be fitted.

    Parameters
    ----------
    customers : DataFrame
        Columns ``customer`` (0-based, all of them) and ``customer_id``; others may be asked for as features.
    videos : DataFrame
        Columns ``video`` (0-based, all of them) and ``product_id``; others may be asked for as features.
    features : sequence of str
        Side features: see `lib.side_features`.
    weight : float
        What the values of all side features are multiplied by, above 0 and up to 1.  Adam's steps are of one
        length whatever the gradient, and a column such as a genre takes a step in every batch, a video's column
        seldom: with values of 1 the restless columns drown the others (see `benchmarks/features.py`).  Gibbs
        sampling needs no weight, for each block of columns has a prior of its own.
    buckets : int
        Hashed columns of each feature with categories, for rare ones and those that come later; 0: none.
    most_rated : int
        The most videos of a customer that ``rated`` uses, drawn at random: every training row of the customer
        grows by as many entries.  0: all.
    seed : int
        Of that draw.

    Raises
    ------
    ParameterError
        If a feature or a number is none.
    DataError
        If a table lacks a column, or its numbers are not 0, 1, 2 and so on.
    """

    def __init__(
        self,
        customers: pd.DataFrame,
        videos: pd.DataFrame,
        features: Sequence[str] = (),
        *,
        weight: float = WEIGHT,
        buckets: int = 0,
        most_rated: int = MOST_RATED,
        seed: int = 0,
    ) -> None:
        for name, value in (("buckets", buckets), ("most_rated", most_rated), ("seed", seed)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
                raise ParameterError(f"{name} must be a whole number from 0, not {value!r}.")
        if seed >= 2**64:
            raise ParameterError(f"seed must be below 2**64, not {seed}.")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight <= 1:
            raise ParameterError(f"weight must be a number above 0 and up to 1, not {weight!r}.")
        self.weight = float(weight)
        self.features: list[Feature] = side_features.parse(features)
        self.buckets, self.most_rated, self.seed = int(buckets), int(most_rated), int(seed)
        self._tables = {
            "customer": identities.numbered(customers, "customer", ["customer_id"]),
            "video": identities.numbered(videos, "video", ["product_id"]),
        }
        self._blocks: list[Block] = []
        self._trained: dict[str, np.ndarray] = {}  # which customers and videos have training ratings
        # By block: a row for each customer or video, and an empty one.
        self._entities: dict[str, sp.csr_matrix] = {}

    # What it is

    @property
    def feature_dim(self) -> int:
        """Number of columns."""
        return self._fitted[-1].first + self._fitted[-1].size

    @property
    def blocks(self) -> dict[str, int]:
        """Number of columns of each feature, in the order of the columns: ``customer``, ``video`` and so on."""
        return {block.name: block.size for block in self._fitted}

    @cached_property
    def names(self) -> list[str]:
        """What each column is, such as ``customer=1234``, ``genre=Drama`` or ``rated=B00A1``."""
        names: list[str] = []
        for block in self._fitted:
            if block.encoder is None:
                table = self._tables["customer" if block.name == "customer" else "video"]
                names += [f"{block.name}={text}" for text in table.iloc[:, 1]]
            else:
                names += block.encoder.names
        return names

    @property
    def columns(self) -> list[str]:
        """The columns that ratings must have beside ``customer`` and ``video``: features of the rating."""
        of_rating = [feature.column for feature in self.features if self._owner(feature) == "rating"]
        return list(dict.fromkeys(of_rating))

    @property
    def typical(self) -> dict[str, str]:
        """What most training ratings have of each feature of the rating, the median of a number."""
        of_rating = [block for block in self._fitted if block.owner == "rating"]
        return {block.name: block.encoder.typical for block in of_rating if block.encoder}

    @property
    def rated(self) -> sp.csr_matrix:
        """What each customer rated, as far as it is used: bool-like float32 (customers + 1, videos).

        Raises
        ------
        DataError
            The design is not fitted, or has no feature ``rated``.
        """
        if RATED not in {block.name for block in self._fitted}:
            raise DataError("The design has no side feature rated.")
        return self._entities[RATED]

    def describe(self) -> pd.DataFrame:
        """Return a row a feature: whose it is, of what kind, its columns and an example of their names."""
        rows = [
            {
                "feature": block.name,
                "of": "the " + block.owner,
                "kind": block.kind,
                "columns": block.size,
                "from column": block.first,
                "for example": self.names[block.first] if block.size else "",
            }
            for block in self._fitted
        ]
        return pd.DataFrame(rows).set_index("feature")

    # Fitting and building

    def fit(self, train: pd.DataFrame) -> Design:
        """Learn the columns from the training ratings, and return the design.

        Parameters
        ----------
        train : DataFrame
            Columns ``customer`` and ``video`` (0-based numbers), and those of the features of a rating.

        Raises
        ------
        DataError
            If the data have no such column, or no usable value in it.
        """
        codes = self._numbers(train)
        if min(code.min(initial=0) for code in codes.values()) < 0 or not len(train):
            raise DataError(
                "A design is fitted on ratings of customers and videos in its tables, of at least one."
            )
        encoders: dict[str, Categories | Number] = {}
        for feature in self.features:
            owner = self._owner(feature)
            if feature.kind == RATED:
                continue
            if owner == "rating":
                values, rows = self._column(train, feature), None
            else:
                table = self._tables[owner]
                values, rows = table[feature.column], np.bincount(codes[owner], minlength=len(table))
            encoders[feature.name] = side_features.fit(feature, values, rows, self.buckets)
        self._trained = {
            owner: np.bincount(code, minlength=len(self._tables[owner])) > 0 for owner, code in codes.items()
        }
        pairs = pd.DataFrame(codes)
        if any(feature.kind == RATED for feature in self.features):
            pairs = rated.draw(pairs.drop_duplicates(), self.most_rated, self.seed)
        self._build(encoders, pairs)
        return self

    def transform(self, ratings: pd.DataFrame) -> sp.csr_matrix:
        """Build the design matrix of ratings.

        Parameters
        ----------
        ratings : DataFrame
            Columns ``customer`` and ``video`` (0-based numbers, -1 for unknown ones), or else ``customer_id`` and
            ``product_id``; and those of the features of a rating (`columns`).  For unknown videos and customers
            their own features are taken from columns of that name, if there are any.

        Returns
        -------
        csr_matrix of float32 (ratings, feature_dim)
            Indices ascend in each row; values are within [-1, 1].

        Raises
        ------
        DataError
            If a column is missing or a number out of range.

        Warns
        -----
        UnknownWarning
            Of customers and videos that are not known.
        """
        codes = self._numbers(ratings)
        identities.warn_of_unknown(codes)
        return self._matrix(codes, ratings)

    def batches(self, ratings: pd.DataFrame, rows: int = CHUNK) -> Iterator[sp.csr_matrix]:
        """Yield what `transform` returns in pieces of up to ``rows`` rows, holding only one at a time."""
        if rows < 1:
            raise ParameterError(f"A batch cannot have {rows} rows.")
        codes = self._numbers(ratings)
        identities.warn_of_unknown(codes)
        for start in range(0, len(ratings), rows):
            chunk = slice(start, start + rows)
            yield self._chunk({name: code[chunk] for name, code in codes.items()}, ratings.iloc[chunk])

    def unseen(self, ratings: pd.DataFrame) -> pd.Series:
        """Count the rows that hold something which the training did not: by feature, int64.

        For ``customer``, ``video`` and ``rated``: without a column, or without any; for categories: one without a
        column of its own; for numbers: beyond the range of the training.
        """
        codes = self._numbers(ratings)
        counts = {}
        for block in self._fitted:
            if block.encoder is None:
                filled = np.append(np.diff(self._entities[block.name].indptr[:-1]) > 0, False)
                counts[block.name] = int((~filled[codes[block.owner]]).sum())
            elif block.owner == "rating":
                counts[block.name] = block.encoder.unseen(self._values(ratings, block))
            else:
                values = self._tables[block.owner][self._source(block)].iloc[codes[block.owner]]
                counts[block.name] = block.encoder.unseen(values[codes[block.owner] >= 0])
        return pd.Series(counts, dtype="int64")

    def of_videos(self) -> sp.csr_matrix:
        """Return what rows hold of each video: float32 (videos, feature_dim), its own columns and its features."""
        count = len(self._tables["video"])
        return self._matrix({"customer": np.full(count, -1), "video": np.arange(count)}, None)

    def of_customer(self, customer: int, context: Mapping[str, Any] | None = None) -> sp.csr_matrix:
        """Return what rows hold of a customer and of the rating itself: float32 (1, feature_dim).

        Parameters
        ----------
        customer : int
            The customer's number.
        context : mapping, optional
            Features of the rating by name, such as the month; what is missing is as in `typical`.

        Raises
        ------
        DataError
            There is no customer of that number.
        """
        count = len(self._tables["customer"])
        if not 0 <= customer < count:
            raise DataError(f"There is no customer {customer}: they are numbered from 0 to {count - 1}.")
        codes = {"customer": np.array([customer]), "video": np.array([-1])}
        return self._matrix(codes, self.in_context(1, context))

    def in_context(self, rows: int, context: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return a table of features of the rating, all rows alike; see `of_customer`."""
        typical = self.typical
        for name in context or {}:
            if name not in typical:
                guess = did_you_mean(name, list(typical)) or f"there are {', '.join(typical) or 'none'}."
                raise ParameterError(
                    f"The context names {name}, which is no feature of a rating.",
                    hint=guess[0].upper() + guess[1:],
                )
        sources = {feature.name: feature.column for feature in self.features}
        values = {sources[name]: value for name, value in typical.items()}
        values |= {sources[name]: value for name, value in (context or {}).items()}  # a given one wins
        return pd.DataFrame({column: [value] * rows for column, value in values.items()})

    def exactly(self, customer: int, videos: np.ndarray, context: Mapping[str, Any] | None) -> sp.csr_matrix:
        """Return the rows of one customer and some videos (numbers): float32 (videos, feature_dim)."""
        codes = {"customer": np.full(len(videos), customer), "video": np.asarray(videos)}
        return self._matrix(codes, self.in_context(len(videos), context))

    # Files

    def save(self, place: str | Path) -> str:
        """Write the fitted design to a folder or an S3 URI, and return the place.

        ``design.json`` holds the features and their columns; ``customers.parquet`` and ``videos.parquet`` the ids
        in the order of their numbers, and their features; ``rated.parquet`` who rated what, as far as it is used.
        """
        kept = {owner: [identities.IDS[owner]] for owner in self._tables}
        for block in self._fitted:
            if block.encoder is not None and block.owner in kept:
                kept[block.owner].append(self._source(block))
        tables = {
            f"{owner}s": self._tables[owner][list(dict.fromkeys(columns))].assign(
                **{_TRAINED: self._trained[owner]}
            )
            for owner, columns in kept.items()
        }
        if RATED in self._entities:
            customer, video = self.rated.nonzero()
            tables[RATED] = pd.DataFrame({"customer": customer, "video": video}, dtype=np.int32)
        state = {
            "features": [str(feature) for feature in self.features],
            "weight": self.weight,
            "buckets": self.buckets,
            "most_rated": self.most_rated,
            "seed": self.seed,
            "columns": {block.name: block.encoder.to_json() for block in self._fitted if block.encoder},
        }
        return design_files.write(place, state, tables)

    @classmethod
    def load(cls, place: str | Path) -> Design:
        """Read a design that `save` wrote.

        Raises
        ------
        DataError
            If it is no design, or not whole.
        StorageError
            If the S3 URI cannot be read.
        """
        state, tables = design_files.read(place)
        try:
            return cls._restored(state, tables)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise design_files.damaged(place) from error

    @classmethod
    def _restored(cls, state: dict[str, Any], tables: dict[str, pd.DataFrame]) -> Design:
        options = {name: state[name] for name in ("weight", "buckets", "most_rated", "seed")}
        trained = {}
        for owner in identities.IDS:
            table = tables[f"{owner}s"]
            table.insert(0, owner, np.arange(len(table), dtype=np.int32))
            trained[owner] = table.pop(_TRAINED).to_numpy()
        design = cls(tables["customers"], tables["videos"], state["features"], **options)
        design._trained = trained
        encoders = {name: side_features.from_json(columns) for name, columns in state["columns"].items()}
        design._build(
            encoders, tables.get(RATED, pd.DataFrame({"customer": [], "video": []}, dtype=np.int32))
        )
        return design

    # How it is built

    @property
    def _fitted(self) -> list[Block]:
        if not self._blocks:
            raise DataError("The design is not fitted.", hint="Call fit with the training ratings first.")
        return self._blocks

    def _build(self, encoders: Mapping[str, Categories | Number], pairs: pd.DataFrame) -> None:
        """Lay out the columns, and encode what belongs to customers and videos once for all rows."""
        sizes = {owner: len(table) for owner, table in self._tables.items()}
        self._blocks, self._entities = [], {}
        self.__dict__.pop("names", None)
        first = 0
        for owner, count in sizes.items():
            self._blocks.append(Block(owner, owner, first, count))
            self._entities[owner] = design_blocks.with_empty_row(design_blocks.identity(self._trained[owner]))
            first += count
        for feature in self.features:
            if feature.kind == RATED:
                block = Block(RATED, "customer", first, sizes["video"])
                self._entities[RATED] = rated.incidence(pairs, sizes)
            else:
                encoder = encoders[feature.name]
                block = Block(feature.name, self._owner(feature), first, encoder.size, encoder)
                if block.owner != "rating":
                    values = self._tables[block.owner][feature.column]
                    self._entities[block.name] = design_blocks.with_empty_row(encoder.encode(values))
            self._blocks.append(block)
            first += block.size

    def _matrix(self, codes: dict[str, np.ndarray], ratings: pd.DataFrame | None) -> sp.csr_matrix:
        """Build the rows of customers and videos; without ratings, what belongs to them is left empty."""
        n = len(codes["video"])
        pieces = []
        for start in range(0, n, CHUNK):
            chunk = slice(start, start + CHUNK)
            part = {name: code[chunk] for name, code in codes.items()}
            pieces.append(self._chunk(part, None if ratings is None else ratings.iloc[chunk]))
        return design_blocks.stacked(pieces, self.feature_dim)

    def _chunk(self, codes: dict[str, np.ndarray], ratings: pd.DataFrame | None) -> sp.csr_matrix:
        parts = []
        for block in self._fitted:
            if block.name == RATED:
                parts.append(rated.others(self.rated[codes["customer"]], codes["video"]))
            elif block.owner == "rating" and block.encoder is not None:
                n = len(codes["video"])
                empty = sp.csr_matrix((n, block.size), dtype=np.float32)
                parts.append(empty if ratings is None else block.encoder.encode(self._values(ratings, block)))
            else:
                code = codes[block.owner]
                part = self._entities[block.name][code]
                if block.encoder is not None and ratings is not None and (code < 0).any():
                    part = self._of_unknown(block, code, part, ratings)
                parts.append(part)
        for part in parts[2:]:
            part.data *= np.float32(self.weight)
        return sp.hstack(parts, format="csr", dtype=np.float32)

    def _of_unknown(
        self, block: Block, code: np.ndarray, part: sp.csr_matrix, ratings: pd.DataFrame
    ) -> sp.csr_matrix:
        """Add what the ratings say themselves about customers or videos that are not in the tables."""
        column = self._source(block)
        if block.encoder is None or column not in ratings:
            return part
        return part + block.encoder.encode(ratings[column].where(code < 0))

    def _numbers(self, ratings: pd.DataFrame) -> dict[str, np.ndarray]:
        return identities.numbers(ratings, self._tables)

    def _owner(self, feature: Feature) -> str:
        if feature.kind == RATED:
            return "customer"
        return next(
            (owner for owner in ("video", "customer") if feature.column in self._tables[owner]), "rating"
        )

    def _source(self, block: Block) -> str:
        return next(feature.column for feature in self.features if feature.name == block.name)

    def _values(self, ratings: pd.DataFrame, block: Block) -> pd.Series:
        return self._column(ratings, next(feature for feature in self.features if feature.name == block.name))

    def _column(self, ratings: pd.DataFrame, feature: Feature) -> pd.Series:
        if feature.column in ratings:
            return ratings[feature.column]
        ignored = {"customer", "video", "star_rating", *identities.IDS.values()}
        there = [
            str(name)
            for table in (ratings, *self._tables.values())
            for name in table.columns
            if name not in ignored
        ]
        what = f", which {feature.name} is made of" if feature.column != feature.name else ""
        guess = did_you_mean(feature.column, there)
        raise DataError(
            f"The ratings have no column {feature.column}{what}; there are {', '.join(there) or 'none'}.",
            hint=guess[:1].upper() + guess[1:],
        )
