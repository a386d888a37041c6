"""AWS's JSON protocol, driven by botocore's service model: requests are checked, answers projected.

AWS publishes the shape of every operation's input and output (botocore's ``service-2.json`` files).  `parse`
reads a request body, refuses what the model refuses in the words AWS uses, and drops members the model
does not know.  `render` keeps of an answer what the model knows.  So an operation's own code sees checked
values only, and a client sees well-formed answers only.

Format: https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botocore.model import ServiceModel, Shape

_INTEGER_BITS = {"integer": 31, "long": 63}
_LATEST_TIMESTAMP = 253_402_300_799  # the last second of the year 9999
_UNLIMITED = float("inf")


class AwsError(Exception):
    """An error as AWS answers it.

    Parameters
    ----------
    code : str
        AWS's error code, such as ``ValidationException``.
    message : str
        The text a client shows.
    status : int
        The HTTP status.
    **extra : Any
        Further members of the error, such as ``OriginalStatusCode``.
    """

    def __init__(self, code: str, message: str, status: int = 400, **extra: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.extra = extra


@cache
def service_model(service: str) -> ServiceModel:
    """Return botocore's model of a service, such as ``sagemaker``."""
    from botocore.session import Session

    return Session().get_service_model(service)


def has_operation(service: str, operation: str) -> bool:
    """Whether the service's model has an operation of that name."""
    return operation in service_model(service).operation_names


def parse(service: str, operation: str, raw: bytes) -> dict[str, Any]:
    """Read and check the body of a request.

    Parameters
    ----------
    service, operation : str
        By botocore's names, such as ``sagemaker`` and ``CreateTrainingJob``.
    raw : bytes
        The body; an empty one counts as ``{}``.

    Returns
    -------
    dict
        The members the model knows, nulls left out, blobs as bytes, timestamps as seconds since 1970.

    Raises
    ------
    AwsError
        UnknownOperationException, SerializationException where the body is no JSON of the right types,
        ValidationException with every broken constraint, in AWS's words.
    """
    if not has_operation(service, operation):
        raise AwsError("UnknownOperationException", f"The operation {operation} is not known.")
    shape = service_model(service).operation_model(operation).input_shape
    try:
        body = json.loads(raw or b"{}", parse_constant=_refuse_constant)
        if not isinstance(body, dict):
            raise AwsError("SerializationException", "Start of structure or map expected.")
        if shape is None:
            return {}
        checker = _Checker()
        value: dict[str, Any] = checker.check(shape, body, "")
    except (ValueError, RecursionError):
        raise AwsError("SerializationException", "The request body is not well-formed JSON.") from None
    problems = checker.problems
    if problems:
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''}"
        raise AwsError("ValidationException", f"{count} detected: {'; '.join(problems)}")
    return value


def render(service: str, operation: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Project an answer on the shape of the operation's output.

    Parameters
    ----------
    value : mapping or None
        The answer; may have members the model does not know, and members that are None: both are left
        out.  Times are datetimes or seconds since 1970.

    Returns
    -------
    dict
        Ready for JSON.
    """
    shape = service_model(service).operation_model(operation).output_shape
    if shape is None or value is None:
        return {}
    projected: dict[str, Any] = _project(shape, value)
    return projected


def error_body(error: AwsError) -> dict[str, Any]:
    """Return the JSON members of an error's answer."""
    return {"__type": error.code, "message": error.message, "Message": error.message, **error.extra}


def _project(shape: Shape, value: Any) -> Any:
    kind = shape.type_name
    if kind == "structure":
        present = {name: value.get(name) for name in shape.members}
        return {
            name: _project(shape.members[name], item) for name, item in present.items() if item is not None
        }
    if kind == "list":
        return [_project(shape.member, item) for item in value]
    if kind == "map":
        return {key: _project(shape.value, item) for key, item in value.items()}
    if kind == "timestamp" and isinstance(value, dt.datetime):
        return round(value.timestamp(), 3)
    if kind == "blob" and isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Checker:
    """Walks a request along its shape; collects broken constraints in ``problems``."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def check(self, shape: Shape, value: Any, path: str) -> Any:
        """Return the value, cleaned; every type of the model has a method here."""
        method: Callable[[Shape, Any, str], Any] = getattr(self, f"_{shape.type_name}")
        return method(shape, value, path)

    def _structure(self, shape: Any, value: Any, path: str) -> dict[str, Any]:
        _expect(dict, value, "Unexpected field type")
        given = {name: item for name, item in value.items() if name in shape.members and item is not None}
        for name in shape.required_members:
            if name not in given:
                self._broken("null", _join(path, name), "Member must not be null")
        if getattr(shape, "is_tagged_union", False) and len(given) != 1:
            raise AwsError(
                "SerializationException", f"Exactly one member of the union at '{path}' must be present."
            )
        return {
            name: self.check(shape.members[name], item, _join(path, name)) for name, item in given.items()
        }

    def _list(self, shape: Any, value: Any, path: str) -> list[Any]:
        _expect(list, value, "Expected list or null")
        self._check_limits(shape, value, len(value), path, "length")
        items = [item for item in value if item is not None]
        if shape.member.type_name != "string":
            return [self.check(shape.member, item, f"{path}.{i}.member") for i, item in enumerate(items, 1)]
        self._check_members(shape.member, items, value, path, "Member")
        return items

    def _map(self, shape: Any, value: Any, path: str) -> dict[str, Any]:
        _expect(dict, value, "Unexpected field type")
        self._check_limits(shape, value, len(value), path, "length")
        given = {key: item for key, item in value.items() if item is not None}
        self._check_members(shape.key, list(given), value, path, "Map keys")
        if shape.value.type_name != "string":
            return {key: self.check(shape.value, item, f"{path}.{key}.member") for key, item in given.items()}
        self._check_members(shape.value, list(given.values()), value, path, "Map value")
        return given

    def _string(self, shape: Any, value: Any, path: str) -> str:
        _expect_string(value)
        for constraint in _broken_by_string(shape, value):
            self._broken(_shown(shape, value), path, constraint)
        return str(value)

    def _integer(self, shape: Any, value: Any, path: str) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            words = "an Integer" if shape.type_name == "integer" else "a Long"
            raise AwsError("SerializationException", f"{_json_type(value)} can not be converted to {words}")
        if not -(2 ** _INTEGER_BITS[shape.type_name]) <= value < 2 ** _INTEGER_BITS[shape.type_name]:
            raise AwsError("SerializationException", f"The number at '{path}' is out of range")
        self._check_limits(shape, value, value, path, "value")
        return value

    _long = _integer

    def _double(self, shape: Any, value: Any, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise AwsError("SerializationException", f"{_json_type(value)} can not be converted to a Double")
        if abs(value) > sys.float_info.max or math.isnan(value):
            raise AwsError("SerializationException", f"The number at '{path}' is out of range")
        self._check_limits(shape, value, value, path, "value")
        return value

    _float = _double

    def _boolean(self, shape: Any, value: Any, path: str) -> bool:
        if not isinstance(value, bool):
            raise AwsError("SerializationException", f"{_json_type(value)} can not be converted to a Boolean")
        return value

    def _timestamp(self, shape: Any, value: Any, path: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise AwsError(
                "SerializationException", f"{_json_type(value)} can not be converted to a Timestamp"
            )
        if not 0 <= value <= _LATEST_TIMESTAMP:
            raise AwsError("SerializationException", f"The timestamp at '{path}' is out of range")
        return value

    def _blob(self, shape: Any, value: Any, path: str) -> bytes:
        _expect_string(value)
        try:
            data = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise AwsError("SerializationException", f"The value at '{path}' is not base64") from None
        self._check_limits(shape, value, len(data), path, "length")
        return data

    def _check_limits(self, shape: Any, value: Any, size: float, path: str, what: str) -> None:
        for constraint in _broken_by_size(shape, size, what):
            self._broken(_shown(shape, value), path, constraint)

    def _check_members(self, shape: Any, items: list[Any], whole: Any, path: str, which: str) -> None:
        """Check strings in a list or map; AWS names the whole list or map and all the constraints."""
        for item in items:
            _expect_string(item)
        if any(_broken_by_string(shape, item) for item in items):
            constraints = ", ".join(_string_constraints(shape))
            self._broken(_shown(shape, whole), path, f"{which} must satisfy constraint: [{constraints}]")

    def _broken(self, shown: str, path: str, constraint: str) -> None:
        self.problems.append(f"Value {shown} at '{path}' failed to satisfy constraint: {constraint}")


def _broken_by_size(shape: Any, size: float, what: str) -> list[str]:
    low, high = shape.metadata.get("min", -_UNLIMITED), shape.metadata.get("max", _UNLIMITED)
    if size < low:
        return [f"Member must have {what} greater than or equal to {low}"]
    if size > high:
        return [f"Member must have {what} less than or equal to {high}"]
    return []


def _broken_by_string(shape: Any, value: str) -> list[str]:
    """Return the constraints a string breaks.  Patterns are tried on strings of legal length only."""
    allowed = shape.metadata.get("enum")
    if allowed is not None and value not in allowed:
        return [f"Member must satisfy enum value set: [{', '.join(allowed)}]"]
    by_length = _broken_by_size(shape, len(value), "length")
    if by_length:
        return by_length
    source = shape.metadata.get("pattern")
    pattern = _compile(source) if source else None
    if pattern and not pattern.fullmatch(value):
        return [f"Member must satisfy regular expression pattern: {source}"]
    return []


def _string_constraints(shape: Any) -> list[str]:
    """Return all constraints of a string shape, in the order in which AWS names them."""
    wanted = shape.metadata
    constraints = []
    if "enum" in wanted:
        constraints.append(f"Member must satisfy enum value set: [{', '.join(wanted['enum'])}]")
    if "max" in wanted:
        constraints.append(f"Member must have length less than or equal to {wanted['max']}")
    if "min" in wanted:
        constraints.append(f"Member must have length greater than or equal to {wanted['min']}")
    if "pattern" in wanted:
        constraints.append(f"Member must satisfy regular expression pattern: {wanted['pattern']}")
    return constraints


@cache
def _compile(pattern: str) -> re.Pattern[str] | None:
    """Compile a pattern of the model; None for the few that only Java understands, which are not checked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(pattern)
    except re.error:
        return None


def _expect(wanted: type, value: Any, message: str) -> None:
    if not isinstance(value, wanted):
        raise AwsError("SerializationException", message)


def _expect_string(value: Any) -> None:
    if not isinstance(value, str):
        raise AwsError("SerializationException", f"{_json_type(value)} can not be converted to a String")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise AwsError("SerializationException", "A string holds half a surrogate pair") from None


def _json_type(value: Any) -> str:
    """Return the type of a JSON value in the words of AWS's parser."""
    if isinstance(value, bool):
        return "TRUE_VALUE" if value else "FALSE_VALUE"
    if isinstance(value, str):
        return "STRING_VALUE"
    if isinstance(value, int):
        return "NUMBER_VALUE"
    return "DECIMAL_VALUE" if isinstance(value, float) else "Start of structure or map or list"


def _join(path: str, member: str) -> str:
    """Return the path of a member, its first letter small as AWS writes it."""
    name = member[:1].lower() + member[1:]
    return f"{path}.{name}" if path else name


def _shown(shape: Any, value: Any) -> str:
    """Return a value between quotes as AWS (Java) prints it; ``***`` for a sensitive one."""
    return "'***'" if shape.metadata.get("sensitive") else f"'{_as_java(value)}'"


def _as_java(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={_as_java(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_as_java(item) for item in value) + "]"
    return str(value)
