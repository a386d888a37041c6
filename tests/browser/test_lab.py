"""JupyterLab as `make lab` opens it, in a real browser: every notebook run by hand, alone, from top to bottom."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Page

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
    for path in (folder / "notebooks").glob("*.ipynb"):  # a person would edit the parameters cells
        text = path.read_text()
        for name, value in (*SMALL.items(), ("tuning", {"max_jobs": 2})):
            line = re.compile(rf'("{name}: \w+ = )[^#]+?(  #)')
            text = line.sub(rf"\g<1>{value}\g<2>", text)
        path.write_text(text)
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
def runs_before(checkout, environment) -> None:
    """Two headless runs: what a person would have done an hour ago."""
    options = [word for name, value in SMALL.items() for word in ("-p", name, json.dumps(value))]
    for run_id, more in (("before", []), ("after", ["-p", "epochs", "4"])):
        command = [sys.executable, "run_all.py", "--run-id", run_id, *options, *more]
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


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


NOTEBOOKS = ["03_train", "05_transform", "06_evaluate", "07_deploy"]
NOTEBOOKS += ["explore/compare_runs", "explore/look_into_a_model"]
OTHERS = ["00_collect", "01_preprocess", "02_prepare", "04_tune", "08_clean_up"]
if os.environ.get("REELBOOK_LAB") == "all":  # tests/notebooks runs them too, without a browser
    NOTEBOOKS += OTHERS


def test_every_notebook_is_named() -> None:
    found = {
        str(path.relative_to(ROOT / "notebooks").with_suffix(""))
        for path in (ROOT / "notebooks").rglob("*.ipynb")
    }
    assert {name for name in found if "checkpoint" not in name} == {*NOTEBOOKS, *OTHERS}


def run_all_cells(lab: str, page: Page, name: str, cells: int) -> str:
    """Open a notebook, run all its cells, and return what it shows."""
    page.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb?token={TOKEN}&reset", timeout=90_000)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    page.wait_for_function("document.body.innerText.includes('| Idle')", timeout=90_000)
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
    page.wait_for_function(
        "count => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].filter("
        "prompt => /\\[\\d+\\]/.test(prompt.innerText)).length >= count"
        " || document.querySelector('[data-mime-type=\"application/vnd.jupyter.error\"]')",
        arg=cells,
        timeout=150_000,
    )
    outputs = "[...document.querySelectorAll('.jp-OutputArea-output')].map(e => e.innerText).join('\\n')"
    return str(page.evaluate(outputs))


def close_kernels(lab: str) -> None:
    """End all kernels: the next notebook is run alone."""
    headers = {"Authorization": f"token {TOKEN}"}
    request = urllib.request.Request(f"{lab}/api/kernels", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        kernels = json.load(answer)
    for kernel in kernels:
        address = f"{lab}/api/kernels/{kernel['id']}"
        urllib.request.urlopen(urllib.request.Request(address, headers=headers, method="DELETE"), timeout=20)


def figures_of(path: Path) -> int:
    """Return how many figures a notebook draws, by its source."""
    return path.read_text().count("plots.show(")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_by_hand_from_top_to_bottom(lab, page, runs_before, checkout, name):
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_viewport_size({"width": 1280, "height": 20_000})  # JupyterLab draws what is in sight
    path = checkout / "notebooks" / f"{name}.ipynb"
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    output = run_all_cells(lab, page, name, len(code))
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0, output[-2000:]
    images = page.locator(".jp-OutputArea-output img")
    assert images.count() == figures_of(path)
    for number in range(images.count()):
        assert images.nth(number).evaluate("picture => picture.naturalWidth") > 0
    assert errors == []
    if name == "03_train":  # nothing has been run by hand yet
        assert "From the run after: train_uri, validate_uri, feature_dim." in output
        published = json.loads((checkout / "outputs" / "scratch" / "scraps.json").read_text())
        assert published["model_uri"].startswith("s3://reelbook/runs/scratch/03_train/")
        assert "scratch" not in (checkout / "outputs" / "after" / "scraps.json").read_text()
    if name == "05_transform":
        assert "From the scratch run: model_uri" in output
    if name[0] == "0":
        assert "What this notebook makes belongs to the scratch run." in output
    assert local.status() is not None
    page.set_viewport_size({"width": 1280, "height": 1000})
    folder = os.environ.get("REELBOOK_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{path.stem}.png")
    close_kernels(lab)


def test_headless_runs_do_not_see_what_was_run_by_hand(checkout, environment, runs_before):
    """After all of the above: the same run is up to date, and takes nothing from the scratch run."""
    options = [word for name, value in SMALL.items() for word in ("-p", name, json.dumps(value))]
    command = [sys.executable, "run_all.py", "plan", *options]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "scratch" not in done.stdout
    assert "06_evaluate    reused" in done.stdout
