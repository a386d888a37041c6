"""The libraries that `lib.fm` is measured against, in environments of their own under ``.bench/``.

They are made on first use, by pip, with the versions pinned below.  Two are needed: xLearn and fastFM were
last released for numpy 1, the others ask for numpy 2.  Both of the former are compiled from their sources,
which takes a C and a C++ compiler, make and CMake; what cannot be installed is reported as a row that says
why.  libFM is not on PyPI: its binary is named on the benchmarks' command line.

    .venv/bin/python benchmarks/peers.py        # make both, and tell what is there
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench"


@dataclass(frozen=True)
class Environment:
    """A virtual environment: its folder's name, what is installed first, what must import afterwards."""

    name: str
    packages: tuple[str, ...]
    modules: dict[str, str]  # by peer, the module that it is imported as


NEW = Environment(
    "peers",
    (
        "setuptools==80.9.0",  # the last but one with pkg_resources, which myFM imports
        "numpy==2.4.6",
        "scipy==1.16.3",
        "pandas==3.0.1",
        "myfm==0.4.0",
        "cornac==3.0.1",
        "scikit-surprise==1.1.5",
        "torch==2.13.0",
    ),
    {"myfm": "myfm", "cornac": "cornac", "surprise": "surprise", "torch": "torch"},
)
OLD = Environment(
    "older-peers",
    (
        "setuptools==59.8.0",
        "wheel==0.43.0",
        "cython==0.29.37",
        "numpy==1.26.4",
        "scipy==1.11.4",
        "scikit-learn==1.3.2",
    ),
    {"xlearn": "xlearn", "fastfm": "fastFM.als"},
)
#: What is compiled from its source into the second environment.
SOURCES = {"xlearn": "xlearn==0.40a1", "fastfm": "fastfm==0.2.10"}
#: Files of a source that its own tools have to make anew: this one is for the inside of Python 3.10.
STALE = {"fastfm": "fastFM/ffm.c"}

VERSIONS = {
    "myfm": "myFM 0.4.0",
    "cornac": "cornac 3.0.1",
    "surprise": "scikit-surprise 1.1.5",
    "torch": "torch 2.13.0",
    "xlearn": "xLearn 0.40a1",
    "fastfm": "fastFM 0.2.10",
}


def python(peer: str = "myfm") -> Path:
    """Return the Python of a peer's environment, which is made first where it is missing.

    Parameters
    ----------
    peer : str
        A key of `VERSIONS`.

    Raises
    ------
    RuntimeError
        The peer cannot be installed here; the message says why.
    """
    environment = _environment_of(peer)
    why = _ensure(environment).get(peer)
    if why:
        raise RuntimeError(why)
    return _interpreter(environment)


def missing(peer: str) -> str | None:
    """Return why a peer cannot be had on this machine, in one line, or None."""
    try:
        python(peer)
    except RuntimeError as error:
        return str(error)
    return None


def download(requirement: str, folder: Path) -> Path:
    """Download one package's wheel, without what it depends on, and return its path.

    Raises
    ------
    RuntimeError
        It is not to be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        _run([sys.executable, "-m", "pip", "download", *_PIP, "--no-deps", "-d", fresh, requirement])
        (file,) = Path(fresh).iterdir()
        return file.rename(folder / file.name)


_PIP = ("--quiet", "--disable-pip-version-check")


def _environment_of(peer: str) -> Environment:
    for environment in (NEW, OLD):
        if peer in environment.modules:
            return environment
    raise ValueError(f"There is no peer {peer!r}; there are {', '.join(VERSIONS)}.")


def _interpreter(environment: Environment) -> Path:
    return BENCH / environment.name / "bin" / "python"


def _ensure(environment: Environment) -> dict[str, str]:
    """Make an environment if it is missing or its pins changed; return why each missing peer is missing."""
    stamp = BENCH / environment.name / "installed.json"
    wanted = [*environment.packages, *(SOURCES[peer] for peer in environment.modules if peer in SOURCES)]
    with _lock(environment):
        if stamp.is_file():
            state = json.loads(stamp.read_text())
            if state["packages"] == wanted:
                return dict(state["missing"])
        print(
            f"Making .bench/{environment.name} with pip (once, some minutes) ...", file=sys.stderr, flush=True
        )
        failures = _make(environment)
        if not all(why.startswith("not installable") for why in failures.values()):
            return failures  # nothing could be installed: the next run tries again
        stamp.write_text(json.dumps({"packages": wanted, "missing": failures}, indent=2))
        return failures


def _make(environment: Environment) -> dict[str, str]:
    """Make an environment; return why each missing peer is missing."""
    interpreter = _interpreter(environment)
    try:
        _run([sys.executable, "-m", "venv", "--clear", str(BENCH / environment.name)])
        _run([str(interpreter), "-m", "pip", "install", *_PIP, *environment.packages])
    except RuntimeError as error:
        return dict.fromkeys(environment.modules, f"its environment cannot be made: {error}")
    failures = {}
    for peer, module in environment.modules.items():
        try:
            if peer in SOURCES:
                _build(interpreter, peer)
            _run([str(interpreter), "-c", f"import {module}"])
        except RuntimeError as error:
            failures[peer] = f"not installable: {error}"
    return failures


def _build(interpreter: Path, peer: str) -> None:
    """Compile and install a peer from its source distribution."""
    pip = [str(interpreter), "-m", "pip"]
    with tempfile.TemporaryDirectory() as folder:
        source = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", SOURCES[peer]]
        _run([*pip, "download", *_PIP, "-d", folder, *source])
        (archive,) = Path(folder).iterdir()
        with tarfile.open(archive) as members:
            members.extractall(folder, filter="data")
        (unpacked,) = (path for path in Path(folder).iterdir() if path.is_dir())
        if peer in STALE:
            (unpacked / STALE[peer]).unlink()
        # CMake's older policies are asked for: the source was written for CMake 3.0
        flags = {"CMAKE_POLICY_VERSION_MINIMUM": "3.5"}
        _run([*pip, "install", *_PIP, "--no-deps", "--no-build-isolation", str(unpacked)], flags)


def _run(command: list[str], variables: dict[str, str] | None = None) -> None:
    """Run a command in silence; its last line of error becomes a RuntimeError."""
    done = subprocess.run(command, env={**os.environ, **(variables or {})}, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower() and "subprocess" not in line]
        raise RuntimeError((telling or lines or [f"exit status {done.returncode}"])[0])


@contextlib.contextmanager
def _lock(environment: Environment) -> Iterator[None]:
    """Let one process at a time make an environment."""
    BENCH.mkdir(exist_ok=True)
    with (BENCH / f"{environment.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Make the environments and tell what is in them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="throw the environments away first")
    options = parser.parse_args()
    if options.again:
        for environment in (NEW, OLD):
            shutil.rmtree(BENCH / environment.name, ignore_errors=True)
    for peer, version in VERSIONS.items():
        print(f"{version:<24}{missing(peer) or 'installed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
