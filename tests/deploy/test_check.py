"""`run_all.py check` and notices against moto's AWS: what is right, what is wrong, what one may not look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from environments import moto
from environments import moto_client as client

from benchmarks.support.environments import ROOT
from lib import preflight

TRUST = {
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ]
}
ROLE = "arn:aws:iam::123456789012:role/jobs"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto") / "log") as found:
        iam = client(found, "iam")
        iam.create_role(RoleName="jobs", AssumeRolePolicyDocument=json.dumps(TRUST))
        stranger = {"Statement": [{**TRUST["Statement"][0], "Principal": {"Service": "ec2.amazonaws.com"}}]}
        iam.create_role(RoleName="stranger", AssumeRolePolicyDocument=json.dumps(stranger))
        client(found, "s3").create_bucket(Bucket="mine")
        client(found, "s3").create_bucket(
            Bucket="far", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        yield found


def run_all(endpoint: str, *arguments: str, **parameters: Any) -> subprocess.CompletedProcess[str]:
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "REELBOOK_"))
    }
    variables |= {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "REELBOOK_OUTPUTS": tempfile.mkdtemp(),
    }
    given = [word for name, value in parameters.items() for word in ("-p", name, json.dumps(value))]
    command = [sys.executable, str(ROOT / "run_all.py"), *arguments, *given]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, cwd=ROOT)


def check(endpoint: str, **parameters: Any) -> tuple[int, dict[str, tuple[str, str]]]:
    account = {"region": "us-east-1", "role_arn": ROLE, **parameters.pop("account", {})}
    done = run_all(
        endpoint,
        "check",
        "-f",
        "parameters/aws.yaml",
        **{"bucket": "mine", "account": account, "training": {"image_uri": "own"}, **parameters},
    )
    assert "Traceback" not in done.stderr, done.stderr
    rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    found = {}
    for line in done.stdout.splitlines():
        for verdict in (preflight.OK, preflight.UNKNOWN, preflight.WRONG):
            what, middle, seen = line.partition(f"  {verdict}  ")
            if middle:
                found[what.strip()] = (verdict, seen.strip())
                break
    assert len(found) == len(rows), done.stdout + done.stderr
    return done.returncode, found


def test_an_account_that_has_all_is_right(endpoint: str) -> None:
    code, found = check(endpoint, training={"instance_type": "ml.m5.xlarge"})
    assert found["credentials"][0] == "ok"
    assert found["bucket"] == ("ok", "mine in us-east-1")
    assert found["role"] == ("ok", "jobs, trusts SageMaker")
    assert "factorization-machines" in found["image"][1]
    assert found["cost, at most"][0] == "ok"
    assert found["cost, at most"][1].startswith("0.23 USD bounded")  # one hour of one ml.m5.xlarge
    assert code == (1 if "wrong" in {verdict for verdict, _ in found.values()} else 0)


@pytest.mark.parametrize(
    ("parameters", "what", "message"),
    [
        ({"bucket": "none-such"}, "bucket", "there is no bucket none-such"),
        ({"bucket": "far"}, "bucket", "far is in eu-west-1, but jobs would run in us-east-1"),
        ({"account": {"role_arn": ROLE + "x"}}, "role", "there is no role jobsx"),
        ({"account": {"role_arn": ROLE.replace("jobs", "stranger")}}, "role", "does not trust sagemaker"),
        (
            {"account": {"role_arn": ROLE.replace("123456789012", "999999999999")}},
            "role",
            "correct `account.role_arn`",
        ),
        ({"account": {"kms_key": "arn:aws:kms:us-east-1:123456789012:key/none"}}, "KMS key", "NotFound"),
        (
            {"account": {"subnets": ["subnet-none"], "security_group_ids": ["sg-none"]}},
            "VPC",
            "subnet-none",
        ),
    ],
)
def test_what_is_wrong_is_said(endpoint: str, parameters: dict[str, Any], what: str, message: str) -> None:
    code, found = check(endpoint, **parameters)
    assert code == 1
    assert found[what][0] == "wrong"
    assert message in found[what][1]


def test_a_search_costs_as_much_as_all_its_jobs(endpoint: str) -> None:
    _, found = check(
        endpoint,
        tune=True,
        tuning={"max_jobs": 10},
        training={"instance_type": "ml.m5.xlarge", "instance_count": 2, "image_uri": "own"},
    )
    assert found["cost, at most"][1].startswith("4.60 USD bounded")
    _, found = check(endpoint, training={"instance_type": "ml.c5.xlarge", "image_uri": "own"})
    assert found["cost, at most"][0] == "unknown"


def test_nothing_is_made_or_changed(endpoint: str) -> None:
    before = client(endpoint, "s3").list_buckets()["Buckets"], client(endpoint, "iam").list_roles()["Roles"]
    check(endpoint)
    after = client(endpoint, "s3").list_buckets()["Buckets"], client(endpoint, "iam").list_roles()["Roles"]
    assert before == after


def test_without_credentials_nothing_else_is_looked_at() -> None:
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "REELBOOK_"))
    }
    variables |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/none",
        "AWS_SHARED_CREDENTIALS_FILE": "/none",
    }
    command = [sys.executable, str(ROOT / "run_all.py"), "check", "-f", "parameters/aws.yaml"]
    unedited = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=ROOT)
    assert unedited.returncode == 2
    assert "`bucket` cannot be 'YOUR-BUCKET'" in unedited.stderr
    assert "parameters/aws.yaml, line 4" in unedited.stderr
    command += ["-p", "bucket", "mine"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "There are no AWS credentials on this machine." in done.stdout
    assert "bucket" not in done.stdout


@pytest.mark.parametrize(
    ("policy", "trusted"),
    [
        (TRUST, True),
        (json.dumps(TRUST), True),
        ({"Statement": {**TRUST["Statement"][0]}}, True),
        ({"Statement": [{**TRUST["Statement"][0], "Effect": "Deny"}]}, False),
        ({"Statement": [{**TRUST["Statement"][0], "Action": "sts:TagSession"}]}, False),
        ({"Statement": [{**TRUST["Statement"][0], "Principal": {"AWS": "*"}}]}, False),
        ({}, False),
    ],
)
def test_who_trusts_sagemaker(policy: Any, trusted: bool) -> None:
    assert preflight.trusts_sagemaker(policy) is trusted


def test_quotas_that_are_too_small_are_named() -> None:
    values = {
        "stages": ["04_tune", "05_transform", "07_deploy"],
        "training": {"instance_type": "ml.m5.xlarge", "instance_count": 2, "spot": True},
        "tuning": {"max_jobs": 5, "max_parallel_jobs": 3},
    }
    wanted = preflight.needed(values)
    assert wanted == {
        "ml.m5.xlarge for spot training job usage": 6,
        "ml.m5.xlarge for transform job usage": 1,
        "ml.m5.large for endpoint usage": 1,
    }
    quotas = [{"QuotaName": name, "Value": 1.0} for name in wanted]
    assert preflight.short_of(wanted, quotas) == [
        "ml.m5.xlarge for spot training job usage: 1 granted, 6 needed"
    ]


def test_a_topic_is_told_of_a_run_that_failed(endpoint: str, tmp_path: Any) -> None:
    sns, sqs = client(endpoint, "sns"), client(endpoint, "sqs")
    topic = sns.create_topic(Name="failures")["TopicArn"]
    queue = sqs.create_queue(QueueName="failures")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    account = {"region": "us-east-1", "role_arn": ROLE}
    done = run_all(
        endpoint,
        "--run-id",
        f"told-{os.getpid()}",
        "--to",
        "01_preprocess",
        "--notify",
        topic,
        target="aws",
        bucket="mine",
        account=account,
        ratings=100,
        side_features=["none"],
    )
    assert done.returncode == 1
    (message,) = sqs.receive_message(QueueUrl=queue)["Messages"]
    body = json.loads(message["Body"])
    assert f"told-{os.getpid()}" in body["Subject"]
    assert "none" in body["Message"]
    assert "secret-of-the-test" not in message["Body"]
    for word in ("arn:aws:sns:us-east-1:123456789012:none-such",):
        again = run_all(
            endpoint,
            "--run-id",
            f"told2-{os.getpid()}",
            "--to",
            "01_preprocess",
            "--notify",
            word,
            target="aws",
            bucket="mine",
            account=account,
            ratings=100,
            side_features=["none"],
        )
        assert again.returncode == 1
        assert "could not be told" in again.stderr
