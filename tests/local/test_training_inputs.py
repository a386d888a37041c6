"""Training data by prefix and by manifest, in the modes File, FastFile and Pipe, gzipped, sharded, shuffled."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from sagemaker_kit import BUCKET, Aws, channel, encode, hyperparameters, ratings, training_request

from lib.local.protocol import AwsError

PARTS = 4


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """Return a SageMaker with rows in four parts, plain and gzipped, and manifests of them."""
    with Aws(tmp_path_factory.mktemp("aws"), grace=5.0) as aws:
        X, y = ratings(400)
        for part in range(PARTS):
            rows = slice(100 * part, 100 * part + 100)
            data = encode(X[rows], y[rows])
            aws.put(f"parts/part-{part}", data)
            aws.put(f"zipped/part-{part}.gz", gzip.compress(data))
        for name, order in (("upwards", (0, 1, 2, 3)), ("downwards", (3, 2, 1, 0)), ("half", (0, 1))):
            listed = [{"prefix": f"s3://{BUCKET}/parts/"}, *(f"part-{part}" for part in order)]
            aws.put(f"manifests/{name}", json.dumps(listed).encode())
        aws.put("zipped-wrong/a", b"this is not gzip")
        aws.put("zipped-cut/a", gzip.compress(encode(X, y))[:-100])
        aws.put("half/a", encode(X[:200], y[:200]))
        aws.put("all/a", encode(X, y))
        yield aws


def source(where: str, kind: str = "S3Prefix", **changes: Any) -> dict[str, Any]:
    """Return the train channel over an S3Uri in the tests' bucket."""
    data = {"S3DataType": kind, "S3Uri": f"s3://{BUCKET}/{where}", **changes.pop("data", {})}
    return channel("train", **{"DataSource": {"S3DataSource": data}, **changes})


def trained(aws: Aws, train: dict[str, Any], mode: str = "File") -> dict[str, Any]:
    """Return the description of a finished job, its model's bytes under ``artifact``."""
    count = len(aws.call("ListTrainingJobs", MaxResults=100)["TrainingJobSummaries"])
    request = training_request(
        f"job-{count}", InputDataConfig=[train], HyperParameters=hyperparameters(mini_batch_size=20)
    )
    request["AlgorithmSpecification"]["TrainingInputMode"] = mode
    aws.call("CreateTrainingJob", **request)
    answer = aws.wait("TrainingJob", f"job-{count}")
    if answer["TrainingJobStatus"] == "Completed":
        answer["artifact"] = aws.read(answer["ModelArtifacts"]["S3ModelArtifacts"])
    return answer


def refusal(aws: Aws, train: dict[str, Any], mode: str = "File") -> str:
    request = training_request("refused", InputDataConfig=[train])
    request["AlgorithmSpecification"]["TrainingInputMode"] = mode
    with pytest.raises(AwsError) as caught:
        aws.call("CreateTrainingJob", **request)
    assert caught.value.code == "ValidationException"
    return caught.value.message


@pytest.fixture(scope="module")
def artifact(aws: Aws) -> bytes:
    """Return the model that all rows in their order make."""
    made: bytes = trained(aws, source("all/"))["artifact"]
    return made


@pytest.mark.parametrize(
    ("train", "mode"),
    [
        (source("parts/"), "File"),
        (source("parts/"), "FastFile"),
        (source("parts/"), "Pipe"),
        (source("parts/", InputMode="Pipe"), "File"),
        (source("zipped/", CompressionType="Gzip"), "Pipe"),
        (source("manifests/upwards", "ManifestFile"), "File"),
        (source("manifests/upwards", "ManifestFile"), "Pipe"),
        (source("parts/", data={"S3DataDistributionType": "ShardedByS3Key"}), "File"),
    ],
)
def test_the_same_rows_make_the_same_model_in_any_mode(
    aws: Aws, artifact: bytes, train: dict[str, Any], mode: str
) -> None:
    assert trained(aws, train, mode)["artifact"] == artifact


def test_a_pipe_gives_a_manifest_s_objects_in_its_order(aws: Aws, artifact: bytes) -> None:
    backwards = trained(aws, source("manifests/downwards", "ManifestFile"), "Pipe")
    assert backwards["artifact"] != artifact
    by_name = trained(aws, source("manifests/downwards", "ManifestFile"), "File")
    assert by_name["artifact"] == artifact


def test_a_manifest_names_all_that_is_read(aws: Aws) -> None:
    some = trained(aws, source("manifests/half", "ManifestFile"))["artifact"]
    assert some == trained(aws, source("half/"))["artifact"]


def test_a_shuffle_is_repeated_by_its_seed(aws: Aws, artifact: bytes) -> None:
    made = {
        seed: trained(aws, source("parts/", ShuffleConfig={"Seed": seed}))["artifact"] for seed in (1, 2, 3)
    }
    again = trained(aws, source("parts/", ShuffleConfig={"Seed": 1}))["artifact"]
    assert again == made[1]
    assert len({*made.values(), artifact}) > 1


@pytest.mark.parametrize("where", ["zipped-wrong/", "zipped-cut/"])
def test_what_is_no_gzip_file_fails_the_job(aws: Aws, where: str) -> None:
    answer = trained(aws, source(where, CompressionType="Gzip"), "Pipe")
    assert answer["TrainingJobStatus"] == "Failed"
    assert f"the object '{where}a' is no whole gzip file" in answer["FailureReason"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no JSON", "should be a JSON list"),
        ("{}", "should be a JSON list"),
        ("[]", "should be a JSON list"),
        ('[{"prefix": "s3://b/"}]', "should be a JSON list"),
        ('["a", "b"]', "should be a JSON list"),
        ('[{"prefix": 3}, "b"]', "should be a JSON list"),
        ('[{"prefix": "s3://b/"}, ""]', "should be a JSON list"),
        (f'[{{"prefix": "s3://{BUCKET}/parts/"}}, "part-0", "part-0"]', "names part-0 twice"),
        (f'[{{"prefix": "s3://{BUCKET}/parts/"}}, "part-9"]', "parts/part-9, which the manifest"),
        ('[{"prefix": "https://b/"}, "c"]', "S3Uri is https://b/c, but should be s3://BUCKET/KEY"),
        ("[" * 100_000, "should be a JSON list"),
    ],
)
def test_a_wrong_manifest_is_refused(aws: Aws, text: str, reason: str) -> None:
    aws.put("wrong-manifest", text.encode())
    assert reason in refusal(aws, source("wrong-manifest", "ManifestFile"))


def test_a_manifest_s_path_stays_in_the_channel_s_folder(aws: Aws) -> None:
    aws.put("parts/../x", encode(*ratings(10)))
    listed = [{"prefix": f"s3://{BUCKET}/parts/"}, "../x"]
    aws.put("climbing", json.dumps(listed).encode())
    answer = trained(aws, source("climbing", "ManifestFile"))
    assert "the key 'parts/../x' cannot be a file's name" in answer["FailureReason"]


def test_what_the_algorithm_could_not_read_is_refused_with_the_reason(aws: Aws) -> None:
    assert "manifests/none does not exist" in refusal(aws, source("manifests/none", "ManifestFile"))
    augmented = source("parts/", "AugmentedManifestFile", data={"AttributeNames": ["a"]})
    assert "it takes recordIO-protobuf" in refusal(aws, augmented, "Pipe")
    assert "is for the input mode Pipe, not File" in refusal(aws, source("zipped/", CompressionType="Gzip"))
    wrapped = source("parts/", RecordWrapperType="RecordIO")
    assert "objects that are recordIO-protobuf already need none" in refusal(aws, wrapped, "Pipe")
