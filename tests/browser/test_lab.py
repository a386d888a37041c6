"""JupyterLab as `make lab` opens it, in a real browser: 03_train run by hand after a headless run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lib import local

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-this-test"
SMALL = {"ratings": 20_000, "epochs": 3, "num_factors": 8}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout: JupyterLab saves what it runs."""
    folder = tmp_path_factory.mktemp("checkout") / "reelbook"
    folder.mkdir()
    for name in ("lib", "notebooks", "parameters"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(ROOT / "run_all.py", folder)
    return folder


@pytest.fixture(scope="module")
def environment(local_aws, tmp_path_factory) -> dict[str, str]:
    """Private folders for Jupyter, so that the person's own settings neither matter nor change."""
    folder = tmp_path_factory.mktemp("jupyter")
    private = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    clean = {name: value for name, value in os.environ.items() if name != "REELBOOK_OUTPUTS"}
    return {**clean, **private, "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}


@pytest.fixture(scope="module")
def run_before(checkout, environment) -> str:
    """The stages before 03, run headless: what a person would have done an hour ago."""
    options = [word for name, value in SMALL.items() for word in ("-p", name, json.dumps(value))]
    command = [sys.executable, "run_all.py", "--run-id", "before", "--to", "02_prepare", *options]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return "before"


@pytest.fixture(scope="module")
def lab(checkout, environment, tmp_path_factory):
    """The address of a JupyterLab started by the command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("lab") / "lab.log"
    options = ["--no-browser", f"--port={port}", "--ServerApp.port_retries=0"]
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "run_all.py", "lab", *options, f"--IdentityProvider.token={TOKEN}"],
            cwd=checkout,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api?token={TOKEN}", process, log)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start: {log.read_text()[-2000:]}")


def test_it_asks_for_a_token(lab):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{lab}/api/contents", timeout=10)


def test_03_train_runs_by_hand_with_the_inputs_of_the_last_run(lab, page, run_before, checkout):
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.goto(f"{lab}/lab/tree/notebooks/03_train.ipynb?token={TOKEN}&reset", timeout=90_000)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    page.wait_for_function("document.body.innerText.includes('| Idle')", timeout=90_000)
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
    page.wait_for_function(
        "[...document.querySelectorAll('.jp-OutputArea-output')].some(e => e.innerText.includes('training_job_name'))",
        timeout=120_000,
    )
    output = page.evaluate(
        "[...document.querySelectorAll('.jp-OutputArea-output')].map(e => e.innerText).join('\\n')"
    )
    assert f"From the run {run_before}: train_uri, validate_uri, feature_dim." in output
    image = page.locator(".jp-OutputArea-output img").first
    assert image.evaluate("picture => picture.naturalWidth") > 0
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert errors == []
    scraps = json.loads((checkout / "outputs" / "scratch" / "scraps.json").read_text())
    assert scraps["model_uri"].endswith("model.tar.gz")
    assert local.status() is not None
    page.screenshot(path=os.environ.get("REELBOOK_SCREENSHOT", str(checkout / "lab.png")))
