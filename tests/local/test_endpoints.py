"""Endpoints: real processes that answer, weights, updates without a dropped request, kills, deletion."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from sagemaker_kit import BUCKET, RECORDIO, encode, model_request, ratings, training_request

from lib import fm, local, recordio

X, Y = ratings(600)
JSON, JSON_LINES = "application/json", "application/jsonlines"
SECONDS = 60


class Clients:
    """boto3's clients of one local AWS."""

    def __init__(self, server: local.Server) -> None:
        self.server = server
        self.s3, self.sagemaker, self.runtime, self.logs = (
            boto3.client(
                service,
                endpoint_url=server.endpoint,
                aws_access_key_id=server.credentials.access_key,
                aws_secret_access_key=server.credentials.secret_key,
                region_name="us-east-1",
                config=Config(retries={"total_max_attempts": 1}, max_pool_connections=16),
            )
            for service in ("s3", "sagemaker", "sagemaker-runtime", "logs")
        )

    def config(self, name: str, *variants: dict[str, Any], **members: Any) -> str:
        self.sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=list(variants) or [variant()], **members
        )
        return name

    def endpoint(self, name: str, *variants: dict[str, Any]) -> str:
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=self.config(name, *variants))
        assert self.wait(name)["EndpointStatus"] == "InService"
        return name

    def wait(self, name: str) -> dict[str, Any]:
        """Return an endpoint's description once it is neither made nor changed any more."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            answer: dict[str, Any] = self.sagemaker.describe_endpoint(EndpointName=name)
            if answer["EndpointStatus"] not in ("Creating", "Updating"):
                return answer
            time.sleep(0.02)
        raise AssertionError(f"{name} is still {answer['EndpointStatus']}")

    def delete(self, name: str) -> None:
        self.sagemaker.delete_endpoint(EndpointName=name)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            try:
                self.sagemaker.describe_endpoint(EndpointName=name)
            except ClientError:
                return
            time.sleep(0.02)
        raise AssertionError(f"{name} is still there")

    def invoke(self, name: str, rows: slice = slice(0, 1), **options: Any) -> list[float]:
        answer = self.runtime.invoke_endpoint(
            EndpointName=name, ContentType=RECORDIO, Body=encode(X[rows]), **options
        )
        return [item["score"] for item in json.loads(answer["Body"].read())["predictions"]]

    def invoked(self, name: str, **options: Any) -> str:
        answer = self.runtime.invoke_endpoint(
            EndpointName=name, ContentType=RECORDIO, Body=encode(X[:1]), **options
        )
        return str(answer["InvokedProductionVariant"])

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.server.pid).children(recursive=True)


def variant(name: str = "all", model: str = "model", weight: float = 1.0) -> dict[str, Any]:
    return {
        "VariantName": name,
        "ModelName": model,
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
        "InitialVariantWeight": weight,
    }


def train(aws: Clients) -> str:
    """Train a model and return its artifact's URI."""
    aws.s3.create_bucket(Bucket=BUCKET)
    for channel, rows in (("train", slice(0, 450)), ("test", slice(450, 600))):
        aws.s3.put_object(Bucket=BUCKET, Key=f"data/{channel}/part", Body=encode(X[rows], Y[rows]))
    aws.sagemaker.create_training_job(**training_request("trained"))
    aws.sagemaker.get_waiter("training_job_completed_or_stopped").wait(
        TrainingJobName="trained", WaiterConfig={"Delay": 1, "MaxAttempts": SECONDS}
    )
    job = aws.sagemaker.describe_training_job(TrainingJobName="trained")
    return str(job["ModelArtifacts"]["S3ModelArtifacts"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("endpoints") / "root"
    yield root
    local.stop(root)
    log = (root / "server.log").read_text()
    assert "Traceback" not in log, log


@pytest.fixture(scope="module")
def aws(root: Path) -> Clients:
    """A local AWS with a model that works and one whose archive holds none."""
    aws = Clients(local.start(root))
    aws.sagemaker.create_model(**model_request("model", train(aws)))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("nothing"), io.BytesIO())
    aws.s3.put_object(Bucket=BUCKET, Key="broken.tar.gz", Body=archive.getvalue())
    aws.sagemaker.create_model(**model_request("broken", f"s3://{BUCKET}/broken.tar.gz"))
    return aws


@pytest.fixture(scope="module")
def expected(aws: Clients, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What the model's artifact predicts of all rows."""
    archive = tmp_path_factory.mktemp("model") / "model.tar.gz"
    aws.s3.download_file(BUCKET, "models/trained/output/model.tar.gz", str(archive))
    return fm.load(archive).predict(X)


@pytest.fixture(scope="module")
def live(aws: Clients) -> str:
    return aws.endpoint("live")


@pytest.mark.parametrize("content_type", [RECORDIO, JSON, JSON_LINES])
@pytest.mark.parametrize("accept", [RECORDIO, JSON, JSON_LINES])
def test_an_endpoint_answers_what_the_model_predicts(
    aws: Clients, live: str, expected: np.ndarray, content_type: str, accept: str
) -> None:
    rows = X[:40].toarray().tolist()
    bodies = {
        RECORDIO: encode(X[:40]),
        JSON: json.dumps({"instances": [{"features": row} for row in rows]}).encode(),
        JSON_LINES: "\n".join(json.dumps({"features": row}) for row in rows).encode(),
    }
    answer = aws.runtime.invoke_endpoint(
        EndpointName=live, ContentType=content_type, Accept=accept, Body=bodies[content_type]
    )
    body = answer["Body"].read()
    assert answer["ContentType"] == accept
    if accept == RECORDIO:
        assert len(list(recordio.records(memoryview(body)))) == 40
        return
    found = (
        json.loads(body)["predictions"] if accept == JSON else [json.loads(row) for row in body.splitlines()]
    )
    np.testing.assert_allclose([item["score"] for item in found], expected[:40], rtol=1e-5)


def test_a_model_s_own_error_is_told_with_its_status_and_words(aws: Clients, live: str) -> None:
    with pytest.raises(ClientError) as caught:
        aws.runtime.invoke_endpoint(EndpointName=live, ContentType="text/csv", Body=b"1,2")
    answer: Any = caught.value.response
    assert answer["Error"]["Code"] == "ModelError"
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert answer["OriginalStatusCode"] == 415
    assert "content type text/csv" in answer["OriginalMessage"]
    assert answer["OriginalMessage"] in answer["Error"]["Message"]
    assert answer["LogStreamArn"].endswith(f"/aws/sagemaker/Endpoints/{live}")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"EndpointName": "nobody"}, "Endpoint nobody of account 123456789012 not found"),
        ({"TargetVariant": "other"}, "Variant other not found"),
        ({"TargetModel": "other.tar.gz"}, "does not support"),
    ],
)
def test_a_request_that_nobody_can_answer_is_refused(
    aws: Clients, live: str, options: dict[str, str], text: str
) -> None:
    with pytest.raises(ClientError, match=text) as caught:
        aws.runtime.invoke_endpoint(**{"EndpointName": live, "Body": b"{}", **options})
    assert caught.value.response["Error"]["Code"] == "ValidationError"


def test_a_payload_may_have_25_mib_and_no_more(aws: Clients, live: str) -> None:
    limit = 25 * 1024**2
    with pytest.raises(ClientError) as reached:
        aws.runtime.invoke_endpoint(EndpointName=live, ContentType=JSON, Body=b" " * limit)
    assert reached.value.response["Error"]["Code"] == "ModelError"
    with pytest.raises(ClientError) as refused:
        aws.runtime.invoke_endpoint(EndpointName=live, ContentType=JSON, Body=b" " * (limit + 1))
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413


def test_what_the_runtime_does_not_have_is_named(aws: Clients, live: str) -> None:
    with pytest.raises(ClientError, match="async-invocations is not implemented by the local AWS"):
        aws.runtime.invoke_endpoint_async(EndpointName=live, InputLocation="s3://bucket/key")


def test_an_endpoint_s_output_is_in_its_log_group(aws: Clients, live: str) -> None:
    streams = aws.logs.describe_log_streams(logGroupName=f"/aws/sagemaker/Endpoints/{live}")["logStreams"]
    assert [stream["logStreamName"].partition("/")[0] for stream in streams] == ["all"]


def test_requests_are_shared_by_weight_and_weights_can_be_changed(aws: Clients) -> None:
    name = aws.endpoint("weighted", variant("a", weight=3), variant("b", weight=1))
    shares = Counter(aws.invoked(name) for _ in range(200))
    assert 110 < shares["a"] < 185  # 150 on average, with a standard deviation of 6
    assert shares["a"] + shares["b"] == 200
    assert aws.invoked(name, TargetVariant="b") == "b"
    aws.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=name,
        DesiredWeightsAndCapacities=[
            {"VariantName": "a", "DesiredWeight": 0.0},
            {"VariantName": "b", "DesiredInstanceCount": 2},
        ],
    )
    assert {aws.invoked(name) for _ in range(20)} == {"b"}
    a, b = aws.wait(name)["ProductionVariants"]
    assert (a["CurrentWeight"], b["CurrentWeight"], b["CurrentInstanceCount"]) == (0.0, 1.0, 2)
    with pytest.raises(ClientError, match="Variant c not found"):
        aws.sagemaker.update_endpoint_weights_and_capacities(
            EndpointName=name, DesiredWeightsAndCapacities=[{"VariantName": "c", "DesiredWeight": 1.0}]
        )
    aws.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=name, RetainAllVariantProperties=True)
    retained = aws.wait(name)["ProductionVariants"]
    assert [item["CurrentWeight"] for item in retained] == [0.0, 1.0]
    aws.delete(name)


def test_an_update_drops_no_request(aws: Clients) -> None:
    name = aws.endpoint("updated", variant("old"))
    aws.config("updated-2", variant("new"))
    seen: list[str] = []
    done = threading.Event()
    failures: list[Exception] = []

    def ask() -> None:
        try:
            while not done.is_set():
                seen.append(aws.invoked(name))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    aws.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName="updated-2")
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        aws.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=name)
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        aws.sagemaker.delete_endpoint(EndpointName=name)
    answer = aws.wait(name)
    until_new = len(seen)
    while len(seen) < until_new + 20 and not failures:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert (answer["EndpointStatus"], answer["EndpointConfigName"]) == ("InService", "updated-2")
    assert seen[0] == "old"
    assert set(seen[-4:]) == {"new"}
    aws.delete(name)


def test_an_update_that_fails_leaves_the_endpoint_as_it_was(aws: Clients) -> None:
    name = aws.endpoint("kept", variant("old"))
    aws.sagemaker.update_endpoint(
        EndpointName=name, EndpointConfigName=aws.config("bad", variant("new", "broken"))
    )
    answer = aws.wait(name)
    assert (answer["EndpointStatus"], answer["EndpointConfigName"]) == ("InService", name)
    assert "production variant new" in answer["FailureReason"]
    assert aws.invoked(name) == "old"
    aws.delete(name)


def test_an_endpoint_whose_model_does_not_start_fails_with_the_reason(aws: Clients) -> None:
    aws.sagemaker.create_endpoint(
        EndpointName="failing", EndpointConfigName=aws.config("failing", variant(model="broken"))
    )
    answer = aws.wait("failing")
    assert answer["EndpointStatus"] == "Failed"
    assert "did not pass the ping health check" in answer["FailureReason"]
    events = aws.logs.filter_log_events(logGroupName="/aws/sagemaker/Endpoints/failing")["events"]
    assert any("ClientError" in event["message"] for event in events)
    with pytest.raises(ClientError, match="Endpoint failing of account 123456789012 not found"):
        aws.invoked("failing")
    aws.delete("failing")


def wait_until_dead(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 10
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        assert time.monotonic() < deadline, processes
        time.sleep(0.01)


def test_a_process_that_has_died_is_started_again(aws: Clients, live: str, expected: np.ndarray) -> None:
    for _ in range(3):
        processes = aws.processes()
        for process in processes:
            process.kill()
        wait_until_dead(processes)  # a request that one takes while it dies is answered by an error
        assert aws.invoke(live) == pytest.approx(expected[:1].tolist(), rel=1e-5)


def test_a_deleted_endpoint_leaves_no_process_and_no_folder(aws: Clients, root: Path) -> None:
    before = {process.pid for process in aws.processes()}
    name = aws.endpoint("deleted")
    assert {process.pid for process in aws.processes()} - before
    folders = len(list((root / "jobs").iterdir()))
    aws.delete(name)
    assert {process.pid for process in aws.processes()} <= before
    assert len(list((root / "jobs").iterdir())) == folders - 1
    with pytest.raises(ClientError, match="Could not find endpoint"):
        aws.sagemaker.delete_endpoint(EndpointName=name)


def test_an_endpoint_outlives_its_config_and_its_model(aws: Clients) -> None:
    aws.sagemaker.create_model(
        **model_request("passing", f"s3://{BUCKET}/models/trained/output/model.tar.gz")
    )
    name = aws.endpoint("outliving", variant(model="passing"))
    aws.sagemaker.delete_endpoint_config(EndpointConfigName=name)
    aws.sagemaker.delete_model(ModelName="passing")
    assert aws.invoked(name) == "all"
    aws.delete(name)


REFUSED_CONFIGS: list[tuple[Callable[[], dict[str, Any]], str]] = [
    (lambda: {"ProductionVariants": [variant(), variant()]}, "used more than once"),
    (lambda: {"ProductionVariants": [variant(model="nobody")]}, "Could not find model"),
    (lambda: {"ProductionVariants": [{"VariantName": "a", "ModelName": "model"}]}, "names no InstanceType"),
    (
        lambda: {
            "ProductionVariants": [
                {**variant(), "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}}
            ]
        },
        "does not support ServerlessConfig",
    ),
    (lambda: {"ShadowProductionVariants": [variant("shadow")]}, "does not support ShadowProductionVariants"),
]


@pytest.mark.parametrize(("changes", "text"), REFUSED_CONFIGS)
def test_a_config_that_cannot_be_is_refused(
    aws: Clients, changes: Callable[[], dict[str, Any]], text: str
) -> None:
    request = {"EndpointConfigName": "refused", "ProductionVariants": [variant()], **changes()}
    with pytest.raises(ClientError, match=text) as caught:
        aws.sagemaker.create_endpoint_config(**request)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_names_that_are_taken_or_unknown_are_refused_in_aws_s_words(aws: Clients, live: str) -> None:
    with pytest.raises(ClientError, match="Cannot create already existing endpoint "):
        aws.sagemaker.create_endpoint(EndpointName=live, EndpointConfigName=live)
    with pytest.raises(ClientError, match="Cannot create already existing endpoint configuration"):
        aws.config(live)
    with pytest.raises(ClientError, match="Could not find endpoint configuration"):
        aws.sagemaker.create_endpoint(EndpointName="other", EndpointConfigName="nobody")
    with pytest.raises(ClientError, match="Could not find endpoint "):
        aws.sagemaker.update_endpoint(EndpointName="nobody", EndpointConfigName=live)


def test_endpoints_are_listed_and_tagged(aws: Clients, live: str) -> None:
    found = aws.sagemaker.list_endpoints(NameContains="liv", StatusEquals="InService")["Endpoints"]
    assert [item["EndpointName"] for item in found] == [live]
    assert aws.sagemaker.list_endpoints(StatusEquals="Creating")["Endpoints"] == []
    configs = aws.sagemaker.list_endpoint_configs(SortBy="Name", SortOrder="Ascending", MaxResults=100)
    names = [item["EndpointConfigName"] for item in configs["EndpointConfigs"]]
    assert names == sorted(names)
    assert live in names
    arn = found[0]["EndpointArn"]
    aws.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "b"}])
    assert aws.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "b"}]


@pytest.mark.parametrize("during", ["serving", "creating", "updating", "deleting"])
def test_a_killed_server_takes_endpoints_up_where_they_were(tmp_path: Path, during: str) -> None:
    root = tmp_path / "root"
    try:
        aws = Clients(local.start(root))
        aws.sagemaker.create_model(**model_request("model", train(aws)))
        aws.config("new", variant("new"))
        if during == "creating":
            aws.sagemaker.create_endpoint(EndpointName="it", EndpointConfigName="new")
        else:
            aws.endpoint("it", variant("old"))
        if during == "updating":
            aws.sagemaker.update_endpoint(EndpointName="it", EndpointConfigName="new")
        elif during == "deleting":
            aws.sagemaker.delete_endpoint(EndpointName="it")
        children = aws.processes()
        os.kill(aws.server.pid, signal.SIGKILL)
        psutil.wait_procs(children, timeout=5)
        assert not any(process.is_running() for process in children)

        aws = Clients(local.start(root))
        if during == "deleting":
            deadline = time.monotonic() + SECONDS
            while aws.sagemaker.list_endpoints()["Endpoints"] and time.monotonic() < deadline:
                time.sleep(0.02)
            assert aws.sagemaker.list_endpoints()["Endpoints"] == []
            assert list((root / "jobs").iterdir()) == []
        else:
            answer = aws.wait("it")
            wanted = "old" if during == "serving" else "new"
            assert answer["EndpointStatus"] == "InService"
            assert [item["VariantName"] for item in answer["ProductionVariants"]] == [wanted]
            assert aws.invoked("it") == wanted
    finally:
        local.stop(root)
