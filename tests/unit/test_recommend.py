"""Top and bottom recommendations, similar videos, two customers compared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lib import features, fm
from lib.design import Design
from lib.errors import DataError, ModelError, ParameterError
from lib.recommend import Recommender

CUSTOMERS, VIDEOS = 6, 40


def model_of(kind: str = "regressor", seed: int = 0) -> fm.Model:
    random = np.random.default_rng(seed)
    return fm.Model(
        3.5,
        random.normal(0, 0.5, CUSTOMERS + VIDEOS).astype(np.float32),
        random.normal(0, 0.5, (CUSTOMERS + VIDEOS, 4)).astype(np.float32),
        kind,
    )


@pytest.fixture
def customers() -> pd.DataFrame:
    return pd.DataFrame({"customer": range(CUSTOMERS), "customer_id": [f"c{n}" for n in range(CUSTOMERS)]})


@pytest.fixture
def videos() -> pd.DataFrame:
    number = np.arange(VIDEOS)
    return pd.DataFrame(
        {
            "video": number,
            "product_id": [f"p{n}" for n in number],
            "product_title": [f"Film {n}" for n in number],
            "ratings": VIDEOS - number,
        }
    )


@pytest.fixture
def ratings() -> pd.DataFrame:
    return pd.DataFrame({"customer": [0, 0, 3], "video": [7, 9, 7], "star_rating": [1.0, 5.0, 3.0]})


@pytest.mark.parametrize("kind", ["regressor", "binary_classifier"])
def test_scores_are_the_models_predictions(customers: pd.DataFrame, videos: pd.DataFrame, kind: str) -> None:
    model = model_of(kind)
    recommender = Recommender(model, customers, videos)
    for customer in range(CUSTOMERS):
        X = features.design_matrix(np.full(VIDEOS, customer), np.arange(VIDEOS), CUSTOMERS, VIDEOS)
        np.testing.assert_allclose(recommender.scores(customer), model.predict(X), rtol=1e-5)


def test_top_and_bottom_are_the_two_ends(customers: pd.DataFrame, videos: pd.DataFrame) -> None:
    recommender = Recommender(model_of(), customers, videos)
    scores = recommender.scores("c2")
    top, bottom = recommender.top("c2", 5), recommender.bottom("c2", 5)
    assert top["score"].tolist() == sorted(scores, reverse=True)[:5]
    assert bottom["score"].tolist() == sorted(scores)[:5]
    assert top.index.tolist() == [1, 2, 3, 4, 5]
    best = int(np.argmax(scores))
    assert top.iloc[0].tolist() == [f"Film {best}", f"p{best}", scores[best], VIDEOS - best]


def test_a_customer_is_known_by_id_and_by_number(customers: pd.DataFrame, videos: pd.DataFrame) -> None:
    recommender = Recommender(model_of(), customers, videos)
    pd.testing.assert_frame_equal(recommender.top("c4"), recommender.top(4))


def test_tables_may_come_in_any_order(customers: pd.DataFrame, videos: pd.DataFrame) -> None:
    ordered = Recommender(model_of(), customers, videos)
    mixed = Recommender(model_of(), customers[::-1], videos.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(ordered.top("c1"), mixed.top("c1"))


def test_what_was_rated_is_left_out_unless_asked_for(
    customers: pd.DataFrame, videos: pd.DataFrame, ratings: pd.DataFrame
) -> None:
    recommender = Recommender(model_of(), customers, videos, ratings)
    everything = set(videos["product_id"])
    assert everything - set(recommender.top("c0", VIDEOS)["product_id"]) == {"p7", "p9"}
    assert everything - set(recommender.bottom("c3", VIDEOS)["product_id"]) == {"p7"}
    assert set(recommender.top("c0", VIDEOS, seen="include")["product_id"]) == everything
    assert set(recommender.top("c1", VIDEOS)["product_id"]) == everything
    with pytest.raises(ParameterError, match="seen is exclude or include"):
        recommender.top("c0", seen="both")  # type: ignore[arg-type]


def test_videos_with_few_ratings_are_left_out(customers: pd.DataFrame, videos: pd.DataFrame) -> None:
    recommender = Recommender(model_of(), customers, videos, min_ratings=31)
    for table in (
        recommender.top("c0", VIDEOS),
        recommender.bottom("c0", VIDEOS),
        recommender.similar("p39", VIDEOS),
    ):
        assert set(table["product_id"]) == {f"p{n}" for n in range(10)}
    with pytest.raises(DataError, match="No video has 99 or more ratings"):
        Recommender(model_of(), customers, videos, min_ratings=99)


def test_equal_scores_are_in_the_order_of_the_videos(customers: pd.DataFrame, videos: pd.DataFrame) -> None:
    flat = fm.Model(1.0, np.zeros(CUSTOMERS + VIDEOS), np.zeros((CUSTOMERS + VIDEOS, 2)))
    recommender = Recommender(flat, customers, videos)
    assert recommender.top("c0", 3)["product_id"].tolist() == ["p0", "p1", "p2"]
    assert recommender.bottom("c0", 3)["product_id"].tolist() == ["p0", "p1", "p2"]
    assert recommender.similar("p0", 3)["score"].tolist() == [0, 0, 0]
    assert np.isnan(recommender.compare("c0", "c1").correlation)


def test_similar_videos_point_in_the_same_direction(customers: pd.DataFrame, videos: pd.DataFrame) -> None:
    model = model_of()
    model.factors[CUSTOMERS + 5] = 3 * model.factors[CUSTOMERS + 8]
    model.factors[CUSTOMERS + 6] = -model.factors[CUSTOMERS + 8]
    similar = Recommender(model, customers, videos).similar("p8", VIDEOS)
    assert len(similar) == VIDEOS - 1
    assert "p8" not in set(similar["product_id"])
    assert similar.iloc[0]["product_id"] == "p5"
    assert similar.iloc[0]["score"] == pytest.approx(1)
    assert similar.iloc[-1]["product_id"] == "p6"
    assert similar.iloc[-1]["score"] == pytest.approx(-1)


def test_two_customers_side_by_side(
    customers: pd.DataFrame, videos: pd.DataFrame, ratings: pd.DataFrame
) -> None:
    recommender = Recommender(model_of(), customers, videos, ratings)
    comparison = recommender.compare("c0", "c3", 12)
    one, other = (recommender.top(customer, 12, seen="include") for customer in ("c0", "c3"))
    assert comparison.table["c0"]["title"].tolist() == one["title"].tolist()
    assert comparison.table["c3"]["score"].tolist() == other["score"].tolist()
    assert comparison.shared == [title for title in one["title"] if title in set(other["title"])]
    assert (
        comparison.table["c0"]["shared"].sum()
        == comparison.table["c3"]["shared"].sum()
        == len(comparison.shared)
    )
    expected = np.corrcoef(recommender.scores(0), recommender.scores(3))[0, 1]
    assert comparison.correlation == pytest.approx(expected)
    assert comparison.scores.columns.tolist() == ["title", "c0", "c3"]
    assert len(comparison.scores) == VIDEOS


def test_equal_customers_agree_wholly(customers: pd.DataFrame, videos: pd.DataFrame) -> None:
    model = model_of()
    model.factors[1] = model.factors[0]
    comparison = Recommender(model, customers, videos).compare("c0", "c1", 5)
    assert comparison.correlation == pytest.approx(1)
    assert len(comparison.shared) == 5
    with pytest.raises(DataError, match="compared with oneself"):
        Recommender(model, customers, videos).compare("c0", 0)


def test_titles_and_ratings_are_welcome_but_not_needed(customers: pd.DataFrame, videos: pd.DataFrame) -> None:
    bare = Recommender(model_of(), customers, videos[["video", "product_id"]])
    top = bare.top("c0", 2)
    assert top.columns.tolist() == ["title", "product_id", "score"]
    assert top["title"].tolist() == top["product_id"].tolist()
    with pytest.raises(DataError, match="no column ratings, which min_ratings needs"):
        Recommender(model_of(), customers, videos[["video", "product_id"]], min_ratings=5)


def test_one_who_is_not_known_is_told_with_a_hint(customers: pd.DataFrame, videos: pd.DataFrame) -> None:
    recommender = Recommender(model_of(), customers, videos)
    with pytest.raises(DataError, match=r"no customer with the customer_id 'c22' among the 6.*`c2`"):
        recommender.top("c22")
    with pytest.raises(DataError, match="Known are c0, c1, c2 and so on"):
        recommender.top("Jane Doe")
    with pytest.raises(DataError, match=r"no customer number 6.*Give a customer_id as text"):
        recommender.top(6)
    with pytest.raises(DataError, match="no video with the product_id"):
        recommender.similar("Film 3")
    with pytest.raises(ParameterError, match="at least one video"):
        recommender.top("c0", 0)


def test_a_model_and_tables_that_do_not_fit_are_told(customers: pd.DataFrame, videos: pd.DataFrame) -> None:
    with pytest.raises(ModelError, match=r"46 features, but there are 5 customers and 40 videos"):
        Recommender(model_of(), customers[:5], videos)
    with pytest.raises(DataError, match="must hold every number from 0 once"):
        Recommender(model_of(), customers[1:], videos)
    with pytest.raises(DataError, match="videos has no column product_id; it has video"):
        Recommender(model_of(), customers, videos[["video"]])


# --- with side features --------------------------------------------------------------------------------


def designed(videos: pd.DataFrame, customers: pd.DataFrame, asked: list[str]) -> tuple[Design, pd.DataFrame]:
    rng = np.random.default_rng(0)
    pair = rng.choice(CUSTOMERS * VIDEOS, 90, replace=False)
    train = pd.DataFrame(
        {
            "customer": pair // VIDEOS,
            "video": pair % VIDEOS,
            "review_date": rng.choice(["2014-03-01", "2014-04-01", "2014-05-01"], 90, p=[0.2, 0.6, 0.2]),
        }
    )
    videos = videos.assign(genre=["Drama, War" if n % 3 else "Comedy" for n in range(VIDEOS)])
    return Design(customers, videos, asked, most_rated=8, weight=1.0).fit(train), train


def model_for(design: Design, kind: str = "regressor") -> fm.Model:
    random = np.random.default_rng(1)
    linear = random.normal(0, 0.5, design.feature_dim)
    return fm.Model(3.5, linear, random.normal(0, 0.5, (design.feature_dim, 4)), kind)


@pytest.mark.parametrize("kind", ["regressor", "binary_classifier"])
@pytest.mark.parametrize("asked", [[], ["genre"], ["rated"], ["month"], ["genre", "month", "rated"]])
def test_scores_with_side_features_are_the_models_predictions(
    customers: pd.DataFrame, videos: pd.DataFrame, asked: list[str], kind: str
) -> None:
    design, train = designed(videos, customers, asked)
    model = model_for(design, kind)
    context = {"month": "2014-05"} if "month" in asked else {}
    for given, day in [(context, "2014-05-20"), ({}, "2014-04-01")]:
        recommender = Recommender(model, customers, videos, train, design=design, context=given)
        for customer in range(CUSTOMERS):
            rows = pd.DataFrame({"customer": customer, "video": range(VIDEOS), "review_date": day})
            expected = model.predict(design.transform(rows))
            np.testing.assert_allclose(recommender.scores(customer), expected, rtol=2e-5, atol=1e-6)


def test_a_video_without_training_ratings_is_recommended_by_its_features(
    customers: pd.DataFrame, videos: pd.DataFrame
) -> None:
    videos = videos.assign(genre=["Drama"] * 20 + ["Comedy"] * 20)
    train = pd.DataFrame({"customer": np.repeat(range(CUSTOMERS), 5), "video": np.tile([0, 1, 2, 20, 21], 6)})
    design = Design(customers, videos, ["genre"]).fit(train)
    recommender = Recommender(model_for(design), customers, videos, design=design)
    scores = recommender.scores("c0")
    assert np.unique(scores[3:20]).size == np.unique(scores[22:]).size == 1
    assert scores[3] != scores[22]
    assert recommender.similar("p5", 30).head(16)["score"].tolist() == pytest.approx([1] * 16)


def test_a_design_that_does_not_fit_is_told(customers: pd.DataFrame, videos: pd.DataFrame) -> None:
    design, _ = designed(videos, customers, ["genre", "month"])
    model = model_for(design)
    with pytest.raises(ModelError, match=r"52 features, but there are 6 .* and its design where it has side"):
        Recommender(model, customers, videos)
    with pytest.raises(ModelError, match=r"46 features, but there are 6 .* and 6 columns of side features"):
        Recommender(model_of(), customers, videos, design=design)
    with pytest.raises(ModelError, match="6 customers and 40 videos, but the tables have 6 and 39"):
        Recommender(model, customers, videos[:-1], design=design)
    with pytest.raises(
        ParameterError, match=r"The context names moth, which is no feature of a rating\. Did you mean"
    ):
        Recommender(model, customers, videos, design=design, context={"moth": "2014-05"})
    with pytest.raises(ParameterError, match=r"The context names genre, .* There are month"):
        Recommender(model, customers, videos, design=design, context={"genre": "War"})
    with pytest.raises(ParameterError, match="A context needs a design"):
        Recommender(model_of(), customers, videos, context={"month": "2014-05"})
