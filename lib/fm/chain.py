"""One Markov chain of a Bayesian Factorization Machine: its state, and the sweep that draws all of it once.

Labels have mean 0 and deviation 1 here; the model and its priors are in `lib.fm.bayesian`, the inner loops in
`lib.fm.gibbs`.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from lib import threads as worker_threads
from lib.fm import gibbs, metrics
from lib.fm.posterior import Draw, over_rows
from lib.fm.sampling_design import Block, Design
from lib.fm.triangles import padded

_FROZEN_SWEEPS = 3  # before the priors are drawn: else the factors of sparse data grow from nothing, slowly
_FROZEN_PRECISION = 30.0  # of the priors until then
_INITIAL_DEVIATION = 0.1
_HOTTEST = 1.0  # the largest precision of the noise in a hot sweep
_BIAS_PRECISION = 1e-6


class Chain:
    """A chain, at its first state.

    Parameters
    ----------
    design : Design
        The training rows.
    labels : float32 array, shape (n,)
        Their labels: of mean 0 and deviation 1, or 0 and 1 for a classifier.
    num_factors : int
        Factors k.
    classifier : bool
        Whether the model is the probit model.
    seed : int
        Of the features' draws.
    rng : numpy.random.Generator
        Of all others.
    threads : int
        How many threads work.

    Attributes
    ----------
    sweeps : int
        Sweeps done.
    noise_precision : float
        α.
    outputs : float32 array, shape (n,)
        The present state's outputs on the training rows, without bias.
    sums : float64 array, shape (metrics.SUMS,)
        Of the present state's errors on the training rows; see `lib.fm.metrics`.
    """

    def __init__(
        self,
        design: Design,
        labels: np.ndarray,
        *,
        num_factors: int,
        classifier: bool,
        seed: int,
        rng: np.random.Generator,
        threads: int,
    ) -> None:
        k, n, d = num_factors, len(labels), len(design.entries)
        self.sweeps = 0
        self.noise_precision = 1.0
        self._design = design
        self._labels = labels
        self._num_factors = k
        self._classifier = classifier
        self._seed = seed
        self._rng = rng
        self._threads = threads
        self._blocks = design.blocks(k, threads)
        self._bias = 0.0
        self._table = np.zeros((d, padded(k + 1)), np.float32)
        self._table[:, :k] = rng.standard_normal((d, k), np.float32) * _INITIAL_DEVIATION
        self._prior_mean = np.zeros((len(self._blocks), k + 1))
        self._prior_precision = np.full((len(self._blocks), k + 1), _FROZEN_PRECISION)
        self.outputs = np.zeros(n, np.float32)
        self._factor_sums = np.zeros((n if design.wide else 0, k), np.float32)
        self.sums = self._predict()

    @property
    def present(self) -> Draw:
        """The present state; its table changes with the next sweep."""
        return Draw(self._bias, self._table, self._num_factors)

    def sweep(self, *, hot: bool) -> None:
        """Draw everything once.

        Parameters
        ----------
        hot : bool
            Whether the noise is taken to be no smaller than the labels' deviation; without effect on a classifier.
        """
        if self._classifier:
            targets = self._drawn_latent()
        else:
            targets = self._labels
            drawn = self._drawn_noise_precision()
            self.noise_precision = min(drawn, _HOTTEST) if hot else drawn
        self._bias += self._drawn_bias_change(targets)
        if self.sweeps >= _FROZEN_SWEEPS:
            for prior, block in enumerate(self._blocks):
                self._draw_prior(prior, block)
        self._draw_features(targets - np.float32(self._bias))
        self.sums = self._predict()
        self.sweeps += 1

    def _drawn_noise_precision(self) -> float:
        n = len(self._labels)
        return float(self._rng.gamma((1 + n) / 2) / ((1 + self.sums[metrics.SQUARED]) / 2))

    def _drawn_bias_change(self, targets: np.ndarray) -> float:
        n = len(targets)
        error = float(targets.sum(dtype=np.float64) - self.outputs.sum(dtype=np.float64)) - n * self._bias
        precision = self.noise_precision * n + _BIAS_PRECISION
        mean = (self.noise_precision * error - _BIAS_PRECISION * self._bias) / precision
        return float(self._rng.normal(mean, 1 / math.sqrt(precision)))

    def _draw_prior(self, prior: int, block: Block) -> None:
        """Draw precision and mean of each factor, and of the weights, of a block: Normal-Gamma, as in libFM."""
        theta = self._table[block.first : block.last, : self._num_factors + 1]
        n = len(theta)
        total = theta.sum(axis=0, dtype=np.float64)
        squares = np.einsum("if,if->f", theta, theta, dtype=np.float64)
        mean = self._prior_mean[prior]
        spread = np.maximum(squares - 2 * mean * total + n * mean * mean, 0)
        precision = self._rng.gamma((n + 2) / 2, size=len(mean)) / ((1 + spread + mean * mean) / 2)
        self._prior_precision[prior] = precision
        self._prior_mean[prior] = self._rng.normal(total / (n + 1), 1 / np.sqrt((n + 1) * precision))

    def _draw_features(self, targets: np.ndarray) -> None:
        residuals = targets - self.outputs if self._design.wide else np.zeros(0, np.float32)
        state = gibbs.State(self._table, targets, residuals, self._factor_sums)
        for prior, block in enumerate(self._blocks):
            mean = self._prior_mean[prior].astype(np.float32)
            precision = self._prior_precision[prior].astype(np.float32)
            draw = partial(
                gibbs.sweep,
                self._design.columns,
                self._design.pairs,
                state,
                self.noise_precision,
                mean,
                precision,
                self._seed,
                self.sweeps,
            )
            worker_threads.run([partial(draw, first, last) for first, last in block.parts], self._threads)

    def _drawn_latent(self) -> np.ndarray:
        targets = np.empty_like(self._labels)

        def work(first: int, last: int) -> None:
            gibbs.draw_latent(
                self.outputs, self._bias, self._labels, self._seed, self.sweeps, first, last, targets
            )

        over_rows(len(targets), work, self._threads)
        return targets

    def _predict(self) -> np.ndarray:
        """Bring the training rows' outputs up to date; return the sums of the metrics."""

        def work(first: int, last: int) -> np.ndarray:
            sums = np.zeros(metrics.SUMS)
            rows, k = self._design.rows, self._num_factors
            gibbs.outputs(rows, self._table, k, first, last, self.outputs, self._factor_sums)
            gibbs.add_errors(self.outputs, self._bias, self._labels, self._classifier, first, last, sums)
            return sums

        return np.asarray(np.sum(over_rows(len(self._labels), work, self._threads), axis=0))
