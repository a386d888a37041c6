"""The command ``python -m lib.local``."""

from __future__ import annotations

import argparse
import sys

from lib import local
from lib.errors import ReelbookError
from lib.local.environment import as_exports
from lib.local.home import Home


def main(arguments: list[str] | None = None, prog: str = "python -m lib.local") -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the command line by default.
    prog : str
        The command's name in its own messages.
    """
    parser = argparse.ArgumentParser(prog=prog, description="The local AWS.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, help_text in _ACTIONS.items():
        command = actions.add_parser(action, help=help_text, description=help_text)
        command.add_argument("--root", help="folder of its state (default: .local_aws in the repository)")
        if action in ("serve", "start"):
            command.add_argument("--port", type=int, default=0, help="default: the last one, or any free")
    options = vars(parser.parse_args(arguments))
    try:
        return _run(options.pop("action"), **options)
    except ReelbookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


_ACTIONS = {
    "serve": "run it in the foreground",
    "start": "start it in the background, unless it is up",
    "status": "say whether it is up, and where",
    "env": "print the variables that point AWS's clients at it; starts it unless it is up",
    "stop": "stop it and its jobs; objects and records stay",
    "reset": "stop it and delete its objects (the data of all runs), jobs, logs and credentials",
}


def _run(action: str, root: str | None, port: int = 0) -> int:
    if action == "serve":
        from lib.local.serve import serve

        serve(root, port)
        return 0
    if action == "env":
        print(as_exports(local.environment(local.start(root))), end="")
        return 0
    if action in ("start", "status"):
        server = local.start(root, port) if action == "start" else local.status(root)
        if server is None:
            print("The local AWS is not up.")
            return 3
        print(f"The local AWS is up at {server.endpoint} (process {server.pid}, state in {server.root}).")
        return 0
    if action == "stop":
        print("Stopped the local AWS." if local.stop(root) else "The local AWS was not up.")
        return 0
    folder = Home(root).root
    done = local.reset(root)
    print(f"Deleted the state of the local AWS in {folder}." if done else f"Nothing to delete in {folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
