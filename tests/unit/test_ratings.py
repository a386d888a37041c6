"""From a file of reviews to clean, indexed and split ratings."""

from __future__ import annotations

import csv
import gc
import gzip
import hashlib
import itertools
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from lib import ratings, samples
from lib.errors import DataError, ParameterError

HEADER = ["customer_id", "product_id", "star_rating", "product_title", "review_date"]
SQL = ratings.SQL


def write_tsv(path: Path, rows: list[list[object]], header: list[str] = HEADER) -> Path:
    lines = ["\t".join(map(str, row)) for row in [header, *rows]]
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def some_rows(customers: int = 12, videos: int = 10, seed: int = 0) -> list[list[object]]:
    """Every customer rates most of the videos."""
    chance = random.Random(seed)
    return [
        [
            f"c{customer:02}",
            f"p{video:02}",
            chance.randint(1, 5),
            f"Film {video}",
            f"2015-01-{1 + customer:02}",
        ]
        for customer, video in itertools.product(range(customers), range(videos))
        if chance.random() < 0.9
    ]


def parts_of(path: Path, folder: Path, seed: int = 0, **options: object) -> dict[str, pd.DataFrame]:
    with ratings.read(path, **options) as reviews:
        paths = reviews.keep(2, 2).split(seed).write(folder)
        return {name: pd.read_parquet(path) for name, path in paths.items()}


def together(parts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    frame = pd.concat([parts[name] for name in ratings.PARTS])
    return frame.sort_values(["customer", "video"], ignore_index=True)


def kept_ratings(path: Path) -> dict[tuple[str, str], float]:
    with ratings.read(path) as reviews:
        rows = reviews._workspace.connection.execute(
            "SELECT customer_id, product_id, star_rating FROM ratings"
        ).fetchall()
    return {(customer, product): rating for customer, product, rating in rows}


class TestReading:
    def test_every_format_gives_the_same_ratings(self, tmp_path: Path) -> None:
        rows = some_rows()
        frame = pd.DataFrame(rows, columns=HEADER)
        paths = [write_tsv(tmp_path / name, rows) for name in ("r.tsv", "r.tsv.gz")]
        for name in ("r.csv", "r.csv.gz"):
            paths.append(tmp_path / name)
            frame.to_csv(paths[-1], index=False, quoting=csv.QUOTE_NONNUMERIC)
        paths.append(tmp_path / "r.parquet")
        frame.assign(review_date=pd.to_datetime(frame["review_date"])).to_parquet(paths[-1])
        first, *others = [parts_of(path, tmp_path / path.name.replace(".", "_")) for path in paths]
        assert len(together(first)) == len(rows)
        for other in others:
            for name, table in first.items():
                pd.testing.assert_frame_equal(table, other[name])

    def test_generated_reviews_are_read_as_they_were_made(self, tmp_path: Path) -> None:
        made = samples.generate(tmp_path / "reviews.tsv.gz", ratings=5_000, seed=3)
        with ratings.read(made.path) as reviews:
            assert reviews.rows == made.rows
            assert reviews.skipped["rows"].sum() == made.malformed
            assert 0 < reviews.duplicates <= made.duplicates
            assert reviews.ratings == made.rows - made.malformed - reviews.duplicates
            assert reviews.undated == 0

    def test_quotes_and_other_columns_are_text_like_any_other(self, tmp_path: Path) -> None:
        header = ["marketplace", *HEADER[:3], "review_body", *HEADER[3:]]
        rows = [["US", f"c{n}", "p1", n, 'He said "wow', f'"{n} tales', "2015-01-01"] for n in range(1, 4)]
        rows += [["US", f"c{n}", "p2", n, "", 'The "B" Team', "2015-01-01"] for n in range(2, 5)]
        path = write_tsv(tmp_path / "reviews.tsv", rows, header)
        with ratings.read(path) as reviews:
            assert reviews.ratings == 6
            assert reviews.skipped.empty
            reviews.keep(1, 1).split(fractions=(0.34, 0.33, 0.33))
            titles = reviews._workspace.connection.execute(
                "SELECT product_title FROM titles ORDER BY 1"
            ).fetchall()
        assert titles == [('"1 tales',), ('The "B" Team',)]

    def test_ids_without_a_title_are_called_by_their_id(self, tmp_path: Path) -> None:
        path = write_tsv(tmp_path / "r.tsv", [row[:3] for row in some_rows()], HEADER[:3])
        videos = parts_of(path, tmp_path)["videos"]
        assert (videos["product_title"] == videos["product_id"]).all()

    def test_windows_line_ends_and_a_byte_order_mark_are_no_trouble(self, tmp_path: Path) -> None:
        plain = write_tsv(tmp_path / "plain.tsv", some_rows())
        windows = tmp_path / "windows.tsv"
        windows.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n"))
        pd.testing.assert_frame_equal(
            together(parts_of(plain, tmp_path / "a")), together(parts_of(windows, tmp_path / "b"))
        )

    def test_a_csv_value_may_hold_commas_quotes_and_line_breaks(self, tmp_path: Path) -> None:
        rows = some_rows()
        rows[0][3] = 'One, "two",\nthree'
        path = tmp_path / "r.csv"
        pd.DataFrame(rows, columns=HEADER).to_csv(path, index=False)
        with ratings.read(path) as reviews:
            assert (reviews.ratings, len(reviews.skipped)) == (len(rows), 0)

    def test_any_finite_number_is_a_rating(self, tmp_path: Path) -> None:
        values = [-3, 0, 0.5, 10, 4.25, 1e6]
        path = write_tsv(
            tmp_path / "r.tsv", [[f"c{n}", "p", value, "", ""] for n, value in enumerate(values)]
        )
        with ratings.read(path) as reviews:
            assert reviews.star_counts().index.tolist() == sorted(values)

    def test_strange_file_names_are_read(self, tmp_path: Path) -> None:
        folder = tmp_path / "it's [mine]"
        folder.mkdir()
        path = write_tsv(folder / "a*b'[1].tsv.gz", some_rows())
        assert len(together(parts_of(path, folder / "out"))) == len(some_rows())


class TestMalformedRows:
    def test_they_are_skipped_counted_and_shown(self, tmp_path: Path) -> None:
        good = some_rows()
        path = write_tsv(tmp_path / "r.tsv", good)
        lines = path.read_bytes().splitlines(keepends=True)
        bad = {
            3: b"c\tp\n",
            5: b"c\tp\t5\ttitle\t2015-01-01\textra\n",
            7: b"\t p\t5\t\t\n",
            8: b"c\t \t5\t\t\n",
            9: b"\n",
            12: b"c\tp\xff\t5\t\t\n",
            20: b"c\tp\t\t\t\n",
            21: b"c\tp\tfive\t\t\n",
            22: b"c\tp\tnan\t\t\n",
            23: b"c\tp\t-inf\t\t\n",
            24: b"c\tp\t1e300\t\t\n",
        }
        for line in sorted(bad):
            lines.insert(line - 1, bad[line])
        path.write_bytes(b"".join(lines))
        with ratings.read(path) as reviews:
            assert reviews.ratings == len(good)
            assert reviews.rows == len(good) + len(bad) - 1  # a blank line is no row
            assert dict(reviews.skipped.itertuples(index=False)) == {
                "star_rating is not a finite number": 3,
                "wrong number of columns": 2,
                "empty customer_id": 1,
                "empty product_id": 1,
                "empty star_rating": 1,
                "not UTF-8 text": 1,
                "star_rating is not a number": 1,
            }
            assert set(reviews.examples["line"]) == set(bad) - {9}
            shown = reviews.examples.set_index("line")["content"]
            assert shown[5] == "c\tp\t5\ttitle\t2015-01-01\textra"
            assert "star_rating=five" in shown[21]
            assert reviews.summary().loc["malformed rows, skipped", "count"] == 10

    def test_a_stray_carriage_return_spoils_only_its_own_row(self, tmp_path: Path) -> None:
        rows = some_rows()
        rows[4][3] = "half\ra title"
        with ratings.read(write_tsv(tmp_path / "r.tsv", rows)) as reviews:
            assert reviews.ratings == len(rows) - 1
            assert reviews.skipped["cause"].tolist() == ["wrong number of columns"]

    def test_a_csv_with_broken_rows_is_read(self, tmp_path: Path) -> None:
        good = [f"c{n},p,{n % 5}" for n in range(20)]
        path = tmp_path / "r.csv"
        path.write_text(
            "\n".join(["customer_id,product_id,star_rating", *good, "c,p", 'c,"p"x,1', "c,p,1,2"]) + "\n"
        )
        with ratings.read(path) as reviews:
            assert reviews.ratings == 20
            assert reviews.skipped["rows"].sum() == 3
            assert {"wrong number of columns", "broken quotes"} == set(reviews.skipped["cause"])

    def test_few_are_shown_of_many(self, tmp_path: Path) -> None:
        rows = some_rows() + [["c", "p", "bad", "", ""]] * 50
        with ratings.read(write_tsv(tmp_path / "r.tsv", rows)) as reviews:
            assert reviews.skipped["rows"].tolist() == [50]
            assert len(reviews.examples) == 3

    def test_a_mostly_malformed_file_is_refused(self, tmp_path: Path) -> None:
        rows = [*some_rows(3, 3), *[["c", "p", "bad", "", ""]] * 50]
        with pytest.raises(
            DataError, match=r"50 of \d\d rows of .* are malformed.*star_rating is not a number"
        ):
            ratings.read(write_tsv(tmp_path / "r.tsv", rows))


class TestUnusableFiles:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("r.tsv", b"", "is empty"),
            ("r.tsv.gz", b"", "is empty"),
            ("r.tsv.gz", gzip.compress(b"", mtime=0), "its first line is empty"),
            ("r.parquet", b"", "is empty"),
            ("r.tsv", b"customer_id\tproduct_id\tstar_rating\n", "a header but no rows"),
            ("r.tsv", b"1\t2\t3\n4\t5\t6\n", "has no header: its first line is 1, 2, 3"),
            (
                "r.tsv",
                b"customer_id\tproduct\tstar_rating\n",
                r"no column product_id; its columns are .* `product`\?",
            ),
            ("r.tsv", b"customer_id,product_id,star_rating\n", "parted by commas: name it .csv"),
            ("r.csv", b"customer_id\tproduct_id\tstar_rating\n", "parted by tabs: name it .tsv"),
            ("r.tsv", b"user\titem\trating\n", "no column customer_id or product_id or star_rating"),
            ("r.tsv", b"customer_id\tproduct_id\tstar_rating\tstar_rating\n", "has 2 columns star_rating"),
            ("r.tsv.gz", b"customer_id\tproduct_id\tstar_rating\n", "named .gz but is not a gzip file"),
            ("r.tsv", gzip.compress(b"customer_id\tproduct_id\tstar_rating\n", mtime=0), "is a gzip file"),
            ("r.tsv", "customer_id\tproduct_id".encode("utf-16"), "is not UTF-8 text"),
            ("r.csv", b"PK\x03\x04\x00\x00", "is not UTF-8 text"),
            ("r.parquet", b"customer_id\n1\n", "is not a Parquet file"),
            ("r.parquet", b"PAR1 and then nothing", "is a damaged Parquet file"),
            ("r.xlsx", b"PK", "does not tell a format"),
        ],
    )
    def test_each_is_told_in_one_sentence(
        self, tmp_path: Path, name: str, content: bytes, message: str
    ) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            ratings.read(path)

    @pytest.mark.parametrize("damage", ["cut off", "spoilt"])
    def test_a_damaged_gzip_file_is_not_taken_for_a_short_one(self, tmp_path: Path, damage: str) -> None:
        path = write_tsv(tmp_path / "r.tsv.gz", some_rows(200, 100))
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        if damage == "spoilt":
            data[middle : middle + 50] = os.urandom(50)
        path.write_bytes(data if damage == "spoilt" else data[:middle])
        with pytest.raises(DataError, match="is damaged or cut off"):
            ratings.read(path)

    def test_a_missing_file_and_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="There is no file"):
            ratings.read(tmp_path / "none.tsv")
        with pytest.raises(DataError, match="is not a file"):
            ratings.read(tmp_path)

    def test_wrong_limits(self, tmp_path: Path) -> None:
        path = write_tsv(tmp_path / "r.tsv", some_rows())
        with pytest.raises(ParameterError, match="memory_limit 'plenty' is not a size"):
            ratings.read(path, memory_limit="plenty")
        with pytest.raises(ParameterError, match="threads"):
            ratings.read(path, threads=0)
        with pytest.raises(DataError, match="temporary folder cannot be made"):
            ratings.read(path, temp_directory=tmp_path / "none")


class TestRepeatedRatings:
    @pytest.mark.parametrize(
        ("versions", "winner"),
        [
            ([(1, "2015-01-02"), (5, "2015-01-01")], 1),  # the latest
            ([(5, "2015-01-01"), (1, "2015-01-02 10:00:00"), (2, "2015-01-02 09:00:00")], 1),
            ([(1, "999999999"), (2, "1000000000")], 2),  # numbers are compared as numbers
            ([(2, "2015-01-01"), (4, "2015-01-01"), (3, "2015-01-01")], 4),  # of one date the highest
            ([(5, ""), (4, ""), (1, "")], 1),  # no date: the one furthest down
            ([(1, "2015-01-01"), (5, "")], 1),  # no date: not the latest
            ([(1, "2015-01-01"), (5, "yesterday"), (4, "nan")], 1),  # not a date
        ],
    )
    def test_the_latest_counts(self, tmp_path: Path, versions: list[tuple[int, str]], winner: int) -> None:
        rows = [["c", "p", stars, "", day] for stars, day in versions]
        rows[1:1] = some_rows()
        assert kept_ratings(write_tsv(tmp_path / "r.tsv", rows))["c", "p"] == winner

    def test_without_a_date_column_the_one_furthest_down_counts(self, tmp_path: Path) -> None:
        chance = random.Random(1)
        rows = [[f"c{chance.randrange(50)}", f"p{chance.randrange(50)}", number] for number in range(20_000)]
        expected = {(customer, product): number for customer, product, number in rows}
        assert kept_ratings(write_tsv(tmp_path / "r.tsv", rows, HEADER[:3])) == expected

    def test_they_and_rows_without_a_date_are_counted(self, tmp_path: Path) -> None:
        rows = some_rows()
        again = [[*row[:4], "some day"] for row in rows[:7]]
        with ratings.read(write_tsv(tmp_path / "r.tsv", rows + again)) as reviews:
            assert (reviews.duplicates, reviews.undated, reviews.ratings) == (7, 7, len(rows))


class TestLongTail:
    def test_quantiles_are_those_of_pandas(self, tmp_path: Path) -> None:
        rows = some_rows(30, 20, seed=5)[::2]
        frame = pd.DataFrame(rows, columns=HEADER)
        with ratings.read(write_tsv(tmp_path / "r.tsv", rows)) as reviews:
            for by, name in (("customer_id", "ratings per customer"), ("product_id", "ratings per video")):
                expected = frame[by].value_counts().quantile(list(ratings.QUANTILES))
                found = reviews.quantiles(by)[name]
                np.testing.assert_allclose(found, expected)
                assert found.index.tolist() == list(ratings.QUANTILES)
            with pytest.raises(ParameterError, match="customer_id or product_id, not 'title'"):
                reviews.quantiles("title")  # type: ignore[arg-type]

    def test_star_counts(self, tmp_path: Path) -> None:
        rows = some_rows()
        expected = pd.Series([row[2] for row in rows]).value_counts().sort_index()
        with ratings.read(write_tsv(tmp_path / "r.tsv", rows)) as reviews:
            counts = reviews.star_counts()["ratings"]
            assert counts.tolist() == expected.tolist()
            assert counts.index.tolist() == expected.index.tolist()


class TestKeeping:
    def test_both_counts_are_taken_before_anything_is_dropped(self, tmp_path: Path) -> None:
        # a has 3 ratings, b 2, c 1; x has 3, y 2, z 1.  With 2 and 2, (a, z) and (c, x) go.
        pairs = ["ax", "ay", "az", "bx", "by", "cx"]
        rows = [[pair[0], pair[1], number, "", ""] for number, pair in enumerate(pairs)]
        with ratings.read(write_tsv(tmp_path / "r.tsv", rows)) as reviews:
            kept = reviews.keep(2, 2)
            assert (kept.ratings, kept.customers, kept.videos) == (4, 2, 2)
            assert kept.summary().loc["kept", "density"] == 1
            again = reviews.keep(2, 1)
            assert (again.ratings, again.customers, again.videos) == (5, 2, 3)

    def test_numbers_are_sequential_by_count_then_id(self, tmp_path: Path) -> None:
        parts = parts_of(write_tsv(tmp_path / "r.tsv", some_rows()), tmp_path / "out")
        for name, number, key in (
            ("customers", "customer", "customer_id"),
            ("videos", "video", "product_id"),
        ):
            table = parts[name]
            assert table[number].tolist() == list(range(len(table)))
            ordered = table.sort_values(["ratings", key], ascending=[False, True])
            assert ordered[number].is_monotonic_increasing
            counts = together(parts)[number].value_counts().sort_index()
            assert table["ratings"].tolist() == counts.tolist()
            trained = parts["train"][number].value_counts().reindex(table[number], fill_value=0)
            assert table["train_ratings"].tolist() == trained.tolist()

    @pytest.mark.parametrize(
        ("rows", "minima", "message"),
        [
            ([["c", f"p{n}", n, "", ""] for n in range(9)], (1, 1), "only one customer in"),
            ([[f"c{n}", "p", n, "", ""] for n in range(9)], (1, 1), "only one video in"),
            (
                [[f"c{n}", f"p{n % 3}", 4, "", ""] for n in range(9)],
                (1, 1),
                r"All 9 ratings in .* are equal \(4\)",
            ),
            (some_rows(), (50, 1), "No rating is left with at least 50 ratings a customer and 1 a video"),
            (
                [["c", f"p{n}", n, "", ""] for n in range(9)] + [["d", "p1", 1, "", ""]],
                (5, 1),
                "only one customer with at least 5",
            ),
        ],
    )
    def test_ratings_that_nothing_can_be_learned_from_are_refused(
        self, tmp_path: Path, rows: list[list[object]], minima: tuple[int, int], message: str
    ) -> None:
        path = write_tsv(tmp_path / "r.tsv", rows)
        with ratings.read(path) as reviews, pytest.raises(DataError, match=message):
            reviews.keep(*minima)

    def test_a_minimum_is_a_whole_number_from_1(self, tmp_path: Path) -> None:
        with ratings.read(write_tsv(tmp_path / "r.tsv", some_rows())) as reviews:
            for minimum in (0, 2.5, True):
                with pytest.raises(ParameterError, match="min_video_ratings must be a whole number"):
                    reviews.keep(1, minimum)  # type: ignore[arg-type]

    def test_what_a_later_call_has_replaced_is_not_used_by_mistake(self, tmp_path: Path) -> None:
        with ratings.read(write_tsv(tmp_path / "r.tsv", some_rows())) as reviews:
            first = reviews.keep(1, 1)
            parts = first.split()
            first.split(seed=1)
            with pytest.raises(DataError, match=r"later split\(\)"):
                parts.write(tmp_path / "out")
            reviews.keep(2, 2)
            with pytest.raises(DataError, match=r"later keep\(\)"):
                first.split()


class TestSplitting:
    def test_the_parts_are_the_input(self, tmp_path: Path) -> None:
        rows = some_rows()
        frame = together(parts_of(write_tsv(tmp_path / "r.tsv", rows), tmp_path / "out"))
        found = sorted(zip(frame["customer_id"], frame["product_id"], frame["star_rating"], strict=True))
        assert found == sorted((row[0], row[1], row[2]) for row in rows)
        assert not frame.duplicated(["customer", "video"]).any()

    def test_columns_have_the_promised_types(self, tmp_path: Path) -> None:
        parts = parts_of(write_tsv(tmp_path / "r.tsv", some_rows()), tmp_path / "out")
        for name in ratings.PARTS:
            types = parts[name].dtypes.astype(str).to_dict()
            assert types.pop("customer_id") == types.pop("product_id")
            assert types == {"customer": "int32", "video": "int32", "star_rating": "float32"}
        assert list(parts["customers"]) == ["customer", "customer_id", "ratings", "train_ratings"]
        assert list(parts["videos"]) == ["video", "product_id", "product_title", "ratings", "train_ratings"]

    def test_shares_are_about_those_asked_for_and_exactly_the_rule(self, tmp_path: Path) -> None:
        made = samples.generate(tmp_path / "r.tsv.gz", ratings=20_000, seed=1)
        with ratings.read(made.path) as reviews:
            parts = reviews.keep().split(seed=7, fractions=(0.5, 0.3, 0.2))
            paths = parts.write(tmp_path)
            shares = parts.counts["ratings"] / parts.counts["ratings"].sum()
        np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.02)
        assert shares.index.tolist() == list(ratings.PARTS)
        for part, (low, high) in {"train": (0, 0.5), "validate": (0.5, 0.8), "test": (0.8, 1)}.items():
            frame = pd.read_parquet(paths[part]).head(200)
            for customer, product in zip(frame["customer_id"], frame["product_id"], strict=True):
                digest = hashlib.md5(f"{customer}|{product}|7".encode()).hexdigest()
                assert low <= int(digest[:8], 16) / 16**8 < high

    def test_neither_the_order_of_rows_nor_threads_change_a_byte(self, tmp_path: Path) -> None:
        made = samples.generate(tmp_path / "r.tsv.gz", ratings=20_000, seed=2, malformed=0)
        header, *lines = gzip.decompress(made.path.read_bytes()).decode().splitlines()
        random.Random(0).shuffle(lines)
        shuffled = tmp_path / "shuffled.tsv"
        shuffled.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        runs = [(made.path, 1, "1GB"), (made.path, 4, "1GB"), (shuffled, 4, "1GB"), (shuffled, 2, "200MB")]
        digests = []
        for number, (path, threads, memory_limit) in enumerate(runs):
            with ratings.read(path, threads=threads, memory_limit=memory_limit) as reviews:
                paths = reviews.keep().split().write(tmp_path / str(number))
                digests.append(
                    {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in paths.items()}
                )
        assert digests[0] == digests[1] == digests[2] == digests[3]

    def test_the_seed_decides(self, tmp_path: Path) -> None:
        path = write_tsv(tmp_path / "r.tsv", some_rows())
        first, same, other = (parts_of(path, tmp_path / str(n), seed) for n, seed in enumerate((1, 1, 2)))
        pd.testing.assert_frame_equal(first["train"], same["train"])
        assert not first["train"].equals(other["train"])
        pd.testing.assert_frame_equal(together(first), together(other))

    def test_training_rows_are_shuffled_and_the_others_are_sorted(self, tmp_path: Path) -> None:
        parts = parts_of(write_tsv(tmp_path / "r.tsv", some_rows(40, 30)), tmp_path / "out")
        for name in ("validate", "test"):
            places = parts[name]["customer"].astype(int) * 1000 + parts[name]["video"]
            assert places.is_monotonic_increasing
        customers = parts["train"]["customer"].to_numpy(float)
        assert abs(np.corrcoef(customers, np.arange(len(customers)))[0, 1]) < 0.1
        assert np.mean(customers[1:] == customers[:-1]) < 0.1

    def test_those_without_training_rows_are_counted(self, tmp_path: Path) -> None:
        path = write_tsv(tmp_path / "r.tsv", some_rows(15, 3))
        with ratings.read(path) as reviews:
            parts = reviews.keep(1, 1).split(fractions=(0.2, 0.4, 0.4))
            customers = pd.read_parquet(parts.write(tmp_path)["customers"])
            assert parts.without_training["customers"] == (customers["train_ratings"] == 0).sum() > 0

    def test_impossible_splits(self, tmp_path: Path) -> None:
        rows = [["a", "x", 1, "", ""], ["b", "y", 2, "", ""]]
        with ratings.read(write_tsv(tmp_path / "r.tsv", rows)) as reviews:
            kept = reviews.keep(1, 1)
            with pytest.raises(DataError, match="leaves no rating for"):
                kept.split()
            for fractions in ((0.5, 0.5), (0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1)):
                with pytest.raises(ParameterError, match="add up to 1"):
                    kept.split(fractions=fractions)


class TestFurtherColumns:
    def rows(self) -> list[list[object]]:
        """Columns: genre is the video's (here and there empty), age the customer's, device the rating's."""
        chance = random.Random(4)
        return [
            [
                *row,
                "" if chance.random() < 0.2 else f"g{row[1]}, x",
                f"{int(row[0][1:]) + 20}",
                chance.choice("pt"),
            ]
            for row in some_rows()
        ]

    HEADER = (*HEADER, "genre", "age", 'de"vice')

    @pytest.mark.parametrize("name", ["r.tsv", "r.csv", "r.parquet"])
    def test_each_goes_to_the_table_of_whom_it_is(self, tmp_path: Path, name: str) -> None:
        rows, path = self.rows(), tmp_path / name
        frame = pd.DataFrame(rows, columns=list(self.HEADER))
        if name == "r.tsv":
            write_tsv(path, rows, list(self.HEADER))
        elif name == "r.csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_parquet(path)
        asked = ['de"vice', "genre", "age", "review_date"]
        with ratings.read(path, further=asked) as reviews:
            parts = reviews.keep(2, 2).split()
            paths = parts.write(tmp_path / "out")
            tables = {name: pd.read_parquet(file) for name, file in paths.items()}
        assert parts.further["of"].to_dict() == {
            'de"vice': "rating",
            "genre": "video",
            "age": "customer",
            "review_date": "customer",
        }
        assert parts.further.loc["age", "filled"] == 1
        assert 0.7 < parts.further.loc["genre", "filled"] < 0.9
        assert tables["videos"]["genre"].tolist() == [f"g{p}, x" for p in tables["videos"]["product_id"]]
        ages = tables["customers"]["customer_id"].str[1:].astype(int) + 20
        assert tables["customers"]["age"].tolist() == ages.astype(str).tolist()
        found = together(tables)
        device = {(row[0], row[1]): row[-1] for row in rows}
        pairs = zip(found["customer_id"], found["product_id"], strict=True)
        assert found['de"vice'].tolist() == [device[pair] for pair in pairs]
        assert [column for column in found if column not in ("customer", "video")][-1] == 'de"vice'

    def test_they_change_nothing_else(self, tmp_path: Path) -> None:
        path = write_tsv(tmp_path / "r.tsv", self.rows(), list(self.HEADER))
        plain = parts_of(path, tmp_path / "plain")
        for name, table in parts_of(path, tmp_path / "more", further=["genre", 'de"vice']).items():
            pd.testing.assert_frame_equal(table[plain[name].columns], plain[name])

    def test_the_value_is_that_of_the_rating_that_counts(self, tmp_path: Path) -> None:
        rows = [*self.rows(), ["c01", "p01", 5, "", "2020-01-01", "", "21", "late"]]
        path = write_tsv(tmp_path / "r.tsv", rows, list(self.HEADER))
        found = together(parts_of(path, tmp_path / "out", further=['de"vice']))
        row = found[(found["customer_id"] == "c01") & (found["product_id"] == "p01")]
        assert row['de"vice'].tolist() == ["late"]

    def test_a_name_that_is_not_there_or_cannot_be_one_is_told(self, tmp_path: Path) -> None:
        path = write_tsv(tmp_path / "r.tsv", some_rows())
        with pytest.raises(
            DataError, match="The ratings have no column genre; there are customer_id, product_id"
        ):
            ratings.read(path, further=["genre"])
        with pytest.raises(DataError, match="Did you mean `review_date`"):
            ratings.read(path, further=["review_dat"])
        with pytest.raises(ParameterError, match="star_rating cannot be a further column"):
            ratings.read(path, further=["star_rating"])


class TestTidiness:
    def test_the_temporary_folder_goes_when_closed_or_forgotten(self, tmp_path: Path) -> None:
        path = write_tsv(tmp_path / "r.tsv", some_rows())
        room = tmp_path / "room"
        room.mkdir()
        reviews = ratings.read(path, temp_directory=room)
        assert list(room.iterdir())
        reviews.close()
        assert not list(room.iterdir())
        with pytest.raises(DataError, match="closed"):
            reviews.star_counts()
        forgotten = ratings.read(path, temp_directory=room)
        kept = forgotten.keep(1, 1)
        del forgotten, kept
        gc.collect()
        assert not list(room.iterdir())

    def test_a_refused_file_leaves_no_temporary_folder(self, tmp_path: Path) -> None:
        path = write_tsv(tmp_path / "r.tsv", [["c", "p", "bad", "", ""]])
        room = tmp_path / "room"
        room.mkdir()
        with pytest.raises(DataError):
            ratings.read(path, temp_directory=room)
        gc.collect()
        assert not list(room.iterdir())

    def test_a_full_disk_is_told_and_leaves_nothing_half_written(self, tmp_path: Path) -> None:
        path = samples.generate(tmp_path / "r.tsv.gz", ratings=20_000).path
        script = f"""
import resource, sys
from lib import ratings
from lib.errors import DataError
reviews = ratings.read({str(path)!r})
parts = reviews.keep().split()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    parts.write({str(tmp_path / "out")!r})
except DataError as error:
    sys.exit(str(error))
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Free some space" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list((tmp_path / "out").iterdir())


class TestSql:
    def test_the_text_runs_as_it_stands_and_agrees(self, tmp_path: Path) -> None:
        rows = [*some_rows(), ["c01", "p01", 3, "", "2016-01-01"], ["c02", "", 3, "", ""]]
        parts = parts_of(write_tsv(tmp_path / "r.tsv", rows), tmp_path / "out", seed=5)
        with duckdb.connect() as connection:
            raw = pd.DataFrame(rows, columns=HEADER).astype(str).assign(line=range(len(rows)), further="")
            connection.register("raw", raw)
            connection.execute(
                "CREATE VIEW limits AS SELECT 2 AS min_customer_ratings, 2 AS min_video_ratings"
            )
            connection.execute(
                "CREATE VIEW split AS SELECT '5' AS seed, '9999999a' AS train_below, 'cccccccd' AS validate_below"
            )
            connection.execute(SQL.read_text(encoding="utf-8"))
            frame = connection.execute("FROM parts ORDER BY customer, video").df()
            videos = connection.execute("FROM videos ORDER BY video").df()
        for part in ("validate", "test"):
            expected = (
                frame[frame["part"] == part]
                .drop(columns=["part", "random_order", "further"])
                .reset_index(drop=True)
            )
            pd.testing.assert_frame_equal(parts[part], expected, check_dtype=False)
        assert len(frame) == len(some_rows())
        pd.testing.assert_frame_equal(parts["videos"], videos, check_dtype=False)

    def test_statements_can_be_parted_at_semicolons(self) -> None:
        views = re.findall(r"(?m)^CREATE OR REPLACE", SQL.read_text())
        text = "\n".join(line for line in SQL.read_text().splitlines() if not line.startswith("--"))
        statements = [statement.strip() for statement in text.split(";") if statement.strip()]
        assert len(statements) == len(views)
        assert all(statement.startswith("CREATE OR REPLACE TEMPORARY VIEW ") for statement in statements)
        assert not any(";" in line for line in SQL.read_text().splitlines() if line.startswith("--"))


def test_a_file_that_is_refused_leaves_no_temporary_folder(tmp_path):
    path = tmp_path / "bad.tsv"
    path.write_text("customer_id\tproduct_id\tstar_rating\n" + "a\tb\tnone\n" * 9)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    with pytest.raises(DataError, match="malformed") as refused:
        ratings.read(path, temp_directory=workspace)
    assert refused.value.__traceback__ is not None
    assert list(workspace.iterdir()) == []
