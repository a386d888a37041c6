"""What SageMaker leaves in a training container's folder: configuration and channels, read and checked."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from lib import recordio
from lib.errors import DataError, ParameterError, did_you_mean
from lib.fm.checks import check_classes

CHANNELS = ("train", "test")
CONTENT_TYPE = "application/x-recordio-protobuf"

_PROBE_BYTES = 2**20
_FRAME = struct.Struct("<II")  # magic number and length before each record, which ends on a multiple of 4


@dataclass(frozen=True)
class Channel:
    """The files of a channel, in the order of their names.

    Attributes
    ----------
    paths : list of Path
        The files; at least one.
    names : list of str
        What errors call them, such as ``train/part-0.pbr``.
    """

    paths: list[Path]
    names: list[str]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)

    def estimated_rows(self, rows_read: int) -> int:
        """Return about how many rows the files have, of which so many were read: from their first records' size."""
        with self.paths[0].open("rb") as file:
            beginning = file.read(_PROBE_BYTES)
        counted, place = 0, 0
        while place + _FRAME.size <= len(beginning):
            _, length = _FRAME.unpack_from(beginning, place)
            place += _FRAME.size + length + -length % 4
            counted += place <= len(beginning)
        if not counted or self.nbytes <= _PROBE_BYTES:
            return rows_read
        return max(rows_read, round(self.nbytes / len(beginning) * counted))

    def read(
        self,
        feature_dim: int,
        *,
        classifier: bool = False,
        keep_zeros: bool = False,
        most_rows: int | None = None,
    ) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Return the examples, csr (n, feature_dim), and the labels, float32 (n,), of all files.

        Parameters
        ----------
        feature_dim : int
            Number of features.
        classifier : bool
            Whether labels must be 0 or 1.
        keep_zeros : bool
            Whether the zeros of dense records become stored entries.
        most_rows : int, optional
            End after so many rows.

        Raises
        ------
        DataError
            Foreign or damaged files, another number of features than ``feature_dim``, no labels, or a classifier's
            that are not 0 or 1.
        """
        matrices: list[sparse.csr_matrix] = []
        labels: list[np.ndarray] = []
        for path, name in zip(self.paths, self.names, strict=True):
            left = None if most_rows is None else most_rows - sum(len(y) for y in labels)
            if left == 0:
                break
            try:
                with path.open("rb") as file:
                    if left is None:
                        X, y = recordio.read(file, feature_dim, keep_zeros=keep_zeros)
                    else:
                        X, y = next(recordio.iter_batches(file, left, feature_dim, keep_zeros=keep_zeros))
            except DataError as error:
                raise type(error)(error.message.replace(str(path), name), hint=error.hint) from None
            if y is None:
                raise DataError(f"{name} has no labels.")
            if classifier:
                check_classes(y, name)
            matrices.append(X)
            labels.append(y)
        if len(matrices) == 1:
            return matrices[0], labels[0]
        return sparse.vstack(matrices, format="csr"), np.concatenate(labels)


def hyperparameters_of(root: Path) -> dict[str, Any]:
    """Return the job's hyperparameters as they were given."""
    return _json(root / "input" / "config" / "hyperparameters.json", required=True)


def channels_of(root: Path) -> dict[str, Channel]:
    """Return the job's channels by name.

    Raises
    ------
    ParameterError
        An unknown channel, content type or mode, or no channel ``train``.
    DataError
        A channel without files.
    """
    description = _json(root / "input" / "config" / "inputdataconfig.json", required=True)
    for name, channel in description.items():
        if not isinstance(channel, dict):
            raise ParameterError(f"inputdataconfig.json describes the channel `{name}` by no JSON object.")
        if name not in CHANNELS:
            raise ParameterError(
                f"Factorization Machines has no channel `{name}`, only train and test.",
                hint=did_you_mean(name, list(CHANNELS)).capitalize(),
            )
        content = str(channel.get("ContentType") or CONTENT_TYPE).split(";")[0].strip()
        if content.lower() != CONTENT_TYPE:
            raise ParameterError(f"The channel `{name}` has the content type {content}, not {CONTENT_TYPE}.")
        for setting, wanted in (("TrainingInputMode", "File"), ("CompressionType", "None")):
            value = channel.get(setting) or wanted
            if value != wanted:
                raise ParameterError(
                    f"The channel `{name}` has {setting} {value}; this engine reads {wanted}."
                )
    if "train" not in description:
        raise ParameterError("The job has no channel `train`.")
    return {name: _channel(root, name) for name in description}


def host_of(root: Path) -> str:
    """Return this host's name, such as ``algo-1``.

    Raises
    ------
    ParameterError
        The job has several hosts.
    """
    description = _json(root / "input" / "config" / "resourceconfig.json")
    hosts = description.get("hosts") or []
    if not isinstance(hosts, list):
        raise ParameterError("resourceconfig.json has `hosts` that are no list.")
    if len(hosts) > 1:
        raise ParameterError(
            f"This engine trains on one host, but the job has {len(hosts)}.",
            hint="Set the instance count to 1.",
        )
    return str(description.get("current_host") or "algo-1")


def _channel(root: Path, name: str) -> Channel:
    folder = root / "input" / "data" / name
    found = sorted(folder.rglob("*")) if folder.is_dir() else []
    paths = [path for path in found if not path.is_dir()]
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"The channel `{name}` has {path.relative_to(folder).as_posix()}, which is no file."
            )
    if not paths:
        raise DataError(f"The channel `{name}` has no files.")
    return Channel(paths, [f"{name}/{path.relative_to(folder).as_posix()}" for path in paths])


def _json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """Read a JSON object; a file that is not there and not required counts as empty."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        if required:
            raise ParameterError(f"The job has no {path.name}.") from None
        return {}
    except ValueError:
        raise ParameterError(f"{path.name} is not JSON.") from None
    if not isinstance(content, dict):
        raise ParameterError(f"{path.name} is not a JSON object.")
    return content
