"""Fits models to matrices in memory, with all that the local extensions can do: the estimator's engine room."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from lib.fm import fold, lr_finder
from lib.fm.early_stopping import EarlyStopping
from lib.fm.fit import Training
from lib.fm.hyperparameters import Hyperparameters
from lib.fm.model import Model

if TYPE_CHECKING:
    from lib.fm.bayesian import Sampling

History = list[dict[str, float]]
Examples = tuple[sparse.csr_matrix, np.ndarray]


def train(
    X: sparse.csr_matrix,
    y: np.ndarray,
    h: Hyperparameters,
    *,
    seed: int,
    threads: int | None = None,
    test: Examples | None = None,
) -> tuple[Model, History]:
    """Train by Adam, and return the model and the metrics of each epoch (of the first seed's training).

    Parameters
    ----------
    X : csr_matrix, shape (n, d)
        The rows, in the order in which they are taken.
    y : float32 array, shape (n,)
        The labels; 0 or 1 for a classifier.
    h : Hyperparameters
        With their extensions: early stopping, the learning-rate finder, seeds, fold.
    seed, threads
        As of `Training`.
    test : (X, y), optional
        Rows that are predicted after each epoch.

    Raises
    ------
    ModelError, DataError
        Data that cannot be learnt from, or a training that diverges.
    """
    beyond = h.extensions
    if beyond.lr_finder:
        found = lr_finder.find(
            X[: lr_finder.MOST_ROWS],
            y[: lr_finder.MOST_ROWS],
            h,
            share=beyond.lr_finder,
            batches=-(-X.shape[0] // h.mini_batch_size),
            seed=seed,
            threads=threads,
        )
        h = h.model_copy(update=dict(found.rates))
    models, histories = [], []
    for number in range(beyond.seeds):
        training = Training(X, y, h, seed=seed + number, threads=threads)
        if not number:
            warn_of_scale(training)
        stopping = EarlyStopping(beyond.early_stopping, *test) if test is not None else None
        histories.append(list(_epochs(training, stopping)))
        best = stopping.best if stopping is not None and beyond.early_stopping else None
        models.append(training.finish() if best is None else training.model(best))
    model = models[0] if len(models) == 1 else fold.average(models)
    if beyond.fold and model.num_factors > h.num_factors:
        model = fold.low_rank(model, h.num_factors)
    return model, histories[0]


def sample(
    X: sparse.csr_matrix,
    y: np.ndarray,
    h: Hyperparameters,
    *,
    rounds: int | None = None,
    blocks: Sequence[int] | None = None,
    seed: int,
    threads: int | None = None,
    test: Examples | None = None,
) -> tuple[Sampling, History]:
    """Sample the Bayesian model to the end, and return the sampling and the metrics of each sweep.

    Parameters and errors are those of `train`; ``rounds`` and ``blocks`` as of `Sampling`.
    """
    from lib.fm.bayesian import Sampling

    sampling = Sampling(
        X,
        y,
        num_factors=h.num_factors,
        predictor_type=h.predictor_type,
        samples=h.extensions.samples,
        burn_in=h.extensions.burn_in,
        rounds=rounds,
        blocks=blocks,
        seed=seed,
        threads=threads,
        test=test,
    )
    history = [report.train | _of_test(report.test or {}) for report in sampling]
    return sampling, history


def warn_of_scale(training: Training) -> None:
    """Warn if the training's data have features that are not scaled."""
    if training.advice:
        warnings.warn(training.advice, stacklevel=4)


def _epochs(training: Training, stopping: EarlyStopping | None) -> Iterator[dict[str, float]]:
    """Train to the end, or until a set patience is exhausted, and yield the metrics of each epoch."""
    for report in training:
        if not report.ended:
            continue
        if stopping is None:
            yield report.metrics
            continue
        yield report.metrics | _of_test(stopping.after(training, report.epoch))
        if stopping.patience and stopping.exhausted:
            return


def _of_test(metrics: dict[str, float]) -> dict[str, float]:
    return {f"test_{name}": value for name, value in metrics.items()}
