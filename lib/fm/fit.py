"""Training a Factorization Machine on a matrix: the loop around the kernels, and its Python face."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from lib.errors import DataError, ModelError, ParameterError
from lib.fm import metrics
from lib.fm.hyperparameters import DEFAULT_EPSILON, DEFAULT_SCALE, Hyperparameters, validate
from lib.fm.model import Model, as_csr

SEED_VARIABLE = "REELBOOK_FM_SEED"

_UNSCALED = 10.0  # numeric features beyond this are worth a warning
_CHUNK_WORK = 100_000_000  # factor terms between two reports: a fraction of a second
_INIT_ROWS = 65_536  # features initialised at a time


@dataclass(frozen=True)
class Report:
    """How far a training is.

    Attributes
    ----------
    epoch : int
        The present epoch, from 0.
    batch : int
        The last finished mini-batch of the epoch, from 0.
    ended : bool
        Whether the epoch is complete.
    metrics : dict
        The training metrics over the epoch so far, each batch before its update.
    records : int
        Rows seen in this epoch.
    seconds : float
        Seconds spent on this epoch.
    """

    epoch: int
    batch: int
    ended: bool
    metrics: dict[str, float]
    records: int
    seconds: float


class Training:
    """One training run, step by step.

    Iterating over it trains and yields a `Report` after the first batch of each epoch, after every
    ``batch_metrics_publish_interval`` batches, at the end of each epoch, and in between at least a few times a
    second; `model` gives the model at any moment.  Rows are taken in their order, in the same batches
    every epoch.

    Parameters
    ----------
    X : scipy sparse matrix or array, shape (n, feature_dim)
        One row an example.  Every stored entry of a sparse matrix, and every entry of a dense array,
        makes its feature active in its batch.
    y : array, shape (n,)
        What to predict; 0 or 1 for a binary classifier.
    hyperparameters : Hyperparameters
        Checked hyperparameters.
    seed : int, optional
        Of the initial weights; by default the environment variable REELBOOK_FM_SEED, or 0.

    Raises
    ------
    ModelError, DataError
        Data that do not fit the hyperparameters, or cannot be learnt from.
    """

    def __init__(self, X: Any, y: Any, hyperparameters: Hyperparameters, *, seed: int | None = None) -> None:
        from lib.fm import kernels

        self.hyperparameters = hyperparameters
        X = as_csr(X, hyperparameters.feature_dim, keep_zeros=True)
        labels = _checked_labels(y, X.shape[0], hyperparameters.classifier)
        self.advice = scale_advice(X)
        started = time.perf_counter()
        width = kernels.width_of(hyperparameters.num_factors)
        self._kernel, compiled = kernels.load(width)
        #: Seconds that compiling took; None when the machine code came from an earlier run.
        self.compile_seconds = time.perf_counter() - started if compiled else None
        self._rows = kernels.Rows(
            _plain(X.indptr, np.int64),
            _plain(X.indices, np.int32),
            _plain(X.data, np.float32),
            labels,
        )
        self._plan = kernels.make_plan(
            self._rows, hyperparameters.feature_dim, hyperparameters.mini_batch_size
        )
        self._settings = _settings(hyperparameters)
        self._table = kernels.empty_table(hyperparameters.feature_dim, width)
        self._bias = np.zeros(3)
        self._step = 0
        rng = np.random.default_rng(_seed(seed))
        if hyperparameters.use_bias:
            self._bias[0] = _initial(rng, (1,), "bias", hyperparameters)[0]
        for start in range(0, hyperparameters.feature_dim, _INIT_ROWS):
            rows = self._table[start : start + _INIT_ROWS]
            if hyperparameters.use_linear:
                rows[:, 3 * width] = _initial(rng, (len(rows),), "linear", hyperparameters)
            shape = (len(rows), hyperparameters.num_factors)
            rows[:, : hyperparameters.num_factors] = _initial(rng, shape, "factors", hyperparameters)
        self._width = width

    @property
    def records(self) -> int:
        """Number of rows."""
        return len(self._rows.labels)

    @property
    def batches(self) -> int:
        """Number of mini-batches of an epoch."""
        return len(self._plan.batches) - 1

    @property
    def updates(self) -> int:
        """Number of mini-batches trained on so far."""
        return self._step

    def __iter__(self) -> Iterator[Report]:
        for epoch in range(self.hyperparameters.epochs):
            yield from self._epoch(epoch)

    def _epoch(self, epoch: int) -> Iterator[Report]:
        size = self.hyperparameters.mini_batch_size
        work = len(self._rows.features) / self.batches * self._width
        chunk = max(1, int(_CHUNK_WORK / max(1.0, work)))
        sums = np.zeros(metrics.SUMS)
        done, seconds = 0, 0.0
        while done < self.batches:
            until = min(done + chunk, self._next_publication(done), self.batches)
            started = time.perf_counter()
            self._step = self._kernel(
                self._rows,
                self._plan,
                self._table,
                self._bias,
                self._settings,
                self._step,
                done,
                until,
                sums,
            )
            seconds += time.perf_counter() - started
            done = until
            if not (np.isfinite(sums).all() and np.isfinite(self._bias).all()):
                raise _diverged(self.hyperparameters, f"in epoch {epoch}, before batch {done}")
            yield Report(
                epoch=epoch,
                batch=done - 1,
                ended=done == self.batches,
                metrics=metrics.from_sums(sums, done * size, self.hyperparameters.classifier),
                records=min(done * size, self.records),
                seconds=seconds,
            )

    def publishes(self, report: Report) -> bool:
        """Tell whether a report stands at a batch whose metrics are to be published."""
        return report.batch % self.hyperparameters.batch_metrics_publish_interval == 0

    def _next_publication(self, done: int) -> int:
        """Return the number of finished batches at the next publication: 1, interval + 1, …"""
        interval = self.hyperparameters.batch_metrics_publish_interval
        return -(-done // interval) * interval + 1

    def model(self) -> Model:
        """Return the model as trained so far.

        Raises
        ------
        ModelError
            The training diverged.
        """
        k = self.hyperparameters.num_factors
        model = Model(
            bias=float(np.float32(self._bias[0])),
            linear=self._table[:, 3 * self._width].copy(),
            factors=self._table[:, :k].copy(),
            predictor_type=self.hyperparameters.predictor_type,
            training_parameters=self.hyperparameters.wire(),
        )
        finite = (
            np.isfinite(model.bias) and np.isfinite(model.linear).all() and np.isfinite(model.factors).all()
        )
        if not finite:
            raise _diverged(self.hyperparameters, f"after {self._step} batches")
        return model


class FactorizationMachine:
    """A Factorization Machine to be fitted in this process.

    Parameters
    ----------
    seed : int, optional
        Of the initial weights; by default the environment variable REELBOOK_FM_SEED, or 0.
    **hyperparameters
        By SageMaker's names; ``feature_dim`` is taken from the data.

    Attributes
    ----------
    model : Model or None
        The fitted model.
    history : list of dict
        The training metrics of each epoch.

    Examples
    --------
    >>> machine = FactorizationMachine(num_factors=8, predictor_type="regressor", epochs=10)
    >>> scores = machine.fit(X, y).predict(X_test)  # doctest: +SKIP
    """

    def __init__(self, *, seed: int | None = None, **hyperparameters: Any) -> None:
        validate({"feature_dim": 1} | hyperparameters)
        self._given = hyperparameters
        self.seed = seed
        self.model: Model | None = None
        self.history: list[dict[str, float]] = []

    def fit(self, X: Any, y: Any, *, seed: int | None = None) -> FactorizationMachine:
        """Train on examples X (n, d) and labels y (n,), and return the machine.

        Raises
        ------
        ModelError, DataError
            Data that do not fit the hyperparameters, or a training that diverges.
        """
        columns = np.shape(X)[1] if np.ndim(X) == 2 else 1
        hyperparameters = validate({"feature_dim": columns} | self._given)
        training = Training(X, y, hyperparameters, seed=self.seed if seed is None else seed)
        if training.advice:
            warnings.warn(training.advice, stacklevel=2)
        self.history = [report.metrics for report in training if report.ended]
        self.model = training.model()
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the score of each row of X (n, d): float32 (n,); see `Model.predict`.

        Raises
        ------
        ModelError
            The machine is not fitted, or X does not fit the model.
        """
        if self.model is None:
            raise ModelError("The machine is not fitted.", hint="Call fit(X, y) first.")
        return self.model.predict(X)


def scale_advice(X: sparse.csr_matrix) -> str:
    """Return a sentence of advice when features are not scaled, otherwise an empty string."""
    if not X.nnz:
        return ""
    largest = int(np.argmax(np.abs(X.data)))
    value = float(X.data[largest])
    if abs(value) <= _UNSCALED:
        return ""
    return (
        f"Feature {int(X.indices[largest])} holds values up to {value:g}: Factorization Machines learns badly "
        "from numeric features that are not scaled to about [-1, 1]."
    )


def _plain(array: Any, dtype: type) -> np.ndarray:
    """Return an array of the kind that the kernels are compiled for: contiguous, aligned and writeable."""
    return np.require(array, dtype, ["C", "A", "W"])


def _seed(seed: int | None) -> int:
    """Return the seed: as given, or from the environment, or 0."""
    text = os.environ.get(SEED_VARIABLE, "").strip() or "0" if seed is None else str(seed)
    if not text.isdecimal():
        raise ParameterError(f"The seed ({SEED_VARIABLE}) must be a whole number of 0 or more, not {text!r}.")
    return int(text)


def _checked_labels(y: Any, n: int, classifier: bool) -> np.ndarray:
    """Return labels as float32 (n,), checked for their number and values."""
    if y is None:
        raise DataError("The training data have no labels.")
    try:
        with np.errstate(over="ignore"):
            labels = _plain(y, np.float32)
    except (TypeError, ValueError):
        raise DataError("The labels are not numbers.") from None
    if labels.shape != (n,):
        raise DataError(f"There are {n} examples, but labels of shape {labels.shape}.")
    if not n:
        raise DataError("The training data have no rows.")
    if not np.isfinite(labels).all():
        raise DataError("The labels hold values that are not finite numbers.")
    if classifier and not np.isin(labels, (0, 1)).all():
        wrong = float(labels[~np.isin(labels, (0, 1))][0])
        raise DataError(f"A binary_classifier learns from labels 0 and 1, but one label is {wrong:g}.")
    return labels


def _settings(hyperparameters: Hyperparameters) -> Any:
    """Return the kernels' settings."""
    from lib.fm import kernels

    h = hyperparameters
    clips = h.clip_gradient is not None and h.clip_gradient > 0
    return kernels.Settings(
        bias_lr=h.bias_lr if h.use_bias else 0.0,
        linear_lr=h.linear_lr if h.use_linear else 0.0,
        factors_lr=h.factors_lr,
        bias_wd=h.bias_wd,
        linear_wd=h.linear_wd,
        factors_wd=h.factors_wd,
        epsilon=h.eps or DEFAULT_EPSILON,
        rescale=1.0 / h.mini_batch_size if h.rescale_grad is None else h.rescale_grad,
        clip=float(h.clip_gradient) if clips and h.clip_gradient else float("inf"),
        batch_size=h.mini_batch_size,
        classifier=h.classifier,
    )


def _initial(
    rng: np.random.Generator, shape: tuple[int, ...], group: str, hyperparameters: Hyperparameters
) -> np.ndarray:
    """Draw initial values, float32, of a group: ``bias``, ``linear`` or ``factors``."""
    method = getattr(hyperparameters, f"{group}_init_method")
    if method == "constant":
        return np.full(shape, getattr(hyperparameters, f"{group}_init_value"), np.float32)
    if method == "uniform":
        scale = getattr(hyperparameters, f"{group}_init_scale")
        scale = np.float32(DEFAULT_SCALE if scale is None else scale)
        return (2 * rng.random(shape, np.float32) - 1) * scale
    sigma = np.float32(getattr(hyperparameters, f"{group}_init_sigma"))
    return rng.standard_normal(shape, np.float32) * sigma


def _diverged(hyperparameters: Hyperparameters, when: str) -> ModelError:
    """Return the error for a training whose numbers are no longer finite."""
    h = hyperparameters
    return ModelError(
        f"The training diverged {when}: its numbers are no longer finite.",
        hint=f"Lower the learning rates (bias_lr is {h.bias_lr:g}, linear_lr {h.linear_lr:g}, "
        f"factors_lr {h.factors_lr:g}) or scale the numeric features.",
    )
