"""The image without Docker: what its Dockerfile copies, in a folder of its own, started as SageMaker starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from benchmarks.support.environments import ROOT
from lib import local, recordio

DOCKERFILE = ROOT / "deploy" / "container" / "Dockerfile"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds what the image's working directory holds."""
    folder = tmp_path_factory.mktemp("image")
    for source in copied():
        path = ROOT / source
        if path.is_dir():
            shutil.copytree(path, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder / source)
    return folder


def copied() -> list[str]:
    return re.findall(r"^COPY (\S+) \S+$", DOCKERFILE.read_text(), flags=re.MULTILINE)


def entry_point() -> list[str]:
    found = re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    assert found
    command: list[str] = json.loads(found[1])
    return [sys.executable, *command[1:]]


def start(image: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*entry_point(), *arguments],
        cwd=image,
        env={**os.environ, "PYTHONPATH": str(image), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(image: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    with start(image, *arguments, **variables) as process:
        said = process.communicate(timeout=120)[0]
    return process.returncode, said


def test_only_what_is_there_is_copied_and_nothing_else_gets_into_the_context() -> None:
    kept = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert sorted(line[1:] for line in kept if line.startswith("!")) == sorted(copied())
    assert kept[0] == "**"
    assert all((ROOT / source).exists() for source in copied())


def test_the_copied_lib_is_the_one_that_runs(image: Path) -> None:
    command = [sys.executable, "-c", "import lib; print(lib.__file__)"]
    done = subprocess.run(command, cwd=image, capture_output=True, text=True)
    assert Path(done.stdout.strip()).is_relative_to(image)


def test_train_and_serve(image: Path, tmp_path: Path) -> None:
    rows = sp.csr_matrix(np.eye(6, dtype=np.float32)[np.arange(60) % 6])
    labels = np.arange(60, dtype=np.float32) % 6
    for channel in ("train", "test"):
        folder = tmp_path / "input" / "data" / channel
        folder.mkdir(parents=True)
        with (folder / "part.pbr").open("wb") as file:
            recordio.write(file, rows, labels)
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    hyperparameters = {"feature_dim": "6", "num_factors": "2", "predictor_type": "regressor", "epochs": "30"}
    (config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    channel = {"TrainingInputMode": "File", "ContentType": "application/x-recordio-protobuf"}
    (config / "inputdataconfig.json").write_text(json.dumps({"train": channel, "test": channel}))
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))
    for name in ("model", "output"):
        (tmp_path / name).mkdir()
    code, said = run(image, "train", "--root", str(tmp_path))
    assert code == 0, said
    assert "#quality_metric" in said
    assert list((tmp_path / "model").iterdir())

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start(image, "serve", "--root", str(tmp_path), "--host", "127.0.0.1", "--port", str(port))
    try:
        assert answer("GET", f"http://127.0.0.1:{port}/ping") == b""
        body = json.dumps(
            {"instances": [{"data": {"features": {"keys": [5], "shape": [6], "values": [1.0]}}}]}
        )
        scored = json.loads(answer("POST", f"http://127.0.0.1:{port}/invocations", body.encode()))
        assert np.isfinite(scored["predictions"][0]["score"])
    finally:
        server.terminate()
        server.communicate(timeout=20)


def test_run_leaves_the_runs_folder_and_takes_it_up(
    image: Path, tmp_path: Path, local_aws: local.Server
) -> None:
    given = tmp_path / "processing" / "input" / "given"
    given.mkdir(parents=True)
    (given / "parameters.json").write_text(json.dumps({"ratings": 3000}))
    code, said = run(image, "run", "--root", str(tmp_path), "--run-id", "boxed", "--to", "00_collect")
    assert code == 0, said
    assert "3,000 generated ratings" in said
    left = tmp_path / "processing" / "output" / "run"
    assert json.loads((left / "scraps.json").read_text())["review_count"] == 3000

    second = tmp_path / "second"
    (second / "processing" / "input").mkdir(parents=True)
    shutil.copytree(left, second / "processing" / "input" / "run")
    stage = ("--from", "01_preprocess", "--to", "01_preprocess")
    code, said = run(image, "run", "--root", str(second), "--run-id", "boxed", *stage)
    assert code == 0, said
    record = json.loads((second / "processing" / "output" / "run" / "run.json").read_text())
    status = {one["name"]: one["status"] for one in record["stages"]}
    assert (status["00_collect"], status["01_preprocess"]) == ("completed", "completed")


@pytest.mark.parametrize(
    ("given", "arguments", "message"),
    [
        ({}, ("--from", "03_train"), "takes `train_uri` from 02_prepare"),
        ({"parameters.json": "{"}, (), "parameters.json is no JSON"),
        ({"published.json": "[1]"}, (), "published.json holds no JSON object"),
        ({"parameters.json": '{"ratinks": 1}'}, (), "did you mean `ratings`"),
        ({}, ("-f", "parameters/none.yaml"), "none.yaml"),
    ],
)
def test_what_went_wrong_is_the_last_word(
    image: Path,
    tmp_path: Path,
    local_aws: local.Server,
    given: dict[str, str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    folder = tmp_path / "processing" / "input" / "given"
    folder.mkdir(parents=True)
    for name, text in given.items():
        (folder / name).write_text(text)
    code, said = run(image, "run", "--root", str(tmp_path), "--run-id", "wrong", *arguments)
    assert code == 1
    assert "Traceback" not in said
    assert message in (tmp_path / "output" / "message").read_text()


def answer(method: str, url: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(
        url, data=body, method=method, headers={"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 60
    while True:
        try:
            with opener.open(request, timeout=20) as found:
                return found.read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
