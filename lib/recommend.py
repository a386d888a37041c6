"""What a model recommends: the top and the bottom of a customer's list, similar videos, two customers compared.

A Factorization Machine over one-hot customers and videos has few terms left for one customer u and one video i ::

    score(u, i) = w0 + w_u + w_i + ⟨v_u, v_i⟩

so all videos are scored by one product of a matrix and a vector: the nearest-neighbour search of
``(v_i, w_i)`` to ``(v_u, 1)`` that people build on SageMaker's artifact.

With side features the customer's part of a row (the customer, what else they rated, the month, …) and the video's
part (the video, its genres, …) take the places of u and i: the vectors are the sums of those of the columns,
weighted by their values, and each part brings the interactions within itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp

from lib.design import Design
from lib.errors import DataError, ModelError, ParameterError, did_you_mean
from lib.identities import numbered
from lib.side_features import RATED


class FactorizationMachine(Protocol):
    """What is needed of a model; `lib.fm.Model` is one."""

    @property
    def bias(self) -> float:
        """The constant term w0."""

    @property
    def linear(self) -> np.ndarray:
        """One weight a feature, float32, shape (d,)."""

    @property
    def factors(self) -> np.ndarray:
        """One vector a feature, float32, shape (d, k)."""

    @property
    def predictor_type(self) -> str:
        """``regressor`` or ``binary_classifier``."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two customers side by side.  Made by `Recommender.compare`.

    Attributes
    ----------
    table : DataFrame
        A row a rank, from 1; for each customer the title and the score, and whether the other's list has it too.
    shared : list of str
        Titles that stand in both lists, in the order of the first.
    correlation : float
        Of the two customers' scores over all videos considered; NaN if one of them scores all alike.
    scores : DataFrame
        A row a video; columns ``title`` and one a customer, named by the customer's id.
    """

    table: pd.DataFrame
    shared: list[str]
    correlation: float
    scores: pd.DataFrame


class Recommender:
    """Scores videos for customers.

    Parameters
    ----------
    model : FactorizationMachine
        Features are one-hot customers, then videos: d = number of customers + number of videos; with a design
        its features.
    customers : DataFrame
        Columns ``customer`` (0-based, all of them), ``customer_id``.
    videos : DataFrame
        Columns ``video`` (0-based, all of them), ``product_id``, and if there are any ``product_title`` and
        ``ratings``.
    ratings : DataFrame, optional
        What customers have rated: columns ``customer``, ``video``.
    min_ratings : int
        Leave out videos with fewer ratings: of those a model knows little.  Needs ``ratings`` in ``videos``.
    design : Design, optional
        The fitted design matrix that the model was trained on.
    context : mapping, optional
        Features of a rating by name, such as ``{"month": "2015-08"}``, that all scores are for; those that are
        missing are as in most training ratings.  Needs ``design``.

    Raises
    ------
    ModelError
        If the model has another number of features.
    DataError
        If a table lacks a column, or its numbers are not 0, 1, 2 and so on.
    ParameterError
        If the context names what is no feature of a rating.
    """

    def __init__(
        self,
        model: FactorizationMachine,
        customers: pd.DataFrame,
        videos: pd.DataFrame,
        ratings: pd.DataFrame | None = None,
        *,
        min_ratings: int = 0,
        design: Design | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        customers = numbered(customers, "customer", ["customer_id"])
        videos = numbered(videos, "video", ["product_id"])
        identities = len(customers) + len(videos)
        if design is not None and sum(list(design.blocks.values())[:2]) != identities:
            raise ModelError(
                f"The design has {' and '.join(f'{n:,} {what}s' for what, n in list(design.blocks.items())[:2])}, "
                f"but the tables have {len(customers):,} and {len(videos):,}.",
                hint="Take the design and the tables of the same run.",
            )
        expected = identities if design is None else design.feature_dim
        if len(model.linear) != expected:
            raise ModelError(
                f"The model has {len(model.linear):,} features, but there are {len(customers):,} customers "
                f"and {len(videos):,} videos"
                + (f" and {expected - identities:,} columns of side features." if design else "."),
                hint="Take the model and the tables of the same run"
                + (", and its design where it has side features." if design is None else "."),
            )
        self._customer_ids = customers["customer_id"].astype(str)
        self._product_ids = videos["product_id"].astype(str)
        self._titles = videos.get("product_title", self._product_ids)
        self._ratings = videos.get("ratings")
        self._seen = (
            None
            if ratings is None
            else ratings[["customer", "video"]].set_index("customer")["video"].sort_index()
        )
        self._considered = np.ones(len(videos), bool)
        if min_ratings > 0:
            if self._ratings is None:
                raise DataError("The table of videos has no column ratings, which min_ratings needs.")
            self._considered = self._ratings.to_numpy() >= min_ratings
            if not self._considered.any():
                raise DataError(f"No video has {min_ratings} or more ratings.", hint="Lower min_ratings.")
        self._linear, self._factors = np.asarray(model.linear), np.asarray(model.factors)
        self._bias = model.bias
        self._design = design
        self._context = dict(context or {})
        if self._design is not None:
            self._design.in_context(1, context)  # refuses a name that it does not know
            own, self._video_factors = self._terms(self._design.of_videos())
        else:
            if self._context:
                raise ParameterError("A context needs a design with features of a rating.")
            own = self._linear[len(customers) :]
            self._video_factors = self._factors[len(customers) :]
        self._video_weights = own
        self._is_classifier = model.predictor_type == "binary_classifier"

    def scores(self, customer: str | int) -> np.ndarray:
        """Return the model's prediction for one customer and every video, float32, shape (videos,).

        Parameters
        ----------
        customer : str or int
            The customer's id (text), or 0-based number.

        Raises
        ------
        DataError
            If there is no such customer.
        """
        number = self._customer(customer)
        if self._design is None:
            weight, factors = self._linear[number], self._factors[number]
        else:
            weights, vectors = self._terms(self._design.of_customer(number, self._context))
            weight, factors = weights[0], vectors[0]
        outputs = np.float32(self._bias) + weight + self._video_weights + self._video_factors @ factors
        if self._design is not None and RATED in self._design.blocks:
            # What they rated themselves is left out of what else they rated: those rows are not like the others.
            seen = self._design.rated[number].indices
            weights, _ = self._terms(self._design.exactly(number, seen, self._context))
            outputs[seen] = np.float32(self._bias) + weights
        if not self._is_classifier:
            return outputs
        small = np.exp(-np.abs(outputs))  # the logistic function, without overflow
        return np.where(outputs >= 0, 1, small) / (1 + small)

    def rows(self, customer: str | int) -> sp.csr_matrix:
        """Return the rows of one customer with every video, for an endpoint: float32 (videos, feature_dim).

        Raises
        ------
        DataError
            If there is no such customer.
        ModelError
            If the recommender was made without a design.
        """
        if self._design is None:
            raise ModelError("Rows need the design matrix.", hint="Give the Recommender its design.")
        return self._design.exactly(self._customer(customer), np.arange(len(self._titles)), self._context)

    def top(
        self,
        customer: str | int,
        n: int = 10,
        seen: Literal["exclude", "include"] = "exclude",
        scores: np.ndarray | None = None,
    ) -> pd.DataFrame:
        """Return the videos with the highest scores.

        Parameters
        ----------
        customer : str or int
            The customer's id (text), or 0-based number.
        n : int
            How many.
        seen : {"exclude", "include"}
            Whether to leave out what the customer has rated.
        scores : array, shape (videos,), optional
            What an endpoint answered to `rows`; by default the model's own `scores`.

        Returns
        -------
        DataFrame
            Indexed by ``rank`` from 1; columns ``title``, ``product_id``, ``score`` and ``ratings`` (how many
            the video has, if known).  Equal scores are in the order of the video's number.
        """
        scores = self.scores(customer) if scores is None else scores
        return self._ranked(scores, n, self._candidates(customer, seen))

    def bottom(
        self, customer: str | int, n: int = 10, seen: Literal["exclude", "include"] = "exclude"
    ) -> pd.DataFrame:
        """Return the videos with the lowest scores, the lowest first; otherwise like `top`."""
        return self._ranked(self.scores(customer), n, self._candidates(customer, seen), ascending=True)

    def similar(self, video: str | int, n: int = 10) -> pd.DataFrame:
        """Return the videos whose factors point most nearly in the same direction: liked by the same customers.

        Parameters
        ----------
        video : str or int
            The video's product id (text), or 0-based number.
        n : int
            How many.

        Returns
        -------
        DataFrame
            Like that of `top`; ``score`` is the cosine of the factors, from -1 to 1.

        Raises
        ------
        DataError
            If there is no such video.
        """
        number = _position(video, self._product_ids, "video", "product_id")
        lengths = np.linalg.norm(self._video_factors, axis=1)
        products = self._video_factors @ self._video_factors[number]
        cosines = products / np.maximum(lengths * lengths[number], np.finfo(np.float32).tiny)
        others = self._considered & (np.arange(len(cosines)) != number)
        return self._ranked(np.clip(cosines, -1, 1), n, others)

    def compare(self, customer_a: str | int, customer_b: str | int, n: int = 10) -> Comparison:
        """Compare the top videos of two customers, whether they have rated them or not.

        Parameters
        ----------
        customer_a, customer_b : str or int
            The customers' ids (text), or 0-based numbers.
        n : int
            The length of the two lists.
        """
        numbers = self._customer(customer_a), self._customer(customer_b)
        if numbers[0] == numbers[1]:
            raise DataError("A customer cannot be compared with oneself.", hint="Give two customers.")
        ids = [self._customer_ids.iloc[number] for number in numbers]
        scores = [self.scores(number) for number in numbers]
        tops = [self._ranked(score, n, self._considered) for score in scores]
        columns = {}
        for (one, top), other in zip(zip(ids, tops, strict=True), reversed(tops), strict=True):
            columns[one] = top[["title", "score"]].assign(shared=top["product_id"].isin(other["product_id"]))
        both = tops[0]["product_id"].isin(tops[1]["product_id"])
        considered = [score[self._considered] for score in scores]
        varied = all(np.ptp(score) > 0 for score in considered)
        return Comparison(
            table=pd.concat(columns, axis=1),
            shared=list(tops[0]["title"][both]),
            correlation=float(np.corrcoef(considered)[0, 1]) if varied else float("nan"),
            scores=pd.DataFrame(
                {"title": self._titles[self._considered], **dict(zip(ids, considered, strict=True))}
            ).reset_index(drop=True),
        )

    def _terms(self, X: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return of each row what it brings by itself, float32 (n,), and the sum of its vectors (n, k).

        By itself: ``Σ_i w_i x_i + ½ Σ_f [(Σ_i v_if x_i)² − Σ_i v_if² x_i²]``.
        """
        sums = X @ self._factors
        squares = X.multiply(X).tocsr() @ np.einsum("if,if->i", self._factors, self._factors)
        own = X @ self._linear + np.float32(0.5) * (np.einsum("if,if->i", sums, sums) - squares)
        return own.astype(np.float32), sums

    def _customer(self, customer: str | int) -> int:
        return _position(customer, self._customer_ids, "customer", "customer_id")

    def _candidates(self, customer: str | int, seen: str) -> np.ndarray:
        if seen not in ("exclude", "include"):
            raise ParameterError(f"seen is exclude or include, not {seen!r}.")
        number = self._customer(customer)
        if seen == "include" or self._seen is None or number not in self._seen.index:
            return self._considered
        candidates = self._considered.copy()
        candidates[self._seen.loc[[number]].to_numpy()] = False
        return candidates

    def _ranked(
        self, scores: np.ndarray, n: int, candidates: np.ndarray, ascending: bool = False
    ) -> pd.DataFrame:
        if n < 1:
            raise ParameterError(f"A list has at least one video, not {n}.")
        numbers = np.flatnonzero(candidates)
        order = np.argsort(scores[numbers] if ascending else -scores[numbers], kind="stable")[:n]
        chosen = numbers[order]
        frame = pd.DataFrame(
            {
                "title": self._titles.to_numpy()[chosen],
                "product_id": self._product_ids.to_numpy()[chosen],
                "score": scores[chosen],
            },
            index=pd.RangeIndex(1, len(chosen) + 1, name="rank"),
        )
        return frame if self._ratings is None else frame.assign(ratings=self._ratings.to_numpy()[chosen])


def _position(wanted: str | int, ids: pd.Series, what: str, column: str) -> int:
    """Return the 0-based number of a customer or a video given by number or id."""
    if isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool):
        if 0 <= wanted < len(ids):
            return int(wanted)
        raise DataError(
            f"There is no {what} number {wanted}: the {len(ids):,} {what}s are numbered from 0.",
            hint=f"Give a {column} as text.",
        )
    found = np.flatnonzero((ids == wanted).to_numpy())
    if len(found):
        return int(found[0])
    guess = did_you_mean(str(wanted), ids.head(100_000).tolist())
    raise DataError(
        f"There is no {what} with the {column} {wanted!r} among the {len(ids):,} that were kept.",
        hint=guess[:1].upper() + guess[1:] if guess else f"Known are {', '.join(ids.head(3))} and so on.",
    )
