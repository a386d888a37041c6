"""Trains a job's model as SageMaker does, by Adam, with what the local extensions add."""

from __future__ import annotations

import time
from collections.abc import Mapping

from lib.errors import ParameterError
from lib.fm import fold, lr_finder
from lib.fm.early_stopping import EarlyStopping
from lib.fm.fit import Training
from lib.fm.hyperparameters import Hyperparameters
from lib.fm.job import Job, Trained
from lib.fm.metrics import loss_name

_MUCH_WORSE = 1.5  # times the lowest loss of an epoch
_SHORT_EPOCH = (
    10.0  # seconds that a stop waits for an epoch's end where there are checkpoints; SageMaker gives 120
)


def train(job: Job) -> Trained | None:
    """Train, writing the log, and return the model; None if asked to stop before the first mini-batch.

    Raises
    ------
    ReelbookError
        Early stopping without test rows, data that cannot be learnt from, or a training that diverges.
    """
    extensions = job.hyperparameters.extensions
    test = job.test  # read before the training: a mistake there is to cost no epochs
    if extensions.early_stopping and test is None:
        raise ParameterError(
            "Early stopping watches the channel `test`, which the job does not have.",
            hint="Add the channel, or leave `local_early_stopping` out.",
        )
    hyperparameters = _with_found_rates(job) if extensions.lr_finder else job.hyperparameters
    trained: list[Trained] = []
    for number in range(extensions.seeds):
        if job.asked_to_stop():
            break
        one = _train_one(job, hyperparameters, number)
        stopped_amid = job.asked_to_stop() and trained  # half a training is no equal of the whole ones
        if one is not None and not stopped_amid:
            trained.append(one)
    if not trained:
        return None
    if extensions.seeds == 1:
        return trained[0]
    return _averaged(job, trained)


def _train_one(job: Job, hyperparameters: Hyperparameters, number: int) -> Trained | None:
    """Train the model of one seed; the first writes SageMaker's log lines, the others lines of their own."""
    log = job.log
    training = Training.from_files(
        job.channels["train"].paths,
        hyperparameters,
        names=job.channels["train"].names,
        seed=job.seed + number,
    )
    if training.compile_seconds is not None:
        log.line(
            f"Compiled the kernels for num_factors={hyperparameters.num_factors} in "
            f"{training.compile_seconds:.1f} s; later runs find them ready"
        )
    if not number:
        log.metrics(job.started, {"setuptime": 1000 * (time.time() - job.started)})
    patience = hyperparameters.extensions.early_stopping
    stopping = EarlyStopping(patience, *job.test) if patience and job.test is not None else None
    metrics = _run(job, training, stopping, number)
    if not training.updates:
        return None
    _warn_if_worse(job, metrics)
    if stopping is None or stopping.best_epoch is None:
        return Trained(training.finish(), metrics[max(metrics)])
    log.local(
        f"the model is that of epoch={stopping.best_epoch}, with a test loss of {stopping.best_loss:.6g}"
    )
    return Trained(training.model(stopping.best), metrics[stopping.best_epoch])


def _run(
    job: Job, training: Training, stopping: EarlyStopping | None, number: int
) -> dict[int, dict[str, float]]:
    """Train to the end or until there is a reason to stop; return each epoch's training metrics."""
    log, epochs = job.log, training.hyperparameters.epochs
    checkpoints = job.checkpoints
    found = checkpoints.restore(training) if checkpoints else {}
    first = max(found, default=-1) + 1
    warned = False
    epoch_started = time.time()
    if job.asked_to_stop():
        return found
    for report in training.epochs_from(first):
        asked_to_stop = job.asked_to_stop()
        if checkpoints and not report.ended and report.seconds < _SHORT_EPOCH:
            asked_to_stop = False  # until the epoch ends: only then there is something to go on from
        found[report.epoch] = report.metrics
        if training.advice and not warned:
            log.warning(training.advice)
            warned = True
        if training.publishes(report) and not number:
            log.train_metrics(report.metrics, epoch=report.epoch, batch=report.batch)
        if report.ended:
            if report.epoch == first and not number:
                log.line(f"Training on {training.records} records, {training.batches} mini-batches an epoch")
            if number:
                log.local_metrics(report.metrics, channel="train", epoch=report.epoch, seed=number + 1)
            else:
                log.train_metrics(report.metrics, epoch=report.epoch)
            log.metrics(epoch_started, {"update.time": 1000 * report.seconds}, epoch=report.epoch)
            if stopping is not None:
                tested = stopping.after(training, report.epoch)
                log.local_metrics(
                    tested, channel="test", epoch=report.epoch, seed=number + 1 if number else None
                )
            done = epochs if _exhausted(stopping) else report.epoch + 1
            log.progress(number * epochs + done, training.hyperparameters.rounds)
            log.throughput(report.records, report.seconds)
            if checkpoints:
                ends = asked_to_stop or _exhausted(stopping)
                checkpoints.save(training, report.epoch, report.metrics, ends=ends)
            if _exhausted(stopping):
                log.local("stopping early: the test loss has not fallen for as many epochs as asked for")
                break
            epoch_started = time.time()
        if asked_to_stop:
            log.line(f"Asked to stop: ending after epoch={report.epoch}, batch={report.batch}")
            break
    return found


def _warn_if_worse(job: Job, metrics: Mapping[int, dict[str, float]]) -> None:
    """Say so when the last epoch's training loss is far above the lowest: near a divergence, yet finite."""
    name = loss_name(job.hyperparameters.classifier)
    losses = {epoch: of_epoch[name] for epoch, of_epoch in metrics.items()}
    best, last = min(losses, key=lambda epoch: losses[epoch]), max(losses)
    if losses[last] > _MUCH_WORSE * losses[best]:
        job.log.warning(
            f"The training {name} rose from {losses[best]:.4g} in epoch {best} to {losses[last]:.4g} in epoch {last}: "
            "lower the learning rates."
        )


def _exhausted(stopping: EarlyStopping | None) -> bool:
    return stopping is not None and stopping.exhausted


def _averaged(job: Job, trained: list[Trained]) -> Trained:
    """Return the models of several seeds as one, and the mean of their training metrics."""
    model = fold.average([one.model for one in trained])
    k = job.hyperparameters.num_factors
    job.log.local(
        f"the model is the mean of {len(trained)} models of different seeds: it has {model.num_factors} factors"
    )
    if job.hyperparameters.extensions.fold and model.num_factors > k:
        model = fold.low_rank(model, k)
        job.log.local(f"folded back to {k} factors: an approximation of that mean")
    metrics = {name: sum(one.metrics[name] for one in trained) / len(trained) for name in trained[0].metrics}
    return Trained(model, metrics)


def _with_found_rates(job: Job) -> Hyperparameters:
    """Return the job's hyperparameters with the learning rates that the finder finds."""
    h = job.hyperparameters
    X, y = job.read("train", keep_zeros=True, most_rows=lr_finder.MOST_ROWS)
    started = time.perf_counter()
    rows = X.shape[0]
    if rows == lr_finder.MOST_ROWS:
        rows = job.channels["train"].estimated_rows(rows)
    found = lr_finder.find(
        X,
        y,
        h,
        share=h.extensions.lr_finder,
        batches=-(-rows // h.mini_batch_size),
        asked_to_stop=job.asked_to_stop,
    )
    for trial in found.trials:
        job.log.local(f"learning rates {_in_words(trial.rates)}: {trial.outcome}")
    job.log.local(
        f"chose the learning rates {_in_words(found.rates)} in {time.perf_counter() - started:.1f} s and "
        f"{found.batches} mini-batches on {X.shape[0]} records"
    )
    return h.model_copy(update=dict(found.rates))


def _in_words(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
