"""What the local SageMaker remembers: names, states, documents and tags, in one SQLite file.

A resource is one row: its kind, name, status, times, and a JSON document with the members that its
Describe operation answers (times as seconds since 1970).  Every change is one transaction on disk, so a
killed process leaves the state as it was before or after the change, never between.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import ReelbookError
from lib.local.protocol import AwsError

ACCOUNT_ID = "123456789012"
REGION = "us-east-1"
FINISHED = ("Completed", "Failed", "Stopped")
MAX_TAGS = 50

_RETRY_SECONDS = 2.0
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE resources (
    kind TEXT NOT NULL, name TEXT NOT NULL, arn TEXT NOT NULL UNIQUE, parent TEXT, status TEXT,
    created REAL NOT NULL, modified REAL NOT NULL, score REAL, document TEXT NOT NULL,
    PRIMARY KEY (kind, name)
);
CREATE INDEX resources_by_parent ON resources (parent);
CREATE TABLE tags (
    arn TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (arn, key)
);
"""


@dataclass(frozen=True)
class Kind:
    """A kind of resource, and what AWS says where its name is taken or unknown.

    Attributes
    ----------
    name : str
        The prefix of its members: ``TrainingJob`` of ``TrainingJobName``, ``…Arn`` and ``…Status``.
    arn_word : str
        Its word in an ARN.
    taken, missing : tuple of str
        Error code and text; ``{name}`` and ``{arn}`` are filled in.
    """

    name: str
    arn_word: str
    taken: tuple[str, str]
    missing: tuple[str, str]

    def arn(self, name: str) -> str:
        """Return the ARN of the resource of that name."""
        return f"arn:aws:sagemaker:{REGION}:{ACCOUNT_ID}:{self.arn_word}/{name}"

    def error(self, code_and_text: tuple[str, str], name: str) -> AwsError:
        """Return the error that ``taken`` or ``missing`` makes for that name."""
        code, text = code_and_text
        return AwsError(code, text.format(name=name, arn=self.arn(name)))


TRAINING_JOB = Kind(
    "TrainingJob",
    "training-job",
    (
        "ResourceInUse",
        "Training job names must be unique within an AWS account and region, "
        "and a training job with this name already exists ({arn})",
    ),
    ("ValidationException", "Requested resource not found."),
)
TUNING_JOB = Kind(
    "HyperParameterTuningJob",
    "hyper-parameter-tuning-job",
    (
        "ResourceInUse",
        "Hyperparameter tuning job names must be unique within an AWS account and region, "
        "and a tuning job with this name already exists ({arn})",
    ),
    ("ResourceNotFound", "Amazon SageMaker can't find a tuning job with the name {name}."),
)
TRANSFORM_JOB = Kind(
    "TransformJob",
    "transform-job",
    (
        "ResourceInUse",
        "Job name must be unique within an AWS account and region, "
        "and a job with this name already exists ({arn})",
    ),
    ("ValidationException", "Could not find requested job with name: {name}"),
)
PROCESSING_JOB = Kind(
    "ProcessingJob",
    "processing-job",
    (
        "ResourceInUse",
        "Job name must be unique within an AWS account and region, "
        "and a job with this name already exists ({arn})",
    ),
    ("ValidationException", "Could not find requested job with name: {name}"),
)
MODEL = Kind(
    "Model",
    "model",
    ("ValidationException", 'Cannot create already existing model "{arn}".'),
    ("ValidationException", 'Could not find model "{arn}".'),
)
ENDPOINT_CONFIG = Kind(
    "EndpointConfig",
    "endpoint-config",
    ("ValidationException", 'Cannot create already existing endpoint configuration "{arn}".'),
    ("ValidationException", 'Could not find endpoint configuration "{arn}".'),
)
ENDPOINT = Kind(
    "Endpoint",
    "endpoint",
    ("ValidationException", 'Cannot create already existing endpoint "{arn}".'),
    ("ValidationException", 'Could not find endpoint "{arn}".'),
)


KINDS = (TRAINING_JOB, TUNING_JOB, TRANSFORM_JOB, PROCESSING_JOB, MODEL, ENDPOINT_CONFIG, ENDPOINT)


@dataclass(frozen=True)
class Page:
    """What a List operation asks for; see `Store.select`."""

    name_contains: str = ""
    status: str | None = None
    created_after: float | None = None
    created_before: float | None = None
    modified_after: float | None = None
    modified_before: float | None = None
    sort_by: str = "CreationTime"
    descending: bool = False
    limit: int | None = None
    token: str | None = None


_SORT_COLUMNS = {
    "Name": "name",
    "CreationTime": "created",
    "Status": "status",
    "FinalObjectiveMetricValue": "score",
}


class Store:
    """The resources of the local SageMaker; safe to use from any thread.

    Parameters
    ----------
    path : Path
        The SQLite file, made where it is missing.

    Raises
    ------
    ReelbookError
        When the file is no state file of this version.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                script = f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
                self._database.executescript(script)
            (found,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(f"it is damaged ({found.splitlines()[-1]})")
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ReelbookError(
                f"The local AWS cannot read its state file {path}: {error}.",
                hint="`python run_all.py local reset` starts it afresh, without its jobs and objects.",
            ) from None
        if version not in (0, _SCHEMA_VERSION):
            self._database.close()
            raise ReelbookError(
                f"The local AWS's state file {path} is of version {version}, not {_SCHEMA_VERSION}.",
                hint="`python run_all.py local reset` starts it afresh, without its jobs and objects.",
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    # ---- resources

    def create(
        self,
        kind: Kind,
        name: str,
        document: dict[str, Any],
        *,
        parent: str | None = None,
        tags: list[dict[str, str]] | None = None,
    ) -> dict[str, Any]:
        """Add a resource; its name, ARN and times are put into the document, which is returned.

        Parameters
        ----------
        parent : str, optional
            The ARN of the resource that made this one.
        tags : list of dict
            ``Key`` and ``Value`` each.

        Raises
        ------
        AwsError
            When the name is taken, or the tags are not acceptable.
        """
        check_tags(tags or [])
        arn, now = kind.arn(name), time.time()
        document = {
            **document,
            f"{kind.name}Name": name,
            f"{kind.name}Arn": arn,
            "CreationTime": now,
            "LastModifiedTime": now,
        }
        status = document.get(f"{kind.name}Status")
        row = (kind.name, name, arn, parent, status, now, now, None, json.dumps(document))
        with self._transaction() as database:
            try:
                database.execute("INSERT INTO resources VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise kind.error(kind.taken, name) from None
            pairs = [(arn, tag["Key"], tag["Value"]) for tag in tags or []]
            database.executemany("INSERT INTO tags VALUES (?, ?, ?)", pairs)
        return document

    def get(self, kind: Kind, name: str) -> dict[str, Any]:
        """Return a resource's document.

        Raises
        ------
        AwsError
            When there is none of that name.
        """
        with self._lock:
            query = "SELECT document FROM resources WHERE kind = ? AND name = ?"
            row = self._database.execute(query, (kind.name, name)).fetchone()
        if row is None:
            raise kind.error(kind.missing, name)
        document: dict[str, Any] = json.loads(row[0])
        return document

    def update(
        self, kind: Kind, name: str, change: Callable[[dict[str, Any]], None], *, score: float | None = None
    ) -> dict[str, Any]:
        """Change a resource's document in one transaction and return it.

        Parameters
        ----------
        change : callable
            Changes the document it is given; what it raises leaves the resource as it was.
        score : float, optional
            The value that ``FinalObjectiveMetricValue`` sorts by; kept where it is None.
        """
        with self._transaction() as database:
            document = self.get(kind, name)
            change(document)
            document["LastModifiedTime"] = time.time()
            database.execute(
                "UPDATE resources SET document = ?, status = ?, modified = ?, score = coalesce(?, score) "
                "WHERE kind = ? AND name = ?",
                (
                    json.dumps(document),
                    document.get(f"{kind.name}Status"),
                    document["LastModifiedTime"],
                    score,
                    kind.name,
                    name,
                ),
            )
        return document

    def settle(self, kind: Kind, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Make a job's last change as `update` does, and keep trying while the disk refuses it.

        So a job that ends on a full disk is not left in progress for ever.
        """
        while True:
            try:
                self.update(kind, name, change)
                return
            except sqlite3.OperationalError:
                time.sleep(_RETRY_SECONDS)

    def delete(
        self, kind: Kind, name: str, check: Callable[[dict[str, Any]], None] = lambda document: None
    ) -> None:
        """Remove a resource and its tags; what it made stays, as made by none.

        Parameters
        ----------
        check : callable
            Is given the document; what it raises leaves the resource as it was.

        Raises
        ------
        AwsError
            When there is none of that name.
        """
        with self._transaction() as database:
            check(self.get(kind, name))
            database.execute("DELETE FROM resources WHERE kind = ? AND name = ?", (kind.name, name))
            database.execute("DELETE FROM tags WHERE arn = ?", (kind.arn(name),))
            database.execute("UPDATE resources SET parent = NULL WHERE parent = ?", (kind.arn(name),))

    def unfinished(self, kind: Kind) -> list[str]:
        """Return the names of the jobs that are in progress or stopping, oldest first."""
        query = (
            "SELECT name FROM resources WHERE kind = ? AND status IN ('InProgress', 'Stopping') "
            "ORDER BY created"
        )
        with self._lock:
            return [name for (name,) in self._database.execute(query, (kind.name,))]

    def children(self, parent: str) -> list[dict[str, Any]]:
        """Return the documents of what the resource of that ARN made, oldest first."""
        query = "SELECT document FROM resources WHERE parent = ? ORDER BY created, name"
        with self._lock:
            return [json.loads(document) for (document,) in self._database.execute(query, (parent,))]

    def select(
        self, kind: Kind, page: Page, *, parent: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return one page of documents and the token of the next page.

        Where it sorts by ``FinalObjectiveMetricValue``, resources without a score are left out.

        Raises
        ------
        AwsError
            For a token that no answer gave out.
        """
        column = _SORT_COLUMNS[page.sort_by]
        conditions: list[tuple[str, tuple[Any, ...]]] = [("kind = ?", (kind.name,))]
        if parent is not None:
            conditions.append(("parent = ?", (parent,)))
        if page.name_contains:
            conditions.append(("instr(name, ?) > 0", (page.name_contains,)))
        if page.status is not None:
            conditions.append(("status = ?", (page.status,)))
        for field, test in (
            ("created_after", "created >= ?"),
            ("created_before", "created <= ?"),
            ("modified_after", "modified >= ?"),
            ("modified_before", "modified <= ?"),
        ):
            moment = getattr(page, field)
            if moment is not None:
                conditions.append((test, (moment,)))
        if column == "score":
            conditions.append(("score IS NOT NULL", ()))
        if page.token is not None:
            comparison = "<" if page.descending else ">"
            conditions.append((f"({column}, name) {comparison} (?, ?)", _decode_token(page.token, column)))
        where = " AND ".join(text for text, _ in conditions)
        values = [value for _, bound in conditions for value in bound]
        order = "DESC" if page.descending else "ASC"
        limit = -1 if page.limit is None else page.limit
        query = (
            f"SELECT {column}, name, document FROM resources WHERE {where} "
            f"ORDER BY {column} {order}, name {order} LIMIT ?"
        )
        with self._lock:
            rows = self._database.execute(query, (*values, limit if limit < 0 else limit + 1)).fetchall()
        more = 0 <= limit < len(rows)
        rows = rows[:limit] if more else rows
        token = _encode_token(rows[-1][0], rows[-1][1]) if more else None
        return [json.loads(document) for _, _, document in rows], token

    # ---- tags

    def tags(self, arn: str) -> list[dict[str, str]]:
        """Return a resource's tags by key.

        Raises
        ------
        AwsError
            When there is no resource of that ARN.
        """
        with self._lock:
            self._check_arn(arn)
            query = "SELECT key, value FROM tags WHERE arn = ? ORDER BY key"
            return [{"Key": key, "Value": value} for key, value in self._database.execute(query, (arn,))]

    def add_tags(self, arn: str, tags: list[dict[str, str]]) -> list[dict[str, str]]:
        """Add or overwrite tags and return all the resource has.

        Raises
        ------
        AwsError
            When there is no resource of that ARN, or it would have more than 50 tags.
        """
        check_tags(tags)
        with self._transaction() as database:
            self._check_arn(arn)
            pairs = [(arn, tag["Key"], tag["Value"]) for tag in tags]
            database.executemany("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", pairs)
            present = self.tags(arn)
            if len(present) > MAX_TAGS:
                raise AwsError("ResourceLimitExceeded", f"A resource has at most {MAX_TAGS} tags.")
        return present

    def delete_tags(self, arn: str, keys: list[str]) -> None:
        """Remove tags; keys that the resource does not have are passed over.

        Raises
        ------
        AwsError
            When there is no resource of that ARN.
        """
        with self._transaction() as database:
            self._check_arn(arn)
            pairs = [(arn, key) for key in keys]
            database.executemany("DELETE FROM tags WHERE arn = ? AND key = ?", pairs)

    def _check_arn(self, arn: str) -> None:
        if not self._database.execute("SELECT 1 FROM resources WHERE arn = ?", (arn,)).fetchone():
            raise AwsError("ResourceNotFound", f'Could not find a resource with the ARN "{arn}".')


def check_tags(tags: list[dict[str, str]]) -> None:
    """Refuse tags that AWS refuses: a key twice, or one that starts with ``aws:``.

    Raises
    ------
    AwsError
        ValidationException.
    """
    keys = [tag["Key"] for tag in tags]
    for key in keys:
        if keys.count(key) > 1:
            raise AwsError("ValidationException", f"The tag key {key} is given more than once.")
        if key.lower().startswith("aws:"):
            raise AwsError("ValidationException", f"The tag key {key} is reserved: it starts with aws:.")


def _encode_token(value: Any, name: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([value, name]).encode()).decode()


def _decode_token(token: str, column: str) -> tuple[Any, str]:
    """Return the value and the name that a page ended with; the value is a text or a number as its column is."""
    wanted = str if column in ("name", "status") else (int, float)
    try:
        value, name = json.loads(base64.urlsafe_b64decode(token.encode()))
        f"{value}{name}".encode()  # half a surrogate pair cannot be looked for
        if isinstance(value, wanted) and not isinstance(value, bool) and isinstance(name, str):
            return value if isinstance(value, str) else float(value), name
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    raise AwsError("ValidationException", "The NextToken is invalid.")
