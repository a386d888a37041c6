"""Fixtures of the tests in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import NoBrowser, launched
from playwright.sync_api import Browser, Page

WIDE = {"width": 1280, "height": 800}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; without one the tests fail, they are not skipped."""
    try:
        with launched() as started:
            yield started
    except NoBrowser as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page, 1280 pixels wide, in light colours, with no memory of other tests."""
    context = browser.new_context(viewport=WIDE, color_scheme="light", locale="en-GB", timezone_id="UTC")
    yield context.new_page()
    context.close()
