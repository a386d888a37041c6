"""Files that are there whole or not at all."""

from __future__ import annotations

import pytest

from lib.errors import DataError
from lib.files import atomically


def test_a_file_appears_when_all_went_well(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomically(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_after_an_error_the_old_file_stays_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomically(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"), atomically(tmp_path / "taken" / "file.txt"):
        pass
