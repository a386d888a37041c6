"""The exception tree: what a person reads of an error."""

from __future__ import annotations

import inspect
import re
from types import SimpleNamespace

import pytest

from lib import errors
from lib.errors import DataError, JobFailed, ReelbookError, StorageError, did_you_mean

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_is_in_the_tree_that_the_module_draws(kind):
    assert issubclass(kind, ReelbookError)
    assert re.search(rf"\b{kind.__name__}\b", errors.__doc__)
    assert kind.__doc__


def test_an_error_reads_as_its_sentence_and_what_to_do_next():
    assert str(DataError("The file is empty.", hint="Give another.")) == "The file is empty. Give another."
    assert str(DataError("The file is empty.")) == "The file is empty."


def test_errors_carry_where_it_happened():
    assert StorageError("It is gone.", uri="s3://bucket/key").uri == "s3://bucket/key"
    failed = JobFailed("It failed.", job="job-1", reason="why", log_lines=["last"])
    assert (failed.job, failed.reason, failed.log_lines) == ("job-1", "why", ["last"])


def test_a_notebook_shows_the_sentence_in_place_of_a_traceback():
    error = DataError("The file is empty.", hint="Give another.")
    assert error._render_traceback_() == ["DataError: The file is empty. Give another."]


def test_a_notebook_names_the_line_of_the_cell(monkeypatch):
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: SimpleNamespace(execution_count=7))
    code = compile("first = 1\nfail()", "/tmp/ipykernel_1/2.py", "exec")

    def fail():
        raise DataError("The file is empty.")

    with pytest.raises(DataError) as raised:
        exec(code, {"fail": fail})
    where, sentence = raised.value._render_traceback_()
    assert where == "Cell In[7], line 2"
    assert sentence == "DataError: The file is empty."


@pytest.mark.parametrize(
    ("name", "guess"), [("epoch", "did you mean `epochs`?"), ("something else entirely", "")]
)
def test_a_guess_is_made_only_of_what_is_near(name, guess):
    assert did_you_mean(name, ["epochs", "num_factors"]) == guess
