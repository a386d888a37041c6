"""Connects a program to a target: AWS, or the local AWS on this machine.  No other module knows which.

After `connect`, plain ``boto3.client(…)`` and the SageMaker SDK's ``sagemaker.core`` resources talk to the
target.  All of it is done by the standard environment variables and boto3's default session, so that child
processes are connected as well.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.errors import ConnectionFailed, ParameterError, did_you_mean

TARGETS = ("local", "aws")
LOCAL_REGION = "us-east-1"
LOCAL_ROLE = "arn:aws:iam::123456789012:role/reelbook-local"

_SDK_CONFIG = Path(__file__).with_name("sagemaker_config.yaml")

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")

# JSON of what the environment was before `connect` changed it; child processes have to know it too
_BEFORE_VARIABLE = "REELBOOK_ENVIRONMENT_BEFORE"


@dataclass(frozen=True)
class Account:
    """Where and as whom jobs run.

    Attributes
    ----------
    target : str
        ``local`` or ``aws``.
    region : str
        AWS region.
    role_arn : str
        The role that SageMaker takes on for jobs.
    profile : str or None
        Profile of the AWS configuration.
    kms_key : str or None
        Key that encrypts the jobs' volumes and outputs.
    subnets, security_group_ids : tuple of str
        The VPC that jobs run in; empty for none.
    tags : dict of str to str
        Tags of everything that jobs create.
    """

    target: str
    region: str
    role_arn: str
    profile: str | None = None
    kms_key: str | None = None
    subnets: tuple[str, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)


def connect(
    target: str = "local",
    *,
    region: str | None = None,
    profile: str | None = None,
    role_arn: str | None = None,
    kms_key: str | None = None,
    subnets: Iterable[str] = (),
    security_group_ids: Iterable[str] = (),
    tags: Mapping[str, str] | None = None,
) -> Account:
    """Point boto3 and the SageMaker SDK at a target.

    The local AWS is started where it is not up.  For AWS nothing is called yet: credentials, profile and
    region are those that boto3 finds, or the ones given.  Empty values count as not given.

    Parameters
    ----------
    target : str
        ``local`` or ``aws``.
    region, profile, role_arn, kms_key, subnets, security_group_ids, tags
        See `Account`.  The role is required for AWS.

    Returns
    -------
    Account
        With region and role filled in; it holds no credentials.

    Raises
    ------
    ParameterError
        For an unknown target or profile, or a missing role.
    ConnectionFailed
        When there are no credentials or no region, or the local AWS does not start.
    """
    if target not in TARGETS:
        guess = did_you_mean(target, list(TARGETS)) or f"there are {' and '.join(TARGETS)}."
        raise ParameterError(f"There is no target `{target}`: {guess}")
    disconnect()
    if target == "local":
        region, role_arn, profile = region or LOCAL_REGION, role_arn or LOCAL_ROLE, None
        _connect_local(region)
    else:
        region, role_arn = _connect_aws(region, profile, role_arn)
    return Account(
        target=target,
        region=region,
        role_arn=role_arn,
        profile=profile or None,
        kms_key=kms_key or None,
        subnets=tuple(subnets),
        security_group_ids=tuple(security_group_ids),
        tags=dict(tags or {}),
    )


def disconnect() -> None:
    """Undo what `connect` did to the environment, in this process or in the one it comes from.

    The local AWS stays up.
    """
    for name, value in json.loads(os.environ.pop(_BEFORE_VARIABLE, "{}")).items():
        _assign(name, value)
    boto3: Any = sys.modules.get("boto3")
    if boto3 is not None:
        boto3.DEFAULT_SESSION = None
    _forget_sdk_clients()


def _connect_local(region: str) -> None:
    from lib import local

    server = local.start()
    for name in local.CLEARED | {name for name in os.environ if name.startswith("AWS_ENDPOINT_URL_")}:
        _set(name, None)
    for name, value in local.environment(server, region).items():
        _set(name, value)
    for name in ("NO_PROXY", "no_proxy"):
        others = os.environ.get(name, "")
        _set(name, f"{others},{local.NO_PROXY}" if others else local.NO_PROXY)
    _use(region, None)


def _connect_aws(region: str | None, profile: str | None, role_arn: str | None) -> tuple[str, str]:
    import boto3
    from botocore.exceptions import BotoCoreError, ProfileNotFound
    from botocore.session import Session

    if not role_arn:
        raise ParameterError(
            "The target aws needs a role that SageMaker takes on for its jobs.",
            hint="Give its ARN as the parameter `account.role_arn`.",
        )
    try:
        session = boto3.Session(profile_name=profile or None, region_name=region or None)
        credentials = session.get_credentials()
    except ProfileNotFound:
        wanted = profile or os.environ.get("AWS_PROFILE", "")
        guess = (
            did_you_mean(wanted, Session().available_profiles) or "`aws configure list-profiles` lists them."
        )
        raise ParameterError(f"The AWS configuration has no profile `{wanted}`: {guess}") from None
    except BotoCoreError as error:
        raise ConnectionFailed(f"AWS credentials cannot be loaded: {str(error).rstrip('.')}.") from error
    if credentials is None:
        raise ConnectionFailed(
            "There are no AWS credentials on this machine.",
            hint="Run `aws configure`, name a profile in `account.profile`, or use the target local.",
        )
    if not session.region_name:
        raise ConnectionFailed(
            "No AWS region is set.",
            hint="Give the parameter `account.region`, or set AWS_DEFAULT_REGION.",
        )
    _leave_sdk_telemetry_off()
    _use(session.region_name, profile)
    return str(session.region_name), role_arn


def _use(region: str, profile: str | None) -> None:
    """Make region and profile those of the environment and of boto3's default session."""
    import boto3

    _set("AWS_REGION", region)
    _set("AWS_DEFAULT_REGION", region)
    if profile:
        _set("AWS_PROFILE", profile)
        for name in _KEYS:  # boto3 would take these before a profile that the environment names
            _set(name, None)
    boto3.setup_default_session(region_name=region)


def _leave_sdk_telemetry_off() -> None:
    """Opt out of the SDK's telemetry in the first of its two configuration files that the user leaves free."""
    from platformdirs import site_config_dir, user_config_dir

    folders = {
        "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": site_config_dir("sagemaker"),
        "SAGEMAKER_USER_CONFIG_OVERRIDE": user_config_dir("sagemaker"),
    }
    for variable, folder in folders.items():
        if variable not in os.environ and not (Path(folder) / "config.yaml").exists():
            _set(variable, str(_SDK_CONFIG))
            return


def _forget_sdk_clients() -> None:
    """Drop the clients that the SDK keeps, if it was imported: they are of the target before."""
    utils: Any = sys.modules.get("sagemaker.core.utils.utils")
    if utils is not None:
        utils.SageMakerClient.reset()


def _set(name: str, value: str | None) -> None:
    """Set an environment variable, or remove it, and remember what it was."""
    before = json.loads(os.environ.get(_BEFORE_VARIABLE, "{}"))
    before.setdefault(name, os.environ.get(name))
    os.environ[_BEFORE_VARIABLE] = json.dumps(before)
    _assign(name, value)


def _assign(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
