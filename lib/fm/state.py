"""The parameters and moments of a training: one table in memory, its beginning, copies and predictions."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from lib import threads
from lib.errors import ModelError
from lib.fm import kernels, layout, memory
from lib.fm.ahead import made_ahead
from lib.fm.hyperparameters import DEFAULT_SCALE, Hyperparameters

_INIT_ROWS = 65_536  # features initialised at a time
_OUTPUT_ROWS = 16_384  # rows predicted by a thread at a time
_COPY_ROWS = 16_384  # features copied at a time


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A copy of the parameters, without their moments.

    Attributes
    ----------
    bias : float
        The constant term.
    linear : float32 array, shape (feature_dim,)
        The weights.
    factors : float32 array, shape (feature_dim, num_factors)
        The factors.
    """

    bias: float
    linear: np.ndarray
    factors: np.ndarray


class State:
    """What training changes.

    Parameters
    ----------
    hyperparameters : Hyperparameters
        Tell the sizes and how to begin.
    seed : int
        Of the initial parameters.

    Attributes
    ----------
    width : int
        Factors of a row, with the added ones; see `layout.width_of`.
    table : float32 array, shape (feature_dim, layout.row_floats(width))
        Parameters and moments of the features; empty after `release_into_snapshot`.
    bias : float64 array, shape (4,)
        The bias, its two moments, and the number of updates.

    Raises
    ------
    ModelError
        There is not enough memory.
    """

    def __init__(self, hyperparameters: Hyperparameters, seed: int) -> None:
        d, k = hyperparameters.feature_dim, hyperparameters.num_factors
        self.num_factors = k
        self.width = layout.width_of(k)
        floats = layout.row_floats(self.width)
        require_memory(hyperparameters)
        self.bias = np.zeros(4)
        self._memory, self.table = _empty_table(d, floats)
        self._initialise(hyperparameters, np.random.default_rng(seed))

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters and moments as plain arrays."""
        return {
            "num_factors": self.num_factors,
            "width": self.width,
            "bias": self.bias,
            "table": self.table.copy(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._memory, self.table = _empty_table(*state["table"].shape)
        np.copyto(self.table, state["table"])

    def _initialise(self, h: Hyperparameters, rng: np.random.Generator) -> None:
        if h.use_bias:
            self.bias[0] = _initial(rng, (1,), "bias", h)[0]
        for start, (linear, factors) in made_ahead(_draws(rng, h), 1):  # the memory is got meanwhile
            rows = self.table[start : start + _INIT_ROWS]
            rows[:, self.width] = linear
            rows[:, : h.num_factors] = factors

    @property
    def linear(self) -> np.ndarray:
        """The weights: a view, float32 (feature_dim,)."""
        return self.table[:, self.width]

    @property
    def factors(self) -> np.ndarray:
        """The factors: a view, float32 (feature_dim, num_factors)."""
        return self.table[:, : self.num_factors]

    def outputs(self, X: sparse.csr_matrix, thread_count: int) -> np.ndarray:
        """Return the raw outputs y(x) of rows, float32 (n,), by several threads.

        Parameters
        ----------
        X : csr_matrix of float32, shape (n, feature_dim)
            The rows, checked.
        thread_count : int
            How many threads.
        """
        kernel = kernels.load_outputs(self.width)
        results = np.empty(X.shape[0], np.float32)
        indices = np.ascontiguousarray(X.indices, np.int32).view(np.uint32)
        data = np.ascontiguousarray(X.data, np.float32)

        def predict(first: int) -> None:
            last = min(len(results), first + _OUTPUT_ROWS)
            begin, end = X.indptr[first], X.indptr[last]
            starts = (X.indptr[first : last + 1] - begin).astype(np.uint32)
            kernel(starts, indices[begin:end], data[begin:end], self.table, self.bias[0], results[first:last])

        threads.run([partial(predict, first) for first in range(0, len(results), _OUTPUT_ROWS)], thread_count)
        return results

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        """Copy the parameters; ``into`` names an earlier copy whose memory may be used again."""
        d = len(self.table)
        linear = np.empty(d, np.float32) if into is None else into.linear
        factors = np.empty((d, self.num_factors), np.float32) if into is None else into.factors
        np.copyto(linear, self.linear)
        np.copyto(factors, self.factors)
        return Snapshot(float(np.float32(self.bias[0])), linear, factors)

    def restore(self, snapshot: Snapshot) -> None:
        """Take the parameters from a copy; the moments stay as they are."""
        self.bias[0] = snapshot.bias
        self.linear[:] = snapshot.linear
        self.factors[:] = snapshot.factors

    def release_into_snapshot(self) -> Snapshot:
        """Copy the parameters and give the table's memory back meanwhile, so that no more is needed."""
        d, k = len(self.table), self.num_factors
        snapshot = Snapshot(
            float(np.float32(self.bias[0])), np.empty(d, np.float32), np.empty((d, k), np.float32)
        )
        stride, released = self.table.strides[0], 0
        for start in range(0, d, _COPY_ROWS):
            rows = slice(start, start + _COPY_ROWS)
            snapshot.linear[rows] = self.linear[rows]
            snapshot.factors[rows] = self.factors[rows]
            done = min(d, start + _COPY_ROWS) * stride // mmap.PAGESIZE * mmap.PAGESIZE
            if done > released and hasattr(mmap, "MADV_DONTNEED"):
                self._memory.madvise(mmap.MADV_DONTNEED, released, done - released)
                released = done
        self.table = self.table[:0].copy()
        return snapshot


def require_memory(hyperparameters: Hyperparameters) -> None:
    """Refuse a model whose parameters and moments are more than the memory that is available.

    Raises
    ------
    ModelError
    """
    d, k = hyperparameters.feature_dim, hyperparameters.num_factors
    memory.require(4 * layout.row_floats(layout.width_of(k)) * d, d, k)


def _empty_table(feature_dim: int, floats: int) -> tuple[mmap.mmap, np.ndarray]:
    """Return zeroed memory, in huge pages where there are any, and a table in it, aligned to cache lines."""
    length = 4 * floats * feature_dim
    try:
        content = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        raise ModelError(f"There is not enough memory: the parameters need {memory.size(length)}.") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # this system has none: the same, slower
            content.madvise(mmap.MADV_HUGEPAGE)
    return content, np.frombuffer(content, np.float32).reshape(feature_dim, floats)


def _draws(rng: np.random.Generator, h: Hyperparameters) -> Iterator[tuple[int, tuple[Any, np.ndarray]]]:
    """Yield the first feature, the weights and the factors of some features at a time."""
    for start in range(0, h.feature_dim, _INIT_ROWS):
        count = min(_INIT_ROWS, h.feature_dim - start)
        linear = _initial(rng, (count,), "linear", h) if h.use_linear else 0
        yield start, (linear, _initial(rng, (count, h.num_factors), "factors", h))


def _initial(
    rng: np.random.Generator, shape: tuple[int, ...], group: str, hyperparameters: Any
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
    values = rng.standard_normal(shape, np.float32)
    values *= sigma
    return values
