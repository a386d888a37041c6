"""How the values of a column become columns of the design matrix."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import side_features
from lib.errors import DataError, ParameterError

ROOT = Path(__file__).parents[2]
GENRES = pd.Series(["Drama, Comedy", "Drama", None, " Comedy |Drama|War ", "", "Drama, Drama"])


def fitted(values: list | pd.Series, feature: str = "x", **options: object) -> object:
    return side_features.fit(side_features.parse([feature])[0], pd.Series(values), **options)


# --- what is asked for ---------------------------------------------------------------------------------


def test_names_and_kinds_are_read() -> None:
    parsed = side_features.parse(["month", "rated", "genre", "episodes:log"])
    assert [(feature.name, feature.column, feature.kind) for feature in parsed] == [
        ("month", "review_date", "month"),
        ("rated", "", "rated"),
        ("genre", "genre", ""),
        ("episodes", "episodes", "log"),
    ]
    assert [str(feature) for feature in parsed] == ["month", "rated", "genre", "episodes:log"]
    assert side_features.columns(["rated", "month", "review_date:category"]) == ["review_date"]
    assert side_features.parse([]) == []


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (None, "a list of names"),
        (5, "a list of names"),
        ([":category"], "a list of names"),
        ("genre", r"a list of names, not 'genre'\. Write them like \[month, rated\]"),
        (["genre", 3], "a list of names"),
        ([" "], "a list of names"),
        (["episodes:logg"], "episodes:logg is of no known kind. Did you mean `log`"),
        (["episodes:zzz"], "The kinds are category, categories, number, log"),
        (["month:number"], "month has no kind to choose"),
        (["genre", "genre:category"], "genre is asked for twice"),
        (["star_rating"], "star_rating cannot be a side feature: it is what is to be predicted"),
        (["product_id"], "product_id cannot be a side feature: it is in the design matrix anyway"),
    ],
)
def test_what_cannot_be_a_feature_is_told(features: object, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        side_features.parse(features)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2.5", "", None], "number"),
        ([1, 2], "number"),
        ([True, False], "category"),
        (["Y", "N"], "category"),
        (["1", "Unknown"], "category"),
        (["a", "a, b"], "categories"),
        (["a|b"], "categories"),
        ([None, ""], "category"),
    ],
)
def test_the_kind_follows_from_the_values(values: list, kind: str) -> None:
    assert side_features.look(pd.Series(values)) == kind


# --- categories ----------------------------------------------------------------------------------------


def test_each_category_is_a_column_and_the_row_has_the_length_one() -> None:
    columns = fitted(GENRES)
    assert columns.names == ["x=Comedy", "x=Drama", "x=War"]
    half, third = np.sqrt(1 / 2), np.sqrt(1 / 3)
    np.testing.assert_allclose(
        columns.encode(GENRES).toarray(),
        [[half, half, 0], [0, 1, 0], [0, 0, 0], [third, third, third], [0, 0, 0], [0, 1, 0]],
        rtol=1e-6,
    )
    assert columns.typical == "Drama, Comedy"


def test_only_what_training_rows_have_gets_a_column() -> None:
    columns = fitted(["a", "b", "c"], rows=np.array([5, 0, 1]))
    assert columns.known == ["a", "c"]
    assert columns.typical == "a"
    assert columns.encode(pd.Series(["b"])).nnz == 0
    assert columns.unseen(pd.Series(["b", "a", None, "z"])) == 2


def test_a_later_category_leaves_the_known_ones_their_length() -> None:
    columns = fitted(["a, b"])
    np.testing.assert_array_equal(columns.encode(pd.Series(["a, new"])).toarray(), [[1, 0]])


def test_numbers_as_categories_are_the_same_as_text_and_with_gaps() -> None:
    columns = fitted([3, 7, 3], "x:category")
    assert columns.names == ["x=3", "x=7"]
    for values in ([7, 3], [7.0, 3.0], ["7", "3"], ["7", " 3 "]):
        np.testing.assert_array_equal(columns.encode(pd.Series(values)).toarray(), [[0, 1], [1, 0]])


def test_months_are_known_from_dates_times_and_seconds() -> None:
    values = ["2014-03-31", "2014-03-01T12:00:00", "1394000000", "2015-01", "yesterday", None, "2014-13-01"]
    columns = fitted(values, "month")
    assert columns.names == ["month=2014-03", "month=2015-01"]
    counts = np.diff(columns.encode(pd.Series(values)).indptr)
    assert counts.tolist() == [1, 1, 1, 1, 0, 0, 0]
    dates = pd.Series(pd.to_datetime(["2015-01-20", None]))
    np.testing.assert_array_equal(columns.encode(dates).toarray(), [[0, 1], [0, 0]])


def test_a_column_without_values_is_told() -> None:
    with pytest.raises(DataError, match="No training row has a value in the column x"):
        fitted(["", None])
    with pytest.raises(DataError, match="No training row has a usable date in the column review_date"):
        fitted(["soon"], "month")
    with pytest.raises(DataError, match="No training row has a number in the column x"):
        fitted(["soon"], "x:number")


# --- hashing -------------------------------------------------------------------------------------------


def test_rare_and_later_categories_share_the_hashed_columns() -> None:
    columns = fitted(["often"] * 5 + ["rare"], buckets=4)
    assert columns.known == ["often"]
    assert columns.names[1:] == [f"x: others, {bucket}" for bucket in range(4)]
    X = columns.encode(pd.Series(["often", "rare", "never seen"])).toarray()
    assert X[0].tolist() == [1, 0, 0, 0, 0]
    assert X[1, 0] == X[2, 0] == 0
    assert X[1].sum() == X[2].sum() == 1
    assert X[2].argmax() == 1 + side_features.bucket("never seen", 4)


def test_hashing_is_the_same_in_another_process() -> None:
    words = [f"category {n}" for n in range(50)] + ["Ünïcödé"]
    script = "import json, sys; from lib.side_features import bucket; "
    script += "print(json.dumps([bucket(word, 97) for word in json.loads(sys.argv[1])]))"
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(words)],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "123", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found == [side_features.bucket(word, 97) for word in words]
    assert found[:3] == [31, 20, 69]  # and for ever
    assert len(set(found)) > 25


# --- numbers -------------------------------------------------------------------------------------------


def test_numbers_are_scaled_by_the_training_rows_and_clipped() -> None:
    column = fitted(list(range(101)))
    assert (column.low, column.high) == (1, 99)
    X = column.encode(pd.Series([1, 50, 99, 1e9, -1e9, None, "many", np.inf])).toarray().ravel()
    np.testing.assert_allclose(X, [-1, 0, 1, 1, -1, 0, 0, 0])
    assert column.unseen(pd.Series([1, 50, 99, 1e9, -1e9, None])) == 2
    assert column.typical == "50.0"


def test_training_rows_weigh() -> None:
    assert fitted([1, 2, 100], rows=np.array([10, 10, 0])).high == 2


def test_the_logarithm_tames_a_long_tail() -> None:
    column = fitted([0, 1, 1000], "x:log")
    assert column.names == ["log(1 + x)"]
    X = column.encode(pd.Series([0, 30.6386, 1000])).toarray().ravel()
    np.testing.assert_allclose(X, [-1, 0, 1], atol=1e-4)
    assert float(column.typical) == pytest.approx(1)
    with pytest.raises(
        DataError,
        match=r"The column x holds -3, which has no place on a logarithmic scale\. Ask for x:number",
    ):
        column.encode(pd.Series([1, -3]))


def test_a_constant_number_tells_nothing() -> None:
    assert fitted([4, 4]).encode(pd.Series([4, 5])).nnz == 0


# --- all of them ---------------------------------------------------------------------------------------

VALUES = st.lists(
    st.one_of(
        st.none(),
        st.text(alphabet="ab,| 1", max_size=6),
        st.floats(0, 1e9),
        st.integers(0, 10**9).map(str),
    ),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(
    VALUES,
    VALUES,
    st.sampled_from(["x", *(f"x:{kind}" for kind in side_features.KINDS), "month"]),
    st.integers(0, 3),
)
def test_values_stay_within_one_and_files_bring_the_same_columns(
    train: list, later: list, feature: str, buckets: int
) -> None:
    train_values, values = pd.Series(train, dtype=object), pd.Series(later, dtype=object)
    try:
        columns = fitted(train_values, feature, buckets=buckets)
    except DataError:
        return
    X = columns.encode(values)
    assert X.shape == (len(values), columns.size) == (len(values), len(columns.names))
    assert X.dtype == np.float32
    assert np.isfinite(X.data).all()
    assert np.abs(X.data).max(initial=0) <= 1
    assert X.power(2).sum(axis=1).max() <= 1 + 1e-5
    assert X.has_canonical_format
    again = side_features.from_json(json.loads(json.dumps(columns.to_json())))
    assert again == columns
    assert (again.encode(values) != X).nnz == 0


def test_the_typical_value_of_whole_numbers_with_gaps_has_its_column() -> None:
    columns = fitted([1.0, None, 1.0, 2.0], "x:category")
    assert columns.typical == "1"
    np.testing.assert_array_equal(columns.encode(pd.Series([columns.typical])).toarray(), [[1, 0]])
    np.testing.assert_array_equal(columns.encode(pd.Series(["1.0", "2"])).toarray(), [[1, 0], [0, 1]])


def test_months_of_milliseconds_and_days_without_hyphens() -> None:
    columns = fitted(["1394000000000", "20140305", "2014-03"], "month")
    assert columns.names == ["month=2014-03"]
    for none in ("14000000000", "9" * 30, "99991301", "1e300"):
        assert columns.encode(pd.Series([none])).nnz == 0


def test_dates_are_no_numbers() -> None:
    dates = pd.Series(pd.to_datetime(["2020-01-01", None]))
    assert side_features.look(dates) == "category"
    with pytest.raises(DataError, match="holds dates, not numbers"):
        fitted(dates, "x:number")


def test_lists_in_the_cells_are_refused() -> None:
    with pytest.raises(DataError, match="column x holds lists, not one value a row"):
        fitted([["a"], ["b"]])
