"""Finds learning rates before a training: many short trainings, of which the better ones go on for longer.

A local extension (`lib.fm.extensions`): SageMaker trains with the rates it is given.

The three rates are multiplied by one factor, from 0.0001 to 10,000, by successive halving: all factors
are tried on a few mini-batches, the better ones on three times as many, and so on.  A trial counts by its lowest
loss on rows held out, and it notes after how many mini-batches that was.

The best factor of the last round lies between those that were tried: it is the lowest point of a parabola through
the three losses, over the logarithm of the factor.

A short training likes larger rates than a long one.  On real ratings (336,000 of shows; 8 to 64 factors, batches of
200 and 1,000; one pass against 80) the best rates fell with the length of the training to the power 0.5 to 0.7.  So
what was best after ``b`` mini-batches is multiplied by ``(b / all) ** 0.6`` for a training of ``all``.

References
----------
Karnin, Koren, Somekh, "Almost optimal exploration in multi-armed bandits", ICML 2013, for successive halving.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from lib.errors import DataError, ModelError
from lib.fm.fit import Training
from lib.fm.hyperparameters import Hyperparameters
from lib.fm.metrics import evaluate, loss_name

MOST_ROWS = 2_000_000
"""Rows of the training data that trials see at most."""

RATES = ("bias_lr", "linear_lr", "factors_lr")

_STEP = 0.5  # between factors, in powers of ten
_FACTORS = tuple(10 ** (_STEP * step) for step in range(-8, 9))
_SURVIVORS = (len(_FACTORS), 5, 3)  # trials of each round
_LONGER = 3  # how many times longer each round is than the one before
_LONG_RUNS = 0.6  # exponent of the ratio of the lengths
_HELD_OUT = 0.1
_MOST_HELD_OUT = 20_000
_LOOKS = 6  # at the held-out rows, in a trial
_LEAST_BATCHES = 8  # of a trial: fewer tell nothing


@dataclass(frozen=True)
class Trial:
    """A short training.

    Attributes
    ----------
    factor : float
        What the rates were multiplied by.
    rates : dict of float
        Its learning rates, by name.
    loss : float
        The lowest loss on the rows held out; infinite if it diverged.
    best_after : int
        Mini-batches until then.
    batches : int
        Mini-batches trained.
    """

    factor: float
    rates: dict[str, float]
    loss: float
    best_after: int
    batches: int

    @property
    def outcome(self) -> str:
        """What came of it, in words."""
        if not math.isfinite(self.loss):
            return f"diverged within {self.batches} mini-batches"
        return f"held-out loss {self.loss:.6g} after {self.best_after} of {self.batches} mini-batches"


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes
    ----------
    rates : dict of float
        The learning rates for the training, by name.
    trials : list of Trial
        All that was tried, in order.
    batches : int
        Mini-batches trained in all.
    """

    rates: dict[str, float]
    trials: list[Trial]
    batches: int


def find(
    X: sparse.csr_matrix,
    y: np.ndarray,
    hyperparameters: Hyperparameters,
    *,
    share: float,
    batches: int | None = None,
    seed: int | None = None,
    threads: int | None = None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> Found:
    """Look for the factor by which the learning rates are best multiplied.

    Parameters
    ----------
    X : csr_matrix, shape (n, feature_dim)
        Training rows; a tenth of them, chosen at random, is held out of the trials.
    y : float32 array, shape (n,)
        Their labels.
    hyperparameters : Hyperparameters
        Those of the training to come; its learning rates are where the search begins.
    share : float
        The trials' mini-batches as a share of the training's; but a trial has 8 at least, all together 472.
    batches : int, optional
        Mini-batches of an epoch of the training to come; by default X is all its data.
    seed, threads : int, optional
        As of `Training`.
    asked_to_stop : callable, optional
        Tells whether to end with what is known.

    Raises
    ------
    DataError
        Too few rows to hold some out.
    ModelError
        Every trial diverged.
    """
    n = X.shape[0]
    held = np.random.default_rng(0).random(n) < min(_HELD_OUT, _MOST_HELD_OUT / max(1, n))
    if n < 2 or not held.any():
        raise DataError(f"The learning-rate finder holds training rows out, and there are only {n} rows.")
    rows = _Rows(X[~held], y[~held], X[held], y[held])
    size = hyperparameters.mini_batch_size
    all_batches = hyperparameters.epochs * (-(-n // size) if batches is None else batches)
    # each round costs its trials times its length, and is so many times longer than the first
    rounds = [(count, _LONGER**number) for number, count in enumerate(_SURVIVORS)]
    first = max(_LEAST_BATCHES, share * all_batches / sum(count * longer for count, longer in rounds))
    trials: list[Trial] = []
    best: list[Trial] = []
    factors: Sequence[float] = _FACTORS
    for count, longer in rounds:
        length = min(all_batches, round(first * longer))
        part = rows.first(length * size)
        tried = []
        for factor in sorted(factors[:count]):
            if asked_to_stop():
                break
            tried.append(_tried(part, hyperparameters, factor, length, seed, threads))
        trials += tried
        best = sorted(tried, key=lambda trial: trial.loss) or best
        factors = [trial.factor for trial in best]
    if not best or not math.isfinite(best[0].loss):
        if asked_to_stop():
            return Found(_rates(hyperparameters, 1.0), trials, sum(trial.batches for trial in trials))
        raise ModelError(
            "The learning-rate finder found no rates at which the training does not diverge.",
            hint="Scale the numeric features to about [-1, 1].",
        )
    winner = best[0]
    factor = _lowest_point(best) * (winner.best_after / all_batches) ** _LONG_RUNS
    return Found(_rates(hyperparameters, factor), trials, sum(trial.batches for trial in trials))


@dataclass(frozen=True)
class _Rows:
    """Rows to train on and rows held out, with labels."""

    X: sparse.csr_matrix
    y: np.ndarray
    X_held: sparse.csr_matrix
    y_held: np.ndarray

    def first(self, count: int) -> _Rows:
        """Return the first rows to train on, and only the columns that occur: trials then take little memory."""
        X = self.X[:count]
        occurs = np.zeros(X.shape[1], bool)
        occurs[X.indices] = True
        occurs[self.X_held.indices] = True
        places = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
        columns = max(1, int(places[-1]) + 1)

        def compact(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
            arrays = (matrix.data, places[matrix.indices], matrix.indptr)
            return sparse.csr_matrix(arrays, shape=(matrix.shape[0], columns))

        return _Rows(compact(X), self.y[:count], compact(self.X_held), self.y_held)


def _tried(
    rows: _Rows,
    hyperparameters: Hyperparameters,
    factor: float,
    length: int,
    seed: int | None,
    threads: int | None,
) -> Trial:
    """Train on the rows, again and again, for ``length`` mini-batches, with the rates multiplied by a factor."""
    rates = _rates(hyperparameters, factor)
    batches = -(-len(rows.y) // hyperparameters.mini_batch_size)
    every = max(1, length // _LOOKS)
    changes: dict[str, Any] = {
        **rates,
        "feature_dim": rows.X.shape[1],
        "epochs": -(-length // batches),
        "batch_metrics_publish_interval": every,
    }
    training = Training(
        rows.X, rows.y, hyperparameters.model_copy(update=changes), seed=seed, threads=threads
    )
    classifier = hyperparameters.classifier
    lowest, best_after = math.inf, 0
    looked_at = 0
    try:
        for _ in training:
            done = training.updates
            if done < min(length, looked_at + every):
                continue
            looked_at = done
            metrics = evaluate(training.outputs(rows.X_held), rows.y_held, classifier)
            loss = metrics[loss_name(classifier)]
            if loss < lowest:
                lowest, best_after = loss, done
            if done >= length:
                break
    except ModelError:  # it diverged: an answer too
        pass
    return Trial(factor, rates, lowest, best_after, training.updates)


def _lowest_point(best: list[Trial]) -> float:
    """Return the factor at the lowest point of a parabola through a round's trials, the best one first.

    It is at most half a step away from the best trial's.
    """
    winner = best[0]
    finite = [trial for trial in best if math.isfinite(trial.loss)]
    if len(finite) < 3:
        return winner.factor
    steps = [math.log10(trial.factor / winner.factor) for trial in finite[:3]]
    square, slope, _ = np.polyfit(steps, [trial.loss for trial in finite[:3]], 2)
    if square <= 0:
        return winner.factor
    return float(winner.factor * 10 ** np.clip(-slope / (2 * square), -_STEP / 2, _STEP / 2))


def _rates(hyperparameters: Hyperparameters, factor: float) -> dict[str, float]:
    given: Mapping[str, float] = {name: getattr(hyperparameters, name) for name in RATES}
    return {name: rate * factor for name, rate in given.items()}
