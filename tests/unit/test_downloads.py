"""Where the reviews come from; downloads come from a server that the tests start on this machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lib import downloads
from lib.errors import ConnectionFailed, DataError, ParameterError


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address, and the folder that it serves."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


def served(source: str, server: tuple[str, Path], content: bytes) -> downloads.PublicSet:
    """Put a file on the server and return the public set ``source``, moved there."""
    address, folder = server
    wanted = downloads.public_set(source)
    name = wanted.url.rsplit("/", 1)[1]
    (folder / name).write_bytes(content)
    return replace(wanted, url=f"{address}/{name}", sha256=hashlib.sha256(content).hexdigest())


def zipped(**members: str | bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


ALL_COLUMNS = "customer_id\tproduct_id\tstar_rating\tproduct_title\treview_date"
ARCHIVES = {
    "movielens-100k": zipped(
        **{
            "ml-100k/u.data": "196\t242\t3\t881250949\n186\t302\t4\t891717742\n",
            "ml-100k/u.item": "242|Kolya (1996)|24-Jan-1997||\n302|Café (1995)|x||\n".encode("latin-1"),
        }
    ),
    "movielens-1m": zipped(
        **{
            "ml-1m/ratings.dat": "196::242::3::881250949\n186::302::4::891717742\n",
            "ml-1m/movies.dat": "242::Kolya (1996)::Comedy\n302::Café (1995)::Drama|War\n".encode("latin-1"),
        }
    ),
    "movielens-25m": zipped(
        **{
            "ml-25m/ratings.csv": "userId,movieId,rating,timestamp\n196,242,3,881250949\n186,302,4,891717742\n",
            "ml-25m/movies.csv": 'movieId,title,genres\n302,"Café (1995)",War\n242,Kolya (1996),Comedy\n',
        }
    ),
}


def test_generated_reviews_are_collected(tmp_path):
    collected = downloads.collect("generated", tmp_path, ratings=500, seed=3, progress=False)
    assert collected.path == tmp_path / "reviews.tsv.gz"
    assert collected.rows == len(lines(collected.path)) - 1 == 500
    assert collected.description == "500 generated ratings of 20 videos by 250 customers, seed 3."
    assert "free to use" in collected.licence


def test_a_file_of_ones_own_is_collected_with_its_titles(tmp_path):
    (tmp_path / "mine.csv").write_text("user,film,score\nann,f1,9\nbob,f2,10\n")
    (tmp_path / "films.tsv").write_text("film\tname\nf1\tOne\nf2\tTwo\n")
    collected = downloads.collect(
        "file",
        tmp_path / "out",
        path=tmp_path / "mine.csv",
        titles_path=str(tmp_path / "films.tsv"),
        customer_column="user",
        product_column="film",
        rating_column="score",
        title_column="name",
    )
    assert lines(collected.path) == [
        "customer_id\tproduct_id\tstar_rating\tproduct_title",
        "ann\tf1\t9\tOne",
        "bob\tf2\t10\tTwo",
    ]
    assert collected.description == "2 ratings from mine.csv."
    assert (collected.format, collected.rows) == ("tsv.gz", 2)


def test_title_column_of_the_titles_need_not_be_in_the_ratings(tmp_path):
    (tmp_path / "mine.csv").write_text("customer_id,product_id,star_rating\nann,f1,9\n")
    (tmp_path / "films.csv").write_text("product_id,name\nf1,One\n")
    collected = downloads.collect(
        "file",
        tmp_path / "out",
        path=tmp_path / "mine.csv",
        titles_path=tmp_path / "films.csv",
        title_column="name",
    )
    assert lines(collected.path)[1] == "ann\tf1\t9\tOne"


def test_ones_own_file_is_not_overwritten(tmp_path):
    path = tmp_path / "reviews.tsv.gz"
    path.write_bytes(gzip.compress(b"mine"))
    with pytest.raises(ParameterError, match="would be overwritten"):
        downloads.collect("file", tmp_path, path=path)
    assert gzip.decompress(path.read_bytes()) == b"mine"


@pytest.mark.parametrize("source", list(ARCHIVES))
def test_movielens_is_downloaded_checked_and_converted(source, server, tmp_path):
    wanted = served(source, server, ARCHIVES[source])
    collected = downloads.collect_public(wanted, tmp_path / "reviews.tsv.gz", tmp_path / "cache", False)
    assert lines(collected.path) == [
        ALL_COLUMNS,
        "196\t242\t3\tKolya (1996)\t1997-12-04",
        "186\t302\t4\tCafé (1995)\t1998-04-04",
    ]
    assert collected.rows == 2
    assert "GroupLens" in collected.licence


@pytest.mark.parametrize("source", ["movielens-1m", "movielens-25m"])
def test_genres_of_movielens_can_be_handed_on(source, server, tmp_path):
    wanted = served(source, server, ARCHIVES[source])
    out = tmp_path / "reviews.tsv.gz"
    downloads.collect_public(wanted, out, tmp_path / "cache", False, further=["genres", "review_date"])
    assert lines(out)[0] == f"{ALL_COLUMNS}\tgenres"
    assert lines(out)[1].endswith("\tComedy")
    with pytest.raises(DataError, match="no column genre; there are"):
        downloads.collect_public(wanted, out, tmp_path / "cache", False, further=["genre"])


def test_amazon_reviews_2023_are_converted(server, tmp_path):
    content = gzip.compress(b"user_id,parent_asin,rating,timestamp\nAE22,B00X,5.0,1588687728923\n")
    wanted = served("amazon-reviews-2023", server, content)
    collected = downloads.collect_public(wanted, tmp_path / "reviews.tsv.gz", tmp_path / "cache", False)
    assert lines(collected.path) == [
        "customer_id\tproduct_id\tstar_rating\treview_date",
        "AE22\tB00X\t5.0\t2020-05-05",
    ]


def test_a_second_download_comes_from_the_cache(server, tmp_path):
    wanted = served("movielens-1m", server, ARCHIVES["movielens-1m"])
    first = downloads.download(wanted, tmp_path / "cache", progress=False)
    (server[1] / "ml-1m.zip").unlink()
    assert downloads.download(wanted, tmp_path / "cache", progress=False) == first


def test_another_file_than_expected_is_refused_and_not_kept(server, tmp_path):
    wanted = served("movielens-1m", server, ARCHIVES["movielens-1m"])
    (server[1] / "ml-1m.zip").write_bytes(b"something else")
    with pytest.raises(
        DataError, match=r"ml-1m\.zip from 127\.0\.0\.1:\d+ has another SHA-256 than recorded"
    ):
        downloads.download(wanted, tmp_path / "cache", progress=False)
    assert not list((tmp_path / "cache").iterdir())


def test_an_archive_without_its_files_is_refused(server, tmp_path):
    wanted = served("movielens-1m", server, zipped(other="file"))
    with pytest.raises(DataError, match="is not the archive of movielens-1m"):
        downloads.collect_public(wanted, tmp_path / "reviews.tsv.gz", tmp_path / "cache", False)
    assert not (tmp_path / "reviews.tsv.gz").exists()


def test_a_file_that_is_gone_is_one_sentence(server, tmp_path):
    wanted = served("movielens-1m", server, b"")
    (server[1] / "ml-1m.zip").unlink()
    with pytest.raises(ConnectionFailed, match=r"movielens-1m cannot be downloaded: \S+ answers 404"):
        downloads.download(wanted, tmp_path / "cache", progress=False)


def test_without_a_network_the_next_step_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    wanted = replace(downloads.public_set("movielens-100k"), url="http://127.0.0.1:9/ml-100k.zip")
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9 cannot be reached") as failed:
        downloads.collect_public(wanted, tmp_path / "reviews.tsv.gz", tmp_path / "cache", False)
    assert "use `source: file`, or use `source: generated`" in failed.value.hint
    assert not (tmp_path / "reviews.tsv.gz").exists()


def test_every_public_set_has_a_checksum_a_secure_address_and_a_licence():
    wanted = [downloads.public_set(name) for name in downloads.MOVIELENS_SETS]
    wanted += [downloads.public_set("amazon-reviews-2023", name) for name in downloads.AMAZON_CATEGORIES]
    for public in wanted:
        assert len(bytes.fromhex(public.sha256)) == 32
        assert public.url.startswith("https://")
        assert "research" in public.licence
    assert len({public.sha256 for public in wanted}) == len(wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"source": "movielens-100"},
            r"source is movielens-100, .* Did you mean `movielens-100k`\? Known are",
        ),
        ({"source": "amazon-reviews-2023", "category": "Films_and_TV"}, "Did you mean `Movies_and_TV`"),
        ({"source": "file"}, "path names none. Set path"),
        ({"source": "generated", "ratings": 3}, "at least 100"),
    ],
)
def test_wrong_parameters_are_named(arguments, message, tmp_path):
    with pytest.raises(ParameterError, match=message):
        downloads.collect(folder=tmp_path, **arguments)
    assert not list(tmp_path.iterdir())
