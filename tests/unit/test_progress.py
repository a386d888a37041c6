from __future__ import annotations

import re

import pytest

from lib import progress


@pytest.fixture
def unwatched(monkeypatch):
    monkeypatch.setenv(progress.HEADLESS, "1")


def lines(capsys) -> list[str]:
    captured = capsys.readouterr()
    assert captured.err == ""
    return [re.sub(r"in \d+\.\d s", "in T", line) for line in captured.out.splitlines()]


def test_short_work_is_told_in_one_line_at_its_end(capsys, unwatched):
    with progress.bar(total=16, unit="epoch") as bar:
        bar.set_description("Training", refresh=False)
        for number in range(17):
            bar.n = number
            bar.set_postfix({"rmse": f"{1 / (number + 1):.3f}"}, refresh=False)
            bar.refresh()
    assert lines(capsys) == ["Training: 16 of 16 epochs in T, rmse 0.059"]


def test_long_work_says_from_time_to_time_how_far_it_is(capsys, unwatched, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert list(progress.bar(["a", "b"], total=2, unit="part", desc="upload")) == ["a", "b"]
    assert lines(capsys) == [
        "upload: 1 of 2 parts in T",
        "upload: 2 of 2 parts in T",
        "upload: 2 of 2 parts in T",
    ]


@pytest.mark.parametrize(
    ("amount", "text"),
    [(12, "x: 12 bytes in T"), (5_400_000, "x: 5.4 MB in T"), (99_999, "x: 99,999 bytes in T")],
)
def test_bytes_are_told_in_words(capsys, unwatched, amount, text):
    with progress.bar(total=amount, desc="x", unit="B", unit_scale=True) as bar:
        bar.update(amount)
    assert lines(capsys) == [text]


def test_one_thing_has_no_plural(capsys, unwatched):
    with progress.bar(total=1, unit="object") as bar:
        bar.update()
    assert lines(capsys) == ["1 of 1 object in T"]


def test_work_that_is_not_shown_says_nothing(capsys, unwatched):
    with progress.bar(total=1, disable=True) as bar:
        bar.update()
    assert list(progress.bar([1], disable=True)) == [1]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_who_watches_has_a_bar(monkeypatch):
    monkeypatch.delenv(progress.HEADLESS, raising=False)
    with progress.bar(total=1, disable=True) as bar:
        assert not isinstance(bar, progress.Lines)
