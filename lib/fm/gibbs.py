"""The compiled inner loops of Gibbs sampling for Factorization Machines.

The model is linear in all that belongs to one feature, its factors v_j and its weight w_j, when everything
else is held.  So a sweep draws for each feature the whole vector ``θ_j = (v_j, w_j)`` of ``m = k + 1`` numbers
from its Gaussian conditional.  With ``h_r`` the gradient of row r's output by θ_j, ``e_r`` its residual at the
present θ_j, α the precision of the noise and D, μ the precisions and means of the prior::

    θ_j ~ N(θ_j + Λ⁻¹ g, Λ⁻¹),   Λ = D + α Σ_r h_r h_rᵀ,   g = α Σ_r h_r e_r + D (μ − θ_j)
    h_r = (x_rj (Σ_i x_ri v_i − x_rj v_j), x_rj)

It is drawn through the Cholesky factor of Λ, which costs ``n_j m² / 2 + m³ / 6`` for n_j entries, or, where a
feature has clearly fewer than m entries, as most customers have, through a system of n_j equations
(`_draw_from_few`), which costs ``n_j² m / 2 + n_j³ / 6``.

How the factor sums of a row, ``Σ_i x_ri v_i``, are had depends on the rows:

- Rows of at most two entries (`Pairs`): they are the other feature's factors; nothing is kept for a row.
- Wider rows (`Columns`): they and the residuals are kept for each row, ``4 (k + 1)`` bytes a row, and updated
  after each draw.  So an entry costs O(k) of memory traffic and the share of O(k²) above whatever the length of
  its row.  libFM's scheme of one number at a time needs less memory and O(k) an entry in all, but touches each
  entry k times in places far apart, and needs more sweeps.

Features that share no row can be drawn at the same time without changing a bit of the result, since the
random numbers depend on the seed, the sweep and the feature only.

References
----------
Rendle, "Factorization Machines with libFM", ACM TIST 3 (2012), for the model and its priors.
Bhattacharya, Chakraborty, Mallick, "Fast sampling with Gaussian scale mixture priors in high-dimensional
regression", Biometrika 103 (2016), for drawing through the small system.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from lib.compiled import compilations, compiled, prefetch
from lib.fm import metrics, random_numbers, triangles
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
from lib.fm.random_numbers import FEATURES, LATENT, normal_above, normals, stream
from lib.fm.triangles import VECTOR, add_gram, factorize, padded, solve

CHUNK = 64  # rows of the gradient matrix at a time

_AHEAD = 4  # entries whose partner is prefetched
_LINE = 64  # bytes of a cache line
_FEW = 0.75  # up to this share of m entries, the small system is the cheaper one

_INLINED = (metrics, random_numbers, triangles)
_FAST: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy", "nogil": True}


class Rows(NamedTuple):
    """Examples in compressed sparse rows: starts int64 (n + 1,), features int32 and values float32 (nnz,)."""

    starts: np.ndarray
    features: np.ndarray
    values: np.ndarray


class Columns(NamedTuple):
    """The same entries by feature.

    Attributes
    ----------
    starts : int64 array, shape (d + 1,)
        Where each feature's entries begin.
    rows : int32 array, shape (nnz,)
        The entries' rows, ascending within a feature.
    values : float32 array, shape (nnz,)
        The entries' values.
    """

    starts: np.ndarray
    rows: np.ndarray
    values: np.ndarray


class Pairs(NamedTuple):
    """For each entry of `Columns`, the row's other entry: feature int32 and value float32 (nnz,).

    Without another entry, the feature is the entry's own and the value 0.  Both arrays are empty when rows
    are wider.
    """

    features: np.ndarray
    values: np.ndarray


class State(NamedTuple):
    """What a sweep reads and changes.

    Attributes
    ----------
    table : float32 array, shape (d, padded(k + 1))
        Each feature's k factors, its weight, and zeros.
    targets : float32 array, shape (n,)
        What the outputs without bias are to meet, for `Pairs`.
    residuals : float32 array, shape (n,)
        Targets less outputs, for wider rows; kept up to date.
    sums : float32 array, shape (n, k)
        The factor sums of each row, for wider rows; kept up to date.
    """

    table: np.ndarray
    targets: np.ndarray
    residuals: np.ndarray
    sums: np.ndarray


def few(num_factors: int) -> int:
    """Return up to how many entries a feature is drawn through the small system."""
    return int(_FEW * (num_factors + 1))


# The rows of one feature


@compiled(inlines=_INLINED, **_FAST)
def _collect_pairs(columns, pairs, state, feature, first, last, H):  # type: ignore[no-untyped-def]
    """Fill H with the gradients, and in the column after them the residuals, of a feature's entries in rows of two."""
    table = state.table
    k = state.sums.shape[1]
    stored = len(columns.rows)
    for entry in range(first, last):
        ahead = entry + _AHEAD
        if ahead < stored:
            for offset in range(0, (k + 1) * 4, _LINE):
                prefetch(table, pairs.features[ahead], offset)
        place = entry - first
        partner = pairs.features[entry]
        value = columns.values[entry]
        other = pairs.values[entry]
        product = value * other
        output = other * table[partner, k] + value * table[feature, k]
        for f in range(k):
            h = product * table[partner, f]
            H[place, f] = h
            output += h * table[feature, f]
        H[place, k] = value
        H[place, k + 1] = state.targets[columns.rows[entry]] - output


@compiled(inlines=_INLINED, **_FAST)
def _collect_wide(columns, state, feature, first, last, H):  # type: ignore[no-untyped-def]
    """Fill H with the gradients, and in the column after them the residuals, of a feature's entries in wider rows."""
    table, sums = state.table, state.sums
    k = sums.shape[1]
    stored = len(columns.rows)
    for entry in range(first, last):
        ahead = entry + _AHEAD
        if ahead < stored:
            for offset in range(0, k * 4, _LINE):
                prefetch(sums, columns.rows[ahead], offset)
        place = entry - first
        row = columns.rows[entry]
        value = columns.values[entry]
        for f in range(k):
            H[place, f] = value * (sums[row, f] - value * table[feature, f])
        H[place, k] = value
        H[place, k + 1] = state.residuals[row]


@compiled(inlines=_INLINED, **_FAST)
def _move_rows(columns, state, feature, change):  # type: ignore[no-untyped-def]
    """Bring the sums and residuals of a feature's rows to its new vector, then the vector itself."""
    table, sums = state.table, state.sums
    k = sums.shape[1]
    stored = len(columns.rows)
    for entry in range(columns.starts[feature], columns.starts[feature + 1]):
        ahead = entry + _AHEAD
        if ahead < stored:
            for offset in range(0, k * 4, _LINE):
                prefetch(sums, columns.rows[ahead], offset)
        row = columns.rows[entry]
        value = columns.values[entry]
        moved = change[k]
        for f in range(k):
            moved += (sums[row, f] - value * table[feature, f]) * change[f]
            sums[row, f] += value * change[f]
        state.residuals[row] -= value * moved
    for f in range(k + 1):
        table[feature, f] += change[f]


@compiled(inlines=_INLINED, **_FAST)
def _collect(columns, pairs, state, wide, feature, first, last, H):  # type: ignore[no-untyped-def]
    """Fill H for some entries of a feature, whatever the rows."""
    if wide:
        _collect_wide(columns, state, feature, first, last, H)
    else:
        _collect_pairs(columns, pairs, state, feature, first, last, H)


# The draw


@compiled(inlines=_INLINED, **_FAST)
def _draw_from_many(C, m, alpha, mean, precision, theta, noise, change):  # type: ignore[no-untyped-def]
    """Set ``change`` of θ to a draw through the Cholesky factor of Λ.

    On entry the upper triangle of C is Σ h hᵀ, and its column m is Σ h e.
    """
    for i in range(m):
        for c in range(i, m + 1):
            C[i, c] *= alpha
        C[i, i] += precision[i]
        C[i, m] += precision[i] * (mean[i] - theta[i])
    factorize(C, m)
    for i in range(m):
        change[i] = C[i, m] + noise[i]
    solve(C, m, change)


@compiled(inlines=_INLINED, **_FAST)
def _draw_from_few(H, n, A, G, m, alpha, mean, precision, theta, noise, change):  # type: ignore[no-untyped-def]
    """Set ``change`` of θ to a draw through a system of n equations, for a feature with n < m entries.

    With Φ = √α H and residuals e at the present θ: u ~ N(μ, D⁻¹) and δ ~ N(0, I) give
    ``u + D⁻¹Φᵀ (ΦD⁻¹Φᵀ + I)⁻¹ (√α e − Φ (u − θ) − δ)`` the conditional distribution.  Here ``A = (Φ D^-½)ᵀ``, so that
    the system is AᵀA + I.  H has the residuals in its column m.
    """
    root = np.sqrt(alpha)
    for f in range(m):
        deviation = np.float32(1) / np.sqrt(precision[f])
        change[f] = mean[f] + deviation * noise[f] - theta[f]
        scale = root * deviation
        for r in range(n):
            A[f, r] = scale * H[r, f]
    for i in range(n):
        for c in range(n):
            G[i, c] = 0
        G[i, i] = 1
    add_gram(A, m, G, n)
    for r in range(n):
        error = H[r, m]
        for f in range(m):
            error -= H[r, f] * change[f]
        G[r, n] = root * error - noise[m + r]
    factorize(G, n)
    weights = noise
    for r in range(n):
        weights[r] = G[r, n]
    solve(G, n, weights)
    for f in range(m):
        moved = np.float32(0)
        for r in range(n):
            moved += A[f, r] * weights[r]
        change[f] += moved / np.sqrt(precision[f])


@compiled(inlines=_INLINED, **_FAST)
def sweep(columns, pairs, state, alpha, mean, precision, seed, number, first, last):  # type: ignore[no-untyped-def]
    """Draw the features from ``first`` up to, not including, ``last``.

    Parameters
    ----------
    columns, pairs, state
        See `Columns`, `Pairs`, `State`.
    alpha : float
        Precision of the noise.
    mean, precision : float32 arrays, shape (k + 1,)
        The prior of these features, factors first.
    seed, number : int
        The seed, and the number of the sweep: with the feature they name its random numbers.
    """
    k = state.sums.shape[1]
    m = k + 1
    table = state.table
    width = padded(m + 1)  # with the column of residuals
    alpha = np.float32(alpha)
    wide = len(pairs.features) == 0
    limit = int(_FEW * m)
    small = padded(limit + 1)
    H = np.zeros((max(CHUNK, small), width), np.float32)
    C = np.zeros((width, width), np.float32)
    A = np.zeros((m, small), np.float32)
    G = np.zeros((small, small), np.float32)
    change = np.zeros(m, np.float32)
    noise = np.empty(m + small, np.float32)
    for feature in range(first, last):
        begin, end = columns.starts[feature], columns.starts[feature + 1]
        n = end - begin
        theta = table[feature]
        key = stream(seed, FEATURES, number, feature)
        if n == 0:
            normals(key, 0, noise, m)
            for f in range(m):
                theta[f] = mean[f] + noise[f] / np.sqrt(precision[f])
        elif n <= limit:
            normals(key, 0, noise, m + n)
            _collect(columns, pairs, state, wide, feature, begin, end, H)
            _draw_from_few(H, n, A, G, m, alpha, mean, precision, theta, noise, change)
        else:
            normals(key, 0, noise, m)
            C[:] = 0
            for start in range(begin, end, CHUNK):
                stop = min(start + CHUNK, end)
                _collect(columns, pairs, state, wide, feature, start, stop, H)
                add_gram(H, stop - start, C, m)
            _draw_from_many(C, m, alpha, mean, precision, theta, noise, change)
        if n > 0 and wide:
            _move_rows(columns, state, feature, change)
        elif n > 0:
            for f in range(m):
                theta[f] += change[f]


# Over rows


@compiled(inlines=_INLINED, **_FAST)
def outputs(rows, table, k, first, last, out, sums):  # type: ignore[no-untyped-def]
    """Compute the outputs without bias of the rows from ``first`` up to, not including, ``last``.

    Parameters
    ----------
    rows : Rows
        The examples, n rows.
    table : float32 array, shape (d, at least k + 1)
        Each feature's k factors, then its weight.
    k : int
        Number of factors.
    first, last : int
        Which rows.
    out : float32 array, shape (n,)
        Receives the outputs.
    sums : float32 array, shape (n, k) or (0, k)
        Receives each row's factor sums, if it has room for them.
    """
    stored = rows.starts[len(rows.starts) - 1]
    keeps = len(sums) > 0
    total = np.empty(k, np.float32)
    for row in range(first, last):
        begin, end = rows.starts[row], rows.starts[row + 1]
        for entry in range(min(begin + _AHEAD, stored), min(end + _AHEAD, stored)):
            for offset in range(0, (k + 1) * 4, _LINE):
                prefetch(table, rows.features[entry], offset)
        linear = np.float32(0)
        products = np.float32(0)
        total[:] = 0
        for entry in range(begin, end):
            feature = rows.features[entry]
            value = rows.values[entry]
            linear += value * table[feature, k]
            for f in range(k):
                term = value * table[feature, f]
                products += term * total[f]
                total[f] += term
        out[row] = linear + products
        if keeps:
            for f in range(k):
                sums[row, f] = total[f]


@compiled(inlines=_INLINED, nogil=True, error_model="numpy")
def draw_latent(out, bias, labels, seed, number, first, last, targets):  # type: ignore[no-untyped-def]
    """Draw the latent numbers of a probit model: normal about output + bias, of the sign the label says.

    Albert and Chib, "Bayesian analysis of binary and polychotomous response data", JASA 88 (1993).

    Parameters
    ----------
    out : float32 array, shape (n,)
        The outputs without bias.
    labels : float32 array, shape (n,)
        0 or 1.
    targets : float32 array, shape (n,)
        Receives the latent numbers.
    """
    for row in range(first, last):
        mean = np.float64(out[row]) + bias
        key = stream(seed, LATENT, number, row)
        if labels[row] > 0.5:
            targets[row] = mean + normal_above(key, -mean)
        else:
            targets[row] = mean - normal_above(key, mean)


@compiled(inlines=_INLINED, nogil=True, error_model="numpy")
def add_errors(out, bias, labels, classifier, first, last, sums):  # type: ignore[no-untyped-def]
    """Add the errors of some rows to the sums of the metrics.

    Parameters
    ----------
    out, bias
        The outputs without bias, float32 (n,), and the bias.
    labels : float32 array, shape (n,)
        What the outputs are to meet, or 0 and 1 for a classifier.
    sums : float64 array, shape (metrics.SUMS,)
        See `lib.fm.metrics`.
    """
    for row in range(first, last):
        output = np.float64(out[row]) + bias
        if classifier:
            positive = labels[row] > 0.5
            predicted = output > 0
            likelihood = 0.5 * math.erfc((-output if positive else output) * math.sqrt(0.5))
            sums[CROSS_ENTROPY] -= math.log(max(likelihood, 1e-300))
            sums[CORRECT] += positive == predicted
            sums[TRUE_POSITIVE] += positive and predicted
            sums[POSITIVE] += positive
            sums[PREDICTED_POSITIVE] += predicted
        else:
            error = output - labels[row]
            sums[SQUARED] += error * error
            sums[ABSOLUTE] += abs(error)


@compiled(inlines=_INLINED, nogil=True, error_model="numpy")
def normal_probability(out):  # type: ignore[no-untyped-def]
    """Return Φ of each number: float64, the same shape (n,)."""
    result = np.empty(len(out), np.float64)
    for i in range(len(out)):
        result[i] = 0.5 * math.erfc(-np.float64(out[i]) * math.sqrt(0.5))
    return result


@compiled(inlines=_INLINED, nogil=True)
def pair_up(rows, columns):  # type: ignore[no-untyped-def]
    """Return `Pairs` for rows of at most two entries."""
    stored = len(columns.rows)
    features = np.empty(stored, np.int32)
    values = np.empty(stored, np.float32)
    for feature in range(len(columns.starts) - 1):
        for entry in range(columns.starts[feature], columns.starts[feature + 1]):
            row = columns.rows[entry]
            features[entry] = feature
            values[entry] = 0
            for place in range(rows.starts[row], rows.starts[row + 1]):
                if rows.features[place] != feature:
                    features[entry] = rows.features[place]
                    values[entry] = rows.values[place]
    return Pairs(features, values)


@compiled(inlines=_INLINED, nogil=True)
def nearest_before(rows, d):  # type: ignore[no-untyped-def]
    """Return, for each feature, the nearest feature before it that shares a row with it, or -1: int64 (d,).

    Features must ascend within rows.
    """
    nearest = np.full(d, -1, np.int64)
    for row in range(len(rows.starts) - 1):
        for entry in range(rows.starts[row] + 1, rows.starts[row + 1]):
            feature = rows.features[entry]
            nearest[feature] = max(nearest[feature], rows.features[entry - 1])
    return nearest


@compiled(inlines=_INLINED, nogil=True)
def field_ends(nearest):  # type: ignore[no-untyped-def]
    """Cut the columns into the fewest contiguous fields of which a row has at most one entry.

    ``nearest`` is from `nearest_before`; returned is where each field ends, int64.
    """
    ends = np.empty(len(nearest) + 1, np.int64)
    count = 0
    begin = 0
    for feature in range(len(nearest)):
        if nearest[feature] >= begin:
            ends[count] = feature
            count += 1
            begin = feature
    ends[count] = len(nearest)
    return ends[: count + 1].copy()


def load() -> bool:
    """Compile the loops, or load them from disk; return whether they had to be compiled."""
    kernels: list[Any] = [
        sweep,
        outputs,
        draw_latent,
        add_errors,
        normal_probability,
        pair_up,
        nearest_before,
        field_ends,
    ]
    before = compilations(*kernels)
    integers, numbers = np.zeros(0, np.int32), np.zeros(0, np.float32)
    rows = Rows(np.zeros(1, np.int64), integers, numbers)
    columns = Columns(np.zeros(2, np.int64), integers, numbers)
    pairs = pair_up(rows, columns)
    field_ends(nearest_before(rows, 1))
    none = np.zeros((0, 1), np.float32)
    table = np.zeros((1, VECTOR), np.float32)
    prior = np.ones(VECTOR, np.float32)
    sweep(
        columns,
        pairs,
        State(table, numbers, numbers, none),
        1.0,
        prior,
        prior,
        0,
        0,
        0,
        0,
    )
    outputs(rows, table, 1, 0, 0, numbers, none)
    draw_latent(numbers, 0.0, numbers, 0, 0, 0, 0, numbers)
    add_errors(numbers, 0.0, numbers, False, 0, 0, np.zeros(SUMS))
    normal_probability(numbers)
    return compilations(*kernels) > before
