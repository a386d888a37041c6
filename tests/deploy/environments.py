"""Servers that the tests of the deployment talk to: moto, in an environment of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.support.environments import programs_of

MOTO = ["moto[server,stepfunctions]==5.2.5", "statelint==3.1.0"]
"""What is in the environment ``step-functions``; cfn-lint comes with it."""


@contextmanager
def serving(
    command: Callable[[int], Sequence[Any]], log: Path, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run a server on a free port of loopback, and give its address.

    Parameters
    ----------
    command : callable
        Returns the command that serves on a port.
    log : Path
        Where what it says goes.
    variables : mapping, optional
        Its environment.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with log.open("w") as output:
        server = subprocess.Popen(command(port), env=variables, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def moto(log: Path) -> Iterator[str]:
    """Run a moto server, and give its address."""
    programs = programs_of("step-functions", MOTO)
    with serving(lambda port: [programs / "moto_server", "-H", "127.0.0.1", "-p", str(port)], log) as address:
        yield address


def moto_client(endpoint: str, service: str) -> Any:
    """Return a boto3 client of a moto server."""
    import boto3

    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
