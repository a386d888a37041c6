"""Builds folders of runs as the runner leaves them: ``run.json`` and small executed notebooks with figures."""

from __future__ import annotations

import base64
import functools
import io
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lib import records
from lib.records import Attempt, RunRecord, StageFailure, StageRecord

RUN_ID = "20261123-091500"
STARTED = datetime.fromisoformat("2026-11-23T09:15:00.250+00:00")
S3 = f"s3://reelbook/runs/{RUN_ID}"
TITLES = {
    "00_collect": "00 Collect the reviews",
    "01_preprocess": "01 Preprocess the reviews",
    "02_prepare": "02 Prepare the design matrices",
    "03_train": "03 Train the Factorization Machine",
    "04_tune": "04 Tune the Factorization Machine",
    "05_transform": "05 Predict the test ratings",
    "06_evaluate": "06 Evaluate the model",
    "08_clean_up": "08 Clean up",
}
NEEDS = {
    "01_preprocess": ["00_collect"],
    "02_prepare": ["01_preprocess"],
    "03_train": ["02_prepare"],
    "05_transform": ["02_prepare", "03_train"],
    "06_evaluate": ["01_preprocess", "03_train", "05_transform"],
}
SCRAPS: dict[str, dict[str, Any]] = {
    "00_collect": {"reviews_uri": f"{S3}/00_collect/reviews.tsv.gz", "ratings": 100_000},
    "01_preprocess": {
        "ratings_uri": f"{S3}/01_preprocess",
        "customers_uri": f"{S3}/01_preprocess/customers.parquet",
        "videos_uri": f"{S3}/01_preprocess/videos.parquet",
        "customer_count": 2586,
        "video_count": 963,
        "rating_count": 43_503,
        "skipped_rows": 20,
    },
    "02_prepare": {
        "train_uri": f"{S3}/02_prepare/train/train.pbr",
        "validate_uri": f"{S3}/02_prepare/validate/validate.pbr",
        "test_uri": f"{S3}/02_prepare/test/",
        "feature_dim": 3549,
    },
    "03_train": {
        "model_uri": f"{S3}/03_train/{RUN_ID}-train-158d7204/output/model.tar.gz",
        "training_job_name": f"{RUN_ID}-train-158d7204",
    },
    "05_transform": {
        "predictions_uri": f"{S3}/05_transform/{RUN_ID}-transform-fbe4e167",
        "model_name": f"{RUN_ID}-model-79b353e3",
    },
    "06_evaluate": {
        "rmse": 1.0379829917722918,
        "mae": 0.832440104826931,
        "ndcg": 0.9513207442984741,
        "baseline_rmse": 1.0798166417058161,
        "naive_rmse": 1.133542612773762,
        "best_rmse": 0.7910449,
        "accepted": True,
    },
    "08_clean_up": {"deleted_models": 1, "deleted_objects": 0},
}
SECONDS = {
    "00_collect": 12.4,
    "01_preprocess": 10.022,
    "02_prepare": 1.917,
    "03_train": 34.384,
    "05_transform": 6.0,
    "06_evaluate": 13.834,
    "08_clean_up": 3.23,
}
FIGURES = {
    "01_preprocess": ["long_tail", "stars"],
    "03_train": ["learning_curve"],
    "06_evaluate": ["errors", "calibration"],
}
ALT = {
    "long_tail": "Ratings per customer and per video by quantile, on a logarithmic scale",
    "stars": "How often each rating was given: five stars most, one star least",
    "learning_curve": "RMSE by epoch: training ends at 0.912, validation at 1.041",
    "errors": "RMSE on the test rows: mean rating 1.134, bias baseline 1.080, model 1.038",
    "calibration": "Mean given rating by predicted rating, in ten groups",
}
TEST_RATINGS = {"uri": f"{S3}/01_preprocess", "objects": 5, "bytes": 412_000, "etag": "b" * 64}
FAILING_CELL = """job = jobs.train(
    connection,
    run_id,
    train_uri=train_uri,
    test_uri=validate_uri,
    output_uri=stage_uri,
    hyperparameters=chosen,
    training=training,
)
print(f"{job.job_name}: trained in {job.seconds} s, billed {job.billable_seconds} s")"""
NEXT_STEP = (
    f"See outputs/{RUN_ID}/03_train.ipynb, mend notebooks/03_train.ipynb, and go on with: "
    ".venv/bin/python run_all.py --from 03_train"
)
FAILURE = StageFailure(
    kind="JobFailed",
    message=f"The training job {RUN_ID}-train-158d7204 failed: ClientError: mini_batch_size 500000 is larger than "
    "the 26,101 rows of the train channel.\nThe last lines of its log:\n"
    "Customer Error: mini_batch_size 500000 is larger than the data.",
    cell=7,
    source=FAILING_CELL,
    traceback="Cell In[5], line 1\n----> 1 job = jobs.train(\n      2     connection,\n      3     run_id,\n\n"
    'File lib/jobs.py:184, in train(account, run_id, **request)\n    183 if job.status == "Failed":\n'
    "--> 184     raise JobFailed(sentence, job=name, reason=job.failure_reason, log_lines=lines)\n\n"
    "JobFailed: The training job failed",
    hint=NEXT_STEP,
)
INTERRUPTION = StageFailure(
    kind="Interrupted",
    message="SIGINT stopped the run.",
    cell=6,
    source="predicted = evaluation.clip(jobs.read_predictions(predictions_uri), lowest, highest)",
    hint=NEXT_STEP.replace("03_train", "06_evaluate"),
)


def completed(folder: Path) -> Path:
    """Build a run that completed; 04_tune was skipped."""
    return save(folder, record())


def failed(folder: Path) -> Path:
    """Build a run whose training failed: what follows was skipped, 08_clean_up ran."""
    run = record({"03_train": "failed", "05_transform": "skipped", "06_evaluate": "skipped"}, "failed")
    run.stage("03_train").error = FAILURE
    for name in ("05_transform", "06_evaluate"):
        run.stage(name).why = "03_train failed"
    return save(folder, run)


def running(folder: Path) -> Path:
    """Build a run that is training now; the notebook being executed is half written."""
    later = dict.fromkeys(["05_transform", "06_evaluate", "08_clean_up"], "pending")
    save(folder, record({"03_train": "running", **later}, "running"))
    (folder / "03_train.ipynb").write_text('{"cells": [{"cell_type": "code", "sou', encoding="utf-8")
    return folder


def interrupted(folder: Path) -> Path:
    """Build a run that Ctrl-C stopped in its evaluation."""
    run = record({"06_evaluate": "interrupted", "08_clean_up": "skipped"}, "interrupted")
    run.stage("06_evaluate").error = INTERRUPTION
    run.stage("08_clean_up").why = "the run was interrupted"
    return save(folder, run)


def again(folder: Path) -> Path:
    """Build a run that reused what was up to date, and trained again at the second attempt with another parameter."""
    run = record()
    run.run_id, run.started = f"{RUN_ID}-2", _time(STARTED + timedelta(days=1))
    run.parameters = {**run.parameters, "num_factors": 32}
    run.git = {"commit": "0123456789abcdef0123456789abcdef01234567", "branch": "main", "dirty": True}
    for stage in run.stages:
        if stage.status == "completed" and stage.name < "03_train":
            stage.status, stage.why, stage.origin = "reused", f"up to date since the run {RUN_ID}", RUN_ID
            stage.started = stage.ended = stage.seconds = None
        elif stage.started:
            for name in ("started", "ended"):
                moment = datetime.fromisoformat(getattr(stage, name)) + timedelta(days=1)
                setattr(stage, name, _time(moment))
    train, evaluated = run.stage("03_train"), run.stage("06_evaluate")
    train.why = "num_factors is 32, was 64 (run 20261123-091500)"
    train.attempts = [
        Attempt(train.started, 2.5, StageFailure("ServiceUnavailable", "SageMaker does not answer."))
    ]
    train.parameters = {**train.parameters, "num_factors": 32}
    train.outputs = {
        "model_uri": {"uri": SCRAPS["03_train"]["model_uri"], "objects": 1, "bytes": 9, "etag": "a" * 32}
    }
    train.jobs = [
        {
            "kind": "training",
            "name": SCRAPS["03_train"]["training_job_name"],
            "arn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{RUN_ID}-train-158d7204",
            "instance_type": "ml.m5.xlarge",
            "instance_count": 1,
            "billable_seconds": 93,
            "estimated_cost": 0.0059,
        }
    ]
    evaluated.scraps = {**SCRAPS["06_evaluate"], "rmse": 1.0311}
    run.scraps = {**run.scraps, "rmse": 1.0311}
    return save(folder, run)


def record(others: dict[str, str] | None = None, status: str = "completed") -> RunRecord:
    """Return a run's record; the stages completed, but for ``others``, whose states are given."""
    states = {**dict.fromkeys(SECONDS, "completed"), "04_tune": "skipped", **(others or {})}
    now = STARTED
    stages = []
    for name, title in TITLES.items():
        stage = StageRecord(name, title, f"{name}.ipynb", states[name], needs=NEEDS.get(name, []))
        stage.publishes = list(SCRAPS.get(name, SCRAPS["03_train"]))
        if name == "04_tune":
            stage.why = "runs only when tune is true"
        if stage.status not in ("skipped", "pending"):
            stage.started = _time(now)
            stage.parameters = {"run_id": RUN_ID, "target": "local", "account": {}, "seed": 0}
            stage.parameters |= {"margin": 0.005} if name == "06_evaluate" else {}
            if stage.status != "running":
                now += timedelta(seconds=SECONDS[name])
                stage.ended, stage.seconds = _time(now), SECONDS[name]
                now += timedelta(seconds=0.02)
        if stage.status == "completed":
            stage.scraps = SCRAPS[name]
            if name == "06_evaluate":
                stage.ingredients = {"objects": {"ratings_uri": TEST_RATINGS}, "modules": {"lib.jobs": "abc"}}
        stages.append(stage)
    over = status != "running"
    return RunRecord(
        run_id=RUN_ID,
        status=status,
        started=_time(STARTED),
        ended=_time(now) if over else None,
        seconds=round((now - STARTED).total_seconds(), 3) if over else None,
        command="run_all.py -p epochs 50 -p num_factors 32",
        parameters_file="parameters/local.yaml",
        command_line=[["epochs", "50"], ["num_factors", "32"]],
        parameters={
            "target": "local",
            "ratings": 100_000,
            "epochs": 50,
            "num_factors": 32,
            "factors_wd": 1e-5,
        },
        target="local",
        stages=stages,
        scraps={name: value for stage in stages for name, value in stage.scraps.items()},
        versions={"papermill": "2.7.0", "sagemaker": "3.27.0", "numpy": "2.4.6", "matplotlib": "3.11.2"},
        python="3.11.7",
        machine="Linux 6.18.44, x86_64, 2 CPUs",
    )


def save(folder: Path, run: RunRecord) -> Path:
    """Write a record, and a notebook for each stage that has begun."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage in run.stages:
        if stage.status not in ("skipped", "pending"):
            names = FIGURES.get(stage.name, []) if stage.status in ("completed", "reused") else []
            write_notebook(folder / stage.notebook, stage.title, [image(name, ALT[name]) for name in names])
    records.write_run(folder, run)
    return folder


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def write_notebook(path: Path, title: str, outputs: list[dict[str, Any]]) -> None:
    """Write an executed notebook with these outputs, each of a cell of its own."""
    cells: list[dict[str, Any]] = [
        {"cell_type": "markdown", "id": "title", "metadata": {}, "source": f"# {title}"}
    ]
    for number, output in enumerate(outputs):
        code = {"cell_type": "code", "id": f"figure-{number}", "metadata": {}, "execution_count": number + 1}
        cells.append({**code, "source": "plots.show(figure)", "outputs": [output]})
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook), encoding="utf-8")


def image(name: str, alt: str | None) -> dict[str, Any]:
    """Return a figure as an output of a cell; without ``alt`` nobody has described it."""
    metadata = {} if alt is None else {"image/png": {"alt": alt}}
    png = base64.b64encode(picture(name)).decode()
    return {"output_type": "display_data", "metadata": metadata, "data": {"image/png": png}}


@functools.cache
def picture(name: str) -> bytes:
    """Draw a figure with matplotlib as PNG."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2 if name == "calibration" else 3.4), dpi=100, layout="constrained")
    axes = figure.subplots()
    if name == "long_tail":
        share = np.linspace(0, 1, 40)
        axes.plot(share * 100, 1 + 200 * share**12, label="customers")
        axes.plot(share * 100, 1 + 600 * share**8, label="videos")
        axes.set(yscale="log", xlabel="share of all (%)", ylabel="ratings")
        axes.legend(frameon=False)
    elif name == "stars":
        axes.bar([1, 2, 3, 4, 5], [4, 7, 15, 22, 52])
        axes.set(xlabel="rating", ylabel="share of all ratings (%)")
    elif name == "learning_curve":
        axes.plot(range(1, 51), 0.9 + 0.25 * np.exp(-np.arange(50) / 12))
        axes.set(xlabel="epoch", ylabel="RMSE")
    elif name == "errors":
        axes.barh(["mean rating", "bias baseline", "model"], [1.134, 1.080, 1.038])
        axes.set(xlabel="RMSE")
    else:
        axes.plot([3, 3.5, 4, 4.5, 5], [2.9, 3.55, 4.02, 4.44, 4.9], marker="o")
        axes.set(xlabel="mean predicted rating", ylabel="mean rating given")
    axes.set_title(name.replace("_", " ").capitalize(), loc="left")
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
