"""Fixtures of the tests in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import NoBrowser, executable, launched
from playwright.sync_api import Browser, Page

WIDE = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; without one the tests fail, they are not skipped.

    While it is open an event loop runs in this thread, so it does not outlive the module that uses it.
    """
    problem = ""
    try:
        executable()
    except NoBrowser as error:
        problem = str(error)
    if problem:
        pytest.fail(problem, pytrace=False)
    with launched() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page, 1280 pixels wide, in light colours, with no memory of other tests."""
    context = browser.new_context(viewport=WIDE, color_scheme="light", locale="en-GB", timezone_id="UTC")
    yield context.new_page()
    context.close()
