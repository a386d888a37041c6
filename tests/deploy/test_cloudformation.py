"""The templates: nothing open, nothing too wide, nothing in clear; and `stack.py` against moto.

Each rule is tried on a template that breaks it, among them the faults of the article's own template.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from environments import MOTO, moto
from environments import moto_client as client

from benchmarks.support.environments import ROOT, programs_of

FOLDER = ROOT / "deploy" / "cloudformation"
TEMPLATES = ("workflow", "airflow")
CHECKOV = ["checkov==3.3.8"]
Template = dict[str, Any]

WIDE = {  # statements that may name any resource, and why
    "AccountDecidesByItsPolicies": "a key's own policy: the resource is the key",
    "LogsOfThisStack": "a key's own policy, bound to this stack's log group",
    "BudgetsTell": "a key's own policy, bound to this account",
    "JobMetrics": "PutMetricData has no resources; bound to a namespace",
    "HostMetrics": "PutMetricData has no resources; bound to a namespace",
    "Login": "GetAuthorizationToken has no resources",
    "Lists": "List operations have no resources",
    "OwnLogs": "log deliveries have no resources",
}
ALL_ACTIONS = {"AccountDecidesByItsPolicies": "kms:*", "TlsOnly": "s3:*"}  # the latter denies
SECRET = re.compile(r"passw|secret|token|private.?key", re.IGNORECASE)


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms, such as ``!Ref``."""


def short_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", short_form)  # type: ignore[no-untyped-call]


def read(name: str) -> Template:
    template: Template = yaml.load((FOLDER / f"{name}.yaml").read_text(), Loader)
    return template


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(template: Template) -> Iterator[dict[str, Any]]:
    """Yield every statement of every policy."""

    def walk(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            if "Effect" in value and ("Action" in value or "NotAction" in value):
                yield value
            for inner in value.values():
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    yield from walk(template["Resources"])


def of_kind(template: Template, kind: str) -> dict[str, Any]:
    return {name: one for name, one in template["Resources"].items() if one["Type"] == kind}


# ---- the rules: each returns what is wrong


def open_to_the_world(template: Template) -> list[str]:
    found = []
    for name, one in template["Resources"].items():
        properties = one.get("Properties", {})
        rules = listed(properties.get("SecurityGroupIngress", []))
        if one["Type"] == "AWS::EC2::SecurityGroupIngress":
            rules.append(properties)
        if any("CidrIp" in rule or "CidrIpv6" in rule for rule in rules):
            found.append(f"{name} lets addresses in")
        if properties.get("PubliclyAccessible") or properties.get("WebserverAccessMode") == "PUBLIC_ONLY":
            found.append(f"{name} is public")
        if properties.get("AssociatePublicIpAddress"):
            found.append(f"{name} has a public address")
    for name, one in of_kind(template, "AWS::S3::Bucket").items():
        blocked = one["Properties"].get("PublicAccessBlockConfiguration", {})
        if not (len(blocked) == 4 and all(blocked.values())):
            found.append(f"{name} does not block public access")
    for statement in statements(template):
        principals = statement.get("Principal", {})
        anyone = principals == "*" or (isinstance(principals, dict) and "*" in principals.values())
        if anyone and statement["Effect"] == "Allow":
            found.append(f"{statement.get('Sid')} allows anyone")
    return found


def too_wide(template: Template) -> list[str]:
    found = []
    for statement in statements(template):
        sid = statement.get("Sid", "")
        if statement["Effect"] != "Allow" or "AssumeRole" in str(statement["Action"]):
            continue
        if any("*" in str(action) for action in listed(statement["Action"])) and sid not in ALL_ACTIONS:
            found.append(f"{sid} allows {statement['Action']}")
        if "*" in listed(statement.get("Resource")) and sid not in WIDE:
            found.append(f"{sid} names any resource")
        if "NotAction" in statement or "NotResource" in statement:
            found.append(f"{sid} says what it does not allow")
    for name, one in of_kind(template, "AWS::IAM::Role").items():
        managed = re.findall(r"policy/[\w/]+", json.dumps(one["Properties"].get("ManagedPolicyArns", [])))
        others = set(managed) - {"policy/AmazonSSMManagedInstanceCore"}
        found += [f"{name} has the managed {arn}" for arn in others]
    return found


def passes_any_role(template: Template) -> list[str]:
    return [
        f"{statement.get('Sid')} passes roles freely"
        for statement in statements(template)
        if "iam:PassRole" in listed(statement["Action"])
        and (
            "iam:PassedToService" not in json.dumps(statement.get("Condition", {}))
            or "*" in json.dumps(statement["Resource"])
        )
    ]


def jobs_of_others(template: Template) -> list[str]:
    return [
        f"{statement.get('Sid')} reaches jobs of others"
        for statement in statements(template)
        if any(str(action).startswith("sagemaker:") for action in listed(statement["Action"]))
        and statement.get("Sid") not in WIDE
        and "/${RunPrefix}-*" not in json.dumps(statement["Resource"])
    ]


def in_clear(template: Template) -> list[str]:
    needed = {
        "AWS::S3::Bucket": "BucketEncryption",
        "AWS::SNS::Topic": "KmsMasterKeyId",
        "AWS::Logs::LogGroup": "KmsKeyId",
        "AWS::RDS::DBInstance": "StorageEncrypted",
        "AWS::MWAA::Environment": "KmsKey",
    }
    found = [
        f"{name} is not encrypted"
        for kind, member in needed.items()
        for name, one in of_kind(template, kind).items()
        if not one["Properties"].get(member)
    ]
    for name, one in of_kind(template, "AWS::EC2::Instance").items():
        disks = one["Properties"].get("BlockDeviceMappings", [])
        if not disks or not all(disk["Ebs"].get("Encrypted") for disk in disks):
            found.append(f"{name} has a disk in clear")
        if one["Properties"].get("MetadataOptions", {}).get("HttpTokens") != "required":
            found.append(f"{name} takes metadata requests of version 1")
    policies = json.dumps(of_kind(template, "AWS::S3::BucketPolicy"))
    found += [
        f"{name} answers without TLS"
        for name in of_kind(template, "AWS::S3::Bucket")
        if '"aws:SecureTransport": "false"' not in policies or f'"Ref": "{name}"' not in policies
    ]
    return found


def tells_secrets(template: Template) -> list[str]:
    found = [
        f"the parameter {name} is a secret" for name in template.get("Parameters", {}) if SECRET.search(name)
    ]
    for name, one in template["Resources"].items():
        properties = one.get("Properties", {})
        if "MasterUserPassword" in properties:
            found.append(f"{name} is given a password")
        data = json.dumps(properties.get("UserData", ""))
        held = [one for one in re.findall(r"\$\{(\w+)\}", data) if SECRET.search(one)]
        found += [f"the UserData of {name} holds {one}" for one in held]
        if re.search(r"http://(?!127\.0\.0\.1)", data):
            found.append(f"the UserData of {name} fetches without TLS")
        if "git clone" in data:
            found.append(f"the UserData of {name} runs what somebody pushed last")
    return found


def signals_early(template: Template) -> list[str]:
    found = []
    for name, one in of_kind(template, "AWS::EC2::Instance").items():
        data = json.dumps(one["Properties"].get("UserData", ""))
        signal = data.rfind("tell 0") if "tell 0" in data else data.rfind("cfn-signal")
        check = max(data.find("/health"), 0)
        if "CreationPolicy" not in one or signal < 0 or not 0 < check < signal:
            found.append(f"{name} says that it is up without looking")
    return found


def forgets(template: Template) -> list[str]:
    found = []
    for name, one in template["Resources"].items():
        kind = one["Type"]
        if kind in ("AWS::S3::Bucket", "AWS::KMS::Key") and one.get("DeletionPolicy") != "Retain":
            found.append(f"{name} goes with the stack")
        if kind == "AWS::RDS::DBInstance" and one.get("DeletionPolicy") != "Snapshot":
            found.append(f"{name} goes without a snapshot")
        if kind == "AWS::Logs::LogGroup" and not one["Properties"].get("RetentionInDays"):
            found.append(f"{name} is kept for ever")
        if (
            kind == "AWS::S3::Bucket"
            and one["Properties"].get("VersioningConfiguration", {}).get("Status") != "Enabled"
        ):
            found.append(f"{name} keeps no versions")
    return found


RULES: list[Callable[[Template], list[str]]] = [
    open_to_the_world,
    too_wide,
    passes_any_role,
    jobs_of_others,
    in_clear,
    tells_secrets,
    signals_early,
    forgets,
]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_templates_keep_the_rules(rule: Callable[[Template], list[str]], name: str) -> None:
    assert rule(read(name)) == []


def change(path: str, value: Any) -> Callable[[Template], None]:
    """Return what sets, or for ``...`` removes, a member of a template's resources."""

    def apply(template: Template) -> None:
        *way, last = path.split("/")
        place: Any = template["Resources"]
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return apply


def statement(**members: Any) -> Callable[[Template], None]:
    def apply(template: Template) -> None:
        role = next(iter(of_kind(template, "AWS::IAM::Role").values()))
        role["Properties"]["Policies"][0]["PolicyDocument"]["Statement"].append(
            {"Effect": "Allow", "Resource": "arn:x", **members}
        )

    return apply


def parameter(name: str) -> Callable[[Template], None]:
    return lambda template: template["Parameters"].update({name: {"Type": "String"}})


WORLD = [{"IpProtocol": "tcp", "FromPort": 8080, "ToPort": 8080, "CidrIp": "0.0.0.0/0"}]
USER_DATA = {
    "Fn::Base64": {"Fn::Sub": "#!/bin/bash\nairflow --password ${DBPassword}\ncfn-signal --success true\n"}
}


@pytest.mark.parametrize(
    ("template", "rule", "fault"),
    [
        ("airflow", open_to_the_world, change("Group/Properties/SecurityGroupIngress", WORLD)),
        ("airflow", open_to_the_world, change("Database/Properties/PubliclyAccessible", True)),
        ("airflow", open_to_the_world, change("Environment/Properties/WebserverAccessMode", "PUBLIC_ONLY")),
        ("workflow", open_to_the_world, change("Bucket/Properties/PublicAccessBlockConfiguration", {})),
        (
            "workflow",
            open_to_the_world,
            statement(Sid="Anyone", Action="s3:GetObject", Principal={"AWS": "*"}),
        ),
        ("workflow", too_wide, statement(Sid="AllOfS3", Action="s3:*")),
        ("workflow", too_wide, statement(Sid="Anywhere", Action="s3:GetObject", Resource="*")),
        (
            "airflow",
            too_wide,
            change(
                "Role/Properties/ManagedPolicyArns", ["arn:aws:iam::aws:policy/AmazonSageMakerFullAccess"]
            ),
        ),
        ("workflow", passes_any_role, statement(Sid="Pass", Action="iam:PassRole")),
        (
            "workflow",
            passes_any_role,
            statement(
                Sid="Pass",
                Action="iam:PassRole",
                Resource="*",
                Condition={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
            ),
        ),
        ("workflow", jobs_of_others, statement(Sid="Train", Action="sagemaker:CreateTrainingJob")),
        ("workflow", in_clear, change("Bucket/Properties/BucketEncryption", ...)),
        ("workflow", in_clear, change("Topic/Properties/KmsMasterKeyId", ...)),
        ("workflow", in_clear, change("BucketPolicy/Properties/PolicyDocument/Statement", [])),
        ("airflow", in_clear, change("Database/Properties/StorageEncrypted", False)),
        ("airflow", in_clear, change("Host/Properties/MetadataOptions/HttpTokens", "optional")),
        ("airflow", in_clear, change("Host/Properties/BlockDeviceMappings", [])),
        ("airflow", tells_secrets, parameter("DBPassword")),
        ("airflow", tells_secrets, change("Host/Properties/UserData", USER_DATA)),
        (
            "airflow",
            tells_secrets,
            change(
                "Host/Properties/UserData", {"Fn::Base64": "git clone https://example.com/x && sh x/run.sh"}
            ),
        ),
        ("airflow", tells_secrets, change("Database/Properties/MasterUserPassword", {"Ref": "Word"})),
        ("airflow", signals_early, change("Host/Properties/UserData", USER_DATA)),
        ("airflow", signals_early, change("Host/CreationPolicy", ...)),
        ("workflow", forgets, change("Bucket/DeletionPolicy", "Delete")),
        ("workflow", forgets, change("Bucket/Properties/VersioningConfiguration/Status", "Suspended")),
        ("workflow", forgets, change("Log/Properties/RetentionInDays", ...)),
        ("airflow", forgets, change("Database/DeletionPolicy", "Delete")),
    ],
)
def test_a_fault_is_found(
    template: str, rule: Callable[[Template], list[str]], fault: Callable[[Template], None]
) -> None:
    broken = copy.deepcopy(read(template))
    fault(broken)
    assert rule(broken)


def test_no_reason_is_left_over() -> None:
    found = {one.get("Sid") for name in TEMPLATES for one in statements(read(name))}
    assert set(WIDE) <= found
    assert set(ALL_ACTIONS) <= found


def test_cfn_lint_finds_nothing() -> None:
    programs = programs_of("step-functions", MOTO)
    done = subprocess.run(
        [programs / "cfn-lint", *sorted(FOLDER.glob("*.yaml"))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_checkov_finds_nothing_that_is_not_explained() -> None:
    programs = programs_of("checkov", CHECKOV)
    command = [programs / "checkov", "-d", FOLDER, "--framework", "cloudformation", "--skip-download"]
    done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True)
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert {check["file_path"] for check in found["results"]["passed_checks"]} >= {
        "/workflow.yaml",
        "/airflow.yaml",
    }
    failed = found["results"]["failed_checks"]
    assert not failed, [(check["check_id"], check["resource"]) for check in failed]


# ---- stack.py


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A moto server."""
    with moto(tmp_path_factory.mktemp("moto") / "log") as address:
        yield address


def stack(endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "REELBOOK_"))
    }
    variables |= {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, str(FOLDER / "stack.py"), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)


def test_the_stack_is_made_given_its_machines_and_removed_with_its_bucket(endpoint: str) -> None:
    made = stack(endpoint, "deploy", "--stack", "reelbook")
    assert made.returncode == 0, made.stderr
    values = dict(line.split(maxsplit=1) for line in made.stdout.splitlines()[1:])
    assert "OneJobMachineArn" not in values
    bucket = values["BucketName"]

    uploaded = stack(endpoint, "upload", "--stack", "reelbook")
    assert uploaded.returncode == 0, uploaded.stderr
    key = re.search(r"DefinitionKey=(\S+)", uploaded.stdout)
    assert key
    s3 = client(endpoint, "s3")
    names = {
        item["Key"]
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        for item in page["Contents"]
    }
    expected = {"run_all.py", "lib/jobs.py", "workflow.asl.json", "requirements.txt", "parameters/aws.yaml"}
    expected |= {f"dags/{path.name}" for path in (ROOT / "deploy" / "airflow" / "dags").glob("*.py")}
    assert {f"{key[1]}/{name}" for name in expected} <= names
    startup = s3.get_object(Bucket=bucket, Key=f"{key[1]}/startup.sh")["Body"].read().decode()
    assert startup.startswith(f"export REELBOOK_CODE=s3://{bucket}/{key[1]}\n")
    assert f"CodeKey={key[1]}" in uploaded.stdout
    assert not [name for name in names if "__pycache__" in name]
    assert (
        key[1] in stack(endpoint, "upload", "--stack", "reelbook").stdout
    )  # the same contents, the same key

    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/reelbook:1"
    given = (f"DefinitionKey={key[1]}", f"CodeBucket={bucket}", f"Image={image}", "NotifyEmail=a@example.com")
    second = stack(
        endpoint, "deploy", "--stack", "second", *(word for one in given for word in ("-p", one))
    )  # a stack of its own: moto cannot change one that has a bucket without a name
    assert second.returncode == 0, second.stderr
    assert "OneJobMachineArn" in second.stdout
    machines = client(endpoint, "stepfunctions").list_state_machines()["stateMachines"]
    assert len(machines) == 2
    assert stack(endpoint, "remove", "--stack", "second", "--yes").returncode == 0

    s3.put_object(Bucket=bucket, Key="runs/x", Body=b"1")
    s3.put_object(Bucket=bucket, Key="runs/x", Body=b"2")
    s3.delete_object(Bucket=bucket, Key="runs/x")
    s3.create_multipart_upload(Bucket=bucket, Key="runs/half")
    refused = stack(endpoint, "remove", "--stack", "reelbook")
    assert refused.returncode == 1
    assert bucket in refused.stderr
    assert "--yes" in refused.stderr
    assert bucket in {one["Name"] for one in s3.list_buckets()["Buckets"]}
    removed = stack(endpoint, "remove", "--stack", "reelbook", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert bucket not in {one["Name"] for one in s3.list_buckets()["Buckets"]}
    assert not client(endpoint, "cloudformation").list_stacks(StackStatusFilter=["CREATE_COMPLETE"])[
        "StackSummaries"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("upload", "--stack", "none"), "There is no stack none: deploy it first."),
        (("remove", "--stack", "none", "--yes"), "There is no stack none."),
        (("deploy", "--stack", "x", "-p", "RunPrefx=a"), "workflow.yaml has no parameter RunPrefx"),
    ],
)
def test_a_wrong_command_is_one_sentence(endpoint: str, arguments: tuple[str, ...], message: str) -> None:
    done = stack(endpoint, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_machines_substitutions_are_those_that_the_template_makes() -> None:
    machines = of_kind(read("workflow"), "AWS::StepFunctions::StateMachine")
    given = [set(one["Properties"]["DefinitionSubstitutions"]) for one in machines.values()]
    for path in (ROOT / "deploy" / "step_functions").glob("*.asl.json"):
        used = set(re.findall(r"\$\{(\w+)\}", path.read_text()))
        assert all(used <= names for names in given), path.name


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_names_only_files_that_are_uploaded(name: str) -> None:
    listed = subprocess.run(
        [sys.executable, "-c", "import stack; print(*(name for name, _ in stack.uploaded()))"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=True,
    )
    uploaded = listed.stdout.split()
    keys = re.findall(r"\$\{(?:DefinitionKey|CodeKey)\}/([\w./]+)", (FOLDER / f"{name}.yaml").read_text())
    assert keys
    assert [key for key in keys if not any(one == key or one.startswith(f"{key}/") for one in uploaded)] == []
