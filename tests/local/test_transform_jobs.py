"""Batch transform jobs: every object answered by the model, in order, or a truthful failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sagemaker_kit import (
    BUCKET,
    ENDLESS,
    FEATURES,
    RECORDIO,
    Aws,
    encode,
    model_request,
    ratings,
    training_request,
    transform_request,
)

from lib import fm
from lib.local.inputs import JobError
from lib.local.protocol import AwsError
from lib.local.splitting import mapped, payloads
from lib.local.transform import LOG_GROUP

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """Return a server with the model `ratings` and three parts of 50 rows to transform."""
    with Aws(tmp_path_factory.mktemp("aws")) as aws:
        aws.put_ratings()
        aws.call("CreateTrainingJob", **training_request("trained"))
        uri = aws.wait("TrainingJob", "trained")["ModelArtifacts"]["S3ModelArtifacts"]
        aws.call("CreateModel", **model_request("ratings", uri))
        yield aws


@pytest.fixture(scope="module")
def expected(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Return the model's predictions for the three parts."""
    archive = tmp_path_factory.mktemp("model") / "model.tar.gz"
    archive.write_bytes(aws.read(f"s3://{BUCKET}/models/trained/output/model.tar.gz"))
    return fm.load(archive).predict(ratings(600)[0][450:])


def transform(aws: Aws, name: str, **changes: Any) -> dict[str, Any]:
    aws.call("CreateTransformJob", **transform_request(name, "ratings", **changes))
    return aws.wait("TransformJob", name)


def source(uri: str, **changes: Any) -> dict[str, Any]:
    return {
        "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}},
        "ContentType": RECORDIO,
        "SplitType": "RecordIO",
        **changes,
    }


def scores(aws: Aws, prefix: str) -> list[float]:
    lines = b"".join(aws.read(f"s3://{BUCKET}/{key}") for key in aws.keys(prefix)).decode().splitlines()
    return [json.loads(line)["score"] for line in lines]


# ---- jobs that complete


def test_every_row_is_answered_in_order(aws: Aws, expected: np.ndarray) -> None:
    answer = transform(aws, "all", Tags=[{"Key": "run", "Value": "1"}])
    assert answer["TransformJobStatus"] == "Completed"
    assert aws.keys("predictions/all/") == [f"predictions/all/part-0000{part}.pbr.out" for part in range(3)]
    np.testing.assert_allclose(scores(aws, "predictions/all/"), expected, rtol=1e-6)
    assert aws.call("ListTags", ResourceArn=answer["TransformJobArn"])["Tags"][0]["Key"] == "run"
    assert list((aws.root / "jobs").iterdir()) == []


def test_a_job_is_described_with_its_request_and_aws_s_defaults(aws: Aws) -> None:
    answer = aws.describe("TransformJob", "all")
    assert answer["CreationTime"] <= answer["TransformStartTime"] <= answer["TransformEndTime"]
    assert answer["ModelName"] == "ratings"
    assert answer["TransformInput"]["CompressionType"] == "None"
    assert answer["TransformOutput"]["AssembleWith"] == "Line"
    assert answer["DataProcessing"] == {"InputFilter": "$", "OutputFilter": "$", "JoinSource": "None"}
    assert answer["TransformJobArn"] == "arn:aws:sagemaker:us-east-1:123456789012:transform-job/all"
    found = aws.call("ListTransformJobs", NameContains="all", StatusEquals="Completed")
    assert [job["TransformJobName"] for job in found["TransformJobSummaries"]] == ["all"]


def test_the_data_log_says_how_the_data_are_sent(aws: Aws) -> None:
    lines = aws.log_lines(LOG_GROUP, "all")
    text = "[sagemaker logs]: MaxConcurrentTransforms=1, MaxPayloadInMB=6, BatchStrategy=MULTI_RECORD"
    assert any(line.endswith(text) for line in lines)


def test_records_sent_one_by_one_give_the_same_answers(aws: Aws, expected: np.ndarray) -> None:
    one_part = source(f"s3://{BUCKET}/data/parts/part-00001.pbr")
    answer = transform(aws, "single", BatchStrategy="SingleRecord", TransformInput=one_part)
    assert answer["TransformJobStatus"] == "Completed"
    assert aws.keys("predictions/single/") == ["predictions/single/part-00001.pbr.out"]
    np.testing.assert_allclose(scores(aws, "predictions/single/"), expected[50:100], rtol=1e-6)


def test_json_lines_are_split_at_line_ends(aws: Aws, expected: np.ndarray) -> None:
    X = ratings(600)[0][450:460]
    rows = [
        {"data": {"features": {"keys": row.indices.tolist(), "shape": [FEATURES], "values": [1.0, 1.0]}}}
        for row in X
    ]
    uri = aws.put("data/lines/rows.jsonl", "\n".join(json.dumps(row) for row in rows).encode())
    lines = source(uri, ContentType="application/jsonlines", SplitType="Line")
    for strategy in ("MultiRecord", "SingleRecord"):
        name = f"lines-{strategy}"
        answer = transform(aws, name, BatchStrategy=strategy, TransformInput=lines)
        assert answer["TransformJobStatus"] == "Completed"
        np.testing.assert_allclose(scores(aws, f"predictions/{name}/"), expected[:10], rtol=1e-6)


def test_a_whole_object_gets_one_answer_as_it_is(aws: Aws, expected: np.ndarray) -> None:
    whole = source(f"s3://{BUCKET}/data/parts/part-00000.pbr", SplitType="None")
    output = {"S3OutputPath": f"s3://{BUCKET}/predictions/whole/", "Accept": "application/json"}
    request = transform_request("whole", "ratings", TransformInput=whole, TransformOutput=output)
    del request["BatchStrategy"]
    aws.call("CreateTransformJob", **request)
    assert aws.wait("TransformJob", "whole")["TransformJobStatus"] == "Completed"
    answer = json.loads(aws.read(f"s3://{BUCKET}/predictions/whole/part-00000.pbr.out"))
    found = [item["score"] for item in answer["predictions"]]
    np.testing.assert_allclose(found, expected[:50], rtol=1e-6)


# ---- jobs that do not


def test_one_bad_object_fails_the_job_but_not_the_others(aws: Aws, expected: np.ndarray) -> None:
    X = ratings(600)[0]
    aws.put("data/mixed/a.pbr", encode(X[450:500]))
    aws.put("data/mixed/b.pbr", b"this is no recordIO")
    aws.put("data/mixed/c.pbr", encode(X[500:550]))
    answer = transform(aws, "mixed", TransformInput=source(f"s3://{BUCKET}/data/mixed/"))
    assert answer["TransformJobStatus"] == "Failed"
    assert answer["FailureReason"] == "ClientError: See job logs for more information"
    assert aws.keys("predictions/mixed/") == ["predictions/mixed/a.pbr.out", "predictions/mixed/c.pbr.out"]
    np.testing.assert_allclose(scores(aws, "predictions/mixed/"), expected[:100], rtol=1e-6)
    assert any("data/mixed/b.pbr: ClientError: " in line for line in aws.log_lines(LOG_GROUP, "mixed"))


def test_what_the_model_refuses_fails_the_job_with_its_words_in_the_log(aws: Aws) -> None:
    wide = ratings(60)[0].copy()
    wide.resize((60, FEATURES + 5))
    uri = aws.put("data/wide/a.pbr", encode(wide))
    answer = transform(aws, "refused", TransformInput=source(uri))
    assert answer["FailureReason"] == "ClientError: See job logs for more information"
    (line,) = [line for line in aws.log_lines(LOG_GROUP, "refused") if "Bad HTTP status" in line]
    assert "Bad HTTP status received from algorithm: 400" in line
    assert aws.keys("predictions/refused/") == []


def test_a_model_archive_that_is_none_fails_the_job(aws: Aws) -> None:
    uri = aws.put("models/broken.tar.gz", b"this is no archive")
    aws.call("CreateModel", **model_request("broken", uri))
    aws.call("CreateTransformJob", **transform_request("broken", "broken"))
    answer = aws.wait("TransformJob", "broken")
    assert answer["TransformJobStatus"] == "Failed"
    assert answer["FailureReason"].startswith("ClientError: The model data cannot be used: ")


def test_a_model_that_cannot_be_served_fails_the_job(aws: Aws, tmp_path: Path) -> None:
    from lib.local.archive import pack

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "other").write_text("no model")
    pack(tmp_path / "model", tmp_path / "model.tar.gz")
    uri = aws.put("models/other.tar.gz", (tmp_path / "model.tar.gz").read_bytes())
    aws.call("CreateModel", **model_request("other", uri))
    aws.call("CreateTransformJob", **transform_request("other", "other"))
    answer = aws.wait("TransformJob", "other")
    assert answer["FailureReason"].startswith("AlgorithmError: Model container failed to respond to ping")
    assert aws.log_lines(LOG_GROUP, "other")


def test_a_stopped_job_stores_nothing(aws: Aws) -> None:
    part = encode(ratings(600)[0][450:500])
    for number in range(100):
        aws.put(f"data/many/part-{number:05d}.pbr", part)
    many = source(f"s3://{BUCKET}/data/many/")
    aws.call("CreateTransformJob", **transform_request("stopped", "ratings", TransformInput=many))
    while not aws.keys("predictions/stopped/"):
        assert aws.describe("TransformJob", "stopped")["TransformJobStatus"] == "InProgress"
    aws.call("StopTransformJob", TransformJobName="stopped")
    answer = aws.wait("TransformJob", "stopped")
    assert answer["TransformJobStatus"] == "Stopped"
    assert "FailureReason" not in answer
    assert aws.keys("predictions/stopped/") == []
    with pytest.raises(AwsError, match="the transform job is in status Stopped"):
        aws.call("StopTransformJob", TransformJobName="stopped")


def test_a_job_that_a_stopping_server_ends_is_failed(tmp_path: Path) -> None:
    with Aws(tmp_path, max_jobs=1) as aws:
        aws.put_ratings()
        aws.put("models/m.tar.gz", b"")
        aws.call("CreateModel", **model_request("ratings", f"s3://{BUCKET}/models/m.tar.gz"))
        aws.call("CreateTrainingJob", **training_request("running", HyperParameters=ENDLESS))
        aws.call("CreateTransformJob", **transform_request("waiting", "ratings"))
        assert aws.sagemaker.busy()
    with Aws(tmp_path) as aws:
        answer = aws.describe("TransformJob", "waiting")
        assert answer["TransformJobStatus"] == "Failed"
        assert answer["FailureReason"].startswith("InternalServerError: ")


# ---- requests that are refused


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"ModelName": "none"},
            'Could not find model "arn:aws:sagemaker:us-east-1:123456789012:model/none".',
        ),
        (
            {"BatchStrategy": "SingleRecord", "TransformInput": source("s3://x/y", SplitType="None")},
            "BatchStrategy SingleRecord needs a SplitType.",
        ),
        ({"MaxPayloadInMB": 51, "MaxConcurrentTransforms": 2}, "is 102, but must not exceed 100 MB"),
        ({"TransformInput": source("s3://x/y", SplitType="TFRecord")}, "does not support SplitType TFRecord"),
        ({"TransformInput": source(f"s3://{BUCKET}/none/")}, "No S3 objects found under S3 URL"),
        ({"TransformOutput": {"S3OutputPath": "s3://no-such-bucket/x"}}, "The bucket no-such-bucket of"),
        ({"DataProcessing": {"JoinSource": "Input"}}, f"or application/jsonlines, but it is {RECORDIO}."),
        ({"DataProcessing": {"InputFilter": "$.a"}}, "DataProcessing needs ContentType application/json or"),
        ({"DataProcessing": {"OutputFilter": "score"}}, "OutputFilter is score, but should be a JSONPath"),
        (
            {
                "DataProcessing": {"JoinSource": "Input"},
                "TransformInput": source("s3://x/y", ContentType="application/json"),
            },
            "needs the same ContentType and Accept, but they are application/json and application/jsonlines.",
        ),
    ],
)
def test_a_job_that_cannot_run_is_refused_in_one_sentence(
    aws: Aws, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(AwsError) as caught:
        aws.call("CreateTransformJob", **{**transform_request("never", "ratings"), **changes})
    assert caught.value.code == "ValidationException"
    assert text in caught.value.message


def test_a_name_is_taken_for_ever(aws: Aws) -> None:
    with pytest.raises(AwsError) as caught:
        aws.call("CreateTransformJob", **transform_request("all", "ratings"))
    assert caught.value.code == "ResourceInUse"
    assert "must be unique within an AWS account and region" in caught.value.message


# ---- splitting


def cut(data: bytes, split: str, strategy: str = "MultiRecord", megabytes: int = 1) -> list[bytes]:
    document = {
        "TransformInput": {"SplitType": split},
        "BatchStrategy": strategy,
        "MaxPayloadInMB": megabytes,
    }
    return [bytes(piece) for piece in payloads(memoryview(data), document)]


def test_pieces_of_lines_are_whole_and_cover_the_object() -> None:
    lines = b"".join(b"%d%s\n" % (number, b"x" * (number % 900)) for number in range(5000))
    pieces = cut(lines, "Line")
    assert len(pieces) > 1
    assert b"".join(pieces) == lines
    assert all(len(piece) <= MEGABYTE and piece.endswith(b"\n") for piece in pieces)
    assert cut(lines, "Line", "SingleRecord") == lines.splitlines()
    assert cut(b"a\n\nlast without end", "Line", "SingleRecord") == [b"a", b"", b"last without end"]
    assert cut(b"a\n\nlast without end", "Line") == [b"a\n\nlast without end"]


def test_pieces_of_records_are_whole_and_cover_the_object() -> None:
    X = ratings(30_000)[0]
    data = encode(X)
    pieces = cut(data, "RecordIO")
    assert len(pieces) == -(-len(data) // MEGABYTE)
    assert b"".join(pieces) == data
    assert cut(encode(X[:3]), "RecordIO", "SingleRecord") == [encode(X[row]) for row in range(3)]


def test_an_object_or_record_above_the_limit_is_refused() -> None:
    for split, strategy in (("None", "MultiRecord"), ("Line", "MultiRecord"), ("Line", "SingleRecord")):
        assert cut(b"x" * MEGABYTE, split, strategy) == [b"x" * MEGABYTE]
        with pytest.raises(JobError, match="ClientError: Too much data for max payload size"):
            cut(b"x" * (MEGABYTE + 1), split, strategy)
    assert len(cut(b"x" * 50 * MEGABYTE, "None", megabytes=0)) == 1


def test_an_empty_object_that_is_split_makes_no_request(tmp_path: Path) -> None:
    assert cut(b"", "Line") == cut(b"", "RecordIO") == []
    assert cut(b"", "None") == [b""]
    (tmp_path / "empty").touch()
    with mapped(tmp_path / "empty") as data:
        assert bytes(data) == b""
    with pytest.raises(JobError, match="has gone"), mapped(tmp_path / "none"):
        pass
