"""The local SageMaker's bookkeeping: models, lists, tags, errors in AWS's words, state that lasts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sagemaker_kit import BUCKET, IMAGE, ROLE, Aws, model_request

from lib.errors import ParameterError, ReelbookError
from lib.local.logs import Logs
from lib.local.metrics import Metrics
from lib.local.objects import Objects
from lib.local.protocol import AwsError, service_model
from lib.local.sagemaker import JOBS_VARIABLE, SageMaker
from lib.local.store import MODEL, TRAINING_JOB, Page, Store

MODEL_URI = f"s3://{BUCKET}/models/model.tar.gz"


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[Aws]:
    with Aws(tmp_path) as aws:
        aws.put("models/model.tar.gz", b"not looked into until it is served")
        yield aws


def refused(aws: Aws, operation: str, **params: Any) -> tuple[str, str]:
    """Return the code and text of the error that a request meets."""
    with pytest.raises(AwsError) as caught:
        aws.call(operation, **params)
    return caught.value.code, caught.value.message


def all_pages(aws: Aws, operation: str, member: str, **params: Any) -> list[dict[str, Any]]:
    answer = aws.call(operation, **params)
    found = answer[member]
    while "NextToken" in answer:
        answer = aws.call(operation, **params, NextToken=answer["NextToken"])
        found += answer[member]
    return found


# ---- models


def test_a_model_is_described_as_it_was_created(aws: Aws) -> None:
    vpc = {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
    arn = aws.call("CreateModel", **model_request("ratings", MODEL_URI, VpcConfig=vpc))["ModelArn"]
    answer = aws.describe("Model", "ratings")
    assert answer.pop("CreationTime") > 0
    assert answer == {
        "ModelName": "ratings",
        "ModelArn": arn,
        "ExecutionRoleArn": ROLE,
        "VpcConfig": vpc,
        "EnableNetworkIsolation": False,
        "PrimaryContainer": {
            "Image": IMAGE,
            "ModelDataUrl": MODEL_URI,
            "Mode": "SingleModel",
            "Environment": {},
        },
    }


def test_a_deleted_model_is_gone_with_its_tags(aws: Aws) -> None:
    tags = [{"Key": "run", "Value": "1"}]
    arn = aws.call("CreateModel", **model_request("ratings", MODEL_URI, Tags=tags))["ModelArn"]
    aws.call("DeleteModel", ModelName="ratings")
    expected = ("ValidationException", f'Could not find model "{arn}".')
    assert refused(aws, "DescribeModel", ModelName="ratings") == expected
    assert refused(aws, "DeleteModel", ModelName="ratings") == expected
    assert refused(aws, "ListTags", ResourceArn=arn)[0] == "ResourceNotFound"
    aws.call("CreateModel", **model_request("ratings", MODEL_URI))
    assert aws.call("ListTags", ResourceArn=arn) == {"Tags": []}


def test_a_model_s_name_is_its_own(aws: Aws) -> None:
    arn = aws.call("CreateModel", **model_request("ratings", MODEL_URI))["ModelArn"]
    code, text = refused(aws, "CreateModel", **model_request("ratings", MODEL_URI))
    assert (code, text) == ("ValidationException", f'Cannot create already existing model "{arn}".')


@pytest.mark.parametrize(
    ("container", "text"),
    [
        ({"ModelDataUrl": f"s3://{BUCKET}/none"}, f"Could not find model data at s3://{BUCKET}/none."),
        ({"ModelDataUrl": "s3://no-such-bucket/x"}, "Could not find model data at s3://no-such-bucket/x."),
        ({"ModelDataUrl": "https://example.com/x"}, "should be s3://BUCKET/KEY"),
        (
            {"Image": "1.dkr.ecr.us-east-1.amazonaws.com/xgboost:1"},
            "runs the built-in factorization-machines",
        ),
        ({"Image": "factorization-machines.example.com/mine"}, "runs the built-in factorization-machines"),
        ({"Mode": "MultiModel"}, "does not support the container's Mode MultiModel"),
    ],
)
def test_a_container_that_cannot_be_served_is_refused(aws: Aws, container: dict[str, str], text: str) -> None:
    request = model_request("ratings", MODEL_URI)
    request["PrimaryContainer"] |= container
    code, message = refused(aws, "CreateModel", **request)
    assert code == "ValidationException"
    assert text in message


def test_a_model_needs_exactly_one_container(aws: Aws) -> None:
    assert "has 0" in refused(aws, "CreateModel", ModelName="none")[1]
    two = [{"Image": IMAGE, "ModelDataUrl": MODEL_URI}] * 2
    assert "has 2" in refused(aws, "CreateModel", ModelName="two", Containers=two)[1]


# ---- lists


def test_lists_are_paged_without_gap_or_repeat(aws: Aws) -> None:
    names = [f"model-{number:02d}" for number in range(25)]
    for name in names:
        aws.call("CreateModel", **model_request(name, MODEL_URI))
    assert len(aws.call("ListModels")["Models"]) == 10
    newest_first = [model["ModelName"] for model in all_pages(aws, "ListModels", "Models")]
    assert newest_first == names[::-1]
    by_name = all_pages(aws, "ListModels", "Models", SortBy="Name", SortOrder="Ascending", MaxResults=7)
    assert [model["ModelName"] for model in by_name] == names


def test_a_page_s_token_outlives_the_deletion_of_what_it_points_at(aws: Aws) -> None:
    for name in "abcd":
        aws.call("CreateModel", **model_request(name, MODEL_URI))
    order = {"SortBy": "Name", "SortOrder": "Ascending"}
    first = aws.call("ListModels", MaxResults=2, **order)
    aws.call("DeleteModel", ModelName="b")
    second = aws.call("ListModels", MaxResults=2, NextToken=first["NextToken"], **order)
    assert [model["ModelName"] for model in second["Models"]] == ["c", "d"]


def test_lists_are_filtered_by_name_and_time(aws: Aws) -> None:
    for name in ("run-1-model", "run-2-model"):
        aws.call("CreateModel", **model_request(name, MODEL_URI))
    later = aws.describe("Model", "run-2-model")["CreationTime"]
    found = aws.call("ListModels", NameContains="run-1")["Models"]
    assert [model["ModelName"] for model in found] == ["run-1-model"]
    found = aws.call("ListModels", CreationTimeAfter=later)["Models"]
    assert [model["ModelName"] for model in found] == ["run-2-model"]
    assert aws.call("ListModels", CreationTimeAfter=later + 1) == {"Models": []}


@pytest.mark.parametrize("token", ["x", "bm8=", "W3RydWVd", "ä"])
def test_a_token_that_was_never_given_out_is_refused(aws: Aws, token: str) -> None:
    assert refused(aws, "ListModels", NextToken=token) == ("ValidationException", "The NextToken is invalid.")


def test_there_are_no_endpoints(aws: Aws) -> None:
    assert aws.call("ListEndpoints") == {"Endpoints": []}
    assert aws.call("ListEndpointConfigs", NameContains="run") == {"EndpointConfigs": []}


def test_jobs_are_listed_by_status(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.sqlite")
    for number, status in enumerate(["Completed", "Failed", "Completed"]):
        store.create(TRAINING_JOB, f"job-{number}", {"TrainingJobStatus": status})
    found, _ = store.select(TRAINING_JOB, Page(status="Completed", sort_by="Name"))
    assert [job["TrainingJobName"] for job in found] == ["job-0", "job-2"]
    ordered, _ = store.select(TRAINING_JOB, Page(sort_by="Status", descending=True))
    assert [job["TrainingJobStatus"] for job in ordered] == ["Failed", "Completed", "Completed"]
    store.update(TRAINING_JOB, "job-1", lambda job: job.update(TrainingJobStatus="Stopped"), score=0.5)
    assert store.select(TRAINING_JOB, Page(status="Failed")) == ([], None)
    scored, _ = store.select(TRAINING_JOB, Page(sort_by="FinalObjectiveMetricValue"))
    assert [job["TrainingJobName"] for job in scored] == ["job-1"]
    store.close()


# ---- tags


def test_tags_are_added_overwritten_listed_and_deleted(aws: Aws) -> None:
    arn = aws.call("CreateModel", **model_request("ratings", MODEL_URI))["ModelArn"]
    aws.call("AddTags", ResourceArn=arn, Tags=[{"Key": "b", "Value": "1"}, {"Key": "a", "Value": "2"}])
    answer = aws.call("AddTags", ResourceArn=arn, Tags=[{"Key": "b", "Value": "3"}])
    assert answer["Tags"] == [{"Key": "a", "Value": "2"}, {"Key": "b", "Value": "3"}]
    aws.call("DeleteTags", ResourceArn=arn, TagKeys=["a", "unknown"])
    assert aws.call("ListTags", ResourceArn=arn)["Tags"] == [{"Key": "b", "Value": "3"}]


def test_tags_that_aws_refuses_are_refused(aws: Aws) -> None:
    reserved = model_request("ratings", MODEL_URI, Tags=[{"Key": "aws:x", "Value": ""}])
    assert refused(aws, "CreateModel", **reserved)[0] == "ValidationException"
    twice = model_request("ratings", MODEL_URI, Tags=[{"Key": "x", "Value": ""}, {"Key": "x", "Value": "1"}])
    assert refused(aws, "CreateModel", **twice)[0] == "ValidationException"
    assert aws.call("ListModels") == {"Models": []}
    arn = aws.call("CreateModel", **model_request("ratings", MODEL_URI))["ModelArn"]
    many = [{"Key": f"key-{number}", "Value": ""} for number in range(50)]
    aws.call("AddTags", ResourceArn=arn, Tags=many)
    one_more = [{"Key": "one-more", "Value": ""}]
    assert refused(aws, "AddTags", ResourceArn=arn, Tags=one_more)[0] == "ResourceLimitExceeded"
    assert len(aws.call("ListTags", ResourceArn=arn)["Tags"]) == 50


# ---- what is not there


def test_unknown_names_are_answered_in_aws_s_words(aws: Aws) -> None:
    arn = "arn:aws:sagemaker:us-east-1:123456789012"
    name = "none"
    assert refused(aws, "DescribeTrainingJob", TrainingJobName=name) == (
        "ValidationException",
        "Requested resource not found.",
    )
    assert refused(aws, "StopTransformJob", TransformJobName=name) == (
        "ValidationException",
        "Could not find requested job with name: none",
    )
    assert refused(aws, "DescribeHyperParameterTuningJob", HyperParameterTuningJobName=name) == (
        "ResourceNotFound",
        "Amazon SageMaker can't find a tuning job with the name none.",
    )
    assert refused(aws, "DescribeModel", ModelName=name)[1] == f'Could not find model "{arn}:model/none".'


def test_an_operation_that_is_not_there_says_so(aws: Aws) -> None:
    with pytest.raises(AwsError) as caught:
        aws.sagemaker.call("CreateNotebookInstance", {})
    assert caught.value.code == "UnknownOperationException"
    assert caught.value.message == "CreateNotebookInstance is not implemented by the local AWS."
    assert caught.value.status == 501


def test_every_operation_is_one_of_sagemaker_s(aws: Aws) -> None:
    known = set(service_model("sagemaker").operation_names)
    assert len(aws.sagemaker.operations) > 20
    assert set(aws.sagemaker.operations) <= known


# ---- state


def test_state_outlives_the_server(tmp_path: Path) -> None:
    with Aws(tmp_path) as aws:
        aws.put("models/model.tar.gz", b"model")
        aws.call("CreateModel", **model_request("ratings", MODEL_URI, Tags=[{"Key": "a", "Value": "b"}]))
        before = aws.describe("Model", "ratings")
    with Aws(tmp_path) as aws:
        assert aws.describe("Model", "ratings") == before
        assert aws.call("ListTags", ResourceArn=before["ModelArn"])["Tags"] == [{"Key": "a", "Value": "b"}]
        assert not aws.sagemaker.busy()


def test_a_change_that_fails_leaves_the_resource_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.sqlite")
    store.create(MODEL, "ratings", {"x": 1})

    def change(document: dict[str, Any]) -> None:
        document["x"] = 2
        raise AwsError("ValidationException", "no")

    with pytest.raises(AwsError, match="no"):
        store.update(MODEL, "ratings", change)
    assert store.get(MODEL, "ratings")["x"] == 1
    store.close()


@pytest.mark.parametrize("damage", ["text", "newer"])
def test_a_state_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "sagemaker.sqlite"
    if damage == "text":
        path.write_text("this is no database, and it is long enough to be taken for one" * 100)
    else:
        database = sqlite3.connect(path)
        database.execute("PRAGMA user_version = 99")
        database.close()
    objects, metrics = Objects(tmp_path), Metrics(tmp_path)
    with pytest.raises(ReelbookError, match=r"state file .*sagemaker\.sqlite") as caught:
        SageMaker(tmp_path, objects, Logs(tmp_path), metrics)
    assert "local reset" in caught.value.hint
    metrics.close()
    objects.close()


@pytest.mark.parametrize("value", ["0", "-1", "many", ""])
def test_the_number_of_jobs_at_once_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(JOBS_VARIABLE, value)
    objects, metrics = Objects(tmp_path), Metrics(tmp_path)
    with pytest.raises(ParameterError, match=JOBS_VARIABLE):
        SageMaker(tmp_path, objects, Logs(tmp_path), metrics)
    metrics.close()
    objects.close()
