"""The threads of a training: how many work on a block, and that they begin and end together."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import numpy as np

from lib.fm import barrier, kernels, layout
from lib.fm.blocks import PlannedBlock
from lib.fm.pace import Pace
from lib.fm.state import State

_ENTRY_SECONDS = 8e-9  # what a stored value costs in an epoch, on one thread
_FACTOR_SECONDS = 0.7e-9  # and each of its factors beside that
_WAIT_SECONDS = 0.4e-6  # what each further thread costs in a batch


class Crew:
    """Threads that train.

    Parameters
    ----------
    threads : int
        The most that work at the same time.
    width : int
        Factors of a row of the state's table; see `layout.width_of`.

    Attributes
    ----------
    compile_seconds : float or None
        Seconds that compiling took so far; None when the machine code came from an earlier run.
    """

    def __init__(self, threads: int, width: int) -> None:
        self.compile_seconds: float | None = None
        self._threads = threads
        self._width = width
        self._pace = Pace(threads)
        self._work = layout.scratch(0, 0, width)

    def pool(self) -> ThreadPoolExecutor:
        """Return threads for an epoch."""
        return ThreadPoolExecutor(max(1, self._threads - 1), "reelbook-training")

    def kernel(self, weighted: bool) -> Any:
        """Return the kernel for values that are not all 1, or all 1; it is compiled if it has to be."""
        started = time.perf_counter()
        kernel, compiled = kernels.load_training(self._width, weighted)
        if compiled:
            self.compile_seconds = (self.compile_seconds or 0.0) + time.perf_counter() - started
        return kernel

    def train(
        self,
        state: State,
        block: PlannedBlock,
        settings: layout.Settings,
        sums: np.ndarray,
        first: int,
        last: int,
        pool: ThreadPoolExecutor,
    ) -> int:
        """Train on the mini-batches ``first`` to ``last`` of a block, and return the one it stands before.

        That is ``last``, or an earlier one whose errors are not finite.  An interrupt leaves whole
        mini-batches.

        Parameters
        ----------
        state : State
            What they change.
        block : PlannedBlock
            The data.
        settings : layout.Settings
            What holds for these batches.
        sums : float64 array, shape (metrics.SUMS,)
            The metrics' sums are added here.
        first, last : int
            Which batches; ``last`` is not among them.
        pool : ThreadPoolExecutor
            From `pool`.
        """
        kernel = self.kernel(block.weighted)
        work = self._scratch(block, settings.batch_size)
        most = self._most_for(len(block.arrays.features) / block.batches)
        if self._pace.threads != most:
            self._pace = Pace(most)
        count = self._pace.choose()
        started = time.perf_counter()
        arguments = (block.arrays, state.table, state.bias, settings, work, sums, first, last)
        reached = run_together(kernel, arguments, count, pool)
        self._pace.learn(count, last - first, time.perf_counter() - started)
        return reached

    def _most_for(self, entries: float) -> int:
        """Return the threads for which work / threads + waiting · threads is least in such a batch."""
        seconds = entries * (_ENTRY_SECONDS + _FACTOR_SECONDS * self._width)
        return max(1, min(self._threads, int(math.sqrt(seconds / _WAIT_SECONDS))))

    def _scratch(self, block: PlannedBlock, batch_size: int) -> layout.Scratch:
        """Return working memory for the batches of a block."""
        rows, entries = min(batch_size, block.rows), block.largest_batch if block.weighted else 0
        had_rows, had_entries = len(self._work.errors), len(self._work.owners)
        if had_rows < rows or had_entries < entries:
            self._work = layout.scratch(max(rows, had_rows), max(entries, had_entries), self._width)
        return self._work

    def release(self) -> None:
        """Give the working memory back."""
        self._work = layout.scratch(0, 0, self._width)


def run_together(kernel: Any, arguments: tuple[Any, ...], threads: int, pool: ThreadPoolExecutor) -> int:
    """Run a kernel by several threads, the calling one among them, and return the batch it stands before.

    The threads either all do their part, or none begins, whatever happens to the calling one.
    """
    shared = barrier.counters(threads)
    others: list[Future[int]] = []
    try:
        for thread in range(1, threads):
            others.append(pool.submit(partial(kernel, *arguments, thread, threads, shared)))  # noqa: PERF401
        reached: int = kernel(*arguments, 0, threads, shared)
    except BaseException:
        barrier.cancel(shared)
        raise
    finally:
        wait(others)
    for other in others:
        other.result()
    return reached
