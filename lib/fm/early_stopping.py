"""Early stopping: the epoch with the lowest loss on the test channel is the model.

A local extension (`lib.fm.extensions`): SageMaker trains all epochs, and its model is the last one's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lib.errors import DataError
from lib.fm.fit import Training
from lib.fm.metrics import evaluate, loss_name


class EarlyStopping:
    """Watches a training's loss on test rows, and keeps the parameters of the best epoch.

    Parameters
    ----------
    patience : int
        Epochs without a lower loss after which `exhausted` is true; 0 only measures.
    X : csr_matrix, shape (n, feature_dim)
        The test rows.
    y : float32 array, shape (n,)
        Their labels.

    Attributes
    ----------
    best_epoch : int or None
        The epoch of the lowest loss so far; None before the first has ended.
    best_loss : float
        Its RMSE, or cross-entropy of a classifier.

    Raises
    ------
    DataError
        There are no test rows.
    """

    def __init__(self, patience: int, X: Any, y: np.ndarray) -> None:
        if not X.shape[0]:
            raise DataError("There are no test rows to watch.")
        self.patience = patience
        self.best_epoch: int | None = None
        self.best_loss = float("inf")
        self._X, self._y = X, y
        self._best: Any = None
        self._last_epoch = -1

    def after(self, training: Training, epoch: int) -> dict[str, float]:
        """Measure a training after an epoch, and return the test metrics."""
        classifier = training.hyperparameters.classifier
        metrics = evaluate(training.outputs(self._X), self._y, classifier)
        loss = metrics[loss_name(classifier)]
        if loss < self.best_loss:
            self.best_epoch, self.best_loss = epoch, loss
            if self.patience:
                self._best = training.snapshot(self._best)
        self._last_epoch = epoch
        return metrics

    @property
    def exhausted(self) -> bool:
        """Whether ``patience`` epochs have passed since the best one."""
        return (
            self.patience > 0
            and self.best_epoch is not None
            and self._last_epoch - self.best_epoch >= self.patience
        )

    @property
    def best(self) -> Any:
        """The parameters of the best epoch, for `Training.model`; None before the first, or without patience."""
        return self._best
