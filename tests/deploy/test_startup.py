"""What gives a host of Airflow the project, run for real against the local AWS's S3."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "airflow" / "startup.sh"
CODE = "s3://code/code/0123456789abcdef"


@pytest.fixture(scope="module", autouse=True)
def code(local_aws: object) -> None:
    """A checkout that needs no packages."""
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="code")
    for name, text in {
        "run_all.py": "print()\n",
        "lib/ratings.sql": "SELECT 1\n",
        "requirements.txt": "",
    }.items():
        s3.put_object(Bucket="code", Key=f"code/0123456789abcdef/{name}", Body=text.encode())


def source(home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Source the script as MWAA does, and print what it leaves; Python is one that has boto3, as Airflow's has."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REELBOOK_", "MWAA_"))}
    given = {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "REELBOOK_HOME": str(home),
        "REELBOOK_CODE": CODE,
        **variables,
    }
    told = f'source {SCRIPT}; echo "ended with $?"; echo "file $REELBOOK_PARAMETERS_FILE home $REELBOOK_HOME"'
    return subprocess.run(["bash", "-c", told], env=given, capture_output=True, text=True, timeout=120)


def test_a_worker_gets_the_code_and_a_python_of_its_own_once(tmp_path: Path) -> None:
    home = tmp_path / "a home"
    done = source(home, MWAA_AIRFLOW_COMPONENT="worker")
    assert "ended with 0" in done.stdout, done.stderr
    assert f"file parameters/aws.yaml home {home}" in done.stdout
    assert (home / "lib" / "ratings.sql").read_text() == "SELECT 1\n"
    python = home / ".venv" / "bin" / "python"
    found = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
    assert found.stdout.strip() == str(home / ".venv")
    again = source(home, REELBOOK_PARAMETERS_FILE="parameters/other.yaml")
    assert "ended with 0" in again.stdout
    assert "Installing" in done.stdout
    assert "Installing" not in again.stdout
    assert "file parameters/other.yaml" in again.stdout


def test_a_machine_without_tasks_only_learns_where_things_are(tmp_path: Path) -> None:
    done = source(tmp_path / "home", MWAA_AIRFLOW_COMPONENT="webserver")
    assert "ended with 0" in done.stdout
    assert f"home {tmp_path / 'home'}" in done.stdout
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("s3://code/code/none", "There is nothing under s3://code/code/none"),
        ("s3://nowhere/code/x", "NoSuchBucket"),
    ],
)
def test_code_that_is_not_there_is_told_and_fails(tmp_path: Path, place: str, told: str) -> None:
    done = source(tmp_path / "home", REELBOOK_CODE=place)
    assert "ended with 1" in done.stdout
    assert told in done.stderr
    assert "Reelbook's tasks will fail on this machine." in done.stderr
    assert not (tmp_path / "home" / ".venv").exists()


def test_packages_that_are_not_as_pinned_are_refused_and_tried_again(tmp_path: Path) -> None:
    s3 = boto3.client("s3")
    s3.put_object(
        Bucket="code", Key="code/bad/requirements.txt", Body=b"six==1.17.0 --hash=sha256:" + b"0" * 64
    )
    for _ in range(2):
        done = source(tmp_path / "home", REELBOOK_CODE="s3://code/code/bad")
        assert "Installing" in done.stdout
        assert "ended with 1" in done.stdout
