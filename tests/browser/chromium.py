"""Where the browser of the tests is, and how it is started."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

VARIABLE = "CHROMIUM"
FLAGS = [
    "--no-sandbox",  # root has no sandbox, and the pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # with the next two: it asks no server of its maker
    "--disable-component-update",
    "--disable-sync",
]


class NoBrowser(Exception):
    """There is no Chromium on this machine."""


def executable() -> str:
    """Return the path of Chromium: ``$CHROMIUM``, or the first of its names on the path.

    Raises
    ------
    NoBrowser
        When there is none; the sentence says how to install it.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if Path(named).is_file():
            return named
        raise NoBrowser(f"${VARIABLE} names {named}, which is no file.")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise NoBrowser(
        "No Chromium was found for the browser tests: install it with `apt-get install chromium`, "
        f"or name its executable in ${VARIABLE}."
    )


@contextmanager
def launched() -> Iterator[Browser]:
    """Start a headless Chromium with a profile of its own, and end it."""
    path = executable()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
