"""The table of agreement that `make oracle` ends with."""

from __future__ import annotations

import pytest


class Agreement:
    """Collects how far two results are apart, and what is allowed."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float]] = []
        self.notes: list[str] = []

    def within(self, what: str, apart: float, allowed: float) -> None:
        """Note a distance, and fail if it is larger than allowed."""
        self.rows.append((what, float(apart), allowed))
        assert apart <= allowed, f"{what}: {apart:.3g} apart, allowed are {allowed:g}"


_AGREEMENT = Agreement()


@pytest.fixture(scope="session")
def agreement() -> Agreement:
    return _AGREEMENT


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _AGREEMENT.rows:
        return
    terminalreporter.section("agreement")
    width = max(len(what) for what, _, _ in _AGREEMENT.rows)
    terminalreporter.write_line(f"{'':<{width}}     apart   allowed")
    for what, apart, allowed in _AGREEMENT.rows:
        terminalreporter.write_line(f"{what:<{width}}  {apart:8.1e}  {allowed:8.1e}")
    for note in _AGREEMENT.notes:
        terminalreporter.write_line(note)
