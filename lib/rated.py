"""What else a customer rated, as columns of the design matrix: the implicit feedback of SVD++.

Each video that a customer has a training rating of says something about their taste, whatever stars they gave it.
In a row of customer u the column of each such video has the value 1/√|N(u)|, N(u) being all of them but the row's own
(Koren 2008, Factorization Meets the Neighborhood; as features of a Factorization Machine: Rendle 2012).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.sparse as sp


def draw(pairs: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """Return up to ``most`` pairs of each customer, drawn by a hash of both numbers and the seed.

    Parameters
    ----------
    pairs : DataFrame
        Columns ``customer`` and ``video``, each pair once; their order does not matter.
    most : int
        0: all.
    seed : int
        Another seed draws others.
    """
    if not most:
        return pairs
    key = pd.util.hash_array(
        (pairs["customer"].to_numpy(np.uint64) << np.uint64(32)) + pairs["video"].to_numpy(np.uint64)
    )
    key = pd.util.hash_array(key ^ np.uint64(seed))
    order = np.lexsort((key, pairs["customer"].to_numpy()))
    pairs = pairs.iloc[order]
    return pairs[pairs.groupby("customer").cumcount() < most]


def incidence(rated: pd.DataFrame, sizes: Mapping[str, int]) -> sp.csr_matrix:
    """Return pairs of customer and video as a matrix of ones, float32 (customers + 1, videos)."""
    ones = np.ones(len(rated), np.float32)
    shape = (sizes["customer"] + 1, sizes["video"])
    incidence = sp.csr_matrix((ones, (rated["customer"], rated["video"])), shape=shape)
    incidence.sort_indices()
    return incidence


def others(rated: sp.csr_matrix, video: np.ndarray) -> sp.csr_matrix:
    """Return what else the customers of some rows rated.

    Parameters
    ----------
    rated : csr_matrix (n, videos)
        A row's entries are what its customer rated.
    video : int array (n,)
        The rows' own videos, which are left out.

    Returns
    -------
    csr_matrix of float32 (n, videos)
        1/√(how many are left) for each.
    """
    counts = np.diff(rated.indptr)
    kept = rated.indices != np.repeat(video, counts)
    row = np.repeat(np.arange(len(counts)), counts)[kept]
    left = np.bincount(row, minlength=len(counts))
    indptr = np.concatenate([[0], left.cumsum()])
    data = (1 / np.sqrt(left[row])).astype(np.float32)
    return sp.csr_matrix((data, rated.indices[kept], indptr), shape=rated.shape)
