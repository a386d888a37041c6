"""Run programs written for SageMaker, each with its own client, against one local AWS, and say what worked.

Clients that are not Reelbook's own get environments of theirs in ``.bench``, made with pip at the first run.

    make clients
    .venv/bin/python tests/clients/run_clients.py [NAME …] [--markdown docs/clients.md]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.support.environments import AIRFLOW, AMAZON_PROVIDER, programs_of  # noqa: E402
from benchmarks.support.report import Report, machine  # noqa: E402  the checkout is not installed
from lib import local  # noqa: E402
from lib.local.environment import CLEARED, NO_PROXY, environment  # noqa: E402

FOLDER = ROOT / "tests" / "clients"
PACKAGES: dict[str, list[str]] = {
    "boto3": [],
    "sdk_v3_resources": [],
    "sdk_v3_trainers": [],
    "sdk_v2": ["sagemaker==2.257.7"],
    "awscli": ["awscli==1.46.3"],
    "airflow": [AIRFLOW, f"apache-airflow-providers-amazon=={AMAZON_PROVIDER}"],
}
"""What each script needs beside Reelbook's own environment; nothing where that has its client."""

_SECONDS = 900


def python_of(name: str) -> Path:
    """Return the interpreter of a client's environment, which is made if it is missing."""
    if not PACKAGES[name]:
        return Path(sys.executable)
    return programs_of(f"client-{name}", PACKAGES[name]) / "python"


def check(name: str, server: local.Server) -> tuple[list[list[str]], str]:
    """Run a client's script; return its lines ``client | flow | ok``, and all that it printed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    variables = {key: value for key, value in kept.items() if key not in CLEARED}
    proxies = {"NO_PROXY": NO_PROXY, "no_proxy": NO_PROXY}
    done = subprocess.run(
        [python_of(name), FOLDER / f"check_{name}.py"],
        env={**variables, **environment(server), **proxies},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_SECONDS,
    )
    lines = [line.rpartition("\u256f")[2].split(" | ") for line in done.stdout.splitlines()]
    found = [parts for parts in lines if len(parts) == 3 and parts[2] in ("ok", "failed")]
    if done.returncode and not any(parts[2] == "failed" for parts in found):
        found.append([name, "the program", "failed"])
    return found, done.stdout


def main() -> int:
    """Run the scripts and print the table; 1 where a flow failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which of {', '.join(PACKAGES)}; all by default"
    )
    parser.add_argument("--markdown", type=Path, help="a page that the table is put into")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in PACKAGES]
    if unknown:
        parser.error(f"there is no client {unknown[0]}, only {', '.join(PACKAGES)}")
    report = Report("clients")
    report.text(machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        server = local.start(Path(folder) / "root")
        try:
            for name in options.names or PACKAGES:
                found, output = check(name, server)
                rows += found
                print("\n".join(" | ".join(parts) for parts in found), file=sys.stderr, flush=True)
                if any(parts[2] == "failed" for parts in found):
                    print(output[-3000:], file=sys.stderr)
        finally:
            local.stop(server.root)
    report.table(
        "Programs written for SageMaker, run against the local AWS", ["client", "flow", "result"], rows
    )
    if options.markdown:
        report.put_into(options.markdown)
    return int(any(parts[2] == "failed" for parts in rows))


if __name__ == "__main__":
    sys.exit(main())
