"""The entry points of Reelbook's image: ``train`` and ``serve`` are the engine, ``run`` is the workflow.

::

    python -m lib.container train                       the engine, as SageMaker starts an algorithm of one's own
    python -m lib.container serve
    python -m lib.container run --run-id ID [OPTIONS]   stages of a run, as a SageMaker Processing job starts them

``run`` finds under ``/opt/ml/processing`` (AWS: "How Amazon SageMaker Processing runs your processing container")

    input/run/      the run's folder as earlier stages have left it; not there for the first ones
    input/given/    parameters.json, as run_all.py -p, and published.json, what other stages have published; both may
                    be missing.  (As arguments they would be cut: SageMaker allows 256 characters each.)

and leaves

    output/run/     the run's folder: notebooks, run.json, scraps.json, report.html and, if asked for, requests.json

whatever happened.  What went wrong is its last words, in ``/opt/ml/output/message``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.errors import ReelbookError

if TYPE_CHECKING:
    from lib.stage_runs import Given

REQUESTS = "requests.json"
LONGEST_MESSAGE = 1024  # characters that SageMaker shows of an ExitMessage


def main(arguments: list[str] | None = None) -> int:
    """Be what the image's first argument says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.container", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|serve|run")
    for name, what in (("train", "train a model"), ("serve", "answer requests")):
        command = commands.add_parser(name, help=f"{what} by SageMaker's container contract")
        command.add_argument("--root", type=Path, default=Path("/opt/ml"), help="default: /opt/ml")
    # SageMaker asks from outside the container, where nothing else can reach it
    command.add_argument("--host", default="0.0.0.0", help="address to listen on (default: 0.0.0.0)")
    command.add_argument("--port", type=int, default=8080, help="port to listen on (default: 8080)")
    run = commands.add_parser("run", help="run stages of a run", description="Run stages of a run.")
    run.add_argument("--root", type=Path, default=Path("/opt/ml"), help="default: /opt/ml")
    run.add_argument("--run-id", required=True, metavar="ID", help="the run")
    run.add_argument("--from", dest="start", metavar="STAGE", help="the first stage (default: the first)")
    run.add_argument("--to", dest="stop", metavar="STAGE", help="the last stage (default: the last)")
    run.add_argument(
        "-f", dest="file", metavar="FILE", help="parameter file (default: parameters/local.yaml)"
    )
    run.add_argument("--requests", action="store_true", help="work out the requests of the jobs that follow")
    options = parser.parse_args(arguments)
    if options.command == "train":
        from lib.fm import train

        return train.main(options.root)
    if options.command == "serve":
        from lib.fm import serve

        return serve.main(options.root, options.host, options.port)
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    """Run stages, and leave the run's folder in the output."""
    processing = options.root / "processing"
    outputs = processing / "runs"
    folder = outputs / options.run_id
    os.environ["REELBOOK_OUTPUTS"] = str(outputs)  # before the workflow is imported
    before = processing / "input" / "run"
    failure = ""
    locks = shutil.ignore_patterns(".lock")
    try:
        if before.is_dir():
            shutil.copytree(before, folder, dirs_exist_ok=True)
        from lib import console, stage_runs

        given: stage_runs.Given = {
            "parameters_file": _file(options),
            "parameters": _given(options, "parameters"),
            "published": _given(options, "published"),
        }
        record = stage_runs.run_stages(options.run_id, start=options.start, stop=options.stop, **given)
        print(console.summary(record))
        if options.requests:
            _write_requests(folder, options.run_id, given)
    except ReelbookError as error:
        failure = str(error)
    finally:
        if folder.is_dir():
            shutil.copytree(folder, processing / "output" / "run", dirs_exist_ok=True, ignore=locks)
    if failure:
        print(failure, file=sys.stderr)
        message = options.root / "output" / "message"
        message.parent.mkdir(parents=True, exist_ok=True)
        message.write_text(failure[:LONGEST_MESSAGE])
    return 1 if failure else 0


def _write_requests(folder: Path, run_id: str, given: Given) -> None:
    """Write the requests of the jobs that a state machine submits itself."""
    from lib import job_configs
    from lib.files import atomically

    with atomically(folder / REQUESTS) as partial:
        partial.write_text(json.dumps(job_configs.requests(run_id, **given), indent=1))


def _file(options: argparse.Namespace) -> Path | None:
    """Return the parameter file; a relative path is one of the checkout's."""
    from lib.records import ROOT

    return ROOT / options.file if options.file else None


def _given(options: argparse.Namespace, what: str) -> dict[str, Any]:
    """Return what a scheduler has handed in as a file.

    Raises
    ------
    ReelbookError
        When it is no JSON object.
    """
    path = options.root / "processing" / "input" / "given" / f"{what}.json"
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReelbookError(f"{path} is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ReelbookError(f"{path} holds no JSON object.")
    return value


if __name__ == "__main__":
    sys.exit(main())
