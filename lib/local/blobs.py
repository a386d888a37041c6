"""Files that hold the bytes of S3 objects, one folder of them, within a quota.

A blob is written once and never changed, so it can be copied and handed to jobs by hard link.  Its name is
a random UUID: no key a client chooses ever becomes a path.  A blob that no row of the index names is
garbage, left by a kill, and swept at the next start.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import uuid
from collections.abc import Container
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from lib.local.checksums import FULL_OBJECT, Hasher, base64_of, new_checksum
from lib.local.protocol import AwsError

COPY_BYTES = 1024 * 1024
"""How much is read at once when files are copied or sent."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def no_space() -> AwsError:
    """Return the error of a full disk.  507 is no status that clients try again."""
    return AwsError("InsufficientStorage", "The disk or the quota of the local AWS is full.", 507)


class Blobs:
    """The folder of blobs; safe to use from any thread.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    quota : int or None
        The most bytes all blobs together may have.
    """

    def __init__(self, folder: Path, quota: int | None = None) -> None:
        self._folder = folder
        self._quota = quota
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._used = sum(path.stat().st_size for path in folder.iterdir())

    def path(self, name: str) -> Path:
        """Return where a blob is; read it, never write it."""
        return self._folder / name

    def create(self, *, with_etag: bool = True) -> BlobWriter:
        """Open a new blob for writing.

        Parameters
        ----------
        with_etag : bool
            Whether to compute its MD5, which takes as long as all the rest.

        Raises
        ------
        AwsError
            InsufficientStorage when the disk is full.
        """
        return BlobWriter(self, self.path(uuid.uuid4().hex), with_etag=with_etag)

    def copy(self, name: str) -> str:
        """Make a second blob of the same bytes, by hard link where the file system has them."""
        copy = uuid.uuid4().hex
        try:
            os.link(self.path(name), self.path(copy))
            self.reserve(self.path(copy).stat().st_size)
        except OSError:
            with self.create(with_etag=False) as writer:
                writer.write_file(self.path(name))
                return writer.keep()
        except AwsError:
            self.path(copy).unlink()
            raise
        return copy

    def checksum(self, name: str, algorithm: str) -> dict[str, str]:
        """Return a checksum of a blob's bytes, as objects have it."""
        hasher = new_checksum(algorithm)
        with self.path(name).open("rb") as file:
            while data := file.read(COPY_BYTES):
                hasher.update(data)
        return {"algorithm": algorithm, "value": base64_of(hasher), "type": FULL_OBJECT}

    def remove(self, name: str) -> None:
        """Delete a blob; nothing happens where there is none."""
        path = self.path(name)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return
        self.release(size)

    def sweep(self, keep: Container[str]) -> None:
        """Delete all blobs but those named in ``keep``."""
        for path in list(self._folder.iterdir()):
            if path.name not in keep:
                self.remove(path.name)

    def sync(self) -> None:
        """Make sure that the blobs' names are safe on disk, too."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def reserve(self, size: int) -> None:
        """Count ``size`` bytes as used.

        Raises
        ------
        AwsError
            InsufficientStorage when they do not fit the quota.
        """
        with self._lock:
            if self._quota is not None and self._used + size > self._quota:
                raise no_space()
            self._used += size

    def release(self, size: int) -> None:
        """Count ``size`` bytes as free again."""
        with self._lock:
            self._used -= size


_HASHERS = ThreadPoolExecutor(4, thread_name_prefix="md5")


class BlobWriter:
    """A blob being written; in a ``with`` statement it is deleted unless `keep` is called.

    Attributes
    ----------
    size : int
        Bytes written so far.
    """

    def __init__(self, blobs: Blobs, path: Path, *, with_etag: bool = True) -> None:
        self._blobs = blobs
        self._path = path
        self._md5 = hashlib.md5(usedforsecurity=False) if with_etag else None
        self._hashing: Future[None] | None = None
        self._kept = False
        self.size = 0
        try:
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise _storage_error(error) from error

    @property
    def etag(self) -> str:
        """The MD5 of what was written, in hexadecimal: S3's ETag, without its quotes."""
        if not self._md5:
            return ""
        self._join()
        return self._md5.hexdigest()

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises
        ------
        AwsError
            InsufficientStorage when the disk or the quota is full.
        """
        self._blobs.reserve(len(data))
        self.size += len(data)
        if self._md5:  # the slowest part by far: beside writing, and what else is done with the next piece
            self._join()
            self._hashing = _HASHERS.submit(self._md5.update, data)
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _storage_error(error) from error

    def _join(self) -> None:
        if self._hashing:
            self._hashing.result()
            self._hashing = None

    def write_file(
        self, path: Path, start: int = 0, length: int | None = None, hasher: Hasher | None = None
    ) -> None:
        """Append a file, or ``length`` bytes of it from ``start`` on; ``hasher`` is fed what is written."""
        left = path.stat().st_size - start if length is None else length
        with path.open("rb") as file:
            file.seek(start)
            while left and (data := file.read(min(left, COPY_BYTES))):
                self.write(data)
                left -= len(data)
                if hasher:
                    hasher.update(data)

    def keep(self) -> str:
        """Finish the blob, safe on disk, and return its name."""
        try:
            os.fsync(self._file.fileno())
            os.fchmod(self._file.fileno(), 0o400)
            self._file.close()
            self._blobs.sync()
        except OSError as error:
            raise _storage_error(error) from error
        self._kept = True
        return self._path.name

    def discard(self) -> None:
        """Delete what was written, unless it was kept."""
        if not self._kept and self._path.exists():
            self._file.close()
            self._path.unlink()
            self._blobs.release(self.size)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def _storage_error(error: OSError) -> Exception:
    return no_space() if error.errno in _NO_SPACE else error
