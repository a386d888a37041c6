"""Metrics of training jobs: kept as they are logged, asked for by period and statistic, as CloudWatch answers."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from sagemaker_kit import Aws, training_request

from lib import local
from lib.errors import ReelbookError
from lib.local.metrics import DIMENSION, NAMESPACE, Metrics
from lib.local.protocol import AwsError

START = 1_763_856_000  # a multiple of 3,600


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    """Return metrics of ten minutes: the value of second n is n."""
    metrics = Metrics(tmp_path)
    for second in range(600):
        metrics.report("job", "train:rmse:epoch", float(second), START + second)
    yield metrics
    metrics.close()


def statistics(metrics: Metrics, **changes: Any) -> list[dict[str, Any]]:
    params = {
        "Namespace": NAMESPACE,
        "MetricName": "train:rmse:epoch",
        "Dimensions": [{"Name": DIMENSION, "Value": "job"}],
        "StartTime": START,
        "EndTime": START + 600,
        "Period": 60,
        "Statistics": ["Average"],
        **changes,
    }
    found: list[dict[str, Any]] = metrics.call("GetMetricStatistics", params)["Datapoints"]
    return found


def query(name: str, **changes: Any) -> dict[str, Any]:
    metric = {
        "Namespace": NAMESPACE,
        "MetricName": "train:rmse:epoch",
        "Dimensions": [{"Name": DIMENSION, "Value": "job"}],
    }
    return {"Id": name, "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Maximum", **changes}}


def test_each_period_has_its_statistics(metrics: Metrics) -> None:
    names = ["SampleCount", "Average", "Sum", "Minimum", "Maximum"]
    found = statistics(metrics, Statistics=names)
    assert [item["Timestamp"] for item in found] == [START + 60 * minute for minute in range(10)]
    assert found[2] == {
        "Timestamp": START + 120,
        "Unit": "None",
        "SampleCount": 60,
        "Average": 149.5,
        "Sum": 60 * 149.5,
        "Minimum": 120,
        "Maximum": 179,
    }


@pytest.mark.parametrize("period", [1, 5, 10, 20, 30, 60, 300, 3600])
def test_the_samples_of_all_periods_are_all_samples(metrics: Metrics, period: int) -> None:
    found = statistics(metrics, Period=period, Statistics=["SampleCount", "Sum"])
    assert sum(item["SampleCount"] for item in found) == 600
    assert sum(item["Sum"] for item in found) == sum(range(600))
    assert all(item["Timestamp"] % period == 0 for item in found)


def test_the_end_is_exclusive_and_the_start_rounded_down_to_a_period(metrics: Metrics) -> None:
    found = statistics(metrics, StartTime=START + 90, EndTime=START + 180, Statistics=["Minimum", "Maximum"])
    assert [(item["Minimum"], item["Maximum"]) for item in found] == [(60, 119), (120, 179)]


def test_values_of_one_second_are_counted_together(metrics: Metrics) -> None:
    for value in (1.0, 2.0, 6.0):
        metrics.report("quick", "train:mse:epoch", value, START + 0.25 * value)
    asked = {"MetricName": "train:mse:epoch", "Dimensions": [{"Name": DIMENSION, "Value": "quick"}]}
    names = ["SampleCount", "Average", "Minimum", "Maximum"]
    first, second = statistics(metrics, **asked, Period=1, Statistics=names)
    assert (first["SampleCount"], first["Average"], first["Maximum"]) == (2, 1.5, 2.0)
    assert (second["SampleCount"], second["Minimum"]) == (1, 6.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"Namespace": "AWS/EC2"},
        {"MetricName": "train:mse"},
        {"Dimensions": [{"Name": DIMENSION, "Value": "nobody"}]},
        {"Dimensions": [{"Name": "Host", "Value": "job"}]},
        {"Dimensions": []},
        {"Unit": "Seconds"},
        {"StartTime": 0, "EndTime": 60},
    ],
)
def test_what_nobody_reported_has_no_datapoints(metrics: Metrics, changes: dict[str, Any]) -> None:
    assert statistics(metrics, **changes) == []


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"EndTime": START}, "InvalidParameterValue", "StartTime must be less than the parameter EndTime"),
        ({"Period": 61}, "InvalidParameterValue", "a multiple of 60"),
        ({"Statistics": []}, "InvalidParameterCombination", "At least one of the parameters"),
        ({"ExtendedStatistics": ["p99"]}, "InvalidParameterValue", "no ExtendedStatistics"),
        ({"Period": 1, "EndTime": START + 1441}, "InvalidParameterCombination", "exceeds the limit of 1,440"),
    ],
)
def test_wrong_questions_are_refused(metrics: Metrics, changes: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(AwsError, match=text) as caught:
        statistics(metrics, **changes)
    assert caught.value.code == code


def test_metric_data_come_newest_first_and_in_pages(metrics: Metrics) -> None:
    asked = {
        "MetricDataQueries": [query("a"), query("b", Stat="Sum")],
        "StartTime": START,
        "EndTime": START + 600,
    }
    whole = metrics.call("GetMetricData", asked)
    assert "NextToken" not in whole
    first, second = whole["MetricDataResults"]
    assert first["Timestamps"] == [START + 60 * minute for minute in range(9, -1, -1)]
    assert (first["Values"][0], first["StatusCode"], second["Id"]) == (599, "Complete", "b")
    upwards = metrics.call("GetMetricData", {**asked, "ScanBy": "TimestampAscending"})
    assert upwards["MetricDataResults"][0]["Values"] == first["Values"][::-1]

    values, token, pages = [], None, 0
    while True:
        page = {"NextToken": token} if token else {}
        answer = metrics.call("GetMetricData", {**asked, **page, "MaxDatapoints": 8})
        values += answer["MetricDataResults"][0]["Values"]
        pages += 1
        token = answer.get("NextToken")
        if not token:
            break
    assert values == first["Values"]
    assert pages == math.ceil(10 / 4)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"MetricDataQueries": [{"Id": "m", "Expression": "a * 2"}]}, "no metric math"),
        ({"MetricDataQueries": [query("m", Stat="p90")]}, "p90 for parameter MetricStat.Stat"),
        ({"MetricDataQueries": [query("m"), query("m")]}, "not unique"),
        ({"NextToken": "x"}, "NextToken is invalid"),
        ({"NextToken": "LTE="}, "NextToken is invalid"),  # -1
    ],
)
def test_wrong_queries_are_refused(metrics: Metrics, changes: dict[str, Any], text: str) -> None:
    asked = {"MetricDataQueries": [query("m")], "StartTime": START, "EndTime": START + 600}
    with pytest.raises(AwsError, match=text):
        metrics.call("GetMetricData", {**asked, **changes})


def test_metrics_are_listed_in_pages(metrics: Metrics) -> None:
    for number in range(600):
        metrics.report(f"job-{number:03d}", "test:rmse", 1.0, time.time())
    names, token = [], None
    while True:
        answer = metrics.call(
            "ListMetrics", {"MetricName": "test:rmse", **({"NextToken": token} if token else {})}
        )
        names += [item["Dimensions"][0]["Value"] for item in answer["Metrics"]]
        token = answer.get("NextToken")
        if not token:
            break
    assert names == [f"job-{number:03d}" for number in range(600)]
    one = {"Dimensions": [{"Name": DIMENSION, "Value": "job"}]}
    assert [item["MetricName"] for item in metrics.call("ListMetrics", one)["Metrics"]] == [
        "train:rmse:epoch"
    ]
    assert metrics.call("ListMetrics", {**one, "RecentlyActive": "PT3H"})["Metrics"] == []
    assert metrics.call("ListMetrics", {"Namespace": "AWS/EC2"})["Metrics"] == []
    assert metrics.call("ListMetrics", {"Dimensions": [{"Name": "Host"}]})["Metrics"] == []


def test_metrics_survive_a_restart_and_damage_is_said(tmp_path: Path) -> None:
    first = Metrics(tmp_path)
    first.report("job", "test:rmse", 1.5, time.time())
    first.close()
    second = Metrics(tmp_path)
    assert len(second.call("ListMetrics", {})["Metrics"]) == 1
    second.close()
    (tmp_path / "metrics.sqlite").write_bytes(b"no database at all " * 500)
    with pytest.raises(ReelbookError, match=r"cannot read its metrics .*metrics\.sqlite"):
        Metrics(tmp_path)


def test_a_training_job_s_metrics_are_those_of_its_log(tmp_path: Path) -> None:
    with Aws(tmp_path) as aws:
        aws.put_ratings()
        aws.call("CreateTrainingJob", **training_request("measured"))
        final = {
            item["MetricName"]: item["Value"]
            for item in aws.wait("TrainingJob", "measured")["FinalMetricDataList"]
        }
        dimensions = [{"Name": DIMENSION, "Value": "measured"}]
        listed = aws.metrics.call("ListMetrics", {"Dimensions": dimensions})["Metrics"]
        assert {item["MetricName"] for item in listed} == set(final)
        asked = {
            "Namespace": NAMESPACE,
            "MetricName": "train:rmse:epoch",
            "Dimensions": dimensions,
            "StartTime": time.time() - 3600,
            "EndTime": time.time() + 60,
            "Period": 7200,
            "Statistics": ["SampleCount", "Minimum"],
        }
        found = aws.metrics.call("GetMetricStatistics", asked)["Datapoints"]
        assert sum(item["SampleCount"] for item in found) == 3  # epochs
        assert min(item["Minimum"] for item in found) == pytest.approx(final["train:rmse:epoch"])


# ---- by boto3


def test_boto3_is_answered_and_refused(local_aws: local.Server) -> None:
    client = boto3.client("cloudwatch")
    assert client.list_metrics(Namespace="AWS/EC2")["Metrics"] == []
    now = dt.datetime.now(dt.UTC)
    asked = {
        "Namespace": NAMESPACE,
        "MetricName": "test:rmse",
        "StartTime": now - dt.timedelta(minutes=5),
        "EndTime": now,
        "Period": 60,
        "Statistics": ["Average"],
    }
    assert client.get_metric_statistics(**asked)["Datapoints"] == []
    with pytest.raises(
        client.exceptions.InvalidParameterValueException, match="less than the parameter EndTime"
    ):
        client.get_metric_statistics(**{**asked, "EndTime": asked["StartTime"]})
    with pytest.raises(ClientError, match="not implemented by the local AWS"):
        client.put_metric_data(Namespace="mine", MetricData=[{"MetricName": "a", "Value": 1.0}])
