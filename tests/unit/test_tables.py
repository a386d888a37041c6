"""Tables of ratings as people have them, converted to one form."""

from __future__ import annotations

import gzip
import re
import resource
from pathlib import Path

import pandas as pd
import pytest

from lib.errors import DataError, ParameterError
from lib.tables import Table, convert

HEADER = "customer_id\tproduct_id\tstar_rating\n"


def converted(table: Table, out: Path) -> list[list[str]]:
    """Convert a table; return all lines of the result, the header too, split at tabs."""
    rows = convert(table, out)
    lines = gzip.decompress(out.read_bytes()).decode().splitlines()
    assert rows == len(lines) - 1
    return [line.split("\t") for line in lines]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "reviews.tsv.gz"


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_delimiters_and_line_ends_are_found_out(delimiter, ending, tmp_path, out):
    lines = ["customer_id,product_id,star_rating", "ann,B001,5", "bob,B002,3.5"]
    path = tmp_path / "ratings.txt"
    path.write_bytes("".join(line.replace(",", delimiter) + ending for line in lines).encode())
    assert converted(Table(path), out) == [line.split(",") for line in lines]


def test_gzip_and_plain_text_and_parquet_give_the_same(tmp_path, out):
    frame = pd.DataFrame(
        {
            "customer_id": [11, 12],
            "product_id": ["a", "b"],
            "star_rating": [4, 5],
            "product_title": ["A", 'B "b"'],
        }
    )
    frame.to_csv(tmp_path / "ratings.tsv", sep="\t", index=False, quoting=3)
    frame.to_csv(tmp_path / "ratings.tsv.gz", sep="\t", index=False, quoting=3)
    frame.to_csv(tmp_path / "ratings.csv", index=False)
    frame.to_parquet(tmp_path / "ratings.parquet")
    results = [converted(Table(path), out) for path in sorted(tmp_path.glob("ratings.*"))]
    assert results[0][2] == ["12", "b", "5", 'B "b"']
    assert all(result == results[0] for result in results)


def test_columns_are_renamed_and_others_left_out(tmp_path, out):
    path = tmp_path / "ratings.csv"
    path.write_text("when,user,stars,film,name\n2020-01-02,u,3,f,The Film\n")
    table = Table(path, customer="user", product="film", rating="stars", title="name", date="when")
    assert converted(table, out) == [
        ["customer_id", "product_id", "star_rating", "product_title", "review_date"],
        ["u", "f", "3", "The Film", "2020-01-02"],
    ]


def test_quoted_names_a_byte_order_mark_and_breaks_inside_values_are_understood(tmp_path, out):
    path = tmp_path / "ratings.csv"
    path.write_bytes(
        '\ufeff"customer_id","product_id","star_rating","product_title"\n'
        'u,f,3,"One, ""two""\n\tthree"\n'.encode()
    )
    assert converted(Table(path), out)[1] == ["u", "f", "3", 'One, "two"  three']


def test_quotes_in_tab_separated_text_are_only_characters(tmp_path, out):
    path = tmp_path / "ratings.tsv"
    path.write_text(
        'customer_id\tproduct_id\tstar_rating\tproduct_title\n1\ta\t3\t"Open\n2\tb\t4\tan 8" tape\n'
    )
    assert [row[3] for row in converted(Table(path), out)[1:]] == ['"Open', 'an 8" tape']


def test_titles_come_from_a_second_table_and_the_order_stays(tmp_path, out):
    ratings, titles = tmp_path / "ratings.tsv", tmp_path / "titles.csv"
    products = [number * 7 % 50 for number in range(5000)]
    ratings.write_text(HEADER + "".join(f"{row}\tp{product}\t4\n" for row, product in enumerate(products)))
    titles.write_text(
        "product_id,genre,product_title\n"
        + "".join(f'p{n},x,"Title, {n}"\n' for n in range(40))
        + "p1,x,again\n"
    )
    rows = converted(Table(ratings, titles=titles), out)[1:]
    assert [row[0] for row in rows] == [str(number) for number in range(5000)]
    assert [row[3] for row in rows] == [f"Title, {p}" if p < 40 else "" for p in products]


def test_further_columns_come_from_the_ratings_or_the_titles(tmp_path, out):
    ratings, titles = tmp_path / "ratings.csv", tmp_path / "titles.csv"
    ratings.write_text("user,product_id,star_rating,my device,kind\nu,f1,3,tv,a\nv,f2,4,,b\nw,f9,4,pc,b\n")
    titles.write_text('product_id,product_title,genre,kind\nf1,One,"Drama, War",x\nf2,Two,,y\n')
    table = Table(
        ratings, customer="user", titles=titles, further=("genre", "my device", "kind", "product_title")
    )
    assert converted(table, out) == [
        ["customer_id", "product_id", "star_rating", "product_title", "genre", "my device", "kind"],
        ["u", "f1", "3", "One", "Drama, War", "tv", "a"],
        ["v", "f2", "4", "Two", "", "", "b"],
        ["w", "f9", "4", "", "", "pc", "b"],
    ]


def test_a_further_column_that_neither_has_is_told(tmp_path, out):
    ratings, titles = tmp_path / "ratings.csv", tmp_path / "titles.csv"
    ratings.write_text("customer_id,product_id,star_rating\nu,f1,3\n")
    titles.write_text("product_id,product_title,genre\nf1,One,War\n")
    message = (
        "The ratings have no column genres; there are customer_id, product_id, star_rating, product_title, genre. "
        "Did you mean `genre`?"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        convert(Table(ratings, titles=titles, further=("genres",)), out)
    with pytest.raises(DataError, match="The ratings have no column review_date; there are customer_id"):
        convert(Table(ratings, further=("review_date",)), out)


def test_unix_times_become_days(tmp_path, out):
    path = tmp_path / "ratings.tsv"
    times = ["978300760", "1577836799", "1577836800000", "2020-02-30", "20150831"]
    path.write_text(
        "customer_id\tproduct_id\tstar_rating\treview_date\n"
        + "".join(f"u\tp\t3\t{time}\n" for time in times)
    )
    days = [row[3] for row in converted(Table(path), out)[1:]]
    assert days == ["2000-12-31", "2019-12-31", "2020-01-01", "2020-02-30", "20150831"]


def test_values_that_are_no_ratings_are_handed_on(tmp_path, out):
    path = tmp_path / "ratings.tsv"
    path.write_text(HEADER + "1\ta\tfive\n2\tb\t\n3\tc\t-1\n")
    assert [row[2] for row in converted(Table(path), out)[1:]] == ["five", "", "-1"]


def test_lines_that_do_not_split_are_kept_as_one_column(tmp_path, out):
    path = tmp_path / "ratings.tsv"
    path.write_text(HEADER + "1\ta\t5\n2\tb\n3\tc\t4\t4\t4\n4\td\t4\n")
    rows = converted(Table(path), out)
    assert rows[1:] == [["1", "a", "5"], ["4", "d", "4"], ["2 b"], ["3 c 4 4 4"]]
    read_back = pd.read_csv(out, sep="\t", dtype=str)  # several gzip members are one file
    assert len(read_back) == 4
    assert read_back["star_rating"].isna().sum() == 2


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_can_be_named(encoding, tmp_path, out):
    path = tmp_path / "ratings.tsv"
    path.write_bytes((HEADER + "José\ta\t5\n").encode(encoding))
    assert converted(Table(path, encoding=encoding), out)[1] == ["José", "a", "5"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ratings.tsv", b"", "is empty"),
        ("ratings.tsv.gz", gzip.compress(b"", mtime=0), "is empty when unpacked"),
        ("ratings.tsv", HEADER.encode(), "has a header and no rows"),
        ("ratings.tsv", b"\x89PNG\r\n\x1a\n\0\0", "is a PNG image and not delimited text"),
        ("ratings.csv", b"PK\x03\x04\0\0", "is a zip archive or an Excel workbook"),
        ("ratings.tsv", b"abc\0\x01\x02", "is a binary file"),
        ("ratings.txt", b'[{"stars": 1}]', "is JSON"),
        ("ratings.parquet", HEADER.encode() + b"1\ta\t5\n", "is plain text and not Parquet"),
        ("ratings.parquet", gzip.compress(HEADER.encode(), mtime=0), "is compressed by gzip and not Parquet"),
        ("ratings.parquet", b"PAR1 and then nothing PAR1", "is not a complete Parquet file"),
        ("ratings.csv", b"PAR1 and then nothing PAR1", "is Parquet and not text"),
        ("ratings.tsv.gz", HEADER.encode(), "is plain text and not gzip"),
        ("ratings.tsv.gz", b"<!DOCTYPE html><title>404</title>", "is a web page or XML and not gzip"),
        ("ratings.tsv.gz", gzip.compress(HEADER.encode() * 99, mtime=0)[:-20], "is a damaged gzip file"),
        ("ratings.tsv", (HEADER + "José\ta\t5\n" * 9).encode("latin-1"), "is not utf-8"),
        ("ratings.tsv", b"1\t2\t3\n4\t5\t6\n", "no column `customer_id`; its first row names these: 1, 2, 3"),
        ("ratings.tsv", b"\n", "no column `customer_id`"),
    ],
)
def test_what_is_no_table_is_refused_in_one_sentence(name, content, message, tmp_path, out):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        convert(Table(path), out)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_gzip_that_ends_early_is_found_out_far_into_the_file(tmp_path, out):
    path = tmp_path / "ratings.tsv.gz"
    lines = "".join(f"{number * 7919 % 100_003}\tp{number}\t{number % 5 + 1}\n" for number in range(60_000))
    path.write_bytes(gzip.compress((HEADER + lines).encode())[:-5000])
    with pytest.raises(DataError, match="cannot be converted: Unexpected end of GZIP stream"):
        convert(Table(path), out)
    assert not list(out.parent.iterdir())


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, out):
    path = tmp_path / "ratings.tsv"
    path.write_text(
        HEADER + "".join(f"{number * 7919 % 100_003}\tp{number}\t3\n" for number in range(60_000))
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(DataError, match="cannot be converted: Could not write"):
            convert(Table(path), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(out.parent.iterdir())


def test_a_missing_file_names_its_neighbour(tmp_path, out):
    (tmp_path / "ratings.tsv").write_text(HEADER)
    with pytest.raises(DataError, match=r"rating.tsv does not exist. Did you mean `ratings.tsv`\?"):
        convert(Table(tmp_path / "rating.tsv"), out)
    with pytest.raises(DataError, match="does not exist"):
        convert(Table(tmp_path / "no" / "such" / "folder.tsv"), out)
    with pytest.raises(DataError, match="is a folder"):
        convert(Table(tmp_path), out)
    with pytest.raises(DataError, match="is an address"):
        convert(Table(Path("s3://bucket/ratings.tsv")), out)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"customer": "user"}, r"no column `user`.*Did you mean `user_id`\? Set customer_column"),
        ({"product": "xyz"}, "no column `xyz`.*: user_id, item, stars. Set product_column"),
        ({"rating": "star"}, r"Did you mean `stars`\? Set rating_column"),
        ({"title": "name"}, "no column `name`.*title_column"),
        ({"date": "day"}, "no column `day`.*date_column"),
    ],
)
def test_a_missing_column_names_those_that_are_there(wrong, message, tmp_path, out):
    path = tmp_path / "ratings.csv"
    path.write_text("user_id,item,stars\n1,2,3\n")
    with pytest.raises(DataError, match=message):
        convert(Table(path, **({"customer": "user_id", "product": "item", "rating": "stars"} | wrong)), out)


def test_titles_need_their_columns_too(tmp_path, out):
    ratings, titles = tmp_path / "ratings.tsv", tmp_path / "titles.tsv"
    ratings.write_text(HEADER + "1\ta\t5\n")
    titles.write_text("product_id\tname\na\tA\n")
    with pytest.raises(DataError, match=r"titles\.tsv has no column `product_title`"):
        convert(Table(ratings, titles=titles), out)


def test_an_encoding_must_be_known(tmp_path, out):
    with pytest.raises(ParameterError, match=r"encoding is klingon\. Known are utf-8"):
        convert(Table(tmp_path / "ratings.tsv", encoding="klingon"), out)
