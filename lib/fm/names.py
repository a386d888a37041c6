"""Which feature is meant: by its number or, where features have names, by its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lib.errors import ParameterError, did_you_mean

_GUESSED_FROM = 100_000  # names that a misspelt one is compared with


class Names:
    """Features that go by number and, where they have names, by name.

    Parameters
    ----------
    total : int
        How many features there are, numbered from 0.
    names : sequence, optional
        A name for each of all features, or for each of those in question.
    numbers : int array, optional
        The features in question; by default all.
    what : str
        What errors call one of them.

    Raises
    ------
    ParameterError
        Another number of names.
    """

    def __init__(
        self,
        total: int,
        names: Sequence[Any] | None = None,
        numbers: np.ndarray | None = None,
        *,
        what: str = "feature",
    ) -> None:
        self.total = total
        self._what = what
        self._numbers = np.arange(total) if numbers is None else numbers
        self._names: np.ndarray | None = None
        if names is None:
            return
        self._names = np.fromiter(names, object, len(names))
        if len(names) == total:
            if len(self._numbers) == total and not np.array_equal(self._numbers, np.arange(total)):
                raise ParameterError(
                    f"The {total} names may be in the order of all {what}s or of those given: it is not clear which.",
                    hint=f"Give the {what}s in their order.",
                )
            self._names = self._names[self._numbers]
        elif len(names) != len(self._numbers):
            some = f", {len(self._numbers)} of them in question" if len(self._numbers) < total else ""
            raise ParameterError(f"There are {len(names)} names, but {total} {what}s{some}.")

    @property
    def given(self) -> bool:
        """Whether there are names."""
        return self._names is not None

    def __len__(self) -> int:
        return len(self._numbers)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Return the names, or else the numbers, of what stands at some positions of those in question."""
        return self._numbers[positions].astype(object) if self._names is None else self._names[positions]

    def position(self, wanted: Any) -> int:
        """Return where something stands among those in question, by number (a whole number) or by name.

        Raises
        ------
        ParameterError
            There is none of that number or name.
        """
        if is_number(wanted):
            found = np.flatnonzero(self._numbers == wanted)
            if not len(found):
                raise ParameterError(
                    f"There is no {self._what} {wanted} here: there are {len(self._numbers)}"
                    + (f", {self._numbers.min()} to {self._numbers.max()}." if len(self._numbers) else ".")
                )
            return int(found[0])
        if self._names is None:
            raise ParameterError(
                f"There is no {self._what} {wanted!r}: without names they go by number, from 0.",
                hint="Give names=.",
            )
        found = np.flatnonzero(self._names == wanted)
        if not len(found):
            known = [str(name) for name in self._names[:_GUESSED_FROM]]
            guess = did_you_mean(str(wanted), known)
            raise ParameterError(
                f"There is no {self._what} of the name {wanted!r} here.",
                hint=f"D{guess[1:]}" if guess else f"There are {', '.join(known[:3])} and so on.",
            )
        return int(found[0])

    def among(self, wanted: Iterable[Any]) -> np.ndarray:
        """Tell of each in question whether it is among some, by number or by name: bool (n,).

        Numbers of others are passed over.
        """
        wanted = list(wanted)
        numbers = [one for one in wanted if is_number(one)]
        found = np.zeros(len(self._numbers), bool)
        if numbers:
            found |= np.isin(self._numbers, np.array(numbers, np.int64))
        if len(numbers) < len(wanted):
            found[[self.position(one) for one in wanted if not is_number(one)]] = True
        return found


def is_number(wanted: Any) -> bool:
    """Tell whether a feature is given by number."""
    return isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool)
