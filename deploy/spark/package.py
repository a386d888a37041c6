"""Pack Reelbook's ``lib`` as the zip that ``spark-submit --py-files`` ships to driver and executors.

python deploy/spark/package.py lib.zip
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_EPOCH = (2020, 1, 1, 0, 0, 0)  # equal sources make equal zips


def pack(target: Path) -> int:
    """Write the zip and return how many files are in it: Python and SQL, none of the local AWS."""
    sources = sorted(
        path
        for path in (ROOT / "lib").rglob("*")
        if path.suffix in (".py", ".sql") and "local" not in path.relative_to(ROOT / "lib").parts[:1]
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sources:
            info = zipfile.ZipInfo(path.relative_to(ROOT).as_posix(), _EPOCH)
            info.external_attr = 0o644 << 16
            archive.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return len(sources)


def main() -> int:
    """Pack where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, nargs="?", default=Path("lib.zip"), help="default lib.zip")
    target = parser.parse_args().target
    print(f"{target}: {pack(target)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
