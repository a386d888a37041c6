"""The notebooks themselves, run by the command with small parameters on a local AWS of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

ROOT = Path(__file__).parents[2]
SMALL = {"ratings": 20_000, "epochs": 20, "num_factors": 8, "test_part_rows": 700}


def run_all(outputs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "REELBOOK_OUTPUTS": str(outputs)}
    command = [sys.executable, str(ROOT / "run_all.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def options(parameters: dict) -> list[str]:
    return [word for name, value in parameters.items() for word in ("-p", name, json.dumps(value))]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, local_aws):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def small_run(outputs):
    """The default workflow with small parameters: where it left its files, and what it said."""
    done = run_all(outputs, "--run-id", "small", *options(SMALL))
    assert done.returncode == 0, done.stdout + done.stderr
    return outputs / "small", done


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_every_stage_completes_but_for_tuning_and_deployment(small_run):
    states = {stage["name"]: stage["status"] for stage in record(small_run[0])["stages"]}
    assert states.pop("04_tune") == "skipped"
    assert states.pop("07_deploy") == "skipped"
    assert set(states.values()) == {"completed"}
    assert record(small_run[0])["status"] == "completed"


def test_it_leaves_executed_notebooks_a_record_and_a_report(small_run):
    folder, done = small_run
    names = {path.name for path in folder.iterdir()}
    assert {"00_collect.ipynb", "06_evaluate.ipynb", "run.json", "scraps.json", "report.html"} <= names
    assert "report.html" in done.stdout


def test_the_model_beats_the_mean_and_nothing_beats_the_truth(small_run):
    scraps = record(small_run[0])["scraps"]
    best = scraps["rmse_compared"]["best reachable"]
    assert best < scraps["rmse"] < scraps["naive_rmse"]
    assert best < scraps["baseline_rmse"] < scraps["naive_rmse"]
    assert 0 < scraps["ndcg"] <= 1
    assert scraps["skipped_rows"] > 0


def test_every_figure_has_an_alternative_text(small_run):
    figures = 0
    for path in small_run[0].glob("0*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    figures += 1
                    assert output["metadata"]["image/png"]["alt"]
    assert figures >= 7


def test_no_credential_is_in_anything_a_run_leaves(small_run, local_aws):
    for path in small_run[0].rglob("*"):
        text = path.read_text()
        assert local_aws.credentials.secret_key not in text
        assert local_aws.credentials.access_key not in text


def test_a_second_run_with_the_same_parameters_reuses_every_stage_but_the_last(outputs, small_run):
    done = run_all(outputs, "--run-id", "reused", *options(SMALL))
    assert done.returncode == 0, done.stderr
    run = record(outputs / "reused")
    states = {stage["name"]: stage["status"] for stage in run["stages"]}
    assert states.pop("08_clean_up") == "completed"
    assert set(states.values()) == {"reused", "skipped"}
    assert {stage["origin"] for stage in run["stages"] if stage["status"] == "reused"} == {"small"}
    first = record(small_run[0])["scraps"]
    assert {name: run["scraps"][name] for name in first} == {**first, "removed_resources": 0}
    page = (outputs / "reused" / "report.html").read_text()
    assert "Up to date since the run small." in page
    assert (outputs / "reused" / "06_evaluate.html").exists()


def test_another_hyperparameter_runs_what_depends_on_it(outputs, small_run):
    """The walk-through of docs/runs.md: change one hyperparameter, run again, compare."""
    planned = run_all(outputs, "plan", *options({**SMALL, "num_factors": 4}))
    done = run_all(outputs, "--run-id", "changed", *options({**SMALL, "num_factors": 4}))
    assert done.returncode == 0, done.stderr
    stages = {stage["name"]: stage for stage in record(outputs / "changed")["stages"]}
    states = {name: stage["status"] for name, stage in stages.items()}
    assert [states[name] for name in ("00_collect", "01_preprocess", "02_prepare")] == ["reused"] * 3
    assert [states[name] for name in ("03_train", "05_transform", "06_evaluate")] == ["completed"] * 3
    assert stages["03_train"]["why"].startswith("num_factors is 4, was 8 (run ")
    assert stages["05_transform"]["why"].startswith("model_uri is another one")
    assert stages["03_train"]["jobs"][0]["arn"].endswith(stages["03_train"]["scraps"]["training_job_name"])
    assert re.search(r"^03_train +runs +num_factors is 4, was 8 \(run ", planned.stdout, flags=re.M)
    compared = run_all(outputs, "diff", "small", "changed")
    assert compared.returncode == 0, compared.stderr
    assert "num_factors  8 -> 4  03_train" in compared.stdout
    page = (outputs / "changed" / "report.html").read_text()
    assert "better than" in page or "worse than" in page
    assert (outputs / "changed" / "diff-small.html").exists()
    assert "./changed/report.html" in (outputs / "index.html").read_text()


def without_times_and_names(path: Path, run_id: str) -> list:
    """Return the outputs of an executed notebook, but for what tells the run, its jobs and how long they took."""
    told = []
    for cell in json.loads(path.read_text())["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {"text": output.get("text")})
            text = json.dumps(data).replace(run_id, "RUN")
            text = re.sub(r"-[0-9a-f]{8}\b", "-DIGEST", text)
            text = re.sub(r"\d+(\.\d+)? (m?s)\b", "T", text)
            text = re.sub(r"ml\.m5\.\w+[^}]*", "ml", text) if "billable" in text else text
            told.append(text if "created" not in text else "")
    return told


def test_two_executions_are_equal_but_for_times_and_names(outputs, small_run):
    done = run_all(outputs, "--run-id", "again", "--no-cache", *options(SMALL))
    assert done.returncode == 0, done.stderr
    first, second = record(small_run[0])["scraps"], record(outputs / "again")["scraps"]
    for name in ("rmse", "mae", "ndcg", "baseline_rmse", "rating_count", "skipped_rows"):
        assert first[name] == second[name], name
    for name in ("00_collect", "01_preprocess", "02_prepare", "03_train", "05_transform", "06_evaluate"):
        one = without_times_and_names(small_run[0] / f"{name}.ipynb", "small")
        assert one == without_times_and_names(outputs / "again" / f"{name}.ipynb", "again"), name


def test_tuning_takes_the_place_of_training_and_data_can_be_deleted(outputs, small_run):
    small = {**SMALL, "tune": True, "tuning.max_jobs": 2, "delete_data": True}
    done = run_all(outputs, "--run-id", "tuned", *options(small))
    assert done.returncode == 0, done.stdout + done.stderr
    run = record(outputs / "tuned")
    states = {stage["name"]: stage["status"] for stage in run["stages"]}
    assert (states["03_train"], states["04_tune"]) == ("skipped", "completed")
    assert run["scraps"]["tuning_job_name"].startswith("tuned-tune-")
    assert run["scraps"]["removed_objects"] > 3  # its own: what it reused stays with the run that made it


def test_the_bayesian_algorithm_runs_through_the_same_notebooks(outputs, small_run):
    extended = {**SMALL, "algorithm": "bayesian", "extensions": {"samples": 20, "burn_in": 5}}
    done = run_all(outputs, "--run-id", "bayesian", *options(extended))
    assert done.returncode == 0, done.stdout + done.stderr
    scraps = record(outputs / "bayesian")["scraps"]
    assert scraps["rmse_compared"]["best reachable"] < scraps["rmse"] < scraps["baseline_rmse"]


def test_an_accepted_model_is_deployed_and_cleaned_up_and_another_is_not(outputs, small_run):
    deployed = {**SMALL, "deploy": True}
    done = run_all(outputs, "--run-id", "deployed", "--to", "07_deploy", *options(deployed))
    assert done.returncode == 0, done.stdout + done.stderr
    scraps = record(outputs / "deployed")["scraps"]
    client = boto3.client("sagemaker")
    endpoint = client.describe_endpoint(EndpointName=scraps["endpoint_name"])
    assert endpoint["EndpointStatus"] == "InService"
    assert endpoint["EndpointConfigName"] == scraps["endpoint_config_name"]
    assert scraps["served_difference"] < 1e-4

    again = run_all(outputs, "--run-id", "deployed", "--only", "07_deploy", *options(deployed))
    assert again.returncode == 0, again.stderr
    assert record(outputs / "deployed")["scraps"]["endpoint_name"] == scraps["endpoint_name"]

    refused = run_all(
        outputs, "--run-id", "deployed", "--from", "06_evaluate", *options({**deployed, "margin": 0.9})
    )
    assert refused.returncode == 0, refused.stderr
    stages = {stage["name"]: stage for stage in record(outputs / "deployed")["stages"]}
    assert (stages["07_deploy"]["status"], stages["07_deploy"]["why"]) == ("skipped", "accepted is false")
    assert stages["08_clean_up"]["status"] == "completed"
    names = [item["EndpointName"] for item in client.list_endpoints(NameContains="deployed")["Endpoints"]]
    assert names == []


def test_the_logs_of_all_jobs_are_in_one_place(outputs, small_run):
    whole = run_all(outputs, "logs", "small")
    assert whole.returncode == 0, whole.stderr
    jobs = [line for line in whole.stdout.splitlines() if line.startswith("== ")]
    assert [line.split(",")[0] for line in jobs] == ["== 03_train", "== 05_transform"]
    assert "#progress_metric" in whole.stdout
    one = run_all(outputs, "logs", "small", "--stage", "05_transform")
    assert one.stdout.startswith("== 05_transform")
    assert "#progress_metric" not in one.stdout
    none = run_all(outputs, "logs", "small", "--stage", "06_evaluate")
    assert none.stdout == "The stage 06_evaluate of the run small has no job with a log.\n"
    wrong = run_all(outputs, "logs", "small", "--stage", "05_transfrom")
    assert wrong.returncode == 2
    assert "has no stage `05_transfrom`: did you mean `05_transform`?" in wrong.stderr
    wrong = run_all(outputs, "logs", "small", "--stage", "99")
    assert "has no stage `99`." in wrong.stderr
    assert "06_evaluate" in wrong.stderr


def test_the_logs_of_jobs_that_were_handed_in_are_there_too(outputs, small_run):
    path = small_run[0] / "run.json"
    kept = path.read_text()
    content = json.loads(kept)
    content["stages"] = [one for one in content["stages"] if one["name"] != "03_train"]
    path.write_text(json.dumps(content))
    try:
        done = run_all(outputs, "logs", "small")
    finally:
        path.write_text(kept)
    assert done.returncode == 0, done.stderr
    assert "== the run, training job small-train" in done.stdout


def test_a_part_of_the_stages_goes_on_with_the_run_it_names(outputs, small_run):
    done = run_all(
        outputs, "--only", "06_evaluate", "--run-id", "small", "-p", "margin", "0.9", *options(SMALL)
    )
    assert done.returncode == 0, done.stderr
    assert record(small_run[0])["scraps"]["accepted"] is False


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "empty"),
        ("customer_id\tproduct_id\tstar_rating\n" + "a\tb\t3\n" * 30, "customer"),
        (
            "customer_id\tproduct_id\tstar_rating\n"
            + "".join(f"c{n % 9}\tv{n % 7}\t4\n" for n in range(200)),
            "equal",
        ),
        ("customer_id\tproduct_id\tstar_rating\n" + "a\tb\tbad\n" * 30, "malformed"),
        ("\x89PNG\r\n\x1a\n" + "x" * 99, "png image"),
    ],
    ids=["empty", "one customer", "all ratings equal", "mostly malformed", "another format"],
)
def test_input_that_cannot_be_used_fails_in_one_sentence(outputs, tmp_path, content, sentence):
    path = tmp_path / "ratings.tsv"
    path.write_bytes(content.encode("latin-1"))
    run_id = f"bad-{len(list(outputs.iterdir()))}"
    done = run_all(
        outputs, "--run-id", run_id, "--to", "01_preprocess", "-p", "source", "file", "-p", "path", str(path)
    )
    assert done.returncode == 1
    failed = next(stage for stage in record(outputs / run_id)["stages"] if stage["status"] == "failed")
    assert sentence in failed["error"]["message"].lower()
    assert failed["error"]["kind"] == "DataError"
    assert "Traceback" not in done.stderr
    assert f"{failed['name']} failed in cell" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "epoch", "3"], "did you mean `epochs`"),
        (["-p", "epochs", "many"], "epochs"),
        (["-p", "training", "{instance_typ: ml.m5.large}"], "did you mean `instance_type`"),
        (["-p", "hyperparameters", "{linear_lrr: 1}"], "did you mean `linear_lr`"),
        (["--only", "03_trian"], "03_train"),
        (["-f", "parameters/lokal.yaml"], "local.yaml"),
        (["-p", "target", "moon"], "target"),
        (["-p", "bucket", "X"], "`bucket` cannot be 'X'"),
        (["check", "-p", "bucket", "X"], "`bucket` cannot be 'X'"),
        (
            ["-p", "target", "aws", "-p", "algorithm", "bayesian"],
            "`algorithm: bayesian` is a local extension",
        ),
        (["-p", "extensions", "{early_stoping: 3}"], "did you mean `early_stopping`"),
        (["-p", "source", "movielens-2m"], "movielens"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_refused_in_one_sentence_before_any_kernel_starts(outputs, arguments, sentence):
    before = set(outputs.iterdir())
    done = run_all(outputs, *arguments)
    assert done.returncode == 2
    assert sentence.lower() in done.stderr.lower()
    assert len(done.stderr.strip().splitlines()) == 1
    assert set(outputs.iterdir()) == before
