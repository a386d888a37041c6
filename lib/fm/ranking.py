"""What goes best with an example, and what is like what: a model's output taken apart into two halves.

The features of an example fall into two parts, say a customer's and a video's: ``x = a + b``, no feature in both.
Each part brings something by itself, ``own(a) = y(a) - w0``, and a vector ``s(a) = Σ_i v_i a_i``; then ::

    y(a + b) = w0 + own(a) + own(b) + ⟨s(a), s(b)⟩

exactly.  So all candidates are scored for one example by one product of a matrix and a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from lib.errors import ParameterError
from lib.fm.explain import one_row
from lib.fm.matrices import as_csr
from lib.fm.names import Names

if TYPE_CHECKING:
    import pandas as pd

    from lib.fm.model import Model


@dataclass(frozen=True, eq=False)
class Parts:
    """Parts of examples.

    Attributes
    ----------
    numbers : int array, shape (n,)
        The features that they consist of, or the rows of the matrix that they came as.
    own : float32 array, shape (n,)
        What each brings by itself, without the bias.
    vectors : float32 array, shape (n, k)
        The sum of each one's vectors.
    features : int array
        The features in them.
    total : int
        How many such numbers there are.
    what : str
        What the numbers are of: ``feature`` or ``row``.
    """

    numbers: np.ndarray
    own: np.ndarray
    vectors: np.ndarray
    features: np.ndarray
    total: int
    what: str = "feature"


def parts(model: Model, what: Any) -> Parts:
    """Return parts of examples: single features of value 1, or the rows of a matrix.

    Parameters
    ----------
    model : Model
        Gives weights and vectors.
    what : slice, range, ints, matrix of shape (n, d), or None
        Features by number; or rows of any features and values; None is all features.

    Raises
    ------
    ParameterError
        A feature that there is not.
    ModelError, ArrayError
        A matrix that does not fit the model.
    """
    d = model.feature_dim
    if sparse.issparse(what) or getattr(what, "ndim", 1) == 2 or _nested(what):
        X = as_csr(what, d)
        own = model.outputs(X) - np.float32(model.bias)
        rows = np.arange(X.shape[0])
        return Parts(rows, own, X @ model.factors, np.unique(X.indices), X.shape[0], "row")
    if what is None:
        what = slice(None)
    if isinstance(what, range) and what.step == 1 and 0 <= what.start <= what.stop:
        if what.stop > d:
            raise ParameterError(f"There is no feature {what.stop - 1}: the model has {d}, numbered from 0.")
        what = slice(what.start, what.stop)
    if isinstance(what, slice):
        numbers = np.arange(d)[what]
        return Parts(numbers, model.linear[what], model.factors[what], numbers, d)
    try:
        numbers = np.asarray(what if isinstance(what, np.ndarray) else list(what))
    except (TypeError, ValueError):
        numbers = np.zeros((0, 0), np.int64)
    if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
        raise ParameterError("Features are given by number: a slice, a range, or whole numbers.")
    numbers = numbers.astype(np.int64)
    outside = (numbers < 0) | (numbers >= d)
    if outside.any():
        raise ParameterError(
            f"There is no feature {numbers[outside][0]}: the model has {d}, numbered from 0."
        )
    return Parts(numbers, model.linear[numbers], model.factors[numbers], numbers, d)


def _nested(what: Any) -> bool:
    """Tell whether it is a sequence of sequences: rows, not numbers."""
    return isinstance(what, (list, tuple)) and any(isinstance(one, (list, tuple, np.ndarray)) for one in what)


def candidate_outputs(model: Model, row: Any, candidates: Parts, names: Names) -> np.ndarray:
    """Return the raw outputs of one row together with each candidate; see `Model.candidate_outputs`."""
    features, values = one_row(row, names)
    kept = ~np.isin(features, candidates.features)
    features, values = features[kept], values[kept]
    context = sparse.csr_matrix((values, features, [0, len(features)]), (1, model.feature_dim), np.float32)
    vector = (context @ model.factors)[0]
    outputs: np.ndarray = model.outputs(context)[0] + candidates.own + candidates.vectors @ vector
    return outputs


def recommend(
    model: Model,
    row: Any,
    candidates: Any,
    n: int,
    exclude: Iterable[Any],
    names: Sequence[Any] | None,
) -> pd.DataFrame:
    """Return the candidates of the highest scores together with a row; see `Model.recommend`."""
    chosen = parts(model, candidates)
    known = Names(chosen.total, names, chosen.numbers, what=chosen.what)
    of_row = Names(
        model.feature_dim, names if names is not None and len(names) == model.feature_dim else None
    )
    scores = model.scores_of(candidate_outputs(model, row, chosen, of_row))
    return _ranked(known, chosen, scores, "score", n, ~known.among(exclude))


def similar(model: Model, item: Any, items: Any, n: int, names: Sequence[Any] | None) -> pd.DataFrame:
    """Return the items whose vectors point most nearly in the same direction; see `Model.similar_items`."""
    chosen = parts(model, items)
    known = Names(chosen.total, names, chosen.numbers, what=chosen.what)
    position = known.position(item)
    vectors = chosen.vectors
    lengths = np.linalg.norm(vectors, axis=1)
    products = vectors @ vectors[position]
    cosines = products / np.maximum(lengths * lengths[position], np.finfo(np.float32).tiny)
    others = np.arange(len(cosines)) != position
    return _ranked(known, chosen, np.clip(cosines, -1, 1), "similarity", n, others)


def _ranked(
    names: Names, of: Parts, scores: np.ndarray, called: str, n: int, considered: np.ndarray
) -> pd.DataFrame:
    """Return the n highest of the scores that are considered; equal ones in their order."""
    import pandas as pd

    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ParameterError(f"n must be a whole number of 1 or more, not {n!r}.")
    places = np.flatnonzero(considered)
    if n < len(places):  # sort only those that can be among the n highest
        lowest = np.partition(scores[places], len(places) - n)[len(places) - n]
        places = places[scores[places] >= lowest]
    places = places[np.argsort(-scores[places], kind="stable")[:n]]
    columns = {of.what: of.numbers[places]}
    if names.given:
        columns["name"] = names.at(places)
    columns[called] = scores[places]
    return pd.DataFrame(columns, index=pd.RangeIndex(1, len(places) + 1, name="rank"))
