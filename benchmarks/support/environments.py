"""Environments of programs that Reelbook's own cannot hold; made in ``.bench`` when they are first needed."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import uv

ROOT = Path(__file__).resolve().parents[2]

AIRFLOW = "apache-airflow==3.3.2"
AMAZON_PROVIDER = "9.39.0"
DEFERRABLE_AIRFLOW = [AIRFLOW, f"apache-airflow-providers-amazon[aiobotocore]=={AMAZON_PROVIDER}"]
"""Airflow with what its triggerer needs to wait for SageMaker's jobs."""


def programs_of(name: str, packages: Sequence[str]) -> Path:
    """Return the folder of an environment's programs.

    It is made with uv, which takes seconds where pip takes minutes; with pip where uv cannot, as on a machine
    that reaches its packages by pip's settings only.

    Parameters
    ----------
    name : str
        Of its folder in ``.bench``.
    packages : sequence of str
        What is in it, versions pinned; another list makes it anew.

    Raises
    ------
    subprocess.CalledProcessError
        When neither can make it; pip's words are printed.
    """
    folder = ROOT / ".bench" / name
    folder.parent.mkdir(exist_ok=True)
    python, stamp, wanted = folder / "bin" / "python", folder / "installed.txt", "\n".join(packages)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may want the same
        if not stamp.is_file() or stamp.read_text() != wanted:
            print(f"Making {folder.relative_to(ROOT)} (once) ...", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            quick = [uv.find_uv_bin(), "pip", "install", "--quiet", "--python", python]
            if subprocess.run([*quick, *packages], capture_output=True).returncode:
                slow = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
                subprocess.run([*slow, *packages], check=True)
            stamp.write_text(wanted)
    return folder / "bin"
