"""The environment of the Spark tests and benchmark: pyspark, made on demand in ``.bench``.

Everything else that Reelbook needs is taken from the environment that makes it.
"""

from __future__ import annotations

import os
import site
import subprocess
from pathlib import Path

from benchmarks.support.environments import ROOT, programs_of

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
    try:
        programs = programs_of(f"spark-{version}", [f"pyspark=={version}"])
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"pyspark {version} cannot be installed.") from error
    (packages,) = programs.parent.glob("lib/python3*/site-packages")
    (packages / "project.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return programs / "python"


def variables(**others: str) -> dict[str, str]:
    """Return the variables for programs there: this checkout importable, the JVM quick to start."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_"))}
    options = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    return {**kept, "PYTHONPATH": str(ROOT), "JAVA_TOOL_OPTIONS": options, **others}
