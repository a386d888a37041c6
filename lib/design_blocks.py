"""The parts of a design matrix: blocks of columns, and the sparse matrices that they are put together from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from lib.side_features import RATED, Categories, Number


@dataclass(frozen=True)
class Block:
    """The columns of one feature.

    Attributes
    ----------
    name : str
        ``customer``, ``video`` or the side feature's.
    owner : {"customer", "video", "rating"}
        Whose feature it is.
    first, size : int
        Its columns.
    encoder : Categories, Number or None
        How values become columns; None for identities and ``rated``.
    """

    name: str
    owner: str
    first: int
    size: int
    encoder: Categories | Number | None = None

    @property
    def kind(self) -> str:
        """What its values are, in words."""
        if self.encoder is None:
            return "what else they rated" if self.name == RATED else "identity"
        if isinstance(self.encoder, Number):
            return "log" if self.encoder.logarithmic else "number"
        return self.encoder.kind


def stacked(pieces: list[sp.csr_matrix], columns: int) -> sp.csr_matrix:
    """Return pieces, which are used up, one below the other; the most memory is that of the result and a piece."""
    entries = sum(piece.nnz for piece in pieces)
    index_type = np.int32 if max(entries, columns) <= np.iinfo(np.int32).max else np.int64
    counts = [np.diff(piece.indptr) for piece in pieces]
    indptr = np.concatenate([[0], *counts]).cumsum(dtype=index_type)
    data, indices = np.empty(entries, np.float32), np.empty(entries, index_type)
    start = 0
    while pieces:
        piece = pieces.pop(0)
        chunk = slice(start, start + piece.nnz)
        data[chunk], indices[chunk] = piece.data, piece.indices
        start += piece.nnz
    return sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, columns))


def identity(known: np.ndarray) -> sp.csr_matrix:
    """Return the identity matrix, float32, with empty rows for what is not known."""
    indptr = np.concatenate([[0], known.cumsum()])
    ones = np.ones(indptr[-1], np.float32)
    return sp.csr_matrix(
        (ones, np.flatnonzero(known).astype(np.int32), indptr), shape=(len(known), len(known))
    )


def with_empty_row(table: sp.csr_matrix) -> sp.csr_matrix:
    """Return a table with an empty last row, which the number -1 stands for."""
    indptr = np.append(table.indptr, table.indptr[-1])
    return sp.csr_matrix((table.data, table.indices, indptr), shape=(table.shape[0] + 1, table.shape[1]))
