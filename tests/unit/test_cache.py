"""A stage is up to date only while everything that it depends on is what it was: each ingredient in its turn."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from notebook_files import RUN, cell, write_cells

from lib import cache, records
from lib.cache import Cache, Decision, Objects
from lib.contracts import read_contract
from lib.history import History
from lib.reach import Reach
from lib.records import ROOT, RunRecord, StageRecord
from lib.stages import STAGES, Stage, read_contracts

BUCKET = "cache-tests"
VALUES = {
    "run_id": "now",
    "target": "local",
    "account": {},
    "number": 3,
    "options": {"low": 1},
    "path": "reviews.tsv",
    "input_uri": f"s3://{BUCKET}/in/",
}
SCRAPS = {"output_uri": f"s3://{BUCKET}/out/part", "rows": 7, "all": [f"s3://{BUCKET}/out/"]}
MODULES = {
    "__init__.py": "",
    "alpha.py": "from lib import beta\n\nTEXT = 'alpha.txt'\n",
    "alpha.sql": "SELECT 1",
    "alpha.txt": "words",
    "beta.py": "def work():\n    from lib.package.inner import deep\n    return deep\n",
    "package/__init__.py": "",
    "package/inner.py": "COMMAND = ['-m', 'lib.started']\ndeep = 1\n",
    "started/__init__.py": "",
    "started/__main__.py": "from . import job\n",
    "started/job.py": "",
    "unrelated.py": "",
    "unrelated.sql": "SELECT 2",
}


class World:
    """A stage with all that it depends on, and a run in which it has completed."""

    def __init__(self, folder: Path, objects: Objects, s3: Any) -> None:
        self.objects, self.s3 = objects, s3
        self.root = folder / "checkout"
        self.outputs = folder / "outputs"
        for name, text in MODULES.items():
            self.write(f"lib/{name}", text)
        self.write("reviews.tsv", "1\t2\n")
        for key in ("in/one", "in/two", "out/part", "beside"):
            self.put(key, key)
        self.values: dict[str, Any] = dict(VALUES)
        self.stage = Stage("stage")
        self.notebook("x = number", "y = x")
        self.record = StageRecord("stage", "Stage", "stage.ipynb", status="completed", scraps=dict(SCRAPS))
        decision = self.decide()
        assert decision.found is None
        assert decision.why == "it has not run before"
        assert decision.key
        self.record.key, self.record.ingredients = decision.key, decision.ingredients
        self.record.outputs = self.cache().outputs(SCRAPS, VALUES)
        self.save()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def put(self, key: str, text: str) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=text.encode())

    def notebook(self, *code: str, markdown: str = "# Stage", imports: str = "from lib import alpha") -> None:
        lines = [RUN, 'target: str = "local"  # where', "account: dict = {}  # who"]
        lines += [
            "number: int = 3  # n",
            "options: dict = {}  # o",
            'path: str = ""  # p',
            "input_uri: str = None  # u",
        ]
        write_cells(
            self.root / "notebooks" / "stage.ipynb",
            cell(markdown, "markdown"),
            cell("\n".join(lines), tags=("parameters",)),
            cell(imports),
            *(cell(source) for source in code),
            cell("publish(output_uri=1, rows=2, all=3)"),
        )

    def save(self, run_id: str = "before", status: str = "completed") -> None:
        self.record.status = status
        records.write_run(self.outputs / run_id, RunRecord(run_id, stages=[self.record]))

    def cache(self) -> Cache:
        return Cache(History(self.outputs), self.objects, root=self.root)

    def decide(self, **options: Any) -> Decision:
        contract = read_contract(self.root / "notebooks" / "stage.ipynb")
        return self.cache().decide(self.stage, contract, self.values, **options)


@pytest.fixture(scope="module")
def s3(local_aws) -> Any:
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture(scope="module")
def objects() -> Objects:
    """One connection for all tests, which looks at everything anew."""
    return Objects()


@pytest.fixture
def world(s3, objects, tmp_path, monkeypatch) -> World:
    monkeypatch.setattr(cache, "FRESH_SECONDS", -1.0)
    return World(tmp_path, objects, s3)


def test_what_was_looked_at_a_moment_ago_is_not_looked_at_again_unless_it_must_be(s3, monkeypatch):
    monkeypatch.setattr(cache, "FRESH_SECONDS", 3600.0)  # however slow the machine is
    uri, objects = f"s3://{BUCKET}/moment", Objects()
    s3.put_object(Bucket=BUCKET, Key="moment", Body=b"1")
    first = objects.state(uri, VALUES)
    s3.put_object(Bucket=BUCKET, Key="moment", Body=b"2")
    assert objects.state(uri, VALUES) == first
    second = objects.state(uri, VALUES, now=True)
    assert second != first
    assert objects.state(uri, VALUES) == second


def test_nothing_has_changed(world):
    decision = world.decide()
    assert decision.found == world.record
    assert decision.run_id == "before"
    assert decision.why == "up to date since the run before"


MATTERS = {
    "a code cell": (
        lambda w: w.notebook("x = number + 1", "y = x"),
        "its code has changed in cell 4 (run before)",
    ),
    "a further code cell": (
        lambda w: w.notebook("x = number", "y = x", "z = 1"),
        "its code has changed in cell 6",
    ),
    "a code cell less": (lambda w: w.notebook("x = number"), "a code cell was taken away"),
    "the order of cells": (lambda w: w.notebook("y = x", "x = number"), "its code has changed in cell"),
    "a magic's text": (lambda w: w.notebook("%time x = 1", "y = x"), "its code has changed in cell 4"),
    "an import": (
        lambda w: w.notebook("x = number", "y = x", imports="from lib import alpha, unrelated"),
        "its code has changed in cell 3; lib.unrelated is new",
    ),
    "a module": (lambda w: w.write("lib/alpha.py", MODULES["alpha.py"] + "#"), "lib.alpha has changed"),
    "a module's module": (lambda w: w.write("lib/beta.py", MODULES["beta.py"] + "#"), "lib.beta has changed"),
    "a package's init": (lambda w: w.write("lib/package/__init__.py", "#"), "lib.package has changed"),
    "a module imported in a function": (
        lambda w: w.write("lib/package/inner.py", MODULES["package/inner.py"] + "#"),
        "lib.package.inner has changed",
    ),
    "a program started by its name": (
        lambda w: w.write("lib/started/__main__.py", "#"),
        "lib.started.__main__ has changed",
    ),
    "what that imports": (lambda w: w.write("lib/started/job.py", "#"), "lib.started.job has changed"),
    "a module's SQL": (lambda w: w.write("lib/alpha.sql", "SELECT 3"), "lib.alpha has changed"),
    "a file that a module names": (lambda w: w.write("lib/alpha.txt", "other"), "lib.alpha has changed"),
    "the package itself": (lambda w: w.write("lib/__init__.py", "#"), "lib has changed"),
    "a number": (lambda w: w.values.update(number=4), "number is 4, was 3 (run before)"),
    "a mapping's key": (
        lambda w: w.values.update(options={"low": 2}),
        'options is {"low": 2}, was {"low": 1}',
    ),
    "a new parameter": (lambda w: w.values.update(further=1), "further is new"),
    "a parameter less": (lambda w: w.values.pop("options"), "options is not there any more"),
    "the value published upstream": (
        lambda w: w.values.update(input_uri=f"s3://{BUCKET}/in"),
        "input_uri is another one (run before)",
    ),
    "an input object's bytes": (lambda w: w.put("in/two", "else"), "input_uri holds other objects"),
    "a further input object": (lambda w: w.put("in/three", "more"), "input_uri holds other objects"),
    "an input object less": (
        lambda w: w.s3.delete_object(Bucket=BUCKET, Key="in/two"),
        "input_uri holds other objects",
    ),
    "the file that a parameter names": (
        lambda w: w.write("reviews.tsv", "1\t3\n"),
        "the file of path has changed",
    ),
    "the output's bytes": (lambda w: w.put("out/part", "else"), "its output_uri has been changed since"),
    "a further output object": (lambda w: w.put("out/else", "more"), "its all.0 has been changed since"),
    "the outputs": (
        lambda w: w.s3.delete_object(Bucket=BUCKET, Key="out/part"),
        "its output_uri is gone (s3://",
    ),
}


@pytest.mark.parametrize("ingredient", MATTERS)
def test_each_ingredient_matters(world, ingredient):
    change, why = MATTERS[ingredient]
    change(world)
    try:
        decision = world.decide()
    finally:
        for key in ("in/three", "out/else"):
            world.s3.delete_object(Bucket=BUCKET, Key=key)
    assert decision.found is None
    assert decision.why.startswith(why)


@pytest.mark.parametrize("name", ["numpy", "python"])
def test_a_package_of_another_version_matters(world, monkeypatch, name):
    monkeypatch.setattr(records, "versions", lambda: {**dict.fromkeys(["numpy", "python"], "1"), name: "0"})
    assert world.decide().found is None


def test_the_python_and_the_packages_are_among_the_versions():
    assert {"python", "numpy", "duckdb", "sagemaker"} <= records.versions().keys()


DOES_NOT_MATTER = {
    "a comment and spaces": lambda w: w.notebook("x  =  number  # why", "\ny = x"),
    "the words between": lambda w: w.notebook("x = number", "y = x", markdown="# Stage\n\nOther words."),
    "the run's id": lambda w: w.values.update(run_id="other"),
    "a module that it does not reach": lambda w: w.write("lib/unrelated.py", "x = 1"),
    "a file of such a module": lambda w: w.write("lib/unrelated.sql", "SELECT 3"),
    "an object with the same bytes": lambda w: w.put("in/one", "in/one"),
    "an object beside": lambda w: w.put("inside", "x"),
    "the file's time": lambda w: os.utime(w.root / "reviews.tsv"),
}


@pytest.mark.parametrize("change", DOES_NOT_MATTER)
def test_nothing_else_matters(world, change):
    DOES_NOT_MATTER[change](world)
    assert world.decide().found is not None


UNKNOWN = {
    "no input object": (lambda w: w.values.update(input_uri=f"s3://{BUCKET}/none/"), "cannot be looked at"),
    "no bucket": (lambda w: w.values.update(input_uri="s3://no-such-bucket/x"), "cannot be looked at"),
    "no file": (lambda w: w.values.update(path="gone.tsv"), "gone.tsv cannot be read"),
}


@pytest.mark.parametrize("ingredient", UNKNOWN)
def test_what_cannot_be_known_is_not_up_to_date(world, ingredient):
    change, why = UNKNOWN[ingredient]
    change(world)
    decision = world.decide()
    assert decision.found is None
    assert decision.key == ""
    assert why in decision.why


def test_a_stage_without_a_target_cannot_look_at_objects(world):
    del world.values["target"]
    assert world.decide().key == ""


@pytest.mark.parametrize("status", ["failed", "running", "interrupted", "skipped", "pending"])
def test_only_what_was_completed_is_reused(world, status):
    world.save(status=status)
    assert world.decide().found is None


def test_what_was_reused_is_reused_again_and_its_origin_is_told(world):
    world.record.origin = "first"
    world.save("second", status="reused")
    decision = world.decide()
    assert (decision.run_id, decision.why) == ("second", "up to date since the run first")


def test_a_record_without_a_key_or_without_outputs_is_not_reused(world):
    outputs, world.record.outputs = world.record.outputs, None
    world.save()
    assert world.decide().why == "what it left was not recorded"
    world.record.outputs = {"output_uri": outputs["output_uri"]}
    world.save()
    assert world.decide().why == "what it left was not recorded"
    world.record.outputs, world.record.key = outputs, ""
    world.save()
    assert world.decide().found is None


def test_of_several_runs_the_one_that_is_still_whole_is_reused(world):
    whole = json.loads(json.dumps(asdict(world.record)))
    world.record.outputs = {name: state | {"etag": "else"} for name, state in world.record.outputs.items()}
    world.save("newer")
    decision = world.decide()
    assert (decision.run_id, decision.found.outputs) == ("before", whole["outputs"])


def test_force_and_stages_that_are_never_reused(world):
    assert world.decide(forced="--force").why == "--force"
    world.stage = Stage("stage", cached=False)
    decision = world.decide()
    assert (decision.found, decision.key, decision.why) == (None, "", "it runs every time")


def test_a_broken_record_of_another_run_is_passed_over(world):
    (world.outputs / "broken").mkdir()
    (world.outputs / "broken" / "run.json").write_text("{")
    (world.outputs / "strange").mkdir()
    (world.outputs / "strange" / "run.json").write_text('{"stages": [1]}')
    assert world.decide().found is not None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda w: w.write("lib/started/job.py", "# now"),
            "lib.started.job was changed while the run was going on",
        ),
        (lambda w: w.write("lib/alpha.sql", "SELECT 9"), "lib.alpha was changed while the run was going on"),
        (lambda w: w.notebook("x = 5"), "the notebook was changed while the run was going on"),
        (lambda w: w.put("in/one", "else"), "input_uri was changed while the stage ran"),
        (lambda w: w.write("reviews.tsv", "now"), "reviews.tsv was changed while the stage ran"),
        (lambda w: None, ""),
    ],
)
def test_what_changes_while_the_stage_runs_is_noticed(world, change, what):
    contract = read_contract(world.root / "notebooks" / "stage.ipynb")
    deciding = world.cache()
    decision = deciding.decide(world.stage, contract, world.values)
    time.sleep(0.01)
    change(world)
    found = deciding.changed_meanwhile(decision, contract, world.values)
    assert found.startswith(what)
    assert bool(found) == bool(what)


values = st.recursive(
    st.booleans()
    | st.integers(-99, 99)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.text(max_size=4), values, max_size=4),
    st.dictionaries(st.text(max_size=4), values, max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_two_sets_of_parameters_have_one_key_only_if_they_are_one(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (cache.digest({"parameters": one}) == cache.digest({"parameters": other})) == same
    stored = json.loads(json.dumps(one))
    assert cache.digest(stored) == cache.digest(one)


def test_every_file_of_lib_counts_for_some_stage():
    """What the notebooks reach: a new file of data must not be overlooked."""
    reach = Reach()
    sources = [source for contract in read_contracts().values() for _, source in contract.code]
    reached = reach.digests(sources)
    data = [
        path
        for path in (ROOT / "lib").rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and "report" not in path.parts
        and "jupyter" not in path.parts
        and "__pycache__" not in path.parts
    ]
    named = {part for module in reached for part in reach.files_of(module)}
    assert [path for path in data if path not in named] == []


def test_the_engine_counts_for_the_stages_that_submit_jobs_alone():
    reach = Reach()
    modules = {
        name: reach.digests(source for _, source in contract.code)
        for name, contract in read_contracts().items()
    }
    for stage in STAGES:
        has_engine = "lib.fm.fit" in modules[stage.name]
        assert has_engine == (stage.name not in ("00_collect", "01_preprocess", "02_prepare")), stage.name
        assert "lib.runner" not in modules[stage.name]
    assert "lib.fm.train" in modules["03_train"]
    assert "lib.ratings" in modules["01_preprocess"]
    assert "lib.recordio.kernels" in modules["02_prepare"]
