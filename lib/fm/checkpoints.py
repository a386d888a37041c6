"""Checkpoints: a training's parameters and moments after an epoch, from which a later job goes on.

SageMaker keeps what lies in ``/opt/ml/checkpoints`` in S3 where a job has a CheckpointConfig, and brings it back for a
later job.  Its own Factorization Machines leaves nothing there; this engine does.  A training that goes on from a
checkpoint ends with the same bits as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lib.fm.fit import Training
    from lib.fm.job import Job

FILE = "checkpoint.npz"

_MOST_SHARE = 20  # one of so many seconds at most goes into checkpoints


class Checkpoints:
    """The checkpoint of one job in a folder; the newest only.

    Parameters
    ----------
    folder : Path
        What stands for ``/opt/ml/checkpoints``.
    job : Job
        Its hyperparameters but for ``epochs``, its seed and its files must be those of the checkpoint.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        self._path = folder / FILE
        self._log = job.log
        self._identity = _identity(job)
        self._cost = 0.0
        self._last = -float("inf")

    def restore(self, training: Training) -> dict[int, dict[str, float]]:
        """Bring a training to where the checkpoint is; return the metrics of its last epoch, by its number.

        Returns
        -------
        dict of int to dict of float
            Empty where there is no checkpoint, or one of another training, which the log says.
        """
        if not self._path.exists():
            return {}
        try:
            with np.load(self._path, allow_pickle=False) as kept:
                about = json.loads(str(kept["about"]))
                if about["identity"] != self._identity:
                    self._log.warning(
                        "The checkpoint is of other hyperparameters, data or seed: training from the beginning"
                    )
                    return {}
                if about["epoch"] >= training.hyperparameters.epochs:
                    self._log.warning(
                        f"The checkpoint is of epoch={about['epoch']}, beyond the {training.hyperparameters.epochs} "
                        "epochs asked for: training from the beginning"
                    )
                    return {}
                training.continue_from(kept["bias"], kept["table"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            self._log.warning("The checkpoint cannot be read: training from the beginning")
            return {}
        self._log.local(f"going on after epoch={about['epoch']}, from the checkpoint")
        return {about["epoch"]: about["metrics"]}

    def save(self, training: Training, epoch: int, metrics: dict[str, float], *, ends: bool = False) -> None:
        """Keep what the training has come to after an epoch; not after each where that would take long.

        Parameters
        ----------
        training : Training
            At the end of the epoch.
        epoch : int
            Counted from 0.
        metrics : dict of str to float
            The epoch's training metrics, as `restore` returns them.
        ends : bool, default False
            The training ends here, before its last epoch: what it has come to is kept in any case.
        """
        started = time.monotonic()
        ends = ends or epoch + 1 == training.hyperparameters.epochs
        if not ends and started - self._last < _MOST_SHARE * self._cost:
            return
        bias, table = training.parameters_and_moments()
        about = json.dumps({"identity": self._identity, "epoch": epoch, "metrics": metrics})
        temporary = self._path.with_name(f".{FILE}.new")  # a name that ends in .npz else gets a second one
        try:
            with temporary.open("wb") as file:
                np.savez(file, about=np.array(about), bias=bias, table=table)
            temporary.replace(self._path)
        except OSError as error:  # a training is worth more than its checkpoint
            temporary.unlink(missing_ok=True)
            self._log.warning(f"The checkpoint after epoch={epoch} could not be written: {error.strerror}")
        self._last = time.monotonic()
        self._cost = self._last - started


def _identity(job: Job) -> str:
    """Return a digest of all that the bits of a training depend on, but for how long it goes on."""
    wire = {name: value for name, value in job.hyperparameters.wire(local=True).items() if name != "epochs"}
    digest = hashlib.sha256(json.dumps([sorted(wire.items()), job.seed]).encode())
    for path in job.channels["train"].paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
