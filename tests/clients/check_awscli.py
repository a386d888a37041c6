"""SageMaker's Factorization Machines by AWS's command line: aws s3, sagemaker, sagemaker-runtime, logs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from tiny_data import (
    ENDLESS,
    HYPERPARAMETERS,
    RECORDIO,
    TEST,
    TRAIN,
    Flows,
    arguments,
    check_same,
    check_scores,
    json_body,
    recordio,
    scores_of_json,
    scores_of_lines,
    until,
)


def aws(line: str, *words: str, **options: Any) -> str:
    """Run ``aws LINE WORDS``, with options such as ``role_arn=ARN``; lists and dicts become JSON."""
    command = [str(Path(sys.executable).with_name("aws")), *line.split(), *words]
    for option, value in options.items():
        text = value if isinstance(value, str) else json.dumps(value)
        command += [f"--{option.replace('_', '-')}", text]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"aws {line}: {done.stderr}"
    return done.stdout


def ask(line: str, query: str, **options: Any) -> Any:
    """Return what the query (JMESPath) finds in the answer."""
    return json.loads(aws(line, query=query, output="json", **options))


given = arguments(__doc__)
flow = Flows(aws("--version").split()[0].replace("aws-cli/", "awscli "))
name, uri = given.name, f"s3://{given.bucket}/{given.name}"
folder = Path(tempfile.mkdtemp())
for key, rows, labels in [("train", TRAIN, True), ("test", TEST, True), ("rows", TEST, False)]:
    (folder / "data" / key).mkdir(parents=True)
    (folder / "data" / key / f"{key}.pbr").write_bytes(recordio(rows, labels))


def channel(key: str) -> dict[str, Any]:
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{uri}/{key}/"}}
    return {"ChannelName": key, "ContentType": RECORDIO, "DataSource": source}


with flow("s3 ls, mb, sync, cp, presign, rm"):
    if given.bucket not in aws("s3 ls"):
        aws("s3 mb", f"s3://{given.bucket}")
    aws("s3 sync", f"{folder}/data", uri)
    assert "rows/rows.pbr" in aws("s3 ls --recursive", f"{uri}/")
    assert not aws("s3 sync", f"{folder}/data", uri), "the second time there is nothing to do"
    large = folder / "large"
    large.write_bytes(bytes(range(256)) * (80 << 10))
    aws("s3 cp", str(large), f"{uri}/large")
    aws("s3 cp", f"{uri}/large", f"{uri}/copied")
    aws("s3 cp", f"{uri}/copied", f"{folder}/copied")
    assert (folder / "copied").read_bytes() == large.read_bytes()
    with urllib.request.urlopen(aws("s3 presign", f"{uri}/rows/rows.pbr").strip()) as answer:
        assert answer.read() == recordio(TEST, labels=False)
    aws("s3 mv", f"{uri}/copied", f"{uri}/moved")
    aws("s3 rm --recursive", f"{uri}/", "--exclude", "*", "--include", "moved", "--include", "large")
    assert "moved" not in aws("s3 ls", f"{uri}/")

definition = {
    "algorithm_specification": f"TrainingImage={given.image},TrainingInputMode=File",
    "role_arn": given.role,
    "input_data_config": [channel("train"), channel("test")],
    "output_data_config": f"S3OutputPath={uri}/models",
    "resource_config": "InstanceType=ml.m5.large,InstanceCount=1,VolumeSizeInGB=10",
    "stopping_condition": "MaxRuntimeInSeconds=600",
}

with flow("sagemaker create-training-job, wait, describe, list, stop"):
    job = {"training_job_name": name}
    aws("sagemaker create-training-job", **job, hyper_parameters=HYPERPARAMETERS, **definition)
    until(
        lambda: ask("sagemaker describe-training-job", "TrainingJobStatus", **job),
        lambda status: status != "InProgress",
    )  # `wait` looks once a minute only
    aws("sagemaker wait training-job-completed-or-stopped", **job)
    metrics = ask("sagemaker describe-training-job", "FinalMetricDataList", **job)
    rmse = {item["MetricName"]: item["Value"] for item in metrics}["test:rmse"]
    model_data = ask("sagemaker describe-training-job", "ModelArtifacts.S3ModelArtifacts", **job)
    found = ask("sagemaker list-training-jobs", "TrainingJobSummaries[].TrainingJobName", name_contains=name)
    assert found == [name]
    stopped = {"training_job_name": f"{name}-s"}
    aws("sagemaker create-training-job", **stopped, hyper_parameters=ENDLESS, **definition)
    aws("sagemaker stop-training-job", **stopped)
    until(
        lambda: ask("sagemaker describe-training-job", "TrainingJobStatus", **stopped),
        lambda status: status == "Stopped",
    )

with flow("logs filter-log-events"):
    group = {"log_group_name": "/aws/sagemaker/TrainingJobs", "log_stream_name_prefix": f"{name}/"}
    messages = ask("logs filter-log-events", "events[].message", filter_pattern="test_score", **group)
    assert any("'rmse'" in message for message in messages)

with flow("sagemaker create-hyper-parameter-tuning-job"):
    tuning = {"hyper_parameter_tuning_job_name": name[-32:]}
    static = {key: value for key, value in HYPERPARAMETERS.items() if key != "linear_lr"}
    request = {
        "AlgorithmSpecification": {"TrainingImage": given.image, "TrainingInputMode": "File"},
        "RoleArn": given.role,
        "InputDataConfig": definition["input_data_config"],
        "OutputDataConfig": {"S3OutputPath": f"{uri}/models"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        "StaticHyperParameters": static,
    }
    config = {
        "Strategy": "Random",
        "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "test:rmse"},
        "ResourceLimits": {"MaxNumberOfTrainingJobs": 2, "MaxParallelTrainingJobs": 2},
        "ParameterRanges": {
            "ContinuousParameterRanges": [{"Name": "linear_lr", "MinValue": "0.003", "MaxValue": "0.03"}]
        },
    }
    aws(
        "sagemaker create-hyper-parameter-tuning-job",
        **tuning,
        hyper_parameter_tuning_job_config=config,
        training_job_definition=request,
    )
    described = until(
        lambda: ask("sagemaker describe-hyper-parameter-tuning-job", "@", **tuning),
        lambda found: found["HyperParameterTuningJobStatus"] != "InProgress",
    )
    assert described["TrainingJobStatusCounters"]["Completed"] == 2
    assert described["BestTrainingJob"]["TrainingJobName"].startswith(name[-32:])

with flow("sagemaker create-model, create-transform-job"):
    model = {"model_name": name}
    container = f"Image={given.image},ModelDataUrl={model_data}"
    aws("sagemaker create-model", **model, execution_role_arn=given.role, primary_container=container)
    aws(
        "sagemaker create-transform-job",
        transform_job_name=name,
        **model,
        batch_strategy="MultiRecord",
        transform_input={
            "DataSource": channel("rows")["DataSource"],
            "ContentType": RECORDIO,
            "SplitType": "RecordIO",
        },
        transform_output=f"S3OutputPath={uri}/scores,Accept=application/jsonlines,AssembleWith=Line",
        transform_resources="InstanceType=ml.m5.large,InstanceCount=1",
    )
    until(
        lambda: ask("sagemaker describe-transform-job", "TransformJobStatus", transform_job_name=name),
        lambda status: status != "InProgress",
    )
    aws("sagemaker wait transform-job-completed-or-stopped", transform_job_name=name)
    batch_scores = scores_of_lines(aws("s3 cp", f"{uri}/scores/rows.pbr.out", "-"))
    check_scores(batch_scores, rmse)

with flow("sagemaker create-endpoint, sagemaker-runtime invoke-endpoint"):
    endpoint, config_name = {"endpoint_name": name}, {"endpoint_config_name": name}
    variant = f"VariantName=all,ModelName={name},InitialInstanceCount=1,InstanceType=ml.m5.large"
    aws("sagemaker create-endpoint-config", **config_name, production_variants=variant)
    aws("sagemaker create-endpoint", **endpoint, **config_name)
    aws("sagemaker wait endpoint-in-service", **endpoint)
    (folder / "body.json").write_text(json_body(TEST))
    body = {"content_type": "application/json", "body": f"fileb://{folder}/body.json"}
    aws("sagemaker-runtime invoke-endpoint", f"{folder}/answer.json", **endpoint, **body)
    check_same(scores_of_json((folder / "answer.json").read_text()), batch_scores)
    aws("sagemaker delete-endpoint", **endpoint)
    aws("sagemaker wait endpoint-deleted", **endpoint)
    aws("sagemaker delete-endpoint-config", **config_name)
    aws("sagemaker delete-model", **model)

with flow("sts get-caller-identity"):
    assert ask("sts get-caller-identity", "Account").isdecimal()
