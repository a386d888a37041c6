"""Checkpoints: a training that goes on from one ends with the bits of one that was never interrupted."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from training_job import Job, ratings

from lib.fm.checkpoints import FILE


def job_of(folder: Path, **changes: str) -> Job:
    job = Job(folder)
    job.hyperparameters(**{"epochs": "6", **changes})
    (folder / "checkpoints").mkdir()
    return job


def model(job: Job) -> bytes:
    return (job.root / "model" / "model_algo-1").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Return a job of six epochs that was not interrupted."""
    job = job_of(tmp_path_factory.mktemp("whole") / "ml")
    job.run()
    return job


@pytest.mark.parametrize("stopped_after", [1, 3, 5])
def test_a_training_goes_on_with_the_same_bits(tmp_path: Path, whole: Job, stopped_after: int) -> None:
    short = job_of(tmp_path / "short", epochs=str(stopped_after))
    short.run()
    rest = job_of(tmp_path / "rest")
    shutil.copy(short.root / "checkpoints" / FILE, rest.root / "checkpoints" / FILE)
    log = rest.run()
    assert any(f"going on after epoch={stopped_after - 1}, from the checkpoint" in line for line in log)
    epochs = [line for line in log if "#progress_metric" in line]
    assert len(epochs) == 6 - stopped_after
    assert model(rest) == model(whole)


def test_a_finished_training_has_nothing_to_go_on_with(whole: Job, tmp_path: Path) -> None:
    again = job_of(tmp_path / "again")
    shutil.copy(whole.root / "checkpoints" / FILE, again.root / "checkpoints" / FILE)
    log = again.run()
    assert not any("#progress_metric" in line for line in log)
    assert model(again) == model(whole)


def test_a_stopped_training_leaves_a_checkpoint_that_goes_on(tmp_path: Path) -> None:
    job = job_of(tmp_path / "stopped", epochs="1000000")
    process = job.start()
    assert process.stdout
    for line in process.stdout:
        if "epoch=30, train rmse" in line:
            process.send_signal(signal.SIGTERM)
            break
    process.communicate(timeout=60)
    assert process.returncode == 0
    with np.load(job.root / "checkpoints" / FILE, allow_pickle=False) as kept:
        assert kept["table"].dtype == np.float32
        assert (
            json.loads(str(kept["about"]))["epoch"] >= 30
        )  # the one that it was stopped after, not one long before
    log = job_of_same_folder(job, epochs="1000000")
    assert any("from the checkpoint" in line for line in log)


def job_of_same_folder(job: Job, **changes: str) -> list[str]:
    """Run a job once more until it says where it goes on, and end it."""
    job.hyperparameters(**changes)
    process = job.start()
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if "#progress_metric" in line:
            break
    process.kill()
    process.communicate()
    return said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"linear_lr": "0.06"}, "of other hyperparameters, data or seed: training from the beginning"),
        ({"epochs": "2"}, "beyond the 2 epochs asked for: training from the beginning"),
    ],
)
def test_a_checkpoint_of_another_training_is_not_used(
    tmp_path: Path, whole: Job, change: dict[str, str], said: str
) -> None:
    other = job_of(tmp_path / "other", **change)
    shutil.copy(whole.root / "checkpoints" / FILE, other.root / "checkpoints" / FILE)
    assert any(said in line for line in other.run())
    fresh = job_of(tmp_path / "fresh", **change)
    fresh.run()
    assert model(other) == model(fresh)


def test_a_checkpoint_of_other_data_is_not_used(tmp_path: Path, whole: Job) -> None:
    other = job_of(tmp_path / "other")
    other.channel("train", *ratings(950, seed=5))
    shutil.copy(whole.root / "checkpoints" / FILE, other.root / "checkpoints" / FILE)
    assert any("training from the beginning" in line for line in other.run())


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_checkpoint_is_said_and_not_used(tmp_path: Path, whole: Job, damage: bytes) -> None:
    other = job_of(tmp_path / "other")
    (other.root / "checkpoints" / FILE).write_bytes(damage)
    assert any("cannot be read: training from the beginning" in line for line in other.run())
    assert model(other) == model(whole)


def test_without_the_folder_there_is_no_checkpoint(tmp_path: Path, whole: Job) -> None:
    plain = Job(tmp_path / "plain")
    plain.hyperparameters(epochs="6")
    plain.run()
    assert not (plain.root / "checkpoints").exists()
    assert model(plain) == model(whole)


def test_extensions_have_no_checkpoints_and_say_so(tmp_path: Path) -> None:
    several = job_of(tmp_path / "several", epochs="2", local_seeds="2")
    assert any("no checkpoints of a training with local extensions" in line for line in several.run())
    assert not (several.root / "checkpoints" / FILE).exists()
