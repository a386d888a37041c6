"""Environments of programs that Reelbook's own cannot hold; made in ``.bench`` with pip when they are first needed."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(name: str, packages: Sequence[str]) -> Path:
    """Return the folder of an environment's programs.

    Parameters
    ----------
    name : str
        Of its folder in ``.bench``.
    packages : sequence of str
        What is in it, versions pinned.
    """
    folder = ROOT / ".bench" / name
    folder.parent.mkdir(exist_ok=True)
    stamp, wanted = folder / "installed.txt", "\n".join(packages)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests in another process may want the same
        if not stamp.is_file() or stamp.read_text() != wanted:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            pip = [
                folder / "bin" / "python",
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]
            subprocess.run([*pip, *packages], check=True, capture_output=True)
            stamp.write_text(wanted)
    return folder / "bin"
