"""The training container: ``python -m lib.fm train --root DIR``.

Under ``DIR`` (``/opt/ml`` in a container) lie, by SageMaker's contract,

- ``input/config/hyperparameters.json``, ``inputdataconfig.json``, ``resourceconfig.json``;
- ``input/data/train`` and, if there is such a channel, ``input/data/test``: recordIO-protobuf files, taken in
  the order of their names;
- ``checkpoints``, if there is such a folder, where a training that is interrupted can go on from;
- ``model``, where the model is left as ``model_algo-1``: its content becomes ``model.tar.gz``;
- ``output/failure``, where the reason of a failure is left.

A stopped job gets SIGTERM: the model as trained so far is saved, and the exit status is 0.

How the model is trained is in `lib.fm.by_adam`, and in `lib.fm.by_sampling` for the Bayesian algorithm.
"""

from __future__ import annotations

import signal
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType

from lib.errors import ModelError, ReelbookError
from lib.fm import artifact, container, hyperparameters, memory
from lib.fm.job import Job
from lib.fm.log import Log
from lib.fm.metrics import evaluate

LONGEST_REASON = 1024  # characters of SageMaker's FailureReason

_NO_THREAD = "can't start new thread"  # what Python says when there is no memory for a thread's stack


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
    except OSError as error:
        return _failed(root, log, f"AlgorithmError: {error.filename or root}: {error.strerror or error}.")
    except Exception as error:
        traceback.print_exc()
        return _failed(root, log, f"AlgorithmError: {type(error).__name__}: {error}")
    return 0


def _train(root: Path, log: Log, stop: _Stop) -> None:
    """Read the job, train, leave the model, and evaluate it."""
    log.host = container.host_of(root)
    given = container.hyperparameters_of(root)
    log.line(f"Reading provided configuration from {root / 'input/config/hyperparameters.json'}: {given}")
    checked = hyperparameters.validate(given)
    log.line(f"Final configuration: {checked.wire(local=True)}")
    if checked.hidden:
        log.line(f"Without effect in this engine: {', '.join(checked.hidden)}")
    kept = root / "checkpoints"  # which SageMaker makes for a job that has a CheckpointConfig
    folder = kept if kept.is_dir() else None
    job = Job(checked, tuple(given), container.channels_of(root), log, lambda: stop.asked, folder)
    try:
        _carry_out(job, root)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and _NO_THREAD not in str(error):
            raise
        raise ModelError(_out_of_memory(job), hint="Lower num_factors, or take fewer rows.") from None


def _carry_out(job: Job, root: Path) -> None:
    if job.hyperparameters.extensions.bayesian:
        from lib.fm import by_sampling as way
    else:
        from lib.fm import by_adam as way  # type: ignore[no-redef]

    trained = way.train(job)
    if trained is None:
        job.log.line("Asked to stop before the first mini-batch: there is no model to save")
        return
    model = replace(trained.model, training_parameters=job.hyperparameters.wire())
    job.log.train_metrics(trained.metrics)
    (root / "model").mkdir(parents=True, exist_ok=True)
    job.log.line(f"Saved the model to {artifact.save_member(model, root / 'model')}")
    if job.test is not None and (_is_tuned(job) or not job.asked_to_stop()):
        X, y = job.test
        job.log.test_metrics(evaluate(model.outputs(X), y, model.classifier))
    job.log.metrics(job.started, {"totaltime": 1000 * (time.time() - job.started)})


def _is_tuned(job: Job) -> bool:
    """Whether a tuning job compares this one by its test metrics, also where it stops it early."""
    return "_tuning_objective_metric" in job.hyperparameters.hidden


def _out_of_memory(job: Job) -> str:
    """Return a sentence with an estimate of what the job needs."""
    h = job.hyperparameters
    model = memory.size(3 * 4 * h.feature_dim * (h.num_factors + 1))
    files = memory.size(sum(channel.nbytes for channel in job.channels.values()))
    there = memory.available()
    left = "" if there is None else f", {memory.size(there)} are available"
    return (
        f"There is not enough memory: feature_dim {h.feature_dim:,} with num_factors {h.num_factors} and their "
        f"moments need {model}, the files of the channels have {files}{left}."
    )


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
