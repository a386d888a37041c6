"""Recommendations, similar items and vectors: the same as what the model predicts, only faster."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from lib import fm
from lib.errors import ModelError, ParameterError

CUSTOMERS, FILMS, GENRES, K = 6, 20, 3, 4
D = CUSTOMERS + FILMS + GENRES
ALL_FILMS = range(CUSTOMERS, CUSTOMERS + FILMS)
TITLES = [f"Film {n}" for n in range(FILMS)]


def model_of(kind: str = "regressor") -> fm.Model:
    random = np.random.default_rng(3)
    return fm.Model(3.5, random.normal(0, 0.5, D), random.normal(0, 0.5, (D, K)), kind)


def rows(context: dict[int, float], films: range = ALL_FILMS) -> np.ndarray:
    X = np.zeros((len(films), D))
    X[np.arange(len(films)), list(films)] = 1
    for feature, value in context.items():
        X[:, feature] = value
    return X


@pytest.mark.parametrize("kind", ["regressor", "binary_classifier"])
def test_recommendations_are_the_models_highest_predictions(kind):
    model = model_of(kind)
    context = {2: 1.0, 3: -0.5, D - 1: 0.25}
    scores = model.predict(rows(context))
    top = model.recommend(context, ALL_FILMS, 5, names=TITLES)
    order = np.argsort(-scores)[:5]
    assert top.index.tolist() == [1, 2, 3, 4, 5]
    assert top.index.name == "rank"
    assert top["feature"].tolist() == (CUSTOMERS + order).tolist()
    assert top["name"].tolist() == [TITLES[film] for film in order]
    np.testing.assert_allclose(top["score"], scores[order], rtol=1e-5)
    np.testing.assert_allclose(
        model.candidate_outputs(context, ALL_FILMS), model.outputs(rows(context)), rtol=1e-5
    )


def test_candidates_come_as_slice_range_or_numbers():
    model = model_of()
    whole = model.candidate_outputs({0: 1}, ALL_FILMS)
    for candidates in (
        slice(CUSTOMERS, CUSTOMERS + FILMS),
        list(ALL_FILMS),
        np.arange(CUSTOMERS, CUSTOMERS + FILMS),
    ):
        np.testing.assert_array_equal(model.candidate_outputs({0: 1}, candidates), whole)
    np.testing.assert_array_equal(
        model.candidate_outputs({0: 1}, range(CUSTOMERS, 20, 3)), whole[: 20 - CUSTOMERS : 3]
    )
    assert model.recommend({0: 1}, [9, 7], 5)["feature"].tolist() in ([9, 7], [7, 9])
    assert model.recommend({0: 1}, [], 5).empty


def test_candidates_may_bring_features_of_their_own():
    model = model_of()
    random = np.random.default_rng(5)
    parts = rows({})
    parts[:, -GENRES:] = random.random((FILMS, GENRES)) < 0.5
    whole = parts.copy()
    whole[:, 2] = 1
    for candidates in (parts, sparse.csr_matrix(parts)):
        np.testing.assert_allclose(
            model.candidate_outputs({2: 1}, candidates), model.outputs(whole), rtol=1e-5
        )
    top = model.recommend({2: 1}, parts, 3, names=TITLES)
    best = np.argsort(-model.outputs(whole))[:3]
    assert top["row"].tolist() == best.tolist()
    assert top["name"].tolist() == [TITLES[film] for film in best]


def test_what_a_row_has_of_the_candidates_is_left_out_of_it():
    model = model_of()
    rated = rows({1: 1.0})[3]
    assert model.recommend(rated, ALL_FILMS).equals(model.recommend({1: 1.0}, ALL_FILMS))


def test_excluded_candidates_are_not_recommended():
    model = model_of()
    whole = model.recommend({0: 1}, ALL_FILMS, FILMS, names=TITLES)
    first, second = whole.iloc[0], whole.iloc[1]
    left = model.recommend(
        {0: 1}, ALL_FILMS, FILMS, exclude=[first["feature"], second["name"], 0], names=TITLES
    )
    assert left["name"].tolist() == whole["name"].tolist()[2:]


def test_equal_scores_stay_in_the_candidates_order():
    model = fm.Model(1.0, np.zeros(D), np.zeros((D, 1)))
    for n in (3, FILMS, 100):
        assert model.recommend({0: 1}, ALL_FILMS, n)["feature"].tolist() == list(ALL_FILMS)[:n]


def test_similar_items_are_those_of_the_highest_cosine():
    model = model_of()
    vectors = model.factors[CUSTOMERS : CUSTOMERS + FILMS].astype(float)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[4]
    order = [film for film in np.argsort(-cosines) if film != 4]
    similar = model.similar_items(CUSTOMERS + 4, ALL_FILMS, FILMS, names=TITLES)
    assert similar["feature"].tolist() == [CUSTOMERS + film for film in order]
    np.testing.assert_allclose(similar["similarity"], cosines[order], rtol=1e-5, atol=1e-6)
    assert similar.equals(model.similar_items("Film 4", ALL_FILMS, FILMS, names=TITLES))
    assert len(model.similar_items(0)) == 10


def test_an_item_without_a_vector_is_like_nothing():
    model = fm.Model(0.0, np.zeros(3), [[0.0], [1.0], [2.0]])
    assert model.similar_items(0)["similarity"].tolist() == [0, 0]


def test_vectors_rank_as_the_model_does():
    model = model_of()
    items, users = model.item_vectors(ALL_FILMS), model.user_vectors(range(CUSTOMERS))
    assert items.shape == (FILMS, K + 1)
    assert items.dtype == users.dtype == np.float32
    products = users @ items.T
    for customer in range(CUSTOMERS):
        outputs = model.outputs(rows({customer: 1.0}))
        np.testing.assert_allclose(
            products[customer] + model.bias + model.linear[customer], outputs, atol=1e-5
        )
    np.testing.assert_allclose(model.item_vectors(rows({})), items, atol=1e-6)
    assert model.item_vectors().shape == (D, K + 1)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda m: m.recommend({0: 1}, [3, D]), ParameterError, f"no feature {D}: the model has {D}"),
        (lambda m: m.recommend({0: 1}, [-1]), ParameterError, "no feature -1"),
        (lambda m: m.recommend({0: 1}, range(3, D + 1)), ParameterError, f"no feature {D}"),
        (lambda m: m.recommend({0: 1}, ["a"]), ParameterError, "given by number"),
        (lambda m: m.recommend({0: 1}, ALL_FILMS, 0), ParameterError, "1 or more, not 0"),
        (lambda m: m.recommend({D: 1}, ALL_FILMS), ParameterError, f"no feature {D} here"),
        (
            lambda m: m.recommend({0: 1}, ALL_FILMS, names=["a"]),
            ParameterError,
            "1 names, but 29 features, 20 of them",
        ),
        (
            lambda m: m.recommend({0: 1}, ALL_FILMS, exclude=["Filn 1"], names=TITLES),
            ParameterError,
            "Did you mean `Film 1`",
        ),
        (lambda m: m.recommend({0: 1}, np.ones((2, 3))), ModelError, "takes 29 features"),
        (lambda m: m.similar_items(2, ALL_FILMS), ParameterError, "no feature 2 here: there are 20, 6 to 25"),
        (lambda m: m.similar_items("Film 1", ALL_FILMS), ParameterError, "Give names="),
    ],
)
def test_what_there_is_not_is_refused(use, error, message):
    with pytest.raises(error, match=message):
        use(model_of())
