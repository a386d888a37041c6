"""Search: the resources whose properties meet an expression.

A property is named by its path in the description, ``ResourceConfig.InstanceType``; a hyperparameter, a tag and a
final metric by their own names, ``HyperParameters.epochs``, ``Tags.run``, ``Metrics.test:rmse``.  Along a list, one
element that fits is enough; nested filters want one element that meets them all.
(AWS: Search, SearchExpression, Filter, NestedFilters in the SageMaker API reference.)
"""

from __future__ import annotations

import base64
import datetime as dt
import json
from collections.abc import Callable, Iterator
from typing import Any

from lib.local.protocol import AwsError
from lib.local.store import ENDPOINT, MODEL, TRAINING_JOB, TUNING_JOB, Kind, Page, Store

_KINDS: dict[str, Kind] = {kind.name: kind for kind in (TRAINING_JOB, TUNING_JOB, ENDPOINT, MODEL)}
_DEFAULT_RESULTS = 10
_TIMES = ("%Y-%m-%dT%H:%M:%S.%f%z", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d")
_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "GreaterThan": lambda found, wanted: found > wanted,
    "GreaterThanOrEqualTo": lambda found, wanted: found >= wanted,
    "LessThan": lambda found, wanted: found < wanted,
    "LessThanOrEqualTo": lambda found, wanted: found <= wanted,
}


class Search:
    """Searches the resources of the local SageMaker.

    Parameters
    ----------
    store : Store
        The state.
    complete : dict
        By kind, what makes a stored document the description that a client sees.
    """

    def __init__(
        self, store: Store, complete: dict[Kind, Callable[[dict[str, Any]], dict[str, Any]]]
    ) -> None:
        self._store = store
        self._complete = complete

    def search(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the page of resources that meet the expression: Search.

        Raises
        ------
        AwsError
            ValidationException for a resource that the local AWS does not search, an expression that is none,
            or a token that no answer gave out.
        """
        resource = params["Resource"]
        if resource not in _KINDS:
            text = f"The local AWS searches {', '.join(sorted(_KINDS))}, not {resource}."
            raise AwsError("ValidationException", text)
        expression = params.get("SearchExpression", {})
        records = [item for item in self._records(_KINDS[resource]) if _meets(item, expression)]
        by = params.get("SortBy", "LastModifiedTime")
        descending = params.get("SortOrder", "Descending") == "Descending"
        records.sort(key=lambda item: _sort_key(item, by), reverse=descending)
        start = _read_token(params.get("NextToken"))
        end = start + params.get("MaxResults", _DEFAULT_RESULTS)
        token = {"NextToken": _make_token(end)} if end < len(records) else {}
        return {
            "Results": [{resource: _shown(resource, item)} for item in records[start:end]],
            "TotalHits": {"Value": len(records), "Relation": "EqualTo"},
            **token,
        }

    def _records(self, kind: Kind) -> Iterator[dict[str, Any]]:
        documents, _ = self._store.select(kind, Page())
        for document in documents:
            completed = self._complete[kind](document) if kind in self._complete else document
            yield {**completed, "Tags": self._store.tags(document[f"{kind.name}Arn"])}


def _shown(resource: str, record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as its resource's member of a result has it; a model lies one level deeper."""
    return {"Model": record, "Tags": record["Tags"]} if resource == MODEL.name else record


def _meets(record: Any, expression: dict[str, Any]) -> bool:
    """Whether a record meets an expression; an empty one is met by all."""
    tests = [_passes(record, item) for item in expression.get("Filters", [])]
    tests += [_passes_nested(record, item) for item in expression.get("NestedFilters", [])]
    tests += [_meets(record, item) for item in expression.get("SubExpressions", [])]
    if not tests:
        return True
    return any(tests) if expression.get("Operator", "And") == "Or" else all(tests)


def _passes_nested(record: dict[str, Any], nested: dict[str, Any]) -> bool:
    name = nested["NestedPropertyName"]
    for element in _values(record, name):
        if all(
            _passes(element, {**item, "Name": item["Name"].removeprefix(f"{name}.")})
            for item in nested["Filters"]
        ):
            return True
    return False


def _passes(record: Any, condition: dict[str, str]) -> bool:
    operator, wanted = condition.get("Operator", "Equals"), condition.get("Value")
    found = [item for item in _values(record, condition["Name"]) if not isinstance(item, dict | list)]
    if operator in ("Exists", "NotExists"):
        there = any(True for _ in _values(record, condition["Name"]))
        return there == (operator == "Exists")
    if wanted is None:
        raise AwsError(
            "ValidationException", f"The filter of {condition['Name']} by {operator} needs a Value."
        )
    if operator == "NotEquals":
        return not any(_equal(item, wanted) for item in found)
    if operator == "In":
        choices = [choice.strip() for choice in wanted.split(",")]
        return any(_equal(item, choice) for item in found for choice in choices)
    if operator == "Contains":
        return any(wanted in str(item) for item in found)
    if operator == "Equals":
        return any(_equal(item, wanted) for item in found)
    return any(_ordered(operator, item, wanted) for item in found)


def _values(record: Any, path: str) -> Iterator[Any]:
    """Yield what lies at a path; names may have dots themselves, such as those of tags."""
    if isinstance(record, list):
        for element in record:
            yield from _values(element, path)
        return
    if not isinstance(record, dict):
        return
    if path in record:
        value = record[path]
        yield from value if isinstance(value, list) else [value]
        return
    head, dot, rest = path.partition(".")
    if head == "Metrics" and dot and "FinalMetricDataList" in record:
        yield from (item["Value"] for item in record["FinalMetricDataList"] if item["MetricName"] == rest)
    elif head == "Tags" and dot:
        yield from (tag["Value"] for tag in record.get("Tags", []) if tag["Key"] == rest)
    elif dot and head in record:
        yield from _values(record[head], rest)


def _equal(found: Any, wanted: str) -> bool:
    if isinstance(found, bool):
        return str(found).lower() == wanted.lower()
    if isinstance(found, int | float):
        number = _number(wanted)
        return number is not None and found == number
    return str(found) == wanted


def _ordered(operator: str, found: Any, wanted: str) -> bool:
    """Compare numbers, and hyperparameters that are numbers, as numbers; all else in the order of its letters."""
    numbers = _number(found), _number(wanted)
    if None not in numbers:
        return _ORDERED[operator](*numbers)
    return isinstance(found, str) and _ORDERED[operator](found, wanted)


def _number(value: Any) -> float | None:
    """Return a number, the number that a text is, or the seconds since 1970 of one that is a time; or None."""
    try:
        return float(value)
    except (ValueError, TypeError):
        pass
    for form in _TIMES:
        try:
            moment = dt.datetime.strptime(str(value).replace("Z", "+0000"), form)
        except ValueError:
            continue
        return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
    return None


def _sort_key(record: dict[str, Any], path: str) -> tuple[int, float, str]:
    """Return a key that puts records without the property first, numbers before texts."""
    value = next((item for item in _values(record, path) if not isinstance(item, dict | list)), None)
    if value is None:
        return 0, 0.0, ""
    number = _number(value)
    return (2, 0.0, str(value)) if number is None else (1, number, "")


def _make_token(position: int) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def _read_token(token: str | None) -> int:
    if not token:
        return 0
    try:
        position = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, RecursionError):
        position = None
    if not isinstance(position, int) or position < 0:
        raise AwsError("ValidationException", "The NextToken is invalid.")
    return position
