"""The ranges of a tuning job: numbers with a scaling, or words, seen as the interval from 0 to 1.

(AWS: "Define Hyperparameter Ranges", "Hyperparameter scaling".)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lib.local.algorithm import unsupported
from lib.local.protocol import AwsError

_AUTO_LOGARITHMIC_SPAN = 100.0


@dataclass(frozen=True)
class NumberRange:
    """A range of numbers; ``draw`` maps a uniform number onto it by its scaling.

    Attributes
    ----------
    low, high : float
        Both ends belong to the range.
    scaling : str
        ``Linear``, ``Logarithmic`` or ``ReverseLogarithmic``.
    integer : bool
        Whether only whole numbers are drawn.
    """

    name: str
    low: float
    high: float
    scaling: str
    integer: bool

    def draw(self, uniform: float) -> str:
        """Return the value at ``uniform`` in [0, 1), as the string that SageMaker passes on."""
        # an integer stands for the interval up to the next one, so that each has its share
        high = self.high + 1 if self.integer else self.high
        if self.scaling == "Logarithmic":
            value = math.exp(_between(math.log(self.low), math.log(high), uniform))
        elif self.scaling == "ReverseLogarithmic":
            value = 1 - math.exp(_between(math.log(1 - self.low), math.log(1 - high), uniform))
        else:
            value = _between(self.low, high, uniform)
        value = min(max(value, self.low), self.high)
        return str(math.floor(value)) if self.integer else repr(value)

    def place(self, text: str) -> float | None:
        """Return the uniform number that draws this value, the middle of those that do; None if none does."""
        try:
            value = float(text)
        except ValueError:
            return None
        if not self.low <= value <= self.high:
            return None
        if self.low == self.high:
            return 0.5
        high = self.high + 1 if self.integer else self.high
        value += 0.5 if self.integer else 0.0
        if self.scaling == "Logarithmic":
            return math.log(value / self.low) / math.log(high / self.low)
        if self.scaling == "ReverseLogarithmic":
            return math.log((1 - value) / (1 - self.low)) / math.log((1 - high) / (1 - self.low))
        return (value - self.low) / (high - self.low)


@dataclass(frozen=True)
class WordRange:
    """A list of words to choose from."""

    name: str
    values: tuple[str, ...]

    def draw(self, uniform: float) -> str:
        """Return the word at ``uniform`` in [0, 1)."""
        return self.values[min(int(uniform * len(self.values)), len(self.values) - 1)]

    def place(self, text: str) -> float | None:
        """Return the uniform number that draws this word, the middle of those that do; None if none does."""
        return (self.values.index(text) + 0.5) / len(self.values) if text in self.values else None


Range = NumberRange | WordRange


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def parse_ranges(ranges: dict[str, Any]) -> list[Range]:
    """Read a request's ParameterRanges.

    ``Auto`` scaling is logarithmic for a positive range that spans a factor of 100 or more, else linear.

    Raises
    ------
    AwsError
        ValidationException, for a range that is none or a scaling that does not fit it.
    """
    if ranges.get("AutoParameters"):
        raise unsupported("AutoParameters")
    parsed: list[Range] = [
        *(_parse_numbers(item, integer=True) for item in ranges.get("IntegerParameterRanges", [])),
        *(_parse_numbers(item, integer=False) for item in ranges.get("ContinuousParameterRanges", [])),
        *(
            WordRange(item["Name"], tuple(item["Values"]))
            for item in ranges.get("CategoricalParameterRanges", [])
        ),
    ]
    names = [item.name for item in parsed]
    if not parsed:
        raise AwsError("ValidationException", "ParameterRanges names no hyperparameter to tune.")
    for name in names:
        if names.count(name) > 1:
            raise AwsError("ValidationException", f"The hyperparameter {name} has more than one range.")
    return parsed


def _parse_numbers(item: dict[str, str], *, integer: bool) -> NumberRange:
    name, scaling = item["Name"], item.get("ScalingType", "Auto")
    try:
        number = int if integer else float
        low, high = float(number(item["MinValue"])), float(number(item["MaxValue"]))
    except (ValueError, OverflowError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        kind = "whole numbers" if integer else "numbers"
        raise AwsError(
            "ValidationException",
            f"The range of {name} is {item['MinValue']} to {item['MaxValue']}, but should be two {kind}, "
            "the smaller first.",
        )
    if scaling == "Auto":
        wide = low > 0 and high >= _AUTO_LOGARITHMIC_SPAN * low
        scaling = "Logarithmic" if wide else "Linear"
    if scaling == "Logarithmic" and low <= 0:
        raise AwsError("ValidationException", f"Logarithmic scaling of {name} needs a range above 0.")
    if scaling == "ReverseLogarithmic" and (integer or low < 0 or high >= 1):
        raise AwsError(
            "ValidationException",
            f"ReverseLogarithmic scaling of {name} needs a continuous range within 0 <= x < 1.",
        )
    return NumberRange(name, low, high, scaling, integer)
