"""Measure preprocessing: pandas, DuckDB without and with a tight memory limit, and Spark on two local cores.

All read the same generated reviews (a TSV in gzip), and do the same: skip malformed rows, keep the latest rating of
each customer and video, keep those with enough ratings, number them, split and write Parquet.  Each runs in a process
of its own; memory is the most that it and its children held.  pandas' rows are those of a plain script, which is
what one would write without Reelbook.  Spark lives in ``.bench/spark-VERSION``, made on first use with pip.

    .venv/bin/python benchmarks/preprocessing.py [--rows 5000000] [--quick] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "deploy")]

import psutil  # noqa: E402  the checkout is not installed
import spark_environment  # noqa: E402

from benchmarks.support.report import Report, figure, machine  # noqa: E402

WAYS = {
    "pandas": "pandas, a plain script",
    "duckdb 2GB": "Reelbook, DuckDB",
    "duckdb 400MB": "Reelbook, DuckDB within 400 MB",
    "spark 2GB": "Reelbook, Spark local[2], heap 2 GB",
}


def by_pandas(path: Path, folder: Path) -> int:
    """Do it with pandas; return how many ratings are kept."""
    import hashlib

    import pandas as pd

    frame = pd.read_csv(
        path,
        sep="\t",
        quoting=3,
        usecols=["customer_id", "product_id", "star_rating", "product_title", "review_date"],
        dtype=str,
        on_bad_lines="skip",
        encoding_errors="replace",
    )
    frame["star_rating"] = pd.to_numeric(frame["star_rating"], errors="coerce")
    frame = frame.dropna(subset=["customer_id", "product_id", "star_rating"])
    frame = frame.sort_values("review_date").drop_duplicates(["customer_id", "product_id"], keep="last")
    by_customer = frame.groupby("customer_id")["star_rating"].transform("size")
    by_video = frame.groupby("product_id")["star_rating"].transform("size")
    frame = frame[(by_customer >= 5) & (by_video >= 10)].copy()
    for number, key in (("customer", "customer_id"), ("video", "product_id")):
        order = frame[key].value_counts()
        frame[number] = frame[key].map(pd.Series(range(len(order)), order.index)).astype("int32")
    pairs = zip(frame["customer_id"], frame["product_id"], strict=True)
    digests = pd.Series([hashlib.md5(f"{a}|{b}|0".encode()).hexdigest() for a, b in pairs], frame.index)
    draws = digests.str[:8]
    chosen = {"train": draws < "9999999a", "test": draws >= "cccccccd"}
    chosen["validate"] = ~chosen["train"] & ~chosen["test"]
    for part, rows in chosen.items():
        frame[rows].to_parquet(folder / f"{part}.parquet", index=False)
    return len(frame)


def by_us(engine: str, memory_limit: str, path: Path, folder: Path) -> int:
    """Do it as ``01_preprocess`` does; return how many ratings are kept."""
    from lib import ratings

    with ratings.read(path, engine=engine, memory_limit=memory_limit, threads=2) as reviews:
        kept = reviews.keep()
        kept.split().write(folder)
        return kept.ratings


def measured(way: str, path: Path) -> dict[str, Any]:
    """Run one way in a process of its own; return seconds, peak megabytes and the ratings kept."""
    interpreter = spark_environment.python() if way.startswith("spark") else Path(sys.executable)
    variables = {**spark_environment.variables(), "JAVA_TOOL_OPTIONS": ""}
    with tempfile.TemporaryDirectory() as name:
        errors = Path(name) / "errors"
        command = [interpreter, "-W", "ignore", __file__, "--one", way, path, name]
        began, peak = time.perf_counter(), 0
        with errors.open("w") as file:
            process = psutil.Popen(
                list(map(str, command)), env=variables, stdout=subprocess.PIPE, stderr=file, text=True
            )
            while process.poll() is None:
                peak = max(peak, _held(process))
                time.sleep(0.1)
        seconds = time.perf_counter() - began
        lines = process.stdout.read().splitlines()
        if process.returncode or not lines:
            sys.exit(f"{way} failed:\n{errors.read_text()[-2000:]}")
    return {"seconds": seconds, "peak": peak / 1e6, "ratings": json.loads(lines[-1])}


def _held(process: psutil.Process) -> int:
    """Return the bytes that a process and its children hold in memory."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.Error:
            continue
    return total


def main() -> None:
    """Measure all ways and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the file; default 5,000,000")
    parser.add_argument("--quick", action="store_true", help="50,000 rows: to see that it runs")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the table into this page")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, path, folder = options.one[0], Path(options.one[1]), Path(options.one[2])
        engine, _, limit = way.partition(" ")
        print(by_pandas(path, folder) if engine == "pandas" else by_us(engine, limit, path, folder))
        return
    from lib import samples

    rows = 50_000 if options.quick else options.rows
    report = Report("preprocessing")
    with tempfile.TemporaryDirectory() as name:
        made = samples.generate(Path(name) / "reviews.tsv.gz", ratings=rows, progress=False)
        size = made.path.stat().st_size / 1e6
        lines = []
        for way, title in WAYS.items():
            found = measured(way, made.path)
            cells = [figure(found["seconds"]), figure(found["peak"], 3), f"{found['ratings']:,}"]
            lines.append([title, *cells])
            print(" | ".join(map(str, lines[-1])), file=sys.stderr, flush=True)
    header = ["", "wall s", "peak MB", "ratings kept"]
    report.table(f"Preprocessing {made.rows:,} reviews ({size:,.0f} MB in gzip)", header, lines)
    report.text(f"{machine()} Spark {spark_environment.VERSION}; start of interpreter and JVM included.")
    if options.markdown:
        report.put_into(options.markdown)


if __name__ == "__main__":
    main()
