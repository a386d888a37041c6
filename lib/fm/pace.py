"""How many threads are fastest just now, found out while they work.

Threads that wait for each other some thousand times a second lose more than they gain when the machine's
processors are busy with something else: each wait may then last until the other one's turn comes.  The number
of threads does not change the result, so it is free to follow the load.
"""

from __future__ import annotations

_SHARE = 40  # a number of threads is tried again after so many times what the last try took
_LEAST_PAUSE = 0.25  # but not before so many seconds of work
_LEAST_SECONDS = 0.002  # shorter pieces of work are measured together
_WEIGHT = 0.5  # of the newest measurement


class Pace:
    """Chooses the number of threads for the next piece of work.

    Parameters
    ----------
    threads : int
        The most; halves of it, halves of these, … and 1 are the others.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._counts = [threads]
        while self._counts[-1] > 1:
            self._counts.append(self._counts[-1] // 2)
        self._rates: dict[int, float] = {}
        self._due: dict[int, float] = {}
        self._elapsed = 0.0
        self._unmeasured: dict[int, tuple[float, float]] = {}

    def choose(self) -> int:
        """Return the fastest number of threads, or now and then one next to it to see whether that is faster."""
        if not self._rates:
            return self.threads
        best = max(self._rates, key=lambda count: self._rates[count])
        place = self._counts.index(best)
        for count in self._counts[max(0, place - 1) : place + 2]:
            if count != best and self._due.get(count, 0.0) <= self._elapsed:
                return count
        return best

    def learn(self, count: int, work: float, seconds: float) -> None:
        """Take note of how long so many threads took for a piece of work, measured in anything."""
        self._elapsed += seconds
        work_before, seconds_before = self._unmeasured.pop(count, (0.0, 0.0))
        work, seconds = work + work_before, seconds + seconds_before
        if seconds < _LEAST_SECONDS:
            self._unmeasured[count] = (work, seconds)
            return
        rate = work / seconds
        self._rates[count] = _WEIGHT * rate + (1 - _WEIGHT) * self._rates.get(count, rate)
        self._due[count] = self._elapsed + max(_LEAST_PAUSE, _SHARE * seconds)
