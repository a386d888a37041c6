"""Compiled random numbers that depend on nothing but their name: a seed, a purpose, a sweep and an item.

So it makes no difference which thread draws them, or in which order.  Each name is the key of a sequence of
SplitMix64, which is a hash of key and position.

References
----------
Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, for SplitMix64.
Box, Muller, "A note on the generation of random normal deviates", Annals of Mathematical Statistics 29 (1958).
Robert, "Simulation of truncated normal variables", Statistics and Computing 5 (1995).
"""

from __future__ import annotations

import math

import numpy as np

from lib.compiled import compiled

FEATURES, LATENT = np.uint64(1), np.uint64(2)  # purposes

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER2 = np.uint64(0x94D049BB133111EB)
_SHIFT1, _SHIFT2, _SHIFT3 = np.uint64(30), np.uint64(27), np.uint64(31)
_TO_53_BITS = np.uint64(11)


@compiled(nogil=True)
def _hashed(key, position):  # type: ignore[no-untyped-def]
    """Return number ``position`` of the SplitMix64 sequence that begins at ``key``."""
    z = np.uint64(key) + (np.uint64(position) + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> _SHIFT1)) * _MULTIPLIER1
    z = (z ^ (z >> _SHIFT2)) * _MULTIPLIER2
    return z ^ (z >> _SHIFT3)


@compiled(nogil=True)
def _unit(key, position):  # type: ignore[no-untyped-def]
    """Return a uniform number in (0, 1]."""
    return (np.float64(_hashed(key, position) >> _TO_53_BITS) + 1.0) * 2.0**-53


@compiled(nogil=True)
def stream(seed, purpose, sweep, item):  # type: ignore[no-untyped-def]
    """Return the key of an item's random numbers in a sweep."""
    return _hashed(_hashed(_hashed(np.uint64(seed), purpose), sweep), item)


@compiled(nogil=True)
def normals(key, first, out, count):  # type: ignore[no-untyped-def]
    """Fill ``out[:count]`` with normal numbers (Box and Muller); return the position after them."""
    position = first
    for i in range(0, count, 2):
        radius = math.sqrt(-2.0 * math.log(_unit(key, position)))
        angle = 2.0 * math.pi * _unit(key, position + 1)
        position += 2
        out[i] = radius * math.cos(angle)
        if i + 1 < count:
            out[i + 1] = radius * math.sin(angle)
    return position


@compiled(nogil=True)
def normal_above(key, bound):  # type: ignore[no-untyped-def]
    """Draw a standard normal number that is at least ``bound`` (Robert 1995); not finite if the bound is not."""
    position = 0
    if not math.isfinite(bound):
        return bound
    if bound < 0.5:
        while True:
            radius = math.sqrt(-2.0 * math.log(_unit(key, position)))
            x = radius * math.cos(2.0 * math.pi * _unit(key, position + 1))
            position += 2
            if x >= bound:
                return x
    rate = 0.5 * (bound + math.sqrt(bound * bound + 4.0))
    while True:
        x = bound - math.log(_unit(key, position)) / rate
        accept = _unit(key, position + 1)
        position += 2
        if accept <= math.exp(-0.5 * (x - rate) * (x - rate)):
            return x
