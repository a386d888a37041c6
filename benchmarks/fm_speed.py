"""Measure how fast `lib.fm` trains, beside its peers and beside what this machine's memory allows.

Two kinds of generated rows: ratings of two features, and wide rows of thirty with values.  Every run is a
process of its own.  Rates on one thread are rows divided by CPU seconds, so other work on the machine hardly
counts; rates on two threads need wall seconds and an otherwise idle machine.  A peer that cannot be had is a
row that says why.  The peers' environments are made on first use; see ``benchmarks/peers.py``.

    .venv/bin/python benchmarks/fm_speed.py [--quick | --full] [--only PART …] [--markdown PAGE]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import peers  # noqa: E402  the checkout is not installed
from benchmarks.support import launch, ratings  # noqa: E402
from benchmarks.support.report import Report, figure, machine  # noqa: E402
from lib import features  # noqa: E402

PARTS = ("ours", "peers", "start", "stream", "end-to-end")
_NOISE = 0.02  # of a short run's seconds: an epoch below this cannot be told from its set-up
SGD = {"rate": 0.01, "l2_w": 1e-3, "l2_v": 1e-3, "epoch_counts": [1, 4], "epochs": 3}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rows: int
    customers: int
    videos: int
    wide_rows: int
    wide_features: int
    peer_rows: int
    factors: tuple[int, ...] = (16, 64, 256)
    batches: tuple[int, ...] = (1000, 100, 10_000)  # memory is that of the first
    touches: int = 1_000_000
    peers_of_all_factors: bool = True

    @property
    def main_factors(self) -> tuple[int, ...]:
        """The numbers of factors for what is not measured with all of them."""
        return (64,) if 64 in self.factors else self.factors[:1]


SIZES = {
    "quick": Size(400_000, 160_000, 13_000, 40_000, 80_000, 100_000, (64,), (1000,), 200_000),
    "default": Size(5_000_000, 2_000_000, 160_000, 600_000, 1_000_000, 600_000, peers_of_all_factors=False),
    "full": Size(5_000_000, 2_000_000, 160_000, 2_000_000, 2_000_000, 5_000_000),
}


@dataclass(frozen=True)
class Peer:
    """A peer and how it is run.

    Attributes
    ----------
    name : str
        In the tables.
    runner : str
        Its runner, and its key in `peers.VERSIONS`.
    job : dict
        What the runner is told beside the data.
    machine : bool
        Whether it is a Factorization Machine, rather than a matrix factorization of two columns.
    threads : bool
        Whether it can use two.
    by_feature : bool
        Whether an epoch also costs time for features that do not occur; these are then dropped for it.
    batches : bool
        Whether it has mini-batches.
    """

    name: str
    runner: str
    job: dict[str, Any] = field(default_factory=dict)
    machine: bool = True
    threads: bool = False
    by_feature: bool = False
    batches: bool = False


PEERS = [
    Peer("xLearn, AdaGrad", "xlearn", {**SGD, "optimizer": "adagrad", "rate": 0.1, "l2": 2e-4}, threads=True),
    Peer("fastFM, SGD", "fastfm", {**SGD, "solver": "sgd"}),
    Peer("fastFM, ALS", "fastfm", {"solver": "als", "l2_w": 10, "l2_v": 10, "epochs": 2}, by_feature=True),
    Peer("myFM, Gibbs", "myfm", {"epochs": 2}, by_feature=True),
    Peer("torch, SparseAdam", "torch", {"rate": 0.001, "l2": 0, "epochs": 2}, threads=True, batches=True),
    Peer("cornac, MF", "cornac", {"rate": 0.01, "l2": 0.02, "epochs": 3}, machine=False, threads=True),
    Peer("scikit-surprise, SVD", "surprise", {**SGD, "l2": 0.02}, machine=False),
    Peer("libFM, SGD", "libfm", {**SGD, "solver": "sgd"}),
    Peer("libFM, Gibbs", "libfm", {"solver": "mcmc", "epochs": 3}, by_feature=True),
]

Rates = dict[tuple[str, int, int, int], float]  # of peer, factors, batch (0 for none), threads


class Bench:
    """One run of the benchmark: its data in a folder, its tables in a report."""

    def __init__(self, size: Size, folder: Path, report: Report, libfm: str | None) -> None:
        self.size = size
        self.folder = folder
        self.report = report
        self.libfm = libfm

    def of_rows(self, name: str, rows: ratings.Rows, parts: set[str]) -> None:
        """Measure ours, the peers and the machine on one kind of rows."""
        path = rows.save(self.folder / "rows.npz")
        rates = self._peers(name, rows) if "peers" in parts else {}
        if "ours" in parts:
            self._ours(name, rows, path, rates)

    def _ours(self, name: str, rows: ratings.Rows, path: Path, rates: Rates) -> None:
        table = []
        for k in self.size.factors:
            say(f"{name}: lib.fm, {k} factors")
            job = {
                "data": str(path),
                "features": rows.X.shape[1],
                "ones": bool(rows.fields),
                "k": k,
                "batches": self.size.batches,
                "seed": 7,
                "epochs": 3,
                "bits": True,
            }
            one, two = (launch.ours("run_lib_fm.py", {**job, "threads": number}) for number in (1, 2))
            if k == self.size.factors[0]:  # with a repeated seed
                first = {**job, "batches": self.size.batches[:1], "threads": 1}
                (again,) = launch.ours("run_lib_fm.py", first)["runs"]
                repeated = again["bits"] == one["runs"][0]["bits"]
            limit_job = {
                "data": str(path),
                "k": k,
                "rows": min(len(rows), 1_000_000),
                "batches": self.size.batches,
                "thread_counts": [1, 2],
                "touches": self.size.touches,
            }
            limit = launch.ours("run_limit.py", limit_job)
            for single, double in sorted(
                zip(one["runs"], two["runs"], strict=True), key=lambda x: x[0]["batch"]
            ):
                table.append(self._line(rows, k, single, double, limit, rates, repeated))
        header = (
            "k",
            "batch",
            "M rows/s, one thread",
            "CPU s an epoch",
            "first epoch",
            "wall s, one thread",
            "wall s, two",
            "two threads faster by",
            "limit, M rows/s",
            "share of the limit",
            "share of the replay",
            "× fastest FM peer",
            "× torch",
            "same bits",
            "memory",
        )
        entries = rows.X.nnz / len(rows)
        title = (
            f"{name}: {len(rows):,} rows, {rows.X.shape[1]:,} features, {entries:.0f} of them a row; "
            "three epochs, the fastest"
        )
        self.report.table(title, header, table)

    def _line(
        self, rows: ratings.Rows, k: int, one: dict, two: dict, limit: dict, rates: Rates, repeated: bool
    ) -> list[str]:
        """Return a line of the table of ours."""
        n, d = rows.X.shape
        size = one["batch"]
        cpu = min(epoch["cpu"] for epoch in one["epochs"])
        wall, wall_two = (min(epoch["wall"] for epoch in run["epochs"]) for run in (one, two))
        rate = n / cpu
        most = limit_rate(
            k, rows.X.nnz / n, limit["active"][str(size)], limit["floats"], limit["touches"]["1"]
        )
        machines = {peer.name for peer in PEERS if peer.machine and not peer.batches}
        rivals = [
            x for (peer, f, _, threads), x in rates.items() if peer in machines and (f, threads) == (k, 1)
        ]
        torch = rates.get(("torch, SparseAdam", k, size, 1))
        needed = (rows.bytes + 12 * (d * (k + 1) + 1)) / 2**20
        memory = f"{one['peak_mb'] / needed:.2f}" if size == self.size.batches[0] else "–"
        return [
            f"{k}",
            f"{size:,}",
            figure(rate / 1e6),
            figure(cpu),
            figure(one["epochs"][0]["cpu"]),
            figure(wall),
            figure(wall_two),
            f"{wall / wall_two:.2f}",
            figure(most / 1e6),
            f"{rate / most:.2f}",
            f"{rate / limit['replay'][str(size)]:.2f}",
            figure(rate / max(rivals), 1) if rivals else "–",
            figure(rate / torch, 1) if torch else "–",
            "yes" if one["bits"] == two["bits"] and repeated else "NO",
            memory,
        ]

    def _peers(self, name: str, rows: ratings.Rows) -> Rates:
        """Measure the peers; return their rates."""
        rates: Rates = {}
        table: list[list[str]] = []
        for peer in PEERS:
            if not peer.machine and not rows.fields:
                table.append([peer.name, "–", "–", "–", "–", "–", "–", "only two columns"])
                continue
            for k in self.size.factors:
                if not rows.fields and k != 64 and not self.size.peers_of_all_factors:
                    continue
                for size in sorted(self.size.batches) if peer.batches else [0]:
                    for threads in (1, 2) if peer.threads and k == 64 and size in (0, 1000) else (1,):
                        line = self._peer(name, peer, rows, k, size, threads, rates)
                        table.append(line)
                        if line[-1]:
                            break
                    if table[-1][-1]:
                        break
                if table[-1][-1]:
                    break
        header = ("peer", "k", "batch", "threads", "rows", "s per M rows and epoch", "M rows/s", "")
        title = f"{name}, peers: CPU seconds on one thread, wall seconds on two; without reading the data"
        self.report.table(title, header, table)
        return rates

    def _peer(
        self, name: str, peer: Peer, rows: ratings.Rows, k: int, size: int, threads: int, rates: Rates
    ) -> list[str]:
        """Measure a peer once; keep its rate, and return its line of the table."""
        say(f"{name}: {peer.name}, {k} factors{f', batch {size:,}' if size else ''}, {threads} thread(s)")
        shown = [peer.name, f"{k}", f"{size:,}" if size else "–", f"{threads}"]
        n = self._peer_rows(peer, rows, k, size)
        given = rows.take(slice(0, n))
        if peer.by_feature:
            given = given.without_unused_features()
        path = given.save(self.folder / "peer.npz")
        job = {**peer.job, "train": str(path), "k": k, "seed": 0, "threads": threads, "batch": size}
        if peer.runner == "libfm":
            if self.libfm is None:
                return [peer.name, "–", "–", "–", "–", "–", "–", "not on PyPI: name its binary with --libfm"]
            job["binary"] = self.libfm
        try:
            points = launch.peer(peer.runner, job, timeout=600)["points"]
        except launch.Failed as why:
            return [*shown, f"{n:,}", "–", "–", str(why)]
        first, last = points[0], points[-1]
        kind = "cpu" if threads == 1 else "wall"
        seconds = (last[kind] - first[kind]) / (last["epochs"] - first["epochs"])
        if seconds < _NOISE * first[kind]:
            return [*shown, f"{n:,}", "–", "–", "not measurable: its set-up varies by more than an epoch"]
        rates[peer.name, k, size, threads] = n / seconds
        return [*shown, f"{n:,}", figure(seconds / n * 1e6), figure(n / seconds / 1e6), ""]

    def _peer_rows(self, peer: Peer, rows: ratings.Rows, k: int, size: int) -> int:
        """Return how many of the rows a peer gets: fewer where it is slow."""
        n = self.size.peer_rows * min(1.0, 64 / k if k > 64 else 1.0)
        n *= 2 / (rows.X.nnz / len(rows))
        if peer.batches:
            n = min(n, 200 * size)
        return max(1000, min(int(n), len(rows)))

    def start(self) -> None:
        """Measure a first and a second run's way to the first epoch's end."""
        table = []
        for k in self.size.factors:
            say(f"start-up, {k} factors")
            with tempfile.TemporaryDirectory() as cache:
                job = {"k": k, "threads": 2}
                runs = [launch.ours("run_start.py", job, NUMBA_CACHE_DIR=cache) for _ in range(2)]
            for name, run in zip(("first", "second"), runs, strict=True):
                cells = [figure(run[part]) for part in ("imports", "training", "compile")]
                table.append([f"{name} run, k = {k}", *cells])
        header = ("", "imports, s", "set-up and an epoch of 1,000 rows, s", "of which compiling, s")
        self.report.table("Start-up, wall seconds", header, table)

    def stream(self, rows: ratings.Rows) -> None:
        """Measure training from files through a memory that does not hold them, beside from memory."""
        say("streaming from files")
        path = rows.save(self.folder / "rows.npz")
        file = features.write_file(self.folder / "rows.pbr", rows.X, rows.y)
        window = rows.bytes // 8
        sources: dict[str, dict[str, Any]] = {
            "a matrix in memory": {"data": str(path)},
            "a file, kept in memory once read": {"files": [str(file)]},
            f"a file, through {window / 2**20:,.0f} MB": {"files": [str(file)], "memory_bytes": window},
        }
        table = []
        for k, number in itertools.product(self.size.main_factors, (1, 2)):
            quickest = None
            for name, source in sources.items():
                say(f"streaming: {name}, {k} factors, {number} thread(s)")
                job = {
                    **source,
                    "features": rows.X.shape[1],
                    "ones": True,
                    "k": k,
                    "batches": [1000],
                    "seed": 7,
                    "epochs": 3,
                    "bits": True,
                    "threads": number,
                }
                (run,) = launch.ours("run_lib_fm.py", job)["runs"]
                first, later = run["epochs"][0], min(run["epochs"][1:], key=lambda epoch: epoch["wall"])
                quickest = quickest or run | {"wall": later["wall"]}
                table.append(
                    [
                        f"{name}, k = {k}, {number} thread{'s' if number > 1 else ''}",
                        figure(first["wall"]),
                        figure(later["wall"]),
                        figure(later["cpu"]),
                        figure(len(rows) / later["wall"] / 1e6),
                        f"{quickest['wall'] / later['wall']:.2f}",
                        "yes" if run["bits"] == quickest["bits"] else "NO",
                    ]
                )
        header = (
            "from",
            "first epoch, wall s",
            "later, wall s",
            "later, CPU s",
            "M rows/s",
            "of the matrix's speed",
            "same bits",
        )
        size = file.stat().st_size / 2**20
        title = f"Streaming: {len(rows):,} ratings in {size:,.0f} MB of recordIO, batch 1,000"
        self.report.table(title, header, table)

    def end_to_end(self, rows: ratings.Rows) -> None:
        """Measure a training job of the local AWS: recordIO in S3 to artifact in S3."""
        say("end to end, through the local AWS")
        path = rows.save(self.folder / "rows.npz")
        table = []
        for k in self.size.main_factors:
            job = {"data": str(path), "k": k, "batch": 1000, "epochs": 1, "threads": 2}
            try:
                with tempfile.TemporaryDirectory(dir=self.folder) as state:
                    run = launch.ours("run_end_to_end.py", job, REELBOOK_LOCAL_ROOT=state)
            except launch.Failed as why:
                table.append([f"{k}", str(why), "–", "–", "–", "–"])
                continue
            table.append(
                [
                    f"{k}",
                    figure(run["input_mb"]),
                    figure(run["upload"]),
                    figure(run["train"]),
                    figure(run["artifact_mb"]),
                    figure(len(rows) / run["train"] / 1e6),
                ]
            )
        header = (
            "k",
            "input, MB",
            "written and sent, s",
            "S3 to S3, s",
            "artifact, MB",
            "M rows/s, S3 to S3",
        )
        title = (
            f"End to end: {len(rows):,} ratings, recordIO in S3 to artifact in S3, one epoch, batch 1,000, "
            "wall seconds"
        )
        self.report.table(title, header, table)


def limit_rate(k: int, entries: float, active: float, floats: int, touches: float) -> float:
    """Return the training rows a second that the memory allows, from its random access.

    A touch moves a row of ``floats`` float32 numbers twice: read and written.  A training row reads k + 1
    numbers for each of its entries, and moves a table row twice for each feature that is new in its batch.

    Parameters
    ----------
    k : int
        Number of factors.
    entries : float
        Entries of a training row.
    active : float
        Features a training row adds to those of its batch: at most ``entries``.
    floats : int
        Length of a table row.
    touches : float
        Table rows changed in a second.
    """
    moved_by_touch = 2 * 4 * floats
    moved_by_row = entries * 4 * (k + 1) + active * moved_by_touch
    return touches * moved_by_touch / moved_by_row


def say(what: str) -> None:
    """Tell on standard error what is being measured."""
    print(f"[{time.strftime('%H:%M:%S')}] {what}", file=sys.stderr, flush=True)


EXPLANATION = """\
*Rows/s, one thread*: rows divided by the CPU seconds of an epoch. *Limit*: random rows of a table of the same
size, each read, changed and written back with prefetching, measured on one thread in the same run; bytes are
converted to training rows by what a row moves: k + 1 numbers for each entry on the way forward, and a table row
read and written for each feature that is new in its batch. Rows that are still in the processor's cache cost
less, so a share above 1 is possible. *Replay*: the same reads and writes as training, in the same order, without
its arithmetic. *Memory*: the process's largest memory above what it had before, divided by data + parameters +
moments. *Same bits*: one thread, two threads and, for the
first number of factors, a repeated seed gave the same model, bit for bit."""


def main() -> int:
    """Run what is asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--quick", action="store_true", help="small data, one setting: about a minute")
    how_much.add_argument("--full", action="store_true", help="all rows and settings for the peers: an hour")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="only these parts")
    parser.add_argument("--rows", type=int, help="ratings (default 5000000)")
    parser.add_argument("--factors", type=int, nargs="+", help="numbers of factors (default 16 64 256)")
    parser.add_argument("--libfm", metavar="PATH", help="libFM's binary, to be measured as well")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="a page to put the tables into")
    options = parser.parse_args()
    size = SIZES["quick" if options.quick else "full" if options.full else "default"]
    if min([options.rows or 1, *(options.factors or [1])]) < 1:
        parser.error("--rows and --factors must be 1 or more")
    size = replace(size, factors=tuple(options.factors or size.factors))
    parts = set(options.only)

    report = Report("fm_speed")
    report.text(machine())
    rows = ratings.generated(options.rows or size.rows, size.customers, size.videos)
    with tempfile.TemporaryDirectory(dir=bench_folder()) as folder:
        bench = Bench(size, Path(folder), report, options.libfm)
        if parts & {"ours", "peers"}:
            bench.of_rows("Two features a row", rows, parts)
            wide = ratings.generated_wide(size.wide_rows, size.wide_features)
            bench.of_rows("Wide rows", wide, parts)
        if "ours" in parts:
            report.text(EXPLANATION)
        singles: dict[str, Callable[[], None]] = {
            "start": bench.start,
            "stream": lambda: bench.stream(rows),
            "end-to-end": lambda: bench.end_to_end(rows),
        }
        for part, measure in singles.items():
            if part in parts:
                measure()
    if options.markdown:
        report.put_into(options.markdown)
    return 0


def bench_folder() -> Path:
    """Return the folder for what benchmarks leave behind."""
    peers.BENCH.mkdir(exist_ok=True)
    return peers.BENCH


if __name__ == "__main__":
    sys.exit(main())
