"""Measure `lib.recordio` against the codec of SageMaker's SDK v2 and against copying the same bytes.

Both write the same generated rows, and the bytes must be equal; then both read them back.  SDK v2's
``read_records`` gives protobuf objects, ours a CSR matrix and labels, so ours does more.  Each figure is the
best of several runs in one process, without start-up and imports; files are in memory.  SDK v2 runs in an
environment of its own, ``.bench/sagemaker-v2``, which is made on first use with pip.

Bytes are written to a new file in memory, as SDK v2's are, and to one used before, which spares the system
the handing out of fresh memory; the copies are of those two kinds too.  ``x copy`` is how many times longer
than a copy to used memory something took: a few megabytes are copied inside the processor's cache, so only
the large cases say how near it is to the speed of memory.

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
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parent.parent
PEER_PACKAGES = ["sagemaker==2.257.*", "scipy"]

sys.path.insert(0, str(ROOT))

from benchmarks.support.environments import programs_of  # noqa: E402  the checkout is not installed
from lib import recordio, threads  # noqa: E402  the checkout is not installed
from lib.features import design_matrix  # noqa: E402

PEER = """
import io, json, pathlib, sys, time
import numpy as np
import scipy.sparse as sp
from sagemaker.serializer_utils import (
    read_records, write_numpy_to_dense_tensor, write_spmatrix_to_sparse_tensor)

def measure(action):
    wall, cpu = time.perf_counter(), time.process_time()
    done = action()
    return done, [time.perf_counter() - wall, time.process_time() - cpu]

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
    writes, reads = [], []
    for _ in range(2):
        file = io.BytesIO()
        _, taken = measure(lambda: write(file, X, case["y"]))
        writes.append(taken)
        file.seek(0)
        records, taken = measure(lambda: read_records(file))
        reads.append(taken)
        assert len(records) == X.shape[0]
        del records
    path.with_suffix(".pbr").write_bytes(file.getvalue())
    seconds[path.stem] = {"write": min(writes), "read": min(reads)}
(folder / "seconds.json").write_text(json.dumps(seconds))
"""


class Taken(NamedTuple):
    """Seconds on the clock and seconds of processor time."""

    wall: float
    cpu: float


Rows = tuple[sp.csr_matrix | np.ndarray, np.ndarray]


def make_cases(rows: int) -> dict[str, Rows]:
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


def run_peer(cases: dict[str, Rows], folder: Path) -> tuple[dict[str, dict[str, Taken]], dict[str, bytes]]:
    """Let SDK v2 write and read the cases; return its seconds and its bytes, by case."""
    python = programs_of("sagemaker-v2", PEER_PACKAGES) / "python"
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
        {
            name: {action: Taken(*taken) for action, taken in seconds[str(number)].items()}
            for number, name in enumerate(cases)
        },
        {name: (folder / f"{number}.pbr").read_bytes() for number, name in enumerate(cases)},
    )


def best(action: Callable[[], object], repeat: int = 9) -> Taken:
    """Return the least seconds of several calls."""
    taken = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        taken.append((time.perf_counter() - wall, time.process_time() - cpu))
    return Taken(min(wall for wall, _ in taken), min(cpu for _, cpu in taken))


def measure(X: sp.csr_matrix | np.ndarray, y: np.ndarray, data: bytes) -> dict[str, dict[str, Taken]]:
    """Copy the bytes, write the rows and read them; return the seconds by action and by who did it."""
    source = np.frombuffer(data, np.uint8)
    target = source.copy()
    used = io.BytesIO(bytes(len(data)))

    def write_again(count: int) -> None:
        used.seek(0)
        recordio.write(used, X, y, threads=count)

    def read_batches(count: int) -> None:
        for _ in recordio.iter_batches(io.BytesIO(data), threads=count):
            pass

    taken: dict[str, dict[str, Taken]] = {
        "write": {},
        "copy": {
            "to used memory": best(lambda: np.copyto(target, source)),
            "to new memory": best(lambda: io.BytesIO().write(source.data)),
        },
        "read": {},
    }
    for count in (1, 2):
        who = f"reelbook, {count} thread{'s' * (count > 1)}"
        taken["write"][who] = best(lambda count=count: recordio.write(io.BytesIO(), X, y, threads=count))
        taken["write"][f"{who}, used memory"] = best(lambda count=count: write_again(count))
        taken["read"][who] = best(lambda count=count: recordio.read(io.BytesIO(data), threads=count))
        taken["read"][f"{who}, batches"] = best(lambda count=count: read_batches(count))
    return taken


def print_case(
    name: str, rows: int, size: int, taken: dict[str, dict[str, Taken]], peer: dict[str, Taken]
) -> None:
    """Print the figures of one case; those of SDK v2 are left out if there are none."""
    copy = taken["copy"]["to used memory"].wall
    print(f"\n{name}: {rows:,} rows, {size / 1e6:,.1f} MB")
    print(
        f"{'':<6}{'':<34}{'wall s':>10}{'CPU s':>10}{'rows/s':>14}{'MB/s':>9}"
        f"{'x SDK v2':>10}{'by CPU':>9}{'x copy':>9}"
    )
    for action, by in taken.items():
        theirs = peer.get(action)
        for who, seconds in (({"SDK v2": theirs} if theirs else {}) | by).items():
            ratios = (
                f"{theirs.wall / seconds.wall:>10,.0f}{theirs.cpu / seconds.cpu:>9,.0f}" if theirs else ""
            )
            print(
                f"{action:<6}{who:<34}{seconds.wall:>10.4f}{seconds.cpu:>10.4f}{rows / seconds.wall:>14,.0f}"
                f"{size / seconds.wall / 1e6:>9,.0f}{ratios:>19}{seconds.wall / copy:>9.2f}"
            )


def start_up() -> float:
    """Return the seconds that a new process takes to load the compiled loops, once they are compiled."""
    program = (
        "import time, numba; from lib import recordio; start = time.perf_counter(); recordio.prepare(); "
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", program]
    return min(
        float(subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout)
        for _ in range(3)
    )


def main() -> int:
    """Run both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000, help="rows that both sides get (default 50000)")
    parser.add_argument(
        "--large", type=int, default=1_000_000, help="rows that only we get (default 1000000)"
    )
    options = parser.parse_args()
    if options.rows < 1 or options.large < 1:
        parser.error("--rows and --large must be 1 or more")

    compiled = recordio.prepare()
    print(
        f"{threads.count()} processors; loading the compiled loops takes {start_up():.2f} s"
        + ("" if compiled is None else f", compiling them took {compiled:.1f} s")
    )
    cases = make_cases(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        try:
            peer_seconds, peer_bytes = run_peer(cases, Path(folder))
        except subprocess.CalledProcessError as error:
            print(f"SDK v2 could not be installed or run (exit status {error.returncode}).", file=sys.stderr)
            return 1
    for name, (X, y) in cases.items():
        file = io.BytesIO()
        recordio.write(file, X, y)
        data = file.getvalue()
        if data != peer_bytes[name]:
            print(f"{name}: the bytes differ from SDK v2's.", file=sys.stderr)
            return 1
        print_case(name, options.rows, len(data), measure(X, y, data), peer_seconds[name])
    print("\nThe bytes that both wrote are equal.")

    for name, (X, y) in make_cases(options.large).items():
        file = io.BytesIO()
        recordio.write(file, X, y)
        print_case(name, options.large, file.tell(), measure(X, y, file.getvalue()), {})
    return 0


if __name__ == "__main__":
    sys.exit(main())
