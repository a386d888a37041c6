"""Requests are refused in AWS's words, answers are projected on AWS's shapes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.local.protocol import AwsError, has_operation, parse, render

REQUEST: dict[str, Any] = {
    "TrainingJobName": "a-job",
    "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
    "RoleArn": "arn:aws:iam::123456789012:role/x",
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
    "StoppingCondition": {"MaxRuntimeInSeconds": 10},
}


def parsed(**changes: Any) -> dict[str, Any]:
    return parse("sagemaker", "CreateTrainingJob", json.dumps({**REQUEST, **changes}).encode())


def refused(raw: bytes, operation: str = "CreateTrainingJob") -> AwsError:
    with pytest.raises(AwsError) as caught:
        parse("sagemaker", operation, raw)
    return caught.value


def refused_change(**changes: Any) -> str:
    error = refused(json.dumps({**REQUEST, **changes}).encode())
    assert error.code == "ValidationException"
    return error.message


def test_a_good_request_comes_through_whole() -> None:
    assert parsed() == REQUEST


def test_unknown_members_and_nulls_are_dropped_at_every_depth() -> None:
    resources = {**REQUEST["ResourceConfig"], "Unknown": 1, "VolumeKmsKeyId": None}
    assert parsed(ResourceConfig=resources, Junk={"a": 1}, HyperParameters=None) == REQUEST


def test_missing_members_are_named() -> None:
    error = refused(b"{}")
    assert error.message == (
        "3 validation errors detected: "
        "Value null at 'trainingJobName' failed to satisfy constraint: Member must not be null; "
        "Value null at 'roleArn' failed to satisfy constraint: Member must not be null; "
        "Value null at 'outputDataConfig' failed to satisfy constraint: Member must not be null"
    )
    assert (error.code, error.status) == ("ValidationException", 400)


def test_a_broken_pattern() -> None:
    assert refused_change(TrainingJobName="a_b") == (
        "1 validation error detected: Value 'a_b' at 'trainingJobName' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"
    )


def test_a_name_that_is_too_long() -> None:
    message = refused_change(TrainingJobName="a" * 64)
    assert message.endswith("Member must have length less than or equal to 63")


def test_a_value_outside_an_enumeration() -> None:
    message = refused_change(ResourceConfig={**REQUEST["ResourceConfig"], "InstanceType": "local"})
    assert message.startswith(
        "1 validation error detected: Value 'local' at 'resourceConfig.instanceType' failed to satisfy "
        "constraint: Member must satisfy enum value set: [ml."
    )


def test_a_number_out_of_range() -> None:
    assert refused_change(StoppingCondition={"MaxRuntimeInSeconds": 0}) == (
        "1 validation error detected: Value '0' at 'stoppingCondition.maxRuntimeInSeconds' failed to "
        "satisfy constraint: Member must have value greater than or equal to 1"
    )


def test_a_member_of_a_list_is_numbered() -> None:
    message = refused_change(Tags=[{"Key": "k", "Value": "v"}, {"Key": "k"}])
    assert "Value null at 'tags.2.member.value'" in message


def test_strings_in_maps_and_lists_are_shown_with_all_their_constraints() -> None:
    assert refused_change(HyperParameters={"k": "v", "long": "x" * 2501}) == (
        f"1 validation error detected: Value '{{k=v, long={'x' * 2501}}}' at 'hyperParameters' failed to "
        "satisfy constraint: Map value must satisfy constraint: [Member must have length less than or equal "
        "to 2500, Member must have length greater than or equal to 0, Member must satisfy regular "
        "expression pattern: .*]"
    )
    message = refused_change(VpcConfig={"Subnets": ["subnet-1"], "SecurityGroupIds": ["??"]})
    assert "Value '[??]' at 'vpcConfig.securityGroupIds' failed" in message
    assert "Member must satisfy constraint: [Member must have length less than or equal to 32" in message


def test_a_java_only_pattern_is_not_checked() -> None:
    assert parsed(Tags=[{"Key": "ключ", "Value": "ü"}])["Tags"] == [{"Key": "ключ", "Value": "ü"}]


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b'"text"',
        b"\xff",
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"TrainingJobName": "\\ud800"}',
        b'{"TrainingJobName": 3}',
        b'{"TrainingJobName": ["x"]}',
        b'{"StoppingCondition": []}',
        b'{"Tags": {}}',
        b'{"StoppingCondition": {"MaxRuntimeInSeconds": "10"}}',
        b'{"StoppingCondition": {"MaxRuntimeInSeconds": true}}',
        b'{"StoppingCondition": {"MaxRuntimeInSeconds": 1e999}}',
        b'{"StoppingCondition": {"MaxRuntimeInSeconds": 99999999999}}',
        b'{"StoppingCondition": {"MaxRuntimeInSeconds": ' + b"9" * 5000 + b"}}",
        b'{"EnableNetworkIsolation": "yes"}',
    ],
)
def test_what_is_no_json_of_the_right_types_is_refused(raw: bytes) -> None:
    assert refused(raw).code == "SerializationException"


def test_a_timestamp_must_be_a_number() -> None:
    assert refused(b'{"CreationTimeAfter": "now"}', "ListTrainingJobs").code == "SerializationException"
    assert refused(b'{"CreationTimeAfter": 1e300}', "ListTrainingJobs").code == "SerializationException"
    after = parse("sagemaker", "ListTrainingJobs", b'{"CreationTimeAfter": 1.5}')
    assert after == {"CreationTimeAfter": 1.5}


def test_an_unknown_operation_is_refused() -> None:
    assert refused(b"{}", "MakeCoffee").code == "UnknownOperationException"
    assert has_operation("sagemaker", "CreateTrainingJob")
    assert not has_operation("sagemaker", "MakeCoffee")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def outcome(**changes: Any) -> str:
    try:
        parsed(**changes)
    except AwsError as error:
        return error.code
    return "accepted"


@given(st.sampled_from(sorted(REQUEST)), json_values)
@settings(max_examples=100, deadline=None)
def test_no_value_breaks_the_parser(member: str, value: Any) -> None:
    assert outcome(**{member: value}) in ("accepted", "ValidationException", "SerializationException")


# ---- answers


def test_an_answer_is_projected_on_its_shape() -> None:
    answer = {
        "TrainingJobName": "a",
        "Unknown": 1,
        "FailureReason": None,
        "CreationTime": datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC),
        "LastModifiedTime": 12.5,
        "HyperParameters": {"k": "v"},
        "SecondaryStatusTransitions": [{"Status": "Starting", "StartTime": 1.0, "Junk": 2}],
    }
    assert render("sagemaker", "DescribeTrainingJob", answer) == {
        "TrainingJobName": "a",
        "CreationTime": 1767323045.679,
        "LastModifiedTime": 12.5,
        "HyperParameters": {"k": "v"},
        "SecondaryStatusTransitions": [{"Status": "Starting", "StartTime": 1.0}],
    }


def test_an_operation_without_output_answers_nothing() -> None:
    assert render("sagemaker", "StopTrainingJob", {"anything": 1}) == {}
    assert render("sagemaker", "DescribeTrainingJob", None) == {}
