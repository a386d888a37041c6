"""Tells an SNS topic that a run has failed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from lib import console, redaction
from lib.records import RunRecord

LONGEST_SUBJECT = 100  # characters that SNS allows


def tell_failure(run: RunRecord, topic_arn: str, target: str, account: Mapping[str, Any]) -> bool:
    """Publish what failed; return whether it was published.

    A notice that cannot be sent is a line on standard error, and changes nothing about the run.

    Parameters
    ----------
    run : RunRecord
    topic_arn : str
        The topic.
    target, account : str, mapping
        The parameters of these names: whose credentials are used.
    """
    failed = [stage for stage in run.stages if stage.status in ("failed", "interrupted")]
    names = ", ".join(stage.name for stage in failed)
    text = "\n\n".join(console.failure_text(stage) for stage in failed if stage.error is not None)
    subject = f"Reelbook run {run.run_id} {run.status}: {names}"
    try:
        from lib import aws

        aws.connect(target, **account)
        import boto3

        boto3.client("sns").publish(
            TopicArn=topic_arn, Subject=subject[:LONGEST_SUBJECT], Message=redaction.redact(text or subject)
        )
    except Exception as error:
        print(f"The topic {topic_arn} could not be told: {error}", file=sys.stderr)
        return False
    return True
