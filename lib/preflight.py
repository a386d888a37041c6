"""Looks before a run leaps: who one is, what the role may, whether bucket, image and quotas are there, what it costs.

Everything here reads; nothing is made or changed.  What one is not allowed to look at is said to be unknown, not wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lib import settings
from lib.errors import ReelbookError
from lib.plan import Plan

OK, UNKNOWN, WRONG = "ok", "unknown", "wrong"
STAGES = ("03_train", "04_tune", "05_transform", "07_deploy")
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what, its verdict (``ok``, ``unknown`` or ``wrong``), and what was seen."""

    what: str
    verdict: str
    seen: str


class _Wrong(Exception):
    """What is wrong, and what to do."""


def check(plan: Plan) -> list[Finding]:
    """Look at what the jobs of a plan need.

    Parameters
    ----------
    plan : Plan
        From ``lib.plan.make``: parameters and notebooks are right already.

    Returns
    -------
    list of Finding
        Credentials first; where there are none, nothing else is looked at.
    """
    from lib import aws

    values = _values(plan)
    first = Finding("parameters", OK, f"{len(plan.selected)} stages, {values['target']}")
    try:
        account = aws.connect(values["target"], **values["account"])
    except ReelbookError as error:
        return [first, Finding("connection", WRONG, str(error))]
    looks: list[tuple[str, Callable[[], str]]] = [
        ("credentials", lambda: _identity(account)),
        ("bucket", lambda: _bucket(account, values["bucket"])),
    ]
    if values["target"] == "aws":
        looks += [
            ("role", lambda: _role(account)),
            ("permissions", lambda: _permissions(account, values["bucket"])),
            ("image", lambda: _image(account, values)),
            ("quotas", lambda: _quotas(values)),
        ]
        if account.kms_key:
            looks.append(("KMS key", lambda: _key(account.kms_key or "")))
        if account.subnets:
            looks.append(("VPC", lambda: _vpc(account)))
    findings = [first, *(_looked(what, look) for what, look in looks)]
    return [*findings, Finding("cost, at most", *_cost(values))]


def _values(plan: Plan) -> dict[str, Any]:
    """Return the parameters of the stages that take part, which have the same value in all of them."""
    found: dict[str, Any] = {}
    for stage in plan.selected:
        found |= plan.own_values(stage.name)
    found["stages"] = [stage.name for stage in plan.selected]
    return found


def _looked(what: str, look: Callable[[], str]) -> Finding:
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        return Finding(what, OK, look())
    except _Wrong as error:
        return Finding(what, WRONG, str(error))
    except ReelbookError as error:
        return Finding(what, WRONG, str(error))
    except ClientError as error:
        code = error.response["Error"].get("Code", "")
        message = error.response["Error"].get("Message", "").partition("\n")[0].rstrip(".")
        if code in _DENIED:
            return Finding(what, UNKNOWN, f"these credentials may not look ({error.operation_name})")
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            return Finding(what, UNKNOWN, f"{error.operation_name} is not answered now")
        if code in ("UnknownOperationException", "NotImplemented", "NoSuchResourceException"):
            return Finding(what, UNKNOWN, f"{error.operation_name} is not answered: {message}")
        return Finding(what, WRONG, f"{error.operation_name}: {code}: {message}")
    except BotoCoreError as error:
        return Finding(what, UNKNOWN, f"no answer: {error}")
    except ResponseParserError:
        return Finding(what, UNKNOWN, "the answer was not understood")


def _client(service: str) -> Any:
    import boto3

    return boto3.client(service)


def _identity(account: Any) -> str:
    found = _client("sts").get_caller_identity()
    return f"{found['Arn']}, region {account.region}"


def _bucket(account: Any, bucket: str) -> str:
    from botocore.exceptions import ClientError

    s3 = _client("s3")
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("404", "NoSuchBucket"):
            if account.target == "local":
                return f"{bucket} will be made"
            raise _Wrong(f"there is no bucket {bucket}: make it, or correct `bucket`") from None
        if code == "403":
            raise _Wrong(f"{bucket} belongs to somebody else, or may not be used: correct `bucket`") from None
        raise
    if account.target == "local":
        return bucket
    region = s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] or "us-east-1"
    if region != account.region:
        raise _Wrong(
            f"{bucket} is in {region}, but jobs would run in {account.region}: SageMaker refuses that"
        )
    return f"{bucket} in {region}"


def _role(account: Any) -> str:
    name = account.role_arn.rpartition("/")[2]
    iam = _client("iam")
    try:
        role = iam.get_role(RoleName=name)["Role"]
    except iam.exceptions.NoSuchEntityException:
        raise _Wrong(f"there is no role {name}: correct `account.role_arn`") from None
    if role["Arn"] != account.role_arn:
        raise _Wrong(f"the role {name} of this account is {role['Arn']}: correct `account.role_arn`")
    if not trusts_sagemaker(role["AssumeRolePolicyDocument"]):
        raise _Wrong(f"{name} does not trust sagemaker.amazonaws.com: change its trust policy")
    return f"{name}, trusts SageMaker"


def trusts_sagemaker(policy: Mapping[str, Any] | str) -> bool:
    """Tell whether a role's trust policy lets SageMaker take it on."""
    document = json.loads(policy) if isinstance(policy, str) else policy
    for statement in _list(document.get("Statement", [])):
        services = _list(statement.get("Principal", {}).get("Service", []))
        actions = _list(statement.get("Action", []))
        allowed = statement.get("Effect") == "Allow" and {"sts:AssumeRole", "sts:*", "*"} & set(actions)
        if allowed and "sagemaker.amazonaws.com" in services:
            return True
    return False


def _permissions(account: Any, bucket: str) -> str:
    actions = ["s3:GetObject", "s3:PutObject", "s3:ListBucket"]
    answer = _client("iam").simulate_principal_policy(
        PolicySourceArn=account.role_arn,
        ActionNames=actions,
        ResourceArns=[f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/x"],
    )
    denied = {
        result["EvalActionName"]
        for result in answer["EvaluationResults"]
        if result["EvalDecision"] == "explicitDeny"
    }
    allowed = {
        result["EvalActionName"]
        for result in answer["EvaluationResults"]
        if result["EvalDecision"] == "allowed"
    }
    lacking = sorted((set(actions) - allowed) | denied)
    if lacking:
        raise _Wrong(f"the role may not {', '.join(lacking)} on {bucket}: add a policy")
    return "the role may read, write and list the bucket"


def _image(account: Any, values: Mapping[str, Any]) -> str:
    own = (values.get("training") or {}).get("image_uri")
    if own:
        return f"{own} (your own; not looked at)"
    from lib import job_requests

    return job_requests.builtin_image_uri(account)


def needed(values: Mapping[str, Any]) -> dict[str, int]:
    """Return the quotas that the jobs of a run need, by Service Quotas' names, and how many instances at once.

    Parameters
    ----------
    values : mapping
        The run's parameters, and its stages under ``stages``.
    """
    wanted: dict[str, int] = {}
    stages = values["stages"]
    if {"03_train", "04_tune"} & set(stages):
        training = settings.validate(settings.TrainingResources, values.get("training"), "training")
        count = training.instance_count
        if "04_tune" in stages:
            tuning = settings.validate(settings.TuningLimits, values.get("tuning"), "tuning")
            count *= min(tuning.max_parallel_jobs, tuning.max_jobs)
        kind = "spot training" if training.spot else "training"
        wanted[f"{training.instance_type} for {kind} job usage"] = count
    if "05_transform" in stages:
        transform = settings.validate(settings.TransformResources, values.get("transform"), "transform")
        wanted[f"{transform.instance_type} for transform job usage"] = transform.instance_count
    if "07_deploy" in stages:
        endpoint = settings.validate(settings.EndpointResources, values.get("endpoint"), "endpoint")
        wanted[f"{endpoint.instance_type} for endpoint usage"] = endpoint.instance_count
    return wanted


def short_of(wanted: Mapping[str, int], quotas: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each quota that is too small.

    Parameters
    ----------
    wanted : mapping
        From `needed`.
    quotas : iterable of mapping
        What ListServiceQuotas answers: ``QuotaName`` and ``Value``.
    """
    granted = {quota["QuotaName"]: quota["Value"] for quota in quotas}
    return [
        f"{name}: {granted[name]:.0f} granted, {count} needed"
        for name, count in wanted.items()
        if name in granted and granted[name] < count
    ]


def _quotas(values: Mapping[str, Any]) -> str:
    wanted = needed(values)
    pages = _client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    lacking = short_of(wanted, [quota for page in pages for quota in page["Quotas"]])
    if lacking:
        raise _Wrong(f"{'; '.join(lacking)}: ask for more in Service Quotas")
    return ", ".join(f"{count} × {name.removesuffix(' usage')}" for name, count in wanted.items())


def _key(arn: str) -> str:
    state = _client("kms").describe_key(KeyId=arn)["KeyMetadata"]["KeyState"]
    if state != "Enabled":
        raise _Wrong(f"the key {arn} is {state}")
    return "enabled"


def _vpc(account: Any) -> str:
    ec2 = _client("ec2")
    subnets = ec2.describe_subnets(SubnetIds=list(account.subnets))["Subnets"]
    groups = ec2.describe_security_groups(GroupIds=list(account.security_group_ids))["SecurityGroups"]
    vpcs = {one["VpcId"] for one in [*subnets, *groups]}
    if len(vpcs) != 1:
        raise _Wrong(f"subnets and security groups are of several VPCs: {', '.join(sorted(vpcs))}")
    (vpc,) = vpcs
    filters = [{"Name": "vpc-id", "Values": [vpc]}]
    endpoints = ec2.describe_vpc_endpoints(Filters=filters)["VpcEndpoints"]
    if not any(one["ServiceName"].endswith(".s3") for one in endpoints):
        return f"{vpc}; it has no endpoint for S3: jobs need one, or a NAT gateway"
    return f"{vpc}, with an endpoint for S3"


def _cost(values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the verdict and a sentence: an upper bound in US dollars by the parameter ``prices``."""
    if values["target"] == "local":
        return OK, "nothing: the local AWS"
    prices = values.get("prices") or {}
    parts, unpriced, total = [], set[str](), 0.0
    if {"03_train", "04_tune"} & set(values["stages"]):
        training = settings.validate(settings.TrainingResources, values.get("training"), "training")
        jobs = 1
        if "04_tune" in values["stages"]:
            jobs = settings.validate(settings.TuningLimits, values.get("tuning"), "tuning").max_jobs
        hours = jobs * training.instance_count * training.max_run_seconds / 3600
        if training.instance_type in prices:
            total += hours * prices[training.instance_type]
            parts.append(
                f"training {hours:.1f} instance hours: {hours * prices[training.instance_type]:.2f} USD"
            )
        else:
            unpriced.add(training.instance_type)
    if "05_transform" in values["stages"]:
        transform = settings.validate(settings.TransformResources, values.get("transform"), "transform")
        price = prices.get(transform.instance_type)
        each = f"{transform.instance_count * price:.2f} USD" if price else "no price given"
        parts.append(f"transform: no limit in SageMaker, {each} an hour")
    if "07_deploy" in values["stages"]:
        endpoint = settings.validate(settings.EndpointResources, values.get("endpoint"), "endpoint")
        price = prices.get(endpoint.instance_type)
        each = f"{endpoint.instance_count * price:.2f} USD" if price else "no price given"
        parts.append(f"endpoint: until the clean-up, {each} an hour")
    if unpriced:
        parts.append(f"no price given of {', '.join(sorted(unpriced))} (parameter `prices`)")
    return (UNKNOWN if unpriced else OK), f"{total:.2f} USD bounded; " + "; ".join(parts)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
