"""Where threads within compiled loops wait for each other, some thousand times a second and more.

A thread that waits reads a counter again and again, because waking a sleeping thread takes longer than a
phase of a mini-batch.  After a while it offers its processor to others at every turn, so that more threads than
processors come to their end too.
"""

from __future__ import annotations

import os
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_ARRIVED = 0  # how often a thread has arrived
_CANCELLED = 8  # on another cache line
_PATIENCE = 9  # how many turns, each about a nanosecond, before the processor is offered to others

_LONG = 50_000  # with a processor for each thread the others come soon, and an offer may cost milliseconds
_SHORT = 200  # without, the others need this processor

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


def counters(threads: int) -> np.ndarray:
    """Return what so many threads share to wait for each other in one call of a kernel: int64 (16,)."""
    shared = np.zeros(16, np.int64)
    shared[_PATIENCE] = _LONG if threads <= _processors() else _SHORT
    return shared


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cancel(shared: np.ndarray) -> None:
    """Send those home who wait in `gather` for threads that will not come."""
    shared[_CANCELLED] = 1


def _address(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    view = context.make_array(kind)(context, builder, array)
    return cgutils.gep(builder, view.data, place)


def _type_increase(typing_context: Any, shared: Any, place: Any) -> Any:
    """Add one to a counter; what was written before can be read by who then reads the counter."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], *arguments)
        builder.atomic_rmw("add", address, ir.IntType(64)(1), "acq_rel")
        return context.get_dummy_value()

    return types.void(shared, types.int64), generate


def _type_read(typing_context: Any, shared: Any, place: Any) -> Any:
    """Read a counter, and with it what was written before it was increased."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(address, "acquire", align=8)

    return types.int64(shared, types.int64), generate


_increase: Any = intrinsic(_type_increase)
_read: Any = intrinsic(_type_read)


@numba.njit(inline="always")
def wait(shared, target):  # type: ignore[no-untyped-def]
    """Arrive, and wait until the threads have arrived ``target`` times in all."""
    _increase(shared, _ARRIVED)
    spins = 0
    while _read(shared, _ARRIVED) < target:
        spins += 1
        if spins > shared[_PATIENCE]:
            _sched_yield()


@numba.njit(inline="always")
def gather(shared, threads):  # type: ignore[no-untyped-def]
    """Arrive, wait for all threads, and tell whether they came rather than that it was cancelled.

    Nothing is to be changed before: a thread that could not be started must not leave others waiting,
    nor a mini-batch half done.
    """
    _increase(shared, _ARRIVED)
    spins = 0
    while _read(shared, _ARRIVED) < threads:
        if _read(shared, _CANCELLED) != 0:
            return False
        spins += 1
        if spins > shared[_PATIENCE]:
            _sched_yield()
    return True
