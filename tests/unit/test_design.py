"""The design matrix with side features: fitted on training ratings, and the same when it is built again."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lib import design as design_module
from lib import features, rated, storage
from lib.design import Design
from lib.errors import DataError, ParameterError
from lib.identities import UnknownWarning

CUSTOMERS, VIDEOS = 20, 15
EVERYTHING = ["genre", "episodes:log", "age", "month", "verified_purchase", "rated"]


def customers() -> pd.DataFrame:
    ids = [f"c{n}" for n in range(CUSTOMERS)]
    return pd.DataFrame(
        {"customer": range(CUSTOMERS), "customer_id": ids, "age": np.arange(CUSTOMERS) + 20.0}
    )


def videos() -> pd.DataFrame:
    genres = ["Drama, Comedy", "Drama", None, "Comedy|War"]
    number = np.arange(VIDEOS)
    return pd.DataFrame(
        {
            "video": number,
            "product_id": [f"p{n}" for n in number],
            "genre": [genres[n % 4] for n in number],
            "episodes": [str(n * n) for n in number],
        }
    )


def ratings(n: int = 120, seed: int = 0) -> pd.DataFrame:
    """Return ratings of no pair twice."""
    rng = np.random.default_rng(seed)
    pair = rng.choice(CUSTOMERS * VIDEOS, n, replace=False)
    return pd.DataFrame(
        {
            "customer": pair // VIDEOS,
            "video": pair % VIDEOS,
            "star_rating": rng.integers(1, 6, n).astype(np.float32),
            "review_date": [f"2014-{month:02}-10" for month in rng.integers(1, 13, n)],
            "verified_purchase": rng.choice(["Y", "N"], n),
        }
    )


def fitted(asked: list[str] = EVERYTHING, train: pd.DataFrame | None = None, **options: object) -> Design:
    return Design(customers(), videos(), asked, **options).fit(ratings() if train is None else train)


def equal(left: sp.csr_matrix, right: sp.csr_matrix) -> bool:
    return (
        left.shape == right.shape
        and np.array_equal(left.indptr, right.indptr)
        and np.array_equal(left.indices, right.indices)
        and np.array_equal(left.data, right.data)
    )


# --- what holds for every design -----------------------------------------------------------------------


def test_without_side_features_it_is_the_plain_design_matrix() -> None:
    train = ratings()
    X = fitted([]).transform(train)
    assert equal(X, features.design_matrix(train["customer"], train["video"], CUSTOMERS, VIDEOS))


def test_columns_names_and_blocks_agree() -> None:
    design = fitted()
    X = design.transform(ratings(seed=1))
    assert list(design.blocks) == [
        "customer",
        "video",
        "genre",
        "episodes",
        "age",
        "month",
        "verified_purchase",
        "rated",
    ]
    assert sum(design.blocks.values()) == design.feature_dim == len(design.names) == X.shape[1]
    assert design.names[0] == "customer=c0"
    assert design.names[CUSTOMERS] == "video=p0"
    assert design.names[CUSTOMERS + VIDEOS] == "genre=Comedy"
    assert design.names[-1] == "rated=p14"
    assert design.columns == ["review_date", "verified_purchase"]
    assert fitted(["month", "review_date:category"]).columns == ["review_date"]
    described = design.describe()
    assert described["of"].tolist()[2:] == ["the video"] * 2 + ["the customer"] + ["the rating"] * 2 + [
        "the customer"
    ]
    assert described["columns"].tolist() == list(design.blocks.values())


@pytest.mark.parametrize("weight", [1.0, 0.2])
def test_rows_have_their_ones_and_all_values_are_within_one(weight: float) -> None:
    design = fitted(weight=weight, buckets=3)
    X = design.transform(ratings())
    assert X.dtype == np.float32
    assert X.has_canonical_format
    assert np.abs(X.data).max() <= 1
    start = np.cumsum([0, *design.blocks.values()])
    for (name, size), first in zip(design.blocks.items(), start, strict=False):
        block = X[:, first : first + size]
        if name in ("customer", "video"):
            assert (block.sum(axis=1) == 1).all()
        elif name in ("genre", "month", "verified_purchase", "rated"):
            length = np.asarray(block.power(2).sum(axis=1)).ravel()
            np.testing.assert_allclose(length[length > 0], weight**2, rtol=1e-5)


def test_columns_of_the_video_follow_the_video_and_those_of_the_rating_the_rating() -> None:
    design = fitted(["genre", "verified_purchase"], weight=1.0)
    table = pd.DataFrame({"customer": [3, 4], "video": [0, 1], "verified_purchase": ["N", "Y"]})
    X = pd.DataFrame(design.transform(table).toarray(), columns=design.names)
    assert X["customer=c3"].tolist() == X["video=p0"].tolist() == [1, 0]
    np.testing.assert_allclose(X["genre=Drama"], [np.sqrt(0.5), 1], rtol=1e-6)
    np.testing.assert_allclose(X["genre=Comedy"], [np.sqrt(0.5), 0], rtol=1e-6)
    assert X["verified_purchase=Y"].tolist() == [0, 1]


def test_tables_and_ratings_may_come_in_any_order() -> None:
    train = ratings()
    mixed = Design(customers()[::-1], videos().sample(frac=1, random_state=0), EVERYTHING).fit(train[::-1])
    assert equal(mixed.transform(train), fitted().transform(train))
    assert mixed.names == fitted().names


def test_ids_are_as_good_as_numbers() -> None:
    test = ratings(seed=3)
    with_ids = test.assign(
        customer_id="c" + test["customer"].astype(str), product_id="p" + test["video"].astype(str)
    ).drop(columns=["customer", "video"])
    design = fitted()
    assert equal(design.transform(with_ids), design.transform(test))


def test_batches_are_the_matrix_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    design, test = fitted(), ratings(seed=4)
    whole = design.transform(test)
    pieces = list(design.batches(test, 50))
    assert [piece.shape[0] for piece in pieces] == [50, 50, 20]
    assert equal(sp.vstack(pieces, format="csr"), whole)
    monkeypatch.setattr(design_module, "CHUNK", 7)
    assert equal(design.transform(test), whole)
    assert design.transform(test.head(0)).shape == (0, design.feature_dim)
    with pytest.raises(ParameterError, match="A batch cannot have 0 rows"):
        next(design.batches(test, 0))


# --- no leakage ----------------------------------------------------------------------------------------


def test_what_is_not_in_the_training_never_changes_a_row() -> None:
    train, test = ratings(), ratings(seed=1)
    design = fitted(train=train)
    alone = design.transform(train)
    for other in (test, test.assign(star_rating=1.0, review_date="2019-01-01"), test[::-1].head(9)):
        design.transform(other)
        assert equal(design.transform(train), alone)
    assert equal(fitted(train=train.assign(star_rating=3.0)).transform(train), alone)


def test_rated_holds_the_training_ratings_of_the_customer_without_the_rows_own() -> None:
    train, test = ratings(), ratings(seed=1)
    design = fitted(["rated"], train=train, weight=1.0, most_rated=0)
    theirs = train.groupby("customer")["video"].agg(set)
    for table in (train, test):
        block = design.transform(table)[:, -VIDEOS:]
        for row, (customer, video) in enumerate(zip(table["customer"], table["video"], strict=True)):
            others = sorted(theirs.get(customer, set()) - {video})
            assert block[row].indices.tolist() == others
            np.testing.assert_allclose(block[row].data, 1 / np.sqrt(max(len(others), 1)), rtol=1e-6)


def test_the_rated_videos_of_a_customer_are_bounded_and_drawn_by_the_seed() -> None:
    train = ratings(200)
    most = np.diff(fitted(["rated"], train=train, most_rated=4).transform(train)[:, -VIDEOS:].indptr)
    assert most.max() == 4
    pairs = train[["customer", "video"]]
    drawn = [rated.draw(table, 4, seed) for table, seed in ((pairs, 0), (pairs[::-1], 0), (pairs, 1))]
    kept = [set(map(tuple, table.to_numpy().tolist())) for table in drawn]
    assert kept[0] == kept[1] != kept[2]
    assert all(table.groupby("customer").size().max() == 4 for table in drawn)
    assert kept[0] < set(map(tuple, pairs.to_numpy().tolist()))


# --- what is not known ---------------------------------------------------------------------------------


def test_unknown_customers_and_videos_have_an_empty_part_and_are_told() -> None:
    design = fitted(["genre", "rated"])
    table = pd.DataFrame({"customer_id": ["c1", "stranger", "stranger"], "product_id": ["new", "p1", "new"]})
    with pytest.warns(
        UnknownWarning, match="Of 3 rows, 2 a customer and 2 a video that the design does not know"
    ):
        X = design.transform(table).toarray()
    assert X[:, :CUSTOMERS].sum(axis=1).tolist() == [1, 0, 0]
    assert X[:, CUSTOMERS : CUSTOMERS + VIDEOS].sum(axis=1).tolist() == [0, 1, 0]
    assert X[1, CUSTOMERS + VIDEOS :].any()  # the video's genre
    assert not X[2].any()
    by_number = pd.DataFrame({"customer": [1, -1, -1], "video": [-1, 1, -1]})
    with pytest.warns(UnknownWarning):
        np.testing.assert_array_equal(design.transform(by_number).toarray(), X)
    assert design.unseen(table)[["customer", "video"]].tolist() == [2, 2]


def test_a_new_video_brings_its_own_features() -> None:
    design = fitted(["genre", "episodes:log"])
    table = pd.DataFrame({"customer": [1, 1], "product_id": ["p0", "new"], "genre": ["War", "War, New"]})
    with pytest.warns(UnknownWarning):
        X = pd.DataFrame(design.transform(table).toarray(), columns=design.names)
    assert X["genre=War"].tolist() == [0, pytest.approx(0.1)]
    assert X["genre=Drama"].tolist() == [pytest.approx(0.1 / np.sqrt(2)), 0]


def test_those_without_training_ratings_are_unknown_too_but_have_their_features() -> None:
    train = ratings()
    train = train[(train["video"] != 5) & (train["customer"] != 2)]
    design = fitted(train=train)
    table = ratings(200, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        X = design.transform(table)
    cold = (table["video"] == 5).to_numpy()
    assert cold.any()
    assert X[cold][:, CUSTOMERS : CUSTOMERS + VIDEOS].nnz == 0
    assert X[cold][:, CUSTOMERS + VIDEOS :].nnz > 0
    assert X[~cold][:, CUSTOMERS : CUSTOMERS + VIDEOS].nnz == (~cold).sum()
    assert design.unseen(table)["video"] == cold.sum()
    assert design.unseen(table)["customer"] == design.unseen(table)["rated"] == (table["customer"] == 2).sum()
    assert design.feature_dim == fitted(train=ratings()).feature_dim


def test_categories_that_come_later_are_counted_and_left_empty_or_hashed() -> None:
    later = ratings().assign(verified_purchase="perhaps", review_date="2031-01-01")
    plain, hashed = fitted(["verified_purchase"]), fitted(["verified_purchase"], buckets=2)
    assert plain.unseen(later)["verified_purchase"] == len(later)
    assert plain.transform(later)[:, CUSTOMERS + VIDEOS :].nnz == 0
    assert hashed.transform(later)[:, -2:].nnz == len(later)
    assert plain.unseen(ratings())["verified_purchase"] == 0


# --- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"buckets": 3, "weight": 1.0, "most_rated": 2, "seed": 5}])
def test_a_design_that_was_saved_builds_the_same_rows(tmp_path: Path, options: dict) -> None:
    design, test = fitted(**options), ratings(seed=6)
    again = Design.load(design.save(tmp_path / "design"))
    for table in (ratings(), test, test.assign(review_date="2030-01-01")):
        assert equal(again.transform(table), design.transform(table))
    assert again.names == design.names
    assert again.blocks == design.blocks
    assert again.typical == design.typical
    twice = again.save(tmp_path / "again")
    names = sorted(path.name for path in (tmp_path / "design").iterdir())
    assert names == ["customers.parquet", "design.json", "rated.parquet", "videos.parquet"]
    for name in names:
        assert (Path(twice) / name).read_bytes() == (tmp_path / "design" / name).read_bytes()


@pytest.mark.usefixtures("local_aws")
def test_a_design_goes_to_s3_and_comes_back() -> None:
    storage.ensure_bucket("design-test", "us-east-1")
    design, test = fitted(), ratings(seed=7)
    uri = design.save("s3://design-test/run/02_prepare/design")
    assert equal(Design.load(uri).transform(test), design.transform(test))
    plain = fitted([])
    assert equal(Design.load(plain.save("s3://design-test/plain")).transform(test), plain.transform(test))


def test_what_is_no_design_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no design at .*none: it has no design\.json"):
        Design.load(tmp_path / "none")
    place = Path(fitted().save(tmp_path / "design"))
    state = (place / "design.json").read_text()
    (place / "design.json").write_text(state.replace('"version": 1', '"version": 9'))
    with pytest.raises(DataError, match="is of version 9; this program reads version 1"):
        Design.load(place)
    (place / "design.json").write_text(state[:50])
    with pytest.raises(DataError, match=r"is damaged\. Run 02_prepare again"):
        Design.load(place)
    (place / "design.json").write_text(state)
    (place / "videos.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is damaged"):
        Design.load(place)
    (place / "videos.parquet").unlink()
    with pytest.raises(DataError, match=r"it has no videos\.parquet"):
        Design.load(place)


# --- bad input -----------------------------------------------------------------------------------------


def test_a_name_that_the_data_do_not_have_is_told() -> None:
    with pytest.raises(
        DataError,
        match=r"The ratings have no column gener; there are review_date, verified_purchase, age, genre, episodes\. "
        "Did you mean `genre`",
    ):
        fitted(["gener"])
    with pytest.raises(
        DataError, match="no column review_date, which month is made of; there are age, genre, episodes"
    ):
        fitted(["month"], train=ratings()[["customer", "video", "star_rating"]])
    with pytest.raises(DataError, match="The ratings have no column verified_purchase"):
        fitted(["verified_purchase"]).transform(ratings()[["customer", "video"]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0}, "weight must be a number above 0 and up to 1, not 0"),
        ({"weight": 1.5}, "weight must be a number above 0 and up to 1"),
        ({"buckets": -1}, "buckets must be a whole number from 0, not -1"),
        ({"most_rated": 2.5}, "most_rated must be a whole number from 0, not 2.5"),
        ({"seed": True}, "seed must be a whole number from 0"),
    ],
)
def test_options_out_of_range_are_told(options: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Design(customers(), videos(), **options)


def test_ratings_that_do_not_fit_are_told() -> None:
    design = fitted([])
    with pytest.raises(DataError, match="Row 1 has customer 20, outside 0 to 19"):
        design.transform(pd.DataFrame({"customer": [0, 20], "video": [0, 0]}))
    with pytest.raises(DataError, match="The column video holds float64, not numbers from 0"):
        design.transform(pd.DataFrame({"customer": [0], "video": [0.5]}))
    with pytest.raises(DataError, match="no column video or product_id; there are customer, star_rating"):
        design.transform(pd.DataFrame({"customer": [0], "star_rating": [0]}))
    with pytest.raises(
        DataError, match="fitted on ratings of customers and videos in its tables, of at least one"
    ):
        Design(customers(), videos()).fit(pd.DataFrame({"customer": [-1], "video": [0]}))
    with pytest.raises(DataError, match="fitted on ratings"):
        Design(customers(), videos()).fit(ratings().head(0))
    with pytest.raises(DataError, match=r"The design is not fitted\. Call fit"):
        Design(customers(), videos()).transform(ratings())
    with pytest.raises(DataError, match="The column video must hold every number from 0 once"):
        Design(customers(), videos()[1:])


def test_a_given_context_wins_over_what_is_typical_of_the_same_column() -> None:
    made = fitted(["month", "review_date"])
    assert made.in_context(1, {"month": "2014-08"})["review_date"].tolist() == ["2014-08"]


def test_what_is_not_there_is_told() -> None:
    made = fitted(["genre"])
    with pytest.raises(DataError, match="no side feature rated"):
        made.rated
    with pytest.raises(
        DataError, match=f"no customer {CUSTOMERS}: they are numbered from 0 to {CUSTOMERS - 1}"
    ):
        made.of_customer(CUSTOMERS)
    with pytest.raises(ParameterError, match="seed must be below"):
        fitted(["rated"], seed=2**64)
    twice = videos().assign(product_id="p")
    with pytest.raises(DataError, match="table of videos has the product_id p twice"):
        Design(customers(), twice)


def test_a_design_without_one_of_its_settings_is_damaged(tmp_path: Path) -> None:
    fitted().save(tmp_path)
    state = json.loads((tmp_path / "design.json").read_text())
    for key in ("weight", "columns", "features"):
        (tmp_path / "design.json").write_text(json.dumps({k: v for k, v in state.items() if k != key}))
        with pytest.raises(DataError, match="damaged"):
            Design.load(tmp_path)
