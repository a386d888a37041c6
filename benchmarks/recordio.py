"""Measure `lib.recordio` against the codec of SageMaker's SDK v2.

Both write the same generated rows, and the bytes must be equal; then both read them back.  SDK v2's
``read_records`` gives protobuf objects, ours a CSR matrix and labels, so ours does more.  Figures are CPU
seconds of one process, the best of several runs, without start-up and imports; files are in memory.
SDK v2 runs in an environment of its own, ``.bench/sagemaker-v2``, which is made on first use with pip.

    .venv/bin/python benchmarks/recordio.py [--rows N] [--large N]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parent.parent
PEER_FOLDER = ROOT / ".bench" / "sagemaker-v2"
PEER_PACKAGES = ["sagemaker==2.257.*", "scipy"]

sys.path.insert(0, str(ROOT))

from lib import recordio  # noqa: E402  the checkout is not installed
from lib.features import design_matrix  # noqa: E402

PEER = """
import io, json, pathlib, sys, time
import numpy as np
import scipy.sparse as sp
from sagemaker.serializer_utils import (
    read_records, write_numpy_to_dense_tensor, write_spmatrix_to_sparse_tensor)

folder = pathlib.Path(sys.argv[1])
seconds = {}
for path in sorted(folder.glob("*.npz")):
    case = np.load(path)
    sparse = "indptr" in case
    if sparse:
        X = sp.csr_matrix((case["data"], case["indices"], case["indptr"]), shape=tuple(case["shape"]))
    else:
        X = case["rows"]
    write = write_spmatrix_to_sparse_tensor if sparse else write_numpy_to_dense_tensor
    file = io.BytesIO()
    start = time.process_time()
    write(file, X, case["y"])
    written = time.process_time()
    file.seek(0)
    read = time.process_time()
    records = read_records(file)
    done = time.process_time()
    assert len(records) == X.shape[0]
    path.with_suffix(".pbr").write_bytes(file.getvalue())
    seconds[path.stem] = {"write": written - start, "read": done - read}
(folder / "seconds.json").write_text(json.dumps(seconds))
"""


def make_cases(rows: int) -> dict[str, tuple[sp.csr_matrix | np.ndarray, np.ndarray]]:
    """Generate the rows of each case, seeded."""
    rng = np.random.default_rng(0)
    y = rng.integers(1, 6, rows).astype(np.float32)
    customers, videos = 140_000, 38_000
    ratings = design_matrix(
        rng.integers(0, customers, rows), rng.integers(0, videos, rows), customers, videos
    )
    columns = 1_000_000
    counts = rng.integers(0, 41, rows)
    indptr = np.concatenate(([0], np.cumsum(counts)))
    indices = rng.integers(0, columns, indptr[-1])
    wide = sp.csr_matrix((rng.normal(size=len(indices)).astype(np.float32), indices, indptr), (rows, columns))
    wide.sum_duplicates()
    return {
        "ratings, 2 features a row": (ratings, y),
        "sparse, 0 to 40 features": (wide, y),
        "dense, 20 columns": (rng.normal(size=(rows, 20)).astype(np.float32), y),
    }


def make_peer_environment() -> Path:
    """Make SDK v2's environment if it is missing; return its Python."""
    python = PEER_FOLDER / "bin" / "python"
    stamp = PEER_FOLDER / "installed.txt"
    wanted = "\n".join(PEER_PACKAGES)
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"Making {PEER_FOLDER.relative_to(ROOT)} with pip (once, about a minute) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", PEER_FOLDER], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PEER_PACKAGES], check=True)
        stamp.write_text(wanted)
    return python


def run_peer(cases: dict, folder: Path) -> tuple[dict[str, dict[str, float]], dict[str, bytes]]:
    """Let SDK v2 write and read the cases; return its CPU seconds and its bytes, by case."""
    python = make_peer_environment()
    for number, (X, y) in enumerate(cases.values()):
        if sp.issparse(X):
            arrays = {"data": X.data, "indices": X.indices, "indptr": X.indptr, "shape": X.shape}
        else:
            arrays = {"rows": X}
        np.savez(folder / f"{number}.npz", y=y, **arrays)
    environment = {**os.environ, "SAGEMAKER_SUPPRESS_V2_WARNING": "1"}
    command = [python, "-c", PEER, folder]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    seconds = json.loads((folder / "seconds.json").read_text())
    return (
        {name: seconds[str(number)] for number, name in enumerate(cases)},
        {name: (folder / f"{number}.pbr").read_bytes() for number, name in enumerate(cases)},
    )


def best_cpu_seconds(action: Callable[[], object], repeat: int = 7) -> float:
    """Return the least CPU seconds of several calls."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        action()
        best = min(best, time.process_time() - start)
    return best


def measure(X: sp.csr_matrix | np.ndarray, y: np.ndarray) -> tuple[bytes, dict[str, float]]:
    """Write and read rows with `lib.recordio`; return the bytes and the CPU seconds of each."""
    file = io.BytesIO()
    recordio.write(file, X, y)
    data = file.getvalue()
    return data, {
        "write": best_cpu_seconds(lambda: recordio.write(io.BytesIO(), X, y)),
        "read": best_cpu_seconds(lambda: recordio.read(io.BytesIO(data))),
    }


def print_line(what: str, who: str, rows: int, size: int, seconds: float, ratio: float | None = None) -> None:
    times = "" if ratio is None else f"{ratio:,.0f} x"
    print(
        f"{what:<33}{who:<10}{rows:>10,}{seconds:>10.4f}{rows / seconds:>14,.0f}"
        f"{size / seconds / 1e6:>9,.1f}{times:>10}"
    )


def main() -> int:
    """Run both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000, help="rows that both sides get (default 20000)")
    parser.add_argument(
        "--large", type=int, default=1_000_000, help="rows that only we get (default 1000000)"
    )
    options = parser.parse_args()
    if options.rows < 1 or options.large < 1:
        parser.error("--rows and --large must be 1 or more")

    cases = make_cases(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        try:
            peer_seconds, peer_bytes = run_peer(cases, Path(folder))
        except subprocess.CalledProcessError as error:
            print(f"SDK v2 could not be installed or run (exit status {error.returncode}).", file=sys.stderr)
            return 1

    print(f"{'':<33}{'':<10}{'rows':>10}{'CPU s':>10}{'rows/s':>14}{'MB/s':>9}{'ratio':>10}")
    for name, (X, y) in cases.items():
        data, seconds = measure(X, y)
        if data != peer_bytes[name]:
            print(f"{name}: the bytes differ from SDK v2's.", file=sys.stderr)
            return 1
        for action in ("write", "read"):
            what = f"{action} {name}"
            peer = peer_seconds[name][action]
            print_line(what, "SDK v2", options.rows, len(data), peer)
            print_line(what, "reelbook", options.rows, len(data), seconds[action], peer / seconds[action])
    print("The bytes that both wrote are equal.")

    name, (X, y) = next(iter(make_cases(options.large).items()))
    data, seconds = measure(X, y)
    for action in ("write", "read"):
        print_line(f"{action} {name}", "reelbook", options.large, len(data), seconds[action])
    return 0


if __name__ == "__main__":
    sys.exit(main())
