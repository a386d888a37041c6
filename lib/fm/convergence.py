"""Have Markov chains converged: split R-hat and the effective sample size of a scalar's traces.

References
----------
Gelman, Carlin, Stern, Dunson, Vehtari, Rubin, "Bayesian Data Analysis", 3rd edition (2013), sections 11.4
(R-hat of chains cut in halves) and 11.5 (effective sample size from the variogram, cut off where two
neighbouring autocorrelations together turn negative, after Geyer 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_LEAST = 4  # draws of a chain


@dataclass(frozen=True)
class Diagnostic:
    """What a scalar's traces say.

    Attributes
    ----------
    mean, deviation : float
        Of all draws.
    r_hat : float
        About 1 when all halves of all chains look alike; above 1.1 they have not converged.  NaN where no chain
        has four draws.
    effective : float
        How many independent draws the mean is worth; NaN where no chain has four draws.
    """

    mean: float
    deviation: float
    r_hat: float
    effective: float


def diagnose(chains: Sequence[ArrayLike]) -> Diagnostic:
    """Return mean, deviation, split R-hat and effective sample size of a scalar.

    Parameters
    ----------
    chains : sequence of array, shape (n,)
        The draws of each chain, in their order.  Shorter chains than the first are left out of R-hat and the
        effective size, longer ones cut to its length.
    """
    traces = [np.asarray(chain, np.float64) for chain in chains if np.size(chain)]
    if not traces:
        return Diagnostic(*[float("nan")] * 4)
    everything = np.concatenate(traces)
    mean = float(everything.mean())
    deviation = float(everything.std(ddof=1)) if len(everything) > 1 else float("nan")
    length = len(traces[0])
    if length < _LEAST:
        return Diagnostic(mean, deviation, float("nan"), float("nan"))
    half = length // 2
    full = [trace[:length] for trace in traces if len(trace) >= length]
    halves = np.stack([part for trace in full for part in (trace[:half], trace[-half:])])
    r_hat, effective = _of_halves(halves)
    return Diagnostic(mean, deviation, r_hat, effective)


def _of_halves(halves: np.ndarray) -> tuple[float, float]:
    """Return R-hat and the effective number of draws of chains (m, n)."""
    length = halves.shape[1]
    within = float(halves.var(axis=1, ddof=1).mean())
    between = length * float(halves.mean(axis=1).var(ddof=1))
    pooled = (length - 1) / length * within + between / length
    if pooled <= 1e-24 * float(np.square(halves).mean()):  # a constant
        return 1.0, float(halves.size)
    if not within:
        return float("inf"), 1.0

    def autocorrelation(lag: int) -> float:
        if lag >= length:
            return 0.0
        variogram = float(np.mean((halves[:, lag:] - halves[:, : length - lag]) ** 2))
        return 1 - variogram / (2 * pooled)

    total = 0.0
    for lag in range(1, length, 2):
        pair = autocorrelation(lag) + autocorrelation(lag + 1)
        if pair < 0:
            break
        total += pair
    return float(np.sqrt(pooled / within)), halves.size / (1 + 2 * total)
