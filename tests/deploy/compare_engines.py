"""Run both engines on the same files in one Spark session, and print what differs, a JSON object by case.

python compare_engines.py FOLDER
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import ratings, samples, spark_outputs
from lib.design import Design
from lib.errors import ReelbookError
from lib.features import write_file

HEADER = ["customer_id", "product_id", "star_rating", "product_title", "review_date"]
ENGINES = ("duckdb", "spark")
FOLDER = Path(sys.argv[1])


def some_rows(customers: int = 20, videos: int = 12, seed: int = 0) -> list[list[Any]]:
    """Every customer rates most of the videos, some of them twice."""
    chance = random.Random(seed)
    rows = [
        [
            f"c{customer:02}",
            f"p{video:02}",
            chance.randint(1, 5),
            f"Film {video}",
            f"2015-01-{1 + customer:02}",
        ]
        for customer in range(customers)
        for video in range(videos)
        if chance.random() < 0.9
    ]
    return rows + [[*row[:2], 6 - row[2], "", "2015-02-01"] for row in rows[::9]]


def write_tsv(path: Path, rows: list[list[Any]], header: list[str] = HEADER) -> Path:
    path.write_text("\n".join("\t".join(map(str, row)) for row in [header, *rows]) + "\n")
    return path


def tables(
    path: Any,
    engine: str,
    minima: tuple[int, int] = (2, 2),
    seeds: Any = (0,),
    looked_at: bool = False,
    **options: Any,
) -> dict:
    """Return everything that an engine makes of a file, by name."""
    made: dict[str, pd.DataFrame] = {}
    with ratings.read(path, engine=engine, **options) as reviews:
        made |= {"examples": reviews.examples, "skipped": reviews.skipped, "summary": reviews.summary()}
        if looked_at:
            made |= {by: reviews.quantiles(by) for by in ("customer_id", "product_id")}
            made |= {"stars": reviews.star_counts()}
        kept = reviews.keep(*minima)
        made["kept"] = kept.summary()
        for seed in seeds:
            parts = kept.split(seed)
            paths = parts.write(FOLDER / f"written-{engine}")
            made |= {f"{name} {seed}": pd.read_parquet(file) for name, file in paths.items()}
            made |= {f"counts {seed}": parts.counts, f"without {seed}": parts.without_training.to_frame()}
            made[f"further {seed}"] = parts.further
    return made


def difference(first: dict[str, pd.DataFrame], second: dict[str, pd.DataFrame]) -> str:
    """Return the first difference of two sets of tables, types and order of rows included."""
    for name, table in first.items():
        try:
            pd.testing.assert_frame_equal(table, second[name])
        except AssertionError as error:
            return f"{name}: {error}\n{table.head(30).to_string()}\n{second[name].head(30).to_string()}"
    return "" if set(first) == set(second) else f"{set(first)} {set(second)}"


def compared(path: Any, **options: Any) -> str:
    return difference(*(tables(path, engine, **options) for engine in ENGINES))


def generated() -> str:
    made = samples.generate(FOLDER / "generated.tsv.gz", ratings=6_000, seed=3, progress=False)
    return compared(
        made.path,
        minima=(5, 10),
        seeds=(0, 7),
        looked_at=True,
        further=["verified_purchase", "helpful_votes"],
    )


def strange_lines() -> str:
    path = write_tsv(FOLDER / "strange.tsv", some_rows(60, 40))
    lines = path.read_bytes().splitlines(keepends=True)
    values = [
        "5d",
        "5f",
        "0x10",
        "1_000",
        "1e999",
        "-1e999",
        "+5",
        ".5",
        "5.",
        ".",
        "inf",
        "-Infinity",
        "NaN",
    ]
    values += ["+nan", "1e5", "e5", "1e", "1,5", "\xa05", "\u0665", "--5", "0", "-0"]
    bad = [f"v{n}\tp01\t{value}\t\t\n".encode() for n, value in enumerate(values)]
    bad += [b"c\tp\n", b"c\tp\t5\tt\t2015-01-01\textra\n", b"\t p\t5\t\t\n", b"c\t \t5\t\t\n", b"\n", b"\n"]
    bad += [
        b"c\tp\xff\t5\t\t\n",
        b"\xc0\x80\n",
        b"c\tp\t \t\t\n",
        b"c\tp\tfive\t\t\n",
    ]
    bad += [b"x\ty\t1\t" + b"a" * n + b"\t\n" for n in (1_999_991, 1_999_992)]
    bad += ["é\u2028\tü\t2\t\U0001f600 \x85\t1e9\n".encode(), b'"c\t"p\t1\t"a "b\t2015d\n', lines[0]]
    bad += [
        b"again\tp\t%d\t\t%s\n" % (n, day) for n, day in enumerate([b"", b"", b"some day", b"nan", b"1_0"])
    ]
    bad += [b"dated\tp\t%d\t\t%s\n" % (n, day) for n, day in enumerate([b"999", b"1000", b"1e3", b"1000d"])]
    for number, line in enumerate(bad):
        lines.insert(3 + 7 * number, line)
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(lines))
    return compared(path)


def windows_without_dates() -> str:
    """A byte order mark, Windows line ends, and only the place in the file to go by."""
    chance = random.Random(1)
    rows = [[f"c{chance.randrange(50)}", f"p{chance.randrange(50)}", number % 97] for number in range(9_000)]
    path = write_tsv(FOLDER / "windows.tsv", rows, HEADER[:3])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    return compared(path)


def quoted_values() -> str:
    rows = some_rows()
    rows[0][3] = 'One, "two",\nthree'
    path = FOLDER / "it's [mine].csv"
    pd.DataFrame(rows, columns=HEADER).assign(note=" x ").to_csv(
        path, index=False, quoting=csv.QUOTE_NONNUMERIC
    )
    with path.open("a") as file:
        file.write('c,p\nc,"p"x,1,,,\nc,p,1,2,3,4,5\n"c","p","bad","",""\n')
    return compared(path, further=["note"])


def parquet_types() -> str:
    frame = pd.DataFrame(some_rows(), columns=HEADER)
    frame["review_date"] = pd.to_datetime(frame["review_date"]) + pd.to_timedelta(1.5, "s")
    number = frame["customer_id"].str[1:].astype(float)
    frame["customer_id"] = number.where(number != 7)
    frame["star_rating"] = frame["star_rating"].astype("float32") / 3
    frame['a `b"'] = number / 3e5
    frame["seen"] = number % 2 == 0
    frame["length"] = (number * 1e16).astype("float32")
    frame.loc[5, "star_rating"] = 7.5
    path = FOLDER / "types.parquet"
    frame.to_parquet(path, row_group_size=50)
    return compared(path, further=['a `b"', "seen", "length", "review_date"])


def further_columns() -> str:
    chance = random.Random(4)
    rows = [
        [*row, "" if chance.random() < 0.2 else f"g{row[1]}, x", row[0][1:], chance.choice("pt")]
        for row in some_rows()
    ]
    path = write_tsv(FOLDER / "further.tsv", rows, [*HEADER, "genre", "age", 'de"v`ice'])
    return compared(path, further=['de"v`ice', "genre", "age", "review_date"])


def folder_of_files() -> str:
    folder, rows = FOLDER / "many", some_rows(30, 20)
    rows += [[*row[:2], 9, "", ""] for row in rows[::5]] + [[*row[:2], 8, "", ""] for row in rows[::5]]
    folder.mkdir()
    for number in range(4):
        write_tsv(folder / f"part-{number}.tsv", rows[number::4])
    (folder / "part-1.tsv.gz").write_bytes(gzip.compress((folder / "part-1.tsv").read_bytes()))
    (folder / "part-1.tsv").unlink()
    (folder / "_SUCCESS").touch()
    joined = write_tsv(FOLDER / "joined.tsv", [row for number in range(4) for row in rows[number::4]])
    csvs = FOLDER / "csvs"
    csvs.mkdir()
    for number in range(3):
        pd.DataFrame(rows[number::3], columns=HEADER).to_csv(csvs / f"{number}.csv", index=False)
    in_order = [row for number in range(3) for row in rows[number::3]]
    pd.DataFrame(in_order, columns=HEADER).to_csv(FOLDER / "joined.csv", index=False)
    return difference(tables(joined, "duckdb"), tables(folder, "spark")) or difference(
        tables(FOLDER / "joined.csv", "duckdb"), tables(csvs.as_uri(), "spark")
    )


def bad_input() -> str:
    good = write_tsv(FOLDER / "good.tsv", some_rows(200, 30)).read_bytes()
    packed = bytearray(gzip.compress(good, mtime=0))
    spoilt = packed.copy()
    spoilt[len(spoilt) // 2 :][:40] = bytes(40)
    spoilt[len(spoilt) // 2 : len(spoilt) // 2 + 40] = bytes(40)
    header = "\t".join(HEADER).encode() + b"\n"
    files = {
        "empty.tsv": b"",
        "header.tsv": header,
        "cut.tsv.gz": bytes(packed[: len(packed) // 2]),
        "spoilt.tsv.gz": bytes(spoilt),
        "none.parquet": b"PAR1 and then nothing",
        "column.tsv": b"customer_id\tproduct\tstar_rating\n",
        "mostly.tsv": header + b"c\tp\tbad\t\t\n" * 9 + b"c\tp\t1\t\t\n",
        "one.tsv": header + b"c\tp\t1\t\t\n" * 9,
        "few.tsv": header + b"a\tx\t1\t\t\nb\ty\t2\t\t\n",
        "name.xlsx": b"PK",
    }
    faults = []
    for name, content in files.items():
        (FOLDER / name).write_bytes(content)
        told = [sentence(lambda e=engine, p=FOLDER / name: tables(p, e, (1, 1))) for engine in ENGINES]
        if told[0] != told[1] or not told[0]:
            faults.append(f"{name}: {told}")
    mixed = FOLDER / "mixed"
    mixed.mkdir()
    expected = {"no file": "There is no file of reviews at"}
    found = {"no file": sentence(lambda: ratings.read(mixed, engine="spark"))}
    write_tsv(mixed / "a.tsv", some_rows())
    write_tsv(mixed / "b.tsv", [row[:3] for row in some_rows()], HEADER[:3])
    expected["columns"] = "has other columns than"
    found["columns"] = sentence(lambda: ratings.read(mixed, engine="spark"))
    (mixed / "b.tsv").rename(mixed / "b.csv")
    expected["formats"] = "of different formats: .csv and .tsv"
    found["formats"] = sentence(lambda: ratings.read(mixed, engine="spark"))
    (mixed / "b.csv").unlink()
    (mixed / "a.tsv.gz").write_bytes(files["cut.tsv.gz"])
    expected["damaged"] = "met a damaged file"
    found["damaged"] = sentence(lambda: ratings.read(mixed, engine="spark"))
    expected["scheme"] = "found nothing at that place"
    found["scheme"] = sentence(lambda: ratings.read("nosuch://bucket/reviews", engine="spark"))
    expected["memory"] = "memory_limit 'plenty' is not a size"
    found["memory"] = sentence(
        lambda: ratings.read(FOLDER / "good.tsv", engine="spark", memory_limit="plenty")
    )
    expected["threads"] = "threads must be a whole number"
    found["threads"] = sentence(lambda: ratings.read(FOLDER / "good.tsv", engine="spark", threads=0))
    faults += [f"{name}: {found[name]}" for name, text in expected.items() if text not in found[name]]
    return "\n".join(faults)


def sentence(action: Callable[[], Any]) -> str:
    try:
        action()
    except ReelbookError as error:
        return str(error)
    return ""


def records() -> str:
    """The parts of recordIO, one behind the other, are the bytes that 02_prepare writes."""
    path = write_tsv(FOLDER / "records.tsv", some_rows(40, 6, seed=2))
    place = os.environ.get("RECORDS", str(FOLDER / "records"))
    faults = []
    with ratings.read(path, engine="spark") as reviews:
        parts = reviews.keep(1, 1).split(seed=3, fractions=(0.2, 0.4, 0.4))
        if not parts.without_training["customers"]:
            faults.append("no customer is without training rows")
        paths = parts.write(FOLDER / "prepared")
        written = {files: spark_outputs.write_records(parts, place, files) for files in (5, 3)}
        again = spark_outputs.write_tables(parts, str(FOLDER / "folders"))
        frames = {name: pd.read_parquet(file) for name, file in paths.items()}
        for name, uri in again.items():
            pieces = sorted(Path(uri.removeprefix("file://")).glob("part-*.parquet"))
            pd.testing.assert_frame_equal(
                pd.concat(map(pd.read_parquet, pieces), ignore_index=True), frames[name]
            )
    design = Design(frames["customers"], frames["videos"]).fit(frames["train"])
    for part in ratings.PARTS:
        found = written[3][written[3]["part"] == part]
        y = None if part == "test" else frames[part]["star_rating"]
        expected = write_file(FOLDER / "expected.pbr", design.transform(frames[part]), y).read_bytes()
        if not 2 <= len(found) <= 3 or found["rows"].sum() != len(frames[part]):
            faults.append(f"{part}: {found}")
        if stored(place, part) != expected:
            faults.append(f"{part}: other bytes than 02_prepare writes")
    told = sentence(lambda: spark_outputs.write_records(parts, place, 0))
    return "\n".join(faults if "cannot be cut into 0" in told else [*faults, told])


def stored(place: str, part: str) -> bytes:
    """Return the files of a channel, one behind the other."""
    if not place.startswith("s3://"):
        return b"".join(path.read_bytes() for path in sorted(Path(place, part).iterdir()))
    from lib import storage

    return b"".join(storage.read_bytes(item.uri) for item in storage.list_objects(f"{place}/{part}/"))


def loopback() -> str:
    """All that Spark listens on is loopback, and its pages are off."""
    import psutil

    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [s.laddr for process in family for s in process.net_connections("inet") if s.status == "LISTEN"]
    strange = [place for place in sockets if place.ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")]
    return f"{strange} {[place for place in sockets if place.port in range(4040, 4060)]}".replace(
        "[]", ""
    ).strip()


CASES = [generated, strange_lines, windows_without_dates, quoted_values, parquet_types]
CASES += [further_columns, folder_of_files, bad_input, records, loopback]


def main() -> None:
    """Run the cases; the first reviews stay open, so that all share one session."""
    wanted = sys.argv[2:] or [case.__name__ for case in CASES]
    first = write_tsv(FOLDER / "first.tsv", some_rows())
    found = {}
    with ratings.read(first, engine="spark", threads=2):
        for case in CASES:
            if case.__name__ not in wanted:
                continue
            began = time.perf_counter()
            try:
                found[case.__name__] = case()
            except Exception:
                found[case.__name__] = traceback.format_exc()
            print(f"{case.__name__}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
