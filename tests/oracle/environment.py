"""MXNet 1.9.1 in an environment of its own, ``.bench/mxnet``, made by pip when it is first asked for.

It is a tool for checking, no dependency: MXNet is archived, wants numpy 1, and its last release has no packages for
Python 3.12 and newer.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".bench" / "mxnet"
PACKAGES = (
    "mxnet==1.9.1",
    "numpy==1.23.5",
    "scipy==1.10.1",
    "graphviz==0.8.4",
    "requests==2.34.2",
    "certifi==2026.10.18",
    "charset-normalizer==3.5.2",
    "idna==3.20",
    "urllib3==2.8.0",
)


def python() -> Path:
    """Return the Python that can import MXNet.

    Raises
    ------
    RuntimeError
        The environment cannot be made; the message says why.
    """
    interpreter = FOLDER / "bin" / "python"
    stamp = FOLDER / "packages.txt"
    wanted = "\n".join(PACKAGES) + "\n"
    if stamp.is_file() and stamp.read_text() == wanted:
        return interpreter
    print("Making .bench/mxnet with pip (once, about a minute, 400 MB) ...", file=sys.stderr, flush=True)
    _run([_python_3_11(), "-m", "venv", "--clear", str(FOLDER)])
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([*pip, *PACKAGES])
    _run([str(interpreter), "-c", "import mxnet"])
    stamp.write_text(wanted)
    return interpreter


def _python_3_11() -> str:
    """Return a Python that there are packages of numpy 1.23 for."""
    if sys.version_info[:2] == (3, 11):
        return sys.executable
    found = shutil.which("python3.11")
    if found is None:
        raise RuntimeError(
            "MXNet 1.9.1 and the numpy it takes need Python 3.11, and there is no python3.11 here."
        )
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        reason = (errors or lines or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f".bench/mxnet cannot be made: {reason}")
