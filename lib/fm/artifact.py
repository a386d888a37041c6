"""The model artifact of SageMaker's Factorization Machines, written and read.

``model.tar.gz`` holds one file, ``model_algo-1``: a zip, not compressed, of

- ``meta.json``: version, epoch number, training parameters (all as strings), label names;
- ``symbol.json``: the network for MXNet (`lib.fm.symbol`);
- ``params``: MXNet's file of arrays (`lib.fm.ndarrays`): ``arg:w1_weight`` (d, 1) and ``arg:v`` (d, k),
  row-sparse, and ``arg:w0_weight`` (1,), dense.

What is written is the same to the byte for the same model, and ``params`` to the byte what MXNet writes.

SageMaker has a second form, for jobs whose records were dense: ``arg:Linear_Plus_Bias_weight`` (1, d),
``arg:Linear_Plus_Bias_bias`` (1,) and ``arg:v`` as (k, d), with a graph that is in no document.  It is read, and
never written: training on dense records is training on sparse ones all of whose features are active, so a model of
ours is always one of the first form, whatever its records were like.

Nothing is trusted: only one regular file is taken from the archive, never by a path of
its own, and no size is believed before it is checked.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from lib.errors import ModelError
from lib.fm import ndarrays, symbol
from lib.fm.hyperparameters import known, validate
from lib.fm.model import Model

MEMBER = "model_algo-1"
ARCHIVE = "model.tar.gz"
LARGEST_MODEL = 8 * 2**30  # bytes

_LARGEST_TEXT = 16 * 2**20  # bytes of meta.json and of symbol.json
_COPY = 2**20
_HEADERS = 2**16  # bytes, at most, of the parameters beside their numbers
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can tell

_WEIGHTS, _BIAS, _FACTORS = "arg:w1_weight", "arg:w0_weight", "arg:v"
_DENSE_WEIGHTS, _DENSE_BIAS = "arg:Linear_Plus_Bias_weight", "arg:Linear_Plus_Bias_bias"


def save(model: Model, path: str | Path) -> Path:
    """Write a model as ``model.tar.gz`` and return the path; a reader never sees a part of it.

    Parameters
    ----------
    model : Model
        The model.
    path : str or Path
        The archive to write; an old one is replaced.

    Raises
    ------
    ModelError
        The file cannot be written.
    """
    path = Path(path)
    try:
        with tempfile.TemporaryFile(dir=path.parent) as member, _replacing(path) as stream:
            _write_member(model, member)
            _pack(member, stream)
    except OSError as error:
        raise ModelError(f"The model cannot be written to {path}: {error.strerror or error}.") from None
    return path


def save_member(model: Model, folder: str | Path) -> Path:
    """Write a model as ``model_algo-1`` into a folder, as a training job leaves it, and return its path."""
    path = Path(folder) / MEMBER
    with _replacing(path) as stream:
        _write_member(model, stream)
    return path


def load(path: str | Path) -> Model:
    """Read a model.

    Parameters
    ----------
    path : str or Path
        A ``model.tar.gz``, a ``model_algo-1``, or a folder that holds one of them.

    Raises
    ------
    ModelError
        There is none, or it is not such a model, or it is truncated or too large.
    """
    path = _located(Path(path))
    try:
        with path.open("rb") as stream:
            kind = stream.read(4)
            stream.seek(0)
            if kind[:2] == b"\x1f\x8b":
                with tempfile.TemporaryFile() as member:
                    _extract(stream, member)
                    return _read_member(member)
            if kind == b"PK\x03\x04":
                return _read_member(stream)
            raise ndarrays.FormatError("it is neither a gzipped tar archive nor a model_algo-1 file")
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        reason = str(error) if isinstance(error, ndarrays.FormatError) else "its description is malformed"
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile):
        reason = "it is truncated or damaged"
    except (RuntimeError, NotImplementedError):
        reason = "it is packed in a way that is not supported"
    except ModelError as error:
        reason = error.message
    except OSError as error:
        reason = error.strerror or str(error)
    raise ModelError(f"{path} cannot be read as a Factorization Machines model: {reason.rstrip('.')}.")


def _located(path: Path) -> Path:
    """Return the file to read for a path that may be a folder."""
    if path.is_dir():
        for name in (MEMBER, ARCHIVE):
            if (path / name).is_file():
                return path / name
        raise ModelError(f"There is no model in {path}: it holds neither {MEMBER} nor {ARCHIVE}.")
    if not path.is_file():
        raise ModelError(f"There is no model at {path}.")
    return path


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file beside the path that takes its place once everything is written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w+b") as stream:
            yield stream
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_member(model: Model, stream: IO[bytes]) -> None:
    """Write ``model_algo-1``."""
    own = {
        "feature_dim": model.feature_dim,
        "num_factors": model.num_factors,
        "predictor_type": model.predictor_type,
    }
    foreign = {name: value for name, value in model.training_parameters.items() if not known(name)}
    hyperparameters = validate({**model.training_parameters, **own, **dict.fromkeys(foreign)})
    meta = {
        "version": 1,
        "epoch_number": 1,
        "training_parameters": foreign | hyperparameters.wire(),
        "label_names": [symbol.LABEL],
    }
    arrays = {_WEIGHTS: model.linear[:, None], _BIAS: np.array([model.bias]), _FACTORS: model.factors}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_zip_entry("meta.json"), json.dumps(meta))
        archive.writestr(_zip_entry("symbol.json"), symbol.write(hyperparameters))
        entry = _zip_entry("params")
        row_ids = 2 * 8 * model.feature_dim
        # so that zip64 is used where needed
        entry.file_size = model.factors.nbytes + model.linear.nbytes + row_ids + _HEADERS
        with archive.open(entry, "w") as params:
            ndarrays.write(params, arrays, row_sparse=frozenset((_WEIGHTS, _FACTORS)))
    stream.seek(0, os.SEEK_END)


def _pack(member: IO[bytes], stream: IO[bytes]) -> None:
    """Write the gzipped tar archive of ``model_algo-1``, which ``member`` stands at the end of."""
    entry = tarfile.TarInfo(MEMBER)
    entry.size = member.tell()
    entry.mode = 0o644
    member.seek(0)
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=1, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        archive.addfile(entry, member)


def _zip_entry(name: str) -> zipfile.ZipInfo:
    """Return a zip entry that is the same at any time and on any system."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3  # Unix
    entry.external_attr = 0o100644 << 16
    return entry


class _CautiousGzip(gzip.GzipFile):
    """A gzip reader that refuses to return a great deal at once, as a hostile tar header may ask for."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0 or size > _LARGEST_TEXT:
            raise ndarrays.FormatError("its archive has a header of unlikely size")
        return super().read(size)


def _extract(stream: IO[bytes], member: IO[bytes]) -> None:
    """Copy the one file of a gzipped tar archive."""
    with _CautiousGzip(fileobj=stream) as compressed, tarfile.open(fileobj=compressed, mode="r:") as archive:
        entry = archive.next()
        if entry is None:
            raise ndarrays.FormatError("its archive is empty")
        name = entry.name.removeprefix("./")
        if not entry.isreg() or entry.issparse():
            raise ndarrays.FormatError(f"its archive holds {name!r}, which is not a regular file")
        if not name.startswith("model_algo-") or "/" in name or "\\" in name:
            raise ndarrays.FormatError(f"its archive holds {name!r} instead of {MEMBER}")
        if entry.size > LARGEST_MODEL:
            raise ndarrays.FormatError(f"it claims {entry.size:,} bytes, more than is allowed")
        source = archive.extractfile(entry)
        if source is None:
            raise ndarrays.FormatError("its archive holds no file")
        shutil.copyfileobj(source, member, _COPY)
        if member.tell() != entry.size:
            raise EOFError
        if archive.next() is not None:
            raise ndarrays.FormatError("its archive holds more than one file")
        padding = compressed.read(_LARGEST_TEXT)
        if padding.strip(b"\0") or compressed.read(1):  # reads to the end, where gzip's checksum is
            raise ndarrays.FormatError("its archive goes on after its end")
    member.seek(0)


def _read_member(stream: IO[bytes]) -> Model:
    """Read ``model_algo-1``."""
    with zipfile.ZipFile(stream) as archive:
        missing = {"meta.json", "symbol.json", "params"} - set(archive.namelist())
        if missing:
            raise ndarrays.FormatError(f"it has no {' and no '.join(sorted(missing))}")
        meta = json.loads(_text(archive, "meta.json"))
        parameters = {str(name): str(value) for name, value in meta["training_parameters"].items()}
        predictor_type = parameters.get("predictor_type") or symbol.predictor_type(
            _text(archive, "symbol.json")
        )
        size = archive.getinfo("params").file_size
        if size > LARGEST_MODEL:
            raise ndarrays.FormatError(f"its parameters claim {size:,} bytes, more than is allowed")
        with archive.open("params") as params:
            arrays = ndarrays.read(params, size, limit=2 * LARGEST_MODEL)
            if params.read(1):
                raise ndarrays.FormatError("its parameters go on after their end")
    return _assembled(arrays, predictor_type or "", parameters)


def _text(archive: zipfile.ZipFile, name: str) -> str:
    """Return a text member of the zip."""
    if archive.getinfo(name).file_size > _LARGEST_TEXT:
        raise ndarrays.FormatError(f"its {name} is too large")
    return archive.read(name).decode()


def _assembled(arrays: dict[str, np.ndarray], predictor_type: str, parameters: dict[str, str]) -> Model:
    """Make a model of the arrays, under the names of sparse or of dense training."""
    if _FACTORS not in arrays:
        raise ndarrays.FormatError("it has no factors (arg:v)")
    factors = arrays[_FACTORS]
    if factors.ndim != 2:
        raise ndarrays.FormatError(f"its factors have the shape {factors.shape}")
    dense = _DENSE_WEIGHTS in arrays or _DENSE_BIAS in arrays
    if dense:
        factors = factors.T
    weights = arrays.get(_DENSE_WEIGHTS if dense else _WEIGHTS, np.zeros(len(factors), np.float32))
    bias = arrays.get(_DENSE_BIAS if dense else _BIAS, np.zeros(1, np.float32))
    if weights.size != len(factors) or bias.size != 1:
        raise ndarrays.FormatError(f"its arrays {weights.shape}, {bias.shape}, {factors.shape} do not fit")
    for array in (weights, bias, factors):
        if not np.isfinite(array).all():
            raise ndarrays.FormatError("it holds numbers that are not finite")
    return Model(
        bias=float(bias.reshape(-1)[0]),
        linear=weights.reshape(-1),
        factors=factors,
        predictor_type=predictor_type,
        training_parameters=parameters,
    )
