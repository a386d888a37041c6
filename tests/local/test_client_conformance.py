"""AWS's own clients run programs written for SageMaker against the local AWS, as `make clients` does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lib import local

sys.path.insert(0, str(Path(__file__).parents[1] / "clients"))
import run_clients

CHOSEN = [
    "boto3",
    "sdk_v3_resources",
]  # those that Reelbook's own environment has; REELBOOK_CLIENTS=all takes all
PAGE = Path(__file__).parents[2] / "docs" / "clients.md"


@pytest.mark.parametrize(
    "name", run_clients.PACKAGES if os.environ.get("REELBOOK_CLIENTS") == "all" else CHOSEN
)
def test_a_program_written_for_sagemaker_runs(local_aws: local.Server, name: str) -> None:
    found, output = run_clients.check(name, local_aws)
    assert found, output
    assert [parts for parts in found if parts[2] != "ok"] == [], output
    untold = [f"{parts[0]} | {parts[1]}" for parts in found if f"| {parts[1]} | ok |" not in PAGE.read_text()]
    assert untold == []


def test_every_program_is_one_of_the_clients() -> None:
    scripts = {path.stem.removeprefix("check_") for path in run_clients.FOLDER.glob("check_*.py")}
    assert scripts == set(run_clients.PACKAGES)
