"""Measure an endpoint of the local AWS: latency and throughput of single-row and of batch requests.

One model of two one-hot features is asked in four ways in one run: in this process (`Model.predict`), at its
serving process by bare HTTP, and through the local AWS by boto3 from one client and from several.  The first
two are limits: what is above them is the price of HTTP, and of boto3 with AWS's protocol.  An idle endpoint's
processor time is measured at the end.

    .venv/bin/python benchmarks/local_endpoints.py [--seconds N] [--clients N] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import http.client
import io
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.support.report import Report, machine  # noqa: E402  the checkout is not installed
from lib import fm, local, recordio  # noqa: E402
from lib.job_requests import RECORDIO  # noqa: E402

CUSTOMERS, VIDEOS, FACTORS = 100_000, 10_000, 64
HEADER = ("", "p50 ms", "p99 ms", "requests/s", "rows/s")


def main() -> None:
    """Run the measurements and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="how long each row of the table is measured"
    )
    parser.add_argument(
        "--clients", type=int, default=8, help="how many clients ask at once in the last rows"
    )
    parser.add_argument("--markdown", type=Path, help="a page that the table is put into")
    options = parser.parse_args()
    report = Report("local_endpoints")
    report.text(machine())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        server = local.start(root)
        try:
            rows, idle = measure(server, Path(folder), options.seconds, options.clients)
        finally:
            local.stop(root)
    report.table("An endpoint of the local AWS", HEADER, rows)
    report.text(f"Idle: the endpoint's process used {idle:.3f} seconds of processor time in 10 seconds.")
    if options.markdown:
        report.put_into(options.markdown)


def measure(
    server: local.Server, folder: Path, seconds: float, clients: int
) -> tuple[list[tuple[Any, ...]], float]:
    """Return the table's rows, and the processor seconds of an idle endpoint in 10 seconds."""
    import boto3
    import psutil

    keys = {
        "endpoint_url": server.endpoint,
        "aws_access_key_id": server.credentials.access_key,
        "aws_secret_access_key": server.credentials.secret_key,
        "region_name": "us-east-1",
    }
    boto3.setup_default_session()
    random = np.random.default_rng(0)
    d = CUSTOMERS + VIDEOS
    model = fm.Model(3.5, random.normal(0, 0.1, d), random.normal(0, 0.1, (d, FACTORS)))
    name = serve(model, folder, keys)
    process = psutil.Process(server.pid).children()[0]
    port = next(item.laddr.port for item in process.net_connections() if item.status == "LISTEN")
    rows = []
    for count in (1, 1_000):
        X = requests_of(count, random)
        body = encoded(X)
        runtime = boto3.client("sagemaker-runtime", **keys)
        connection = http.client.HTTPConnection("127.0.0.1", port)

        def directly(connection: Any = connection, body: bytes = body) -> None:
            connection.request("POST", "/invocations", body, {"Content-Type": RECORDIO})
            assert connection.getresponse().read()

        def by_boto3(runtime: Any = runtime, body: bytes = body) -> None:
            answer = runtime.invoke_endpoint(EndpointName=name, ContentType=RECORDIO, Body=body)
            assert answer["Body"].read()

        for label, ask, at_once in (
            ("in this process", lambda X=X: model.predict(X), 1),
            ("its process, bare HTTP", directly, 1),
            ("local AWS, boto3", by_boto3, 1),
            (f"local AWS, boto3, {clients} clients", by_boto3, clients),
        ):
            times, wall = timed(ask, seconds, at_once)
            p50, p99 = np.percentile(times, [50, 99]) * 1000
            rate = len(times) / wall
            rows.append(
                (
                    f"{count:,} rows, {label}",
                    f"{p50:.2f}",
                    f"{p99:.2f}",
                    f"{rate:,.0f}",
                    f"{rate * count:,.0f}",
                )
            )
    before = sum(process.cpu_times()[:2])
    time.sleep(10)
    return rows, sum(process.cpu_times()[:2]) - before


def serve(model: fm.Model, folder: Path, keys: dict[str, str]) -> str:
    """Serve the model at an endpoint and return the endpoint's name."""
    import boto3

    archive = model.save(folder / "model.tar.gz")
    s3, client = boto3.client("s3", **keys), boto3.client("sagemaker", **keys)
    s3.create_bucket(Bucket="benchmark")
    s3.upload_file(str(archive), "benchmark", archive.name)
    image = "382416733822.dkr.ecr.us-east-1.amazonaws.com/factorization-machines:1"
    client.create_model(
        ModelName="benchmark",
        ExecutionRoleArn="arn:aws:iam::123456789012:role/local",
        PrimaryContainer={"Image": image, "ModelDataUrl": f"s3://benchmark/{archive.name}"},
    )
    variant = {
        "VariantName": "all",
        "ModelName": "benchmark",
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    client.create_endpoint_config(EndpointConfigName="benchmark", ProductionVariants=[variant])
    client.create_endpoint(EndpointName="benchmark", EndpointConfigName="benchmark")
    while client.describe_endpoint(EndpointName="benchmark")["EndpointStatus"] == "Creating":
        time.sleep(0.05)
    return "benchmark"


def requests_of(rows: int, random: np.random.Generator) -> sp.csr_matrix:
    """Return rows of one customer and one video each."""
    columns = np.stack(
        [random.integers(0, CUSTOMERS, rows), CUSTOMERS + random.integers(0, VIDEOS, rows)], axis=1
    )
    return sp.csr_matrix(
        (np.ones(2 * rows, np.float32), columns.ravel(), np.arange(0, 2 * rows + 1, 2)),
        (rows, CUSTOMERS + VIDEOS),
    )


def encoded(X: sp.csr_matrix) -> bytes:
    """Return rows as recordIO-protobuf."""
    file = io.BytesIO()
    recordio.write(file, X)
    return file.getvalue()


def timed(ask: Callable[[], object], seconds: float, clients: int) -> tuple[list[float], float]:
    """Return how long each request took while ``clients`` threads ask for so long, and how long that was."""
    for _ in range(20):
        ask()
    end = time.perf_counter() + seconds

    def work(_: int) -> list[float]:
        times = []
        while (began := time.perf_counter()) < end:
            ask()
            times.append(time.perf_counter() - began)
        return times

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = [took for each in pool.map(work, range(clients)) for took in each]
    return times, time.perf_counter() - began


if __name__ == "__main__":
    main()
