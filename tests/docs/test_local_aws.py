"""The page of the local AWS lists the operations that there are."""

from __future__ import annotations

import re
from pathlib import Path

from lib.local.logs import Logs
from lib.local.metrics import Metrics
from lib.local.objects import Objects
from lib.local.sagemaker import SageMaker

PAGE = Path(__file__).parents[2] / "docs" / "local_aws.md"


def listed(service: str) -> list[str]:
    """Return the operations that the page's table has for a service."""
    found = re.search(rf"^\| {service} \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert found, service
    return re.findall(r"`(\w+)`", found[1])


def test_the_operations_of_sagemaker_and_cloudwatch_are_on_the_page(tmp_path: Path) -> None:
    objects, metrics = Objects(tmp_path), Metrics(tmp_path)
    sagemaker = SageMaker(tmp_path, objects, Logs(tmp_path), metrics)
    assert listed("SageMaker") == sagemaker.operations
    assert listed("CloudWatch") == metrics.operations
    for part in (sagemaker, metrics, objects):
        part.close()


def test_the_operations_of_the_logs_are_on_the_page(tmp_path: Path) -> None:
    assert listed("CloudWatch Logs") == Logs(tmp_path).operations


def test_the_variables_are_those_that_are_read() -> None:
    named = set(re.findall(r"`(REELBOOK_LOCAL_\w+)`", PAGE.read_text()))
    source = "".join(path.read_text() for path in (PAGE.parents[1] / "lib" / "local").glob("*.py"))
    assert named == set(re.findall(r'"(REELBOOK_LOCAL_\w+)"', source))
