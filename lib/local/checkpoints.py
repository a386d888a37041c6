"""The S3 side of checkpoints: brought to a job that begins, taken to S3 as the job writes them.

(AWS: "Checkpoints in Amazon SageMaker AI", CheckpointConfig of CreateTrainingJob.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from lib.local import inputs
from lib.local.objects import Objects
from lib.local.protocol import AwsError

LOCAL_PATH = "/opt/ml/checkpoints"

_PERIOD_SECONDS = 1.0


def restore(objects: Objects, uri: str, folder: Path) -> None:
    """Copy what lies under an S3 URI to the folder of checkpoints, which is made.

    Raises
    ------
    JobError
        For an object that cannot be a file.
    """
    folder.mkdir()
    bucket, prefix = inputs.split_uri(uri, "CheckpointConfig.S3Uri")
    found = [
        inputs.Found(item, inputs.relative_key(prefix, item.key))
        for item in objects.list(bucket, prefix)
        if not item.key.endswith("/")
    ]
    inputs.place(found, folder)


class Sync:
    """Takes the files of a folder to S3 whenever they have changed, from a thread of its own.

    A file is taken as it is under its name: whoever writes it puts a finished one in its place.  Names that begin with
    a dot are passed over.

    Parameters
    ----------
    objects : Objects
    folder : Path
    uri : str
        The S3 URI that stands for the folder.
    say : callable
        Told in a sentence what went wrong; the job goes on.
    """

    def __init__(self, objects: Objects, folder: Path, uri: str, say: Callable[[str], None]) -> None:
        self._objects = objects
        self._folder = folder
        self._bucket, prefix = inputs.split_uri(uri, "CheckpointConfig.S3Uri")
        self._prefix = prefix.rstrip("/") + "/" if prefix else ""
        self._say = say
        self._taken = self._states()  # what was brought from there
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"checkpoints of {folder}", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Take what is there now, and end."""
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        over = False
        while not over:
            over = self._over.wait(_PERIOD_SECONDS)
            states = self._states()
            for path, state in states.items():
                if self._taken.get(path) != state:
                    self._take(path)
            self._taken = states

    def _take(self, path: Path) -> None:
        key = self._prefix + path.relative_to(self._folder).as_posix()
        try:
            self._objects.put_file(self._bucket, key, path)
        except FileNotFoundError:  # replaced or deleted since; the next look finds what is there then
            return
        except (AwsError, OSError) as error:
            self._say(f"The checkpoint could not be stored at s3://{self._bucket}/{key}: {error}")

    def _states(self) -> dict[Path, tuple[int, int, int]]:
        found = {}
        for path in self._folder.rglob("*"):
            if path.name.startswith("."):
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
        return found
