"""Batch transform of gzipped objects, by manifest, many at once, with filters and joins."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sagemaker_kit import (
    BUCKET,
    FEATURES,
    RECORDIO,
    Aws,
    encode,
    model_request,
    ratings,
    training_request,
    transform_request,
)

from lib.local.inputs import JobError
from lib.local.processing import Processing, parse_path
from lib.local.protocol import AwsError
from lib.local.transform import LOG_GROUP

JSON, JSON_LINES = "application/json", "application/jsonlines"
X = ratings(600)[0][450:]
PARTS = 12


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with Aws(tmp_path_factory.mktemp("aws"), grace=5.0) as aws:
        aws.put_ratings()
        aws.call("CreateTrainingJob", **training_request("trained"))
        uri = aws.wait("TrainingJob", "trained")["ModelArtifacts"]["S3ModelArtifacts"]
        aws.call("CreateModel", **model_request("ratings", uri))
        for part in range(PARTS):
            data = encode(X[10 * part : 10 * part + 10])
            aws.put(f"many/part-{part:02d}", data)
            aws.put(f"zipped/part-{part:02d}.gz", gzip.compress(data))
        lines = "".join(json.dumps({"id": number, "row": instance(number)}) + "\n" for number in range(20))
        aws.put("lines/a.jsonl", lines.encode())
        whole = {"id": "whole", "request": {"instances": [instance(number) for number in range(20)]}}
        aws.put("json/a.json", json.dumps(whole).encode())
        yield aws


@pytest.fixture(scope="module")
def expected(aws: Aws) -> list[float]:
    """Return the scores of the rows, one object after the other, one request at a time."""
    transform(aws, "expected")
    return scores(aws, "expected")


def instance(number: int) -> dict[str, Any]:
    row = X[number]
    features = {"keys": row.indices.tolist(), "shape": [FEATURES], "values": [1.0] * row.nnz}
    return {"data": {"features": features}}


def source(where: str, kind: str = "S3Prefix", **changes: Any) -> dict[str, Any]:
    return {
        "DataSource": {"S3DataSource": {"S3DataType": kind, "S3Uri": f"s3://{BUCKET}/{where}"}},
        "ContentType": RECORDIO,
        "SplitType": "RecordIO",
        **changes,
    }


def transform(aws: Aws, name: str, **changes: Any) -> dict[str, Any]:
    request = transform_request(name, "ratings", **{"TransformInput": source("many/"), **changes})
    if request["TransformInput"].get("SplitType") == "None":
        del request["BatchStrategy"]
    aws.call("CreateTransformJob", **request)
    return aws.wait("TransformJob", name)


def output(name: str, accept: str) -> dict[str, Any]:
    assembled = {"AssembleWith": "Line"} if accept == JSON_LINES else {}
    return {"S3OutputPath": f"s3://{BUCKET}/predictions/{name}", "Accept": accept, **assembled}


def stored(aws: Aws, name: str) -> bytes:
    return b"".join(aws.read(f"s3://{BUCKET}/{key}") for key in aws.keys(f"predictions/{name}/"))


def scores(aws: Aws, name: str) -> list[float]:
    return [json.loads(line)["score"] for line in stored(aws, name).splitlines()]


# ---- which objects, and how many at once


def test_many_objects_at_once_are_answered_as_one_after_the_other(aws: Aws, expected: list[float]) -> None:
    answer = transform(aws, "at-once", MaxConcurrentTransforms=4, MaxPayloadInMB=1)
    assert answer["TransformJobStatus"] == "Completed"
    assert aws.keys("predictions/at-once/") == [
        f"predictions/at-once/part-{part:02d}.out" for part in range(PARTS)
    ]
    assert stored(aws, "at-once") == stored(aws, "expected")
    assert len(expected) == 10 * PARTS
    assert any("MaxConcurrentTransforms=4" in line for line in aws.log_lines(LOG_GROUP, "at-once"))


def test_gzipped_objects_are_unpacked(aws: Aws, expected: list[float]) -> None:
    answer = transform(aws, "zipped", TransformInput=source("zipped/", CompressionType="Gzip"))
    assert answer["TransformJobStatus"] == "Completed"
    assert aws.keys("predictions/zipped/")[0] == "predictions/zipped/part-00.gz.out"
    assert scores(aws, "zipped") == expected


def test_an_object_that_is_not_gzipped_fails_alone(aws: Aws) -> None:
    aws.put("mixed/a", b"no gzip")
    aws.put("mixed/b", gzip.compress(encode(X[:10]))[:-20])
    aws.put("mixed/c", gzip.compress(encode(X[:10])))
    mixed = source("mixed/", CompressionType="Gzip")
    answer = transform(aws, "mixed", TransformInput=mixed, MaxConcurrentTransforms=3, MaxPayloadInMB=1)
    assert answer["FailureReason"] == "ClientError: See job logs for more information"
    assert aws.keys("predictions/mixed/") == ["predictions/mixed/c.out"]
    said = [line for line in aws.log_lines(LOG_GROUP, "mixed") if "no whole gzip file" in line]
    assert len(said) == 2


def test_a_manifest_names_the_objects(aws: Aws, expected: list[float]) -> None:
    listed = [{"prefix": f"s3://{BUCKET}/many/"}, "part-03", "part-01"]
    aws.put("manifest", json.dumps(listed).encode())
    assert (
        transform(aws, "listed", TransformInput=source("manifest", "ManifestFile"))["TransformJobStatus"]
        == "Completed"
    )
    assert aws.keys("predictions/listed/") == [
        "predictions/listed/part-01.out",
        "predictions/listed/part-03.out",
    ]
    assert scores(aws, "listed") == expected[10:20] + expected[30:40]


# ---- filters and joins


@pytest.mark.parametrize("strategy", ["MultiRecord", "SingleRecord"])
def test_answers_are_joined_with_their_lines(aws: Aws, expected: list[float], strategy: str) -> None:
    answer = transform(
        aws,
        f"joined-{strategy}",
        TransformInput=source("lines/", ContentType=JSON_LINES, SplitType="Line"),
        TransformOutput=output(f"joined-{strategy}", JSON_LINES),
        BatchStrategy=strategy,
        DataProcessing={
            "InputFilter": "$.row",
            "JoinSource": "Input",
            "OutputFilter": "$['id', 'SageMakerOutput']",
        },
    )
    assert answer["TransformJobStatus"] == "Completed"
    found = [json.loads(line) for line in stored(aws, f"joined-{strategy}").splitlines()]
    assert [item["id"] for item in found] == list(range(20))
    assert [list(item) for item in found] == [["id", "SageMakerOutput"]] * 20
    answers = [item["SageMakerOutput"]["score"] for item in found]
    np.testing.assert_allclose(answers, expected[:20], rtol=1e-6)


def test_answers_are_joined_with_a_whole_document(aws: Aws, expected: list[float]) -> None:
    answer = transform(
        aws,
        "document",
        TransformInput=source("json/", ContentType=JSON, SplitType="None"),
        TransformOutput=output("document", JSON),
        DataProcessing={
            "InputFilter": "$.request",
            "JoinSource": "Input",
            "OutputFilter": "$.SageMakerOutput.predictions[2:5]",
        },
    )
    assert answer["TransformJobStatus"] == "Completed"
    found = [item["score"] for item in json.loads(stored(aws, "document"))]
    np.testing.assert_allclose(found, expected[2:5], rtol=1e-6)


def test_an_output_filter_needs_no_join(aws: Aws, expected: list[float]) -> None:
    transform(aws, "numbers", DataProcessing={"OutputFilter": "$.score"})
    assert [float(line) for line in stored(aws, "numbers").splitlines()] == expected


def test_a_record_without_what_a_filter_names_fails_its_object(aws: Aws) -> None:
    lines = source("lines/", ContentType=JSON_LINES, SplitType="Line")
    answer = transform(aws, "nothing", TransformInput=lines, DataProcessing={"InputFilter": "$.rows"})
    assert answer["FailureReason"] == "ClientError: See job logs for more information"
    assert any("A record has no $.rows" in line for line in aws.log_lines(LOG_GROUP, "nothing"))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", {"a": [10, 11, 12], "b-c": {"d": "e"}, "o'n": 1}),
        ("$.a", [10, 11, 12]),
        ("$['a']", [10, 11, 12]),
        ('$["a"]', [10, 11, 12]),
        ("$.a[1]", 11),
        ("$.a[0,2]", [10, 12]),
        ("$.a[1:]", [11, 12]),
        ("$.a[:2]", [10, 11]),
        ("$.a[0:9]", [10, 11, 12]),
        ("$.b-c.d", "e"),
        ("$['b-c']['d']", "e"),
        ("$['b-c','a']", {"b-c": {"d": "e"}, "a": [10, 11, 12]}),
        (r"$['o\'n']", 1),
    ],
)
def test_a_path_picks(path: str, found: Any) -> None:
    value = {"a": [10, 11, 12], "b-c": {"d": "e"}, "o'n": 1}
    assert parse_path(path, "OutputFilter").pick(value) == found


@pytest.mark.parametrize("path", ["$.x", "$.a.x", "$[0]", "$.a[3]", "$.a['x']", "$['a','x']", "$.a[0][0]"])
def test_a_path_to_nothing_is_said(path: str) -> None:
    with pytest.raises(JobError, match="A record has no "):
        parse_path(path, "OutputFilter").pick({"a": [10, 11, 12]})


@given(st.text("$.[]'\",:0123456789ab \\*?()@", max_size=12))
@settings(max_examples=300)
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        path = parse_path("$" + text, "OutputFilter")
    except AwsError as error:
        refusal = error
    else:
        refusal = None
        try:
            path.pick({"a": [1, {"b": 2}]})
        except JobError as error:
            assert "A record has no" in str(error)  # noqa: PT017  the other outcome is a value
    assert refusal is None or "should be a JSONPath" in refusal.message


def test_records_and_answers_that_do_not_pair_off_are_said() -> None:
    document = {
        "DataProcessing": {"JoinSource": "Input"},
        "TransformInput": {"ContentType": JSON_LINES},
        "TransformOutput": {"Accept": JSON_LINES},
    }
    joined = Processing(document)
    with pytest.raises(JobError, match="The 2 records and 1 answers cannot be joined"):
        joined.stored(memoryview(b"1\n2\n"), b"3\n")
    with pytest.raises(JobError, match="The output is not application/jsonlines"):
        joined.stored(memoryview(b"1\n"), b"no json\n")
    assert joined.stored(memoryview(b"1\n"), b"3\n") == b'{"SageMakerInput": 1, "SageMakerOutput": 3}\n'
