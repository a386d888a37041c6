"""Load the local AWS for minutes: clients that put, get and list, endpoints that are invoked, jobs that run.

Every client checks what it gets against what it put, without retries; at the end every object is read once
more.  One error, or one lost byte, makes the exit code 1.  The server's memory is taken every two seconds, and
told after each fifth of the time.

    .venv/bin/python benchmarks/local_load.py [--seconds 300] [--clients 64] [--endpoints 8] [--jobs 4]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.support.report import Report, machine  # noqa: E402  the checkout is not installed
from lib import fm, local, recordio  # noqa: E402
from lib.job_requests import RECORDIO  # noqa: E402
from lib.local.sagemaker import JOBS_VARIABLE  # noqa: E402

BUCKET = "load"
FEATURES = 1_000
IMAGE = "382416733822.dkr.ecr.us-east-1.amazonaws.com/factorization-machines:1"
ROLE = "arn:aws:iam::123456789012:role/local"
RESOURCES = {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1}
PROCESSES = 4
KEYS = 8  # of each client
SIZES = (0, 1_000, 10_000, 100_000, 1_000_000, 6_000_000)


class Worker:
    """What one process's clients count and find wrong."""

    def __init__(self, keys: dict[str, str], end: float) -> None:
        self.keys = keys
        self.end = end
        self.done: Counter[str] = Counter()
        self.waits: list[float] = []
        self.errors: list[str] = []
        self.objects: dict[str, str] = {}
        self._lock = threading.Lock()

    def run(self, works: list[tuple[Callable[..., None], int]]) -> tuple[Any, ...]:
        """Do all works at once until the end; return what `merge` takes."""
        threads = [threading.Thread(target=self._guarded, args=work) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.done, self.waits, self.errors, self.objects

    def _guarded(self, work: Callable[..., None], number: int) -> None:
        try:
            work(self, number)
        except Exception as error:
            with self._lock:
                self.errors.append(f"{work.__name__} {number}: {type(error).__name__}: {error}")

    def timed(self, what: str, call: Callable[[], Any]) -> Any:
        """Do one request and count it."""
        began = time.perf_counter()
        answer = call()
        took = time.perf_counter() - began
        with self._lock:
            self.done[what] += 1
            self.waits.append(took)
        return answer

    def client(self, service: str) -> Any:
        """Return a client without retries."""
        import boto3
        from botocore.config import Config

        once = Config(retries={"total_max_attempts": 1}, read_timeout=120)
        return boto3.session.Session().client(service, config=once, **self.keys)


def use_s3(worker: Worker, number: int) -> None:
    """Put, get, list and delete objects, and check what comes back."""
    s3, chance = worker.client("s3"), random.Random(number)
    mine: dict[str, str] = {}
    while time.time() < worker.end:
        key = f"clients/{number:02d}/{chance.randrange(KEYS)}"
        choice = chance.random()
        if choice < 0.4:
            data = chance.randbytes(chance.choices(SIZES, (1, 8, 8, 8, 4, 1))[0])
            worker.timed("put", lambda key=key, data=data: s3.put_object(Bucket=BUCKET, Key=key, Body=data))
            mine[key] = hashlib.sha256(data).hexdigest()
        elif choice < 0.8 and key in mine:
            found = worker.timed("get", lambda key=key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
            if hashlib.sha256(found).hexdigest() != mine[key]:
                raise ValueError(f"{key} has other bytes than were put")
        elif choice < 0.95:
            prefix = f"clients/{number:02d}/"
            listed = worker.timed(
                "list", lambda prefix=prefix: s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
            )
            names = {item["Key"] for item in listed.get("Contents", [])}
            if names != mine.keys():
                raise ValueError(f"{prefix} lists {sorted(names)}, not {sorted(mine)}")
        elif key in mine:
            worker.timed("delete", lambda key=key: s3.delete_object(Bucket=BUCKET, Key=key))
            del mine[key]
    worker.objects.update(mine)


def invoke(worker: Worker, number: int) -> None:
    """Ask an endpoint for the same rows again and again."""
    runtime, body = worker.client("sagemaker-runtime"), encoded(rows(20, number))
    first = None
    while time.time() < worker.end:
        answer = worker.timed(
            "invoke",
            lambda: runtime.invoke_endpoint(
                EndpointName=f"endpoint-{number}",
                ContentType=RECORDIO,
                Accept="application/jsonlines",
                Body=body,
            )["Body"].read(),
        )
        first = first or answer
        if answer != first or answer.count(b"score") != 20:
            raise ValueError(f"endpoint-{number} answered {answer[:100]!r}")


def submit_jobs(worker: Worker, number: int) -> None:
    """Run one training job after the other."""
    sagemaker, count = worker.client("sagemaker"), 0
    while time.time() < worker.end:
        name = f"job-{number}-{count}"
        count += 1
        worker.timed("create job", lambda name=name: sagemaker.create_training_job(**training(name)))
        while True:
            job = worker.timed(
                "describe", lambda name=name: sagemaker.describe_training_job(TrainingJobName=name)
            )
            if job["TrainingJobStatus"] not in ("InProgress", "Stopping"):
                break
            time.sleep(0.2)
        if job["TrainingJobStatus"] != "Completed":
            raise ValueError(f"{name} is {job['TrainingJobStatus']}: {job.get('FailureReason')}")
        worker.done["job completed"] += 1


def training(name: str) -> dict[str, Any]:
    """Return a training job's request."""
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/train/"}
    channel = {"ChannelName": "train", "ContentType": RECORDIO, "DataSource": {"S3DataSource": source}}
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "RoleArn": ROLE,
        "InputDataConfig": [channel],
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/models"},
        "ResourceConfig": RESOURCES,
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        "HyperParameters": {
            "feature_dim": str(FEATURES),
            "num_factors": "8",
            "predictor_type": "regressor",
            "epochs": "100",
        },
    }


def rows(count: int, seed: int) -> sp.csr_matrix:
    """Return rows of two features."""
    half = FEATURES // 2
    columns = np.random.default_rng(seed).integers(0, half, (count, 2)) + np.array([0, half])
    starts = np.arange(0, 2 * count + 1, 2)
    return sp.csr_matrix((np.ones(2 * count, np.float32), columns.ravel(), starts), (count, FEATURES))


def encoded(X: sp.csr_matrix, y: np.ndarray | None = None) -> bytes:
    """Return rows as recordIO-protobuf."""
    file = io.BytesIO()
    recordio.write(file, X, y)
    return file.getvalue()


def prepare(worker: Worker, endpoints: int) -> None:
    """Make the bucket, the training rows, a model and its endpoints."""
    s3, sagemaker = worker.client("s3"), worker.client("sagemaker")
    s3.create_bucket(Bucket=BUCKET)
    X = rows(20_000, 0)
    y = np.random.default_rng(0).integers(1, 6, 20_000).astype(np.float32)
    s3.put_object(Bucket=BUCKET, Key="train/a.pbr", Body=encoded(X, y))
    with tempfile.TemporaryDirectory() as folder:
        chance = np.random.default_rng(0)
        model = fm.Model(3.5, chance.normal(0, 0.1, FEATURES), chance.normal(0, 0.1, (FEATURES, 8)))
        s3.upload_file(str(model.save(Path(folder) / "model.tar.gz")), BUCKET, "model.tar.gz")
    container = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/model.tar.gz"}
    sagemaker.create_model(ModelName="model", ExecutionRoleArn=ROLE, PrimaryContainer=container)
    variant = {"VariantName": "all", "ModelName": "model", "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName="config", ProductionVariants=[{**variant, "InitialInstanceCount": 1}]
    )
    names = [f"endpoint-{number}" for number in range(endpoints)]
    for name in names:
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName="config")
    for name in names:
        sagemaker.get_waiter("endpoint_in_service").wait(
            EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )


def work(keys: dict[str, str], end: float, part: int, options: argparse.Namespace) -> tuple[Any, ...]:
    """Do one process's share of everything."""
    works: list[tuple[Callable[..., None], int]] = []
    for action, count in (
        (use_s3, options.clients),
        (invoke, options.endpoints),
        (submit_jobs, options.jobs),
    ):
        works += [(action, number) for number in range(count) if number % PROCESSES == part]
    return Worker(keys, end).run(works)


def memory(pid: int) -> float:
    """Return the memory of a process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


def watched(pid: int, end: float) -> list[float]:
    """Return the server's memory every two seconds until the end."""
    taken = []
    while time.time() < end:
        taken.append(memory(pid))
        time.sleep(2)
    return taken


def main() -> int:
    """Load the server and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=64, help="clients that put, get and list")
    parser.add_argument("--endpoints", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=4, help="training jobs at once")
    parser.add_argument("--markdown", type=Path, help="a page that the tables are put into")
    options = parser.parse_args()
    os.environ[JOBS_VARIABLE] = str(options.jobs)
    report = Report("local_load")
    report.text(machine())
    with tempfile.TemporaryDirectory() as folder:
        server = local.start(Path(folder) / "root")
        try:
            return loaded(server, options, report)
        finally:
            local.stop(server.root)


def loaded(server: local.Server, options: argparse.Namespace, report: Report) -> int:
    """Load a server; return the exit code."""
    keys = {
        "endpoint_url": server.endpoint,
        "aws_access_key_id": server.credentials.access_key,
        "aws_secret_access_key": server.credentials.secret_key,
        "region_name": "us-east-1",
    }
    prepare(Worker(keys, 0), options.endpoints)
    end = time.time() + options.seconds
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        parts = [pool.apply_async(work, (keys, end, part, options)) for part in range(PROCESSES)]
        taken = watched(server.pid, end)
        results = [part.get() for part in parts]
    done: Counter[str] = sum((result[0] for result in results), Counter())
    waits = np.concatenate([result[1] for result in results])
    errors = [error for result in results for error in result[2]]
    s3 = Worker(keys, 0).client("s3")
    for objects in (result[3] for result in results):
        for key, digest in objects.items():
            found = hashlib.sha256(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()).hexdigest()
            errors += [] if found == digest else [f"{key} is lost"]
    fifths = " ".join(f"{taken[len(taken) * fifth // 5 - 1]:.0f}" for fifth in range(1, 6))
    counted = [[what, f"{count:,}", f"{count / options.seconds:.1f}"] for what, count in sorted(done.items())]
    title = (
        f"{options.clients} clients of S3, {options.endpoints} endpoints, {options.jobs} jobs at once, "
        f"{options.seconds:.0f} s"
    )
    report.table(title, ["", "count", "a second"], counted)
    p50, p99, most = np.percentile(waits, [50, 99, 100])
    report.text(
        f"{len(errors)} errors. A request took {p50 * 1000:.0f} ms (p50), {p99 * 1000:.0f} ms (p99), "
        f"{most:.1f} s (the longest). The server's memory after each fifth of the time: {fifths} MB, "
        f"{max(taken):.0f} MB at most."
    )
    for error in errors[:20]:
        print(error, file=sys.stderr)
    if options.markdown:
        report.put_into(options.markdown)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
