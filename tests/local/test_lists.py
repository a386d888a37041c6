"""Jobs are deleted once they have ended; every order and filter of every list works."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sagemaker_kit import ENDLESS, Aws, training_request
from stored_kit import BAD_TOKENS, metric, put_job, put_tuning_job, refused, token

from lib.local.protocol import service_model
from lib.local.store import (
    ENDPOINT,
    ENDPOINT_CONFIG,
    KINDS,
    MODEL,
    PROCESSING_JOB,
    TRAINING_JOB,
    TRANSFORM_JOB,
    TUNING_JOB,
)

DAY = 86_400


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[Aws]:
    with Aws(tmp_path) as aws:
        yield aws


# ---- deletion


def test_a_deleted_training_job_is_gone_with_its_tags_and_leaves_its_name(aws: Aws) -> None:
    arn = put_job(aws, "job", Tags=[{"Key": "a", "Value": "b"}])
    aws.call("DeleteTrainingJob", TrainingJobName="job")
    missing = "Requested resource not found."
    assert refused(aws, "DescribeTrainingJob", TrainingJobName="job") == ("ValidationException", missing)
    assert refused(aws, "DeleteTrainingJob", TrainingJobName="job") == ("ResourceNotFound", missing)
    assert refused(aws, "ListTags", ResourceArn=arn)[0] == "ResourceNotFound"
    assert aws.call("ListTrainingJobs")["TrainingJobSummaries"] == []
    put_job(aws, "job")


def test_a_job_that_runs_is_not_deleted(aws: Aws) -> None:
    aws.put_ratings(100)
    aws.call("CreateTrainingJob", **training_request("job", HyperParameters=ENDLESS))
    answer = refused(aws, "DeleteTrainingJob", TrainingJobName="job")
    assert answer == (
        "ResourceInUse",
        "The request was rejected because the training job is in status InProgress.",
    )
    aws.call("StopTrainingJob", TrainingJobName="job")
    aws.wait("TrainingJob", "job")
    aws.call("DeleteTrainingJob", TrainingJobName="job")
    aws.call("CreateTrainingJob", **training_request("job"))  # its name may be used again, at once
    assert aws.wait("TrainingJob", "job")["TrainingJobStatus"] == "Completed"
    aws.call("DeleteTrainingJob", TrainingJobName="job")


def test_a_training_job_of_a_tuning_job_that_runs_is_not_deleted(aws: Aws) -> None:
    arn = put_tuning_job(aws, "tuning", "InProgress")
    put_job(aws, "job", parent=arn, TuningJobArn=arn, TunedHyperParameters={})
    code, message = refused(aws, "DeleteTrainingJob", TrainingJobName="job")
    assert code == "ResourceInUse"
    assert "belongs to the tuning job tuning" in message
    aws.sagemaker._store.update(
        TUNING_JOB, "tuning", lambda document: document.update(HyperParameterTuningJobStatus="Completed")
    )
    aws.call("DeleteTrainingJob", TrainingJobName="job")


def test_a_deleted_tuning_job_leaves_its_training_jobs_to_none(aws: Aws) -> None:
    arn = put_tuning_job(aws, "tuning", "Stopping")
    put_job(aws, "job", parent=arn, TuningJobArn=arn, TunedHyperParameters={})
    code, message = refused(aws, "DeleteHyperParameterTuningJob", HyperParameterTuningJobName="tuning")
    assert (code, message) == (
        "ValidationException",
        "The request was rejected because the hyperparameter tuning job is in status Stopping.",
    )
    aws.sagemaker._store.update(
        TUNING_JOB, "tuning", lambda document: document.update(HyperParameterTuningJobStatus="Stopped")
    )
    aws.call("DeleteHyperParameterTuningJob", HyperParameterTuningJobName="tuning")
    missing = refused(aws, "DescribeHyperParameterTuningJob", HyperParameterTuningJobName="tuning")
    assert missing[0] == "ResourceNotFound"
    assert aws.describe("TrainingJob", "job")["TrainingJobStatus"] == "Completed"
    put_tuning_job(aws, "tuning")  # a later one of its name has no training jobs
    listed = aws.call("ListTrainingJobsForHyperParameterTuningJob", HyperParameterTuningJobName="tuning")
    assert listed == {"TrainingJobSummaries": []}


# ---- lists

LISTS = {
    "ListTrainingJobs": TRAINING_JOB,
    "ListTransformJobs": TRANSFORM_JOB,
    "ListHyperParameterTuningJobs": TUNING_JOB,
    "ListProcessingJobs": PROCESSING_JOB,
    "ListModels": MODEL,
    "ListEndpoints": ENDPOINT,
    "ListEndpointConfigs": ENDPOINT_CONFIG,
    "ListTrainingJobsForHyperParameterTuningJob": TRAINING_JOB,
}
STATUSES = {ENDPOINT: ("InService", "Failed", "Creating")}


def fill(aws: Aws, operation: str) -> dict[str, Any]:
    """Put nine resources of what an operation lists, and return what its request must say."""
    store, kind = aws.sagemaker._store, LISTS[operation]
    arn = put_tuning_job(aws, "tuning") if "ForHyper" in operation else None
    for number in range(9):
        name = f"{'odd' if number % 2 else 'even'}-{9 - number}"
        document: dict[str, Any] = {"TunedHyperParameters": {}}
        statuses = STATUSES.get(kind, ("Completed", "Failed", "InProgress"))
        if kind is TUNING_JOB:
            put_tuning_job(aws, name, statuses[number % 3])
            continue
        if kind not in (MODEL, ENDPOINT_CONFIG):
            document[f"{kind.name}Status"] = statuses[number % 3]
        if arn and number != 4:
            document["FinalMetricDataList"] = metric(float(number * 7 % 9))
        store.create(kind, name, document, parent=arn)
        if arn and number != 4:
            store.update(kind, name, lambda document: None, score=number * 7 % 9)
    return {"HyperParameterTuningJobName": "tuning"} if arn else {}


def listed(aws: Aws, operation: str, **params: Any) -> list[dict[str, Any]]:
    """Return the names of all that an operation lists, page by page."""
    items: list[dict[str, Any]] = []
    answer = aws.call(operation, **params)
    while True:
        member = next(name for name in answer if name != "NextToken")
        assert len(answer[member]) <= params.get("MaxResults", 10)
        items += answer[member]
        if "NextToken" not in answer:
            return items
        answer = aws.call(operation, **params, NextToken=answer["NextToken"])


def value_of(item: dict[str, Any], kind: str, sort_by: str) -> Any:
    if sort_by == "FinalObjectiveMetricValue":
        return item["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] if "Final" in str(item) else None
    return item["CreationTime"] if sort_by == "CreationTime" else item[f"{kind}{sort_by}"]


@pytest.mark.parametrize("operation", LISTS)
def test_every_order_of_every_list_is_kept_over_its_pages(aws: Aws, operation: str) -> None:
    request, kind = fill(aws, operation), LISTS[operation].name
    shape: Any = service_model("sagemaker").operation_model(operation).input_shape
    for sort_by, order in itertools.product(shape.members["SortBy"].enum, shape.members["SortOrder"].enum):
        items = listed(aws, operation, **request, SortBy=sort_by, SortOrder=order, MaxResults=2)
        keys = [(value_of(item, kind, sort_by), item[f"{kind}Name"]) for item in items]
        assert len(set(keys)) == (8 if sort_by == "FinalObjectiveMetricValue" else 9)
        values = [value for value, _ in keys if value is not None]
        assert values == sorted(values, reverse=order == "Descending")


@pytest.mark.parametrize("operation", LISTS)
def test_every_filter_of_every_list_filters(aws: Aws, operation: str) -> None:
    request, kind = fill(aws, operation), LISTS[operation].name
    shape: Any = service_model("sagemaker").operation_model(operation).input_shape
    ordered = [item["CreationTime"] for item in listed(aws, operation, **request, SortBy="CreationTime")]
    middle = sorted(ordered)[4]
    expected = {
        "NameContains": ("odd", 4),
        "StatusEquals": ("Failed", 3),
        "CreationTimeAfter": (middle, None),
        "CreationTimeBefore": (middle, None),
        "LastModifiedTimeAfter": (middle - DAY, 9),
        "LastModifiedTimeBefore": (middle - DAY, 0),
        "WarmPoolStatusEquals": ("Available", 0),
        "TrainingPlanArnEquals": (f"arn:aws:sagemaker:us-east-1:123456789012:training-plan/{'x' * 20}", 0),
    }
    known = {"SortBy", "SortOrder", "MaxResults", "NextToken", "HyperParameterTuningJobName"}
    assert set(shape.members) <= known | set(expected)
    for member in set(shape.members) & set(expected):
        value, count = expected[member]
        found = listed(aws, operation, **request, **{member: value})
        if count is not None:
            assert len(found) == count, member
        elif member.endswith("After"):
            assert {item["CreationTime"] >= middle - 0.001 for item in found} == {True}
            assert len(found) in (4, 5)  # times are answered to the millisecond
        else:
            assert {item["CreationTime"] <= middle for item in found} == {True}
            assert len(found) in (4, 5)
    assert all(f"{kind}Name" in item for item in listed(aws, operation, **request))


@pytest.mark.parametrize("operation", LISTS)
def test_a_list_s_token_that_was_never_given_out_is_refused(aws: Aws, operation: str) -> None:
    request = fill(aws, operation)
    surrogate = base64.urlsafe_b64encode(b'[1.5, "\\ud800"]').decode()
    order = {"SortBy": "CreationTime"}
    for bad in [*BAD_TOKENS, surrogate, token(["text", "name"]), token([None, "name"])]:
        answer = refused(aws, operation, **request, **order, NextToken=bad)
        assert answer == ("ValidationException", "The NextToken is invalid.")


def test_all_kinds_are_listed(aws: Aws) -> None:
    assert set(LISTS.values()) == set(KINDS)
    operations = {name for name in aws.sagemaker.operations if name.startswith("List")} - {"ListTags"}
    assert operations == set(LISTS)
