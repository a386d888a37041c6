"""The log lines of SageMaker's Factorization Machines, as they appear in CloudWatch.

::

    [04/21/2023 14:26:45 INFO 139893122135872] #quality_metric: host=algo-1, epoch=0, train rmse <loss>=1.1
    #metrics {"StartTime": …, "EndTime": …, "Dimensions": {…}, "Metrics": {…}}

Tuning jobs and learning curves are read from these lines by regular expressions: their wording is a contract.

What the local extensions (`lib.fm.extensions`) measure beside that has lines of its own, which no expression for
SageMaker's lines finds::

    [04/21/2023 14:26:45 INFO 139893122135872] #local_metric: host=algo-1, epoch=0, test rmse <loss>=1.1
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping

from lib.fm.metrics import KINDS

ALGORITHM = "factorization-machines"


class Log:
    """Writes log lines to standard output, each as it happens.

    Parameters
    ----------
    host : str
        This host's name, such as ``algo-1``.
    """

    def __init__(self, host: str = "algo-1") -> None:
        self.host = host
        self._thread = threading.get_ident()

    def line(self, text: str, level: str = "INFO") -> None:
        """Write one line with time and level; line ends within the text become spaces."""
        moment = time.strftime("%m/%d/%Y %H:%M:%S")
        print(f"[{moment} {level} {self._thread}] {' '.join(text.split())}", flush=True)

    def warning(self, text: str) -> None:
        """Write one line of level WARNING."""
        self.line(text, "WARNING")

    def error(self, text: str) -> None:
        """Write one line of level ERROR."""
        self.line(text, "ERROR")

    def train_metrics(
        self, metrics: Mapping[str, float], *, epoch: int | None = None, batch: int | None = None
    ) -> None:
        """Write training metrics: of an epoch up to a batch, of a whole epoch, or of the whole training."""
        place = "" if epoch is None else f"epoch={epoch}, "
        place += "" if batch is None else f"batch={batch} "
        for name, value in metrics.items():
            self.line(f"#quality_metric: host={self.host}, {place}train {name} <{KINDS[name]}>={value!r}")

    def test_metrics(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics of the test channel."""
        for name, value in metrics.items():
            self.line(f"#test_score ({self.host}) : {(name, value)!r}")
        for name, value in metrics.items():
            self.line(f"#quality_metric: host={self.host}, test {name} <{KINDS[name]}>={value!r}")

    def local_metrics(
        self, metrics: Mapping[str, float], *, channel: str, epoch: int, seed: int | None = None
    ) -> None:
        """Write what a local extension measured after an epoch.

        Parameters
        ----------
        metrics : mapping of float
            By name, as in `lib.fm.metrics`.
        channel : str
            ``train`` or ``test``.
        epoch : int
            The epoch, from 0.
        seed : int, optional
            Which of several models, from 1; the first has SageMaker's own lines.
        """
        place = f"epoch={epoch}, " if not seed else f"seed={seed}, epoch={epoch}, "
        for name, value in metrics.items():
            self.line(f"#local_metric: host={self.host}, {place}{channel} {name} <{KINDS[name]}>={value!r}")

    def local(self, text: str) -> None:
        """Write what a local extension does, marked as such."""
        self.line(f"Local extension: {text}")

    def progress(self, epochs_done: int, epochs: int) -> None:
        """Write how many of the epochs are done."""
        percent = round(100 * epochs_done / epochs, 2)
        self.line(f"#progress_metric: host={self.host}, completed {percent} % of epochs")

    def throughput(self, records: int, seconds: float) -> None:
        """Write the speed of an epoch."""
        rate = records / seconds if seconds > 0 else 0.0
        self.line(f"#throughput_metric: host={self.host}, train throughput={rate} records/second")

    def metrics(self, start: float, values: Mapping[str, float], **dimensions: object) -> None:
        """Write a machine-readable line about a stretch of work that ends now.

        Parameters
        ----------
        start : float
            When it began, in seconds since 1970.
        values : mapping of float
            What was measured, by name.
        **dimensions
            What it belongs to, beside algorithm, host and operation.
        """
        record = {
            "StartTime": start,
            "EndTime": time.time(),
            "Dimensions": {"Algorithm": ALGORITHM, "Host": self.host, "Operation": "training", **dimensions},
            "Metrics": {
                name: {"sum": float(value), "count": 1, "min": value, "max": value}
                for name, value in values.items()
            },
        }
        print(f"#metrics {json.dumps(record)}", flush=True)
