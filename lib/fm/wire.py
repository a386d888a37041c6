"""Values on the wire: hyperparameters travel as strings, such as ``"64"``, ``"0.1"`` or ``"true"``."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

LARGEST = 3.4028234663852886e38  # of float32, in which the engine calculates
SMALLEST = 1.1754943508222875e-38  # its smallest normal number above 0

_SHOWN = 60  # characters of a value that an error repeats


def whole_number(value: Any) -> Any:
    """Read an integer from its wire format; refuse booleans and fractions."""
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    if isinstance(value, str):
        try:
            return int(value.strip())
        except ValueError:
            raise ValueError("must be a whole number") from None
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError("must be a whole number") from None


def number(value: Any) -> Any:
    """Read a finite number from its wire format."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    if isinstance(value, str):
        try:
            value = float(value.strip())
        except ValueError:
            raise ValueError("must be a number") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, (int, float)) and abs(value) > LARGEST:
        raise ValueError(f"must be a number that float32 holds, at most {LARGEST:.3g}")
    return value


def truth(value: Any) -> Any:
    """Read a truth value from its wire format."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


PositiveInt = Annotated[int, BeforeValidator(whole_number), Field(ge=1)]
Count = Annotated[int, BeforeValidator(whole_number), Field(ge=1, le=2**31 - 1)]
NonNegativeInt = Annotated[int, BeforeValidator(whole_number), Field(ge=0)]
Float = Annotated[float, BeforeValidator(number)]
NonNegativeFloat = Annotated[float, BeforeValidator(number), Field(ge=0)]
PositiveFloat = Annotated[float, BeforeValidator(number), Field(gt=0)]
Share = Annotated[float, BeforeValidator(number), Field(ge=0, le=1)]
Bool = Annotated[bool, BeforeValidator(truth)]


def text(value: Any) -> str:
    """Return a value in its wire format."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(float(value)) if isinstance(value, float) else str(value)


def first_problem(error: ValidationError, given: Mapping[str, Any], prefix: str = "") -> str:
    """Say in one sentence what the first invalid value is and what it should be.

    Parameters
    ----------
    error : ValidationError
        What pydantic found.
    given : mapping of str
        The values, by the model's names.
    prefix : str
        What the names begin with on the wire, before the model's.
    """
    problem = error.errors()[0]
    name = str(problem["loc"][0])
    value = given.get(name)
    context = problem.get("ctx", {})
    match problem["type"]:
        case "literal_error":
            wanted = f"must be one of {context['expected']}"
        case "greater_than_equal":
            wanted = f"must be {context['ge']} or more"
        case "greater_than":
            wanted = f"must be more than {context['gt']}"
        case "less_than_equal":
            wanted = f"must be {context['le']} or less"
        case "value_error":
            wanted = str(context["error"])
        case _:
            wanted = f"is not usable ({problem['msg'].lower()})"
    shown = repr(value)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}… ({len(shown):,} characters)"
    return f"The hyperparameter `{prefix}{name}` {wanted}, not {shown}."
