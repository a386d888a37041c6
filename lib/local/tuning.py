"""Hyperparameter tuning jobs: training jobs with hyperparameters that a strategy proposes.

A tuning job outlives the server: what is kept of it and of its training jobs says how it goes on.
(AWS: "How hyperparameter tuning with Amazon SageMaker AI works".)
"""

from __future__ import annotations

import secrets
import threading
from typing import Any

from lib.local import algorithm
from lib.local.jobs import TrainingJobs
from lib.local.protocol import AwsError
from lib.local.store import FINISHED, TRAINING_JOB, TUNING_JOB, Page, Store
from lib.local.tuning_checks import IDENTICAL, check, training_params
from lib.local.tuning_results import best, counters, finish, summarise
from lib.local.tuning_run import TuningRun


class TuningJobs:
    """The tuning jobs of the local SageMaker.

    Parameters
    ----------
    store : Store
        The state.
    training : TrainingJobs
        Runs the training jobs.
    """

    def __init__(self, store: Store, training: TrainingJobs) -> None:
        self.store = store
        self.training = training
        self._lock = threading.Lock()
        self._runs: dict[str, TuningRun] = {}
        training.reporters.append(self._report)

    def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """Start a tuning job: CreateHyperParameterTuningJob.

        Raises
        ------
        AwsError
            ValidationException or ResourceInUse.
        """
        check(params, self.store)
        self.training.check(training_params(params["TrainingJobDefinition"]))
        name = params["HyperParameterTuningJobName"]
        document = self.store.create(TUNING_JOB, name, _document(params), tags=params.get("Tags"))
        self._start(document)
        return {"HyperParameterTuningJobArn": document["HyperParameterTuningJobArn"]}

    def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return a job's description: DescribeHyperParameterTuningJob."""
        return self.with_results(self.store.get(TUNING_JOB, params["HyperParameterTuningJobName"]))

    def with_results(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return a job's description with counters and best job, as its training jobs are now."""
        jobs = self.store.children(document["HyperParameterTuningJobArn"])
        summaries = [summarise(job, document) for job in jobs]
        answer = {**document, **counters(jobs, summaries)}
        found = best(summaries, document)
        if found:
            answer["BestTrainingJob"] = found
        warm = document.get("WarmStartConfig")
        if warm and warm["WarmStartType"] == IDENTICAL:
            theirs = [
                {**summarise(job, document), "TuningJobName": parent["HyperParameterTuningJobName"]}
                for parent in warm["ParentHyperParameterTuningJobs"]
                for job in self.store.children(TUNING_JOB.arn(parent["HyperParameterTuningJobName"]))
            ]
            overall = best([*summaries, *theirs], document)
            if overall:
                answer["OverallBestTrainingJob"] = overall
        return answer

    def stop(self, params: dict[str, Any]) -> None:
        """Stop a tuning job and its training jobs: StopHyperParameterTuningJob.

        Raises
        ------
        AwsError
            ValidationException when it has ended already.
        """
        name = params["HyperParameterTuningJobName"]

        def change(document: dict[str, Any]) -> None:
            status = document["HyperParameterTuningJobStatus"]
            if status in FINISHED:
                raise AwsError(
                    "ValidationException",
                    f"The request was rejected because the hyperparameter tuning job is in status {status}.",
                )
            document["HyperParameterTuningJobStatus"] = "Stopping"

        self.store.update(TUNING_JOB, name, change)
        with self._lock:
            run = self._runs.get(name)
        if run:
            run.end()

    def training_jobs(self, params: dict[str, Any], page: Page) -> dict[str, Any]:
        """Return a page of a job's training jobs: ListTrainingJobsForHyperParameterTuningJob."""
        document = self.store.get(TUNING_JOB, params["HyperParameterTuningJobName"])
        arn = document["HyperParameterTuningJobArn"]
        jobs, token = self.store.select(TRAINING_JOB, page, parent=arn)
        summaries = [summarise(job, document) for job in jobs]
        return {"TrainingJobSummaries": summaries, **({"NextToken": token} if token else {})}

    def recover(self) -> None:
        """Take up the jobs that an earlier server left unfinished, once their training jobs are settled."""
        for name in self.store.unfinished(TUNING_JOB):
            document = self.store.get(TUNING_JOB, name)
            if document["HyperParameterTuningJobStatus"] == "Stopping":
                self.store.update(TUNING_JOB, name, lambda document: finish(document, "Stopped"))
            else:
                self._start(document)

    def close(self) -> None:
        """Start no further training jobs; the tuning jobs stay in progress, for the next server to go on."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.end(shutdown=True)

    def join(self, timeout: float) -> None:
        """Wait for the tuning jobs to note their end, up to ``timeout`` seconds for each."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.join(timeout)

    def busy(self) -> bool:
        """Whether a tuning job is in progress."""
        with self._lock:
            return bool(self._runs)

    def _start(self, document: dict[str, Any]) -> None:
        name = document["HyperParameterTuningJobName"]
        with self._lock:
            run = self._runs[name] = TuningRun(document, self.store, self.training, self._forget)
        run.start()

    def _forget(self, name: str) -> None:
        """Drop what is held of a job that has ended."""
        with self._lock:
            self._runs.pop(name, None)

    def _report(self, job: str, metric: str, value: float, timestamp: float) -> None:
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.report(job, metric, value)


def _document(params: dict[str, Any]) -> dict[str, Any]:
    """Return a new job's description: the request's members, and what AWS fills in."""
    kept = {
        name: value for name, value in params.items() if name not in ("HyperParameterTuningJobName", "Tags")
    }
    definition = params["TrainingJobDefinition"]
    specification = {
        **definition["AlgorithmSpecification"],
        "MetricDefinitions": algorithm.metric_definitions(),
    }
    config = {"TrainingJobEarlyStoppingType": "Off", **params["HyperParameterTuningJobConfig"]}
    seed = config.get("RandomSeed")
    return {
        **kept,
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": {**definition, "AlgorithmSpecification": specification},
        "HyperParameterTuningJobStatus": "InProgress",
        "Seed": secrets.randbits(31) if seed is None else seed,
    }
