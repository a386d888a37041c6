"""Damaged state, a full disk, a clock that jumps: one sentence each, nothing half written, nothing that hangs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sagemaker_kit import BUCKET, ENDLESS, Aws, hyperparameters, training_request

from lib.errors import ReelbookError
from lib.local.jobs import LOG_GROUP
from lib.local.protocol import AwsError

PAGE = 4096  # SQLite's
MIB = 1024**2


@pytest.mark.parametrize("file", ["s3/index.db", "sagemaker.sqlite"])
def test_a_state_file_damaged_in_the_middle_is_said(tmp_path: Path, file: str) -> None:
    with Aws(tmp_path) as aws:
        for number in range(60):
            aws.put(f"k{number:03d}" + 200 * "x", b"x")
        aws.put("model.tar.gz", b"not looked into")
        for number in range(30):
            source = {"Image": "1.dkr.ecr.us-east-1.amazonaws.com/factorization-machines:1"}
            source["ModelDataUrl"] = f"s3://{BUCKET}/model.tar.gz"
            role = "arn:aws:iam::123456789012:role/local"
            aws.call("CreateModel", ModelName=f"m{number}", PrimaryContainer=source, ExecutionRoleArn=role)
    damaged = bytearray((tmp_path / file).read_bytes())
    assert len(damaged) >= 4 * PAGE
    for start in range(PAGE, len(damaged), PAGE):  # all but the first page, which opening a database reads
        damaged[start : start + 200] = b"\xff" * 200
    (tmp_path / file).write_bytes(damaged)
    with pytest.raises(ReelbookError, match=rf"cannot read its .*{file.rpartition('/')[2]}: it is damaged"):
        Aws(tmp_path)


def test_an_object_whose_data_are_gone_is_said(tmp_path: Path) -> None:
    with Aws(tmp_path) as aws:
        aws.put("k", b"content")
        aws.objects.get(BUCKET, "k").path.unlink()
        with pytest.raises(AwsError, match="data of the object is missing"):
            aws.objects.open(BUCKET, "k")


@pytest.mark.parametrize("jump", [-7200.0, 86_400.0 * 3])
def test_a_clock_that_jumps_neither_ends_a_job_nor_makes_its_times_absurd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    with Aws(tmp_path) as aws:
        aws.put_ratings()
        aws.call("CreateTrainingJob", **training_request("jumped", HyperParameters=ENDLESS))
        aws.wait_for_log(LOG_GROUP, "jumped", "epoch=0")
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        time.sleep(0.2)
        assert aws.describe("TrainingJob", "jumped")["TrainingJobStatus"] == "InProgress"
        aws.call("StopTrainingJob", TrainingJobName="jumped")
        answer = aws.wait("TrainingJob", "jumped")
        assert answer["TrainingJobStatus"] == "Stopped"
        assert answer["BillableTimeInSeconds"] >= 1
        aws.call("CreateTrainingJob", **training_request("after"))
        answer = aws.wait("TrainingJob", "after")
        assert answer["TrainingJobStatus"] == "Completed", answer.get("FailureReason")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can make a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_fails_puts_and_jobs_in_a_sentence_and_is_got_over(small_disk: Path) -> None:
    with Aws(small_disk) as aws:
        aws.put_ratings()
        wide = hyperparameters(feature_dim=60, num_factors=4000, epochs=1)  # a model of 1 MB
        aws.put("half", os.urandom(12 * MIB))
        with pytest.raises(AwsError, match="The disk or the quota of the local AWS is full"):
            aws.put("more", bytes(12 * MIB))
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(64 * 1024))
            except OSError:
                os.ftruncate(file.fileno(), file.tell() - 256 * 1024)
        aws.call("CreateTrainingJob", **training_request("full", HyperParameters=wide))
        deadline = time.monotonic() + 20
        while aws.describe("TrainingJob", "full")["TrainingJobStatus"] == "InProgress":
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        filler.unlink()  # where even its failure could not be noted, it is now
        answer = aws.wait("TrainingJob", "full")
        assert answer["TrainingJobStatus"] == "Failed"
        assert "disk" in answer["FailureReason"] or "space" in answer["FailureReason"], answer
        assert aws.keys("more") == []
        assert aws.keys("models/full") == []
        aws.call("CreateTrainingJob", **training_request("again", HyperParameters=wide))
        answer = aws.wait("TrainingJob", "again")
        assert answer["TrainingJobStatus"] == "Completed", answer.get("FailureReason")
