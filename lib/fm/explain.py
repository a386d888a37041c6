"""Why a model says what it says: the terms that add up to the output of one row.

A Factorization Machine's output is a sum of one term a feature and one a pair of features ::

    y(x) = w0 + Σ_i w_i x_i + Σ_{i<j} ⟨v_i, v_j⟩ x_i x_j

so it needs no approximation to be explained: the terms are the explanation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from lib.errors import ParameterError
from lib.fm.matrices import all_finite, as_csr, in_words
from lib.fm.names import Names, is_number

if TYPE_CHECKING:
    import pandas as pd

    from lib.fm.model import Model


@dataclass(frozen=True, eq=False)
class Explanation:
    """The terms of one row's output.  Made by `Model.explain`.

    Attributes
    ----------
    output : float
        The raw output: the sum of all terms.
    score : float
        What `Model.predict` returns of the row: the output, or of a classifier the logistic function of it.
    table : DataFrame
        One row a term, the largest first; ``contribution`` sums to ``output``.  Columns ``term`` (bias, linear,
        pair, or others: the sum of those that were cut off), ``feature`` and of a pair ``with_feature`` (numbers,
        or names where they were given; empty where there is none), ``contribution``.
    features : DataFrame
        One row a feature of the row, the largest first; columns ``feature``, ``value``, ``linear``, ``pairs`` (half of
        each pair that the feature is in), ``contribution`` (both).  The contributions and the bias sum to ``output``.
    """

    output: float
    score: float
    table: pd.DataFrame
    features: pd.DataFrame

    def __str__(self) -> str:
        return f"output {self.output:.6g}, score {self.score:.6g}\n{self.table.to_string(index=False)}"


def explain(model: Model, row: Any, names: Sequence[Any] | None, n: int | None) -> Explanation:
    """Return the terms of a row's output; see `Model.explain`."""
    import pandas as pd

    if n is not None and not (is_number(n) and n >= 1):
        raise ParameterError(f"An explanation has a whole number of terms, 1 or more, not {n!r}.")
    known = Names(model.feature_dim, names)
    features, values = one_row(row, known)
    vectors = model.factors[features].astype(np.float64) * values[:, None]
    linear = model.linear[features].astype(np.float64) * values
    products = vectors @ vectors.T
    np.fill_diagonal(products, 0)
    first, second = np.triu_indices(len(features), 1)
    kinds = np.repeat(["bias", "linear", "pair"], [1, len(features), len(first)]).astype(object)
    ones = np.concatenate([[-1], np.arange(len(features)), first])
    others = np.concatenate([np.full(1 + len(features), -1), second])
    contributions = np.concatenate([[model.bias], linear, products[first, second]])
    output = float(contributions.sum())

    order = np.argsort(-np.abs(contributions), kind="stable")
    shown, cut = (order, order[:0]) if n is None else (order[:n], order[n:])
    labels = np.append(known.at(features), "")  # the place -1 is for no feature
    columns = {
        "term": kinds[shown],
        "feature": labels[ones[shown]],
        "with_feature": labels[others[shown]],
        "contribution": contributions[shown],
    }
    if len(cut):
        rest = ("others", "", "", contributions[cut].sum())
        columns = {
            name: np.append(column, last) for (name, column), last in zip(columns.items(), rest, strict=True)
        }
    pairs = products.sum(axis=1) / 2
    by_feature = pd.DataFrame(
        {
            "feature": labels[:-1],
            "value": values,
            "linear": linear,
            "pairs": pairs,
            "contribution": linear + pairs,
        }
    )
    largest = np.argsort(-np.abs(by_feature["contribution"].to_numpy()), kind="stable")
    score = output
    if model.classifier:
        score = float(np.exp(-np.logaddexp(0, -output)))
    return Explanation(output, score, pd.DataFrame(columns), by_feature.iloc[largest].reset_index(drop=True))


def one_row(row: Any, names: Names) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of one example, int64 (m,), and their values, float64 (m,), none of them 0.

    Parameters
    ----------
    row : mapping, array of shape (d,), or matrix of shape (1, d)
        Features by number or name with their values, or one row of examples.
    names : Names
        Of the d features.

    Raises
    ------
    ParameterError
        A feature that there is not, or more rows than one.
    ModelError, ArrayError
        A row that does not fit the model.
    """
    if isinstance(row, Mapping):
        features = np.array([names.position(feature) for feature in row], np.int64)
        try:
            values = np.array([float(value) for value in row.values()], np.float64)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"The values of a row are numbers, but these are not: {error}.") from None
        if not all_finite(values):
            feature, value = next((f, v) for f, v in row.items() if not all_finite(np.array([float(v)])))
            raise ParameterError(
                f"The value of feature {feature!r} is no finite number, but {in_words(value)}."
            )
        row = sparse.csr_matrix((values, (np.zeros_like(features), features)), shape=(1, names.total))
    elif not sparse.issparse(row) and np.ndim(row) == 1:
        row = np.asarray(row)[None]
    row = as_csr(row, names.total)
    if row.shape[0] != 1:
        raise ParameterError(
            f"One row is wanted here, not {row.shape[0]}.", hint="Take one of them: X[[number]]."
        )
    stored = row.data != 0
    return row.indices[stored].astype(np.int64), row.data[stored].astype(np.float64)
