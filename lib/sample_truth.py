"""The truth behind the generated reviews: which rating every customer would give every video.

`lib.samples` draws the ratings of its file from the model here.  A customer c and a video v have biases and
hidden factors, all normally distributed.  What c thinks of v is ::

    opinion(c, v) = MEAN + bias(c) + bias(v) + Σ_f taste(c, f) · trait(v, f)

and the rating is ``opinion + NOISE · z``, z standard normal, rounded and clipped to 1 … 5.  Half of what a
video is like comes from its genre.

Every random number is a hash of (seed, purpose, index) and not the state of a generator.  So nothing depends
on the order in which things are made, and the truth about any row can be told without a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np
import pandas as pd

from lib import sample_text
from lib.errors import DataError, ParameterError

MEAN = 4.0
CUSTOMER_BIAS = 0.5
VIDEO_BIAS = 0.5
FACTOR_STRENGTHS = (1.1, 0.5, 0.3, 0.2, 0.15, 0.1, 0.1, 0.1)
NOISE = 1.1
"""Standard deviations in stars; few of the factors are strong, as in real ratings."""

GENRE_SHARE = 0.5
"""Share of the variance of a video's traits that comes from its genre."""


class Purpose(IntEnum):
    """What a random number is for; each purpose has numbers of its own."""

    CUSTOMER_BIAS = auto()
    VIDEO_BIAS = auto()
    TASTE = auto()
    TRAIT = auto()
    GENRE = auto()
    GENRE_TRAIT = auto()
    CUSTOMER_RANK = auto()
    VIDEO_RANK = auto()
    GENRE_WANTED = auto()
    CUSTOMER_SLOT = auto()
    VIDEO_SLOT = auto()
    SWAP = auto()
    NOISE = auto()
    RELEASE = auto()
    DAY = auto()
    DUPLICATE = auto()
    EARLIER = auto()
    ORDER = auto()
    MALFORMED = auto()
    TITLE = auto()
    PARENT = auto()
    REVIEW = auto()
    HEADLINE = auto()
    BODY = auto()
    VOTES = auto()
    HELPFUL = auto()
    FLAGS = auto()


# Random numbers


def hashed(seed: int, purpose: Purpose, index: np.ndarray) -> np.ndarray:
    """Return a random uint64 for each index, different for different indices.

    It is the finisher of splitmix64 over a counter that starts from a seeded key (Steele, Lea, Flood: Fast
    splittable pseudorandom number generators, OOPSLA 2014).
    """
    key = (seed * 0xD1342543DE82EF95 + purpose * 0xAF251AF3B0F025B5 + 0x632BE59BD9B4E019) % 2**64
    mixed = np.asarray(index).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def uniform(seed: int, purpose: Purpose, index: np.ndarray) -> np.ndarray:
    """Return a float64 strictly between 0 and 1 for each index."""
    return ((hashed(seed, purpose, index) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normal(seed: int, purpose: Purpose, index: np.ndarray) -> np.ndarray:
    """Return a standard normal float64 for each index."""
    from scipy.special import ndtri

    return ndtri(uniform(seed, purpose, index))


def below(limit: int, seed: int, purpose: Purpose, index: np.ndarray) -> np.ndarray:
    """Return an int64 in 0 … limit - 1 for each index."""
    return (hashed(seed, purpose, index) % np.uint64(limit)).astype(np.int64)


# The planted truth


def genres(video: np.ndarray, seed: int) -> np.ndarray:
    """Return the genre's number (int64, an index into ``sample_text.GENRE_NAMES``) of each video."""
    return below(len(sample_text.GENRE_NAMES), seed, Purpose.GENRE, video)


def genre_traits(seed: int) -> np.ndarray:
    """Return what the genres are like, float64 (genres, factors), each factor with mean 0 and variance 1."""
    shape = (len(sample_text.GENRE_NAMES), len(FACTOR_STRENGTHS))
    drawn = normal(seed, Purpose.GENRE_TRAIT, np.arange(math.prod(shape))).reshape(shape)
    return (drawn - drawn.mean(axis=0)) / drawn.std(axis=0)


def _factors(entity: np.ndarray, seed: int, purpose: Purpose) -> np.ndarray:
    """Return standard normal factors, float32 (n, factors)."""
    drawn = np.empty((len(entity), len(FACTOR_STRENGTHS)), dtype=np.float32)
    for factor in range(len(FACTOR_STRENGTHS)):
        drawn[:, factor] = normal(seed, purpose, entity * len(FACTOR_STRENGTHS) + factor)
    return drawn


class Truth:
    """The planted biases and factors of some customers and some videos.

    Parameters
    ----------
    customer, video : int64 array, shape (n,) and (m,)
        Planted numbers of the customers and videos wanted, from 0.
    seed : int
        The seed of the reviews.

    Attributes
    ----------
    customer_bias : float64 array, shape (n,)
    video_bias : float64 array, shape (m,)
    tastes : float32 array, shape (n, factors)
    traits : float32 array, shape (m, factors)
        The strengths of the factors are in the traits.
    """

    def __init__(self, customer: np.ndarray, video: np.ndarray, seed: int) -> None:
        self.customer_bias = CUSTOMER_BIAS * normal(seed, Purpose.CUSTOMER_BIAS, customer)
        self.video_bias = VIDEO_BIAS * normal(seed, Purpose.VIDEO_BIAS, video)
        self.tastes = _factors(customer, seed, Purpose.TASTE)
        of_genre = genre_traits(seed)[genres(video, seed)]
        own = _factors(video, seed, Purpose.TRAIT)
        mixed = math.sqrt(GENRE_SHARE) * of_genre + math.sqrt(1 - GENRE_SHARE) * own
        self.traits = (mixed * np.array(FACTOR_STRENGTHS)).astype(np.float32)

    def opinion(self, customer: np.ndarray, video: np.ndarray, factors: bool = True) -> np.ndarray:
        """Return the opinions, float64 (rows,); the arguments are positions in this truth's arrays."""
        opinion = MEAN + self.customer_bias[customer] + self.video_bias[video]
        for factor in range(self.tastes.shape[1] if factors else 0):
            opinion += self.tastes[customer, factor] * self.traits[video, factor]
        return opinion


def expected_rating(
    customer_id: np.ndarray | pd.Series,
    product_id: np.ndarray | pd.Series,
    *,
    ratings: int = 100_000,
    customers: int | None = None,
    videos: int | None = None,
    seed: int = 0,
    factors: bool = True,
) -> np.ndarray:
    """Return the mean of the rating that each customer gives each video, as it was planted.

    The rating is s or more when ``opinion + NOISE · z >= s - 1/2``, for s from 2 to 5, so that ::

        E[rating | c, v] = 1 + Σ_{s = 2 … 5} Φ((opinion(c, v) - s + 1/2) / NOISE)

    with Φ the standard normal distribution function.

    Parameters
    ----------
    customer_id, product_id : array or Series, shape (n,)
        As they stand in the file; customers as text or as numbers.
    ratings, customers, videos, seed
        What `generate` was called with.
    factors : bool
        False: only the biases are known.  The factors' part is then one more noise, and the result is about
        the best that a model of biases alone could do.

    Returns
    -------
    float32 array, shape (n,)

    Raises
    ------
    DataError
        If a customer or a product is none of the generated ones.
    """
    from scipy.special import ndtr

    size = planned_size(ratings, customers, videos)
    numbers = pd.to_numeric(pd.Series(np.asarray(customer_id)), errors="coerce").fillna(-1).astype(np.int64)
    customer = pd.Index(customer_ids(size.customers)).get_indexer(pd.Index(numbers))
    video = pd.Index(product_ids(size.videos)).get_indexer(pd.Index(np.asarray(product_id).astype(str)))
    for found, ids, name in ((customer, customer_id, "customer_id"), (video, product_id, "product_id")):
        if (found < 0).any():
            stranger = np.asarray(ids)[np.flatnonzero(found < 0)[0]]
            raise DataError(
                f"{name} {stranger} is not in the generated reviews with ratings={ratings}.",
                hint="Give the ratings, customers, videos and seed that the file was generated with.",
            )
    some_customers, customer = np.unique(customer, return_inverse=True)
    some_videos, video = np.unique(video, return_inverse=True)
    opinion = Truth(some_customers, some_videos, seed).opinion(customer, video, factors)
    spread = NOISE if factors else math.hypot(NOISE, *FACTOR_STRENGTHS)
    expected = 1 + sum(ndtr((opinion - stars + 0.5) / spread) for stars in range(2, 6))
    return np.asarray(expected, dtype=np.float32)


def best_rmse(
    reviews: pd.DataFrame,
    *,
    ratings: int = 100_000,
    customers: int | None = None,
    videos: int | None = None,
    seed: int = 0,
) -> float:
    """Return the RMSE that the planted truth itself has on some reviews: no model can expect to do better.

    Parameters
    ----------
    reviews : DataFrame
        Rows of the generated file with ``customer_id``, ``product_id`` and ``star_rating``.
    ratings, customers, videos, seed
        What `generate` was called with.
    """
    expected = expected_rating(
        reviews["customer_id"],
        reviews["product_id"],
        ratings=ratings,
        customers=customers,
        videos=videos,
        seed=seed,
    )
    error = reviews["star_rating"].to_numpy(dtype=np.float64) - expected
    return float(np.sqrt(np.mean(error**2)))


# Sizes and identifiers


@dataclass(frozen=True)
class Size:
    """How much to generate."""

    ratings: int
    customers: int
    videos: int


def planned_size(ratings: int, customers: int | None, videos: int | None) -> Size:
    """Fill in what is None or 0 (2 ratings a customer, 25 a video) and refuse what cannot be generated."""
    size = Size(
        ratings=ratings,
        customers=customers or ratings // 2,
        videos=videos or max(ratings // 25, 20),
    )
    if ratings < 100:
        raise ParameterError(f"ratings is {ratings}, and the generated reviews need at least 100.")
    for name, value in (("customers", size.customers), ("videos", size.videos)):
        if not 1 <= value <= ratings * 0.9:
            raise ParameterError(
                f"{name} is {value}, and {ratings} ratings allow 1 to {int(ratings * 0.9)}.",
                hint=f"Leave {name} out to have it follow from ratings.",
            )
    if ratings > size.customers * size.videos / 4:
        raise ParameterError(
            f"{size.customers} customers and {size.videos} videos are too few for {ratings} different ratings.",
            hint=f"Use at most {size.customers * size.videos // 4} ratings, or more customers or videos.",
        )
    return size


def customer_ids(customers: int) -> np.ndarray:
    """Return the customers' identifiers, int64 (customers,): 8-digit numbers without order."""
    return 10_000_000 + np.arange(customers) * 48_271 % 40_000_000


def base36(number: np.ndarray, length: int) -> np.ndarray:
    """Write uint64 numbers in base 36 with a fixed length; returns an array of bytes strings, shape (n,)."""
    alphabet = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)
    digits = np.empty((len(number), length), dtype=np.uint8)
    for place in reversed(range(length)):
        digits[:, place] = alphabet[number % np.uint64(36)]
        number = number // np.uint64(36)
    return digits.view(f"S{length}").ravel()


def product_ids(videos: int) -> np.ndarray:
    """Return the videos' identifiers, object array of str (videos,): like ``B00AYB1482``, without order."""
    number = np.arange(videos, dtype=np.uint64) * np.uint64(5_915_587_277) % np.uint64(36**7)
    return np.array(["B00" + text.decode() for text in base36(number, 7).tolist()], dtype=object)
