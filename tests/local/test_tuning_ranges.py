"""Ranges of a tuning job: every scaling puts its values where it should, and back."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.local.protocol import AwsError
from lib.local.ranges import NumberRange, WordRange, parse_ranges

LEARNING_RATE = {"Name": "factors_lr", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}


def draws(kind: str, count: int = 4000, **members: Any) -> list[str]:
    (drawn,) = parse_ranges({kind: [{"Name": "x", **members}]})
    chance = random.Random(0)
    return [drawn.draw(chance.random()) for _ in range(count)]


def numbers(low: str, high: str, scaling: str, kind: str = "Continuous") -> list[float]:
    members = {"MinValue": low, "MaxValue": high, "ScalingType": scaling}
    return [float(value) for value in draws(f"{kind}ParameterRanges", **members)]


def share_below(values: list[float], limit: float) -> float:
    return sum(value < limit for value in values) / len(values)


def test_scalings_put_the_middle_where_they_should() -> None:
    linear = numbers("0", "10", "Linear")
    logarithmic = numbers("0.0001", "1", "Logarithmic")
    reverse = numbers("0.0", "0.9999", "ReverseLogarithmic")
    assert share_below(linear, 5) == pytest.approx(0.5, abs=0.03)
    assert share_below(logarithmic, 0.01) == pytest.approx(0.5, abs=0.03)
    assert share_below(reverse, 0.99) == pytest.approx(0.5, abs=0.03)
    for values, low, high in ((linear, 0, 10), (logarithmic, 0.0001, 1), (reverse, 0, 0.9999)):
        assert low <= min(values) <= max(values) <= high


def test_auto_is_logarithmic_for_wide_positive_ranges_only() -> None:
    assert numbers("0.001", "1", "Auto") == numbers("0.001", "1", "Logarithmic")
    assert numbers("0.5", "1", "Auto") == numbers("0.5", "1", "Linear")
    assert numbers("0", "1000", "Auto") == numbers("0", "1000", "Linear")


@pytest.mark.parametrize("scaling", ["Linear", "Logarithmic"])
def test_integers_reach_both_ends(scaling: str) -> None:
    members = {"MinValue": "2", "MaxValue": "5", "ScalingType": scaling}
    assert set(draws("IntegerParameterRanges", **members)) == {"2", "3", "4", "5"}


def test_integers_of_a_linear_range_are_equally_likely() -> None:
    values = numbers("1", "4", "Linear", kind="Integer")
    assert [values.count(value) / len(values) for value in (1, 2, 3, 4)] == pytest.approx(
        [0.25] * 4, abs=0.03
    )


def test_words_are_chosen_from_their_list() -> None:
    words = draws("CategoricalParameterRanges", Values=["normal", "uniform"])
    assert {word: words.count(word) / len(words) for word in set(words)} == pytest.approx(
        {"normal": 0.5, "uniform": 0.5}, abs=0.03
    )


def test_a_range_of_one_value_gives_that_value() -> None:
    assert set(numbers("3", "3", "Logarithmic", kind="Integer")) == {3}
    assert set(numbers("0.5", "0.5", "ReverseLogarithmic")) == {0.5}


@pytest.mark.parametrize(
    ("kind", "low", "high", "scaling", "text"),
    [
        ("Continuous", "a", "1", "Linear", "should be two numbers"),
        ("Continuous", "nan", "1", "Linear", "should be two numbers"),
        ("Continuous", "2", "1", "Linear", "the smaller first"),
        ("Integer", "1.5", "2", "Linear", "should be two whole numbers"),
        ("Continuous", "0", "1", "Logarithmic", "needs a range above 0"),
        ("Continuous", "0", "1", "ReverseLogarithmic", "within 0 <= x < 1"),
        ("Integer", "0", "0", "ReverseLogarithmic", "needs a continuous range"),
    ],
)
def test_a_range_that_is_none_is_refused(kind: str, low: str, high: str, scaling: str, text: str) -> None:
    with pytest.raises(AwsError, match=text):
        numbers(low, high, scaling, kind)


def test_a_hyperparameter_has_one_range() -> None:
    twice = {"ContinuousParameterRanges": [LEARNING_RATE, LEARNING_RATE]}
    with pytest.raises(AwsError, match="factors_lr has more than one range"):
        parse_ranges(twice)


@st.composite
def number_ranges(draw: st.DrawFn) -> NumberRange:
    integer = draw(st.booleans())
    scaling = draw(st.sampled_from(["Linear", "Logarithmic"] + ([] if integer else ["ReverseLogarithmic"])))
    most = 0.999 if scaling == "ReverseLogarithmic" else 1e6
    least = 1e-6 if scaling == "Logarithmic" else 0.0
    numbers = st.integers(1, 10_000) if integer else st.floats(least, most)
    low, high = sorted([draw(numbers), draw(numbers)])
    return NumberRange("x", float(low), float(high), scaling, integer)


@given(number_ranges(), st.floats(0, 1, exclude_max=True))
def test_what_is_drawn_lies_in_the_range_and_has_a_place_that_draws_it(
    item: NumberRange, uniform: float
) -> None:
    text = item.draw(uniform)
    assert item.low <= float(text) <= item.high
    place = item.place(text)
    assert place is not None
    assert 0 <= place <= 1
    assert float(item.draw(place)) == pytest.approx(
        float(text), rel=1e-6, abs=1e-6 * (item.high - item.low) + 1e-12
    )


def test_a_value_outside_has_no_place() -> None:
    item = NumberRange("x", 1.0, 2.0, "Linear", integer=False)
    assert [item.place(text) for text in ("0.9", "2.1", "word")] == [None, None, None]
    words = WordRange("w", ("a", "b"))
    assert (words.place("c"), words.place("b")) == (None, 0.75)
