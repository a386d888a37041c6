"""Generated reviews: the file, its long tail, and the truth that is planted in it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import resource
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lib import sample_text, sample_truth, samples
from lib.errors import DataError, ParameterError

SIZE = 60_000


def read(path: Path) -> pd.DataFrame:
    """Read the well-formed rows, as text but for the stars."""
    frame = pd.read_csv(path, sep="\t", quoting=csv.QUOTE_NONE, on_bad_lines="skip", dtype=str)
    frame["star_rating"] = pd.to_numeric(frame["star_rating"], errors="coerce")
    return frame.dropna(subset=["star_rating", "review_date"])


def rmse(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> samples.Summary:
    path = tmp_path_factory.mktemp("samples") / "reviews.tsv.gz"
    return samples.generate(path, ratings=SIZE, seed=1, progress=False)


@pytest.fixture(scope="module")
def reviews(summary: samples.Summary) -> pd.DataFrame:
    return read(summary.path)


@pytest.fixture(scope="module")
def kept(reviews: pd.DataFrame) -> pd.DataFrame:
    """What preprocessing keeps: the latest review of a pair, 5 ratings a customer, 10 a video."""
    by_customer = reviews.groupby("customer_id")["customer_id"].transform("size")
    by_video = reviews.groupby("product_id")["product_id"].transform("size")
    frequent = reviews[(by_customer >= 5) & (by_video >= 10)]
    return frequent.sort_values("review_date").drop_duplicates(["customer_id", "product_id"], keep="last")


# The file


def test_the_file_has_amazons_columns_and_the_promised_rows(summary):
    lines = gzip.decompress(summary.path.read_bytes()).decode().splitlines()
    assert lines[0].split("\t") == [
        *("marketplace", "customer_id", "review_id", "product_id", "product_parent", "product_title"),
        *("product_category", "star_rating", "helpful_votes", "total_votes", "vine", "verified_purchase"),
        *("review_headline", "review_body", "review_date"),
    ]
    assert len(lines) - 1 == summary.rows == SIZE
    assert summary.bytes == summary.path.stat().st_size


def test_rows_look_like_amazons(reviews):
    assert reviews["customer_id"].str.fullmatch(r"[1-9]\d{7}").all()
    assert reviews["product_id"].str.fullmatch(r"B00[0-9A-Z]{7}").all()
    assert reviews["review_id"].str.fullmatch(r"R[0-9A-Z]{13}").all()
    assert reviews["review_id"].is_unique
    assert reviews["product_parent"].str.fullmatch(r"\d{9}").all()
    assert (reviews["helpful_votes"].astype(int) <= reviews["total_votes"].astype(int)).all()
    assert set(reviews["vine"]) | set(reviews["verified_purchase"]) == {"Y", "N"}
    assert reviews.groupby("product_id")[["product_title", "product_parent"]].nunique().eq(1).all(axis=None)


def test_same_arguments_give_the_same_bytes_and_another_seed_another_file(tmp_path):
    first, again, other = (tmp_path / name for name in ("first.gz", "again.gz", "other.gz"))
    samples.generate(first, ratings=3000, seed=7, progress=False)
    samples.generate(again, ratings=3000, seed=7, progress=False)
    samples.generate(other, ratings=3000, seed=8, progress=False)
    assert first.read_bytes() == again.read_bytes()
    assert gzip.decompress(first.read_bytes()) != gzip.decompress(other.read_bytes())


def test_size_of_chunks_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "reviews.gz"
    seen = set()
    for chunk in (50_000, 1999, 640):
        monkeypatch.setattr(samples, "CHUNK", chunk)
        samples.generate(path, ratings=5000, progress=False, malformed=0.01)
        seen.add(hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest())
    assert len(seen) == 1


def test_malformed_rows_are_as_many_as_asked_for_and_of_every_kind(tmp_path):
    path = tmp_path / "reviews.gz"
    summary = samples.generate(path, ratings=4000, progress=False, malformed=0.01)
    rows = [line.split("\t") for line in gzip.decompress(path.read_bytes()).decode().splitlines()[1:]]
    short = sum(len(row) < 15 for row in rows)
    long = sum(len(row) > 15 for row in rows)
    empty = sum(len(row) == 15 and row[7] == "" for row in rows)
    words = sum(len(row) == 15 and row[7] != "" and not row[7].isdigit() for row in rows)
    assert summary.malformed == 40
    assert [short, long, empty, words] == [10, 10, 10, 10]


def test_nothing_is_malformed_or_repeated_when_not_wanted(tmp_path):
    summary = samples.generate(
        tmp_path / "reviews.gz", ratings=4000, progress=False, malformed=0, duplicates=0
    )
    frame = read(summary.path)
    assert len(frame) == 4000
    assert not frame.duplicated(["customer_id", "product_id"]).any()
    assert (summary.malformed, summary.duplicates) == (0, 0)


def test_repeated_pairs_have_an_earlier_review_with_another_rating(reviews, summary):
    pairs = reviews[reviews.duplicated(["customer_id", "product_id"], keep=False)]
    in_time = pairs.sort_values("review_date").groupby(["customer_id", "product_id"])
    assert summary.duplicates == SIZE * 0.005
    assert summary.duplicates * 0.98 <= in_time.ngroups <= summary.duplicates  # some are among the malformed
    assert (in_time.size() == 2).all()
    assert (in_time["review_date"].first() < in_time["review_date"].last()).all()
    assert (in_time["star_rating"].first() != in_time["star_rating"].last()).all()


def test_quotes_are_in_the_text_and_need_no_quoting(reviews):
    assert reviews["review_body"].str.contains('"').mean() > 0.05
    lone = reviews["review_headline"].str.count('"') == 1
    assert lone.any()
    assert reviews.loc[lone, "review_date"].str.fullmatch(r"\d{4}-\d\d-\d\d").all()


def test_dates_run_from_2004_to_2015_with_growth_and_newest_first(reviews):
    dates = pd.to_datetime(reviews["review_date"])
    assert dates.min() >= pd.Timestamp(2002, 11, 1)
    assert dates.max() == pd.Timestamp(2015, 8, 31)
    assert dates.is_monotonic_decreasing
    a_year = dates.dt.year.value_counts()
    assert a_year[2006] < a_year[2010] < a_year[2014]


def test_titles_tell_the_genre():
    genre = np.arange(600) % len(sample_text.GENRE_NAMES)
    draw = sample_truth.hashed(3, sample_truth.Purpose.TITLE, np.arange(600))
    for number, title in zip(genre, sample_text.titles(genre, draw), strict=True):
        _, nouns = sample_text.GENRES[sample_text.GENRE_NAMES[number]]
        assert any(noun in title for noun in nouns)
        assert "\t" not in title


def test_summary_counts_who_and_what_was_planted(reviews, summary):
    assert (summary.customers, summary.videos) == (SIZE // 2, SIZE // 25)
    assert reviews["product_id"].nunique() == pytest.approx(summary.videos, rel=0.01)
    assert reviews["customer_id"].nunique() == pytest.approx(summary.customers, rel=0.01)


# The long tail


@pytest.mark.parametrize("ratings", [5_000, 25_000, 150_000])
def test_long_tail_has_the_quantiles_of_the_original(ratings, tmp_path):
    path = samples.generate(tmp_path / "reviews.gz", ratings=ratings, progress=False).path
    frame = pd.read_csv(
        path, sep="\t", quoting=csv.QUOTE_NONE, on_bad_lines="skip", usecols=["customer_id", "product_id"]
    )
    of_customer = frame["customer_id"].value_counts()
    of_video = frame["product_id"].value_counts()
    assert (of_customer >= 5).mean() == pytest.approx(0.05, abs=0.006)
    assert (of_video >= 9).mean() == pytest.approx(0.25, abs=0.03)
    assert of_customer.median() == 1
    assert of_customer.max() > 20


def test_enough_is_left_after_preprocessing_to_learn_from(kept):
    assert len(kept) > 0.4 * SIZE
    assert kept["customer_id"].value_counts().quantile(0.9) > 25


@pytest.mark.parametrize(
    ("total", "count", "highest"),
    [(1000, 1000, 50), (1001, 1000, 50), (2000, 1000, 60), (9000, 1000, 10), (25_000, 1000, 4000)],
)
def test_long_tail_deals_out_exactly_the_total(total, count, highest):
    dealt = samples.long_tail(total, count, 0.05, 2.5 * total / count, highest)
    assert dealt.sum() == total
    assert dealt.min() >= 1
    assert dealt.max() <= highest
    assert (np.diff(dealt) >= 0).all()


def test_small_dense_tables_can_be_made_too(tmp_path):
    summary = samples.generate(
        tmp_path / "reviews.gz", ratings=2000, customers=200, videos=50, progress=False
    )
    frame = read(summary.path)
    assert frame["customer_id"].nunique() == 200
    assert frame["product_id"].nunique() == 50
    assert summary.duplicates < 0.05 * 2000


# The planted truth


def test_mean_rating_is_the_expected_one_wherever_it_is_looked_at(reviews):
    latest = reviews.drop_duplicates(["customer_id", "product_id"], keep="first")
    expected = samples.expected_rating(latest["customer_id"], latest["product_id"], ratings=SIZE, seed=1)
    error = latest["star_rating"].to_numpy() - expected
    assert expected.dtype == np.float32
    for part in np.array_split(np.argsort(expected, kind="stable"), 10):
        tolerance = 4 * error[part].std() / np.sqrt(len(part))
        assert abs(error[part].mean()) < tolerance


def test_expected_rating_is_the_mean_of_many_draws_from_the_model():
    customer, video = np.arange(6), np.arange(6)
    opinion = sample_truth.Truth(customer, video, seed=5).opinion(customer, video)
    noise = sample_truth.NOISE * np.random.default_rng(0).standard_normal((40_000, 6))
    drawn = np.rint(opinion + noise).clip(1, 5).mean(axis=0)
    ids = sample_truth.customer_ids(6), sample_truth.product_ids(6)
    assert samples.expected_rating(*ids, seed=5) == pytest.approx(drawn, abs=0.03)


def test_no_constant_and_no_blend_does_better_than_the_truth(kept):
    expected = samples.expected_rating(kept["customer_id"], kept["product_id"], ratings=SIZE, seed=1)
    stars = kept["star_rating"].to_numpy()
    best = samples.best_rmse(kept, ratings=SIZE, seed=1)
    assert best == pytest.approx(rmse(stars - expected))
    assert best < rmse(stars - expected - 0.05)
    assert best < rmse(stars - expected + 0.05)
    assert best < rmse(stars - (0.9 * expected + 0.1 * stars.mean()))


def test_factors_are_worth_learning(kept):
    ids = kept["customer_id"], kept["product_id"]
    stars = kept["star_rating"].to_numpy()
    best = samples.best_rmse(kept, ratings=SIZE, seed=1)
    biases_only = rmse(stars - samples.expected_rating(*ids, ratings=SIZE, seed=1, factors=False))
    assert best < 0.8 * biases_only
    assert biases_only < 0.98 * stars.std()


def test_videos_of_one_genre_are_alike():
    video = np.arange(2000)
    traits = sample_truth.Truth(np.arange(1), video, seed=0).traits
    genre = sample_truth.genres(video, 0)
    centre = np.stack([traits[genre == number].mean(axis=0) for number in range(genre.max() + 1)])
    assert (traits - centre[genre]).var() < 0.65 * traits.var()


def test_expected_rating_takes_identifiers_as_numbers_or_text():
    ids, products = sample_truth.customer_ids(50), sample_truth.product_ids(20)[:5].repeat(10)
    as_numbers = samples.expected_rating(ids, products, ratings=100)
    as_text = samples.expected_rating(pd.Series(ids).astype(str), pd.Series(products), ratings=100)
    assert (as_numbers == as_text).all()
    assert ((as_numbers > 1) & (as_numbers < 5)).all()


@pytest.mark.parametrize(
    ("customer", "product", "named"),
    [
        ("7", None, "customer_id 7"),
        ("x", None, "customer_id x"),
        (None, "B00NOSUCH1", "product_id B00NOSUCH1"),
    ],
)
def test_strangers_are_named(customer, product, named):
    customer = customer or str(sample_truth.customer_ids(1)[0])
    product = product or sample_truth.product_ids(1)[0]
    with pytest.raises(DataError, match=named):
        samples.expected_rating(np.array([customer]), np.array([product]))


def test_identifiers_of_the_full_size_are_distinct():
    assert np.bincount(sample_truth.customer_ids(2_000_000) - 10_000_000).max() == 1
    assert len(set(sample_truth.product_ids(160_000))) == 160_000


def test_random_numbers_are_uniform_and_independent_between_purposes():
    index = np.arange(20_000)
    first = sample_truth.uniform(0, sample_truth.Purpose.NOISE, index)
    second = sample_truth.uniform(0, sample_truth.Purpose.DAY, index)
    assert first.min() > 0
    assert first.max() < 1
    assert first.mean() == pytest.approx(0.5, abs=0.01)
    assert first.var() == pytest.approx(1 / 12, abs=0.002)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.03


# What cannot be made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratings": 99}, "at least 100"),
        ({"ratings": 1000, "customers": 1000}, "customers is 1000"),
        ({"ratings": 1000, "videos": -1}, "videos is -1"),
        ({"ratings": 1000, "customers": 50, "videos": 50}, "too few for 1000"),
        ({"malformed": 1.0}, "malformed is 1.0"),
        ({"duplicates": -0.1}, "duplicates is -0.1"),
    ],
)
def test_impossible_sizes_are_refused_and_nothing_is_written(arguments, message, tmp_path):
    with pytest.raises(ParameterError, match=message):
        samples.generate(tmp_path / "reviews.gz", progress=False, **arguments)
    assert not list(tmp_path.iterdir())


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    path = tmp_path / "reviews.gz"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(DataError, match="cannot be written: File too large"):
            samples.generate(path, ratings=20_000, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_progress_is_shown_on_request(tmp_path, capsys):
    samples.generate(tmp_path / "reviews.gz", ratings=500, progress=True)
    assert "500/500" in capsys.readouterr().err
    samples.generate(tmp_path / "reviews.gz", ratings=500, progress=False)
    assert capsys.readouterr().err == ""
