"""Upload the code, deploy a stack, remove it with its bucket.

    python deploy/cloudformation/stack.py deploy --stack NAME [-p Parameter=Value …] [--template workflow|airflow]
    python deploy/cloudformation/stack.py upload --stack NAME
    python deploy/cloudformation/stack.py remove --stack NAME --yes

``deploy`` makes the stack or changes it.  ``upload`` puts notebooks, lib, parameters, the command, the state machines
and Airflow's DAGs into the stack's bucket, under a key made of their contents, and says which parameters take it.
``remove`` empties the bucket, which holds all versions of all runs, and deletes bucket and stack.  Region and
credentials are boto3's own (environment, profile).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError, WaiterError

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = Path(__file__).resolve().parent
UPLOADED = ("run_all.py", "requirements.txt", "lib", "notebooks", "parameters")
MACHINES = ROOT / "deploy" / "step_functions"
AIRFLOW = ROOT / "deploy" / "airflow"
STARTUP = "startup.sh"


class StackError(Exception):
    """What went wrong, in one sentence."""


def main(arguments: list[str] | None = None) -> int:
    """Carry out one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="stack.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("deploy", "make or change a stack"),
        ("upload", "upload the code into the stack's bucket"),
        ("remove", "empty the stack's bucket, and delete bucket and stack"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("--stack", required=True, metavar="NAME", help="the stack's name")
        command.add_argument("--region", help="default: boto3's own")
        command.add_argument("--profile", help="default: boto3's own")
        if name == "deploy":
            command.add_argument("--template", choices=("workflow", "airflow"), default="workflow")
            command.add_argument("-p", dest="parameter", action="append", default=[], metavar="NAME=VALUE")
        if name == "remove":
            command.add_argument("--yes", action="store_true", help="all runs in the bucket are lost: yes")
    options = parser.parse_args(arguments)
    try:
        session = boto3.Session(profile_name=options.profile, region_name=options.region)
        {"deploy": deploy, "upload": upload, "remove": remove}[options.command](session, options)
    except StackError as error:
        print(f"stack.py: {error}", file=sys.stderr)
        return 1
    except (BotoCoreError, ClientError) as error:
        print(f"stack.py: AWS did not do it: {error}", file=sys.stderr)
        return 1
    return 0


def deploy(session: boto3.Session, options: argparse.Namespace) -> None:
    """Make a stack or change it, wait for it, and print its outputs."""
    cloudformation = session.client("cloudformation")
    body = (TEMPLATES / f"{options.template}.yaml").read_text()
    known = declared(cloudformation, body)
    given = dict(pair.partition("=")[::2] for pair in options.parameter)
    unknown = sorted(set(given) - known)
    if unknown:
        raise StackError(
            f"{options.template}.yaml has no parameter {unknown[0]}; it has {', '.join(sorted(known))}."
        )
    before = describe(cloudformation, options.stack)
    kept = {item["ParameterKey"]: item["ParameterValue"] for item in (before or {}).get("Parameters", [])}
    values = {**{name: value for name, value in kept.items() if name in known}, **given}
    parameters = [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]
    request = {
        "StackName": options.stack,
        "TemplateBody": body,
        "Parameters": parameters,
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
        "Tags": [{"Key": "project", "Value": "reelbook"}],
    }
    try:
        if before:
            cloudformation.update_stack(**request)
            waiter = cloudformation.get_waiter("stack_update_complete")
        else:
            cloudformation.create_stack(**request, OnFailure="ROLLBACK")
            waiter = cloudformation.get_waiter("stack_create_complete")
        print(f"{'Changing' if before else 'Making'} the stack {options.stack} ...")
        waiter.wait(StackName=options.stack, WaiterConfig={"Delay": 5, "MaxAttempts": 720})
    except ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise
        print(f"The stack {options.stack} is up to date.")
    except WaiterError as error:
        raise StackError(
            f"The stack {options.stack} failed: {first_failure(cloudformation, options.stack)}"
        ) from error
    for name, value in outputs(cloudformation, options.stack).items():
        print(f"{name:22} {value}")


def upload(session: boto3.Session, options: argparse.Namespace) -> None:
    """Put the code and the state machines under a key made of their contents."""
    bucket = outputs(session.client("cloudformation"), options.stack).get("BucketName")
    if not bucket:
        raise StackError(f"The stack {options.stack} has no bucket: deploy the template workflow first.")
    files = dict(uploaded())
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    key = f"code/{digest.hexdigest()[:16]}"
    s3 = session.client("s3")
    for name, path in files.items():
        if name == STARTUP:  # it has to know where the rest is
            body = f"export REELBOOK_CODE=s3://{bucket}/{key}\n".encode() + path.read_bytes()
            s3.put_object(Bucket=bucket, Key=f"{key}/{name}", Body=body)
        else:
            s3.upload_file(str(path), bucket, f"{key}/{name}")
    print(f"{len(files)} files under s3://{bucket}/{key}")
    print(
        f"Make the state machines: stack.py deploy --stack {options.stack} -p DefinitionKey={key} -p Image=URI"
    )
    print(f"Give Airflow the code: stack.py deploy --template airflow --stack NAME -p CodeKey={key} …")


def uploaded() -> Iterator[tuple[str, Path]]:
    """Yield the names and paths of what is uploaded."""
    for name in UPLOADED:
        path = ROOT / name
        for found in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if found.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(found.parts):
                yield found.relative_to(ROOT).as_posix(), found
    for found in sorted(MACHINES.glob("*.asl.json")):
        yield found.name, found
    for found in sorted((AIRFLOW / "dags").glob("*.py")):
        yield f"dags/{found.name}", found
    yield STARTUP, AIRFLOW / STARTUP


def remove(session: boto3.Session, options: argparse.Namespace) -> None:
    """Empty and delete the stack's bucket, and delete the stack."""
    cloudformation = session.client("cloudformation")
    if describe(cloudformation, options.stack) is None:
        raise StackError(f"There is no stack {options.stack}.")
    bucket = outputs(cloudformation, options.stack).get("BucketName")
    if not options.yes:
        what = f" and every version of every object in s3://{bucket}" if bucket else ""
        raise StackError(f"This deletes the stack {options.stack}{what}: add --yes.")
    if bucket:
        empty(session.client("s3"), bucket)
    cloudformation.delete_stack(StackName=options.stack)
    try:
        cloudformation.get_waiter("stack_delete_complete").wait(
            StackName=options.stack, WaiterConfig={"Delay": 5, "MaxAttempts": 720}
        )
    except WaiterError as error:
        raise StackError(
            f"The stack {options.stack} was not deleted: {first_failure(cloudformation, options.stack)}"
        ) from error
    if bucket:  # the template retains it, so that no mistake deletes runs
        session.client("s3").delete_bucket(Bucket=bucket)
    print(f"The stack {options.stack} is gone{' with its bucket ' + bucket if bucket else ''}.")
    print("Its KMS key is kept, for it may have encrypted something else; delete it in KMS where it has not.")


def empty(s3: Any, bucket: str) -> None:
    """Delete every version, delete marker and unfinished upload of a bucket."""
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for one in page.get("Uploads", []):
            s3.abort_multipart_upload(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])
    count = 0
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        versions = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        objects = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in versions]
        if objects:
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                first = answer["Errors"][0]
                raise StackError(f"s3://{bucket}/{first['Key']} was not deleted: {first['Message']}")
            count += len(objects)
    print(f"{count} versions deleted from s3://{bucket}")


def declared(cloudformation: Any, body: str) -> set[str]:
    """Return the names of a template's parameters."""
    answer = cloudformation.get_template_summary(TemplateBody=body)
    return {item["ParameterKey"] for item in answer["Parameters"]}


def describe(cloudformation: Any, stack: str) -> dict[str, Any] | None:
    """Return a stack's description, or None where there is none."""
    try:
        found: dict[str, Any] = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return found


def outputs(cloudformation: Any, stack: str) -> dict[str, str]:
    """Return a stack's outputs."""
    found = describe(cloudformation, stack)
    if found is None:
        raise StackError(f"There is no stack {stack}: deploy it first.")
    return {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", [])}


def first_failure(cloudformation: Any, stack: str) -> str:
    """Return which resource failed first, and why."""
    events = [
        event
        for page in cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack)
        for event in page["StackEvents"]
        if event.get("ResourceStatus", "").endswith("FAILED")
    ]
    if not events:
        return "CloudFormation gives no reason."
    first = min(events, key=lambda event: event["Timestamp"])
    return f"{first['LogicalResourceId']}: {first.get('ResourceStatusReason', 'no reason given')}"


if __name__ == "__main__":
    sys.exit(main())
