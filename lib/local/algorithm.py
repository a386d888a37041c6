"""What the local SageMaker knows of the one algorithm it runs: the built-in Factorization Machines.

The names of the metrics are those of AWS's page "Tune a Factorization Machines Model"; the expressions that
find them in the log follow those of its sister algorithms, ``train:…:epoch`` among them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lib.local.protocol import AwsError

REPOSITORY_NAME = "factorization-machines"
MAXIMIZED = ("binary_classification_accuracy", "binary_f_beta")
_LOGGED_METRICS = {
    "rmse": r"rmse <loss>",
    "mse": r"mse <loss>",
    "absolute_loss": r"absolute_loss <loss>",
    "binary_classification_accuracy": r"binary_classification_accuracy <score>",
    "binary_classification_cross_entropy": r"binary_classification_cross_entropy <loss>",
    "binary_f_beta": r"binary_f_\S+ <score>",
}
_TUNABLE = ("rmse", "binary_classification_accuracy", "binary_classification_cross_entropy", "binary_f_beta")
OBJECTIVES = {f"test:{name}": "Maximize" if name in MAXIMIZED else "Minimize" for name in _TUNABLE}
"""The metrics a tuning job may have as its objective, and the direction of each."""


def metric_definitions() -> list[dict[str, str]]:
    """Return the algorithm's metrics as SageMaker's MetricDefinitions."""
    definitions = []
    for name, logged in _LOGGED_METRICS.items():
        for metric, place in (
            (f"train:{name}:epoch", r"epoch=\S+, train"),
            (f"train:{name}", "train"),
            (f"test:{name}", "test"),
        ):
            definitions.append(
                {"Name": metric, "Regex": rf"#quality_metric: host=\S+, {place} {logged}=(\S+)"}
            )
    return [
        *definitions,
        {"Name": "train:progress", "Regex": r"#progress_metric: host=\S+, completed (\S+) %"},
        {
            "Name": "train:throughput",
            "Regex": r"#throughput_metric: host=\S+, train throughput=(\S+) records",
        },
    ]


def check_image(image: str | None, member: str) -> None:
    """Refuse any image but the algorithm's own, from whichever region's registry.

    Raises
    ------
    AwsError
        ValidationException.
    """
    repository = (image or "").rpartition("/")[2].partition("@")[0].partition(":")[0]
    if repository != REPOSITORY_NAME:
        given = f"the image {image}" if image else "no image"
        raise AwsError(
            "ValidationException",
            f"The local AWS runs the built-in {REPOSITORY_NAME} image only, but {member} names {given}.",
        )


def check_search(tuned: list[str], static: list[str], image: str) -> None:
    """Refuse a search of hyperparameters that the algorithm does not tune, or without those it needs.

    Parameters
    ----------
    tuned, static : list of str
        The hyperparameters that have a range, and those that have a value.
    image : str
        The algorithm's image, for the message.

    Raises
    ------
    AwsError
        ValidationException in AWS's words.
    """
    from lib.fm.hyperparameters import REQUIRED, TUNABLE

    untunable = [name for name in tuned if name not in TUNABLE]
    if untunable:
        raise AwsError(
            "ValidationException",
            "The hyperparameter tuning job you requested has the following untunable hyperparameters: "
            f"[{', '.join(untunable)}]. For the algorithm, {image}, you can tune only "
            f"[{', '.join(TUNABLE)}]. Delete untunable hyperparameters.",
        )
    missing = [name for name in REQUIRED if name not in static]
    if missing:
        raise AwsError(
            "ValidationException",
            "The hyperparameter tuning job that you requested is missing the following required "
            f"hyperparameters: [{', '.join(missing)}].",
        )


def train_command(root: Path) -> list[str]:
    """Return the command that trains in ``root``, which stands for the container's ``/opt/ml``."""
    return [sys.executable, "-m", "lib.fm", "train", "--root", str(root)]


def serve_command(root: Path, port: int) -> list[str]:
    """Return the command that serves the model in ``root`` on a loopback port."""
    return [sys.executable, "-m", "lib.fm", "serve", "--root", str(root), "--port", str(port)]


def unsupported(what: str) -> AwsError:
    """Return the error for what AWS has and the local AWS has not."""
    return AwsError("ValidationException", f"The local AWS does not support {what}.")


def refuse_unless(value: Any, accepted: tuple[Any, ...], what: str) -> None:
    """Refuse a value that the local AWS does not support; a missing one is accepted.

    Raises
    ------
    AwsError
        ValidationException.
    """
    if value is not None and value not in accepted:
        raise unsupported(f"{what} {value}")
