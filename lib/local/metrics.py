"""CloudWatch's metrics: what training jobs log, a value a second, asked for by period and statistic.

A metric is kept as count, sum, minimum and maximum of each second, so that what a job leaves grows with its time
and not with its epochs.  A kill of the server may cost the values of its last second.  (AWS: "Monitor and Analyze
Training Jobs Using Amazon CloudWatch Metrics", CloudWatch API reference.)
"""

from __future__ import annotations

import base64
import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import ReelbookError
from lib.local.protocol import AwsError

NAMESPACE = "/aws/sagemaker/TrainingJobs"
DIMENSION = "TrainingJobName"

_KEPT_SECONDS = 455 * 24 * 3600  # as long as CloudWatch keeps them
_RECENT_SECONDS = 3 * 3600
_SHORT_PERIODS = (1, 5, 10, 20, 30)
_MOST_DATAPOINTS = 1_440
_MOST_DATA_AT_ONCE = 100_800
_PAGE = 500
_STATISTICS = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS seconds (
    job TEXT NOT NULL, metric TEXT NOT NULL, second INTEGER NOT NULL,
    count INTEGER NOT NULL, sum REAL NOT NULL, minimum REAL NOT NULL, maximum REAL NOT NULL,
    PRIMARY KEY (job, metric, second)
) WITHOUT ROWID;
"""
_ADD = """
INSERT INTO seconds VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    count = count + excluded.count, sum = sum + excluded.sum,
    minimum = min(minimum, excluded.minimum), maximum = max(maximum, excluded.maximum)
"""


@dataclass(frozen=True)
class _Period:
    """What a job's metric came to in one period, which starts at ``start`` seconds since 1970."""

    start: int
    count: int
    sum: float
    minimum: float
    maximum: float

    def statistic(self, name: str) -> float:
        values = {
            "SampleCount": float(self.count),
            "Average": self.sum / self.count,
            "Sum": self.sum,
            "Minimum": self.minimum,
            "Maximum": self.maximum,
        }
        return values[name]


class Metrics:
    """The metrics of training jobs; safe to use from any thread.

    Parameters
    ----------
    root : Path
        The folder of the local AWS's state.

    Raises
    ------
    ReelbookError
        When the file of metrics cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self._lock = threading.Lock()
        self._second = 0
        self._latest: dict[tuple[str, str, int], list[float]] = {}  # count, sum, minimum, maximum of a second
        path = Path(root) / "metrics.sqlite"
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last seconds
            self._database.executescript(_SCHEMA)
            self._database.execute("DELETE FROM seconds WHERE second < ?", (time.time() - _KEPT_SECONDS,))
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ReelbookError(
                f"The local AWS cannot read its metrics {path}: {error}.",
                hint="Delete that file, or say `python run_all.py local reset` to start afresh.",
            ) from None
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "GetMetricData": self._get_metric_data,
            "GetMetricStatistics": self._get_metric_statistics,
            "ListMetrics": self._list_metrics,
        }

    @property
    def operations(self) -> list[str]:
        """The names of the operations there are."""
        return sorted(self._operations)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._flush()
            self._database.close()

    def report(self, job: str, metric: str, value: float, timestamp: float) -> None:
        """Keep a value that a training job has logged.

        Parameters
        ----------
        timestamp : float
            Seconds since 1970.
        """
        second = int(timestamp)
        with self._lock:
            if second != self._second:
                self._flush()
                self._second = second
            known = self._latest.get((job, metric, second))
            if known is None:
                self._latest[job, metric, second] = [1, value, value, value]
            else:
                known[0] += 1
                known[1] += value
                known[2] = min(known[2], value)
                known[3] = max(known[3], value)

    def _flush(self) -> None:
        """Put what came within the last second into the file: a quick training logs thousands of values in it."""
        rows = [(*key, *values) for key, values in self._latest.items()]
        self._latest.clear()
        try:
            with self._database:
                self._database.execute("BEGIN")
                self._database.executemany(_ADD, rows)
        except (
            sqlite3.Error
        ):  # a full disk must not end the training; its last metrics are in its description
            return

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        with self._lock:
            self._flush()
            return self._database.execute(query, values).fetchall()

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Answer one operation of CloudWatch; ``params`` and the answer have the API's members.

        Raises
        ------
        AwsError
            InvalidParameterValue, InvalidParameterCombination, MissingParameter, InvalidNextToken, or
            UnknownOperationException for an operation that the local AWS does not have.
        """
        handler = self._operations.get(operation)
        if handler is None:
            text = f"{operation} is not implemented by the local AWS."
            raise AwsError("UnknownOperationException", text, status=501)
        return handler(params)

    # ---- operations

    def _get_metric_statistics(self, params: dict[str, Any]) -> dict[str, Any]:
        statistics = params.get("Statistics", [])
        if params.get("ExtendedStatistics"):
            raise AwsError("InvalidParameterValue", "The local AWS has no ExtendedStatistics (percentiles).")
        if not statistics:
            text = "At least one of the parameters Statistics and ExtendedStatistics must be specified."
            raise AwsError("InvalidParameterCombination", text)
        start, end, period = params["StartTime"], params["EndTime"], params["Period"]
        _check_times(start, end)
        _check_period(period)
        asked = (math.ceil(end) - math.floor(start)) / period
        if asked > _MOST_DATAPOINTS:
            raise AwsError(
                "InvalidParameterCombination",
                f"You have requested up to {math.ceil(asked):,} datapoints, which exceeds the limit of "
                f"{_MOST_DATAPOINTS:,}. You may reduce the datapoints requested by increasing Period, or "
                "decreasing the time range.",
            )
        found = self._periods(params, start, end, period) if params.get("Unit", "None") == "None" else []
        datapoints = [
            {
                "Timestamp": item.start,
                "Unit": "None",
                **{name: item.statistic(name) for name in _STATISTICS if name in statistics},
            }
            for item in found
        ]
        return {"Label": params["MetricName"], "Datapoints": datapoints}

    def _get_metric_data(self, params: dict[str, Any]) -> dict[str, Any]:
        _check_times(params["StartTime"], params["EndTime"])
        queries = params["MetricDataQueries"]
        ids = [query["Id"] for query in queries]
        if len(set(ids)) < len(ids):
            raise AwsError(
                "ValidationError", "The values for parameter id in MetricDataQueries are not unique."
            )
        newest_first = params.get("ScanBy", "TimestampDescending") == "TimestampDescending"
        most = min(params.get("MaxDatapoints", _MOST_DATA_AT_ONCE), _MOST_DATA_AT_ONCE)
        each = max(1, most // max(1, len(queries)))
        skipped = _read_token(params.get("NextToken"), int) or 0
        results, more = [], False
        for query in queries:
            stat = _metric_stat(query)
            found = list(
                self._periods(stat["Metric"], params["StartTime"], params["EndTime"], stat["Period"])
            )
            if newest_first:
                found.reverse()
            page = found[skipped : skipped + each]
            more = more or skipped + each < len(found)
            if query.get("ReturnData", True):
                results.append(
                    {
                        "Id": query["Id"],
                        "Label": query.get("Label", stat["Metric"].get("MetricName", "")),
                        "Timestamps": [item.start for item in page],
                        "Values": [item.statistic(stat["Stat"]) for item in page],
                        "StatusCode": "PartialData" if skipped + each < len(found) else "Complete",
                    }
                )
        token = {"NextToken": _make_token(skipped + each)} if more else {}
        return {"MetricDataResults": results, "Messages": [], **token}

    def _list_metrics(self, params: dict[str, Any]) -> dict[str, Any]:
        conditions, values = ["1"], []
        if params.get("Namespace", NAMESPACE) != NAMESPACE:
            return {"Metrics": []}
        if "MetricName" in params:
            conditions.append("metric = ?")
            values.append(params["MetricName"])
        for dimension in params.get("Dimensions", []):
            if dimension["Name"] != DIMENSION:
                return {"Metrics": []}
            if "Value" in dimension:
                conditions.append("job = ?")
                values.append(dimension["Value"])
        if params.get("RecentlyActive"):
            conditions.append("second >= ?")
            values.append(time.time() - _RECENT_SECONDS)
        after = _read_token(params.get("NextToken"), list)
        if after is not None:
            conditions.append("(job, metric) > (?, ?)")
            values += [str(item) for item in [*after, "", ""][:2]]
        query = (
            f"SELECT DISTINCT job, metric FROM seconds WHERE {' AND '.join(conditions)} ORDER BY job, metric"
        )
        rows = self._rows(f"{query} LIMIT {_PAGE + 1}", values)
        metrics = [
            {
                "Namespace": NAMESPACE,
                "MetricName": metric,
                "Dimensions": [{"Name": DIMENSION, "Value": job}],
            }
            for job, metric in rows[:_PAGE]
        ]
        token = {"NextToken": _make_token(list(rows[_PAGE - 1]))} if len(rows) > _PAGE else {}
        return {"Metrics": metrics, **token}

    def _periods(self, metric: dict[str, Any], start: float, end: float, period: int) -> Iterable[_Period]:
        """Yield what a metric came to in each period from start (inclusive) to end, oldest first."""
        dimensions = [(item["Name"], item["Value"]) for item in metric.get("Dimensions", [])]
        if metric.get("Namespace") != NAMESPACE or [name for name, _ in dimensions] != [DIMENSION]:
            return []
        query = """
            SELECT second / ?1 * ?1, sum(count), sum(sum), min(minimum), max(maximum) FROM seconds
            WHERE job = ?2 AND metric = ?3 AND second >= ?4 AND second < ?5 GROUP BY second / ?1 ORDER BY second
        """
        first = math.floor(start) // period * period
        values = (period, dimensions[0][1], metric.get("MetricName"), first, end)
        return [_Period(*row) for row in self._rows(query, values)]


def _check_times(start: float, end: float) -> None:
    if start >= end:
        text = "The parameter StartTime must be less than the parameter EndTime."
        raise AwsError("InvalidParameterValue", text)


def _check_period(period: int) -> None:
    if period not in _SHORT_PERIODS and period % 60:
        raise AwsError(
            "InvalidParameterValue",
            "The parameter Period must be 1, 5, 10, 20, 30 or a multiple of 60.",
        )


def _metric_stat(query: dict[str, Any]) -> dict[str, Any]:
    stat = query.get("MetricStat")
    if query.get("Expression") or not stat:
        raise AwsError(
            "ValidationError",
            f"The query {query['Id']} needs a MetricStat: the local AWS has no metric math (Expression).",
        )
    if stat["Stat"] not in _STATISTICS:
        text = f"The value {stat['Stat']} for parameter MetricStat.Stat is not supported: {', '.join(_STATISTICS)}."
        raise AwsError("ValidationError", text)
    _check_period(stat["Period"])
    return dict(stat)


def _make_token(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def _read_token(token: str | None, wanted: type) -> Any:
    if not token:
        return None
    try:
        value = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, wanted) or (isinstance(value, int) and value < 0):
        raise AwsError("InvalidNextToken", "The NextToken is invalid.")
    return value
