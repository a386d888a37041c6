"""The compiled inner loops of training: a Factorization Machine under MXNet's lazy Adam.

Numba compiles them once for every number of factors; the machine code is kept on disk, so that only the
first run with a new number of factors waits for the compiler.

A mini-batch has two phases: outputs and errors of its rows, then the update of its features.  Each is shared
out among threads, that all run the same kernel and wait for each other between phases, without changing a
bit of the result: no two rows share an output, no two features share a row of the table, one thread sums a
feature's gradient in the order of the rows, and sums over rows are made of the sums of 16 rows each.

Most features of a mini-batch occur in one of its rows only.  They come first, in a loop of their own whose
course the processor can foretell; see `lib.fm.blocks` for the order.

References
----------
Rendle, "Factorization Machines", ICDM 2010, for the model; ``mxnet.optimizer.Adam`` with
``lazy_update=True`` (MXNet 1.9.1) for the update.
"""

from __future__ import annotations

import functools
import math
import zlib
from pathlib import Path
from typing import Any

import numba
import numpy as np

from lib import compiled as compiled_code
from lib.compiled import compilations, compiled
from lib.fm import barrier, layout, metrics, vectors
from lib.fm.barrier import gather, wait
from lib.fm.layout import CHUNK_ROWS, LINE_FLOATS, Block, Settings, moments_at, row_floats, scratch
from lib.fm.layout import width_of as width_of
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
from lib.fm.vectors import clip, fetch, load, sqrt, store, total, zeros

BETA1 = 0.9
BETA2 = 0.999

CANCELLED = -1  # what a kernel returns whose threads could not all be started

_LANES = 64  # factors worked on at a time: four registers of 512 bits, eight of 256
_ERROR = SUMS  # place of the errors' sum among a chunk's sums
_LINES_AHEAD_OF_ROWS = 160  # cache lines on their way to the processor in the first phase
_LINES_AHEAD_OF_FEATURES = 208  # and in the second
_ROW_WORK = 2  # what a row costs beside its entries, in entries
_FEATURE_WORK = 4  # what a feature costs beside its entries, in entries


@numba.njit(inline="always")
def _boundary(starts, first, last, part, parts, work):  # type: ignore[no-untyped-def]
    """Return where a part begins when items ``first`` to ``last`` are shared out evenly.

    An item is as much work as its entries, from ``starts``, and ``work``.
    """
    whole = np.int64(starts[last]) - np.int64(starts[first]) + work * (last - first)
    wanted = whole * part // parts
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if np.int64(starts[middle]) - np.int64(starts[first]) + work * (middle - first) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(inline="always")
def _first_row(starts, first, last, part, parts):  # type: ignore[no-untyped-def]
    """Return the first row of a thread's part of a batch: parts are whole chunks."""
    if part == parts:
        return last
    row = _boundary(starts, first, last, part, parts, _ROW_WORK)
    return row - (row - first) % CHUNK_ROWS


@numba.njit(inline="always")
def _add_factors(starts, features, values, table, row, first, lanes, weighted, factor_sums, place):  # type: ignore[no-untyped-def]
    """Sum some factors over a row's entries, keep the sums, and return what they add to the output, twice."""
    sums = zeros(lanes)
    squares = zeros(lanes)
    for entry in range(starts[row], starts[row + 1]):
        term = load(table, features[entry], first, lanes)
        if weighted:
            term = values[entry] * term
        sums = sums + term
        squares = squares + term * term
    store(factor_sums, place, first, sums)
    return total(sums * sums - squares)


@numba.njit(inline="always")
def _output(starts, features, values, table, bias, row, whole, rest, weighted, factor_sums, place):  # type: ignore[no-untyped-def]
    """Return the model's raw output for a row, and leave its sums of factors."""
    weight = np.uint32(whole + rest)
    linear = bias
    for entry in range(starts[row], starts[row + 1]):
        if weighted:
            linear += values[entry] * table[features[entry], weight]
        else:
            linear += table[features[entry], weight]
    pairs = np.float32(0)
    if whole:
        for first in range(0, whole, _LANES):
            pairs += _add_factors(
                starts, features, values, table, row, first, _LANES, weighted, factor_sums, place
            )
    if rest:
        pairs += _add_factors(starts, features, values, table, row, whole, rest, weighted, factor_sums, place)
    return linear + np.float32(0.5) * pairs


@numba.njit(inline="always")
def _adam(table, feature, first, gradient, own, rate, settings, moments, width, lanes):  # type: ignore[no-untyped-def]
    """Update some factors of a feature; their gradient is ``gradient + own * factors``."""
    factors = load(table, feature, first, lanes)
    g = clip(gradient + own * factors, np.float32(settings.clip))
    m = load(table, feature, moments + first, lanes)
    v = load(table, feature, moments + width + first, lanes)
    m = np.float32(BETA1) * m + np.float32(1 - BETA1) * g
    v = np.float32(BETA2) * v + np.float32(1 - BETA2) * g * g
    store(table, feature, moments + first, m)
    store(table, feature, moments + width + first, v)
    store(table, feature, first, factors - rate * m / (sqrt(v) + np.float32(settings.epsilon)))


@numba.njit(inline="always")
def _update_weight(table, feature, gradient, rate, settings, width):  # type: ignore[no-untyped-def]
    """Update the weight of a feature."""
    weight, first, second = np.uint32(width), np.uint32(width + 1), np.uint32(width + 2)
    bound = np.float32(settings.clip)
    g = gradient + np.float32(settings.linear_wd) * table[feature, weight]
    g = min(max(g, -bound), bound)
    m = np.float32(BETA1) * table[feature, first] + np.float32(1 - BETA1) * g
    v = np.float32(BETA2) * table[feature, second] + np.float32(1 - BETA2) * g * g
    table[feature, first] = m
    table[feature, second] = v
    table[feature, weight] -= rate * m / (np.sqrt(v) + np.float32(settings.epsilon))


@numba.njit(inline="always")
def _entry(places, position, values, base, owners, weighted):  # type: ignore[no-untyped-def]
    """Return the row within the batch, and the value, of an entry that is given by its place."""
    place = np.uint32(places[position])
    if weighted:
        return owners[place], values[base + place]
    return place, np.float32(1)


@numba.njit(inline="always")
def _gradient(block, begin, end, base, first, lanes, weighted, work):  # type: ignore[no-untyped-def]
    """Sum a shared feature's gradient of some factors, but for what its own factors add to it."""
    gradient = zeros(lanes)
    for position in range(begin, end):
        row, value = _entry(block.shared_places, position, block.values, base, work.owners, weighted)
        gradient = gradient + (work.errors[row] * value) * load(work.factor_sums, row, first, lanes)
    return gradient


@numba.njit(inline="always")
def _add_metrics(output, label, sums, chunk):  # type: ignore[no-untyped-def]
    """Add a row to a regressor's metrics and return its error."""
    error = output - label
    sums[chunk, SQUARED] += np.float64(error) * error
    sums[chunk, ABSOLUTE] += abs(error)
    return error


@numba.njit(inline="always")
def _add_classifier_metrics(output, label, sums, chunk):  # type: ignore[no-untyped-def]
    """Add a row to a classifier's metrics; return its error, and what the loss lacks the logarithm of."""
    z = np.float64(output)
    small = math.exp(-abs(z))
    probability = 1.0 / (1.0 + small) if z >= 0 else small / (1.0 + small)
    sums[chunk, CROSS_ENTROPY] += max(z, 0.0) - z * label
    positive = label > 0.5
    predicted = z > 0
    sums[chunk, CORRECT] += positive == predicted
    sums[chunk, TRUE_POSITIVE] += positive and predicted
    sums[chunk, POSITIVE] += positive
    sums[chunk, PREDICTED_POSITIVE] += predicted
    return np.float32(probability) - label, 1.0 + small


_INLINED = (barrier, vectors, layout, metrics, compiled_code)
_SOURCES = zlib.crc32(b"".join(Path(str(module.__file__)).read_bytes() for module in _INLINED))


@functools.cache
def _training_kernel(width: int, weighted: bool) -> Any:
    """Return the training kernel for a width, and for values that are not all 1; see `load_training`."""
    whole = width // _LANES * _LANES
    rest = width % _LANES
    needed = width + 1
    floats = row_floats(width)
    moments = moments_at(width)
    entries_ahead = max(4, _LINES_AHEAD_OF_ROWS // -(-needed // LINE_FLOATS))
    features_ahead = max(2, _LINES_AHEAD_OF_FEATURES // (floats // LINE_FLOATS))
    sources = _SOURCES  # numba does not see that these have changed

    @compiled(error_model="numpy", nogil=True, fastmath={"contract", "nsz"})
    def kernel(block, table, state, settings, work, sums, first_batch, last_batch, thread, threads, shared):  # type: ignore[no-untyped-def]
        size = settings.batch_size
        n = len(block.labels)
        rescale = np.float32(settings.rescale)
        factors_wd = np.float32(settings.factors_wd)
        bias, bias_m, bias_v, step = state[0], state[1], state[2], state[3] + 0 * sources
        if threads > 1 and not gather(shared, threads):
            return CANCELLED
        target = threads
        last_row = min(n, (first_batch + 1) * size)
        begin_row = _first_row(block.starts, first_batch * size, last_row, thread, threads)
        ahead = np.int64(block.starts[begin_row])  # the first entry whose feature is not fetched yet
        batch = first_batch
        while batch < last_batch:
            first_row = batch * size
            last_row = min(n, first_row + size)
            base = np.int64(block.starts[first_row])
            end_row = _first_row(block.starts, first_row, last_row, thread + 1, threads)
            last_entry = np.int64(block.starts[end_row])

            # The first phase: outputs and errors, row by row.
            for chunk_row in range(begin_row, end_row, CHUNK_ROWS):
                chunk = (chunk_row - first_row) // CHUNK_ROWS
                for place in range(SUMS + 1):
                    work.sums[chunk, place] = 0.0
                product = 1.0
                for row in range(chunk_row, min(chunk_row + CHUNK_ROWS, end_row)):
                    until = min(np.int64(block.starts[row + 1]) + entries_ahead, last_entry)
                    while ahead < until:
                        fetch(table, block.features[ahead], needed, 0)
                        ahead += 1
                    place = row - first_row
                    if weighted:
                        for entry in range(block.starts[row], block.starts[row + 1]):
                            work.owners[entry - base] = place
                    output = _output(
                        block.starts,
                        block.features,
                        block.values,
                        table,
                        np.float32(bias),
                        row,
                        whole,
                        rest,
                        weighted,
                        work.factor_sums,
                        place,
                    )
                    label = block.labels[row]
                    if settings.classifier:
                        error, factor = _add_classifier_metrics(output, label, work.sums, chunk)
                        product *= factor
                    else:
                        error = _add_metrics(output, label, work.sums, chunk)
                    error *= rescale
                    work.errors[place] = error
                    work.sums[chunk, _ERROR] += error
                if settings.classifier:
                    work.sums[chunk, CROSS_ENTROPY] += math.log(product)

            # Which features are this thread's; their first ones are fetched while it waits.
            first, last = block.single_batches[batch], block.single_batches[batch + 1]
            begin_single = first + (last - first) * thread // threads
            end_single = first + (last - first) * (thread + 1) // threads
            first, last = block.shared_batches[batch], block.shared_batches[batch + 1]
            begin_shared = _boundary(block.shared_starts, first, last, thread, threads, _FEATURE_WORK)
            end_shared = _boundary(block.shared_starts, first, last, thread + 1, threads, _FEATURE_WORK)
            for active in range(begin_single, min(begin_single + features_ahead, end_single)):
                fetch(table, block.single_features[active], floats, 1)
            if threads > 1:
                target += threads
                wait(shared, target)

            # What all threads need to know of the whole batch.
            error_sum = 0.0
            for chunk in range((last_row - first_row + CHUNK_ROWS - 1) // CHUNK_ROWS):
                error_sum += work.sums[chunk, _ERROR]
            if not math.isfinite(error_sum):
                break
            if thread == 0:
                for chunk in range((last_row - first_row + CHUNK_ROWS - 1) // CHUNK_ROWS):
                    for place in range(SUMS):
                        sums[place] += work.sums[chunk, place]
            step += 1
            correction = math.sqrt(1 - BETA2**step) / (1 - BETA1**step)
            g = min(max(error_sum + settings.bias_wd * bias, -settings.clip), settings.clip)
            bias_m = BETA1 * bias_m + (1 - BETA1) * g
            bias_v = BETA2 * bias_v + (1 - BETA2) * g * g
            bias -= settings.bias_lr * correction * bias_m / (math.sqrt(bias_v) + settings.epsilon)
            linear_rate = np.float32(settings.linear_lr * correction)
            rate = np.float32(settings.factors_lr * correction)

            # The second phase: the update, feature by feature; those of one row first.
            for active in range(begin_single, end_single):
                if active + features_ahead < end_single:
                    fetch(table, block.single_features[active + features_ahead], floats, 1)
                feature = block.single_features[active]
                row, value = _entry(block.single_places, active, block.values, base, work.owners, weighted)
                error = work.errors[row] * value
                own = factors_wd - error * value
                if whole:
                    for lane in range(0, whole, _LANES):
                        gradient = error * load(work.factor_sums, row, lane, _LANES)
                        _adam(table, feature, lane, gradient, own, rate, settings, moments, width, _LANES)
                if rest:
                    gradient = error * load(work.factor_sums, row, whole, rest)
                    _adam(table, feature, whole, gradient, own, rate, settings, moments, width, rest)
                _update_weight(table, feature, error, linear_rate, settings, width)
            for active in range(begin_shared, min(begin_shared + features_ahead, end_shared)):
                fetch(table, block.shared_features[active], floats, 1)
            for active in range(begin_shared, end_shared):
                if active + features_ahead < end_shared:
                    fetch(table, block.shared_features[active + features_ahead], floats, 1)
                feature = block.shared_features[active]
                begin = np.int64(block.shared_starts[active])
                end = np.int64(block.shared_starts[active + 1])
                error = np.float32(0)
                own = factors_wd
                for position in range(begin, end):
                    row, value = _entry(
                        block.shared_places, position, block.values, base, work.owners, weighted
                    )
                    error += work.errors[row] * value
                    own -= work.errors[row] * value * value
                if whole:
                    for lane in range(0, whole, _LANES):
                        gradient = _gradient(block, begin, end, base, lane, _LANES, weighted, work)
                        _adam(table, feature, lane, gradient, own, rate, settings, moments, width, _LANES)
                if rest:
                    gradient = _gradient(block, begin, end, base, whole, rest, weighted, work)
                    _adam(table, feature, whole, gradient, own, rate, settings, moments, width, rest)
                _update_weight(table, feature, error, linear_rate, settings, width)

            # The next batch's first rows are fetched while this thread waits.
            batch += 1
            if batch < last_batch:
                last_row = min(n, (batch + 1) * size)
                begin_row = _first_row(block.starts, batch * size, last_row, thread, threads)
                end_row = _first_row(block.starts, batch * size, last_row, thread + 1, threads)
                last_entry = np.int64(block.starts[end_row])
                ahead = np.int64(block.starts[begin_row])
                until = min(ahead + entries_ahead, last_entry)
                while ahead < until:
                    fetch(table, block.features[ahead], needed, 0)
                    ahead += 1
            if threads > 1:
                target += threads
                wait(shared, target)
        if thread == 0:
            state[0], state[1], state[2], state[3] = bias, bias_m, bias_v, step
        return batch

    return kernel


@functools.cache
def _outputs_kernel(width: int) -> Any:
    """Return the predicting kernel for a width; see `load_outputs`."""
    whole = width // _LANES * _LANES
    rest = width % _LANES
    needed = width + 1
    entries_ahead = max(4, _LINES_AHEAD_OF_ROWS // -(-needed // LINE_FLOATS))
    sources = _SOURCES

    @compiled(error_model="numpy", nogil=True, fastmath={"contract", "nsz"})
    def kernel(starts, features, values, table, bias, outputs):  # type: ignore[no-untyped-def]
        factor_sums = np.empty((1, width), np.float32)
        last_entry = np.int64(starts[len(outputs)]) + 0 * sources
        ahead = np.int64(0)
        for row in range(len(outputs)):
            until = min(np.int64(starts[row + 1]) + entries_ahead, last_entry)
            while ahead < until:
                fetch(table, features[ahead], needed, 0)
                ahead += 1
            outputs[row] = _output(
                starts, features, values, table, np.float32(bias), row, whole, rest, True, factor_sums, 0
            )

    return kernel


def load_training(width: int, weighted: bool) -> tuple[Any, bool]:
    """Return the training kernel, and whether it had to be compiled.

    The kernel is called by each thread as ``kernel(block, table, state, settings, work, sums, first_batch,
    last_batch, thread, threads, shared)`` and trains on the batches of a block from ``first_batch`` up to,
    not including, ``last_batch``.  It returns the batch that it stands before: ``last_batch``, an earlier one
    if that one's errors are not finite (it has changed nothing then), or ``CANCELLED``.

    block : Block
        The data.
    table : float32 array, shape (feature_dim, row_floats(width))
        The parameters and moments; changed in place.
    state : float64 array, shape (4,)
        The bias, its two moments, and the number of updates so far; changed in place.
    settings : Settings
        What the run holds constant.
    work : layout.Scratch
        From `layout.scratch`.
    sums : float64 array, shape (metrics.SUMS,)
        The metrics' sums are added here, each batch before its update.
    thread, threads : int
        Which one of how many threads is calling.
    shared : int64 array
        From `barrier.counters`, new for every call.

    Parameters
    ----------
    width : int
        See `layout.width_of`.
    weighted : bool
        Whether the values of the block are not all 1.
    """
    kernel = _training_kernel(width, weighted)
    before = compilations(kernel)
    numbers, floats = np.zeros(1, np.uint32), np.zeros(0, np.float32)
    places, batches = np.zeros(0, np.uint16), np.zeros(1, np.int64)
    block = Block(
        numbers, numbers, floats, floats, batches, numbers, places, batches, numbers, numbers, places
    )
    settings = Settings(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1, False)
    table = np.zeros((1, row_floats(width)), np.float32)
    state, sums = np.zeros(4), np.zeros(SUMS)
    kernel(block, table, state, settings, scratch(1, 1, width), sums, 0, 0, 0, 1, barrier.counters(1))
    return kernel, compilations(kernel) > before


def load_outputs(width: int) -> Any:
    """Return the predicting kernel.

    It is called as ``kernel(starts, features, values, table, bias, outputs)`` for rows in the form of
    `Block`'s first three fields and writes their raw outputs, float32 (n,).
    """
    return _outputs_kernel(width)
