"""Tuning jobs: training jobs proposed by a seeded random search, counted, ranked and stopped."""

from __future__ import annotations

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
from lib.local.ranges import parse_ranges
from lib.local.strategies import BayesianSearch, RandomSearch, Trial

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
    trial = Trial({}, 1.0)
    expected = [search.propose([trial] * number) for number in range(3)]
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
    measured = training_jobs(aws, "stopped", SortBy="FinalObjectiveMetricValue")
    assert first in [job["TrainingJobName"] for job in measured]  # what it had learnt was measured


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


def test_a_server_that_ends_and_comes_back_goes_on_where_it_was(tmp_path: Path) -> None:
    asked = request(
        "interrupted", jobs=4, parallel=2, definition={"StaticHyperParameters": hyperparameters(epochs=3000)}
    )
    with Aws(tmp_path) as aws:
        aws.put_ratings()
        aws.call("CreateHyperParameterTuningJob", **asked)
        while len(training_jobs(aws, "interrupted")) < 3:  # one has ended, two are under way
            assert aws.describe(KIND, "interrupted")["HyperParameterTuningJobStatus"] == "InProgress"
    with Aws(tmp_path) as aws:
        answer = aws.wait(KIND, "interrupted")
        assert answer["HyperParameterTuningJobStatus"] == "Completed"
        assert answer["TrainingJobStatusCounters"]["Completed"] == 4
        repeated = answer["TrainingJobStatusCounters"]["RetryableError"]
        assert 1 <= repeated <= 2
        jobs = training_jobs(aws, "interrupted", MaxResults=100)
        assert len(jobs) == 4 + repeated
        search = RandomSearch(parse_ranges(answer[f"{KIND}Config"]["ParameterRanges"]), 7)
        wanted = [search.propose([Trial({})] * number) for number in range(4)]
        done = [job["TunedHyperParameters"] for job in jobs if job["TrainingJobStatus"] == "Completed"]
        assert sorted(map(str, done)) == sorted(map(str, wanted))


# ---- strategies

CATEGORIES = {
    "CategoricalParameterRanges": [
        {"Name": "bias_lr", "Values": ["0.01", "0.1"]},
        {"Name": "factors_lr", "Values": ["0.001", "0.01", "0.1"]},
    ]
}


def test_a_grid_tries_every_combination_once(aws: Aws) -> None:
    asked = request("grid", config={"Strategy": "Grid", "ParameterRanges": CATEGORIES})
    del asked[f"{KIND}Config"]["ResourceLimits"]["MaxNumberOfTrainingJobs"]
    aws.call("CreateHyperParameterTuningJob", **asked)
    answer = aws.wait(KIND, "grid")
    assert answer["TrainingJobStatusCounters"]["Completed"] == 6
    tried = {tuple(job["TunedHyperParameters"].values()) for job in training_jobs(aws, "grid")}
    assert len(tried) == 6


def test_bayesian_search_proposes_the_same_for_the_same_seed_and_results(aws: Aws) -> None:
    asked = request("bayesian", jobs=8, parallel=1, config={"Strategy": "Bayesian"})
    aws.call("CreateHyperParameterTuningJob", **asked)
    answer = aws.wait(KIND, "bayesian")
    assert answer["TrainingJobStatusCounters"]["Completed"] == 8
    ranges = parse_ranges(answer[f"{KIND}Config"]["ParameterRanges"])
    search, trials = BayesianSearch(ranges, 7, minimize=True), []
    for job in training_jobs(aws, "bayesian", SortBy="CreationTime"):
        assert job["TunedHyperParameters"] == search.propose(trials)
        value = job["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
        trials.append(Trial(job["TunedHyperParameters"], value))


@pytest.mark.parametrize(
    "config",
    [{"Strategy": "Hyperband"}, {"TrainingJobEarlyStoppingType": "Auto"}],
    ids=["Hyperband", "early stopping"],
)
def test_hopeless_training_jobs_are_stopped_early(aws: Aws, config: dict[str, Any]) -> None:
    name = config.get("Strategy", "early")
    epochs = hyperparameters(epochs=400)
    wide = {"ContinuousParameterRanges": [{**LEARNING_RATE, "MinValue": "0.000001", "MaxValue": "0.05"}]}
    asked = request(
        name,
        jobs=8,
        parallel=1,
        config={"ParameterRanges": wide, **config},
        definition={"StaticHyperParameters": epochs},
    )
    aws.call("CreateHyperParameterTuningJob", **asked)
    answer = aws.wait(KIND, name)
    assert answer["HyperParameterTuningJobStatus"] == "Completed"
    counted = answer["TrainingJobStatusCounters"]
    assert counted["Completed"] + counted["Stopped"] == 8
    assert counted["Stopped"] >= 1
    assert answer["ObjectiveStatusCounters"]["Succeeded"] == 8
    assert "BestTrainingJob" in answer


def test_a_search_that_does_not_improve_ends(aws: Aws) -> None:
    same = {"CategoricalParameterRanges": [{"Name": "factors_lr", "Values": ["0.01"]}]}
    criteria = {"BestObjectiveNotImproving": {"MaxNumberOfTrainingJobsNotImproving": 3}}
    asked = request(
        "flat", jobs=20, parallel=1, config={"ParameterRanges": same, "TuningJobCompletionCriteria": criteria}
    )
    aws.call("CreateHyperParameterTuningJob", **asked)
    assert aws.wait(KIND, "flat")["TrainingJobStatusCounters"]["Completed"] == 4


def test_a_warm_start_knows_what_its_parents_found(aws: Aws, completed: dict[str, Any]) -> None:
    warm = {
        "ParentHyperParameterTuningJobs": [{f"{KIND}Name": "tuned"}],
        "WarmStartType": "IdenticalDataAndAlgorithm",
    }
    asked = request("warm", jobs=4, parallel=1, config={"Strategy": "Bayesian"}, WarmStartConfig=warm)
    aws.call("CreateHyperParameterTuningJob", **asked)
    answer = aws.wait(KIND, "warm")
    assert answer["HyperParameterTuningJobStatus"] == "Completed"
    key = "FinalHyperParameterTuningJobObjectiveMetric"
    values = [answer["BestTrainingJob"][key]["Value"], completed["BestTrainingJob"][key]["Value"]]
    assert answer["OverallBestTrainingJob"][key]["Value"] == min(values)
    parents = [
        Trial(job["TunedHyperParameters"], job[key]["Value"])
        for job in training_jobs(aws, "tuned", SortBy="CreationTime")
    ]
    ranges = parse_ranges(answer[f"{KIND}Config"]["ParameterRanges"])
    trials = [
        Trial(job["TunedHyperParameters"], job[key]["Value"])
        for job in training_jobs(aws, "warm", SortBy="CreationTime")
    ]
    search = BayesianSearch(ranges, 7, minimize=True, parents=parents)
    assert search.propose(trials[:3]) == trials[3].tuned
    assert search.propose(trials[:3]) != BayesianSearch(ranges, 7, minimize=True).propose(trials[:3])


# ---- requests that are refused


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            {"Strategy": "Hyperband", "TrainingJobEarlyStoppingType": "Auto"},
            "TrainingJobEarlyStoppingType must be Off for the strategy Hyperband",
        ),
        (
            {
                "Strategy": "Hyperband",
                "StrategyConfig": {"HyperbandStrategyConfig": {"MinResource": 3, "MaxResource": 9}},
            },
            "MinResource is 3, which is above the 2 epochs of a training job",
        ),
        ({"Strategy": "Grid"}, "Grid search takes categorical hyperparameters only, but factors_lr has"),
        (
            {"Strategy": "Grid", "ParameterRanges": CATEGORIES},
            "MaxNumberOfTrainingJobs is 3, but the grid has 6 combinations",
        ),
        (
            {"TuningJobCompletionCriteria": {"ConvergenceDetected": {"CompleteOnConvergence": "Enabled"}}},
            "does not support TuningJobCompletionCriteria.ConvergenceDetected",
        ),
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


def test_a_warm_start_needs_a_finished_parent_that_fits(aws: Aws, completed: dict[str, Any]) -> None:
    def warm(name: str, kind: str) -> dict[str, Any]:
        return {"ParentHyperParameterTuningJobs": [{f"{KIND}Name": name}], "WarmStartType": kind}

    other = {"InputDataConfig": [channel("train"), channel("test", f"s3://{BUCKET}/data/train/")]}
    assert "needs the data and the image of the parent tuning job tuned" in refused(
        aws, definition=other, WarmStartConfig=warm("tuned", "IdenticalDataAndAlgorithm")
    )
    with pytest.raises(AwsError, match="can't find a tuning job with the name nobody"):
        aws.call(
            "CreateHyperParameterTuningJob",
            **request("orphan", WarmStartConfig=warm("nobody", "TransferLearning")),
        )
