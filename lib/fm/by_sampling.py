"""Trains a job's model by Gibbs sampling: the local extension ``local_algorithm: bayesian``."""

from __future__ import annotations

import time

import numpy as np

from lib.fm import hyperparameters
from lib.fm.bayesian import Report, Sampling
from lib.fm.job import Job, Trained
from lib.fm.metrics import evaluate

_COVERAGES = (0.5, 0.8, 0.9, 0.95)
_USED = ("feature_dim", "num_factors", "predictor_type")
_CONVERGED = 1.1  # the largest R-hat that raises no doubt


def train(job: Job) -> Trained | None:
    """Sample, writing the log, and return the folded posterior mean; None if asked to stop before the first sweep.

    Raises
    ------
    ReelbookError
        Data that cannot be learnt from, or too little memory.
    """
    h, log = job.hyperparameters, job.log
    log.local("Gibbs sampling of a Bayesian Factorization Machine, not SageMaker's algorithm")
    ignored = [name for name in job.given if name in hyperparameters.NAMES and name not in _USED]
    if ignored:
        log.local(f"without effect on the Bayesian algorithm: {', '.join(ignored)}")
    X, y = job.read("train")
    sampling = Sampling(
        X,
        y,
        num_factors=h.num_factors,
        predictor_type=h.predictor_type,
        samples=h.extensions.samples,
        burn_in=h.extensions.burn_in,
        seed=job.seed,
        test=job.test,
    )
    if sampling.compile_seconds is not None:
        log.line(f"Compiled the kernels in {sampling.compile_seconds:.1f} s; later runs find them ready")
    log.line(f"Sampling on {X.shape[0]} records, {h.rounds} sweeps")
    log.metrics(job.started, {"setuptime": 1000 * (time.time() - job.started)})
    report = _run(job, sampling, X.shape[0])
    if report is None:
        return None
    _diagnose(job, sampling)
    _measure_test(job, sampling)
    model = sampling.model()
    if sampling.draws > 1:
        log.local(f"folded {sampling.kept} draws into one model with {model.num_factors} factors")
    outputs = model.outputs(X)
    return Trained(model, evaluate(outputs, y, h.classifier))


def _run(job: Job, sampling: Sampling, records: int) -> Report | None:
    """Sample to the end or until asked to stop, and return the last report."""
    log, rounds = job.log, job.hyperparameters.rounds
    report: Report | None = None
    started = time.time()
    if job.asked_to_stop():
        return None
    for report in sampling:
        log.train_metrics(report.train, epoch=report.sweep)
        log.metrics(started, {"update.time": 1000 * report.seconds}, epoch=report.sweep)
        if report.test is not None:
            log.local_metrics(report.test, channel="test", epoch=report.sweep)
        log.progress(report.sweep + 1, rounds)
        log.throughput(records, report.seconds)
        started = time.time()
        if job.asked_to_stop():
            log.line(f"Asked to stop: ending after sweep {report.sweep} with {report.draws} draws")
            break
    return report


def _diagnose(job: Job, sampling: Sampling) -> None:
    """Write what the chain's traces say of convergence.

    What the model's outputs say tells whether it has settled: the bias and the mean of the weights may trade
    places for ever without a change of the predictions, and each round finds a loss and a noise of its own.
    """
    for name, found in sampling.diagnostics().items():
        job.log.local(
            f"convergence of {name}: mean {found.mean:.5g}, deviation {found.deviation:.2g}, "
            f"R-hat {found.r_hat:.3f}, {found.effective:.0f} effective draws of {sampling.draws}"
        )
        if name == "outputs" and found.r_hat > _CONVERGED:
            job.log.warning(
                f"The chain has not settled (R-hat of the outputs is {found.r_hat:.3f}, above {_CONVERGED}): "
                "more burn_in and samples may help."
            )


def _measure_test(job: Job, sampling: Sampling) -> None:
    """Write how good the full posterior mean and its intervals are on the test channel."""
    if job.test is None or not sampling.draws or not job.test[0].shape[0]:
        return
    labels = job.test[1]
    mean = sampling.test_mean
    if job.hyperparameters.classifier:
        mean = np.clip(mean, 1e-12, 1 - 1e-12)
        mean = np.log(mean / (1 - mean))
    metrics = evaluate(mean, labels, job.hyperparameters.classifier)
    of_mean = ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
    job.log.local(f"test metrics of the mean over all {sampling.draws} draws, before folding: {of_mean}")
    if job.hyperparameters.classifier:
        return  # a label of 0 or 1 has no interval
    for coverage in _COVERAGES:
        low, high = sampling.test_interval(coverage)
        inside = float(np.mean((low <= labels) & (labels <= high)))
        job.log.local(f"intervals of {coverage:.0%} hold {inside:.1%} of the test labels")
