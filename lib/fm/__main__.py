"""The engine's container entry points: ``python -m lib.fm train|serve --root DIR``."""

from __future__ import annotations

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a container entry point and return the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.fm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a model by SageMaker's container contract")
    serve = commands.add_parser("serve", help="answer inference requests by SageMaker's container contract")
    for command in (train, serve):
        command.add_argument("--root", default="/opt/ml", help="the container's folder (default /opt/ml)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8080, help="port to listen on (default 8080)")
    options = parser.parse_args(arguments)
    if options.command == "train":
        from lib.fm import train as training

        return training.main(options.root)
    from lib.fm import serve as serving

    return serving.main(options.root, options.host, options.port)


if __name__ == "__main__":
    sys.exit(main())
