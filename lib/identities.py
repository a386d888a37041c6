"""Customers and videos by number and by id: who is meant in a table of ratings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.errors import DataError

IDS = {"customer": "customer_id", "video": "product_id"}
"""The column of the 0-based numbers, and that of the ids."""


class UnknownWarning(UserWarning):
    """Rows name customers or videos that the design does not know."""


def numbered(frame: pd.DataFrame, number: str, columns: list[str]) -> pd.DataFrame:
    """Return a table in the order of its 0-based numbers, that column and ``columns`` first.

    Raises
    ------
    DataError
        If a column is missing, or the numbers are not 0, 1, 2 and so on.
    """
    for name in [number, *columns]:
        if name not in frame.columns:
            raise DataError(
                f"The table of {number}s has no column {name}; it has {', '.join(map(str, frame.columns))}."
            )
    frame = frame.sort_values(number, ignore_index=True)
    if not np.array_equal(frame[number], np.arange(len(frame))) or frame.empty:
        raise DataError(
            f"The column {number} must hold every number from 0 once.", hint="Take the whole table."
        )
    for name in columns:
        repeated = frame[name].astype(str).duplicated()
        if repeated.any():
            raise DataError(f"The table of {number}s has the {name} {frame[name][repeated].iloc[0]} twice.")
    rest = [name for name in frame.columns if name not in (number, *columns)]
    return frame[[number, *columns, *rest]]


def numbers(ratings: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> dict[str, np.ndarray]:
    """Return the numbers of the customers and the videos of ratings.

    Parameters
    ----------
    ratings : DataFrame
        Columns ``customer`` and ``video`` (0-based numbers, -1 for unknown ones), or else ``customer_id`` and
        ``product_id``.
    tables : mapping of DataFrame
        ``customer`` and ``video``: all of them, from `numbered`.

    Returns
    -------
    dict of int64 array (ratings,)
        ``customer`` and ``video``; -1 for ids that the tables do not have.

    Raises
    ------
    DataError
        If a column is missing, or a number is out of range or none.
    """
    codes = {}
    for owner, id_column in IDS.items():
        count = len(tables[owner])
        if owner in ratings:
            code = ratings[owner].to_numpy()
            if code.dtype.kind not in "iu":
                raise DataError(f"The column {owner} holds {code.dtype}, not numbers from 0.")
            if code.size and (code.min() < -1 or code.max() >= count):
                row = int(((code < -1) | (code >= count)).argmax())
                raise DataError(f"Row {row} has {owner} {code[row]}, outside 0 to {count - 1}.")
            codes[owner] = code.astype(np.int64)
        elif id_column in ratings:
            ids = pd.Index(tables[owner][id_column].astype(str))
            codes[owner] = ids.get_indexer(pd.Index(ratings[id_column].astype(str))).astype(np.int64)
        else:
            there = ", ".join(map(str, ratings.columns))
            raise DataError(f"The ratings have no column {owner} or {id_column}; there are {there}.")
    return codes


def warn_of_unknown(codes: Mapping[str, np.ndarray]) -> None:
    """Warn of rows whose customer or video has the number -1, if there are any."""
    unknown = {owner: int((code < 0).sum()) for owner, code in codes.items()}
    if not any(unknown.values()):
        return
    told = " and ".join(f"{count:,} a {owner}" for owner, count in unknown.items() if count)
    warnings.warn(
        f"Of {len(codes['video']):,} rows, {told} that the design does not know: those columns are left empty.",
        UnknownWarning,
        stacklevel=3,
    )
