"""Bayesian Factorization Machines by Gibbs sampling: no learning rate, and predictions that know their error.

A `Sampling` draws from the posterior of the model ``y = w0 + Σ w_i x_i + Σ_{i<j} <v_i, v_j> x_i x_j + noise``,
or of a probit model ``P(y = 1) = Φ(…)``, under these priors (Rendle 2012, with his constants):

- factors and weights of a block of features: ``v_if ~ N(μ_f, 1/λ_f)``, a mean and a precision for each factor
  and one for the weights, themselves ``μ_f ~ N(0, 1/λ_f)`` and ``λ_f ~ Gamma(½, ½)``;
- the precision of the noise ``α ~ Gamma(½, ½)``; a probit model's latent noise has precision 1;
- the bias flat.

Labels are brought to mean 0 and deviation 1 first, so that the priors mean the same for any scale, and all
that is reported or predicted is brought back.  The inner loops, and how a feature is drawn, are in
`lib.fm.gibbs`.

Rounds
------
The posterior has many modes, and a chain that has settled in one leaves it slowly.  So the sweeps come in
rounds.  Each begins hot: the noise is taken to be no smaller than the deviation of all labels, ``α ≤ 1``, which
loosens the factors; then α is let go, and draws count once the burn-in is over (cyclical tempering, as Zhang,
Li, Zhang, Chen, Wilson, "Cyclical stochastic gradient MCMC", ICLR 2020, do by step sizes).  Of as many
sweeps, those in five rounds had an RMSE 0.010 to 0.013 below those in a row on real ratings from 1 to 10, and less
than 0.001 below on generated ones (``benchmarks/bayesian.py`` has the data).

References
----------
Rendle, "Factorization Machines with libFM", ACM TIST 3 (2012).
Albert and Chib, "Bayesian analysis of binary and polychotomous response data", JASA 88 (1993).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from lib import threads as worker_threads
from lib.errors import ModelError, ParameterError
from lib.fm import fold, memory, metrics
from lib.fm.checks import checked_labels
from lib.fm.convergence import Diagnostic, diagnose
from lib.fm.matrices import as_csr
from lib.fm.model import PREDICTOR_TYPES, Model
from lib.fm.posterior import (
    Draw,
    Moments,
    as_rows,
    fitted_logistic,
    held_out_reach,
    moments_of,
    normal_reach,
)

if TYPE_CHECKING:
    from lib.fm import gibbs

KEPT_BYTES = 2**30
"""Memory for kept draws, where the caller does not say how many."""

_LEAST_HELD_OUT = 1000  # rows that are enough to measure how wide intervals must be
_CALIBRATION_ROWS = 20_000
_TRACED_ROWS = 64


@dataclass(frozen=True)
class Report:
    """How far a sampling is, after a sweep.

    Attributes
    ----------
    sweep : int
        The sweep, from 0.
    draws : int
        Draws that count so far.
    train : dict
        Metrics of this sweep's state on the training rows, by the names of `lib.fm.metrics`.
    test : dict or None
        Metrics of the mean prediction over the draws so far (before the first: of this sweep's state) on the
        test rows; None without test labels.
    noise_precision : float
        α, in 1 / (the labels' unit)²; 1 for a classifier, whose latent noise it is.
    bias : float
        w0, in the labels' unit.
    linear_size, factors_size : float
        Root mean square of the weights and of the factors, as drawn for labels of deviation 1.
    seconds : float
        Seconds that the sweep took.
    """

    sweep: int
    draws: int
    train: dict[str, float]
    test: dict[str, float] | None
    noise_precision: float
    bias: float
    linear_size: float
    factors_size: float
    seconds: float


class Sampling:
    """Gibbs sampling of a Factorization Machine, sweep by sweep.

    Iterating over it samples and yields a `Report` after each of ``burn_in + samples`` sweeps.  It can be left
    between sweeps, and gone on with; what it predicts is always from the draws so far.

    Parameters
    ----------
    X : scipy sparse matrix or array, shape (n, d)
        One row an example.
    y : array, shape (n,)
        What to predict, on any scale; 0 or 1 for a binary classifier.
    num_factors : int
        Factors k of each draw.
    predictor_type : {"regressor", "binary_classifier"}
        What is predicted: a number, or the probability of label 1.
    samples : int
        Sweeps after the first burn-in.
    burn_in : int
        Sweeps at the begin of each round that are no draws; the first half of them is hot.
    rounds : int, optional
        Into how many rounds the sweeps are divided; 1 is one chain.  By default as many as leave each round as
        many draws as it has burn-in; 1 for a classifier, whose latent noise stays as it is and which gains
        nothing from them.
    blocks : sequence of int, optional
        Numbers of columns of contiguous blocks, over all columns: customers, videos, genres, …  Each has a prior
        of its own, and features of a block of which no row has two are drawn at the same time.  By default they
        are guessed: see `lib.fm.sampling_design.infer_blocks`.
    seed : int, optional
        The same seed gives the same draws, for any number of threads; 0 by default.
    threads : int, optional
        See `lib.threads.count`.
    test : (X_test, y_test), optional
        Rows to be predicted by the mean over all draws; ``y_test`` may be None.
    keep : int, optional
        How many of the draws are kept at most, evenly spaced, for new rows and for the folded model; by default
        as many as fit into `KEPT_BYTES`.  A draw takes ``4 d (k + 1)`` bytes.
    held_out : float
        Share of a regressor's rows that are not trained on, but tell how wide intervals must be: ratings
        are not normally distributed about their mean.  Where they would be fewer than 1,000 rows, none are held
        out, and intervals are those of the normal distribution.

    Attributes
    ----------
    compile_seconds : float or None
        Seconds that compiling took; None when the machine code came from an earlier run.
    blocks : list of int
        The number of columns of each block.

    Raises
    ------
    ParameterError
        An option out of its range, or blocks that do not make up the columns.
    DataError, ModelError
        Data that cannot be learnt from, or that need more memory than there is.
    """

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        num_factors: int = 32,
        predictor_type: str = "regressor",
        samples: int = 200,
        burn_in: int = 20,
        rounds: int | None = None,
        blocks: Sequence[int] | None = None,
        seed: int | None = None,
        threads: int | None = None,
        test: tuple[Any, Any] | None = None,
        keep: int | None = None,
        held_out: float = 0.01,
    ) -> None:
        from lib.fm import gibbs
        from lib.fm.chain import Chain
        from lib.fm.sampling_design import Design

        if predictor_type not in PREDICTOR_TYPES:
            raise ParameterError(
                f"predictor_type must be {' or '.join(PREDICTOR_TYPES)}, not {predictor_type!r}."
            )
        if not 0 <= held_out < 1:
            raise ParameterError(f"held_out must be a share from 0 to below 1, not {held_out}.")
        self.num_factors = _whole("num_factors", num_factors, 1)
        self.samples = _whole("samples", samples, 1)
        self.burn_in = _whole("burn_in", burn_in, 0)
        self.predictor_type = predictor_type
        self._classifier = predictor_type == "binary_classifier"
        self._seed = _whole("seed", 0 if seed is None else seed, 0)
        if self._seed >= 2**63:
            raise ParameterError(f"seed must be below 2**63, not {self._seed}.")
        self._threads = worker_threads.count(threads)
        self._round_ends = self._planned_rounds(rounds)

        columns = np.shape(X)[1] if np.ndim(X) == 2 else 1
        X = as_csr(X, columns)
        labels = checked_labels(y, X.shape[0], self._classifier)
        keep = None if keep is None else _whole("keep", keep, 1)
        draw_bytes = 4 * columns * (self.num_factors + 1)
        fitting = max(1, KEPT_BYTES // draw_bytes) if keep is None else keep
        kept = self._most_kept = min(self._planned_draws(), fitting)
        _require_memory(X, self.num_factors, draw_bytes * kept)
        self._rng = np.random.default_rng(self._seed)
        X, labels = self._hold_out(X, labels, held_out)

        self._mean = 0.0 if self._classifier else float(labels.mean(dtype=np.float64))
        deviation = 1.0 if self._classifier else float(labels.std(dtype=np.float64))
        self._scale = deviation if deviation > 1e-6 * abs(self._mean) else 1.0
        self._labels = ((labels - self._mean) / self._scale).astype(np.float32)
        started = time.perf_counter()
        compiled = gibbs.load()
        self.compile_seconds = time.perf_counter() - started if compiled else None
        self._design = Design(X, blocks)
        self.blocks = self._design.sizes
        self._chain = Chain(
            self._design,
            self._labels,
            num_factors=self.num_factors,
            classifier=self._classifier,
            seed=self._seed,
            rng=self._rng,
            threads=self._threads,
        )
        self._draws = 0
        self._noise_variance = 0.0
        self._kept: list[Draw] = []
        self._traces: dict[str, list[list[float]]] = {}
        self._traced_outputs: list[list[np.ndarray]] = [[] for _ in self._round_ends]
        self._set_test(test, columns)

    def _planned_rounds(self, rounds: int | None) -> list[int]:
        """Return after which sweep each round ends."""
        total = self.burn_in + self.samples
        if rounds is None:
            one_chain = self._classifier or not self.burn_in
            rounds = 1 if one_chain else max(1, total // (2 * self.burn_in))
        rounds = _whole("rounds", rounds, 1)
        if total < rounds * (self.burn_in + 1):
            raise ParameterError(
                f"{rounds} rounds with a burn_in of {self.burn_in} sweeps leave no draws in {total} sweeps.",
                hint="Lower rounds or burn_in, or raise samples.",
            )
        return [total * number // rounds for number in range(1, rounds + 1)]

    def _planned_draws(self) -> int:
        return self._round_ends[-1] - self.burn_in * len(self._round_ends)

    def _hold_out(
        self, X: sparse.csr_matrix, labels: np.ndarray, share: float
    ) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Set some rows aside for the intervals, and return the others."""
        self._held_out: gibbs.Rows | None = None
        count = int(share * len(labels))
        if self._classifier or count < _LEAST_HELD_OUT:
            return X, labels
        aside = np.zeros(len(labels), bool)
        aside[np.random.default_rng([self._seed, 1]).choice(len(labels), count, replace=False)] = True
        self._held_out = as_rows(X[aside])
        self._held_out_labels = labels[aside]
        self._held_out_moments = Moments(count, False)
        return X[~aside], labels[~aside]

    def _set_test(self, test: tuple[Any, Any] | None, columns: int) -> None:
        self._test: gibbs.Rows | None = None
        self._test_labels: np.ndarray | None = None
        if test is None:
            return
        X, y = test
        X = as_csr(X, columns)
        if y is not None and X.shape[0]:
            self._test_labels = checked_labels(y, X.shape[0], self._classifier)
        self._test = as_rows(X)
        self._test_moments = Moments(X.shape[0], self._classifier)

    # Sampling

    @property
    def sweeps(self) -> int:
        """Number of sweeps done."""
        return self._chain.sweeps

    @property
    def draws(self) -> int:
        """Number of draws that count so far."""
        return self._draws

    @property
    def kept(self) -> int:
        """Number of draws that are kept."""
        return len(self._kept)

    def __iter__(self) -> Iterator[Report]:
        while self.sweeps < self._round_ends[-1]:
            yield self._step()

    def _step(self) -> Report:
        """Draw everything once."""
        started = time.perf_counter()
        sweep = self.sweeps
        number = int(np.searchsorted(self._round_ends, sweep, side="right"))
        place = sweep - (self._round_ends[number - 1] if number else 0)
        self._chain.sweep(hot=place < self.burn_in // 2)
        draw = self._chain.present
        linear_size, factors_size = _root_mean_square(draw.linear), _root_mean_square(draw.factors)
        if not math.isfinite(draw.bias + linear_size + factors_size):
            raise ModelError(
                f"The sampling diverged in sweep {sweep}: its numbers are no longer finite.",
                hint="Scale the numeric features to about [-1, 1].",
            )
        counts = place >= self.burn_in
        if counts:
            self._count(draw)
        report = Report(
            sweep=sweep,
            draws=self._draws,
            train=self._train_metrics(),
            test=self._test_metrics(draw, counts),
            noise_precision=self._chain.noise_precision / self._scale**2,
            bias=self._mean + self._scale * draw.bias,
            linear_size=linear_size,
            factors_size=factors_size,
            seconds=time.perf_counter() - started,
        )
        if counts:
            self._trace(report, number)
        return report

    def _count(self, draw: Draw) -> None:
        """Add a draw to all that is kept of the draws."""
        if self._draws * self._most_kept // self._planned_draws() >= len(self._kept):  # evenly spaced
            self._kept.append(draw.copy())
        if self._held_out is not None:
            self._held_out_moments.add(draw.outputs(self._held_out, self._threads))
        self._noise_variance += 1 / self._chain.noise_precision
        self._draws += 1

    def _train_metrics(self) -> dict[str, float]:
        sums = self._chain.sums.copy()
        sums[metrics.SQUARED] *= self._scale**2
        sums[metrics.ABSOLUTE] *= self._scale
        return metrics.from_sums(sums, len(self._labels), self._classifier)

    def _test_metrics(self, draw: Draw, counts: bool) -> dict[str, float] | None:
        if self._test is None:
            return None
        moments = self._test_moments
        if counts or not self._draws:
            outputs = draw.outputs(self._test, self._threads)
            if not counts:
                moments = Moments(len(outputs), self._classifier)
            moments.add(outputs)
        if self._test_labels is None:
            return None
        return _metrics(self._in_labels_unit(moments.prediction()[0]), self._test_labels, self._classifier)

    # Diagnostics

    def _trace(self, report: Report, number: int) -> None:
        """Note the scalars of a draw of a round."""
        loss = "binary_classification_cross_entropy" if self._classifier else "rmse"
        scalars = {
            f"train_{loss}": report.train[loss],
            "noise_precision": report.noise_precision,
            "bias": report.bias,
            "linear_size": report.linear_size,
            "factors_size": report.factors_size,
        }
        if self._classifier:
            del scalars["noise_precision"]
        for name, value in scalars.items():
            self._traces.setdefault(name, [[] for _ in self._round_ends])[number].append(value)
        rows = np.linspace(0, len(self._labels) - 1, _TRACED_ROWS).astype(np.int64)
        self._traced_outputs[number].append(self._chain.outputs[rows] + np.float32(self._chain.present.bias))

    def diagnostics(self) -> dict[str, Diagnostic]:
        """Return what the traces of the draws so far say of convergence, by the scalar's name.

        The scalars are the training loss, the precision of the noise, the bias, and the root mean square of
        weights and factors; none of them changes when factors are rotated.  Each round is a chain.  The bias
        and the weights may trade places without a change of the predictions, so the last, ``outputs``, is what
        tells of these: the medians over some training rows of what their outputs say, for labels of deviation 1.
        """
        found = {name: diagnose(chains) for name, chains in self._traces.items()}
        if self._draws:
            chains = [np.array(chain) for chain in self._traced_outputs if chain]
            of_rows = [diagnose([chain[:, row] for chain in chains]) for row in range(_TRACED_ROWS)]
            found["outputs"] = Diagnostic(*np.median([astuple(row) for row in of_rows], axis=0).tolist())
        return found

    # Predictions

    def posterior_mean(self, X: Any) -> np.ndarray:
        """Return the mean prediction over the kept draws: float64 (n,).

        Of a classifier it is the probability of label 1.

        Parameters
        ----------
        X : scipy sparse matrix or array, shape (n, d)
            One row an example.

        Raises
        ------
        ModelError, DataError
            There are no draws yet, or X does not fit.
        """
        return self._in_labels_unit(self._moments(X).prediction()[0])

    def spread(self, X: Any) -> np.ndarray:
        """Return how far the kept draws disagree: the deviation of the predictions, float64 (n,).

        It is the doubt about the model, without the noise of a label.  Parameters and errors are those of
        `posterior_mean`.
        """
        return self._scale * np.sqrt(self._moments(X).prediction()[1])

    def interval(self, X: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Return between which numbers a label falls with a given probability: low and high, float64 (n,).

        A regressor's are ``mean ± z √(variance over draws + mean of 1/α)``, z so that the intervals hold that share
        of the rows held out or, where none are, of a normal distribution.  With r rows held out, the share c of new
        labels is itself uncertain by ``√(c (1 − c) / r)``: 0.9 points of 50 % with 3,000 rows.

        A classifier's labels have no such interval; its are of the probability: ``Φ(m ± z s)`` with mean m and
        deviation s of the draws' outputs.

        Parameters
        ----------
        X : scipy sparse matrix or array, shape (n, d)
            One row an example.
        coverage : float
            The probability, between 0 and 1.

        Raises
        ------
        ParameterError
            A coverage out of range.
        ModelError, DataError
            There are no draws yet, or X does not fit.
        """
        reach = self._reach(coverage)
        return self._interval(self._moments(X), reach)

    @property
    def test_mean(self) -> np.ndarray:
        """The test rows' mean prediction over all draws so far: float64 (n,)."""
        return self._in_labels_unit(self._checked_test().prediction()[0])

    def test_interval(self, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Return `interval` of the test rows from all draws so far."""
        return self._interval(self._checked_test(), self._reach(coverage))

    def _checked_test(self) -> Moments:
        if self._test is None:
            raise ModelError("There are no test rows.", hint="Give them as test=(X_test, y_test).")
        self._check_draws()
        return self._test_moments

    def _check_draws(self) -> None:
        if not self._draws:
            raise ModelError(
                f"There are no draws yet: {self.sweeps} of {self.burn_in} sweeps of the burn-in are done.",
                hint="Iterate over the sampling first.",
            )

    def _in_labels_unit(self, mean: np.ndarray) -> np.ndarray:
        return mean if self._classifier else self._mean + self._scale * mean

    def _reach(self, coverage: float) -> float:
        self._check_draws()
        if self._held_out is None:
            return normal_reach(coverage)
        mean, variance = self._held_out_moments.output()
        error = np.abs(self._held_out_labels - self._in_labels_unit(mean)) / self._scale
        return held_out_reach(error / np.sqrt(variance + self._noise_variance / self._draws), coverage)

    def _interval(self, moments: Moments, reach: float) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = moments.output()
        if self._classifier:
            from lib.fm import gibbs

            reaches = reach * np.sqrt(variance)
            return gibbs.normal_probability(mean - reaches), gibbs.normal_probability(mean + reaches)
        reaches = reach * np.sqrt(variance + self._noise_variance / self._draws)
        return self._in_labels_unit(mean - reaches), self._in_labels_unit(mean + reaches)

    def _moments(self, X: Any) -> Moments:
        self._check_draws()
        rows = as_rows(as_csr(X, self._design.features))
        return moments_of(self._kept, rows, self._classifier, self._threads)

    # One model

    def model(self, num_factors: int | None = None) -> Model:
        """Return the posterior mean folded into one ordinary Factorization Machine; see `lib.fm.fold`.

        A classifier's model is logistic, ``P = 1 / (1 + exp(-s))``: the mean of Φ over draws is about
        ``Φ(m / √(1 + variance))``, so a model of the mean outputs m is stretched and shifted to meet the mean
        probabilities of training rows, with the least cross-entropy.

        Before the first draw it is the present state of the burn-in.

        Parameters
        ----------
        num_factors : int, optional
            Factors of the model; by default those of a draw.  The mean over draws is of a higher rank than a
            draw is: twice as many lose little.

        Raises
        ------
        ParameterError
            ``num_factors`` below 1.
        """
        wanted = self.num_factors if num_factors is None else _whole("num_factors", num_factors, 1)
        draws = self._kept or [self._chain.present]
        factors = fold.low_rank_factors(
            [draw.factors for draw in draws],
            wanted,
            fields=self._design.fields,
            weights=self._design.entries + 1.0,
            seed=self._seed,
        )
        linear = np.asarray(np.mean([draw.linear for draw in draws], axis=0, dtype=np.float64))
        bias = float(np.mean([draw.bias for draw in draws]))
        stretch, shift = self._scale, self._mean
        if self._classifier:
            stretch, shift = self._logistic_scale(Model(bias, linear, factors), draws)
        return Model(
            bias=shift + stretch * bias,
            linear=stretch * linear,
            factors=math.sqrt(stretch) * factors,
            predictor_type=self.predictor_type,
        )

    def _logistic_scale(self, model: Model, draws: list[Draw]) -> tuple[float, float]:
        """Return stretch and shift that make a model's outputs log-odds of the draws' mean probability."""
        n = len(self._labels)
        rows = self._design.rows
        X = sparse.csr_matrix((rows.values, rows.features, rows.starts), shape=(n, model.feature_dim))
        X = X[np.unique(np.linspace(0, n - 1, min(n, _CALIBRATION_ROWS)).astype(np.int64))]
        probability = moments_of(draws, as_rows(X), True, self._threads).prediction()[0]
        return fitted_logistic(model.outputs(X).astype(np.float64), probability)


def _metrics(mean: np.ndarray, labels: np.ndarray, classifier: bool) -> dict[str, float]:
    """Return the metrics of mean predictions: numbers, or a classifier's probabilities."""
    if classifier:
        mean = np.clip(mean, 1e-12, 1 - 1e-12)
        mean = np.log(mean / (1 - mean))
    return metrics.evaluate(mean, labels, classifier)


def _whole(name: str, value: Any, least: int) -> int:
    """Return an option that must be a whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ParameterError(f"{name} must be a whole number of {least} or more, not {value!r}.")
    return int(value)


def _require_memory(X: sparse.csr_matrix, num_factors: int, kept_bytes: int) -> None:
    """Refuse what does not fit into memory, before it is taken."""
    n, d = X.shape
    table = 4 * d * (num_factors + 8)
    sums = 4 * n * num_factors if np.diff(X.indptr).max(initial=0) > 2 else 0
    needed = 32 * X.nnz + 32 * n + 24 * d + 2 * table + kept_bytes + sums
    available = memory.available()
    if available is not None and needed > available:
        raise ModelError(
            f"Sampling {n:,} rows of {d:,} features with {num_factors} factors needs about "
            f"{memory.size(needed)} of memory, {memory.size(available)} are available.",
            hint="Lower num_factors or keep, or take fewer rows.",
        )


def _root_mean_square(values: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(values), dtype=np.float64)))
