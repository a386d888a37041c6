"""SageMaker's Factorization Machines by the SageMaker SDK v2, whose class of that name SDK v3 no longer has."""

from __future__ import annotations

from importlib.metadata import version

import boto3
import numpy as np
import sagemaker
from sagemaker.amazon.amazon_estimator import RecordSet
from sagemaker.analytics import TrainingJobAnalytics
from sagemaker.tuner import ContinuousParameter, HyperparameterTuner
from tiny_data import (
    CUSTOMERS,
    FEATURES,
    RECORDIO,
    STARS,
    TEST,
    TRAIN,
    Flows,
    Rating,
    arguments,
    check_same,
    check_scores,
    put_data,
    scores_of_lines,
)

given = arguments(__doc__)
flow = Flows(f"sagemaker {version('sagemaker')}")
name, uri = given.name, f"s3://{given.bucket}/{given.name}"
session = sagemaker.Session(default_bucket=given.bucket)
s3 = boto3.client("s3")
put_data(s3, given.bucket, name)


def dense(rows: list[Rating]) -> np.ndarray:
    """Return the one-hot rows as the SDK's own writer takes them."""
    matrix = np.zeros((len(rows), FEATURES), np.float32)
    for row, (customer, video, _) in enumerate(rows):
        matrix[row, [customer, CUSTOMERS + video]] = 1
    return matrix


def labels(rows: list[Rating]) -> np.ndarray:
    return np.array([stars for _, _, stars in rows], np.float32)


machine = sagemaker.FactorizationMachines(
    role=given.role,
    instance_count=1,
    instance_type="ml.m5.large",
    num_factors=4,
    predictor_type="regressor",
    epochs=20,
    linear_lr=0.03,
    output_path=f"{uri}/models",
    data_location=f"{uri}/records",
    base_job_name=name,
    sagemaker_session=session,
)

with flow("FactorizationMachines.fit of arrays (record_set, a manifest)"):
    records = [
        machine.record_set(dense(TRAIN), labels(TRAIN), channel="train"),
        machine.record_set(dense(TEST), labels(TEST), channel="test"),
    ]
    assert {record.s3_data_type for record in records} == {"ManifestFile"}
    machine.fit(records, mini_batch_size=50, logs=True)
    described = boto3.client("sagemaker").describe_training_job(
        TrainingJobName=machine.latest_training_job.name
    )
    rmse = {item["MetricName"]: item["Value"] for item in described["FinalMetricDataList"]}["test:rmse"]

with flow("FactorizationMachines.fit of S3 files"):
    machine.fit(
        [
            RecordSet(f"{uri}/{channel}/", rows, FEATURES, s3_data_type="S3Prefix", channel=channel)
            for channel, rows in (("train", len(TRAIN)), ("test", len(TEST)))
        ],
        mini_batch_size=50,
        logs=False,
    )

with flow("TrainingJobAnalytics"):
    frame = TrainingJobAnalytics(
        machine.latest_training_job.name, ["train:rmse:epoch", "test:rmse"]
    ).dataframe()
    assert set(frame["metric_name"]) == {"train:rmse:epoch", "test:rmse"}

with flow("HyperparameterTuner"):
    tuner = HyperparameterTuner(
        machine,
        objective_metric_name="test:rmse",
        objective_type="Minimize",
        hyperparameter_ranges={"linear_lr": ContinuousParameter(0.003, 0.03)},
        max_jobs=2,
        max_parallel_jobs=2,
        base_tuning_job_name=name[-20:],
    )
    tuner.fit(records, mini_batch_size=50)
    tuner.wait()
    assert tuner.best_training_job().startswith(tuner.latest_tuning_job.name)

with flow("transformer"):
    transformer = machine.transformer(
        1,
        "ml.m5.large",
        strategy="MultiRecord",
        assemble_with="Line",
        accept="application/jsonlines",
        output_path=f"{uri}/scores",
    )
    transformer.transform(f"{uri}/rows/", content_type=RECORDIO, split_type="RecordIO", logs=False)
    transformer.wait(logs=False)
    out = s3.get_object(Bucket=given.bucket, Key=f"{name}/scores/rows.pbr.out")["Body"].read().decode()
    batch_scores = scores_of_lines(out)
    check_scores(batch_scores)

with flow("deploy, predict"):
    predictor = machine.deploy(1, "ml.m5.large", endpoint_name=name)
    answered = [record.label["score"].float32_tensor.values[0] for record in predictor.predict(dense(TEST))]
    assert len(answered) == len(STARS)
    check_same(answered, batch_scores)
    predictor.delete_endpoint()
    transformer.delete_model()
