"""The training container: ``python -m lib.fm train --root DIR``.

Under ``DIR`` (``/opt/ml`` in a container) lie, by SageMaker's contract,

- ``input/config/hyperparameters.json``, ``inputdataconfig.json``, ``resourceconfig.json``;
- ``input/data/train`` and, if there is such a channel, ``input/data/test``: recordIO-protobuf files, taken in
  the order of their names (the zeros of dense records count as not there);
- ``model``, where the model is left as ``model_algo-1``: its content becomes ``model.tar.gz``;
- ``output/failure``, where the reason of a failure is left.

A stopped job gets SIGTERM: the model as trained so far is saved, and the exit status is 0.
"""

from __future__ import annotations

import json
import signal
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from scipy import sparse

from lib import recordio
from lib.errors import DataError, ParameterError, ReelbookError, did_you_mean
from lib.fm import artifact, hyperparameters
from lib.fm.fit import Training
from lib.fm.log import Log
from lib.fm.metrics import evaluate

CHANNELS = ("train", "test")
CONTENT_TYPE = "application/x-recordio-protobuf"
LONGEST_REASON = 1024  # characters of SageMaker's FailureReason


class _Stop:
    """Remembers that SIGTERM arrived while it is entered as a context."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Stop:
        self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def main(root: str | Path = "/opt/ml") -> int:
    """Run a training job and return the process's exit status: 0, or 1 after a failure.

    A failure is logged and written to ``output/failure``: ``ClientError: …`` for the user's mistakes,
    ``AlgorithmError: …`` for anything else.
    """
    root = Path(root)
    log = Log()
    try:
        with _Stop() as stop:
            _train(root, log, stop)
    except ReelbookError as error:
        return _failed(root, log, f"ClientError: {error}")
    except MemoryError:
        return _failed(root, log, "AlgorithmError: There is not enough memory for the data and the model.")
    except OSError as error:
        return _failed(root, log, f"AlgorithmError: {error.filename or root}: {error.strerror or error}.")
    except Exception as error:
        traceback.print_exc()
        return _failed(root, log, f"AlgorithmError: {type(error).__name__}: {error}")
    return 0


def _train(root: Path, log: Log, stop: _Stop) -> None:
    """Read the job, train, leave the model, and evaluate it."""
    started = time.time()
    config = root / "input" / "config"
    log.host = _host(config / "resourceconfig.json")
    given = _json(config / "hyperparameters.json", required=True)
    log.line(f"Reading provided configuration from {config / 'hyperparameters.json'}: {given}")
    checked = hyperparameters.validate(given)
    log.line(f"Final configuration: {checked.wire()}")
    if checked.hidden:
        log.line(f"Without effect in this engine: {', '.join(checked.hidden)}")
    channels = _channels(_json(config / "inputdataconfig.json", required=True))
    examples = {channel: _read_channel(root, channel, checked.feature_dim) for channel in channels}

    training = Training(*examples.pop("train"), checked)
    if training.advice:
        log.warning(training.advice)
    if training.compile_seconds is not None:
        log.line(
            f"Compiled the kernels for num_factors={checked.num_factors} in {training.compile_seconds:.1f} s; "
            "later runs find them ready"
        )
    log.line(f"Training on {training.records} records, {training.batches} mini-batches an epoch")
    log.metrics(started, {"setuptime": 1000 * (time.time() - started)})

    metrics = _run(training, log, stop)
    if not training.updates:
        log.line("Asked to stop before the first mini-batch: there is no model to save")
        return
    model = training.model()
    log.train_metrics(metrics)
    (root / "model").mkdir(parents=True, exist_ok=True)
    log.line(f"Saved the model to {artifact.save_member(model, root / 'model')}")
    if "test" in examples and not stop.asked:
        X, y = examples["test"]
        log.test_metrics(evaluate(model.outputs(X), y, model.classifier))
    log.metrics(started, {"totaltime": 1000 * (time.time() - started)})


def _run(training: Training, log: Log, stop: _Stop) -> dict[str, float]:
    """Train to the end or until asked to stop, writing the log, and return the last training metrics."""
    metrics: dict[str, float] = {}
    epochs = training.hyperparameters.epochs
    epoch_started = time.time()
    if stop.asked:
        return metrics
    for report in training:
        metrics = report.metrics
        if training.publishes(report):
            log.train_metrics(metrics, epoch=report.epoch, batch=report.batch)
        if report.ended:
            log.train_metrics(metrics, epoch=report.epoch)
            log.metrics(epoch_started, {"update.time": 1000 * report.seconds}, epoch=report.epoch)
            log.progress(report.epoch + 1, epochs)
            log.throughput(report.records, report.seconds)
            epoch_started = time.time()
        if stop.asked:
            log.line(f"Asked to stop: ending after epoch={report.epoch}, batch={report.batch}")
            break
    return metrics


def _read_channel(root: Path, channel: str, feature_dim: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return the examples and labels of all of a channel's files, in the order of their names.

    Raises
    ------
    DataError
        No files, foreign files, another number of features than ``feature_dim``, or no labels.
    """
    folder = root / "input" / "data" / channel
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise DataError(f"The channel `{channel}` has no files.")
    matrices, labels = [], []
    for path in files:
        name = f"{channel}/{path.relative_to(folder).as_posix()}"
        try:
            with path.open("rb") as file:
                X, y = recordio.read(file, feature_dim)
        except DataError as error:
            raise DataError(error.message.replace(str(path), name), hint=error.hint) from None
        if y is None:
            raise DataError(f"{name} has no labels.")
        matrices.append(X)
        labels.append(y)
    if len(files) == 1:
        return matrices[0], labels[0]
    return sparse.vstack(matrices, format="csr"), np.concatenate(labels)


def _channels(description: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the job's channels, checked."""
    for name, channel in description.items():
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
    return tuple(description)


def _host(path: Path) -> str:
    """Return this host's name, such as ``algo-1``."""
    description = _json(path)
    hosts = description.get("hosts") or []
    if len(hosts) > 1:
        raise ParameterError(
            f"This engine trains on one host, but the job has {len(hosts)}.",
            hint="Set the instance count to 1.",
        )
    return str(description.get("current_host") or "algo-1")


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


def _failed(root: Path, log: Log, reason: str) -> int:
    """Leave the reason of a failure where SageMaker looks for it."""
    reason = " ".join(reason.split())[:LONGEST_REASON]
    log.error(reason)
    try:
        (root / "output").mkdir(parents=True, exist_ok=True)
        (root / "output" / "failure").write_text(reason, encoding="utf-8")
    except OSError as error:
        log.error(f"The reason could not be written to {root / 'output' / 'failure'}: {error.strerror}")
    return 1
