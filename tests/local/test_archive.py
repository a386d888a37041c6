"""model.tar.gz: the same bytes for the same model, and nothing unsafe unpacked."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from lib.errors import ModelError
from lib.local.archive import pack, unpack


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "extra").mkdir(parents=True)
    (folder / "model_algo-1").write_bytes(os.urandom(10_000))
    (folder / "extra" / "note.txt").write_text("ä")
    return folder


def make(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_what_was_packed_is_unpacked(model: Path, tmp_path: Path) -> None:
    pack(model, tmp_path / "model.tar.gz")
    target = tmp_path / "target"
    target.mkdir()
    unpack(tmp_path / "model.tar.gz", target)
    for name in ("model_algo-1", "extra/note.txt"):
        assert (target / name).read_bytes() == (model / name).read_bytes()


def test_equal_models_are_packed_to_equal_bytes(model: Path, tmp_path: Path) -> None:
    pack(model, tmp_path / "a.tar.gz")
    for path in model.rglob("*"):
        os.utime(path, (1, 1))
    (model / "model_algo-1").chmod(0o600)
    pack(model, tmp_path / "b.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


def test_an_empty_model_is_an_empty_archive(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    pack(tmp_path / "model", tmp_path / "model.tar.gz")
    with tarfile.open(tmp_path / "model.tar.gz") as tar:
        assert tar.getnames() == []
    with pytest.raises(ModelError, match="is empty"):
        unpack(tmp_path / "model.tar.gz", tmp_path)


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/escaped", "a\\..\\b", "x" * 256])
def test_a_member_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    archive = make(tmp_path / "evil.tar.gz", (tarfile.TarInfo(name), b"x"))
    with pytest.raises(ModelError, match="unsafe name"):
        unpack(archive, target)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = kind, "/etc/passwd"
    archive = make(tmp_path / "evil.tar.gz", (link, b""), (tarfile.TarInfo("link/x"), b"x"))
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(ModelError, match="no plain file"):
        unpack(archive, target)
    assert list(target.iterdir()) == []


def test_a_member_that_comes_twice_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    twice = make(tmp_path / "a.tar.gz", (tarfile.TarInfo("a"), b"1"), (tarfile.TarInfo("a"), b"2"))
    with pytest.raises(ModelError, match="twice"):
        unpack(twice, target)
    assert (target / "a").read_bytes() == b"1"
    both = make(tmp_path / "b.tar.gz", (tarfile.TarInfo("b"), b"1"), (tarfile.TarInfo("b/c"), b"2"))
    with pytest.raises(ModelError, match="twice"):
        unpack(both, target)


def test_an_archive_that_holds_too_much_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    bomb = make(tmp_path / "bomb.tar.gz", (tarfile.TarInfo("zeros"), bytes(1_000_000)))
    assert bomb.stat().st_size < 10_000
    with pytest.raises(ModelError, match="more than 10000 files or 999999 bytes"):
        unpack(bomb, target, max_bytes=999_999)
    assert list(target.iterdir()) == []
    many = make(tmp_path / "many.tar.gz", *((tarfile.TarInfo(str(n)), b"") for n in range(6)))
    with pytest.raises(ModelError, match="more than 5 files"):
        unpack(many, target, max_files=5)


@pytest.mark.parametrize("damage", ["empty", "text", "gzip of text", "truncated"])
def test_a_file_that_is_no_archive_is_refused(model: Path, tmp_path: Path, damage: str) -> None:
    archive = tmp_path / "model.tar.gz"
    pack(model, archive)
    content = {
        "empty": b"",
        "text": b"this is not an archive",
        "gzip of text": gzip.compress(b"this is not an archive" * 100),
        "truncated": archive.read_bytes()[:5000],
    }
    archive.write_bytes(content[damage])
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(ModelError, match="archive"):
        unpack(archive, target)
