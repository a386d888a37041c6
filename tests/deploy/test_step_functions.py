"""The state machines, executed by moto: every task is a job of the local AWS; and checked by validators."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from environments import MOTO, moto_client, serving

from benchmarks.support.environments import ROOT, programs_of
from lib import aws, local, storage
from lib.local.environment import environment as variables_of

MACHINES = ROOT / "deploy" / "step_functions"
NAMES = ("workflow", "one_job")
SMALL = {"ratings": 20_000, "epochs": 20, "num_factors": 8}
SUBSTITUTIONS = {
    "Bucket": "reelbook",
    "Prefix": "runs",
    "Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/reelbook:1",
    "RoleArn": aws.LOCAL_ROLE,
    "InstanceType": "ml.m5.large",
    "ParametersFile": "parameters/local.yaml",
    "RunPrefix": "reelbook",
}


def definition(name: str, **substitutions: str) -> dict[str, Any]:
    """Return a machine with its substitutions made, as CloudFormation makes them."""
    text = (MACHINES / f"{name}.asl.json").read_text()
    text = re.sub(r'"IntervalSeconds": \d+', '"IntervalSeconds": 1', text)
    for key, value in {**SUBSTITUTIONS, **substitutions}.items():
        text = text.replace(f"${{{key}}}", value)
    made: dict[str, Any] = json.loads(text)
    return made


class Machine:
    """A state machine on a moto server, and the messages of its topic."""

    def __init__(self, endpoint: str) -> None:
        def client(service: str) -> Any:
            return moto_client(endpoint, service)

        self.states, sns, self.sqs = client("stepfunctions"), client("sns"), client("sqs")
        self.topic = sns.create_topic(Name="failures")["TopicArn"]
        self.queue = self.sqs.create_queue(QueueName="failures")["QueueUrl"]
        arn = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])
        sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn["Attributes"]["QueueArn"])
        self.arns = {
            name: self.states.create_state_machine(
                name=name,
                definition=json.dumps(definition(name, TopicArn=self.topic)),
                roleArn="arn:aws:iam::123456789012:role/states",
            )["stateMachineArn"]
            for name in NAMES
        }

    def execute(self, machine: str, **given: Any) -> dict[str, Any]:
        """Execute a machine and return how its execution ended."""
        started = self.states.start_execution(
            stateMachineArn=self.arns[machine], name=str(uuid.uuid4()), input=json.dumps(given)
        )
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.states.describe_execution(executionArn=started["executionArn"])
            if found["status"] != "RUNNING":
                return found
            time.sleep(0.3)
        raise AssertionError("the execution does not end")

    def entered(self, execution: dict[str, Any]) -> list[str]:
        """Return the states that an execution came into."""
        events = self.states.get_execution_history(executionArn=execution["executionArn"], maxResults=1000)[
            "events"
        ]
        return [
            event["stateEnteredEventDetails"]["name"]
            for event in events
            if "stateEnteredEventDetails" in event
        ]

    def messages(self) -> list[dict[str, Any]]:
        """Take the messages of the topic."""
        found = self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages", [])
        for message in found:
            self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"]) for message in found]


@pytest.fixture(scope="module")
def machine(local_aws: local.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    programs = programs_of("step-functions", MOTO)
    boto3.client("s3").create_bucket(Bucket=SUBSTITUTIONS["Bucket"])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    own = variables_of(local_aws)
    endpoint = own.pop("AWS_ENDPOINT_URL")
    program = Path(__file__).with_name("moto_step_functions.py")

    def command(port: int) -> list[Any]:
        return [programs / "python", program, str(port), endpoint]

    log = tmp_path_factory.mktemp("moto") / "log"
    with serving(command, log, {**kept, **own}) as address:
        import httpx

        config = {"stepfunctions": {"execute_state_machine": True}}
        httpx.post(f"{address}/moto-api/config", json=config, trust_env=False).raise_for_status()
        yield Machine(address)


def run_record(run_id: str, folder: str = "run") -> dict[str, Any]:
    record: dict[str, Any] = json.loads(storage.read_bytes(f"s3://reelbook/runs/{run_id}/{folder}/run.json"))
    return record


def test_the_workflow_trains_transforms_and_evaluates(machine: Machine) -> None:
    ended = machine.execute("workflow", run_id="sfn-train", parameters=SMALL)
    assert ended["status"] == "SUCCEEDED", (machine.entered(ended), ended.get("cause"))
    entered = machine.entered(ended)
    assert [name for name in entered if name in ("Train", "Tune", "Transform", "Evaluate", "CleanUp")] == [
        "Train",
        "Transform",
        "Evaluate",
        "CleanUp",
    ]
    scraps = json.loads(storage.read_bytes("s3://reelbook/runs/sfn-train/run/scraps.json"))
    assert scraps["rmse"] < scraps["baseline_rmse"]
    status = {stage["name"]: stage["status"] for stage in run_record("sfn-train")["stages"]}
    assert status["02_prepare"] == status["06_evaluate"] == "completed"
    assert not boto3.client("sagemaker").list_models(NameContains="sfn-train")["Models"]  # cleaned up
    assert machine.messages() == []


@pytest.mark.skipif(
    os.environ.get("REELBOOK_STEP_FUNCTIONS") != "all",
    reason="takes half a minute: REELBOOK_STEP_FUNCTIONS=all",
)
def test_the_tuning_branch_goes_on_with_the_best_job(machine: Machine) -> None:
    given = {**SMALL, "tune": True, "tuning": {"max_jobs": 2}}
    ended = machine.execute("workflow", run_id="sfn-tune", parameters=given)
    assert ended["status"] == "SUCCEEDED", (machine.entered(ended), ended.get("cause"))
    assert "Train" not in machine.entered(ended)
    client = boto3.client("sagemaker")
    (job,) = client.list_hyper_parameter_tuning_jobs(NameContains="sfn-tune")[
        "HyperParameterTuningJobSummaries"
    ]
    tuned = client.describe_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=job["HyperParameterTuningJobName"]
    )
    scraps = json.loads(storage.read_bytes("s3://reelbook/runs/sfn-tune/run/scraps.json"))
    assert scraps["training_job_name"] == tuned["BestTrainingJob"]["TrainingJobName"]


def test_the_cause_of_a_failure_is_the_first_one_and_is_told(machine: Machine) -> None:
    given = {**SMALL, "side_features": ["no_such_column"]}
    ended = machine.execute("workflow", run_id="sfn-fails", parameters=given)
    assert ended["status"] == "FAILED"
    assert "no_such_column" in ended["cause"]
    assert machine.entered(ended)[-2:] == ["Notify", "Failed"]
    assert "CleanUp" in machine.entered(ended)
    message = next(one for one in machine.messages() if "sfn-fails" in one["Subject"])
    assert "no_such_column" in message["Message"]


def test_a_job_that_fails_is_the_cause(machine: Machine) -> None:
    given = {**SMALL, "hyperparameters": {"bias_lr": 1e30, "linear_lr": 1e30, "factors_lr": 1e30}}
    ended = machine.execute("workflow", run_id="sfn-job-fails", parameters=given)
    assert ended["status"] == "FAILED", ended
    assert "sfn-job-fails-train" in ended["cause"]
    assert "Train" in machine.entered(ended)
    assert machine.entered(ended).index("Train") < machine.entered(ended).index("CleanUp")


def test_a_whole_run_in_one_job_names_itself(machine: Machine) -> None:
    ended = machine.execute("one_job", parameters=SMALL)
    assert ended["status"] == "SUCCEEDED", (machine.entered(ended), ended.get("cause"))
    run_id = json.loads(ended["output"])["run_id"]
    assert run_id.startswith("reelbook-")
    record = run_record(run_id)
    assert record["status"] == "completed"
    assert (
        storage.read_bytes(f"s3://reelbook/runs/{run_id}/run/report.html")
        .lstrip()
        .startswith(b"<!doctype html>")
    )


@pytest.mark.parametrize("name", NAMES)
def test_statelint_finds_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(definition(name, TopicArn="arn:aws:sns:us-east-1:123456789012:failures")))
    programs = programs_of("step-functions", MOTO)
    done = subprocess.run([programs / "statelint", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_asl_validator_finds_nothing(name: str, tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = ROOT / ".bench" / "asl-validator"
    program = folder / "node_modules" / ".bin" / "asl-validator"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [npm, "install", "--prefix", folder, "asl-validator@4.0.0"], check=True, capture_output=True
        )
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(definition(name, TopicArn="arn:aws:sns:us-east-1:123456789012:failures")))
    done = subprocess.run([program, "--json-path", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_caught_and_no_state_is_out_of_reach(name: str) -> None:
    machine = definition(name)
    states = machine["States"]
    reached, waiting = set(), [machine["StartAt"]]
    while waiting:
        state = waiting.pop()
        if state in reached:
            continue
        reached.add(state)
        body = states[state]
        after = [body.get("Next"), body.get("Default")]
        after += [choice["Next"] for choice in body.get("Choices", [])]
        after += [catch["Next"] for catch in body.get("Catch", [])]
        waiting += [one for one in after if one]
    assert reached == set(states)
    tasks = {key: body for key, body in states.items() if body["Type"] == "Task"}
    assert tasks
    for key, body in tasks.items():
        assert body["Catch"][0]["ErrorEquals"] == ["States.ALL"], key
        assert body["Catch"][0]["ResultPath"] != "$.error" or key not in ("CleanUp", "Notify"), key


def test_what_fails_once_something_was_made_is_cleaned_up() -> None:
    states = definition("workflow")["States"]
    caught = {key: body["Catch"][0]["Next"] for key, body in states.items() if "Catch" in body}
    after = {
        key: state for key, state in caught.items() if key not in ("GiveParameters", "CleanUp", "Notify")
    }
    assert len(after) >= 8
    assert set(after.values()) == {"CleanUp"}
