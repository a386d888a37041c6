"""The environment variables that point AWS's clients at the local AWS, in any program."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from lib.local.lifecycle import Server

REGION = "us-east-1"

NO_PROXY = "127.0.0.1,localhost"
CLEARED = frozenset(
    {
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_USE_DUALSTACK_ENDPOINT",
    }
)
"""The variables that would lead a client elsewhere, and must not be set."""

_SDK_CONFIG = Path(__file__).resolve().parents[1] / "sagemaker_config.yaml"


def environment(server: Server, region: str = REGION) -> dict[str, str]:
    """Return the variables, by name.

    They are the standard ones of AWS's clients, with settings and credentials for AWS itself out of the way;
    and those that keep the SageMaker SDK from asking AWS behind the program's back.
    """
    return {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": server.credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": server.credentials.secret_key,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(_SDK_CONFIG),
        "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": str(_SDK_CONFIG),
        "SAGEMAKER_VALIDATE_ROLE": "false",
    }


def as_exports(variables: Mapping[str, str]) -> str:
    """Return the variables as lines for a shell's ``eval``, with what would lead elsewhere unset."""
    lines = [f"unset {' '.join(sorted(CLEARED))}"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    lines += [f'export {name}="${{{name}:+${name},}}{NO_PROXY}"' for name in ("NO_PROXY", "no_proxy")]
    return "\n".join(lines) + "\n"
