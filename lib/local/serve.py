"""Runs the local AWS in this process until it is told to stop, or has had nothing to do for an hour."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from lib.errors import ConnectionFailed, ParameterError
from lib.local.home import Address, Home
from lib.local.supervise import start_time

HOST = "127.0.0.1"
IDLE_VARIABLE = "REELBOOK_LOCAL_IDLE_SECONDS"
QUOTA_VARIABLE = "REELBOOK_LOCAL_QUOTA_BYTES"

_IDLE_SECONDS = 3600.0
_KEEP_ALIVE_SECONDS = 75
_GRACE_SECONDS = 3
_ARENA_MAX = -8  # M_ARENA_MAX of mallopt(3)


def serve(root: Path | str | None = None, port: int = 0) -> None:
    """Serve until SIGTERM or SIGINT, or until idle for too long.

    Parameters
    ----------
    root : Path or str, optional
        See `lib.local.home.Home`.
    port : int
        0 for the port of the last time where it is free, else any free one.

    Raises
    ------
    ReelbookError
        When the folder cannot be used, the port is taken, or an environment variable is no number.
    """
    import uvicorn

    from lib.local.server import create_app

    os.umask(0o077)
    _share_heaps()
    home = Home(root)
    home.prepare()
    idle_seconds, quota = _number(IDLE_VARIABLE, _IDLE_SECONDS), _number(QUOTA_VARIABLE, 0.0)
    with home.claim(), _listen(home, port) as listener:
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

        def leave() -> None:
            server.should_exit = True

        app = create_app(
            home.root,
            home.credentials(),
            quota=int(quota) or None,
            idle_seconds=idle_seconds or None,
            leave=leave,
        )
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        server = uvicorn.Server(config)
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again at its end
            signal.signal(number, lambda *_: None)
        pid = os.getpid()
        home.write_address(Address(listener.getsockname()[1], pid, start_time(pid) or ""))
        print(f"The local AWS serves {home.root} at http://{HOST}:{listener.getsockname()[1]}", flush=True)
        server.run(sockets=[listener])
        if not server.started:
            raise ConnectionFailed(
                f"The local AWS could not take up its state in {home.root}.",
                hint=f"{home.log_file} says why.",
            )


def _share_heaps() -> None:
    """Keep glibc from giving each thread a heap of its own: under load these grow without end.

    With them the server had 141 MB after 90 seconds of ``benchmarks/local_load.py``, and more each minute; without
    them 100 MB all the time, as quick.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)


def _listen(home: Home, port: int) -> socket.socket:
    """Return a socket bound to a port of this machine, which no other machine can reach."""
    last = home.address()
    wanted = [port] if port else ([last.port] if last else []) + [0]
    for choice in wanted:
        # asyncio turns off Nagle's delays only where the protocol is named
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, choice))
            listener.listen(1)
        except (OSError, OverflowError) as error:
            listener.close()
            if choice in (port, 0):
                raise _port_error(port, error) from None
        else:
            return listener
    raise AssertionError("some port is always tried last")


def _port_error(port: int, error: Exception) -> ConnectionFailed:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return ConnectionFailed(
            f"Port {port} is in use by another program.",
            hint="Choose another with --port, or leave it out and a free one is found.",
        )
    return ConnectionFailed(f"The local AWS cannot listen on port {port}: {str(error).rstrip('.')}.")


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ParameterError(
            f"The environment variable {variable} is {text!r}, which is no number from 0 on."
        )
    return number
