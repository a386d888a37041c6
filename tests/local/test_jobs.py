"""`lib.jobs` against a real local AWS: what is submitted, taken up, refused, and cleaned up."""

from __future__ import annotations

import dataclasses
import re
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime

import boto3
import numpy as np
import pytest

from lib import aws, cleanup, features, job_control, job_records, job_requests, jobs, storage
from lib.errors import ConnectionFailed, DataError, JobFailed, ParameterError

# The SDK raises SyntaxWarning and DeprecationWarning when it is first imported.
pytestmark = [pytest.mark.usefixtures("local_aws"), pytest.mark.filterwarnings("ignore::Warning")]

CUSTOMERS, VIDEOS = 30, 20
HYPERPARAMETERS = {
    "feature_dim": CUSTOMERS + VIDEOS,
    "num_factors": 4,
    "predictor_type": "regressor",
    "epochs": 3,
    "mini_batch_size": 100,
}


@pytest.fixture(scope="module")
def account():
    return aws.connect("local", tags={"team": "tests"})


@pytest.fixture(scope="module")
def data(account):
    """Channels ``train`` and ``validate`` and a transform input of three parts, and the matrix behind it."""
    storage.ensure_bucket("jobs", account.region)
    random = np.random.default_rng(0)
    uris = {}
    for name, rows in (("train", 900), ("validate", 200)):
        customer, video = random.integers(CUSTOMERS, size=rows), random.integers(VIDEOS, size=rows)
        X = features.design_matrix(customer, video, CUSTOMERS, VIDEOS)
        labels = 3 + np.sin(customer) + np.cos(video)
        uris[name] = features.write_channel(X, labels, f"s3://jobs/data/{name}", progress=False)
    uris["parts"] = "s3://jobs/data/parts/"
    features.write_parts(X, uris["parts"], rows=90, progress=False)
    return uris, X


def train(account, uris, run_id, **changes):
    arguments = {
        "train_uri": uris["train"],
        "test_uri": uris["validate"],
        "output_uri": f"s3://jobs/{run_id}/train",
        "hyperparameters": HYPERPARAMETERS,
        "progress": False,
    }
    return jobs.train(account, run_id, **{**arguments, **changes})


@pytest.fixture(scope="module")
def trained(account, data):
    return train(account, data[0], "first")


def test_a_training_job_leaves_a_model_metrics_and_a_learning_curve(trained):
    assert storage.exists(trained.model_uri)
    assert trained.metrics["test:rmse"] > 0
    curve = job_control.learning_curve(trained.job_name)
    assert list(curve.index) == [0, 1, 2]
    assert curve["rmse"].iloc[-1] == pytest.approx(trained.metrics["train:rmse"], rel=1e-3)


def test_the_same_request_with_the_same_inputs_takes_the_job_up(account, data, trained, capsys):
    assert train(account, data[0], "first") == trained
    assert "Took up the training job" in capsys.readouterr().out


def test_another_hyperparameter_or_another_input_makes_another_job(account, data, trained):
    changed = train(account, data[0], "first", hyperparameters={**HYPERPARAMETERS, "epochs": 2})
    assert changed.job_name != trained.job_name
    storage.write_bytes(storage.read_bytes(data[0]["validate"]), "s3://jobs/data/other.pbr")
    other = train(account, data[0], "first", test_uri="s3://jobs/data/other.pbr")
    assert other.job_name not in (trained.job_name, changed.job_name)


def test_a_job_whose_model_is_gone_is_not_taken_up(account, data):
    first = train(account, data[0], "gone")
    storage.delete_prefix(first.model_uri)
    second = train(account, data[0], "gone")
    assert second.job_name != first.job_name
    assert storage.exists(second.model_uri)


def test_all_that_a_parameter_file_says_of_training_is_sent(data):
    account = aws.connect(
        "local", kms_key="key-1", subnets=["subnet-1"], security_group_ids=["sg-1"], tags={"team": "tests"}
    )
    training = {
        "instance_type": "ml.c5.xlarge",
        "volume_gb": 7,
        "max_run_seconds": 600,
        "spot": True,
        "max_wait_seconds": 900,
    }
    job = train(account, data[0], "sent", training=training)
    sent = boto3.client("sagemaker").describe_training_job(TrainingJobName=job.job_name)
    assert sent["ResourceConfig"]["InstanceType"] == "ml.c5.xlarge"
    assert sent["ResourceConfig"]["InstanceCount"] == 1
    assert sent["ResourceConfig"]["VolumeSizeInGB"] == 7
    assert sent["ResourceConfig"]["VolumeKmsKeyId"] == sent["OutputDataConfig"]["KmsKeyId"] == "key-1"
    assert sent["StoppingCondition"] == {"MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 900}
    assert sent["EnableManagedSpotTraining"] is True
    assert sent["CheckpointConfig"]["S3Uri"].startswith("s3://jobs/sent/")
    assert sent["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert [channel["ChannelName"] for channel in sent["InputDataConfig"]] == ["train", "test"]
    assert "factorization-machines" in sent["AlgorithmSpecification"]["TrainingImage"]
    tags = boto3.client("sagemaker").list_tags(ResourceArn=sent["TrainingJobArn"])["Tags"]
    assert {"Key": "team", "Value": "tests"} in tags
    assert {"Key": job_requests.RUN_TAG, "Value": "sent"} in tags


@pytest.mark.parametrize(("stops", "status"), [(True, {"Stopping", "Stopped"}), (False, {"InProgress"})])
def test_an_interrupt_stops_the_job_only_where_that_is_asked(
    account, data, monkeypatch, capsys, stops, status
):
    def interrupted(answer):
        if answer.get("SecondaryStatus") == "Training":
            raise KeyboardInterrupt

    monkeypatch.setattr(job_control, "epochs_shown", lambda *_: nullcontext(interrupted))
    endless = {**HYPERPARAMETERS, "epochs": 5_000_000}
    run_id = f"stop-{stops}".lower()
    with pytest.raises(KeyboardInterrupt):
        train(account, data[0], run_id, hyperparameters=endless, stop_on_interrupt=stops)
    client = boto3.client("sagemaker")
    (name,) = [
        job["TrainingJobName"]
        for job in client.list_training_jobs(NameContains=run_id)["TrainingJobSummaries"]
    ]
    assert client.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] in status
    assert (f"The training job {name} was asked to stop." in capsys.readouterr().out) == stops
    if not stops:
        client.stop_training_job(TrainingJobName=name)
    assert job_control.wait_until_ended("training", name, 60)


def test_a_run_s_record_names_its_jobs_with_what_they_may_cost(account, data, trained):
    (job,) = job_records.describe(
        {"training_job_name": trained.job_name, "rows": 3}, {"ml.m5.xlarge": 3600.0}
    )
    assert job["arn"].endswith(f":training-job/{trained.job_name}")
    assert (job["kind"], job["instance_type"], job["instance_count"]) == ("training", "ml.m5.xlarge", 1)
    assert job["billable_seconds"] == trained.billable_seconds
    assert job["estimated_cost"] == pytest.approx(trained.billable_seconds)
    (unpriced,) = job_records.describe({"training_job_name": trained.job_name}, {"ml.c5.xlarge": 1.0})
    assert "estimated_cost" not in unpriced
    assert job_records.describe({"training_job_name": "gone", "transform_job_name": "gone"}, {}) == []
    table = job_records.bill({}, training_job_name=trained.job_name)
    assert table.loc[trained.job_name, "estimated cost, USD"] == "no price given"
    assert len(job_records.bill({}, training_job_name="gone")) == 0


def test_the_cost_of_a_search_is_that_of_all_its_training_jobs(account, data):
    found = jobs.tune(
        account,
        "priced",
        train_uri=data[0]["train"],
        test_uri=data[0]["validate"],
        output_uri="s3://jobs/priced/tune",
        hyperparameters=HYPERPARAMETERS,
        ranges={"linear_lr": [0.001, 0.1]},
        tuning={"max_jobs": 2},
        progress=False,
    )
    scraps = {"tuning_job_name": found.job_name, "training_job_name": found.best.job_name}
    (job,) = job_records.describe(scraps, {})
    client = boto3.client("sagemaker")
    names = [
        summary["TrainingJobName"]
        for summary in client.list_training_jobs_for_hyper_parameter_tuning_job(
            HyperParameterTuningJobName=found.job_name
        )["TrainingJobSummaries"]
    ]
    seconds = [client.describe_training_job(TrainingJobName=name)["BillableTimeInSeconds"] for name in names]
    assert len(seconds) == 2
    assert (job["kind"], job["billable_seconds"]) == ("tuning", sum(seconds))


def test_a_spot_job_waits_by_default_as_long_as_sagemaker_allows(account, data):
    job = train(account, data[0], "spot", training={"spot": True, "max_run_seconds": 600})
    sent = boto3.client("sagemaker").describe_training_job(TrainingJobName=job.job_name)
    assert sent["StoppingCondition"]["MaxWaitTimeInSeconds"] == 3600


def test_a_failed_job_shows_its_reason_and_its_last_log_lines(account, data, capsys):
    wrong = {**HYPERPARAMETERS, "feature_dim": 7}
    with pytest.raises(JobFailed) as failed:
        train(account, data[0], "fails", hyperparameters=wrong)
    assert "feature_dim" in failed.value.reason
    assert failed.value.job in str(failed.value)
    assert failed.value.log_lines
    assert "The last lines of the log" in capsys.readouterr().out


def test_a_failed_job_is_not_taken_up_again(account, data):
    wrong = {**HYPERPARAMETERS, "feature_dim": 8}
    names = set()
    for _ in range(2):
        with pytest.raises(JobFailed) as failed:
            train(account, data[0], "fails-twice", hyperparameters=wrong)
        names.add(failed.value.job)
    assert len(names) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hyperparameters": {**HYPERPARAMETERS, "num_factor": 3}}, "did you mean `num_factors`"),
        ({"training": {"instance_typ": "ml.m5.large"}}, "did you mean `instance_type`"),
        ({"training": {"volume_gb": "big"}}, "training.volume_gb"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_submitted(account, data, changes, sentence):
    before = boto3.client("sagemaker").list_training_jobs(MaxResults=100)["TrainingJobSummaries"]
    with pytest.raises(ParameterError, match="(?i)" + re.escape(sentence)):
        train(account, data[0], "wrong", **changes)
    after = boto3.client("sagemaker").list_training_jobs(MaxResults=100)["TrainingJobSummaries"]
    assert len(after) == len(before)


def test_the_bayesian_algorithm_leaves_a_learning_curve_with_the_test_error(account, data):
    extensions = {"samples": 12, "burn_in": 3}
    job = train(account, data[0], "bayesian", algorithm="bayesian", extensions=extensions)
    sent = boto3.client("sagemaker").describe_training_job(TrainingJobName=job.job_name)["HyperParameters"]
    assert sent["local_algorithm"] == "bayesian"
    assert sent["local_samples"] == "12"
    curve = job_control.learning_curve(job.job_name)
    assert list(curve.index) == list(range(15))
    assert curve["test_rmse"].iloc[-1] == pytest.approx(job.metrics["test:rmse"], abs=0.05)
    assert curve["rmse"].notna().all()


def test_a_search_is_repeated_by_its_seed_and_the_default_seed_is_one(account, data):
    tried = []
    for run_id, seed in (("first", 0), ("second", 0), ("third", 1)):
        found = jobs.tune(
            account,
            f"{run_id}-search",
            train_uri=data[0]["train"],
            test_uri=data[0]["validate"],
            output_uri=f"s3://jobs/{run_id}-search",
            hyperparameters=HYPERPARAMETERS,
            ranges={"factors_lr": [0.001, 0.1]},
            tuning={"max_jobs": 2},
            seed=seed,
            progress=False,
        )
        tried.append(sorted(found.jobs["factors_lr"]))
    assert tried[0] == tried[1] != tried[2]


def test_early_stopping_and_seeds_hold_for_the_jobs_of_a_search(account, data):
    uris, _ = data
    result = jobs.tune(
        account,
        "extended",
        train_uri=uris["train"],
        test_uri=uris["validate"],
        output_uri="s3://jobs/extended",
        hyperparameters=HYPERPARAMETERS,
        ranges={"factors_lr": [0.001, 0.1]},
        extensions={"early_stopping": 2, "seeds": 2},
        tuning={"max_jobs": 1, "max_parallel_jobs": 1},
        progress=False,
    )
    assert len(result.jobs) == 1
    curve = job_control.learning_curve(result.best.job_name)
    assert list(curve.index) == [0, 1, 2]
    assert curve["test_rmse"].notna().all()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"algorithm": "bayesian"}, "algorithm: bayesian"),
        ({"extensions": {"early_stopping": 3}}, "extensions.early_stopping: 3"),
        ({"hyperparameters": {**HYPERPARAMETERS, "local_seeds": 2}}, "local_seeds: 2"),
    ],
)
def test_a_local_extension_is_refused_for_aws_before_anything_is_submitted(account, data, changes, name):
    aws_account = replace(account, target="aws")
    with pytest.raises(ParameterError, match=f"`{name}` is a local extension, which SageMaker does not have"):
        train(aws_account, data[0], "refused-on-aws", **changes)
    changes = {**changes, "hyperparameters": changes.get("hyperparameters", HYPERPARAMETERS)}
    if "algorithm" not in changes:
        with pytest.raises(ParameterError, match=f"`{name}` is a local extension"):
            jobs.tune(
                aws_account,
                "refused-on-aws",
                train_uri=data[0]["train"],
                test_uri=data[0]["validate"],
                output_uri="s3://jobs/refused",
                ranges={"factors_lr": [0.001, 0.1]},
                progress=False,
                **changes,
            )


def test_what_sagemaker_refuses_is_said_with_the_job_and_its_reason(account, data):
    with pytest.raises(JobFailed, match=r"SageMaker refused the training job .*instance") as refused:
        train(account, data[0], "refused", training={"instance_type": "ml.unheard.of"})
    assert "ml.unheard.of" in refused.value.reason


def test_a_transform_job_answers_every_row_in_order(account, data, trained, tmp_path):
    from lib import fm

    uris, X = data
    result = jobs.transform(
        account,
        "first",
        model_uri=trained.model_uri,
        input_uri=uris["parts"],
        output_uri="s3://jobs/first/transform",
        progress=False,
    )
    scores = jobs.read_predictions(result.predictions_uri)
    model = fm.load(storage.download(trained.model_uri, tmp_path / "model.tar.gz"))
    expected = model.predict(X)
    assert scores == pytest.approx(expected, abs=1e-5)


def test_a_corrected_role_makes_a_new_model(account, data, trained):
    def model_of(role):
        return jobs.transform(
            replace(account, role_arn=role),
            "role",
            model_uri=trained.model_uri,
            input_uri=data[0]["parts"],
            output_uri="s3://jobs/role",
            progress=False,
        ).model_name

    other = "arn:aws:iam::123456789012:role/corrected"
    corrected = model_of(other)
    assert corrected != model_of(account.role_arn)
    described = boto3.client("sagemaker").describe_model(ModelName=corrected)
    assert described["ExecutionRoleArn"] == other


def test_a_target_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ConnectionFailed, match="SageMaker does not answer"):
        job_control.find(job_control.client().describe_model, ModelName="any")


def test_predictions_that_are_not_there_or_not_json_lines_are_one_sentence(account):
    with pytest.raises(DataError, match="no predictions under s3://jobs/nothing"):
        jobs.read_predictions("s3://jobs/nothing")
    storage.write_bytes(b"no json\n", "s3://jobs/foreign/part-00000.pbr.out")
    with pytest.raises(DataError, match=r"part-00000\.pbr\.out is not JSON lines"):
        jobs.read_predictions("s3://jobs/foreign")


def test_a_tuning_job_returns_all_jobs_and_the_best(account, data):
    uris, _ = data
    result = jobs.tune(
        account,
        "tuned-run-with-a-long-name",
        train_uri=uris["train"],
        test_uri=uris["validate"],
        output_uri="s3://jobs/tuned",
        hyperparameters=HYPERPARAMETERS,
        ranges={"factors_lr": [0.001, 0.1], "epochs": [1, 3]},
        tuning={"max_jobs": 3, "max_parallel_jobs": 2},
        seed=1,
        progress=False,
    )
    assert len(result.jobs) == 3
    assert result.best.metrics["test:rmse"] == pytest.approx(result.jobs["test:rmse"].min())
    assert set(result.best_hyperparameters) == {"factors_lr", "epochs"}
    assert len(result.job_name) <= 32
    assert storage.exists(result.best.model_uri)


@pytest.mark.parametrize("values", [[1, 1], [2, 1], ["a", "b"], [1], [True, False]])
def test_a_range_that_is_none_is_refused(values):
    with pytest.raises(ParameterError, match="factors_lr"):
        job_requests.parameter_ranges({"factors_lr": values})


def test_a_region_without_the_algorithm_is_one_sentence(account):
    nowhere = dataclasses.replace(account, region="moon-east-1")
    with pytest.raises(ParameterError, match="no Factorization Machines image for the region 'moon-east-1'"):
        jobs.transform(nowhere, "r", model_uri="s3://a/b", input_uri="s3://a/c", output_uri="s3://a/d")


def test_a_job_without_a_log_has_no_learning_curve_and_says_so(account, monkeypatch):
    monkeypatch.setattr(job_control, "_LOG_ATTEMPTS", 1)
    with pytest.raises(DataError, match="no training metrics"):
        job_control.learning_curve("never-was")


def test_a_transform_job_that_lost_an_output_is_not_taken_up(account, data, trained):
    def run() -> jobs.TransformResult:
        return jobs.transform(
            account,
            "lost",
            model_uri=trained.model_uri,
            input_uri=data[0]["parts"],
            output_uri="s3://jobs/lost",
            progress=False,
        )

    first = run()
    assert run() == first
    storage.delete_prefix(storage.list_objects(first.predictions_uri)[0].uri)
    assert run().job_name != first.job_name


def test_the_run_s_own_tag_cannot_be_overridden(data):
    mine = aws.connect("local", tags={job_requests.RUN_TAG: "another", "team": "tests"})
    job = train(mine, data[0], "tagged")
    arn = boto3.client("sagemaker").describe_training_job(TrainingJobName=job.job_name)["TrainingJobArn"]
    tags = boto3.client("sagemaker").list_tags(ResourceArn=arn)["Tags"]
    assert {"Key": job_requests.RUN_TAG, "Value": "tagged"} in tags


def test_cleaning_up_lists_and_removes_what_the_run_made_and_nothing_else(account, data, trained):
    for run_id in ("mine", "mine-too"):
        jobs.transform(
            account,
            run_id,
            model_uri=trained.model_uri,
            input_uri=data[0]["parts"],
            output_uri=f"s3://jobs/{run_id}",
            progress=False,
        )
    mine = cleanup.created_by("mine")
    assert [item.kind for item in mine] == ["model"]
    cleanup.remove(mine)
    cleanup.remove(mine)  # gone meanwhile: nothing to do
    assert cleanup.created_by("mine") == []
    assert [item.kind for item in cleanup.created_by("mine-too")] == ["model"]


def test_cleaning_up_passes_over_a_job_that_has_ended_since_it_was_listed(trained):
    ended = cleanup.Resource("training job", trained.job_name, "InProgress", datetime.now())
    cleanup.remove([ended])
    described = boto3.client("sagemaker").describe_training_job(TrainingJobName=trained.job_name)
    assert described["TrainingJobStatus"] == "Completed"
    assert storage.exists(trained.model_uri)


@pytest.mark.parametrize(("word", "length"), [("tune", 32), ("transform", 63)])
@pytest.mark.parametrize("run_id", ["r", "20261123-021530", "a-run-of-thirty-characters-ab"])
def test_names_fit_differ_by_identity_and_contain_the_stem_of_the_run(run_id, word, length):
    names = {job_control.job_name(run_id, word, identity, length) for identity in range(50)}
    assert len(names) == 50
    for name in names:
        assert len(name) <= length
        assert job_control.stem(run_id) in name
        assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", name)
