"""How many threads the compiled loops use, and running them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lib.errors import ParameterError

VARIABLE = "REELBOOK_THREADS"

Result = TypeVar("Result")


def count(threads: int | None = None) -> int:
    """Return the number of threads to use.

    Parameters
    ----------
    threads : int, optional
        As asked for; by default the environment variable REELBOOK_THREADS, or the processors that this
        process may use.

    Raises
    ------
    ParameterError
        Less than 1, or no whole number.
    """
    asked = os.environ.get(VARIABLE, "").strip() if threads is None else str(threads)
    if not asked:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise ParameterError(f"The number of threads ({VARIABLE}) must be 1 or more, not {asked!r}.")
    return int(asked)


def run(tasks: Iterable[Callable[[], Result]], threads: int) -> list[Result]:
    """Run tasks that release the interpreter lock, several at a time, and return their results in order.

    Parameters
    ----------
    tasks : iterable of callable
        What is to be run; the first error that one of them raises, in their order, is raised here.
    threads : int
        The most that run at the same time; 1 runs them in the calling thread.
    """
    if threads == 1:
        return [task() for task in tasks]
    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(task) for task in tasks]]
