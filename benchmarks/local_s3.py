"""Measure the local S3 against moto's server and against copying a file, all in one run.

The same client, boto3, drives both servers with the same bytes; large objects are also put and got by plain
HTTP with presigned URLs, where the client hashes nothing and so hides less of the server.  The limit is a
copy of the same bytes from one file to another that is safe on disk when it returns, as an object that was
put is; moto's server keeps objects in memory, or in a file that the system may lose.  moto runs in an
environment of its own, ``.bench/moto``, which is made on first use with pip.  Ratios are those of seconds.

    .venv/bin/python benchmarks/local_s3.py [--quick] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
PEER_PACKAGES = ["moto[s3,server]==5.2.5"]
OURS, MOTO, COPY = "ours", "moto", "copy"
BUCKET = "measured"
MIB = 1024**2
LARGE, PARTS, HUGE = 64 * MIB, 256 * MIB, 2048 * MIB

sys.path.insert(0, str(ROOT))

from benchmarks.support.environments import programs_of  # noqa: E402  the checkout is not installed
from benchmarks.support.report import Report, figure, machine  # noqa: E402  the checkout is not installed


@dataclass
class Server:
    """A server under measurement: its process, where it listens, and a client."""

    name: str
    process: int
    port: int
    client: Any

    def peak(self, *, reset: bool = False) -> float:
        """Return the most memory it had so far, in MB, or begin to count anew."""
        folder = Path(f"/proc/{self.process}")
        if reset:
            (folder / "clear_refs").write_text("5")
        status = (folder / "status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1000


@dataclass
class Taken:
    """The seconds of each measurement, by who was measured."""

    title: str
    unit: str
    work: float  # in the unit; the rate is work / seconds
    seconds: dict[str, float] = field(default_factory=dict)

    def row(self) -> list[str]:
        """Return the rates, and the ratios of ours to the others."""
        ours = self.seconds[OURS]
        rates = [figure(self.work / self.seconds[who]) if who in self.seconds else "–" for who in WHO]
        ratios = [f"{self.seconds[who] / ours:.2f}" if who in self.seconds else "–" for who in (MOTO, COPY)]
        unit = f"{self.unit}/s" if self.unit else "a second"
        return [f"{self.title}, {unit}", *rates, *ratios]


WHO = (OURS, MOTO, COPY)
HEADER = ["", "ours", "moto", "file copy", "ours ÷ moto", "ours ÷ copy"]


def client_of(port: int, access_key: str, secret_key: str) -> Any:
    """Return a client of boto3."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(signature_version="s3v4", retries={"mode": "standard", "max_attempts": 1}),
    )


@contextmanager
def our_server(folder: Path) -> Iterator[Server]:
    """Run the local AWS."""
    from lib import local

    server = local.start(folder)
    try:
        keys = server.credentials
        yield Server(OURS, server.pid, server.port, client_of(server.port, keys.access_key, keys.secret_key))
    finally:
        local.stop(folder)


@contextmanager
def moto_server(folder: Path) -> Iterator[Server]:
    """Run moto's server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(programs_of("moto", PEER_PACKAGES) / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield Server(MOTO, process.pid, port, client_of(port, "key", "secret"))
    finally:
        process.terminate()
        process.wait()


def best(action: Callable[[], object], repeat: int) -> float:
    """Return the least seconds of several calls."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def copy(source: Path, target: Path) -> None:
    """Copy a file, safe on disk."""
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def plain_put(server: Server, data: bytes) -> None:
    """Put an object by plain HTTP."""
    params = {"Bucket": BUCKET, "Key": "plain"}
    url = urlsplit(server.client.generate_presigned_url("put_object", Params=params))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("PUT", f"{url.path}?{url.query}", data)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


def plain_get(server: Server, buffer: memoryview) -> None:
    """Get an object by plain HTTP into a buffer of its size."""
    params = {"Bucket": BUCKET, "Key": "plain"}
    url = urlsplit(server.client.generate_presigned_url("get_object", Params=params))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", f"{url.path}?{url.query}")
    answer = connection.getresponse()
    position = 0
    while read := answer.readinto(buffer[position:]):
        position += read
    assert (answer.status, position) == (200, len(buffer))
    connection.close()


def measure_large(servers: list[Server], folder: Path, repeat: int) -> list[Taken]:
    """Put and get one object of 64 MiB."""
    data = os.urandom(LARGE)
    (folder / "source").write_bytes(data)
    buffer = memoryview(bytearray(LARGE))
    copied = best(lambda: copy(folder / "source", folder / "target"), repeat)
    size = LARGE / MIB
    measured = []

    def add(title: str, action: Callable[[Server], object]) -> None:
        taken = Taken(title, "MiB", size, {COPY: copied})
        for server in servers:
            taken.seconds[server.name] = best(partial(action, server), repeat)
        measured.append(taken)

    add("put of 64 MiB, boto3", lambda server: server.client.put_object(Bucket=BUCKET, Key="k", Body=data))
    add(
        "get of 64 MiB, boto3",
        lambda server: server.client.get_object(Bucket=BUCKET, Key="k")["Body"].read(),
    )
    add("put of 64 MiB, plain HTTP", lambda server: plain_put(server, data))
    add("get of 64 MiB, plain HTTP", lambda server: plain_get(server, buffer))
    assert buffer == data
    return measured


def measure_huge(servers: list[Server], folder: Path, size: int) -> tuple[list[Taken], dict[str, float]]:
    """Upload and download a file in parts, as the transfer manager does; also return the peaks of memory."""
    source, target = folder / "source", folder / "target"
    piece = os.urandom(16 * MIB)
    with source.open("wb") as file:
        for _ in range(size // len(piece)):
            file.write(piece)
    copied = best(lambda: copy(source, target), 1)
    target.unlink()
    up = Taken(f"upload of {size / MIB:,.0f} MiB in parts, boto3", "MiB", size / MIB, {COPY: copied})
    down = Taken(f"download of {size / MIB:,.0f} MiB, boto3", "MiB", size / MIB, {COPY: copied})
    peaks = {}
    for server in servers:
        server.peak(reset=True)
        up.seconds[server.name] = best(partial(server.client.upload_file, str(source), BUCKET, "huge"), 1)
        down.seconds[server.name] = best(partial(server.client.download_file, BUCKET, "huge", str(target)), 1)
        assert target.stat().st_size == size
        peaks[server.name] = server.peak()
        server.client.delete_object(Bucket=BUCKET, Key="huge")
        target.unlink()
    source.unlink()
    return [up, down], peaks


def measure_small(servers: list[Server], count: int, repeat: int) -> list[Taken]:
    """Put, get, head and list many objects of 1 KiB."""
    data = os.urandom(1024)
    keys = [f"small/{number % 50:02d}/{number:06d}" for number in range(count)]

    def each(call: Callable[..., object], **options: object) -> None:
        for key in keys:
            call(Bucket=BUCKET, Key=key, **options)

    def listing(server: Server, **options: str) -> None:
        pages = server.client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix="small/", **options
        )
        for _ in pages:
            pass

    actions: list[tuple[str, float, Callable[[Server], object]]] = [
        ("puts of 1 KiB", count, lambda server: each(server.client.put_object, Body=data)),
        (
            "gets of 1 KiB",
            count,
            lambda server: each(lambda **o: server.client.get_object(**o)["Body"].read()),
        ),
        ("heads", count, lambda server: each(server.client.head_object)),
        (f"keys listed of {count:,}", count, listing),
        ("folders listed", 50, lambda server: listing(server, Delimiter="/")),
    ]
    measured = []
    for title, work, action in actions:
        taken = Taken(title, "", work)
        for server in servers:
            taken.seconds[server.name] = best(partial(action, server), repeat)
        measured.append(taken)
    return measured


def main() -> int:
    """Run both servers and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, and no file of 2 GiB")
    parser.add_argument("--without-moto", action="store_true", help="measure ours and the copy only")
    parser.add_argument("--markdown", type=Path, help="a page that the tables are put into")
    options = parser.parse_args()

    repeat, count = (2, 200) if options.quick else (5, 2000)
    report = Report("local_s3")
    report.text(machine())
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        servers = [stack.enter_context(our_server(folder / "root"))]
        if not options.without_moto:
            servers.append(stack.enter_context(moto_server(folder)))
        for server in servers:
            server.client.create_bucket(Bucket=BUCKET)
        rows = [taken.row() for taken in measure_large(servers, folder, repeat)]
        rows += [taken.row() for taken in measure_small(servers, count, max(1, repeat // 2))]
        parts, peaks = measure_huge(servers, folder, PARTS)
        rows += [taken.row() for taken in parts]
        if not options.quick:  # moto would take a quarter of an hour
            _, of_ours = measure_huge(servers[:1], folder, HUGE)
            peaks[f"{OURS} with {HUGE / MIB:,.0f} MiB"] = of_ours[OURS]
    report.table("Rates: more is better, and a ratio above 1 says that ours is the faster", HEADER, rows)
    told = "; ".join(f"{who} {peak:,.0f} MB" for who, peak in peaks.items())
    report.text(f"The most memory a server had while {PARTS / MIB:,.0f} MiB went in and out: {told}.")
    if options.markdown:
        report.put_into(options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
