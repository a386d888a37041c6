"""DataProcessing of a batch transform: what of an input is sent to the model, and what of all is stored.

An input filter picks a part of each record for the model, a join puts the answer beside its record under the name
``SageMakerOutput``, and an output filter picks a part of that.  Filters are the JSONPath that SageMaker has: ``$``,
``.name``, ``['name', 'name']``, ``[3]``, ``[0, 2]``, ``[1:4]``.
(AWS: "Associate Prediction Results with Input Records", DataProcessing in CreateTransformJob.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lib.local.inputs import JobError
from lib.local.protocol import AwsError

JSON, JSON_LINES = "application/json", "application/jsonlines"
OUTPUT_NAME = "SageMakerOutput"

_NAME = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_STEP = re.compile(
    rf"\.(?P<name>[\w-]+)|\[\s*(?P<names>(?:{_NAME})(?:\s*,\s*(?:{_NAME}))*)\s*\]"
    r"|\[\s*(?P<start>\d*)\s*:\s*(?P<end>\d*)\s*\]|\[\s*(?P<places>\d+(?:\s*,\s*\d+)*)\s*\]"
)
_MOST_DIGITS = 9


@dataclass(frozen=True)
class Path:
    """A parsed filter; an empty one picks everything."""

    text: str
    steps: tuple[Callable[[Any], Any], ...]

    def pick(self, value: Any) -> Any:
        """Return the part of a value that the filter names.

        Raises
        ------
        JobError
            ClientError where there is no such part.
        """
        try:
            for step in self.steps:
                value = step(value)
        except (KeyError, IndexError, TypeError):
            raise JobError(f"ClientError: A record has no {self.text}") from None
        return value


def parse_path(text: str, member: str) -> Path:
    """Return a filter.

    Raises
    ------
    AwsError
        ValidationException where it is none.
    """
    wrong = AwsError(
        "ValidationException",
        f"{member} is {text}, but should be a JSONPath such as $, $.name, $['a','b'], $[0] or $[1:3].",
    )
    if not text.startswith("$"):
        raise wrong
    steps, position = [], 1
    while position < len(text):
        found = _STEP.match(text, position)
        if not found or any(len(digits) > _MOST_DIGITS for digits in re.findall(r"\d+", found[0])):
            raise wrong
        steps.append(_step(found))
        position = found.end()
    return Path(text, tuple(steps))


def check(params: dict[str, Any]) -> None:
    """Refuse a transform job whose filters or join the data's formats do not have.

    Raises
    ------
    AwsError
        ValidationException.
    """
    settings = params.get("DataProcessing", {})
    joined = settings.get("JoinSource", "None") == "Input"
    filters = {name: settings.get(name, "$") for name in ("InputFilter", "OutputFilter")}
    for name, text in filters.items():
        parse_path(text, f"DataProcessing.{name}")
    sent = params["TransformInput"].get("ContentType", "")
    asked = params["TransformOutput"].get("Accept", "")
    reads = joined or filters["InputFilter"] != "$"
    writes = joined or filters["OutputFilter"] != "$"
    for needed, member, found in ((reads, "ContentType", sent), (writes, "Accept", asked)):
        if needed and found not in (JSON, JSON_LINES):
            raise AwsError(
                "ValidationException",
                f"DataProcessing needs {member} {JSON} or {JSON_LINES}, but it is {found or 'not given'}.",
            )
    if joined and sent != asked:
        text = f"JoinSource Input needs the same ContentType and Accept, but they are {sent} and {asked}."
        raise AwsError("ValidationException", text)


class Processing:
    """The filters and the join of one transform job.

    Parameters
    ----------
    document : dict
        The job's description, checked by `check`.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        settings = document.get("DataProcessing", {})
        self._input = parse_path(settings.get("InputFilter", "$"), "DataProcessing.InputFilter")
        self._output = parse_path(settings.get("OutputFilter", "$"), "DataProcessing.OutputFilter")
        self._joined = settings.get("JoinSource", "None") == "Input"
        self._sent = document["TransformInput"].get("ContentType", "")
        self._asked = document["TransformOutput"].get("Accept", "")

    def sent(self, payload: memoryview) -> memoryview:
        """Return what of a payload goes to the model."""
        if not self._input.steps:
            return payload
        records = _read(payload, self._sent, "input")
        return memoryview(_written([self._input.pick(record) for record in records], self._sent))

    def stored(self, payload: memoryview, answer: bytes) -> bytes:
        """Return what is stored of a payload and the model's answer to it.

        Raises
        ------
        JobError
            ClientError where records and answers do not pair off, or lack what a filter names.
        """
        if not (self._joined or self._output.steps):
            return answer
        results = _read(memoryview(answer), self._asked, "output")
        if self._joined:
            records = _read(payload, self._sent, "input")
            if len(records) != len(results):
                raise JobError(
                    f"ClientError: The {len(records)} records and {len(results)} answers cannot be joined"
                )
            results = [_join(record, result) for record, result in zip(records, results, strict=True)]
        return _written([self._output.pick(result) for result in results], self._asked)


def _join(record: Any, result: Any) -> dict[str, Any]:
    """Return a record with its answer; one that is no JSON object becomes the member ``SageMakerInput``."""
    if isinstance(record, dict):
        return {**record, OUTPUT_NAME: result}
    return {"SageMakerInput": record, OUTPUT_NAME: result}


def _read(data: memoryview, content_type: str, which: str) -> list[Any]:
    """Return the JSON values of a body: one, or one a line."""
    text = bytes(data)
    try:
        if content_type == JSON_LINES:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return [json.loads(text)]
    except (ValueError, RecursionError):
        raise JobError(f"ClientError: The {which} is not {content_type}") from None


def _written(values: list[Any], content_type: str) -> bytes:
    if content_type == JSON_LINES:
        return "".join(json.dumps(value) + "\n" for value in values).encode()
    return json.dumps(values[0]).encode()


def _step(found: re.Match[str]) -> Callable[[Any], Any]:
    if found["name"] is not None:
        name = found["name"]
        return lambda value: _member(value, name)
    if found["names"] is not None:
        names = [re.sub(r"\\(.)", r"\1", quoted[1:-1]) for quoted in re.findall(_NAME, found["names"])]
        if len(names) == 1:
            return lambda value: _member(value, names[0])
        return lambda value: {name: _member(value, name) for name in names}
    if found["places"] is not None:
        places = [int(place) for place in found["places"].split(",")]
        if len(places) == 1:
            return lambda value: _listed(value)[places[0]]
        return lambda value: [_listed(value)[place] for place in places]
    start, end = (int(found[name]) if found[name] else None for name in ("start", "end"))
    return lambda value: _listed(value)[start:end]


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise TypeError
    return value[name]


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value
