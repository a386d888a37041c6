"""What an inference endpoint reads and answers: examples in, scores out, in SageMaker's three formats.

Requests are JSON (``{"instances": [{"data": {"features": {"keys": [], "shape": [], "values": []}}}]}``, or
``{"instances": [{"features": []}]}`` for dense examples), JSON lines of one instance each, or
recordIO-protobuf.  Answers are JSON (``{"predictions": [{"score": 3.4}]}``), JSON lines, or recordIO-protobuf
with the labels ``score`` and, of a classifier, ``predicted_label``.
"""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
from scipy import sparse

from lib import recordio
from lib.errors import DataError
from lib.fm.model import Model

JSON = "application/json"
JSON_LINES = "application/jsonlines"
RECORDIO = "application/x-recordio-protobuf"
CONTENT_TYPES = (RECORDIO, JSON, JSON_LINES)

_RECORDIO_MAGIC = 0xCED7230A


def read_request(body: bytes, content_type: str, feature_dim: int) -> Any:
    """Return the examples of a request as a matrix, float32 (n, feature_dim).

    Parameters
    ----------
    body : bytes
        The request's body.
    content_type : str
        One of `CONTENT_TYPES`.
    feature_dim : int
        The number of features of the model.

    Raises
    ------
    DataError
        The body is not of that type, or an example does not fit the model.
    """
    if content_type == RECORDIO:
        X, _ = recordio.read(_Records(_framed(body)), feature_dim=feature_dim)
    else:
        X = _matrix(_instances(body, content_type), feature_dim)
    if not X.shape[0]:
        raise DataError("The request holds no examples.")
    return X


def write_answer(model: Model, scores: np.ndarray, accept: str) -> bytes:
    """Return the body of an answer.

    Parameters
    ----------
    model : Model
        The model that the scores are of.
    scores : float32 array, shape (n,)
        From `Model.predict`.
    accept : str
        One of `CONTENT_TYPES`.

    Raises
    ------
    DataError
        A score is no finite number: the example's values are too large.
    """
    finite = np.isfinite(scores)
    if not finite.all():
        first = int(finite.argmin())
        raise DataError(
            f"Instance {first} has no finite score: its values are too large for this model.",
            hint="Scale the features as those that the model was trained on.",
        )
    columns = {"score": scores}
    if model.classifier:
        columns["predicted_label"] = model.predicted_labels(scores)
    if accept == RECORDIO:
        return encode_labels(columns)
    names = tuple(columns)
    rows = zip(*(column.astype(np.float64).tolist() for column in columns.values()), strict=True)
    predictions = [dict(zip(names, row, strict=True)) for row in rows]
    if accept == JSON_LINES:
        return "".join(json.dumps(prediction) + "\n" for prediction in predictions).encode()
    return json.dumps({"predictions": predictions}).encode()


def encode_labels(columns: dict[str, np.ndarray]) -> bytes:
    """Return recordIO-protobuf records that hold one float32 label a name, and no features.

    A record is the magic number, its length, and a protobuf ``Record`` whose field 2 is the map of labels:
    entry ``{1: name, 2: Value {2: Float32Tensor {1: packed values}}}``.  All records are of one length, so
    that the bytes are laid out once and the numbers put in by columns.

    Parameters
    ----------
    columns : dict of float32 array, shape (n,)
        The labels' values, by name.
    """
    payload = b""
    offsets = []
    for name in columns:
        value = _field(2, _field(2, _field(1, bytes(4))))  # entry's value: Value: Float32Tensor: one float
        entry = _field(2, _field(1, name.encode()) + value)
        payload += entry
        offsets.append(len(payload) - 4)
    header = struct.pack("<II", _RECORDIO_MAGIC, len(payload))
    record = header + payload + bytes(-len(payload) % 4)
    n = len(next(iter(columns.values())))
    records = np.tile(np.frombuffer(record, np.uint8), (n, 1))
    for offset, column in zip(offsets, columns.values(), strict=True):
        first = len(header) + offset
        records[:, first : first + 4] = np.ascontiguousarray(column, "<f4").view(np.uint8).reshape(n, 4)
    return records.tobytes()


class _Records(io.BytesIO):
    """The body of a request as a file, by the name that errors call it."""

    name = "The request"


def _framed(body: bytes) -> bytes:
    """Return records as they are, and a bare protobuf message as the one record that it is.

    Batch transform sends a bare message when it splits RecordIO files into single records.
    """
    framed = body.startswith(struct.pack("<I", _RECORDIO_MAGIC))
    if framed or not body.startswith(b"\x0a"):  # the tag of a Record's features
        return body
    return struct.pack("<II", _RECORDIO_MAGIC, len(body)) + body + bytes(-len(body) % 4)


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited protobuf field of fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def _instances(body: bytes, content_type: str) -> dict[str, Any]:
    """Return the instances of a JSON or a JSON lines request, by what errors call them."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"The request is not {content_type}: it is not UTF-8 text.") from None
    if content_type == JSON_LINES:
        lines = {f"Line {number}": line for number, line in enumerate(text.split("\n"), 1) if line.strip()}
        return {name: _parsed(line, name) for name, line in lines.items()}
    content = _parsed(text, "The request")
    instances = content.get("instances") if isinstance(content, dict) else None
    if not isinstance(instances, list):
        raise DataError('The request has no list of "instances".')
    return {f"Instance {number}": instance for number, instance in enumerate(instances)}


def _parsed(text: str, what: str) -> Any:
    """Return the value of a JSON text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        reason = f"{error.msg[:1].lower()}{error.msg[1:]} at {line}column {error.colno}"
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError:
        reason = "it holds a number of too many digits"
    raise DataError(f"{what} is not JSON: {reason}.")


def _matrix(instances: dict[str, Any], feature_dim: int) -> sparse.csr_matrix:
    """Return instances as a sparse matrix (n, feature_dim)."""
    keys, values, starts = [], [], [0]
    for name, instance in instances.items():
        try:
            found, numbers = _features(instance, feature_dim)
        except DataError as error:
            raise DataError(f"{name} {error.message}") from None
        keys.append(found)
        values.append(numbers)
        starts.append(starts[-1] + len(found))
    if not instances:
        return sparse.csr_matrix((0, feature_dim), dtype=np.float32)
    return sparse.csr_matrix(
        (np.concatenate(values), np.concatenate(keys), np.array(starts)), shape=(len(instances), feature_dim)
    )


def _features(instance: Any, feature_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an instance's feature indices (int64) and values (float32)."""
    features = instance
    for name in ("data", "features"):
        if isinstance(features, dict) and name in features:
            features = features[name]
    if isinstance(instance, dict) and isinstance(features, dict) and features is not instance:
        values = _numbers(features.get("values"), "values")
        shape = features.get("shape")
        if shape not in (None, [], [feature_dim], feature_dim):
            raise DataError(f"has the shape {_shown(shape)}, but the model takes {feature_dim} features.")
        if not features.get("keys") and len(values) == feature_dim:
            return np.arange(feature_dim), values
        keys = _numbers(features.get("keys"), "keys")
        if len(keys) != len(values):
            raise DataError(f"has {len(keys)} keys but {len(values)} values.")
        usable = (keys == np.floor(keys)) & (keys >= 0) & (keys < feature_dim)
        if not usable.all():
            wrong = features["keys"][int(usable.argmin())]
            raise DataError(f"has a key that is not a whole number from 0 to {feature_dim - 1}: {wrong}.")
        return keys.astype(np.int64), values
    if isinstance(instance, dict) and features is not instance:
        values = _numbers(features, "features")
        if len(values) != feature_dim:
            raise DataError(f"has {len(values)} features, but the model takes {feature_dim}.")
        return np.arange(feature_dim), values
    raise DataError('has no "features".')


def _numbers(values: Any, name: str) -> np.ndarray:
    """Return a list of numbers as an array: ``keys`` as float64, others as float32, which must be finite."""
    if not isinstance(values, list):
        raise DataError(f'has no list of "{name}".')
    for place, value in enumerate(values):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise DataError(f'has "{name}" that are not numbers: {_shown(value)} in place {place}.')
    try:
        array = np.array(values, np.float64)
    except OverflowError:
        raise DataError(f'has "{name}" that are too large.') from None
    if name == "keys":
        return array
    finite = np.abs(array) <= np.finfo(np.float32).max
    if not finite.all():
        place = int(finite.argmin())
        raise DataError(
            f'has "{name}" that are not finite float32 numbers: {values[place]} in place {place}.'
        )
    return array.astype(np.float32)


def _shown(value: Any) -> str:
    """Return a JSON value for a sentence, cut off if it is long."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
