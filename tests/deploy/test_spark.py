"""Spark and DuckDB make the same of the same reviews, by one SQL text; the job runs under spark-submit.

The programs run in ``.bench/spark-VERSION``, made at the first run; see ``spark_environment.py``.  The job is
compared always, by its tables and its bytes; the cases of ``compare_engines.py`` by ``REELBOOK_SPARK=all``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import spark_environment

from lib import features, ratings, samples, storage
from lib.design import Design
from lib.errors import ParameterError

ROOT = spark_environment.ROOT
JOB = ROOT / "deploy" / "spark" / "preprocess.py"
CASES = ["generated", "strange_lines", "windows_without_dates", "quoted_values", "parquet_types"]
CASES += ["further_columns", "folder_of_files", "bad_input", "records", "loopback"]

pytestmark = pytest.mark.timeout(900)  # the first run installs pyspark


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter that has pyspark."""
    try:
        return spark_environment.python()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def differences(python: Path, tmp_path_factory: pytest.TempPathFactory, local_aws: object) -> dict[str, str]:
    """What differs between the engines, by case."""
    storage.ensure_bucket("spark", "us-east-1")
    folder = tmp_path_factory.mktemp("engines")
    done = subprocess.run(
        [python, "-W", "ignore", ROOT / "tests" / "deploy" / "compare_engines.py", folder, *CASES],
        env=spark_environment.variables(RECORDS="s3://spark/records"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stderr[-1000:])
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


every_case = pytest.mark.skipif(
    os.environ.get("REELBOOK_SPARK") != "all", reason="takes six minutes: REELBOOK_SPARK=all"
)


@every_case
@pytest.mark.parametrize("case", CASES)
def test_the_engines_agree(differences: dict[str, str], case: str) -> None:
    assert differences[case] == ""


@every_case
def test_every_case_is_looked_at(differences: dict[str, str]) -> None:
    assert sorted(differences) == sorted(CASES)


def submit(python: Path, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the job as the cluster does: spark-submit, with lib from its zip and not from the checkout."""
    archive = folder / "lib.zip"
    if not archive.exists():
        packed = subprocess.run([sys.executable, JOB.with_name("package.py"), archive], check=False)
        assert packed.returncode == 0
    variables = spark_environment.variables(SPARK_LOCAL_IP="127.0.0.1", PYSPARK_PYTHON=str(python))
    del variables["PYTHONPATH"]
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.shuffle.partitions": 1,
    }
    options = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    return subprocess.run(
        [python.with_name("spark-submit"), "--master", "local[2]", *options, "--py-files", archive, JOB]
        + [str(word) for word in words],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_job_writes_what_the_notebooks_write(python: Path, tmp_path: Path) -> None:
    made = samples.generate(tmp_path / "reviews.tsv.gz", ratings=6_000, seed=5, progress=False)
    options = ["--seed", 3, "--min-customer-ratings", 4, "--files", 2, "--fractions", 0.5, 0.25, 0.25]
    done = submit(python, tmp_path, "--input", made.path, "--output", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    with ratings.read(made.path) as reviews:
        kept = reviews.keep(4, 10)
        paths = kept.split(3, (0.5, 0.25, 0.25)).write(tmp_path / "by-duckdb")
    frames = {name: pd.read_parquet(path) for name, path in paths.items()}
    for name, frame in frames.items():
        pieces = sorted((tmp_path / "out" / "ratings" / f"{name}.parquet").glob("part-*.parquet"))
        pd.testing.assert_frame_equal(pd.concat(map(pd.read_parquet, pieces), ignore_index=True), frame)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["rating_count"] == kept.ratings
    assert summary["feature_dim"] == kept.customers + kept.videos
    design = Design(frames["customers"], frames["videos"]).fit(frames["train"])
    for part in ratings.PARTS:
        labels = None if part == "test" else frames[part]["star_rating"]
        whole = features.write_file(tmp_path / "whole.pbr", design.transform(frames[part]), labels)
        files = sorted((tmp_path / "out" / "recordio" / part).iterdir())
        assert [path.name for path in files] == ["part-00000.pbr", "part-00001.pbr"]
        assert b"".join(path.read_bytes() for path in files) == whole.read_bytes()


def test_the_job_tells_wrong_input_in_one_sentence(python: Path, tmp_path: Path) -> None:
    done = submit(python, tmp_path, "--input", tmp_path / "none.tsv", "--output", tmp_path / "out")
    assert done.returncode == 2
    told = f"There is no file {tmp_path / 'none.tsv'}."
    assert told in done.stdout  # where spark-submit puts what Python says
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


def test_the_zip_holds_the_rules_and_equal_sources_make_equal_zips(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        subprocess.run([sys.executable, JOB.with_name("package.py"), tmp_path / name], check=True)
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert {"lib/ratings.py", "lib/ratings.sql", "lib/recordio/writer.py"} <= set(names)
    assert not [name for name in names if name.startswith("lib/local/")]
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "x"], "--output"),
        (["--input", "x", "--output", "y", "--sead", "3"], "there is no option --sead"),
        (["--input", "x", "--output", "y", "--seed", "x"], "invalid int value"),
    ],
    ids=["missing", "misspelt", "no number"],
)
def test_the_job_refuses_wrong_options(words: list[str], message: str) -> None:
    done = subprocess.run([sys.executable, JOB, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_missing_pyspark_is_one_sentence(tmp_path: Path) -> None:
    script = "import sys; sys.modules['pyspark'] = None; from lib import ratings; ratings.read('x', engine='spark')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "The engine spark needs pyspark, which is not installed. Say pip install pyspark==" in done.stderr


def test_a_missing_java_is_one_sentence(python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [python, "-c", "from lib import ratings; ratings.read('x', engine='spark')"],
        env=spark_environment.variables(JAVA_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"needs Java 17 or newer, and there is none in JAVA_HOME, {tmp_path}" in done.stderr


def test_an_engine_that_is_none() -> None:
    with pytest.raises(ParameterError, match=r"There is no engine 'sparkk'. Did you mean `spark`\?"):
        ratings.read("reviews.tsv", engine="sparkk")


def test_neither_engine_is_imported_before_it_is_used() -> None:
    script = "import sys; from lib import ratings; print({'pyspark', 'duckdb'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_the_advised_version_is_the_tested_one() -> None:
    from lib import spark_workspace

    assert spark_workspace.PYSPARK == spark_environment.VERSION
    assert f"pyspark=={spark_workspace.PYSPARK}" in (ROOT / "deploy" / "spark" / "README.md").read_text()
    assert os.access(JOB, os.R_OK)
