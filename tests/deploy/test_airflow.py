"""Both DAGs by ``airflow dags test``, in an Airflow of its own, against a local AWS: each branch, a failing stage."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from benchmarks.support.environments import DEFERRABLE_AIRFLOW, ROOT, programs_of
from lib import local, stages
from lib.stage_runs import run_id_from

DAGS = ROOT / "deploy" / "airflow" / "dags"
MWAA = ["apache-airflow==3.0.6", "apache-airflow-providers-amazon==9.12.0"]
"""What Amazon's managed Airflow of that version has."""
SMALL = {"ratings": 20_000, "epochs": 20, "num_factors": 8}


in_full = pytest.mark.skipif(
    os.environ.get("REELBOOK_AIRFLOW") != "all", reason="takes a minute: REELBOOK_AIRFLOW=all"
)


@dataclass
class Ended:
    """How a run of a DAG ended: its state, those of its tasks, its run id in Reelbook, what was logged."""

    state: str
    tasks: dict[str, str]
    run_id: str
    log: str


@dataclass
class Airflow:
    """An Airflow with a database of its own."""

    programs: Path
    variables: dict[str, str]
    outputs: Path

    def call(self, *arguments: str) -> str:
        command = [str(self.programs / "airflow"), *arguments]
        done = subprocess.run(command, env=self.variables, capture_output=True, text=True, timeout=300)
        return done.stdout + done.stderr

    def run(self, dag: str, parameters: dict[str, Any], **options: Any) -> Ended:
        """Run a DAG by ``airflow dags test``."""
        conf = json.dumps({"parameters": parameters, **options})
        log = self.call("dags", "test", dag, "--conf", conf)
        finished = re.search(r"DagRun Finished: .*?run_id=(\S+), .*?state=(\w+)", log)
        assert finished, log[-5000:]
        with closing(sqlite3.connect(self.outputs.with_name("airflow.db"))) as database:
            query = "SELECT task_id, state FROM task_instance WHERE dag_id = ? AND run_id = ?"
            tasks = dict(database.execute(query, (dag, finished[1])).fetchall())
        return Ended(finished[2], tasks, run_id_from(finished[1]), log)

    def table(self, *arguments: str) -> str:
        said = self.call(*arguments, "--output", "json")
        return next(line for line in said.splitlines() if line.startswith("["))


@pytest.fixture(scope="module")
def airflow(local_aws: local.Server, tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    home = tmp_path_factory.mktemp("airflow")
    variables = {
        **os.environ,
        **local.environment(local_aws),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "PYTHONWARNINGS": "ignore",
        "REELBOOK_HOME": str(ROOT),
        "REELBOOK_PYTHON": sys.executable,
        "REELBOOK_OUTPUTS": str(home / "outputs"),
        "REELBOOK_AWS_CONN": "",
        "REELBOOK_CHECK_SECONDS": "1",
        "REELBOOK_RETRIES": "0",
    }
    made = Airflow(programs_of("airflow", DEFERRABLE_AIRFLOW), variables, home / "outputs")
    made.call("db", "migrate")
    return made


def test_the_dags_can_be_imported(airflow: Airflow) -> None:
    found = {row["dag_id"] for row in json.loads(airflow.table("dags", "list", "--local"))}
    assert found == {"reelbook_stages", "reelbook_jobs"}, airflow.call(
        "dags", "list-import-errors", "--local"
    )


@in_full
def test_the_dags_can_be_imported_on_mwaas_version(airflow: Airflow) -> None:
    programs = programs_of("airflow-mwaa", MWAA)
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from airflow.models.dagbag import DagBag
bag = DagBag(sys.argv[1], include_examples=False)
print("found", bag.import_errors, sorted(bag.dags))
"""
    home = {"AIRFLOW_HOME": str(airflow.outputs.parent / "older")}
    migrated = subprocess.run(
        [programs / "airflow", "db", "migrate"], env={**airflow.variables, **home}, capture_output=True
    )
    assert migrated.returncode == 0
    done = subprocess.run(
        [programs / "python", "-c", program, DAGS],
        env={**airflow.variables, **home},
        capture_output=True,
        text=True,
    )
    assert "found {} ['reelbook_jobs', 'reelbook_stages']" in done.stdout, done.stdout + done.stderr


def test_the_stages_run_as_tasks(airflow: Airflow) -> None:
    ended = airflow.run("reelbook_stages", {**SMALL, "tuning": {"max_jobs": 2}}, tune=True)
    assert ended.state == "success"
    ran = {name for name, state in ended.tasks.items() if state == "success"}
    assert ran == {stage.name for stage in stages.STAGES if stage.name not in ("03_train", "07_deploy")} | {
        "train_or_tune",
        "if_deploy",
    }
    assert ended.tasks["03_train"] == ended.tasks["07_deploy"] == "skipped"
    assert "20,000 generated ratings" in ended.log  # what the cells print
    record = json.loads((airflow.outputs / ended.run_id / "run.json").read_text())
    assert {stage["name"] for stage in record["stages"] if stage["status"] == "completed"} == ran - {
        "train_or_tune",
        "if_deploy",
    }
    assert (airflow.outputs / ended.run_id / "report.html").exists()
    scraps = json.loads((airflow.outputs / ended.run_id / "scraps.json").read_text())
    assert scraps["rmse"] < scraps["baseline_rmse"]


@in_full
def test_a_stage_that_fails_fails_the_run_and_is_tidied_up_after(airflow: Airflow) -> None:
    ended = airflow.run("reelbook_stages", {**SMALL, "side_features": ["no_such_column"]})
    assert ended.state == "failed"
    assert ended.tasks["08_clean_up"] == "success"
    assert "failed" in (ended.tasks["00_collect"], ended.tasks["01_preprocess"])
    assert ended.tasks["06_evaluate"] == "upstream_failed"
    assert "no_such_column" in ended.log


def test_the_jobs_run_by_operators_and_what_they_submit_is_what_the_notebooks_do(airflow: Airflow) -> None:
    ended = airflow.run("reelbook_jobs", SMALL, deploy=True)
    assert ended.state == "success", ended.log[-3000:]
    assert ended.tasks["train"] == ended.tasks["transform"] == ended.tasks["endpoint"] == "success"
    assert ended.tasks["tune"] == "skipped"
    sagemaker = boto3.client("sagemaker")
    assert not sagemaker.list_endpoints(NameContains=ended.run_id[:18])["Endpoints"]  # cleaned up
    before = names(sagemaker, ended.run_id)
    assert len(before) == 1
    command = [sys.executable, str(ROOT / "run_all.py"), "--run-id", ended.run_id, "--only", "03_train"]
    done = subprocess.run(command, env=airflow.variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert names(sagemaker, ended.run_id) == before  # the notebook took up the operator's job


@in_full
def test_the_tuning_branch_goes_on_with_the_best_job(airflow: Airflow) -> None:
    ended = airflow.run("reelbook_jobs", {**SMALL, "tuning": {"max_jobs": 2}}, tune=True)
    assert ended.state == "success", ended.log[-3000:]
    assert (ended.tasks["tune"], ended.tasks["train"]) == ("success", "skipped")
    scraps = json.loads((airflow.outputs / ended.run_id / "scraps.json").read_text())
    name = (
        scraps["training_job_name"].rpartition("-")[0].rpartition("-")[0]
    )  # less the job's number and digest
    job = boto3.client("sagemaker").describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    assert scraps["training_job_name"] == job["BestTrainingJob"]["TrainingJobName"]


def test_a_task_that_is_tried_again_takes_up_its_job(airflow: Airflow) -> None:
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import boto3
from reelbook_operators import TakingUpHook
client = boto3.client("sagemaker")
name = client.list_training_jobs(StatusEquals="Completed", MaxResults=1)["TrainingJobSummaries"][0]["TrainingJobName"]
job = client.describe_training_job(TrainingJobName=name)
keys = ("AlgorithmSpecification", "RoleArn", "InputDataConfig", "OutputDataConfig", "ResourceConfig", "HyperParameters")
request = {"TrainingJobName": name, "StoppingCondition": {"MaxRuntimeInSeconds": 60}, **{key: job[key] for key in keys}}
request["AlgorithmSpecification"].pop("MetricDefinitions", None)
hook = TakingUpHook(aws_conn_id=None)
hook.create_training_job(request, wait_for_completion=True, print_log=False)
print("taken up" if request["TrainingJobName"] == name else "not taken up")
broken = {**request, "TrainingJobName": "broken", "HyperParameters": {**job["HyperParameters"], "feature_dim": "1"}}
for expected in ("broken", "broken-2"):
    try:
        hook.create_training_job(broken, wait_for_completion=True, print_log=False, check_interval=1)
    except Exception as error:
        print("failed" if broken["TrainingJobName"] == expected else f"{broken['TrainingJobName']}: {error}")
    broken["TrainingJobName"] = "broken"
"""
    done = subprocess.run(
        [airflow.programs / "python", "-c", program, str(DAGS)],
        env=airflow.variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert [line for line in done.stdout.splitlines() if line.endswith(("taken up", "failed"))] == [
        "taken up",
        "failed",
        "failed",
    ], done.stdout + done.stderr


def names(sagemaker: Any, run_id: str) -> list[str]:
    found = sagemaker.list_training_jobs(NameContains=run_id[:18])["TrainingJobSummaries"]
    return sorted(job["TrainingJobName"] for job in found if job["TrainingJobName"].startswith(f"{run_id}-"))
