"""Search: filters, nested filters, expressions of expressions, order and pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sagemaker_kit import BUCKET, Aws, channel, hyperparameters, model_request, training_request
from test_tuning_jobs import request as tuning_request

from lib.local.protocol import AwsError


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """Return a SageMaker with three training jobs, of 1, 2 and 10 epochs, the last without test rows."""
    with Aws(tmp_path_factory.mktemp("aws"), grace=5.0) as aws:
        aws.put_ratings()
        for name, epochs, channels in (("a", 1, 2), ("b", 2, 2), ("c", 10, 1)):
            aws.call(
                "CreateTrainingJob",
                **training_request(
                    name,
                    HyperParameters=hyperparameters(epochs=epochs),
                    InputDataConfig=[channel("train"), channel("test")][:channels],
                    Tags=[{"Key": "project.name", "Value": f"films-{name}"}],
                ),
            )
            aws.wait("TrainingJob", name)
        yield aws


def where(name: str, operator: str | None = None, value: str | None = None) -> dict[str, str]:
    condition = {"Name": name, "Operator": operator, "Value": value}
    return {member: text for member, text in condition.items() if text is not None}


def found(aws: Aws, *filters: dict[str, str], **params: Any) -> list[str]:
    expression = params.pop("SearchExpression", {"Filters": list(filters)} if filters else {})
    asked = {"SortBy": "TrainingJobName", "SortOrder": "Ascending", **params}
    if expression:
        asked["SearchExpression"] = expression
    results = aws.call("Search", Resource="TrainingJob", **asked)["Results"]
    return [item["TrainingJob"]["TrainingJobName"] for item in results]


def test_nothing_asked_is_all_found_newest_first(aws: Aws) -> None:
    answer = aws.call("Search", Resource="TrainingJob")
    assert [item["TrainingJob"]["TrainingJobName"] for item in answer["Results"]] == ["c", "b", "a"]
    assert answer["TotalHits"] == {"Value": 3, "Relation": "EqualTo"}
    described = aws.describe("TrainingJob", "c")
    record = answer["Results"][0]["TrainingJob"]
    assert record["Tags"] == [{"Key": "project.name", "Value": "films-c"}]
    assert record["FinalMetricDataList"] == described["FinalMetricDataList"]


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        (where("TrainingJobName", "Equals", "b"), "b"),
        (where("TrainingJobName", None, "b"), "b"),
        (where("TrainingJobName", "NotEquals", "b"), "ac"),
        (where("TrainingJobName", "In", "a, c"), "ac"),
        (where("TrainingJobName", "In", "x"), ""),
        (where("TrainingJobStatus", "Equals", "Completed"), "abc"),
        (where("HyperParameters.epochs", "GreaterThan", "2"), "c"),  # 10 is more than 2, as numbers
        (where("HyperParameters.epochs", "GreaterThanOrEqualTo", "2"), "bc"),
        (where("HyperParameters.epochs", "LessThan", "2"), "a"),
        (where("HyperParameters.epochs", "LessThanOrEqualTo", "2.0"), "ab"),
        (where("HyperParameters.epochs", "Equals", "2"), "b"),
        (where("HyperParameters.clip_gradient", "Exists"), ""),
        (where("HyperParameters.clip_gradient", "NotExists"), "abc"),
        (where("Metrics.test:rmse", "Exists"), "ab"),
        (where("Metrics.test:rmse", "LessThan", "0"), ""),
        (where("Metrics.train:rmse", "GreaterThan", "0"), "abc"),
        (where("Tags.project.name", "Contains", "films"), "abc"),
        (where("Tags.project.name", "Equals", "films-a"), "a"),
        (where("Tags.other", "Exists"), ""),
        (where("ResourceConfig.InstanceType", "Contains", "m5"), "abc"),
        (where("ResourceConfig.InstanceCount", "Equals", "1"), "abc"),
        (where("ResourceConfig.InstanceCount", "Equals", "one"), ""),
        (where("EnableNetworkIsolation", "Equals", "False"), "abc"),
        (where("InputDataConfig.ChannelName", "Equals", "test"), "ab"),
        (where("CreationTime", "GreaterThan", "2020-01-01"), "abc"),
        (where("CreationTime", "LessThan", "2020-01-01T00:00:00Z"), ""),
        (where("TrainingJobName", "GreaterThan", "a"), "bc"),
        (where("Nothing.At.All", "Equals", "x"), ""),
    ],
)
def test_a_filter_finds_those_that_meet_it(aws: Aws, condition: dict[str, str], names: str) -> None:
    assert found(aws, condition) == list(names)


def test_filters_are_joined_by_and_or_and_nested(aws: Aws) -> None:
    first, last = where("TrainingJobName", "Equals", "a"), where("TrainingJobName", "Equals", "c")
    assert found(aws, first, last) == []
    either = {"Filters": [first, last], "Operator": "Or"}
    assert found(aws, SearchExpression=either) == ["a", "c"]
    long = {"Filters": [where("HyperParameters.epochs", "GreaterThan", "1")]}
    assert found(aws, SearchExpression={"SubExpressions": [either, long]}) == ["c"]


def test_nested_filters_want_one_element_that_meets_all(aws: Aws) -> None:
    uri = "InputDataConfig.DataSource.S3DataSource.S3Uri"
    train = where("InputDataConfig.ChannelName", "Equals", "train")

    def nested(*filters: dict[str, str]) -> dict[str, Any]:
        return {"NestedFilters": [{"NestedPropertyName": "InputDataConfig", "Filters": list(filters)}]}

    assert found(aws, SearchExpression=nested(train, where(uri, "Contains", "data/train"))) == ["a", "b", "c"]
    assert found(aws, SearchExpression=nested(train, where(uri, "Contains", "data/test"))) == []
    assert found(aws, train, where(uri, "Contains", "data/test")) == ["a", "b"]


def test_results_are_ordered_and_come_in_pages(aws: Aws) -> None:
    by_epochs = {"SortBy": "HyperParameters.epochs", "SortOrder": "Descending"}
    assert found(aws, **by_epochs) == ["c", "b", "a"]
    assert found(aws, SortBy="Metrics.test:rmse")[0] == "c"  # without it
    names, token = [], None
    while True:
        page = {"NextToken": token} if token else {}
        answer = aws.call("Search", Resource="TrainingJob", MaxResults=2, SortOrder="Ascending", **page)
        names += [item["TrainingJob"]["TrainingJobName"] for item in answer["Results"]]
        token = answer.get("NextToken")
        if not token:
            break
    assert names == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (
            {"Resource": "Pipeline"},
            "searches Endpoint, HyperParameterTuningJob, Model, TrainingJob, not Pipeline",
        ),
        ({"NextToken": "x"}, "NextToken is invalid"),
        ({"SearchExpression": {"Filters": [where("CreationTime", "LessThan")]}}, "needs a Value"),
        ({"SearchExpression": {"Filters": [where("A", "Like", "b")]}}, "Member must satisfy enum value set"),
    ],
)
def test_wrong_searches_are_refused(aws: Aws, params: dict[str, Any], text: str) -> None:
    with pytest.raises(AwsError) as caught:
        aws.call("Search", **{"Resource": "TrainingJob", **params})
    assert caught.value.code == "ValidationException"
    assert text in caught.value.message


def test_models_and_tuning_jobs_are_found_too(aws: Aws) -> None:
    aws.call("CreateModel", **model_request("films", f"s3://{BUCKET}/models/a/output/model.tar.gz"))
    model_name = {"Filters": [where("ModelName", "Contains", "film")]}
    (result,) = aws.call("Search", Resource="Model", SearchExpression=model_name)["Results"]
    assert result["Model"]["Model"]["ModelName"] == "films"
    aws.call("CreateHyperParameterTuningJob", **tuning_request("search", jobs=1))
    aws.wait("HyperParameterTuningJob", "search")
    (result,) = aws.call("Search", Resource="HyperParameterTuningJob")["Results"]
    assert result["HyperParameterTuningJob"]["BestTrainingJob"]["TrainingJobName"].startswith("search-001")
