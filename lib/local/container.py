"""SageMaker's container contract for training: what an algorithm finds under ``/opt/ml``, and leaves there.

(AWS: "How Amazon SageMaker AI provides training information", "How Amazon SageMaker AI processes training
output".)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_FAILURE_REASON = 1024
KILLED = 137

_FOLDERS = ("input/config", "input/data", "model", "output/data")
_PREFIXES = ("AlgorithmError:", "ClientError:", "InternalServerError:")
_NO_REASON = "The algorithm gave no reason; its log may tell"
_OUT_OF_MEMORY = (
    "ClientError: Please use an instance type with more memory, "
    "or reduce the size of job data processed on an instance."
)


def make_folders(root: Path) -> None:
    """Make the folders of the contract under ``root``, which stands for ``/opt/ml``."""
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)


def write_configuration(root: Path, document: dict[str, Any]) -> None:
    """Write ``input/config`` from a training job's description."""
    for name, content in _configuration(document).items():
        (root / "input" / "config" / f"{name}.json").write_text(json.dumps(content))


def failure_reason(root: Path, code: int) -> str:
    """Return the FailureReason of an algorithm that ended with an exit code other than 0.

    Parameters
    ----------
    root : Path
        What stands for ``/opt/ml``; the algorithm may have written ``output/failure`` in it.
    code : int
        The exit code.

    Returns
    -------
    str
        At most 1024 characters, with one of the prefixes that SageMaker gives, ``AlgorithmError:`` where
        the algorithm names none.
    """
    ending = f", exit code: {code}"
    try:
        text = (
            (root / "output" / "failure")
            .read_bytes()[: 4 * MAX_FAILURE_REASON]
            .decode("utf-8", "replace")
            .strip()
        )
    except FileNotFoundError:
        text = ""
    if not text and code == KILLED:
        text = _OUT_OF_MEMORY
    if not text:
        text = _NO_REASON
    if not text.startswith(_PREFIXES):
        text = f"AlgorithmError: {text}"
    return text[: MAX_FAILURE_REASON - len(ending)] + ending


def _configuration(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the files of ``/opt/ml/input/config`` by name, as JSON values."""
    resources = document["ResourceConfig"]
    instance = resources.get("InstanceType", "ml.m5.large")
    group = {"instance_group_name": "homogeneousCluster", "instance_type": instance, "hosts": ["algo-1"]}
    channels = {
        channel["ChannelName"]: {
            **({"ContentType": channel["ContentType"]} if "ContentType" in channel else {}),
            "TrainingInputMode": "File",  # the objects of all modes lie there as files
            "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                "S3DataDistributionType", "FullyReplicated"
            ),
            "RecordWrapperType": channel.get("RecordWrapperType", "None"),
        }
        for channel in document.get("InputDataConfig", [])
    }
    return {
        "hyperparameters": document["HyperParameters"],
        "inputdataconfig": channels,
        "resourceconfig": {
            "current_host": "algo-1",
            "current_instance_type": instance,
            "current_group_name": "homogeneousCluster",
            "hosts": ["algo-1"],
            "instance_groups": [group],
            "network_interface_name": "lo",
        },
    }
