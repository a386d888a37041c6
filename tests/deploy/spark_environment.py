"""The environment of the Spark tests and benchmark: pyspark, made on demand with pip in ``.bench``.

Everything else that Reelbook needs is taken from the environment that makes it.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = "4.0.2"
"""That of EMR Serverless emr-spark-8.0.0; ``$REELBOOK_PYSPARK`` names another, such as 3.5.6 for Glue 5.0."""


def python(version: str = "") -> Path:
    """Return the interpreter of the environment, which is made if it is missing.

    Raises
    ------
    RuntimeError
        If it cannot be made; the message says why in one line.
    """
    version = version or os.environ.get("REELBOOK_PYSPARK", VERSION)
    folder = ROOT / ".bench" / f"spark-{version}"
    interpreter, stamp = folder / "bin" / "python", folder / "installed.txt"
    here = "\n".join([version, *site.getsitepackages()])
    if stamp.is_file() and stamp.read_text() == here:
        return interpreter
    print(f"Making {folder.relative_to(ROOT)} with pip (once) ...", file=sys.stderr, flush=True)
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", "--clear", folder], [*pip, f"pyspark=={version}"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            why = [line for line in done.stderr.splitlines() if line.strip()] or ["pip failed"]
            raise RuntimeError(f"pyspark {version} cannot be installed: {why[-1].strip()}")
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "project.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    stamp.write_text(here)
    return interpreter


def variables(**others: str) -> dict[str, str]:
    """Return the variables for programs there: this checkout importable, the JVM quick to start."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    options = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    return {**kept, "PYTHONPATH": str(ROOT), "JAVA_TOOL_OPTIONS": options, **others}
