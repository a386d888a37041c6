"""The notebooks without the runner: by plain papermill, as in an editor, in any order, into the scratch run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
SMALL = {"ratings": 20_000, "epochs": 3, "num_factors": 8, "test_part_rows": 700}
STAGES = (
    "00_collect",
    "01_preprocess",
    "02_prepare",
    "03_train",
    "05_transform",
    "06_evaluate",
    "08_clean_up",
)
PROGRAM = """
import json, sys
from pathlib import Path
import papermill
folder, parameters, *names = sys.argv[1:]
for name in names:
    source = Path("notebooks") / f"{name}.ipynb"
    target = Path(folder) / f"{Path(name).stem}.ipynb"
    papermill.execute_notebook(source, target, json.loads(parameters), progress_bar=False)
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, local_aws) -> Path:
    return tmp_path_factory.mktemp("by hand")


def environment(outputs: Path) -> dict[str, str]:
    return {**os.environ, "REELBOOK_OUTPUTS": str(outputs), "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def executed(outputs, tmp_path_factory) -> Path:
    """All stages by papermill's API, one after the other, as a person would run them by hand."""
    folder = tmp_path_factory.mktemp("executed")
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder), json.dumps(SMALL), *STAGES]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(outputs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_papermills_command_takes_a_parameter_file_of_ours(outputs, tmp_path):
    target = tmp_path / "00_collect.ipynb"
    program = Path(sys.executable).parent / "papermill"
    command = [
        program,
        "notebooks/00_collect.ipynb",
        target,
        "-f",
        "parameters/local.yaml",
        "-p",
        "ratings",
        "5000",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(outputs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scraps = json.loads((outputs / "scratch" / "scraps.json").read_text())
    assert scraps["review_count"] == 5000
    assert scraps["reviews_uri"].startswith("s3://reelbook/runs/scratch/00_collect/")


def test_each_takes_from_the_scratch_run_and_publishes_there(executed, outputs):
    scraps = json.loads((outputs / "scratch" / "scraps.json").read_text())
    assert 0.5 < scraps["rmse"] < 2
    assert all("/runs/scratch/" in value for name, value in scraps.items() if name.endswith("_uri"))
    assert [path.name for path in outputs.iterdir()] == ["scratch"]  # no run that the runner might reuse
    text = (executed / "06_evaluate.ipynb").read_text()
    assert "From the scratch run: predictions_uri, model_uri" in text


def test_no_run_is_listed_and_none_is_continued(executed, outputs):
    command = [sys.executable, "run_all.py", "runs"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(outputs), capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("There is no run yet in ")


def test_a_model_is_looked_into(executed, outputs, tmp_path):
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        PROGRAM,
        str(tmp_path),
        "{}",
        "explore/look_into_a_model",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(outputs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "look_into_a_model.ipynb").read_text())["cells"]
    outputs_of = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs_of if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    assert all(output["metadata"]["image/png"]["alt"] for output in pictures)
