"""Measure what this machine's memory allows, in a process of its own; see ``launch.py``.

Two figures, both over a table of the size and the kind of memory that training has.  Each is the best over
several distances of prefetching and several runs:

``touches``
    Rows of the table (a feature's factors, weight and their moments) in random order, each read, changed and
    written back, on one thread and on two; rows a second.
``replay``
    Training on the data without its arithmetic: for each batch the same factors are read in the same order,
    and the same rows of the table changed; training rows a second, on one thread.
"""

from __future__ import annotations

import functools
import itertools
import json
import mmap
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numba
import numpy as np

from benchmarks.support import ratings
from lib import threads
from lib.fm import kernels
from lib.fm.vectors import fetch, load, store, zeros

DISTANCES = (4, 8, 16, 32)  # rows of the table on their way to the processor
REPEATS = 2


@functools.cache
def touching(floats: int) -> Any:
    """Return the kernel that reads, changes and writes back some rows of a table."""
    whole = floats // 64 * 64

    @numba.njit(nogil=True)
    def touch(table, order, first, last, ahead):  # type: ignore[no-untyped-def]
        scale, shift = np.float32(0.999), np.float32(0.001)
        for place in range(first, last):
            if place + ahead < last:
                fetch(table, order[place + ahead], floats, 1)
            row = order[place]
            for column in range(0, whole, 64):
                store(table, row, column, load(table, row, column, 64) * scale + shift)
            for column in range(whole, floats, 16):
                store(table, row, column, load(table, row, column, 16) * scale + shift)

    return touch


@functools.cache
def replaying(width: int, floats: int) -> Any:
    """Return the kernel that reads the factors of each batch's entries, then changes its features' rows."""
    touch = touching(floats)
    read = width + 16  # the weight stands behind the factors
    whole = read // 64 * 64

    @numba.njit(nogil=True)
    def replay(table, entries, entry_starts, active, active_starts, sums, ahead):  # type: ignore[no-untyped-def]
        for batch in range(len(entry_starts) - 1):
            for place in range(entry_starts[batch], entry_starts[batch + 1]):
                if place + 3 * ahead < len(entries):
                    fetch(table, entries[place + 3 * ahead], read, 0)
                row = entries[place]
                wide, narrow = zeros(64), zeros(8)
                for column in range(0, whole, 64):
                    wide = wide + load(table, row, column, 64)
                for column in range(whole, read, 8):
                    narrow = narrow + load(table, row, column, 8)
                store(sums, 0, 0, wide)
                store(sums, 1, 0, narrow)
            touch(table, active, active_starts[batch], active_starts[batch + 1], ahead)

    return replay


def best(action: Callable[[int], object], clock: Callable[[], float]) -> float:
    """Return the least seconds that an action takes, over distances of prefetching and repeats."""
    action(DISTANCES[0])  # compiles it
    least = float("inf")
    for distance, _ in itertools.product(DISTANCES, range(REPEATS)):
        began = clock()
        action(distance)
        least = min(least, clock() - began)
    return least


def new_table(rows: int, floats: int) -> np.ndarray:
    """Return a filled table in memory of large pages, as training has it."""
    memory = mmap.mmap(-1, 4 * rows * floats, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    table = np.frombuffer(memory, np.float32).reshape(rows, floats)
    table[:] = 0.5
    return table


def active_features(features: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each batch's distinct features, in the order in which they first appear, and where they begin."""
    lists = []
    for begin, end in itertools.pairwise(starts):
        _, first = np.unique(features[begin:end], return_index=True)
        lists.append(features[begin:end][np.sort(first)])
    bounds = np.concatenate(([0], np.cumsum([len(part) for part in lists])))
    return np.concatenate(lists).astype(np.int64), bounds


def main() -> None:
    """Run the job that the command line names."""
    job = json.loads(Path(sys.argv[1]).read_text())
    data = ratings.load(job["data"])
    data = data.take(slice(0, min(len(data), job["rows"])))
    width = kernels.width_of(job["k"])
    floats = kernels.row_floats(width)
    table = new_table(data.X.shape[1], floats)
    answer: dict[str, Any] = {"floats": floats, "touches": {}, "replay": {}, "active": {}}

    touch = touching(floats)
    order = np.random.default_rng(0).integers(0, len(table), job["touches"])
    for number in job["thread_counts"]:
        bounds = np.linspace(0, len(order), number + 1).astype(np.int64)

        def touch_all(distance: int, bounds: np.ndarray = bounds, number: int = number) -> None:
            parts = [
                functools.partial(touch, table, order, *ends, distance) for ends in itertools.pairwise(bounds)
            ]
            threads.run(parts, number)

        clock = time.perf_counter if number > 1 else time.process_time
        answer["touches"][number] = len(order) / best(touch_all, clock)

    replay = replaying(width, floats)
    entries = data.X.indices.astype(np.int64)
    sums = np.zeros((2, 64), np.float32)
    for size in job["batches"]:
        rows = np.append(np.arange(0, len(data), size), len(data))
        starts = data.X.indptr[rows]
        active, active_starts = active_features(entries, starts)
        answer["active"][size] = len(active) / len(data)
        arguments = (table, entries, starts, active, active_starts, sums)
        answer["replay"][size] = len(data) / best(functools.partial(replay, *arguments), time.process_time)
    Path(job["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
