"""Starts, finds, stops and resets the local AWS: one background process that outlives the program."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lib.errors import ConnectionFailed, ReelbookError
from lib.local.home import ROOT_VARIABLE, Address, Home
from lib.local.serve import HOST
from lib.local.signing import Credentials, SignedRequest, sign
from lib.local.supervise import start_time

START_SECONDS = 60.0
STOP_SECONDS = 20.0

_REPOSITORY = Path(__file__).resolve().parents[2]
_PING_SECONDS = 5.0
_MAX_LOG_BYTES = 10 * 1024**2


@dataclass(frozen=True)
class Server:
    """A local AWS that is up.

    Attributes
    ----------
    root : Path
        The folder of its state.
    endpoint : str
        Its URL, ``http://127.0.0.1:PORT``.
    pid : int
        Its process.
    port : int
    credentials : Credentials
        Those it accepts.
    """

    root: Path
    endpoint: str
    pid: int
    port: int
    credentials: Credentials


def start(root: Path | str | None = None, port: int = 0) -> Server:
    """Make sure that the local AWS is up.

    Parameters
    ----------
    root : Path or str, optional
        The folder of its state; by default ``$REELBOOK_LOCAL_ROOT``, or ``.local_aws`` in the repository.
    port : int
        The port it must listen on; 0 for the port of the last time where it is free, else any free one.

    Returns
    -------
    Server
        The one that was up already, or a new one that answers.

    Raises
    ------
    ConnectionFailed
        When it does not come up, or the port is taken; the sentence says why.
    ReelbookError
        When the folder cannot be used.
    """
    home = Home(root)
    found = status(home.root)
    if found is None:
        home.prepare()
        with home.starting():  # of two programs that start it at once, the second finds the first's
            found = status(home.root) or _launch(home, port)
    if port and found.port != port:
        raise ConnectionFailed(
            f"The local AWS is already up on port {found.port}, not {port}.",
            hint="`python run_all.py local stop` stops it.",
        )
    return found


def status(root: Path | str | None = None) -> Server | None:
    """Return the local AWS that is up, or None.

    Raises
    ------
    ConnectionFailed
        When its process runs but does not answer.
    """
    home = Home(root)
    address = home.address()
    if address is None or not _runs(address):
        return None
    server = _server(home, address)
    deadline = time.monotonic() + _PING_SECONDS
    while not answers(server):
        if not _runs(address):
            return None
        if time.monotonic() > deadline:
            raise ConnectionFailed(
                f"The local AWS (process {address.pid}) does not answer at {server.endpoint}.",
                hint="`python run_all.py local stop` ends it; its log is " + str(home.log_file) + ".",
            )
        time.sleep(0.1)
    return server


def stop(root: Path | str | None = None) -> bool:
    """Stop the local AWS and its jobs; its state stays.

    Returns
    -------
    bool
        False when it was not up.

    Raises
    ------
    ConnectionFailed
        When its process cannot be ended.
    """
    address = Home(root).address()
    if address is None or not _runs(address):
        return False
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
        os.kill(address.pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not _runs(address):
                return True
            time.sleep(0.05)
    raise ConnectionFailed(f"The local AWS (process {address.pid}) cannot be ended.")


def reset(root: Path | str | None = None) -> bool:
    """Stop the local AWS and delete all of its state: objects, jobs, logs, credentials.

    Returns
    -------
    bool
        False when there was nothing to delete.

    Raises
    ------
    ReelbookError
        When the folder is not that of a local AWS.
    """
    home = Home(root)
    if not home.root.exists():
        return False
    if not home.exists and not any(path.name != "start.lock" for path in home.root.iterdir()):
        return False
    if home.exists:
        with home.starting():
            stop(home.root)
            home.clear()
    else:
        home.clear()  # which says why it does not
    return True


def answers(server: Server) -> bool:
    """Whether a server answers at the endpoint and knows our credentials."""
    body = b"Action=GetCallerIdentity&Version=2011-06-15"
    headers = {
        "host": f"{HOST}:{server.port}",
        "content-type": "application/x-www-form-urlencoded; charset=utf-8",
    }
    request = SignedRequest("POST", "/", "", headers)
    signed = sign(request, body, "sts", "us-east-1", server.credentials)
    connection = http.client.HTTPConnection(HOST, server.port, timeout=_PING_SECONDS)
    try:
        connection.request("POST", "/", body, signed)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _launch(home: Home, port: int) -> Server:
    """Start a server in the background and wait until it answers."""
    secret = ("AWS_", "REELBOOK_ENVIRONMENT_BEFORE")  # the user's own keys are none of the server's business
    environment = {name: value for name, value in os.environ.items() if not name.startswith(secret)}
    environment[ROOT_VARIABLE] = str(home.root)
    paths = [str(_REPOSITORY), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    if home.log_file.exists() and home.log_file.stat().st_size > _MAX_LOG_BYTES:
        home.log_file.unlink()
    with home.log_file.open("ab") as log:
        log_start = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "lib.local", "serve", "--port", str(port)],
            cwd=_REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _failed_start(home, log_start)
        address = home.address()
        if address and address.pid == process.pid and answers(_server(home, address)):
            process.returncode = 0  # it lives on without us: no warning that it still runs
            return _server(home, address)
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise ConnectionFailed(
        f"The local AWS did not answer within {START_SECONDS:.0f} seconds.",
        hint=f"Its log is {home.log_file}.",
    )


def _failed_start(home: Home, log_start: int) -> ReelbookError:
    """Return the error of a server that ended at once, in the words it left in its log."""
    with home.log_file.open("rb") as log:
        log.seek(log_start)
        lines = log.read().decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    if said and said[-1].startswith("error: "):
        return ConnectionFailed(said[-1].removeprefix("error: "))
    return ConnectionFailed(
        f"The local AWS did not start: {said[-1] if said else 'it said nothing.'}",
        hint=f"Its log is {home.log_file}.",
    )


def _server(home: Home, address: Address) -> Server:
    endpoint = f"http://{HOST}:{address.port}"
    return Server(home.root, endpoint, address.pid, address.port, home.credentials())


def _runs(address: Address) -> bool:
    return start_time(address.pid) == address.started
