"""The folder that holds the local AWS's state: who owns it, its credentials, its address, its locks.

::

    ROOT/                   0700
    ├── reelbook-local-aws  the marker: only a folder that has it is ever emptied
    ├── credentials.json    0600, random, made at the first start
    ├── server.json         address and process of the server that runs, or ran last
    ├── server.log
    ├── start.lock          held while a server is being started or the folder emptied
    ├── server.lock         held by the server as long as it lives
    └── s3/, jobs/, logs/, sagemaker.sqlite
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from lib.errors import ConnectionFailed, ReelbookError
from lib.local.signing import Credentials

ROOT_VARIABLE = "REELBOOK_LOCAL_ROOT"
MARKER = "reelbook-local-aws"

_REPOSITORY = Path(__file__).resolve().parents[2]
_MARKER_TEXT = "The state of a local AWS. `python -m lib.local reset` deletes what is in this folder.\n"


@dataclass(frozen=True)
class Address:
    """Where a server listens and which process it is.

    Attributes
    ----------
    started : str
        When the process started (`lib.local.supervise.start_time`), which tells it from a later process
        of the same id.
    """

    port: int
    pid: int
    started: str


class Home:
    """The state folder; nothing is made until `prepare`.

    Parameters
    ----------
    root : Path or str, optional
        The folder; by default ``$REELBOOK_LOCAL_ROOT``, or ``.local_aws`` in the repository.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        chosen = root or os.environ.get(ROOT_VARIABLE) or _REPOSITORY / ".local_aws"
        self.root = Path(chosen).expanduser().resolve()

    @property
    def log_file(self) -> Path:
        """Where the server writes what goes wrong."""
        return self.root / "server.log"

    @property
    def exists(self) -> bool:
        """Whether the folder is that of a local AWS."""
        return (self.root / MARKER).is_file()

    def prepare(self) -> None:
        """Make the folder, or make sure that it is ours.

        Raises
        ------
        ReelbookError
            When the folder holds something else, or cannot be made or written.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
            if not self.exists:
                strange = sorted({path.name for path in self.root.iterdir()} - {"start.lock"})
                if strange and not self.exists:  # another start may have made it ours meanwhile
                    raise ReelbookError(
                        f"The folder {self.root} holds {strange[0]}, so it is not the local AWS's own.",
                        hint=f"Name an empty folder, or one that is not there yet, in {ROOT_VARIABLE}.",
                    )
                (self.root / MARKER).write_text(_MARKER_TEXT)
        except OSError as error:
            raise ReelbookError(
                f"The local AWS cannot use the folder {self.root}: {error.strerror}.",
                hint=f"Name another folder in {ROOT_VARIABLE}.",
            ) from None

    def credentials(self) -> Credentials:
        """Return the credentials, made at the first call.

        Raises
        ------
        ReelbookError
            When their file is damaged.
        """
        path = self.root / "credentials.json"
        if not path.exists():
            letters = string.ascii_uppercase + "234567"
            access_key = "AKIA" + "".join(secrets.choice(letters) for _ in range(16))
            made = {"access_key": access_key, "secret_key": secrets.token_urlsafe(30)}
            _write_private(path, json.dumps(made))
        try:
            kept = json.loads(path.read_text())
            return Credentials(str(kept["access_key"]), str(kept["secret_key"]))
        except (ValueError, KeyError, TypeError):
            raise ReelbookError(
                f"The local AWS's credentials in {path} cannot be read.",
                hint="Stop it, delete that file and start it again: new credentials will be made.",
            ) from None

    def address(self) -> Address | None:
        """Return where the server that runs, or ran last, listens; None where none is known."""
        try:
            kept = json.loads((self.root / "server.json").read_text())
            return Address(int(kept["port"]), int(kept["pid"]), str(kept["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_address(self, address: Address) -> None:
        """Note where the server listens."""
        _write_private(self.root / "server.json", json.dumps(asdict(address)))

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Keep others from starting a server or emptying the folder at the same time; waits its turn."""
        with (self.root / "start.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def claim(self) -> IO[str]:
        """Claim the folder for this process, as long as the returned file is open.

        Raises
        ------
        ConnectionFailed
            When another server has it.
        """
        lock = (self.root / "server.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ConnectionFailed(
                f"Another local AWS already serves the folder {self.root}.",
                hint="`python run_all.py local status` shows it.",
            ) from None
        return lock

    def clear(self) -> None:
        """Delete all that is in the folder, except the lock that keeps others out meanwhile.

        Raises
        ------
        ReelbookError
            When the folder is not that of a local AWS.
        """
        if not self.exists:
            raise ReelbookError(
                f"The folder {self.root} is not that of a local AWS (it has no {MARKER}): nothing was deleted."
            )
        for path in sorted(self.root.iterdir(), key=lambda path: path.name == MARKER):  # the marker last
            if path.name == "start.lock":
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, all of it or nothing."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
