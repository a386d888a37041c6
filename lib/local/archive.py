"""model.tar.gz: packed the same way every time, and unpacked without trusting it.

Python's own safe extraction filter (PEP 706) is missing from some Python 3.11 builds, so members are
checked here: files and folders only, inside the target, and not more than a model can need.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from lib.errors import ModelError

MAX_FILES = 10_000
MAX_BYTES = 16 * 1024**3

_COMPRESSION_LEVEL = 1  # model parameters hardly shrink; a higher level costs minutes on a large model
_MAX_NAME = 255
_CHUNK_BYTES = 1024 * 1024


def pack(folder: Path, archive: Path) -> None:
    """Write a folder's files to a ``.tar.gz``; equal contents make equal bytes.

    Parameters
    ----------
    folder : Path
        Its files become members by their path relative to it, sorted; times, owners and modes are fixed.
    archive : Path
        The file to write.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, fileobj=raw, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in files:
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size = path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(member, content)


def unpack(archive: Path, folder: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
    """Extract a ``.tar.gz`` into an existing folder.

    Raises
    ------
    ModelError
        When the file is no gzip-compressed tar archive, is damaged, holds more than it may, or has a
        member that is neither a file nor a folder or would lie outside the folder.
    """
    count = size = 0
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                count += 1
                size += member.size
                if count > max_files or size > max_bytes:
                    raise ModelError(
                        f"The model archive holds more than {max_files} files or {max_bytes} bytes."
                    )
                _extract(tar, member, folder)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeError, ValueError) as error:
        raise ModelError(f"The model archive is not a readable .tar.gz file: {error}.") from None
    if count == 0:
        raise ModelError("The model archive is empty.")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    name = PurePosixPath(member.name)
    outside = name.is_absolute() or ".." in name.parts or "\0" in member.name or "\\" in member.name
    if outside or any(len(part.encode()) > _MAX_NAME for part in name.parts):
        raise ModelError(f"The model archive's member {member.name[:100]!r} has an unsafe name.")
    target = folder.joinpath(*name.parts)
    try:
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            return
        content = tar.extractfile(member) if member.isreg() else None
        if content is None:
            raise ModelError(f"The model archive's member {member.name[:100]!r} is no plain file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, target.open("xb") as file:
            shutil.copyfileobj(content, file, _CHUNK_BYTES)
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        raise ModelError(f"The model archive has the member {member.name[:100]!r} twice.") from None
