"""The README says what is there: every command, option, file and snippet in it works."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import report_runs  # noqa: E402

import run_all  # noqa: E402

MAKE_TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
MAKE_COMMANDS = re.findall(r'^make (\w+)(?:\s+ARGS="([^"]*)")?', README, flags=re.M)
RUN_OPTIONS = [options for target, options in MAKE_COMMANDS if target == "run" and options]


def long_options(parser) -> set[str]:
    names = {name for action in parser._actions for name in action.option_strings}
    return {name for name in names if name.startswith("--")} - {"--help"}


def test_the_first_screen_has_a_sentence_two_commands_a_picture_and_the_tree():
    screen = "\n".join(README.splitlines()[:32])
    assert screen.index("make run") < screen.index("make test") < screen.index("docs/report.png")
    assert (ROOT / "docs" / "report.png").stat().st_size < 200_000
    tree = screen[screen.index("notebooks/") :].partition("```")[0]
    for path in re.findall(r"^(\w[\w./]*)", tree, flags=re.M):
        assert (ROOT / path).exists(), path


def test_every_stage_is_in_the_tree():
    for notebook in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert notebook.stem in README


def test_every_make_target_that_it_names_is_there_and_every_target_is_documented():
    assert {target for target, _ in MAKE_COMMANDS} <= MAKE_TARGETS
    for target in MAKE_TARGETS:
        assert f"make {target}" in README, target


def test_every_option_of_the_command_is_documented():
    options = long_options(run_all.run_parser()) | {"-f", "-p"}
    for option in options:
        assert f"`{option}" in README, option
    for command in ("plan", "runs", "diff", "watch", "report", "lab", "local"):
        assert command in README.partition("run_all.py  ")[2].splitlines()[0], command


def test_every_option_that_it_documents_is_there():
    known = long_options(run_all.run_parser())
    for option in re.findall(r"`(--[a-z-]+)", README):
        assert option in known


FILLED_IN = ["-p", "bucket", "mine"]  # aws.yaml leaves it to its reader, and is refused as it is


@pytest.mark.parametrize("options", RUN_OPTIONS)
def test_every_run_that_it_shows_can_be_planned(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REELBOOK_OUTPUTS", str(tmp_path))
    words = [word for word in options.split() if word != "--dry-run"]
    if "--from" in words:  # it goes on with a run, which there has to be: here it begins one
        words = words[2:]
    assert run_all.main([*words, *FILLED_IN, "--dry-run"]) == 0
    assert "05_transform" in capsys.readouterr().out


@pytest.mark.parametrize("name", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_every_file_that_it_links_to_is_there(name):
    assert (ROOT / name).exists()


def test_every_parameter_file_is_named_and_can_be_planned(tmp_path, monkeypatch):
    monkeypatch.setenv("REELBOOK_OUTPUTS", str(tmp_path))
    for path in sorted((ROOT / "parameters").glob("*.yaml")):
        assert path.stem in README
        assert run_all.main(["-f", str(path), *FILLED_IN, "--dry-run"]) == 0


def test_the_snippet_of_codec_and_engine_runs(tmp_path, monkeypatch):
    from lib import fm

    (snippet,) = [
        text for text in re.findall(r"```python\n(.*?)```", README, flags=re.S) if "recordio" in text
    ]
    X = sp.random(30, 8, density=0.4, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    y = np.arange(30, dtype=np.float32)
    monkeypatch.chdir(tmp_path)
    machine = fm.FactorizationMachine(num_factors=2, predictor_type="regressor", mini_batch_size=10).fit(X, y)
    machine.model_.save("model.tar.gz")
    names = {"X": X, "y": y}
    exec(snippet, names)
    assert (names["X"] != X).nnz == 0
    assert names["model"].predict(X).shape == (30,)


@pytest.mark.usefixtures("local_aws")
def test_the_snippet_of_the_local_aws_connects():
    import boto3

    (snippet,) = [
        text for text in re.findall(r"```python\n(.*?)```", README, flags=re.S) if "connect" in text
    ]
    exec(snippet, {})
    assert boto3.client("sts").get_caller_identity()["Account"] == "123456789012"


RUNS = (ROOT / "docs" / "runs.md").read_text()


@pytest.mark.parametrize("line", re.findall(r"^\.venv/bin/python run_all\.py (.*)$", RUNS, flags=re.M))
def test_every_command_of_the_page_on_runs_is_understood(line, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REELBOOK_OUTPUTS", str(tmp_path))
    for name in ("RUN", "A", "B"):
        line = re.sub(rf"\b{name}\b", name.lower(), line)
        report_runs.completed(tmp_path / name.lower())
    words = line.partition("#")[0].split()
    planned = words[0].startswith("-")
    assert run_all.main([*words, "--dry-run"] if planned else words) == 0
    assert capsys.readouterr().out


def test_the_page_on_runs_names_every_file_of_a_run():
    for name in ("report.html", "run.json", "03_train.html", "index.html"):
        assert f"`{name}`" in RUNS or name in RUNS
