"""The training rows as Gibbs sampling needs them: by row, by column, in blocks, in parts for several threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

from lib.errors import ParameterError
from lib.fm import gibbs
from lib.fm.posterior import as_rows, plain

_TASKS_PER_THREAD = 4


@dataclass(frozen=True)
class Block:
    """A range of columns with a prior of its own.

    ``parts`` are ranges of its features that may be drawn at the same time; there is one if the block has
    features that share a row.
    """

    first: int
    last: int
    parts: list[tuple[int, int]]


class Design:
    """Training rows, with what is known of their columns.

    Parameters
    ----------
    X : csr_matrix of float32, shape (n, d)
        Without repeated entries; columns ascend within rows.
    blocks : sequence of int, optional
        Numbers of columns of contiguous blocks; by default they are inferred, see `infer_blocks`.

    Attributes
    ----------
    rows : gibbs.Rows
    columns : gibbs.Columns
    pairs : gibbs.Pairs
    wide : bool
        Whether a row has more than two entries.
    sizes : list of int
        The number of columns of each block.
    fields : list of int
        Sizes of contiguous fields of which no row has two entries: the blocks, and single columns in place of a
        block whose features share rows.

    Raises
    ------
    ParameterError
        Blocks that do not make up the columns.
    """

    def __init__(self, X: sparse.csr_matrix, blocks: Sequence[int] | None = None) -> None:
        self.rows = as_rows(X)
        by_column = X.tocsc()
        self.columns = gibbs.Columns(
            plain(by_column.indptr, np.int64),
            plain(by_column.indices, np.int32),
            plain(by_column.data, np.float32),
        )
        longest = int(np.diff(self.rows.starts).max(initial=0))
        self.wide = longest > 2
        nothing = gibbs.Pairs(np.zeros(0, np.int32), np.zeros(0, np.float32))
        self.pairs = nothing if self.wide else gibbs.pair_up(self.rows, self.columns)
        self._nearest = gibbs.nearest_before(self.rows, X.shape[1])
        if blocks is None:
            self.sizes = _inferred(self._nearest, longest)
        else:
            self.sizes = _checked_blocks(blocks, X.shape[1])
        self.fields: list[int] = []
        first = 0
        for size in self.sizes:
            self.fields += [size] if self._shares_no_row(first, first + size) else [1] * size
            first += size

    @property
    def features(self) -> int:
        """Number of columns d."""
        return len(self._nearest)

    @property
    def entries(self) -> np.ndarray:
        """Each feature's number of entries: int64 (d,)."""
        return np.diff(self.columns.starts)

    def _shares_no_row(self, first: int, last: int) -> bool:
        return bool(self._nearest[first:last].max() < first)

    def blocks(self, num_factors: int, threads: int) -> list[Block]:
        """Return the blocks, cut into parts of about equal work where their features share no row."""
        work = np.cumsum(_work(self.entries, num_factors))
        blocks = []
        first = 0
        for size in self.sizes:
            last = first + size
            parts = threads * _TASKS_PER_THREAD if threads > 1 and self._shares_no_row(first, last) else 1
            before = float(work[first - 1]) if first else 0.0
            shares = before + (float(work[last - 1]) - before) * np.arange(1, parts) / parts
            cuts = np.unique([first, *(first + np.searchsorted(work[first:last], shares)), last]).tolist()
            blocks.append(Block(first, last, list(pairwise(cuts))))
            first = last
        return blocks


def infer_blocks(X: sparse.csr_matrix) -> list[int]:
    """Return a guess at the blocks of columns: their sizes.

    The columns are cut from the left into the fewest contiguous fields of which no row has two entries:
    one-hot columns of customers, then of videos, come out as such.  Neighbouring fields of one column, such as
    numeric columns, make one block.  More blocks than the longest row has entries are no such design: then
    there is one block.

    Parameters
    ----------
    X : csr_matrix of float32, shape (n, d)
        Without repeated entries; columns ascend within rows.
    """
    rows = as_rows(X)
    longest = int(np.diff(rows.starts).max(initial=0))
    return _inferred(gibbs.nearest_before(rows, X.shape[1]), longest)


def _inferred(nearest: np.ndarray, longest: int) -> list[int]:
    sizes: list[int] = []
    after_single = False
    for size in np.diff(gibbs.field_ends(nearest), prepend=0).tolist():
        if size == 1 and after_single:
            sizes[-1] += 1
        else:
            sizes.append(size)
        after_single = size == 1
    return sizes if len(sizes) <= max(1, longest) else [len(nearest)]


def _checked_blocks(blocks: Sequence[int], columns: int) -> list[int]:
    sizes = list(blocks)
    if not all(isinstance(size, (int, np.integer)) and size >= 1 for size in sizes):
        raise ParameterError(f"Blocks are numbers of columns, 1 or more each, not {sizes}.")
    if sum(sizes) != columns:
        raise ParameterError(
            f"The blocks have {sum(sizes)} columns in all, but the examples have {columns}.",
            hint="Give the number of columns of each block, in order.",
        )
    return [int(size) for size in sizes]


def _work(entries: np.ndarray, num_factors: int) -> np.ndarray:
    """Return about how many multiplications it takes to draw features with so many entries."""
    m = num_factors + 1.0
    n = entries.astype(np.float64)
    few = n * n * m / 2 + n**3 / 6
    many = n * m * m / 2 + m**3 / 6
    return np.where(n <= gibbs.few(num_factors), few, many) + 4 * n * m + 100 * m
