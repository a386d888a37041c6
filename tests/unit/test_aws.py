"""Connecting to a target sets up boto3 and the SDK, and undoes what was set up before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml

from lib import aws
from lib.errors import ConnectionFailed, ParameterError
from lib.local import Server

ROLE = "arn:aws:iam::123456789012:role/jobs"


@pytest.fixture
def machine(local_aws: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with an AWS configuration of one profile; yields its configuration file."""
    aws.disconnect()
    config = tmp_path / "config"
    config.write_text(
        "[profile work]\nregion = eu-west-1\naws_access_key_id = AK\naws_secret_access_key = SK\n"
    )
    for name in [name for name in os.environ if name.startswith(("AWS_", "SAGEMAKER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield config
    aws.disconnect()
    monkeypatch.undo()
    aws.connect("local")


def aws_environment() -> dict[str, str]:
    names = ("AWS_", "SAGEMAKER_", "NO_PROXY", "no_proxy", "REELBOOK_ENVIRONMENT")
    return {name: value for name, value in os.environ.items() if name.startswith(names)}


# ---- local


def test_local_is_ready_for_boto3(machine: Path, local_aws: Server) -> None:
    account = aws.connect("local")
    assert account == aws.Account("local", "us-east-1", "arn:aws:iam::123456789012:role/reelbook-local")
    assert boto3.client("sts").get_caller_identity()["Account"] == "123456789012"
    assert boto3.client("s3").meta.endpoint_url == local_aws.endpoint
    assert boto3.client("sagemaker").meta.region_name == "us-east-1"


def test_local_leaves_nothing_of_the_users_settings(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_USE_FIPS_ENDPOINT"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intranet")
    aws.connect("local")
    assert boto3.client("s3").list_buckets()["Buckets"] is not None
    assert os.environ["NO_PROXY"] == "intranet,127.0.0.1,localhost"


def test_a_child_process_is_connected_too(machine: Path) -> None:
    aws.connect("local")
    code = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "123456789012\n"


def test_local_switches_telemetry_and_role_checks_off(machine: Path) -> None:
    aws.connect("local")
    assert os.environ["SAGEMAKER_VALIDATE_ROLE"] == "false"
    for name in ("SAGEMAKER_USER_CONFIG_OVERRIDE", "SAGEMAKER_ADMIN_CONFIG_OVERRIDE"):
        config = yaml.safe_load(Path(os.environ[name]).read_text())
        assert config["SageMaker"]["PythonSDK"]["Modules"] == {"TelemetryOptOut": True}


def test_connecting_does_not_import_the_sdk(machine: Path, local_aws: Server) -> None:
    code = "import sys; from lib import aws; aws.connect('local'); print('sagemaker' in sys.modules)"
    root = {"REELBOOK_LOCAL_ROOT": str(local_aws.root)}
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **root}
    )
    assert child.stdout == "False\n"


def test_settings_are_carried_and_empty_ones_count_as_not_given(machine: Path) -> None:
    account = aws.connect(
        "local",
        region="eu-west-1",
        profile="",
        role_arn="",
        kms_key="",
        subnets=["subnet-1"],
        security_group_ids=["sg-1"],
        tags={"team": "films"},
    )
    assert account.region == boto3.client("s3").meta.region_name == "eu-west-1"
    assert (account.profile, account.kms_key, account.role_arn) == (None, None, aws.LOCAL_ROLE)
    assert (account.subnets, account.security_group_ids) == (("subnet-1",), ("sg-1",))
    assert account.tags == {"team": "films"}


def test_an_account_shows_no_secret(machine: Path, local_aws: Server) -> None:
    shown = repr(aws.connect("local"))
    assert local_aws.credentials.secret_key not in shown
    assert local_aws.credentials.access_key not in shown


def test_disconnecting_restores_the_environment(machine: Path) -> None:
    before = aws_environment()
    aws.connect("local")
    assert aws_environment() != before
    aws.connect("local", region="eu-west-1")
    aws.disconnect()
    assert aws_environment() == before


# ---- aws


def test_aws_after_local_is_the_users_own(machine: Path) -> None:
    aws.connect("local")
    account = aws.connect("aws", profile="work", role_arn=ROLE)
    assert account == aws.Account("aws", "eu-west-1", ROLE, profile="work")
    client = boto3.client("s3")
    assert client.meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"
    credentials = boto3.Session().get_credentials()
    assert credentials is not None
    assert credentials.access_key == "AK"
    assert "AWS_ENDPOINT_URL" not in os.environ


def test_a_named_profile_goes_before_keys_in_the_environment(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "OTHER")
    aws.connect("aws", profile="work", role_arn=ROLE)
    credentials = boto3.Session().get_credentials()
    assert credentials is not None
    assert credentials.access_key == "AK"
    aws.disconnect()
    assert os.environ["AWS_ACCESS_KEY_ID"] == "OTHER"


def test_aws_in_a_child_of_a_local_program_is_the_users_own(machine: Path) -> None:
    aws.connect("local")
    code = (
        "import boto3; from lib import aws; aws.connect('aws', profile='work', role_arn='arn:x')\n"
        "print(boto3.client('sagemaker').meta.endpoint_url)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "https://api.sagemaker.eu-west-1.amazonaws.com\n"


def test_aws_leaves_telemetry_off_and_the_users_sdk_settings_in_place(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_ADMIN_CONFIG_OVERRIDE", "/of/the/company.yaml")
    aws.connect("aws", profile="work", role_arn=ROLE)
    assert os.environ["SAGEMAKER_ADMIN_CONFIG_OVERRIDE"] == "/of/the/company.yaml"
    config = yaml.safe_load(Path(os.environ["SAGEMAKER_USER_CONFIG_OVERRIDE"]).read_text())
    assert config["SageMaker"]["PythonSDK"]["Modules"] == {"TelemetryOptOut": True}
    assert "SAGEMAKER_VALIDATE_ROLE" not in os.environ


# ---- mistakes


def test_an_unknown_target_is_refused(machine: Path) -> None:
    with pytest.raises(ParameterError, match="no target `locl`: did you mean `local`"):
        aws.connect("locl")
    with pytest.raises(ParameterError, match="no target `azure`: there are local and aws"):
        aws.connect("azure")


def test_aws_needs_a_role(machine: Path) -> None:
    with pytest.raises(ParameterError, match=r"needs a role .* `account.role_arn`"):
        aws.connect("aws", profile="work")


def test_an_unknown_profile_is_refused(machine: Path) -> None:
    with pytest.raises(ParameterError, match="no profile `works`: did you mean `work`"):
        aws.connect("aws", profile="works", role_arn=ROLE)


def test_missing_credentials_are_said(machine: Path) -> None:
    with pytest.raises(ConnectionFailed, match="There are no AWS credentials on this machine"):
        aws.connect("aws", region="eu-west-1", role_arn=ROLE)


def test_a_missing_region_is_said(machine: Path) -> None:
    machine.write_text(machine.read_text().replace("region = eu-west-1", ""))
    with pytest.raises(ConnectionFailed, match="No AWS region is set"):
        aws.connect("aws", profile="work", role_arn=ROLE)
