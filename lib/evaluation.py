"""How good predictions are, and how good they would have to be: errors, baselines, ranking, calibration.

Every function takes numpy arrays or pandas columns, a number for each test row, in the rows' order.  Tables of
rows (``test``, ``train``, ``validate``) have the columns ``customer``, ``video`` (0-based) and ``star_rating``.
Ratings may be on any scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.errors import DataError, ParameterError, did_you_mean

DAMPINGS = (1.0, 3.0, 7.0, 15.0, 30.0)
"""What `BiasBaseline.fit_best` tries."""

EDGES = (0, 1, 3, 6, 11, 21, 51, 101)
"""Where the groups of `by_number_of_ratings` begin."""


def errors(y: Any, prediction: Any) -> pd.Series:
    """Return ``mse``, ``rmse`` (root of the mean squared error) and ``mae`` (mean absolute error).

    Parameters
    ----------
    y, prediction : array, shape (n,)
        The ratings and what was predicted; one number as prediction stands for every row.

    Raises
    ------
    DataError
        If the lengths differ, there is nothing, or a value is not a finite number.
    """
    y, prediction = _aligned(y, prediction)
    difference = prediction - y
    mse = float(np.mean(difference**2))
    return pd.Series({"mse": mse, "rmse": math.sqrt(mse), "mae": float(np.mean(np.abs(difference)))})


def naive_mean(train: pd.DataFrame) -> float:
    """Return the mean training rating: the prediction of one who knows neither customer nor video."""
    return float(np.mean(_numbers(_column(train, "star_rating"), "star_rating of the training rows")))


def clip(prediction: Any, low: float, high: float) -> np.ndarray:
    """Return predictions moved into the range of the training ratings (float64, shape (n,)).

    No rating lies outside the range, so this can only lower the error.

    Raises
    ------
    DataError
        If a prediction is not a finite number, or ``low`` is above ``high``.
    """
    if not low <= high:
        raise DataError(
            f"Predictions cannot be clipped to {low} … {high}.", hint="Give the lower limit first."
        )
    return np.clip(_numbers(prediction, "predictions"), low, high)


class BiasBaseline:
    """The rating one expects of a generous customer or a popular video, no taste involved.

    ``prediction = μ + b_customer + b_video`` with μ the mean training rating and biases that minimise

    ``Σ (rating − prediction)² + λ_c Σ b_customer² + λ_v Σ b_video²``

    by alternating least squares: with the one side fixed the other has the closed form ::

        b_video    = Σ_its_ratings    (rating − μ − b_customer) / (λ_v + number of its ratings)
        b_customer = Σ_their_ratings  (rating − μ − b_video)    / (λ_c + number of their ratings)

    so λ is the number of average ratings that each begins with.  Source: Koren, "Factor in the Neighbors",
    ACM TKDD 4(1), 2010, section 2.1.

    Parameters
    ----------
    customer_damping, video_damping : float
        λ_c and λ_v, in ratings, 0 or more.

    Attributes
    ----------
    mean : float
        μ.
    customer_bias, video_bias : float64 array
        The biases, in units of the rating; 0 where there is no training rating.
    validation_rmse : float
        After `fit_best`: the error on the validation rows; else NaN.
    """

    def __init__(self, customer_damping: float = 7.0, video_damping: float = 7.0) -> None:
        for name, value in (("customer_damping", customer_damping), ("video_damping", video_damping)):
            if not (math.isfinite(value) and value >= 0):
                raise ParameterError(f"{name} must be a number of ratings from 0, not {value!r}.")
        self.customer_damping = customer_damping
        self.video_damping = video_damping
        self.mean = math.nan
        self.customer_bias = np.zeros(0)
        self.video_bias = np.zeros(0)
        self.validation_rmse = math.nan

    def __repr__(self) -> str:
        return (
            f"BiasBaseline(customer_damping={self.customer_damping:g}, video_damping={self.video_damping:g})"
        )

    def fit(
        self,
        customer: Any,
        video: Any,
        rating: Any,
        customers: int | None = None,
        videos: int | None = None,
        *,
        sweeps: int = 50,
        tolerance: float = 1e-4,
        start: np.ndarray | None = None,
    ) -> BiasBaseline:
        """Learn the biases and return the baseline itself.

        Parameters
        ----------
        customer, video : integer array, shape (n,)
            0-based.
        rating : array, shape (n,)
            The training ratings.
        customers, videos : int, optional
            How many there are; by default as many as appear.
        sweeps : int
            The most alternations.
        tolerance : float
            Stop when no bias moves by more than this share of the ratings' standard deviation.
        start : float64 array, shape (customers,), optional
            Customer biases to begin with; by default 0.

        Raises
        ------
        DataError
            If lengths differ, there is nothing, a number is not finite, or an index is negative or too large.
        """
        rating = _numbers(rating, "ratings")
        customer = _indices(customer, "customer", len(rating), customers)
        video = _indices(video, "video", len(rating), videos)
        customer_count = np.bincount(customer, minlength=customers or 0)
        video_count = np.bincount(video, minlength=videos or 0)
        self.mean = float(rating.mean())
        centred = rating - self.mean
        # 0 / 0 for whom there is nothing and no damping: their bias is 0.
        customer_weight = 1 / np.maximum(customer_count + self.customer_damping, 1e-12)
        video_weight = 1 / np.maximum(video_count + self.video_damping, 1e-12)
        self.customer_bias = np.zeros(len(customer_count)) if start is None else start
        enough = tolerance * (centred.std() or 1.0)
        for _ in range(sweeps):
            before = self.customer_bias
            rest = centred - before[customer]
            self.video_bias = np.bincount(video, rest, len(video_count)) * video_weight
            rest = centred - self.video_bias[video]
            self.customer_bias = np.bincount(customer, rest, len(customer_count)) * customer_weight
            if np.abs(self.customer_bias - before).max() <= enough:
                break
        return self

    @classmethod
    def fit_best(
        cls,
        train: pd.DataFrame,
        validate: pd.DataFrame,
        customers: int | None = None,
        videos: int | None = None,
        dampings: Sequence[float] = DAMPINGS,
    ) -> BiasBaseline:
        """Return the baseline whose dampings serve the validation rows best: an honest opponent.

        Parameters
        ----------
        train, validate : DataFrame
            Columns customer, video, star_rating.
        customers, videos : int, optional
            How many there are.
        dampings : sequence of float
            Tried for customers and videos, every pair.
        """
        names = ("customer", "video", "star_rating")
        train_customer, train_video, train_rating = (_column(train, name) for name in names)
        customer, video, rating = (_column(validate, name) for name in names)
        best: BiasBaseline | None = None
        start = None
        for video_damping in dampings:
            for customer_damping in dampings:
                candidate = cls(customer_damping, video_damping)
                candidate.fit(train_customer, train_video, train_rating, customers, videos, start=start)
                start = candidate.customer_bias  # near the next one's answer: few sweeps are left
                candidate.validation_rmse = errors(rating, candidate.predict(customer, video))["rmse"]
                if best is None or candidate.validation_rmse < best.validation_rmse:
                    best = candidate
        if best is None:
            raise ParameterError("There is no damping to try.", hint="Give at least one.")
        return best

    def predict(self, customer: Any, video: Any) -> np.ndarray:
        """Return the predicted ratings, float64, shape (n,); one never seen in training has bias 0.

        Raises
        ------
        DataError
            If it is not fitted, the lengths differ, or an index is negative.
        """
        if math.isnan(self.mean):
            raise DataError("The baseline knows no ratings yet.", hint="Call fit first.")
        customer = _indices(customer, "customer", None, None)
        video = _indices(video, "video", len(customer), None)
        return self.mean + _looked_up(self.customer_bias, customer) + _looked_up(self.video_bias, video)


def compare(test: pd.DataFrame, predictions: Mapping[str, Any], at: int = 10) -> pd.DataFrame:
    """Return the errors of several predictions of the same rows.

    Parameters
    ----------
    test : DataFrame
        Columns customer, star_rating.
    predictions : dict of str to array of shape (n,), or one number
        By name; a number stands for every row.
    at : int
        The length of list that ``ndcg`` looks at.

    Returns
    -------
    DataFrame
        A row a name, in the order given; columns ``rmse``, ``mse``, ``mae`` and ``ndcg@10``.
    """
    y = _column(test, "star_rating")
    rows = {}
    for name, prediction in predictions.items():
        try:
            rows[name] = {**errors(y, prediction), f"ndcg@{at}": ndcg(test, prediction, at)}
        except DataError as error:
            raise DataError(f"{name}: {error.message}", hint=error.hint) from error
    return pd.DataFrame.from_dict(rows, orient="index")[["rmse", "mse", "mae", f"ndcg@{at}"]]


def by_number_of_ratings(
    test: pd.DataFrame,
    predictions: Mapping[str, Any],
    counted: pd.DataFrame,
    edges: Sequence[int] = EDGES,
) -> pd.DataFrame:
    """Return the RMSE of test rows by how many training ratings their customer, or video, has.

    Parameters
    ----------
    test : DataFrame
        Columns customer or video, and star_rating.
    predictions : dict of str to array of shape (n,), or one number
        By name.
    counted : DataFrame
        The table of customers or that of videos: column ``customer`` or ``video``, and ``train_ratings``.
    edges : sequence of int
        The least number of ratings of each group, ascending.

    Returns
    -------
    DataFrame
        Indexed by ``ratings per customer`` (or video), such as ``3 – 5``; column ``test ratings``, and the RMSE of
        each prediction.  Groups without a test row are left out.
    """
    kind = next((name for name in ("customer", "video") if name in counted.columns), None)
    if kind is None:
        raise DataError("A table with a column customer or video is needed to count ratings.")
    if not len(edges) or list(edges) != sorted(set(edges)):
        raise ParameterError(f"The edges must be ascending, not {list(edges)}.")
    train_ratings = counted.set_index(kind)["train_ratings"].reindex(_column(test, kind))
    if train_ratings.isna().any():
        raise DataError(f"A {kind} of the test rows is missing in the table of {kind}s.")
    y = _numbers(_column(test, "star_rating"), "star_rating")
    squares = {name: np.square(np.subtract(*_aligned(y, values))) for name, values in predictions.items()}
    group = np.searchsorted(edges, train_ratings.to_numpy(), side="right") - 1
    frame = pd.DataFrame({"test ratings": np.ones(len(y), np.int64), **squares})[group >= 0]
    groups = frame.groupby(group[group >= 0])
    table = groups[list(squares)].mean().pow(0.5)
    table.insert(0, "test ratings", groups["test ratings"].sum())
    ends = [*(following - 1 for following in edges[1:]), None]
    labels = [_range(low, high) for low, high in zip(edges, ends, strict=True)]
    table.index = pd.Index([labels[number] for number in table.index], name=f"ratings per {kind}")
    return table


def calibration(y: Any, prediction: Any, bins: int = 10) -> pd.DataFrame:
    """Return what was given where what was predicted, in groups of about equally many ratings.

    Parameters
    ----------
    y, prediction : array, shape (n,)
        The ratings and what was predicted.
    bins : int
        How many groups; equal predictions are never parted, so there may be fewer.

    Returns
    -------
    DataFrame
        A row a group, ascending; columns ``predicted`` and ``given`` (means), ``standard error`` of ``given``
        (NaN for one rating) and ``ratings``.
    """
    y, prediction = _aligned(y, prediction)
    if bins < 1:
        raise ParameterError(f"Calibration needs at least one group, not {bins}.")
    inner_edges = np.unique(np.quantile(prediction, np.arange(1, bins) / bins)) if bins > 1 else np.zeros(0)
    group = np.searchsorted(inner_edges, prediction, side="left")
    groups = pd.DataFrame({"predicted": prediction, "given": y}).groupby(group)
    table = groups.mean()
    table["standard error"] = groups["given"].sem()
    table["ratings"] = groups.size()
    return table.reset_index(drop=True)


def ndcg(test: pd.DataFrame, prediction: Any, at: int = 10) -> float:
    """Return how well predictions order each customer's test videos: 1 is perfect.

    Of each customer, the videos are put in order of prediction; ``DCG = Σ_place gain / log2(place + 1)`` over
    the first ``at`` places, counted from 1, and nDCG is its share of the DCG of the best order (Järvelin and
    Kekäläinen, ACM TOIS 20(4), 2002).  The gain is the rating less the lowest rating of all test rows.  Equal
    predictions share the mean gain of their places, as if ordered at random many times (McSherry and Najork,
    ECIR 2008), so that a constant prediction is judged fairly.  The mean is over customers with test ratings of
    at least two different values: the others' videos cannot be put in a wrong order.

    Parameters
    ----------
    test : DataFrame
        Columns customer, star_rating.
    prediction : array, shape (n,), or one number
        What was predicted.
    at : int
        The length of the list.

    Returns
    -------
    float
        NaN if there is no such customer.
    """
    if at < 1:
        raise ParameterError(f"nDCG needs a list of at least one place, not {at}.")
    y, prediction = _aligned(_column(test, "star_rating"), prediction)
    customer = np.unique(_indices(_column(test, "customer"), "customer", len(y), None), return_inverse=True)[
        1
    ]
    gain = y - y.min()
    count = np.bincount(customer)
    first_place = np.concatenate([[0], np.cumsum(count)[:-1]])
    place = np.arange(len(y)) - np.repeat(first_place, count)  # within a customer's list, from 0
    discount = np.where(place < at, 1 / np.log2(place + 2), 0)

    best_order = np.lexsort((-gain, customer))
    best = np.bincount(customer[best_order], gain[best_order] * discount)
    order = np.lexsort((-prediction, customer))
    begins_tie = np.ones(len(y), bool)
    begins_tie[1:] = (np.diff(customer[order]) != 0) | (np.diff(prediction[order]) != 0)
    tie = np.cumsum(begins_tie) - 1
    mean_gain = np.bincount(tie, gain[order]) / np.bincount(tie)
    reached = np.bincount(customer[order], mean_gain[tie] * discount)

    lowest, highest = np.full(len(count), np.inf), np.full(len(count), -np.inf)
    np.minimum.at(lowest, customer, y)
    np.maximum.at(highest, customer, y)
    judged = highest > lowest
    return float(np.mean(reached[judged] / best[judged])) if judged.any() else math.nan


def accepted(rmse: float, baseline_rmse: float, margin: float = 0.0) -> bool:
    """Tell whether a model is better than the baseline by a margin: the quality gate.

    Parameters
    ----------
    rmse, baseline_rmse : float
        The errors of the model and of the baseline.
    margin : float
        By which share of the baseline's error the model's must be lower: 0.01 is one per cent.

    Raises
    ------
    DataError
        If an error is not a finite number.
    ParameterError
        If the margin is not from 0 to below 1.
    """
    if not 0 <= margin < 1:
        raise ParameterError(f"The margin is a share from 0 to below 1, not {margin!r}.")
    for name, value in (("rmse", rmse), ("baseline_rmse", baseline_rmse)):
        if not math.isfinite(value):
            raise DataError(f"The {name} is {value!r}, not a finite number.")
    return bool(rmse < baseline_rmse * (1 - margin))


def _numbers(values: Any, what: str) -> np.ndarray:
    """Return finite float64 numbers, shape (n,), at least one."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"The {what} are not all numbers.") from error
    if array.ndim != 1:
        raise DataError(f"The {what} must be one number a row, not of shape {array.shape}.")
    if not len(array):
        raise DataError(f"There are no {what}.")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise DataError(f"{bad:,} of {len(array):,} {what} are not finite numbers.")
    return array


def _aligned(y: Any, prediction: Any) -> tuple[np.ndarray, np.ndarray]:
    y = _numbers(y, "ratings")
    prediction = np.full(len(y), prediction) if np.ndim(prediction) == 0 else prediction
    prediction = _numbers(prediction, "predictions")
    if len(y) != len(prediction):
        raise DataError(
            f"There are {len(y):,} ratings but {len(prediction):,} predictions.",
            hint="Are all parts of the predictions there, and of the same run?",
        )
    return y, prediction


def _indices(values: Any, what: str, length: int | None, size: int | None) -> np.ndarray:
    """Return 0-based integers, shape (n,), checked against a length and a size."""
    array = np.asarray(values)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"The column {what} must hold whole numbers, one a row.")
    if length is not None and len(array) != length:
        raise DataError(f"There are {length:,} ratings but {len(array):,} values of {what}.")
    if len(array) and (array.min() < 0 or (size is not None and array.max() >= size)):
        limit = "up" if size is None else f"to {size - 1}"
        raise DataError(f"The column {what} must hold numbers from 0 {limit}.")
    return array


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame.columns:
        known = [str(column) for column in frame.columns]
        hint = did_you_mean(name, known)
        raise DataError(
            f"The table has no column {name}; it has {', '.join(known)}.", hint=hint[:1].upper() + hint[1:]
        )
    return frame[name]


def _looked_up(bias: np.ndarray, index: np.ndarray) -> np.ndarray:
    known = index < len(bias)
    return np.where(known, bias[np.where(known, index, 0)], 0.0)


def _range(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} or more"
    return str(low) if low == high else f"{low} – {high}"
