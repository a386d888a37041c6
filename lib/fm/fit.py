"""Training a Factorization Machine: the loop around the kernels."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib import threads as thread_counts
from lib.errors import ModelError, ParameterError
from lib.fm import memory, metrics
from lib.fm.checks import checked_examples, checked_labels
from lib.fm.hyperparameters import DEFAULT_EPSILON, Hyperparameters
from lib.fm.model import Model

SEED_VARIABLE = "REELBOOK_FM_SEED"

_CHUNK_WORK = 300_000_000  # factor terms between two reports: a fraction of a second

_GROUPS = ("bias", "linear", "factors")
_SPREAD = {"normal": "sigma", "uniform": "scale", "constant": "value"}  # of an init method


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
        Seconds spent on this epoch, waiting for data included.
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
    every epoch.  The number of threads does not change a bit of the result.

    Parameters
    ----------
    X : scipy sparse matrix or array, shape (n, feature_dim)
        One row an example.  Every stored entry of a sparse matrix, and every entry of a dense array,
        makes its feature active in its batch.  It is used, not copied, where its types fit.
    y : array, shape (n,)
        What to predict; 0 or 1 for a binary classifier.
    hyperparameters : Hyperparameters
        Checked hyperparameters.
    seed : int, optional
        Of the initial weights; by default the environment variable REELBOOK_FM_SEED, or 0.
    threads : int, optional
        The most threads; by default the environment variable REELBOOK_THREADS, or all processors.
    memory_bytes : int, optional
        What the data's blocks may take between epochs, the rest waits on disk; by default the environment
        variable REELBOOK_FM_MEMORY_BYTES, or half of what is available.

    Attributes
    ----------
    hyperparameters : Hyperparameters
        As given.

    Raises
    ------
    ModelError, DataError
        Data that do not fit the hyperparameters or cannot be learnt from, or too little memory.
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        hyperparameters: Hyperparameters,
        *,
        seed: int | None = None,
        threads: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self._begin(_matrix_source(X, y, hyperparameters), hyperparameters, seed, threads, memory_bytes)

    @classmethod
    def from_files(
        cls,
        paths: Sequence[str | Path],
        hyperparameters: Hyperparameters,
        *,
        names: Sequence[str] | None = None,
        seed: int | None = None,
        threads: int | None = None,
        memory_bytes: int | None = None,
    ) -> Training:
        """Train on recordIO-protobuf files, read in the order given as if they were one.

        In the first epoch the files are read ahead of the training; `records` and `batches` are None until it
        has ended.  Errors in the data are raised when they are met.

        Parameters
        ----------
        paths : sequence of path
            The files, sparse or dense; the zeros of dense records make their features active.
        hyperparameters, seed, threads, memory_bytes
            As of `Training`.
        names : sequence of str, optional
            What errors call the files; by default their paths.

        Raises
        ------
        ModelError, DataError
            No files, a first file that cannot be used, or too little memory.
        """
        from lib.fm.stream import FileSource

        training = cls.__new__(cls)
        source = FileSource(paths, hyperparameters.feature_dim, hyperparameters.classifier, names, threads)
        training._begin(source, hyperparameters, seed, threads, memory_bytes)
        return training

    def _begin(
        self,
        source: Any,
        hyperparameters: Hyperparameters,
        seed: int | None,
        threads: int | None,
        memory_bytes: int | None,
    ) -> None:
        from lib.fm.crew import Crew
        from lib.fm.layout import width_of
        from lib.fm.state import State, require_memory

        self.hyperparameters = hyperparameters
        self._threads = thread_counts.count(threads)
        self._settings = _settings(hyperparameters)
        self._memory_bytes = memory_bytes
        require_memory(hyperparameters)
        self._crew = Crew(self._threads, width_of(hyperparameters.num_factors))
        self._crew.kernel(
            source.weighted
        )  # before the state takes its memory: a compiler that gets none hangs
        self._state = State(hyperparameters, seed_or_default(seed))
        self._finished = False
        self._take(source)

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the data: `continue_with` gives others to what is unpickled."""
        return {name: value for name, value in vars(self).items() if name not in ("_examples", "_crew")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from lib.fm.crew import Crew

        vars(self).update(state)
        self._crew = Crew(self._threads, self._state.width)

    def _take(self, source: Any) -> None:
        """Make a source the data of the epochs to come."""
        from lib.fm.stream import Examples

        h = self.hyperparameters
        self._crew.kernel(source.weighted)
        self._examples = Examples(source, h.feature_dim, h.mini_batch_size, memory.budget(self._memory_bytes))

    @property
    def compile_seconds(self) -> float | None:
        """Seconds that compiling took so far; None when the machine code came from an earlier run."""
        return self._crew.compile_seconds

    @property
    def advice(self) -> str:
        """A sentence about features that are not scaled, among the data read so far; otherwise empty."""
        return self._examples.advice

    @property
    def records(self) -> int | None:
        """Number of rows; None before the first epoch over files has ended."""
        return self._examples.records

    @property
    def batches(self) -> int | None:
        """Number of mini-batches of an epoch; None before the first epoch over files has ended."""
        records = self.records
        return None if records is None else -(-records // self.hyperparameters.mini_batch_size)

    @property
    def updates(self) -> int:
        """Number of mini-batches trained on so far."""
        return int(self._state.bias[3])

    def __iter__(self) -> Iterator[Report]:
        return self.epochs_from(0)

    def epochs_from(self, first: int) -> Iterator[Report]:
        """Train through the epochs from one on, and yield their reports."""
        for number in range(first, self.hyperparameters.epochs):
            yield from self.epoch(number)

    def parameters_and_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all that training changes: views that the next batch changes; see `continue_from`.

        Returns
        -------
        bias : float64 array, shape (4,)
        table : float32 array, shape (feature_dim, floats of a row)
        """
        self._check_unfinished()
        return self._state.bias, self._state.table

    def continue_from(self, bias: np.ndarray, table: np.ndarray) -> None:
        """Take parameters and moments of a training of the same hyperparameters.

        Raises
        ------
        ValueError
            They have other shapes.
        """
        self._check_unfinished()
        if bias.shape != self._state.bias.shape or table.shape != self._state.table.shape:
            raise ValueError("the checkpoint has other shapes")
        np.copyto(self._state.bias, bias)
        np.copyto(self._state.table, table)

    def continue_with(self, X: Any, y: Any) -> None:
        """Take other data for the epochs to come; parameters, moments and the count of updates stay.

        Parameters and errors are those of `Training`.
        """
        self._take(_matrix_source(X, y, self.hyperparameters))

    def set_learning_rates(
        self, *, bias: float | None = None, linear: float | None = None, factors: float | None = None
    ) -> None:
        """Change learning rates for what comes; groups not given keep theirs.

        Raises
        ------
        ParameterError
            Negative or not finite.
        """
        given = {"bias": bias, "linear": linear, "factors": factors}
        for group, rate in given.items():
            if rate is None:
                continue
            if not (math.isfinite(rate) and rate >= 0):
                raise ParameterError(f"{group}_lr must be a finite number of 0 or more, not {rate:g}.")
            if group == "factors" or getattr(self.hyperparameters, f"use_{group}"):
                self._settings = self._settings._replace(**{f"{group}_lr": float(rate)})

    @property
    def learning_rates(self) -> dict[str, float]:
        """The present learning rates of ``bias``, ``linear`` and ``factors``; 0 of a group not used."""
        return {group: getattr(self._settings, f"{group}_lr") for group in _GROUPS}

    def epoch(self, number: int = 0) -> Iterator[Report]:
        """Train on all data once, and yield the reports of it.

        Parameters
        ----------
        number : int
            What the reports call the epoch.

        Raises
        ------
        ModelError
            The training diverges.
        DataError
            Files that cannot be used.
        """
        self._check_unfinished()
        size = self.hyperparameters.mini_batch_size
        sums = np.zeros(metrics.SUMS)
        batches_before, rows_before, seconds = 0, 0, 0.0
        started = time.perf_counter()
        with self._crew.pool() as pool:
            for block, last in _with_last(self._examples):
                entries = len(block.arrays.features) / block.batches
                chunk = max(1, int(_CHUNK_WORK / max(1.0, entries * self._state.width)))
                done = 0
                while done < block.batches:
                    publication = self._next_publication(batches_before + done) - batches_before
                    until = min(done + chunk, publication, block.batches)
                    reached = self._crew.train(self._state, block, self._settings, sums, done, until, pool)
                    if reached < until or not np.isfinite(self._state.bias).all():
                        raise self._diverged(number, batches_before + reached, block.arrays, reached)
                    done = until
                    batch = batches_before + done
                    seconds += time.perf_counter() - started
                    yield Report(
                        epoch=number,
                        batch=batch - 1,
                        ended=last and done == block.batches,
                        metrics=metrics.from_sums(sums, batch * size, self.hyperparameters.classifier),
                        records=rows_before + min(done * size, block.rows),
                        seconds=seconds,
                    )
                    started = time.perf_counter()
                batches_before += block.batches
                rows_before += block.rows

    def publishes(self, report: Report) -> bool:
        """Tell whether a report stands at a batch whose metrics are to be published."""
        return report.batch % self.hyperparameters.batch_metrics_publish_interval == 0

    def _next_publication(self, done: int) -> int:
        """Return the number of finished batches at the next publication: 1, interval + 1, …"""
        interval = self.hyperparameters.batch_metrics_publish_interval
        return -(-done // interval) * interval + 1

    def outputs(self, X: Any) -> np.ndarray:
        """Return the raw outputs y(x) of the model as trained so far; see `Model.outputs`.

        Parameters
        ----------
        X : scipy sparse matrix or array, shape (n, feature_dim)
            One row an example.

        Returns
        -------
        float32 array, shape (n,)

        Raises
        ------
        ModelError, DataError
            Data that do not fit the model.
        """
        self._check_unfinished()
        return self._state.outputs(checked_examples(X, self.hyperparameters.feature_dim), self._threads)

    def snapshot(self, into: Any = None) -> Any:
        """Return a copy of the parameters, without the moments: a third of the training's state.

        Parameters
        ----------
        into : Snapshot, optional
            An earlier copy, whose memory is used again.
        """
        self._check_unfinished()
        return self._state.snapshot(into)

    def restore(self, snapshot: Any) -> None:
        """Take the parameters from a `snapshot`; moments and the count of updates stay as they are."""
        self._state.restore(snapshot)

    def model(self, snapshot: Any = None) -> Model:
        """Return the model as trained so far, or as it was at a snapshot, whose memory it takes over.

        Raises
        ------
        ModelError
            The training diverged.
        """
        return self._model(self.snapshot() if snapshot is None else snapshot)

    def finish(self) -> Model:
        """Return the model, and give up data and state meanwhile: takes no more memory, ends the training.

        Only the numbers of rows and updates can be asked for after that.

        Raises
        ------
        ModelError
            The training diverged.
        """
        self._check_unfinished()
        self._finished = True
        self._examples.release()
        self._crew.release()
        return self._model(self._state.release_into_snapshot())

    def _check_unfinished(self) -> None:
        if self._finished:
            raise ModelError("The training is finished: its state is given up.", hint="Make a new Training.")

    def _model(self, snapshot: Any) -> Model:
        groups = (snapshot.bias, snapshot.linear, snapshot.factors)
        for group, values in zip(_GROUPS, groups, strict=True):
            if not _finite(values):
                raise self._error(f"after {self.updates} batches", group)
        return Model(
            bias=snapshot.bias,
            linear=snapshot.linear,
            factors=snapshot.factors,
            predictor_type=self.hyperparameters.predictor_type,
            training_parameters=self.hyperparameters.wire(),
        )

    def _diverged(self, epoch: int, batch: int, block: Any, batch_of_block: int) -> ModelError:
        """Find out which group of parameters makes a batch's outputs what they are: no numbers."""
        size = self.hyperparameters.mini_batch_size
        first = batch_of_block * size
        starts = block.starts[first : first + size + 1].astype(np.int64)
        features = block.features[starts[0] : starts[-1]]
        values = block.values[starts[0] : starts[-1]] if len(block.values) else np.ones(len(features))
        with np.errstate(over="ignore", invalid="ignore"):
            weights = self._state.linear[features].astype(float) * values
            factors = self._state.factors[features].astype(float) * values[:, None]
            sizes = (
                abs(float(self._state.bias[0])),
                float(np.abs(weights).max(initial=0)),
                float((factors**2).sum(1).max(initial=0)),
            )
        group = max(_GROUPS, key=lambda name: _badness(sizes[_GROUPS.index(name)]))
        if not self.updates:
            return ModelError(
                "The outputs of the first mini-batch are not finite numbers: its values, up to "
                f"{np.abs(values).max(initial=0):.3g}, are too large for the initial {group}.",
                hint=f"Scale the numeric features and the labels to a few units, or lower {group}_init_"
                f"{_SPREAD[getattr(self.hyperparameters, f'{group}_init_method')]}.",
            )
        return self._error(f"in epoch {epoch}, before batch {batch}", group)

    def _error(self, when: str, group: str) -> ModelError:
        """Return the error for a training whose numbers are no longer finite, first those of a group."""
        rates = ", ".join(f"{name}_lr {rate:g}" for name, rate in self.learning_rates.items())
        return ModelError(
            f"The training diverged {when}: its numbers are no longer finite, those of the {group} first.",
            hint=f"Lower {group}_lr (the rates are {rates}) or scale the numeric features.",
        )


def _matrix_source(X: Any, y: Any, hyperparameters: Hyperparameters) -> Any:
    from lib.fm.stream import MatrixSource

    X = checked_examples(X, hyperparameters.feature_dim)
    return MatrixSource(X, checked_labels(y, X.shape[0], hyperparameters.classifier))


def _with_last(blocks: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Yield each block and whether it is the last one."""
    iterator = iter(blocks)
    try:
        block = next(iterator, None)
        while block is not None:
            following = next(iterator, None)
            yield block, following is None
            block = following
    finally:
        close = getattr(iterator, "close", None)
        if close:
            close()


def _finite(values: float | np.ndarray) -> bool:
    """Tell whether all values are finite: minimum and maximum tell it without another array."""
    return bool(np.isfinite(np.min(values)) and np.isfinite(np.max(values)))


def _badness(size: float) -> float:
    return math.inf if math.isnan(size) else size


def seed_or_default(seed: int | None = None) -> int:
    """Return the seed: as given, or from the environment variable REELBOOK_FM_SEED, or 0.

    Raises
    ------
    ParameterError
        No whole number of 0 or more.
    """
    text = os.environ.get(SEED_VARIABLE, "").strip() or "0" if seed is None else str(seed)
    if not text.isdecimal():
        raise ParameterError(f"The seed ({SEED_VARIABLE}) must be a whole number of 0 or more, not {text!r}.")
    return int(text)


def _settings(hyperparameters: Hyperparameters) -> Any:
    """Return the kernels' settings."""
    from lib.fm.layout import Settings

    h = hyperparameters
    clips = h.clip_gradient is not None and h.clip_gradient > 0
    return Settings(
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
