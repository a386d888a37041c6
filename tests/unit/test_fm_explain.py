"""Explanations: the terms sum to the output, whatever the row and however it is given."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from lib import fm
from lib.errors import ArrayError, ModelError, ParameterError

D, K = 12, 3


def model_of(kind: str = "regressor") -> fm.Model:
    random = np.random.default_rng(3)
    return fm.Model(3.5, random.normal(0, 0.5, D), random.normal(0, 0.5, (D, K)), kind)


def rows() -> np.ndarray:
    random = np.random.default_rng(4)
    return random.normal(0, 1, (20, D)) * (random.random((20, D)) < 0.4)


@pytest.mark.parametrize("kind", ["regressor", "binary_classifier"])
def test_terms_sum_to_the_output(kind):
    model, X = model_of(kind), rows()
    for x, output, score in zip(X, model.outputs(X), model.predict(X), strict=True):
        explanation = model.explain(x)
        active = np.count_nonzero(x)
        assert explanation.output == pytest.approx(output, abs=1e-5)
        assert explanation.score == pytest.approx(score, abs=1e-6)
        assert explanation.table["contribution"].sum() == pytest.approx(explanation.output, abs=1e-12)
        assert explanation.features["contribution"].sum() + model.bias == pytest.approx(explanation.output)
        assert explanation.table["term"].value_counts().to_dict() == {
            name: count
            for name, count in {"bias": 1, "linear": active, "pair": active * (active - 1) // 2}.items()
            if count
        }


def test_each_term_is_that_of_the_equation():
    model = model_of()
    table = model.explain({2: 0.5, 7: -2.0}).table.set_index(["term", "feature", "with_feature"])[
        "contribution"
    ]
    assert table["bias", "", ""] == 3.5
    assert table["linear", 2, ""] == pytest.approx(0.5 * model.linear[2])
    assert table["linear", 7, ""] == pytest.approx(-2 * model.linear[7])
    assert table["pair", 2, 7] == pytest.approx(-1.0 * float(model.factors[2] @ model.factors[7]), rel=1e-6)


def test_the_largest_terms_come_first_and_the_others_are_summed():
    model, x = model_of(), rows()[0]
    whole, short = model.explain(x), model.explain(x, n=3)
    sizes = whole.table["contribution"].abs().tolist()
    assert sizes == sorted(sizes, reverse=True)
    assert short.table["term"].tolist() == [*whole.table["term"][:3], "others"]
    assert short.table["contribution"].sum() == pytest.approx(whole.output, abs=1e-12)
    assert model.explain(x, n=10_000).table.equals(whole.table)
    assert str(short).startswith(f"output {whole.output:.6g}, score")


def test_a_row_may_be_an_array_a_matrix_or_features_with_values_and_names():
    model, x = model_of(), rows()[1]
    names = [f"feature {n}" for n in range(D)]
    table = model.explain(x).table
    for row in (x[None], sparse.csr_matrix(x), sparse.coo_array(x[None]), x.tolist(), dict(enumerate(x))):
        assert model.explain(row).table.equals(table)
    named = model.explain({names[n]: x[n] for n in np.flatnonzero(x)}, names=names)
    assert named.table["contribution"].tolist() == table["contribution"].tolist()
    assert set(named.features["feature"]) == {names[n] for n in np.flatnonzero(x)}


def test_an_empty_row_is_the_bias():
    explanation = model_of().explain({})
    assert explanation.output == 3.5
    assert explanation.table["term"].tolist() == ["bias"]
    assert explanation.features.empty


@pytest.mark.parametrize(
    ("row", "names", "error", "message"),
    [
        ({D: 1}, None, ParameterError, "no feature 12 here: there are 12, 0 to 11"),
        ({"x": 1}, None, ParameterError, "without names they go by number"),
        ({"Alian": 1}, ["Alien", *"abcdefghijk"], ParameterError, "name 'Alian' here. Did you mean `Alien`"),
        ({0: 1}, ["a"], ParameterError, "There are 1 names, but 12 features"),
        ({0: 1, 3: np.nan}, None, ParameterError, "value of feature 3 is no finite number, but NaN"),
        (np.zeros((2, D)), None, ParameterError, "One row is wanted here, not 2"),
        (np.zeros(D - 1), None, ModelError, "takes 12 features, but the examples have 11"),
        (np.full(D, np.inf), None, ArrayError, "inf in row 0, column 0"),
    ],
)
def test_rows_that_cannot_be_explained_are_refused(row, names, error, message):
    with pytest.raises(error, match=message):
        model_of().explain(row, names=names)


def test_an_explanation_has_a_term():
    with pytest.raises(ParameterError, match="1 or more, not 0"):
        model_of().explain({0: 1}, n=0)
