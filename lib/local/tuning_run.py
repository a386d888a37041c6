"""One tuning job on its way: which training job comes next, which is stopped early, and when to end."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from lib.local.jobs import TrainingJobs
from lib.local.protocol import AwsError
from lib.local.ranges import Range, parse_ranges
from lib.local.store import TRAINING_JOB, TUNING_JOB, Store
from lib.local.strategies import (
    BayesianSearch,
    Hyperband,
    RandomSearch,
    Strategy,
    Trial,
    falls_behind,
    grid_of,
)
from lib.local.tuning_checks import hyperband_epochs, training_params
from lib.local.tuning_results import (
    counters,
    final_value,
    finish,
    minimizes,
    objective_of,
    summarise,
    was_interrupted,
)

_FAILURES_TO_GIVE_UP = 5
_ALL_FAILED = (
    "All training jobs failed. Please take a look at the training jobs failures to get more details."
)
_NO_OBJECTIVE = (
    "No objective metrics found after running {count} training jobs. Please ensure that the custom algorithm "
    "is emitting the objective metric as defined by the regular expression provided."
)


class TuningRun:
    """A tuning job, in a thread of its own.

    Parameters
    ----------
    document : dict
        The job's description.
    store : Store
        The state.
    training : TrainingJobs
        Runs the training jobs.
    forget : callable
        Called with the job's name when it has ended.
    """

    def __init__(
        self, document: dict[str, Any], store: Store, training: TrainingJobs, forget: Callable[[str], None]
    ) -> None:
        self._name: str = document["HyperParameterTuningJobName"]
        self._document = document
        self._store = store
        self._training = training
        self._forget = forget
        self._config: dict[str, Any] = document["HyperParameterTuningJobConfig"]
        self._minimize = minimizes(document)
        self._metric = objective_of(document)["MetricName"]
        # the only metric that Factorization Machines logs after every epoch is that of the training rows
        self._running_metric = f"train:{self._metric.partition(':')[2]}:epoch"
        self._changed = threading.Condition()
        self._trials: dict[str, Trial] = {}
        self._to_repeat: list[tuple[str, dict[str, str]]] = []
        self._running: set[str] = set()
        self._ended = self._shut_down = False
        self._take_up()
        ranges = parse_ranges(self._config.get("ParameterRanges", {}))
        self._strategy = self._strategy_over(ranges)
        limit = self._config["ResourceLimits"].get("MaxNumberOfTrainingJobs")
        self._most: int = grid_of(ranges).size if limit is None else limit
        self._hyperband = None
        if self._config["Strategy"] == "Hyperband":
            epochs = hyperband_epochs(self._config, document["TrainingJobDefinition"])
            self._hyperband = Hyperband(*epochs, minimize=self._minimize)
        self._stops_early = self._config.get("TrainingJobEarlyStoppingType") == "Auto"
        self._thread = threading.Thread(target=self._work, name=f"tuning {self._name}", daemon=True)

    def start(self) -> None:
        """Begin, or go on."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end."""
        self._thread.join(timeout)

    def end(self, *, shutdown: bool = False) -> None:
        """Start no further training job, and stop those that run (at a shutdown, others end them)."""
        with self._changed:
            self._ended = True
            self._shut_down = self._shut_down or shutdown
            running = [] if shutdown else list(self._running)
            self._changed.notify_all()
        for name in running:
            self._stop_training_job(name)

    def report(self, job: str, metric: str, value: float) -> None:
        """Note a metric of a training job after an epoch, and stop the job where it is not worth more."""
        if metric != self._running_metric or not (self._hyperband or self._stops_early):
            return
        with self._changed:
            trial = self._trials.get(job)
            if trial is None or job not in self._running:
                return
            trial.curve.append(value)
            others = list(self._trials.values())
            if self._hyperband:
                hopeless = self._hyperband.gives_up(trial, list(self._trials).index(job), len(others))
            else:
                hopeless = falls_behind(trial, others, minimize=self._minimize)
        if hopeless:
            self._stop_training_job(job)

    def _strategy_over(self, ranges: Sequence[Range]) -> Strategy:
        strategy, seed = self._config["Strategy"], self._document["Seed"]
        if strategy == "Grid":
            return grid_of(ranges)
        if strategy == "Bayesian":
            return BayesianSearch(ranges, seed, minimize=self._minimize, parents=self._parents())
        return RandomSearch(ranges, seed)

    def _parents(self) -> list[Trial]:
        """Return the training jobs of earlier tuning jobs that this one starts from."""
        parents = self._document.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", [])
        jobs = [
            job
            for parent in parents
            for job in self._store.children(TUNING_JOB.arn(parent["HyperParameterTuningJobName"]))
        ]
        values = [(job, final_value(job, self._metric)) for job in jobs]
        return [Trial(job["TunedHyperParameters"], value) for job, value in values if value is not None]

    def _take_up(self) -> None:
        """Read what training jobs there are already; those that a kill interrupted are to be repeated."""
        for job in self._store.children(self._document["HyperParameterTuningJobArn"]):
            name, tuned = job["TrainingJobName"], job["TunedHyperParameters"]
            if was_interrupted(job):
                if "RepeatedAs" not in job:
                    self._to_repeat.append((name, tuned))
                continue
            value = final_value(job, self._metric)
            self._trials[name] = Trial(tuned, value, failed=value is None)

    def _work(self) -> None:
        failure: str | None = None
        try:
            self._search()
        except AwsError as error:  # a training job was refused: its input has gone, say
            failure = f"ClientError: {error.message}"
            self.end()
        except Exception as error:
            failure = f"InternalServerError: {type(error).__name__}: {error}"
            self.end()
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
        try:
            if not self._shut_down:  # else the next server goes on
                self._finish(failure)
        finally:
            self._forget(self._name)

    def _search(self) -> None:
        limits = self._config["ResourceLimits"]
        used = time.time() - self._document["CreationTime"]
        deadline = time.monotonic() + limits.get("MaxRuntimeInSeconds", math.inf) - max(0.0, used)
        while True:
            with self._changed:
                self._wait(lambda: len(self._running) < limits["MaxParallelTrainingJobs"], deadline)
                if self._ended or time.monotonic() >= deadline or self._settled():
                    break
                if len(self._trials) >= self._most:
                    break
                self._start_training_job()
        with self._changed:
            self._wait(lambda: not self._running or self._settled(), deadline)
        if not self._shut_down:
            self.end()

    def _wait(self, ready: Callable[[], bool], deadline: float) -> None:
        timeout = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        self._changed.wait_for(lambda: self._ended or ready(), timeout)

    def _settled(self) -> bool:
        """Whether the criteria for an end are met, or so many jobs have failed that the rest will too."""
        trials = self._trials.values()
        values = [trial.value for trial in trials if trial.value is not None]
        if not values:
            return sum(trial.failed for trial in trials) >= _FAILURES_TO_GIVE_UP
        criteria = self._config.get("TuningJobCompletionCriteria", {})
        target = criteria.get("TargetObjectiveMetricValue")
        if target is not None and (min(values) <= target if self._minimize else max(values) >= target):
            return True
        most = criteria.get("BestObjectiveNotImproving", {}).get("MaxNumberOfTrainingJobsNotImproving")
        best = min(values) if self._minimize else max(values)
        return most is not None and len(values) - 1 - values.index(best) >= most

    def _start_training_job(self) -> None:
        definition = self._document["TrainingJobDefinition"]
        arn = self._document["HyperParameterTuningJobArn"]
        repeated, tuned = self._to_repeat.pop(0) if self._to_repeat else ("", None)
        if tuned is None:
            tuned = self._strategy.propose(list(self._trials.values()))
        name = f"{self._name}-{len(self._trials) + 1:03d}-{uuid.uuid4().hex[:8]}"
        specification = dict(definition["AlgorithmSpecification"])
        del specification["MetricDefinitions"]  # the algorithm's own, which no request may give
        params = {
            **training_params(definition),
            "AlgorithmSpecification": specification,
            "TrainingJobName": name,
            "HyperParameters": {
                **definition.get("StaticHyperParameters", {}),
                **tuned,
                "_tuning_objective_metric": self._metric,
            },
            "Tags": self._store.tags(arn),
        }
        if "CheckpointConfig" in params:
            params["CheckpointConfig"] = self._checkpoints(params["CheckpointConfig"], name, repeated)
        if repeated:
            self._store.update(TRAINING_JOB, repeated, lambda job: job.update(RepeatedAs=name))
        self._running.add(name)
        self._trials[name] = Trial(tuned)
        try:
            self._training.create(params, parent=arn, tuned=tuned, ended=self._note_end)
        except BaseException:
            self._running.discard(name)
            del self._trials[name]
            raise

    def _checkpoints(self, config: dict[str, Any], name: str, repeated: str) -> dict[str, Any]:
        """Return a training job's CheckpointConfig: a place of its own, or that of the job it repeats."""
        if repeated:
            earlier: dict[str, Any] = self._store.get(TRAINING_JOB, repeated)["CheckpointConfig"]
            return earlier
        return {**config, "S3Uri": f"{config['S3Uri'].rstrip('/')}/{name}"}

    def _stop_training_job(self, name: str) -> None:
        try:
            self._training.stop({"TrainingJobName": name})
        except AwsError:  # it has just ended
            return

    def _note_end(self, name: str) -> None:
        """Note what a training job that has ended came to; runs in that job's thread."""
        value = None
        try:
            job = self._store.get(TRAINING_JOB, name)
            value = final_value(job, self._metric)
            if value is not None:
                self._store.update(TRAINING_JOB, name, lambda document: None, score=value)
        finally:
            with self._changed:
                trial = self._trials[name]
                trial.value, trial.failed = value, value is None
                self._running.discard(name)
                self._changed.notify_all()

    def _finish(self, failure: str | None) -> None:
        jobs = self._store.children(self._document["HyperParameterTuningJobArn"])
        counted = counters(jobs, [summarise(job, self._document) for job in jobs])
        completed = counted["TrainingJobStatusCounters"]["Completed"]
        succeeded = counted["ObjectiveStatusCounters"]["Succeeded"]

        def change(document: dict[str, Any]) -> None:
            if failure is not None:
                finish(document, "Failed", failure)
            elif document["HyperParameterTuningJobStatus"] == "Stopping":
                finish(document, "Stopped")
            elif succeeded:
                finish(document, "Completed")
            elif not completed:
                finish(document, "Failed", _ALL_FAILED)
            else:
                finish(document, "Failed", _NO_OBJECTIVE.format(count=completed))

        self._store.settle(TUNING_JOB, self._name, change)
