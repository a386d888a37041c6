"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lib import aws, local
from lib.local.home import ROOT_VARIABLE


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process more than there are processors: tests wait for servers and jobs a good part of their time."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def local_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.Server]:
    """A local AWS of the tests' own, in a process of its own, that boto3 is connected to."""
    root = tmp_path_factory.mktemp("aws") / "root"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROOT_VARIABLE, str(root))
        try:
            yield local.start()
        finally:
            aws.disconnect()
            local.stop(root)
        log = (root / "server.log").read_text()
        assert "Traceback" not in log, log


@pytest.fixture(scope="module", autouse=True)
def _connected_to_local_aws(request: pytest.FixtureRequest) -> None:
    """Connect each module whose tests use ``local_aws``: another module may have connected elsewhere."""
    tests = [item for item in request.session.items if item.path == request.path]
    if any("local_aws" in getattr(item, "fixturenames", ()) for item in tests):
        request.getfixturevalue("local_aws")
        aws.connect("local")
