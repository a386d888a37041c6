"""The benchmarks start, explain themselves, run on little where no peer is needed, and are on their page."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fm_quality, fm_speed, peers
from benchmarks.support import launch, ratings
from benchmarks.support.report import Report, figure

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_explains_itself(script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert len(done.stdout.splitlines()) > 3


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_on_the_page(script):
    assert f"`benchmarks/{script.name}`" in PAGE.read_text()


def test_every_script_on_the_page_is_there():
    named = set(re.findall(r"benchmarks/(\w+\.py)", PAGE.read_text()))
    assert named <= {script.name for script in SCRIPTS}


@pytest.mark.parametrize("peer", sorted(peers.VERSIONS))
def test_every_peer_has_a_runner_and_its_version_on_the_page(peer):
    assert (ROOT / "benchmarks" / "peer_runners" / f"run_{peer}.py").is_file()
    name, version = peers.VERSIONS[peer].split()
    assert f"[{name}]" in PAGE.read_text()
    assert f"| {version} |" in PAGE.read_text()


def test_peers_are_pinned_exactly():
    for environment in (peers.NEW, peers.OLD):
        assert all(re.fullmatch(r"[\w-]+==[\w.]+", package) for package in environment.packages)
    assert all(re.fullmatch(r"\w+==[\w.]+", source) for source in peers.SOURCES.values())


def test_speed_is_measured_on_little(tmp_path):
    size = fm_speed.Size(3000, 400, 100, 300, 900, 300, (4,), (100,), 2000)
    report = Report("fm_speed")
    bench = fm_speed.Bench(size, tmp_path, report, None)
    bench.of_rows("Two features a row", ratings.generated(3000, 400, 100), {"ours"})
    (table,) = report.parts
    assert "3,000 rows, 500 features, 2 of them a row" in table
    line = [cell.strip() for cell in table.splitlines()[-1].split("|")]
    assert line[1:3] == ["4", "100"]
    assert "yes" in line


def test_quality_is_measured_on_little(tmp_path):
    rows = ratings.with_truth(3000, 100, 50)
    train, _, test = ratings.split(rows)
    files = train.save(tmp_path / "train.npz"), test.save(tmp_path / "test.npz")
    method = fm_quality.METHODS[0]
    quick = {"bias_lr": 0.5, "linear_lr": 0.1, "mini_batch_size": 100}
    options = {**next(method.tried()), "settings": quick}
    points = fm_quality.Bench(tmp_path, None, 8).curve(method, options, *files)
    assert [point["epochs"] for point in points] == list(range(1, len(points) + 1))
    assert all(later["cpu"] > earlier["cpu"] for earlier, later in itertools.pairwise(points))
    assert points[-1]["rmse"] < points[0]["rmse"]


def test_a_peer_that_is_not_there_is_a_row_that_says_why(tmp_path):
    bench = fm_quality.Bench(tmp_path, None, 8)
    libfm = next(method for method in fm_quality.METHODS if method.runner == "libfm")
    with pytest.raises(launch.Failed, match="name its binary with --libfm"):
        bench.curve(libfm, next(libfm.tried()), tmp_path, tmp_path)
    (line,) = fm_quality.quality_table({"libFM, Gibbs": "not on PyPI"}, {})
    assert line == ["libFM, Gibbs", *["–"] * 5, "not on PyPI"]


def test_the_time_to_a_peers_best_is_that_of_the_quickest_of_ours():
    def curve(*pairs):
        return [{"cpu": cpu, "rmse": rmse} for cpu, rmse in pairs]

    curves = {
        "lib.fm, k 16": curve((0.1, 1.0), (0.2, 0.95)),
        "lib.fm, k 64": curve((0.5, 0.93), (1.0, 0.90)),
        "xLearn": curve((1.0, 0.97), (2.0, 0.96)),
        "myFM, Gibbs": curve((9.0, 0.93)),
        "fastFM, ALS": curve((9.0, 0.80)),
    }
    lines = {line[0]: line for line in fm_quality.quality_table(curves, {})}
    assert lines["xLearn"][1:6] == ["0.9600", "2.00", "0.200", "k 16", "10 ×"]
    assert lines["myFM, Gibbs"][1:6] == ["0.9300", "9.00", "0.500", "k 64", "18 ×"]
    assert lines["fastFM, ALS"][3] == "not reached"


def test_the_limit_counts_the_bytes_of_a_training_row():
    # k 61: 61 + 61 + 61 + 3 = 186 numbers, in whole cache lines 192; two entries, both new in their batch
    by_touch = 2 * 4 * 192
    by_row = 2 * 4 * 62 + 2 * by_touch
    assert fm_speed.limit_rate(61, 2, 2, 192, 1e6) == pytest.approx(1e6 * by_touch / by_row)


def test_rows_are_what_they_are_said_to_be():
    rows = ratings.generated(2000, 300, 50)
    assert (np.diff(rows.X.indptr) == 2).all()
    pairs = rows.X.indices.reshape(-1, 2)
    assert pairs[:, 0].max() < 300 <= pairs[:, 1].min()
    wide = ratings.generated_wide(200, 3000)
    assert (np.diff(wide.X.indptr) == 30).all()
    assert (np.diff(wide.X.indices.reshape(200, 30), axis=1) > 0).all()


def test_unused_features_can_be_dropped():
    rows = ratings.generated(40, 300, 50)
    fewer = rows.without_unused_features()
    assert fewer.X.shape[1] == len(np.unique(rows.X.indices)) == sum(fewer.fields)
    assert len(np.unique(fewer.X.indices)) == fewer.X.shape[1]
    assert (fewer.X.indices.reshape(-1, 2)[:, 1] >= fewer.fields[0]).all()
    assert (fewer.X.indices.reshape(-1, 2)[:, 0] < fewer.fields[0]).all()


def test_rows_survive_their_file(tmp_path):
    rows = ratings.generated_wide(50, 600)
    again = ratings.load(rows.save(tmp_path / "rows.npz"))
    assert (again.X != rows.X).nnz == 0
    assert (again.y == rows.y).all()
    assert again.X.indices.dtype == np.int32


def test_a_split_is_all_rows_once():
    rows = ratings.generated(1000, 60, 30)
    parts = ratings.split(rows)
    assert [len(part) for part in parts] == [800, 100, 100]
    together = np.concatenate([part.X.indices.reshape(-1, 2) for part in parts])
    assert sorted(map(tuple, together)) == sorted(map(tuple, rows.X.indices.reshape(-1, 2)))


def test_a_reports_tables_replace_what_stands_at_its_place(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- begin mine -->\nold\n<!-- end mine -->\n\nmore\n")
    report = Report("mine")
    report.table("A title", ("", "b"), [["x", 1]])
    report.put_into(page)
    report.put_into(page)
    table = "**A title**\n\n|  | b |\n| --- | ---: |\n| x | 1 |"
    assert page.read_text() == f"# Page\n\n<!-- begin mine -->\n\n{table}\n\n<!-- end mine -->\n\nmore\n"
    assert table in capsys.readouterr().out
    with pytest.raises(ValueError, match="no place for other"):
        Report("other").put_into(page)


def test_the_page_has_a_place_for_each_report():
    for script in ("fm_speed", "fm_quality"):
        assert f"<!-- begin {script} -->\n" in PAGE.read_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0"),
        (0.01234, "0.012"),
        (1.234, "1.23"),
        (45.67, "45.7"),
        (12345, "12,345"),
    ],
)
def test_figures_have_a_few_digits(value, text):
    assert figure(value) == text
