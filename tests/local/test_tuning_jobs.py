"""Tuning jobs: training jobs proposed by a seeded random search, counted, ranked and stopped."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sagemaker_kit import (
    BUCKET,
    ENDLESS,
    FEATURES,
    IMAGE,
    Aws,
    channel,
    hyperparameters,
    training_definition,
)

from lib.local.jobs import LOG_GROUP
from lib.local.protocol import AwsError
from lib.local.strategies import RandomSearch, parse_ranges

KIND = "HyperParameterTuningJob"
LEARNING_RATE = {"Name": "factors_lr", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with Aws(tmp_path_factory.mktemp("aws"), grace=20.0) as aws:
        aws.put_ratings()
        yield aws


@pytest.fixture(scope="module")
def completed(aws: Aws) -> dict[str, Any]:
    """Return the description of a tuning job that has completed."""
    aws.call("CreateHyperParameterTuningJob", **request("tuned", Tags=[{"Key": "run", "Value": "1"}]))
    return aws.wait(KIND, "tuned")


def request(
    name: str,
    *,
    jobs: int = 3,
    parallel: int = 2,
    config: dict[str, Any] | None = None,
    definition: dict[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    static = hyperparameters(epochs=2)
    return {
        f"{KIND}Name": name,
        f"{KIND}Config": {
            "Strategy": "Random",
            "RandomSeed": 7,
            "ResourceLimits": {"MaxNumberOfTrainingJobs": jobs, "MaxParallelTrainingJobs": parallel},
            f"{KIND}Objective": {"Type": "Minimize", "MetricName": "test:rmse"},
            "ParameterRanges": {"ContinuousParameterRanges": [LEARNING_RATE]},
            **(config or {}),
        },
        "TrainingJobDefinition": training_definition(
            **{"StaticHyperParameters": static, **(definition or {})}
        ),
        **changes,
    }


def training_jobs(aws: Aws, name: str, **params: Any) -> list[dict[str, Any]]:
    operation = "ListTrainingJobsForHyperParameterTuningJob"
    return aws.call(operation, **{f"{KIND}Name": name}, **params)["TrainingJobSummaries"]


def refused(aws: Aws, **changes: Any) -> str:
    with pytest.raises(AwsError) as caught:
        aws.call("CreateHyperParameterTuningJob", **request("refused", **changes))
    assert caught.value.code == "ValidationException"
    assert aws.call("ListHyperParameterTuningJobs", NameContains="refused") == {
        "HyperParameterTuningJobSummaries": []
    }
    return caught.value.message


# ---- a job that completes


def test_its_counters_count_its_training_jobs(completed: dict[str, Any]) -> None:
    assert completed["HyperParameterTuningJobStatus"] == "Completed"
    assert completed["TrainingJobStatusCounters"] == {
        "Completed": 3,
        "InProgress": 0,
        "RetryableError": 0,
        "NonRetryableError": 0,
        "Stopped": 0,
    }
    assert completed["ObjectiveStatusCounters"] == {"Succeeded": 3, "Pending": 0, "Failed": 0}
    assert completed["HyperParameterTuningEndTime"] > completed["CreationTime"]
    assert completed["ConsumedResources"]["RuntimeInSeconds"] >= 1


def test_its_best_job_has_the_smallest_objective(aws: Aws, completed: dict[str, Any]) -> None:
    jobs = training_jobs(aws, "tuned", SortBy="FinalObjectiveMetricValue")
    values = [job["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for job in jobs]
    assert len(values) == 3
    assert values == sorted(values)
    assert completed["BestTrainingJob"] == jobs[0]
    described = aws.describe("TrainingJob", jobs[0]["TrainingJobName"])
    final = {item["MetricName"]: item["Value"] for item in described["FinalMetricDataList"]}
    assert final["test:rmse"] == values[0]


def test_its_training_jobs_are_named_tuned_and_tagged(aws: Aws, completed: dict[str, Any]) -> None:
    jobs = training_jobs(aws, "tuned")
    for number, job in enumerate(jobs, 1):
        assert re.fullmatch(rf"tuned-{number:03d}-[0-9a-f]{{8}}", job["TrainingJobName"])
        described = aws.describe("TrainingJob", job["TrainingJobName"])
        assert described["TuningJobArn"] == completed["HyperParameterTuningJobArn"]
        assert described["HyperParameters"] == {
            **hyperparameters(epochs=2),
            **job["TunedHyperParameters"],
            "_tuning_objective_metric": "test:rmse",
        }
        tags = aws.call("ListTags", ResourceArn=job["TrainingJobArn"])["Tags"]
        assert tags == [{"Key": "run", "Value": "1"}]


def test_the_same_seed_proposes_the_same_hyperparameters(aws: Aws, completed: dict[str, Any]) -> None:
    search = RandomSearch(parse_ranges(completed[f"{KIND}Config"]["ParameterRanges"]), 7)
    expected = [search.propose() for _ in range(3)]
    assert [job["TunedHyperParameters"] for job in training_jobs(aws, "tuned")] == expected


def test_it_is_listed(aws: Aws, completed: dict[str, Any]) -> None:
    (summary,) = aws.call("ListHyperParameterTuningJobs", StatusEquals="Completed")[
        "HyperParameterTuningJobSummaries"
    ]
    assert summary["HyperParameterTuningJobName"] == "tuned"
    assert summary["Strategy"] == "Random"
    assert summary["ResourceLimits"]["MaxNumberOfTrainingJobs"] == 3
    assert summary["TrainingJobStatusCounters"] == completed["TrainingJobStatusCounters"]


def test_its_name_is_taken_and_it_cannot_be_stopped_any_more(aws: Aws, completed: dict[str, Any]) -> None:
    with pytest.raises(AwsError) as caught:
        aws.call("CreateHyperParameterTuningJob", **request("tuned"))
    assert caught.value.code == "ResourceInUse"
    with pytest.raises(AwsError, match="tuning job is in status Completed"):
        aws.call("StopHyperParameterTuningJob", HyperParameterTuningJobName="tuned")
    assert aws.describe(KIND, "tuned") == completed


# ---- jobs that end otherwise


def test_a_stopped_tuning_job_stops_its_training_jobs(aws: Aws) -> None:
    asked = request("stopped", jobs=10, parallel=3, definition={"StaticHyperParameters": ENDLESS})
    aws.call("CreateHyperParameterTuningJob", **asked)
    while len(training_jobs(aws, "stopped")) < 3:
        assert aws.describe(KIND, "stopped")["HyperParameterTuningJobStatus"] == "InProgress"
    first = training_jobs(aws, "stopped")[0]["TrainingJobName"]
    aws.wait_for_log(LOG_GROUP, first, "epoch=0")
    answer = aws.describe(KIND, "stopped")
    assert answer["HyperParameterTuningJobStatus"] == "InProgress"
    assert answer["TrainingJobStatusCounters"]["InProgress"] == 3
    assert answer["ObjectiveStatusCounters"]["Pending"] == 3
    assert aws.sagemaker.busy()
    aws.call("StopHyperParameterTuningJob", HyperParameterTuningJobName="stopped")
    answer = aws.wait(KIND, "stopped")
    assert answer["HyperParameterTuningJobStatus"] == "Stopped"
    assert answer["TrainingJobStatusCounters"]["Stopped"] == 3
    assert [job["TrainingJobStatus"] for job in training_jobs(aws, "stopped")] == ["Stopped"] * 3
    assert training_jobs(aws, "stopped", SortBy="FinalObjectiveMetricValue") == []
    assert "BestTrainingJob" not in answer


def test_a_tuning_job_whose_training_jobs_all_fail_gives_up(aws: Aws) -> None:
    wrong = {"StaticHyperParameters": hyperparameters(feature_dim=FEATURES + 1)}
    asked = request("failing", jobs=50, definition=wrong)
    aws.call("CreateHyperParameterTuningJob", **asked)
    answer = aws.wait(KIND, "failing")
    assert answer["HyperParameterTuningJobStatus"] == "Failed"
    assert answer["FailureReason"].startswith("All training jobs failed.")
    assert 5 <= answer["TrainingJobStatusCounters"]["NonRetryableError"] <= 7
    assert "BestTrainingJob" not in answer


def test_a_tuning_job_without_test_data_finds_no_objective(aws: Aws) -> None:
    asked = request("blind", jobs=1, definition={"InputDataConfig": [channel("train")]})
    aws.call("CreateHyperParameterTuningJob", **asked)
    answer = aws.wait(KIND, "blind")
    assert answer["HyperParameterTuningJobStatus"] == "Failed"
    assert answer["FailureReason"].startswith("No objective metrics found after running 1 training jobs.")
    assert answer["ObjectiveStatusCounters"]["Failed"] == 1


def test_a_target_that_is_reached_ends_the_search(aws: Aws) -> None:
    target = {"TuningJobCompletionCriteria": {"TargetObjectiveMetricValue": 1000.0}}
    aws.call("CreateHyperParameterTuningJob", **request("target", jobs=20, parallel=1, config=target))
    answer = aws.wait(KIND, "target")
    assert answer["HyperParameterTuningJobStatus"] == "Completed"
    assert answer["TrainingJobStatusCounters"]["Completed"] == 1


def test_a_server_that_ends_leaves_no_tuning_job_in_progress(tmp_path: Path) -> None:
    asked = request("interrupted", jobs=5, definition={"StaticHyperParameters": ENDLESS})
    with Aws(tmp_path) as aws:
        aws.put_ratings()
        aws.call("CreateHyperParameterTuningJob", **asked)
    with Aws(tmp_path) as aws:
        answer = aws.describe(KIND, "interrupted")
        assert answer["HyperParameterTuningJobStatus"] == "Failed"
        assert answer["FailureReason"].startswith("InternalServerError: ")
        assert answer["TrainingJobStatusCounters"]["InProgress"] == 0


# ---- requests that are refused


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            {"Strategy": "Bayesian"},
            "The local AWS tunes by the strategy Random only, but Strategy is Bayesian.",
        ),
        ({"TrainingJobEarlyStoppingType": "Auto"}, "does not support TrainingJobEarlyStoppingType Auto"),
        (
            {f"{KIND}Objective": {"Type": "Minimize", "MetricName": "validation:auc"}},
            "The objective metric for the hyperparameter tuning job, [validation:auc], isn't valid",
        ),
        (
            {f"{KIND}Objective": {"Type": "Maximize", "MetricName": "test:rmse"}},
            "The objective metric type, [Maximize], that you specified for objective metric, [test:rmse]",
        ),
        ({"ParameterRanges": {}}, "ParameterRanges names no hyperparameter to tune."),
        (
            {
                "ParameterRanges": {
                    "IntegerParameterRanges": [{"Name": "epochs", "MinValue": "1", "MaxValue": "9"}]
                }
            },
            "The hyperparameter epochs is both static and tuned.",
        ),
        (
            {"ParameterRanges": {"CategoricalParameterRanges": [{"Name": "use_bias", "Values": ["true"]}]}},
            "has the following untunable hyperparameters: [use_bias]. For the algorithm, " + IMAGE,
        ),
    ],
)
def test_a_tuning_job_that_cannot_run_here_is_refused(aws: Aws, config: dict[str, Any], text: str) -> None:
    assert text in refused(aws, config=config)


def test_its_training_jobs_are_checked_before_it_starts(aws: Aws) -> None:
    two = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 1}
    assert "trains on one instance" in refused(aws, definition={"ResourceConfig": two})
    nothing = [channel("train", f"s3://{BUCKET}/nothing/")]
    assert "No S3 objects found" in refused(aws, definition={"InputDataConfig": nothing})
    incomplete = {"StaticHyperParameters": {"feature_dim": str(FEATURES), "num_factors": "4"}}
    assert "missing the following required hyperparameters: [predictor_type]" in refused(
        aws, definition=incomplete
    )
    other = {"TrainingImage": IMAGE.replace("factorization", "support"), "TrainingInputMode": "File"}
    assert "built-in factorization-machines image" in refused(
        aws, definition={"AlgorithmSpecification": other}
    )
    warm = {
        "ParentHyperParameterTuningJobs": [{f"{KIND}Name": "tuned"}],
        "WarmStartType": "TransferLearning",
    }
    assert "does not support WarmStartConfig" in refused(aws, WarmStartConfig=warm)


# ---- ranges


def draws(kind: str, count: int = 4000, **members: Any) -> list[str]:
    (drawn,) = parse_ranges({kind: [{"Name": "x", **members}]})
    chance = random.Random(0)
    return [drawn.draw(chance.random()) for _ in range(count)]


def numbers(low: str, high: str, scaling: str, kind: str = "Continuous") -> list[float]:
    members = {"MinValue": low, "MaxValue": high, "ScalingType": scaling}
    return [float(value) for value in draws(f"{kind}ParameterRanges", **members)]


def share_below(values: list[float], limit: float) -> float:
    return sum(value < limit for value in values) / len(values)


def test_scalings_put_the_middle_where_they_should() -> None:
    linear = numbers("0", "10", "Linear")
    logarithmic = numbers("0.0001", "1", "Logarithmic")
    reverse = numbers("0.0", "0.9999", "ReverseLogarithmic")
    assert share_below(linear, 5) == pytest.approx(0.5, abs=0.03)
    assert share_below(logarithmic, 0.01) == pytest.approx(0.5, abs=0.03)
    assert share_below(reverse, 0.99) == pytest.approx(0.5, abs=0.03)
    for values, low, high in ((linear, 0, 10), (logarithmic, 0.0001, 1), (reverse, 0, 0.9999)):
        assert low <= min(values) <= max(values) <= high


def test_auto_is_logarithmic_for_wide_positive_ranges_only() -> None:
    assert numbers("0.001", "1", "Auto") == numbers("0.001", "1", "Logarithmic")
    assert numbers("0.5", "1", "Auto") == numbers("0.5", "1", "Linear")
    assert numbers("0", "1000", "Auto") == numbers("0", "1000", "Linear")


@pytest.mark.parametrize("scaling", ["Linear", "Logarithmic"])
def test_integers_reach_both_ends(scaling: str) -> None:
    members = {"MinValue": "2", "MaxValue": "5", "ScalingType": scaling}
    assert set(draws("IntegerParameterRanges", **members)) == {"2", "3", "4", "5"}


def test_integers_of_a_linear_range_are_equally_likely() -> None:
    values = numbers("1", "4", "Linear", kind="Integer")
    assert [values.count(value) / len(values) for value in (1, 2, 3, 4)] == pytest.approx(
        [0.25] * 4, abs=0.03
    )


def test_words_are_chosen_from_their_list() -> None:
    words = draws("CategoricalParameterRanges", Values=["normal", "uniform"])
    assert {word: words.count(word) / len(words) for word in set(words)} == pytest.approx(
        {"normal": 0.5, "uniform": 0.5}, abs=0.03
    )


def test_a_range_of_one_value_gives_that_value() -> None:
    assert set(numbers("3", "3", "Logarithmic", kind="Integer")) == {3}
    assert set(numbers("0.5", "0.5", "ReverseLogarithmic")) == {0.5}


@pytest.mark.parametrize(
    ("kind", "low", "high", "scaling", "text"),
    [
        ("Continuous", "a", "1", "Linear", "should be two numbers"),
        ("Continuous", "nan", "1", "Linear", "should be two numbers"),
        ("Continuous", "2", "1", "Linear", "the smaller first"),
        ("Integer", "1.5", "2", "Linear", "should be two whole numbers"),
        ("Continuous", "0", "1", "Logarithmic", "needs a range above 0"),
        ("Continuous", "0", "1", "ReverseLogarithmic", "within 0 <= x < 1"),
        ("Integer", "0", "0", "ReverseLogarithmic", "needs a continuous range"),
    ],
)
def test_a_range_that_is_none_is_refused(kind: str, low: str, high: str, scaling: str, text: str) -> None:
    with pytest.raises(AwsError, match=text):
        numbers(low, high, scaling, kind)


def test_a_hyperparameter_has_one_range() -> None:
    twice = {"ContinuousParameterRanges": [LEARNING_RATE, LEARNING_RATE]}
    with pytest.raises(AwsError, match="factors_lr has more than one range"):
        parse_ranges(twice)
