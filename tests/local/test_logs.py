"""CloudWatch Logs: what a job writes is read back, page by page, as it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lib.local.logs import MAX_MESSAGE_BYTES, Logs
from lib.local.protocol import AwsError

GROUP = "/aws/sagemaker/TrainingJobs"


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


def write(logs: Logs, stream: str, lines: list[str], start: float = 1000.0) -> None:
    with logs.open_stream(GROUP, stream) as log:
        for number, line in enumerate(lines):
            log.write(line, timestamp=start + number)


def get(logs: Logs, stream: str, **params: Any) -> tuple[list[str], str, str]:
    request = {"logGroupName": GROUP, "logStreamName": stream, **params}
    answer = logs.call("GetLogEvents", request)
    messages = [event["message"] for event in answer["events"]]
    return messages, answer["nextForwardToken"], answer["nextBackwardToken"]


def find(logs: Logs, **params: Any) -> list[str]:
    """Return all messages that FilterLogEvents finds, following its tokens."""
    messages: list[str] = []
    token: dict[str, str] = {}
    while True:
        answer = logs.call("FilterLogEvents", {"logGroupName": GROUP, **params, **token})
        messages += [event["message"] for event in answer["events"]]
        if "nextToken" not in answer:
            return messages
        token = {"nextToken": answer["nextToken"]}


def test_what_is_written_is_read_in_order_with_its_times(logs: Logs) -> None:
    write(logs, "job/algo-1-1", ["first", "zweite Zeile: ä", "third"])
    answer = logs.call(
        "GetLogEvents", {"logGroupName": GROUP, "logStreamName": "job/algo-1-1", "startFromHead": True}
    )
    assert [(event["timestamp"], event["message"]) for event in answer["events"]] == [
        (1_000_000, "first"),
        (1_001_000, "zweite Zeile: ä"),
        (1_002_000, "third"),
    ]


def test_a_reader_sees_a_line_as_soon_as_it_is_written(logs: Logs) -> None:
    log = logs.open_stream(GROUP, "job/algo-1-1")
    token: dict[str, str] = {}
    for number in range(3):
        log.write(f"line {number}")
        messages, forward, _ = get(logs, "job/algo-1-1", startFromHead=True, **token)
        assert messages == [f"line {number}"]
        token = {"nextToken": forward}
    log.close()
    assert get(logs, "job/algo-1-1", **token) == (
        [],
        token["nextToken"],
        token["nextToken"].replace("f", "b"),
    )


def test_an_unfinished_line_is_not_read(logs: Logs, tmp_path: Path) -> None:
    write(logs, "job/algo-1-1", ["whole"])
    (file,) = (tmp_path / "logs").rglob("*algo*")
    with file.open("ab") as raw:
        raw.write(b"1000000\thal")
    assert get(logs, "job/algo-1-1", startFromHead=True)[0] == ["whole"]


def test_pages_forward_and_backward_cover_the_stream(logs: Logs) -> None:
    lines = [f"line {number}" for number in range(25)]
    write(logs, "job/algo-1-1", lines)
    forward: list[str] = []
    page, token, _ = get(logs, "job/algo-1-1", startFromHead=True, limit=10)
    while page:
        forward += page
        page, token, _ = get(logs, "job/algo-1-1", nextToken=token, limit=10)
    backward: list[str] = []
    page, _, token = get(logs, "job/algo-1-1", limit=10)
    assert page == lines[-10:]
    while page:
        backward = page + backward
        page, _, token = get(logs, "job/algo-1-1", nextToken=token, limit=10)
    assert forward == backward == lines


def test_an_answer_stays_below_a_megabyte(logs: Logs) -> None:
    write(logs, "job/algo-1-1", ["x" * 200_000] * 10)
    page, token, _ = get(logs, "job/algo-1-1", startFromHead=True)
    assert len(page) == 5
    assert len(get(logs, "job/algo-1-1", nextToken=token)[0]) == 5


def test_lines_that_are_too_long_are_cut_and_empty_ones_left_out(logs: Logs) -> None:
    write(logs, "job/algo-1-1", ["a" * (MAX_MESSAGE_BYTES + 1), "", "two\rlines"])
    messages, _, _ = get(logs, "job/algo-1-1", startFromHead=True)
    assert [len(message) for message in messages[:2]] == [MAX_MESSAGE_BYTES, 1]
    assert messages[2:] == ["two", "lines"]


def test_times_of_a_stream_never_run_backwards(logs: Logs) -> None:
    with logs.open_stream(GROUP, "job/algo-1-1") as log:
        log.write("now", timestamp=2000)
        log.write("the clock was set back", timestamp=1000)
    answer = logs.call("FilterLogEvents", {"logGroupName": GROUP})
    assert [event["timestamp"] for event in answer["events"]] == [2_000_000, 2_000_000]


def test_start_and_end_time_limit_what_is_read(logs: Logs) -> None:
    write(logs, "job/algo-1-1", ["a", "b", "c"])
    window = {"startTime": 1_001_000, "endTime": 1_002_000}
    assert get(logs, "job/algo-1-1", startFromHead=True, **window)[0] == ["b"]
    assert find(logs, **window) == ["b", "c"]


def test_streams_are_listed_by_prefix_a_page_at_a_time(logs: Logs) -> None:
    for number in range(7):
        write(logs, f"job/algo-1-{number}", ["x", "y"], start=1000 - number)
    write(logs, "other/algo-1-1", ["x"])
    names: list[str] = []
    token: dict[str, str] = {}
    while True:
        answer = logs.call(
            "DescribeLogStreams",
            {"logGroupName": GROUP, "logStreamNamePrefix": "job/", "limit": 3, **token},
        )
        names += [stream["logStreamName"] for stream in answer["logStreams"]]
        if "nextToken" not in answer:
            break
        token = {"nextToken": answer["nextToken"]}
    assert names == [f"job/algo-1-{number}" for number in range(7)]
    newest = logs.call(
        "DescribeLogStreams", {"logGroupName": GROUP, "orderBy": "LastEventTime", "descending": True}
    )["logStreams"]
    assert newest[0]["logStreamName"] == "job/algo-1-0"
    assert (newest[0]["firstEventTimestamp"], newest[0]["lastEventTimestamp"]) == (1_000_000, 1_001_000)


def test_groups_are_listed(logs: Logs) -> None:
    write(logs, "job/algo-1-1", ["x"])
    logs.open_stream("/aws/sagemaker/TransformJobs", "job/i-1").close()
    answer = logs.call("DescribeLogGroups", {})
    assert [group["logGroupName"] for group in answer["logGroups"]] == [
        "/aws/sagemaker/TrainingJobs",
        "/aws/sagemaker/TransformJobs",
    ]
    answer = logs.call("DescribeLogGroups", {"logGroupNamePrefix": "/aws/sagemaker/Tra", "limit": 1})
    assert len(answer["logGroups"]) == 1
    assert "nextToken" in answer


def test_events_of_all_streams_are_merged_by_time_page_by_page(logs: Logs) -> None:
    write(logs, "job/algo-1-1", ["a", "c", "e"], start=1000)
    write(logs, "job/algo-2-1", ["b", "d", "f"], start=1000.5)
    assert find(logs, logStreamNamePrefix="job/") == list("abcdef")
    assert find(logs, limit=2) == list("abcdef")
    assert find(logs, logStreamNames=["job/algo-2-1"]) == list("bdf")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("rmse", ["train rmse 1.5", "test rmse 1.6"]),
        ("train rmse", ["train rmse 1.5"]),
        ('"rmse 1.6"', ["test rmse 1.6"]),
        ("rmse -train", ["test rmse 1.6"]),
        ("?mse ?1.5", ["train rmse 1.5", "test rmse 1.6"]),
        ("nothing", []),
    ],
)
def test_filter_patterns_of_terms(logs: Logs, pattern: str, found: list[str]) -> None:
    write(logs, "job/algo-1-1", ["train rmse 1.5", "test rmse 1.6", "done"])
    assert find(logs, filterPattern=pattern) == found


@pytest.mark.parametrize(
    ("operation", "params", "code"),
    [
        ("DescribeLogStreams", {"logGroupName": "/aws/none"}, "ResourceNotFoundException"),
        ("DescribeLogStreams", {"logGroupName": ".."}, "ResourceNotFoundException"),
        ("GetLogEvents", {"logStreamName": "none"}, "ResourceNotFoundException"),
        ("GetLogEvents", {"logStreamName": "../../secret"}, "ResourceNotFoundException"),
        ("GetLogEvents", {"logStreamName": "x" * 512}, "ResourceNotFoundException"),
        ("GetLogEvents", {"logStreamName": "job", "nextToken": "17"}, "InvalidParameterException"),
        ("GetLogEvents", {"logStreamName": "job", "nextToken": "f/1"}, "InvalidParameterException"),
        ("GetLogEvents", {"logStreamName": "job", "nextToken": "f/999999"}, "InvalidParameterException"),
        ("FilterLogEvents", {"filterPattern": "{ $.a = 1 }"}, "InvalidParameterException"),
        ("FilterLogEvents", {"nextToken": "zzz"}, "InvalidParameterException"),
        ("DescribeLogGroups", {"nextToken": "zzz"}, "InvalidParameterException"),
        ("PutLogEvents", {}, "UnknownOperationException"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    logs: Logs, tmp_path: Path, operation: str, params: dict[str, Any], code: str
) -> None:
    write(logs, "job", ["line"])
    (tmp_path / "secret").write_text("1000\tnot a log\n")
    with pytest.raises(AwsError) as caught:
        logs.call(operation, {"logGroupName": GROUP, **params})
    assert caught.value.code == code
