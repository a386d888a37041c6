"""Generated reviews: Amazon's 15-column file with a long tail and a planted truth.

No public copy of the Amazon customer-reviews data is left to download, so the workflow's default input is
made here.  The file looks like the original: its columns and identifiers, quotes in the text, duplicates and
a few malformed rows.  Its ratings are drawn from the model of `lib.sample_truth`, so that the best RMSE any
recommender could reach on it is known.

Ratings per customer and per video follow log-normal curves through the quantiles that the original has: 5 %
of the customers have 5 or more ratings, 25 % of the videos 9 or more.  The curves are met exactly: the
customers' slots and the videos' slots are two decks of cards, sorted by genre and laid side by side.  So
customers mostly watch what they like.

The same arguments give the same bytes.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from lib import sample_text
from lib.errors import ParameterError
from lib.files import atomically
from lib.sample_truth import (
    FACTOR_STRENGTHS,
    NOISE,
    VIDEO_BIAS,
    Purpose,
    Size,
    Truth,
    base36,
    below,
    best_rmse,
    customer_ids,
    expected_rating,
    genre_traits,
    genres,
    hashed,
    normal,
    planned_size,
    product_ids,
    uniform,
)

__all__ = ["COLUMNS", "Summary", "best_rmse", "expected_rating", "generate", "long_tail"]

COLUMNS = sample_text.words(
    "marketplace|customer_id|review_id|product_id|product_parent|product_title|product_category|star_rating"
    "|helpful_votes|total_votes|vine|verified_purchase|review_headline|review_body|review_date"
)

GENRE_PULL = 0.5
"""How much customers keep to the genres they like; 0 is not at all."""

POPULAR_IS_GOOD = 0.4
"""Correlation of a video's bias with its place in the order of popularity."""

FIRST_DAY = date(2004, 1, 1)
LAST_DAY = date(2015, 8, 31)

CHUNK = 50_000
"""Rows worked on at a time.  It bounds the memory and changes nothing in the result."""

GZIP_LEVEL = 3


@dataclass(frozen=True)
class Summary:
    """What `generate` wrote.

    Attributes
    ----------
    path : Path
        The file.
    rows : int
        Rows after the header; duplicates and malformed rows are among them.
    customers, videos : int
        How many of each have a review.
    duplicates : int
        Rows that repeat a (customer, video) pair.
    malformed : int
        Rows that cannot be read as a review.
    bytes : int
        Size of the file.
    """

    path: Path
    rows: int
    customers: int
    videos: int
    duplicates: int
    malformed: int
    bytes: int


@dataclass(frozen=True)
class Reviews:
    """All reviews as numbers, in the order of the file; every array has shape (rows,)."""

    customer: np.ndarray
    video: np.ndarray
    stars: np.ndarray
    day: np.ndarray
    """Days since `FIRST_DAY`, int32."""


# Who reviewed what, when, and how many stars


def long_tail(total: int, count: int, share: float, threshold: float, highest: int) -> np.ndarray:
    """Deal a total out so that few have many and many have one.

    The counts are ``max(1, floor(x))`` where x follows a log-normal curve with ``P(x >= threshold) = share``;
    its spread is found by bisection from the total.

    Parameters
    ----------
    total : int
        What the counts sum up to.
    count : int
        How many counts.
    share, threshold : float
        The quantile that the curve goes through.
    highest : int
        No count is higher.

    Returns
    -------
    int64 array, shape (count,)
        Ascending.
    """
    from scipy.special import ndtri

    quantile = ndtri(1 - share)
    score = ndtri((np.arange(count) + 0.5) / count) - quantile
    anchor = math.log(max(threshold, 1))

    def counts(spread: float) -> np.ndarray:
        return np.exp(np.minimum(anchor + spread * score, 40)).clip(1, highest).astype(np.int64)

    # From a spread of `quantile` on, the mean of the curve grows with the spread.
    narrow, wide = quantile, 16.0
    for _ in range(50):
        middle = (narrow + wide) / 2
        if counts(middle).sum() < total:
            narrow = middle
        else:
            wide = middle
    dealt = counts(narrow)
    while missing := total - int(dealt.sum()):
        step = 1 if missing > 0 else -1
        can_change = np.flatnonzero(dealt < highest if step > 0 else dealt > 1)
        dealt[can_change[-abs(missing) :]] += step
    return np.sort(dealt)


def _pairs(size: Size, pairs: int, truth: Truth, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Decide which customer reviews which video: two int32 arrays of shape (pairs,), no pair twice."""
    per_customer = pairs / size.customers
    highest = _highest(per_customer, size.videos, min(size.videos // 16, 3000))
    of_customer = np.empty(size.customers, dtype=np.int64)
    rank = hashed(seed, Purpose.CUSTOMER_RANK, np.arange(size.customers))
    tail = long_tail(pairs, size.customers, 0.052, 5 * per_customer / 2, highest)
    of_customer[np.argsort(rank, kind="stable")] = tail

    per_video = pairs / size.videos
    highest = _highest(per_video, size.customers, size.customers // 50)
    of_video = np.empty(size.videos, dtype=np.int64)
    chance = normal(seed, Purpose.VIDEO_RANK, np.arange(size.videos))
    fame = POPULAR_IS_GOOD * truth.video_bias / VIDEO_BIAS + math.sqrt(1 - POPULAR_IS_GOOD**2) * chance
    tail = long_tail(pairs, size.videos, 0.255, 9 * per_video / 25, highest)
    of_video[np.argsort(fame, kind="stable")] = tail

    genre = genres(np.arange(size.videos), seed)
    supply = np.bincount(genre, weights=of_video, minlength=len(sample_text.GENRE_NAMES)) / pairs
    customer = np.repeat(np.arange(size.customers, dtype=np.int32), of_customer)
    video = np.repeat(np.arange(size.videos, dtype=np.int32), of_video)
    slot = np.arange(pairs)
    wanted = _genres_wanted(customer, truth.tastes, supply, seed)
    customer = customer[np.argsort(wanted + uniform(seed, Purpose.CUSTOMER_SLOT, slot), kind="stable")]
    video = video[np.argsort(genre[video] + uniform(seed, Purpose.VIDEO_SLOT, slot), kind="stable")]
    _separate(customer, video, size.videos, seed)
    return customer, video


def _highest(mean: float, partners: int, usual: int) -> int:
    """Return how many ratings one customer or video may have, given how many partners there are.

    In small tables it is more than usual, to have a tail at all, but leaves room for the others.
    """
    return max(min(max(usual, int(24 * mean)), partners // 10), math.ceil(3 * mean))


def _genres_wanted(customer: np.ndarray, tastes: np.ndarray, supply: np.ndarray, seed: int) -> np.ndarray:
    """Draw the genre of each slot, int64 (slots,), from ``softmax(GENRE_PULL · liking + log supply)``."""
    like = genre_traits(seed) * np.array(FACTOR_STRENGTHS)
    wanted = np.empty(len(customer), dtype=np.int64)
    for start in range(0, len(customer), CHUNK):
        chunk = slice(start, start + CHUNK)
        liking = np.zeros((len(customer[chunk]), len(supply)))
        for factor in range(like.shape[1]):
            liking += tastes[customer[chunk], factor, None] * like[:, factor]
        chance = (supply * np.exp(GENRE_PULL * liking)).cumsum(axis=1)
        slots = np.arange(start, start + len(liking))
        drawn = uniform(seed, Purpose.GENRE_WANTED, slots) * chance[:, -1]
        wanted[chunk] = (drawn[:, None] > chance[:, :-1]).sum(axis=1)
    return wanted


def _separate(customer: np.ndarray, video: np.ndarray, videos: int, seed: int, rounds: int = 200) -> None:
    """Swap videos between slots, in place, until no customer has a video twice.

    Each slot that repeats a pair swaps its video with a slot taken at random, if that makes no new
    repetition; so both tails stay as they are.  In a very dense table a few repetitions can be left after
    the last round.
    """
    for round_ in range(rounds):
        pair = customer.astype(np.int64) * videos + video
        order = np.argsort(pair, kind="stable")
        taken = pair[order]
        repeated = order[1:][taken[1:] == taken[:-1]]
        if not len(repeated):
            return
        trial = np.arange(2 * len(repeated) + 10) + round_ * 2 * len(video)
        others = np.unique(below(len(video), seed, Purpose.SWAP, trial))
        others = others[np.argsort(hashed(seed, Purpose.SWAP, others + trial[0]), kind="stable")]
        others = others[~np.isin(others, repeated)][: len(repeated)]
        repeated = repeated[: len(others)]
        wanted = np.stack(
            [
                customer[repeated].astype(np.int64) * videos + video[others],
                customer[others].astype(np.int64) * videos + video[repeated],
            ]
        )
        place = np.searchsorted(taken, wanted).clip(max=len(taken) - 1)
        free = (taken[place] != wanted).all(axis=0)
        mine, theirs = repeated[free], others[free]
        video[mine], video[theirs] = video[theirs], video[mine]


def _reviews(size: Size, repeats: int, seed: int) -> Reviews:
    """Plant everything: the reviews as numbers, newest first."""
    truth = Truth(np.arange(size.customers), np.arange(size.videos), seed)
    pairs = size.ratings - repeats
    customer, video = _pairs(size, pairs, truth, seed)
    stars = np.empty(pairs, dtype=np.int8)
    for start in range(0, pairs, CHUNK):
        chunk = slice(start, start + CHUNK)
        noise = NOISE * normal(seed, Purpose.NOISE, np.arange(start, min(start + CHUNK, pairs)))
        stars[chunk] = np.rint(truth.opinion(customer[chunk], video[chunk]) + noise).clip(1, 5)

    # Reviews grow with the fourth power of time, and start with the release of the video.
    days = (LAST_DAY - FIRST_DAY).days
    release = uniform(seed, Purpose.RELEASE, np.arange(size.videos)) ** 2 * 0.9
    passed = release[video] + (1 - release[video]) * uniform(seed, Purpose.DAY, np.arange(pairs))
    day = np.rint(days * passed**0.25).astype(np.int32)

    # A customer who changed their mind: the later review is the one drawn from the model.
    later = np.argsort(hashed(seed, Purpose.DUPLICATE, np.arange(pairs)), kind="stable")[:repeats]
    other_stars = (stars[later] + below(4, seed, Purpose.EARLIER, later)) % 5 + 1
    other_day = day[later] - 1 - below(400, seed, Purpose.EARLIER, later + pairs)

    customer = np.concatenate([customer, customer[later]])
    video = np.concatenate([video, video[later]])
    stars = np.concatenate([stars, other_stars.astype(np.int8)])
    day = np.concatenate([day, other_day.astype(np.int32)])
    order = np.lexsort((hashed(seed, Purpose.ORDER, np.arange(len(day))), -day))
    return Reviews(customer[order], video[order], stars[order], day[order])


# The file


def generate(
    path: str | Path,
    ratings: int = 100_000,
    customers: int | None = None,
    videos: int | None = None,
    seed: int = 0,
    progress: bool = True,
    malformed: float = 0.0002,
    duplicates: float = 0.005,
) -> Summary:
    """Write generated reviews as gzip-compressed, tab-separated text with a header.

    Parameters
    ----------
    path : str or Path
        The file to write, usually ``reviews.tsv.gz``; it appears under this name only when complete.
    ratings : int
        Rows to write, at least 100.
    customers, videos : int, optional
        How many have a review; half and a twenty-fifth of the ratings where None or 0.
    seed : int
        The same seed gives the same bytes.
    progress : bool
        Show a progress bar.
    malformed, duplicates : float
        Shares of the rows that cannot be read, and that an earlier review of the same pair adds.

    Returns
    -------
    Summary

    Raises
    ------
    ParameterError
        If the numbers do not fit each other.
    DataError
        If the file cannot be written.
    """
    from lib.progress import bar as progress_bar

    size = planned_size(ratings, customers, videos)
    for name, value in (("malformed", malformed), ("duplicates", duplicates)):
        if not 0 <= value <= 0.1:
            raise ParameterError(f"{name} is {value}, and must be a share from 0 to 0.1 of the rows.")
    reviews = _reviews(size, round(ratings * duplicates), seed)
    rank = hashed(seed, Purpose.MALFORMED, np.arange(ratings))
    broken = np.argsort(rank, kind="stable")[: round(ratings * malformed)]
    with (
        atomically(path) as partial,
        partial.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=GZIP_LEVEL, mtime=0) as file,
        progress_bar(total=ratings, desc="Generating reviews", unit=" rows", disable=not progress) as bar,
    ):
        file.write(("\t".join(COLUMNS) + "\n").encode())
        for lines in _lines(reviews, size, broken, seed):
            file.write(("\n".join(lines) + "\n").encode())
            bar.update(len(lines))
    pairs = np.unique(reviews.customer.astype(np.int64) * size.videos + reviews.video)
    return Summary(
        path=Path(path),
        rows=ratings,
        customers=size.customers,
        videos=size.videos,
        duplicates=ratings - len(pairs),
        malformed=len(broken),
        bytes=Path(path).stat().st_size,
    )


def _lines(reviews: Reviews, size: Size, broken: np.ndarray, seed: int) -> Iterator[list[str]]:
    """Write the reviews as lines of text, a chunk at a time."""
    video = np.arange(size.videos)
    genre = genres(video, seed)
    identifiers = customer_ids(size.customers)
    products = [
        f"{product_id}\t{100_000_000 + parent}\t{title}\tDigital_Video_Download"
        for product_id, parent, title in zip(
            product_ids(size.videos),
            below(900_000_000, seed, Purpose.PARENT, video).tolist(),
            sample_text.titles(genre, hashed(seed, Purpose.TITLE, video)),
            strict=True,
        )
    ]
    kind_of_damage = dict(zip(broken.tolist(), range(len(broken)), strict=True))
    dates = {day: (FIRST_DAY + timedelta(days=day)).isoformat() for day in np.unique(reviews.day).tolist()}
    for start in range(0, len(reviews.stars), CHUNK):
        chunk = slice(start, start + CHUNK)
        stars = reviews.stars[chunk].astype(np.int64)
        row = np.arange(start, start + len(stars))
        votes = uniform(seed, Purpose.VOTES, row) ** -0.7 - 1
        helpful = votes.astype(np.int64) * uniform(seed, Purpose.HELPFUL, row) ** (1 / stars)
        flags = below(200, seed, Purpose.FLAGS, row)
        fields = zip(
            identifiers[reviews.customer[chunk]].tolist(),
            base36(hashed(seed, Purpose.REVIEW, row), 13).astype(str).tolist(),
            reviews.video[chunk].tolist(),
            stars.tolist(),
            np.rint(helpful).astype(np.int64).tolist(),
            votes.astype(np.int64).tolist(),
            np.where(flags == 0, "Y", "N").tolist(),
            np.where(flags % 4 == 3, "N", "Y").tolist(),
            sample_text.headlines(stars, hashed(seed, Purpose.HEADLINE, row)),
            sample_text.bodies(stars, genre[reviews.video[chunk]], hashed(seed, Purpose.BODY, row)),
            reviews.day[chunk].tolist(),
            strict=True,
        )
        lines = [
            f"US\t{customer_id}\tR{review_id}\t{products[video]}\t{star}\t{yes}\t{total}\t{vine}\t{verified}"
            f"\t{headline}\t{body}\t{dates[day]}"
            for customer_id, review_id, video, star, yes, total, vine, verified, headline, body, day in fields
        ]
        for position in sorted(kind_of_damage.keys() & set(row.tolist())):
            lines[position - start] = _damaged(lines[position - start], kind_of_damage[position])
        yield lines


def _damaged(line: str, kind: int) -> str:
    """Spoil a line in one of four ways: cut off, a tab too many, stars missing, stars not a number."""
    fields = line.split("\t")
    stars = COLUMNS.index("star_rating")
    match kind % 4:
        case 0:
            return "\t".join(fields[: stars - 2])
        case 1:
            return line.replace(" ", "\t", 1)
        case 2:
            fields[stars] = ""
        case _:
            fields[stars] = "five stars"
    return "\t".join(fields)
