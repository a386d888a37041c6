"""The local AWS: S3, SageMaker, CloudWatch Logs and STS on this machine, in AWS's own wire protocol.

>>> from lib import local
>>> server = local.start()
>>> server.endpoint
'http://127.0.0.1:…'

A program that has called ``lib.aws.connect("local")`` talks to it by plain boto3.
"""

from __future__ import annotations

from lib.local.environment import CLEARED, NO_PROXY, environment
from lib.local.lifecycle import Server, reset, start, status, stop

__all__ = ["CLEARED", "NO_PROXY", "Server", "environment", "reset", "start", "status", "stop"]
