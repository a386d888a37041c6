"""Which failures are worth another attempt: those that time mends, never a mistake in notebook, data or parameters."""

from __future__ import annotations

import re

from lib.records import StageFailure

FIRST_SECONDS = 2.0  # how long the second attempt waits; each later one waits FACTOR times longer
FACTOR = 4.0

_KINDS = {
    "ServiceUnavailable",  # of lib.errors
    *(
        "EndpointConnectionError",
        "ConnectionClosedError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
    ),  # of botocore
    *("ConnectionResetError", "ConnectionRefusedError", "IncompleteReadError", "ResponseStreamingError"),
}
_CODES = re.compile(
    r"\b(?:Throttl\w+|TooManyRequests\w*|RequestLimitExceeded|SlowDown|ServiceUnavailable\w*|InternalServerError"
    r"|InternalFailure|InternalError|RequestTimeout\w*|CapacityError)\b"
)
_SERVICE_ERRORS = {"ClientError", "JobFailed", "StorageError", "ConnectionFailed"}


def worth_retrying(failure: StageFailure) -> bool:
    """Tell whether the same stage may well succeed a little later.

    Throttling, a service that is not available, lost connections and lack of capacity pass; whatever else a cell
    raises, a dead kernel, a timeout or a missing scrap does not.
    """
    if failure.kind in _KINDS:
        return True
    of_a_service = failure.kind in _SERVICE_ERRORS or failure.kind.endswith("Exception")
    return of_a_service and _CODES.search(f"{failure.kind} {failure.message}") is not None


def pause(attempt: int) -> float:
    """Return the seconds to wait after an attempt, counted from 1."""
    return float(FIRST_SECONDS * FACTOR ** (attempt - 1))
