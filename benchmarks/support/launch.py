"""Starting what is measured: each run is a process of its own, so that none pays for another's memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import peers

BENCHMARKS = Path(__file__).resolve().parents[1]


class Failed(Exception):
    """A run that gave no answer; the message says why in one line."""


def peer(name: str, job: dict[str, Any], *, timeout: float = 1800) -> dict[str, Any]:
    """Run a peer's job and return its answer: ``points`` and ``peak_mb``; see ``peer_runners/common.py``.

    Raises
    ------
    Failed
        The peer is not to be had here, or fails, or takes too long.
    """
    if name == "libfm":
        interpreter = Path(sys.executable)
    else:
        try:
            interpreter = peers.python(name)
        except RuntimeError as error:
            raise Failed(str(error)) from None
    return run(interpreter, BENCHMARKS / "peer_runners" / f"run_{name}.py", job, timeout=timeout)


def ours(script: str, job: dict[str, Any], *, timeout: float = 1800, **variables: str) -> dict[str, Any]:
    """Run a script of this folder with the present interpreter and return its answer."""
    variables = {"REELBOOK_THREADS": str(job.get("threads", 1)), **variables}
    return run(Path(sys.executable), BENCHMARKS / "support" / script, job, timeout=timeout, **variables)


def run(
    interpreter: Path, script: Path, job: dict[str, Any], *, timeout: float = 1800, **variables: str
) -> dict[str, Any]:
    """Run a script with a job and return what it answers."""
    threads = str(job.get("threads", 1))
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        path = Path(folder) / "job.json"
        path.write_text(json.dumps({**job, "answer": str(answer)}))
        command = [str(interpreter), "-W", "ignore", str(script), str(path)]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, **limits, **variables},
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"took more than {timeout:.0f} s") from None
        if done.returncode or not answer.is_file():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            why = lines[-1].strip() if lines else f"ended with status {done.returncode}"
            raise Failed(f"failed: {why[:160]}")
        result: dict[str, Any] = json.loads(answer.read_text())
        return result
