"""The compiled inner loops of training: a Factorization Machine under MXNet's lazy Adam.

Numba compiles them once for every number of factors; the machine code is kept on disk, so that only the
first run with a new number of factors waits for the compiler.

Layout
------
All that belongs to one feature lies in one row of the state table, because one row of random memory is
what an update costs::

    [ factors (width) | first moment (width) | second moment (width) | weight, its first, its second | pad ]

``width`` is the number of factors rounded up to a multiple of 8 (whole vector registers; the added factors
start at zero and stay there), and a row is padded to whole cache lines.  The rows that come next are
prefetched while the present one is worked on.

A mini-batch has three phases.  `_forward` goes over the batch's rows, `_errors` over its labels, `_update`
over its features.  The first and the last can be split among threads without changing a bit of the result:
no two rows share an output of `_forward`, no two features share a row of the table, and one thread sums a
feature's gradient in the order of the rows.

References
----------
Rendle, "Factorization Machines", ICDM 2010, for the model; ``mxnet.optimizer.Adam`` with
``lazy_update=True`` (MXNet 1.9.1) for the update.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numba
import numpy as np

from lib.compiled import compilations, compiled, prefetch
from lib.fm.metrics import (
    ABSOLUTE,
    CORRECT,
    CROSS_ENTROPY,
    POSITIVE,
    PREDICTED_POSITIVE,
    SQUARED,
    SUMS,
    TRUE_POSITIVE,
)

BETA1 = 0.9
BETA2 = 0.999

_LINE = 64  # bytes of a cache line
_LINE_FLOATS = _LINE // 4
_VECTOR_FLOATS = 8
_AHEAD_ENTRIES = 8  # stored values ahead in the forward phase
_AHEAD_FEATURES = 3  # features ahead in the update phase


class Rows(NamedTuple):
    """The training data in compressed sparse rows.

    Attributes
    ----------
    starts : int64 array, shape (n + 1,)
        Where each row's entries begin.
    features : int32 array, shape (nnz,)
        The entries' feature indices.
    values : float32 array, shape (nnz,)
        The entries' values.
    labels : float32 array, shape (n,)
        What to predict.
    """

    starts: np.ndarray
    features: np.ndarray
    values: np.ndarray
    labels: np.ndarray


class Plan(NamedTuple):
    """The same entries sorted by feature within each mini-batch; see `make_plan`.

    Attributes
    ----------
    batches : int64 array, shape (batches + 1,)
        Where each batch's list of active features begins.
    features : int32 array
        The active features of all batches, in the order in which they first appear.
    starts : int64 array, one longer than ``features``
        Where each active feature's entries begin.
    rows : int32 array, shape (nnz,)
        The entries' rows, counted from the batch's first row.
    values : float32 array, shape (nnz,)
        The entries' values.
    """

    batches: np.ndarray
    features: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    values: np.ndarray


class Settings(NamedTuple):
    """What a training run holds constant.

    Learning rate and weight decay of each group, Adam's epsilon, what a batch's summed gradient is
    multiplied with, and the bound that a gradient is clipped to (infinity for none).
    """

    bias_lr: float
    linear_lr: float
    factors_lr: float
    bias_wd: float
    linear_wd: float
    factors_wd: float
    epsilon: float
    rescale: float
    clip: float
    batch_size: int
    classifier: bool


def width_of(num_factors: int) -> int:
    """Return the number of factors rounded up to whole vector registers."""
    return -(-num_factors // _VECTOR_FLOATS) * _VECTOR_FLOATS


def row_floats(width: int) -> int:
    """Return the length of a feature's row in the state table, in float32 numbers."""
    return -(-(3 * width + 3) // _LINE_FLOATS) * _LINE_FLOATS


def empty_table(feature_dim: int, width: int) -> np.ndarray:
    """Return a zeroed state table, float32 (feature_dim, row_floats(width)), that begins on a cache line."""
    floats = row_floats(width)
    memory = np.zeros(feature_dim * floats + _LINE_FLOATS, np.float32)
    offset = (-memory.ctypes.data % _LINE) // 4
    return memory[offset : offset + feature_dim * floats].reshape(feature_dim, floats)


@compiled()
def make_plan(rows: Rows, feature_dim: int, batch_size: int) -> Plan:
    """Sort the entries of each mini-batch by feature, so that a batch can be updated feature by feature.

    Parameters
    ----------
    rows : Rows
        The data, n rows.
    feature_dim : int
        Number of features.
    batch_size : int
        Rows of a mini-batch; the last one may have fewer.
    """
    n = len(rows.starts) - 1
    batches = (n + batch_size - 1) // batch_size
    entries = len(rows.features)
    last_seen = np.full(feature_dim, -1, np.int64)  # the batch that a feature was last seen in
    place = np.zeros(feature_dim, np.int64)  # its place in that batch's list
    count = np.zeros(feature_dim, np.int32)
    batch_starts = np.zeros(batches + 1, np.int64)
    features = np.empty(entries, np.int32)
    starts = np.zeros(entries + 1, np.int64)
    entry_rows = np.empty(entries, np.int32)
    values = np.empty(entries, np.float32)
    active = 0
    for batch in range(batches):
        first_row = batch * batch_size
        last_row = min(n, first_row + batch_size)
        first_active = active
        for entry in range(rows.starts[first_row], rows.starts[last_row]):
            feature = rows.features[entry]
            if last_seen[feature] != batch:
                last_seen[feature] = batch
                place[feature] = active
                features[active] = feature
                active += 1
                count[feature] = 0
            count[feature] += 1
        position = rows.starts[first_row]
        for k in range(first_active, active):
            starts[k] = position
            position += count[features[k]]
            count[features[k]] = 0
        for row in range(first_row, last_row):
            for entry in range(rows.starts[row], rows.starts[row + 1]):
                feature = rows.features[entry]
                position = starts[place[feature]] + count[feature]
                count[feature] += 1
                entry_rows[position] = row - first_row
                values[position] = rows.values[entry]
        batch_starts[batch + 1] = active
    starts[active] = entries
    return Plan(batch_starts, features[:active].copy(), starts[: active + 1].copy(), entry_rows, values)


@numba.njit(inline="always")
def _forward(rows, table, bias, first_row, last_row, sums_of_factors, outputs, width):  # type: ignore[no-untyped-def]
    """Compute the model's raw output for some rows of a batch, and the factor sums that the update needs."""
    stored = rows.starts[len(rows.starts) - 1]
    for row in range(first_row, last_row):
        place = row - first_row
        begin = rows.starts[row]
        end = rows.starts[row + 1]
        for entry in range(min(begin + _AHEAD_ENTRIES, stored), min(end + _AHEAD_ENTRIES, stored)):
            feature = rows.features[entry]
            for offset in range(0, width * 4, _LINE):
                prefetch(table, feature, offset)
            prefetch(table, feature, 12 * width)
        linear = bias
        for k in range(width):
            sums_of_factors[place, k] = np.float32(0)
        squares = np.float32(0)
        for entry in range(begin, end):
            feature = rows.features[entry]
            value = rows.values[entry]
            linear += value * table[feature, 3 * width]
            for k in range(width):
                term = value * table[feature, k]
                sums_of_factors[place, k] += term
                squares -= term * term
        for k in range(width):
            squares += sums_of_factors[place, k] * sums_of_factors[place, k]
        outputs[place] = linear + np.float32(0.5) * squares


@numba.njit(inline="always")
def _errors(rows, first_row, last_row, outputs, settings, sums):  # type: ignore[no-untyped-def]
    """Turn raw outputs into rescaled errors in place, add to the metrics' sums, return the errors' sum."""
    rescale = np.float32(settings.rescale)
    total = 0.0
    for row in range(first_row, last_row):
        place = row - first_row
        label = rows.labels[row]
        output = outputs[place]
        if settings.classifier:
            z = np.float64(output)
            small = math.exp(-abs(z))
            sums[CROSS_ENTROPY] += max(z, 0.0) - z * label + math.log1p(small)
            probability = 1.0 / (1.0 + small) if z >= 0 else small / (1.0 + small)
            error = np.float32(probability) - label
            positive = label > 0.5
            predicted = z > 0
            sums[CORRECT] += positive == predicted
            sums[TRUE_POSITIVE] += positive and predicted
            sums[POSITIVE] += positive
            sums[PREDICTED_POSITIVE] += predicted
        else:
            error = output - label
            sums[SQUARED] += np.float64(error) * error
            sums[ABSOLUTE] += abs(error)
        rescaled = error * rescale
        outputs[place] = rescaled
        total += rescaled
    return total


@numba.njit(inline="always")
def _update(plan, table, first, last, sums_of_factors, errors, settings, correction, gradient, width):  # type: ignore[no-untyped-def]
    """Update the factors and weights of some active features of a batch."""
    beta1 = np.float32(BETA1)
    beta2 = np.float32(BETA2)
    rest1 = np.float32(1 - BETA1)
    rest2 = np.float32(1 - BETA2)
    epsilon = np.float32(settings.epsilon)
    clip = np.float32(settings.clip)
    linear_lr = np.float32(settings.linear_lr * correction)
    factors_lr = np.float32(settings.factors_lr * correction)
    linear_wd = np.float32(settings.linear_wd)
    factors_wd = np.float32(settings.factors_wd)
    for active in range(first, last):
        if active + _AHEAD_FEATURES < last:
            coming = plan.features[active + _AHEAD_FEATURES]
            for offset in range(0, (3 * width + 3) * 4, _LINE):
                prefetch(table, coming, offset)
        feature = plan.features[active]
        for k in range(width):
            gradient[k] = np.float32(0)
        linear_gradient = np.float32(0)
        own_share = np.float32(0)
        for entry in range(plan.starts[active], plan.starts[active + 1]):
            row = plan.rows[entry]
            value = plan.values[entry]
            error = errors[row] * value
            linear_gradient += error
            own_share += error * value
            for k in range(width):
                gradient[k] += error * sums_of_factors[row, k]
        own = factors_wd - own_share
        for k in range(width):
            g = gradient[k] + own * table[feature, k]
            g = clip if g > clip else g
            g = -clip if g < -clip else g
            m = beta1 * table[feature, width + k] + rest1 * g
            v = beta2 * table[feature, 2 * width + k] + rest2 * g * g
            table[feature, width + k] = m
            table[feature, 2 * width + k] = v
            table[feature, k] -= factors_lr * m / (np.sqrt(v) + epsilon)
        g = linear_gradient + linear_wd * table[feature, 3 * width]
        g = min(max(g, -clip), clip)
        m = beta1 * table[feature, 3 * width + 1] + rest1 * g
        v = beta2 * table[feature, 3 * width + 2] + rest2 * g * g
        table[feature, 3 * width + 1] = m
        table[feature, 3 * width + 2] = v
        table[feature, 3 * width] -= linear_lr * m / (np.sqrt(v) + epsilon)


@functools.cache
def _train_batches(width: int) -> Any:
    """Return the training kernel for a width; see `load`."""

    @compiled(fastmath={"reassoc", "contract", "nsz"}, error_model="numpy", nogil=True)
    def kernel(rows, plan, table, bias, settings, step, first_batch, last_batch, sums):  # type: ignore[no-untyped-def]
        n = len(rows.starts) - 1
        size = settings.batch_size
        sums_of_factors = np.empty((min(size, n), width), np.float32)
        errors = np.empty(min(size, n), np.float32)
        gradient = np.empty(width, np.float32)
        for batch in range(first_batch, last_batch):
            first_row = batch * size
            last_row = min(n, first_row + size)
            first = plan.batches[batch]
            last = plan.batches[batch + 1]
            _forward(rows, table, np.float32(bias[0]), first_row, last_row, sums_of_factors, errors, width)
            g = _errors(rows, first_row, last_row, errors, settings, sums)
            step += 1
            correction = math.sqrt(1 - BETA2**step) / (1 - BETA1**step)
            _update(plan, table, first, last, sums_of_factors, errors, settings, correction, gradient, width)
            g = min(max(g + settings.bias_wd * bias[0], -settings.clip), settings.clip)
            bias[1] = BETA1 * bias[1] + (1 - BETA1) * g
            bias[2] = BETA2 * bias[2] + (1 - BETA2) * g * g
            bias[0] -= settings.bias_lr * correction * bias[1] / (math.sqrt(bias[2]) + settings.epsilon)
        return step

    return kernel


def load(width: int) -> tuple[Any, bool]:
    """Return the training kernel for a width, and whether it had to be compiled.

    The kernel is called as ``kernel(rows, plan, table, bias, settings, step, first_batch, last_batch, sums)``
    and trains on the batches from ``first_batch`` up to, not including, ``last_batch``:

    rows : Rows
        The data.
    plan : Plan
        Their plan, made by `make_plan` with the same batch size.
    table : float32 array, shape (feature_dim, row_floats(width))
        The state, from `empty_table`; changed in place.
    bias : float64 array, shape (3,)
        The bias and its two moments; changed in place.
    settings : Settings
        What the run holds constant.
    step : int
        Updates done so far; the number after this call is returned.
    sums : float64 array, shape (metrics.SUMS,)
        The metrics' sums are added here, each batch before its update.

    Parameters
    ----------
    width : int
        See `width_of`.
    """
    kernel = _train_batches(width)
    before = compilations(kernel, make_plan)
    rows = Rows(
        np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32)
    )
    settings = Settings(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1, False)
    plan = make_plan(rows, 1, 1)
    kernel(rows, plan, empty_table(1, width), np.zeros(3), settings, 0, 0, 0, np.zeros(SUMS))
    return kernel, compilations(kernel, make_plan) > before
