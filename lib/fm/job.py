"""A training job as its ways of training see it: settings, data, the log, and whether to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse

from lib.fm.checkpoints import Checkpoints
from lib.fm.container import Channel
from lib.fm.fit import seed_or_default
from lib.fm.hyperparameters import Hyperparameters
from lib.fm.log import Log
from lib.fm.model import Model


@dataclass(frozen=True)
class Trained:
    """What a job has trained.

    Attributes
    ----------
    model : Model
        The model.
    metrics : dict of float
        Its training metrics.
    """

    model: Model
    metrics: dict[str, float]


@dataclass
class Job:
    """A training job.

    Attributes
    ----------
    hyperparameters : Hyperparameters
        Checked.
    given : tuple of str
        The names of those that the user gave.
    channels : dict of str to Channel
        ``train`` and perhaps ``test``.
    log : Log
        Where what happens is written.
    asked_to_stop : callable
        Tells whether the job is to end with what it has.
    checkpoint_folder : Path, optional
        Where checkpoints are kept; None where the job keeps none.
    started : float
        When it began, in seconds since 1970.
    """

    hyperparameters: Hyperparameters
    given: tuple[str, ...]
    channels: dict[str, Channel]
    log: Log
    asked_to_stop: Callable[[], bool]
    checkpoint_folder: Path | None = None
    started: float = field(default_factory=time.time)

    @cached_property
    def checkpoints(self) -> Checkpoints | None:
        """Its checkpoints; None where it keeps none, or its extensions have no state to go on from."""
        extensions = self.hyperparameters.extensions
        if self.checkpoint_folder is None:
            return None
        if extensions.bayesian or extensions.early_stopping or extensions.lr_finder or extensions.seeds > 1:
            self.log.warning("There are no checkpoints of a training with local extensions")
            return None
        return Checkpoints(self.checkpoint_folder, self)

    @property
    def seed(self) -> int:
        """Seed of the first model: the environment variable REELBOOK_FM_SEED, or 0.

        Raises
        ------
        ParameterError
            It is no whole number of 0 or more.
        """
        return seed_or_default()

    @cached_property
    def test(self) -> tuple[sparse.csr_matrix, np.ndarray] | None:
        """Examples and labels of the channel ``test``; None without one."""
        return self.read("test") if "test" in self.channels else None

    def read(
        self, channel: str, *, keep_zeros: bool = False, most_rows: int | None = None
    ) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Return the examples and labels of a channel that the job has; see `Channel.read`."""
        h = self.hyperparameters
        return self.channels[channel].read(
            h.feature_dim, classifier=h.classifier, keep_zeros=keep_zeros, most_rows=most_rows
        )
