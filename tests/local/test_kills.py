"""A server killed at random points of everything at once: nothing committed is lost, nothing else is left.

``REELBOOK_KILLS=100`` kills it a hundred times; by default it is killed three times.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from sagemaker_kit import (
    BUCKET,
    ENDLESS,
    RECORDIO,
    encode,
    hyperparameters,
    model_request,
    ratings,
    training_definition,
    training_request,
)

from lib import local

KILLS = int(os.environ.get("REELBOOK_KILLS", "3"))
SEED = int(os.environ.get("REELBOOK_KILLS_SEED", "0"))
ABSENT = ""
MIB = 1024**2
SECONDS = 60
FAILURES = (ClientError, BotoCoreError)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class World:
    """A local AWS that is killed, what was asked of it, and what may be found there afterwards.

    Attributes
    ----------
    may_be : dict
        The digests that each key's object may have: more than one where an answer never came.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.may_be: dict[str, set[str]] = {}
        self.jobs = self.rounds = 0
        self.over = threading.Event()
        self.interrupted: set[str] = set()
        self.counted = dict.fromkeys(("put", "multipart upload", "delete", "job", "endpoint update"), 0)

    def start(self) -> None:
        self.server = local.start(self.root)
        self.s3, self.sagemaker, self.runtime = (
            boto3.client(
                service,
                endpoint_url=self.server.endpoint,
                aws_access_key_id=self.server.credentials.access_key,
                aws_secret_access_key=self.server.credentials.secret_key,
                region_name="us-east-1",
                config=Config(retries={"total_max_attempts": 1}, max_pool_connections=16),
            )
            for service in ("s3", "sagemaker", "sagemaker-runtime")
        )

    def prepare(self) -> None:
        """Make the data, a model, and an endpoint with two configs to change between."""
        self.start()
        self.s3.create_bucket(Bucket=BUCKET)
        X, y = ratings(600)
        self.rows = encode(X[:5])
        for name, rows in (("train", slice(0, 450)), ("test", slice(450, 600))):
            self.s3.put_object(Bucket=BUCKET, Key=f"data/{name}/a.pbr", Body=encode(X[rows], y[rows]))
        self.sagemaker.create_training_job(**training_request("first"))
        self.wait("training_job", "first", "TrainingJobName", "TrainingJobStatus")
        artifact = f"s3://{BUCKET}/models/first/output/model.tar.gz"
        self.sagemaker.create_model(**model_request("model", artifact))
        for name in ("one", "two"):
            variant = {"VariantName": name, "ModelName": "model", "InitialInstanceCount": 1}
            self.sagemaker.create_endpoint_config(
                EndpointConfigName=name, ProductionVariants=[{**variant, "InstanceType": "ml.m5.large"}]
            )
        self.sagemaker.create_endpoint(EndpointName="it", EndpointConfigName="one")
        self.wait("endpoint", "it", "EndpointName", "EndpointStatus")

    def wait(self, kind: str, name: str, member: str, status: str) -> dict[str, Any]:
        """Return a description once nothing is in progress any more."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            answer: dict[str, Any] = getattr(self.sagemaker, f"describe_{kind}")(**{member: name})
            if answer[status] not in ("InProgress", "Creating", "Updating", "Stopping"):
                return answer
            time.sleep(0.02)
        raise AssertionError(f"{name} is still {answer[status]}")

    # ---- what is under way when it is killed

    def put_objects(self, seed: int) -> None:
        chance = random.Random(seed)
        key = f"objects/{seed % 3}/"
        for number in range(10**6):
            if self.over.is_set():
                return
            data = chance.randbytes(chance.choice([0, 1000, 100_000, 8 * MIB]))
            name = key + str(number % 5)
            if number % 7 == 6:
                self.change(name, ABSENT, lambda name=name: self.s3.delete_object(Bucket=BUCKET, Key=name))
                self.counted["delete"] += 1
                continue
            self.change(
                name,
                digest(data),
                lambda name=name, data=data: self.s3.put_object(Bucket=BUCKET, Key=name, Body=data),
            )
            self.counted["put"] += 1

    def put_in_parts(self, seed: int) -> None:
        chance = random.Random(seed)
        for number in range(10**6):
            if self.over.is_set():
                return
            target = {"Bucket": BUCKET, "Key": f"multipart/{number % 2}"}
            parts = [chance.randbytes(5 * MIB), chance.randbytes(1000)]
            upload = self.s3.create_multipart_upload(**target)["UploadId"]
            done = [
                {
                    "PartNumber": place,
                    "ETag": self.s3.upload_part(**target, UploadId=upload, PartNumber=place, Body=part)[
                        "ETag"
                    ],
                }
                for place, part in enumerate(parts, 1)
            ]
            self.change(
                target["Key"],
                digest(b"".join(parts)),
                lambda target=target, upload=upload, done=done: self.s3.complete_multipart_upload(
                    **target, UploadId=upload, MultipartUpload={"Parts": done}
                ),
            )
            self.counted["multipart upload"] += 1

    def change(self, key: str, value: str, action: Callable[[], object]) -> None:
        """Do what gives a key its value; until it is answered, either value may be found."""
        self.may_be.setdefault(key, {ABSENT}).add(value)
        action()
        self.may_be[key] = {value}

    def submit_jobs(self, _: int) -> None:
        while not self.over.is_set():
            self.jobs += 1
            values = ENDLESS if self.jobs % 2 else hyperparameters(epochs=20)
            name = f"job-{self.jobs}"
            self.sagemaker.create_training_job(**training_request(name, HyperParameters=values))
            self.counted["job"] += 1
            self.over.wait(0.3)

    def update_endpoint(self, _: int) -> None:
        while not self.over.is_set():
            now = self.sagemaker.describe_endpoint(EndpointName="it")["EndpointConfigName"]
            other = "two" if now == "one" else "one"
            self.sagemaker.update_endpoint(EndpointName="it", EndpointConfigName=other)
            self.counted["endpoint update"] += 1
            self.wait("endpoint", "it", "EndpointName", "EndpointStatus")

    def work_and_kill(self, chance: random.Random) -> None:
        """Do everything at once, and kill the server at a random moment."""
        self.over.clear()
        self.rounds += 1

        def work(action: Callable[[int], None], seed: int) -> None:
            with suppress(*FAILURES):  # which is what a kill looks like from outside
                action(seed)

        works = [self.put_objects] * 3 + [self.put_in_parts, self.submit_jobs, self.update_endpoint]
        threads = [
            threading.Thread(target=work, args=(action, 10 * self.rounds + number))
            for number, action in enumerate(works)
        ]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.0, 1.5))
        children = psutil.Process(self.server.pid).children(recursive=True)
        os.kill(self.server.pid, signal.SIGKILL)
        self.over.set()
        for thread in threads:
            thread.join()
        psutil.wait_procs(children, timeout=5)
        assert [process for process in children if process.is_running()] == []

    # ---- what must be found when it is back

    def check_objects(self) -> None:
        listed = {
            item["Key"]
            for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            for item in page.get("Contents", [])
        }
        for key, may_be in self.may_be.items():
            found = ABSENT
            if key in listed:
                found = digest(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
            assert found in may_be, f"{key} has neither its old bytes nor its new ones"
            self.may_be[key] = {found}
        unknown = [key for key in listed - self.may_be.keys() if not key.startswith(("data/", "models/"))]
        assert unknown == []

    def check_jobs(self) -> None:
        for number in range(1, self.jobs + 1):
            with suppress(self.sagemaker.exceptions.ClientError):  # its request was never answered
                job = self.sagemaker.describe_training_job(TrainingJobName=f"job-{number}")
                assert job["TrainingJobStatus"] in ("Completed", "Failed")
                if job["TrainingJobStatus"] == "Failed":
                    assert "local AWS" in job["FailureReason"]
                    self.interrupted.add(job["TrainingJobName"])
        jobs = self.sagemaker.list_training_jobs(StatusEquals="InProgress")["TrainingJobSummaries"]
        assert all(job["TrainingJobName"].startswith("tuning-") for job in jobs)

    def check_endpoint(self) -> None:
        answer = self.wait("endpoint", "it", "EndpointName", "EndpointStatus")
        assert answer["EndpointStatus"] == "InService"
        variants = [variant["VariantName"] for variant in answer["ProductionVariants"]]
        assert variants == [answer["EndpointConfigName"]]
        invoked = self.runtime.invoke_endpoint(
            EndpointName="it", ContentType=RECORDIO, Accept="application/jsonlines", Body=self.rows
        )
        assert invoked["Body"].read().count(b"score") == 5
        assert invoked["InvokedProductionVariant"] == answer["EndpointConfigName"]


def tuning_request(jobs: int) -> dict[str, Any]:
    definition = training_definition(StaticHyperParameters=hyperparameters(epochs=200))
    learning_rate = {"Name": "factors_lr", "MinValue": "0.0001", "MaxValue": "0.1"}
    return {
        "HyperParameterTuningJobName": "tuning",
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "RandomSeed": 1,
            "ResourceLimits": {"MaxNumberOfTrainingJobs": jobs, "MaxParallelTrainingJobs": 1},
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "test:rmse"},
            "ParameterRanges": {"ContinuousParameterRanges": [learning_rate]},
        },
        "TrainingJobDefinition": definition,
    }


@pytest.fixture
def world(tmp_path: Path) -> Any:
    world = World(tmp_path / "root")
    yield world
    local.stop(world.root)


def test_a_server_killed_at_random_points_loses_nothing(world: World) -> None:
    chance = random.Random(SEED)
    world.prepare()
    world.sagemaker.create_hyper_parameter_tuning_job(**tuning_request(jobs := 4))
    for _ in range(KILLS):
        world.work_and_kill(chance)
        world.start()
        world.check_objects()
        world.check_jobs()
    world.check_endpoint()
    tuned = world.wait(
        "hyper_parameter_tuning_job", "tuning", "HyperParameterTuningJobName", "HyperParameterTuningJobStatus"
    )
    assert tuned["HyperParameterTuningJobStatus"] == "Completed", tuned
    assert tuned["TrainingJobStatusCounters"]["Completed"] == jobs
    told = ", ".join(f"{count} {what}s" for what, count in world.counted.items())
    print(f"\n{KILLS} kills during {told}; {len(world.interrupted)} jobs interrupted")

    world.check_objects()
    uploads = world.s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    for upload in uploads:
        world.s3.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    objects = world.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    count = sum(page["KeyCount"] for page in objects)
    local.stop(world.root)
    assert len(list((world.root / "s3" / "blobs").iterdir())) == count
    assert list((world.root / "jobs").iterdir()) == []
    for file in world.root.rglob("*.sqlite"):
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    log = (world.root / "server.log").read_text()
    assert "Traceback" not in log, log
