"""Take the picture of a report's first screen.

    .venv/bin/python tests/browser/picture.py outputs/RUN/report.html docs/report.png

1280 × 800 pixels, in light colours, below 200 kB.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from chromium import NoBrowser, launched
from PIL import Image

SIZE = {"width": 1280, "height": 800}
LARGEST = 200_000  # bytes


def take(report: Path, picture: Path) -> int:
    """Write the picture and return its size in bytes."""
    with launched() as browser:
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(report.absolute().as_uri())
        data = page.screenshot()
        page.close()
    if len(data) >= LARGEST:
        file = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").quantize(128).save(file, "PNG", optimize=True)
        data = file.getvalue()
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(data)
    return len(data)


def main() -> int:
    """Read the command line and take the picture."""
    parser = argparse.ArgumentParser(description="Take the picture of a report's first screen.")
    parser.add_argument("report", type=Path, help="outputs/RUN/report.html")
    parser.add_argument("picture", type=Path, nargs="?", default=Path("docs/report.png"))
    options = parser.parse_args()
    if not options.report.is_file():
        parser.error(f"{options.report} is no file")
    try:
        size = take(options.report, options.picture)
    except NoBrowser as error:
        parser.error(str(error))
    print(f"{options.picture}: {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
