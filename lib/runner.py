"""Runs the stages of a plan, one notebook after the other, and keeps a true record of them.

papermill executes the notebooks, in a worker thread, on kernels that ``lib.kernels`` has started ahead.  The
main thread waits, so that Ctrl-C and SIGTERM find it ready: the cell is interrupted, the kernels end, and
``run.json`` says what was interrupted.  Whether a stage has succeeded, ``lib.executed`` judges.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from lib import executed, parameters, records
from lib.console import Progress
from lib.errors import ParameterError, ReelbookError
from lib.kernels import START_SECONDS, Kernel, KernelPool, close_event_loop
from lib.plan import NOT_ASKED_FOR, Plan
from lib.records import ROOT, RunRecord, StageFailure, StageRecord, shown
from lib.scraps import import_quickly
from lib.stages import Stage

COMMAND = ".venv/bin/python run_all.py"
INTERRUPT_SECONDS = 5  # how long an interrupted cell may take to tidy up
POLL_SECONDS = 0.5


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run; its record has been written.

    Attributes
    ----------
    signal_number : int
        SIGINT or SIGTERM.
    run : RunRecord or None
        The run's record.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.run: RunRecord | None = None


def run(
    plan: Plan, *, look_ahead: int = 2, cell_seconds: int | None = None, progress: bool = True
) -> RunRecord:
    """Run the selected stages of a plan.

    A stage that fails makes the later ones skipped, but for those whose trigger is ``always``.

    Parameters
    ----------
    plan : Plan
        From ``lib.plan.make``.
    look_ahead : int
        How many kernels are started ahead of the stage that runs.
    cell_seconds : int, optional
        How long one cell may run; without it, as long as it likes.
    progress : bool
        Show on standard error which stage runs.

    Returns
    -------
    RunRecord
        As ``run.json`` has it.

    Raises
    ------
    Interrupted
        On SIGINT or SIGTERM, after the record has been written.
    ReelbookError
        When the run's folder or record cannot be written.
    """
    with _StopSignals() as signals, _Run(plan, look_ahead, cell_seconds, progress) as current:
        try:
            current.run_stages()
            signals.shield()
            current.end()
        except Interrupted as stop:
            current.record_interruption(stop)
            raise
        except Exception as error:
            signals.shield()
            with contextlib.suppress(ReelbookError):  # the disk may be full
                current.record_breakdown(error)
            raise
        return current.record


def write_report(folder: Path) -> Path | None:
    """Write a run's page; a failure is told on standard error and changes nothing about the run.

    Returns
    -------
    Path or None
        The page, or None when it could not be written.
    """
    try:
        from lib import report

        return Path(report.write(folder))
    except Exception as error:
        print(f"The report could not be written: {type(error).__name__}: {error}", file=sys.stderr)
        return None


class _Run:
    """The state of a run while it lasts."""

    def __init__(self, plan: Plan, look_ahead: int, cell_seconds: int | None, progress: bool) -> None:
        self.plan = plan
        self.look_ahead = look_ahead
        self.cell_seconds = cell_seconds
        self.record = _begin(plan)
        self.scraps = dict(plan.scraps)
        self.record.scraps = self.scraps
        self.progress = Progress([stage.name for stage in plan.selected], progress)
        self.worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="notebook")
        self.worker.submit(_import_ahead)
        self.kernels = KernelPool(plan.workflow.notebooks)
        self.kernel: Kernel | None = None
        self.execution: Future[None] | None = None
        self.logger = logging.getLogger("papermill")
        self.level = self.logger.level
        self.logger.setLevel(logging.CRITICAL + 1)  # what it would say is in the record

    def __enter__(self) -> _Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kernels.close()
        self.worker.submit(close_event_loop)
        self.worker.shutdown(wait=True)
        self.progress.close()
        self.logger.setLevel(self.level)

    def run_stages(self) -> None:
        """Run the selected stages in order."""
        records.write_scraps(self.plan.folder, self.scraps)
        self._write()
        records.set_last_run(self.plan.workflow.outputs, self.plan.run_id)
        failed = ""
        for index, stage in enumerate(self.plan.selected):
            record = self._of(stage)
            if failed and stage.trigger != "always":
                record.status, record.why = "skipped", f"{failed} failed"
                self.kernels.forget(stage.name)
                self.progress.ended(record)
                continue
            look_ahead = 0 if failed else self.look_ahead
            self._run_stage(record, self.plan.selected[index : index + 1 + look_ahead])
            if record.status == "failed" and not failed:
                failed = stage.name

    def end(self) -> None:
        """Record the end of a run that was not interrupted."""
        failed = any(self._of(stage).status == "failed" for stage in self.plan.selected)
        self._end("failed" if failed else "completed")

    def record_interruption(self, stop: Interrupted) -> None:
        """Stop the stage that runs, and record it and the run as interrupted."""
        raised = None
        if self.execution is not None and self.kernel is not None:
            raised = self._stop(self.execution, self.kernel)
        for record in map(self._of, self.plan.selected):
            if record.status == "running":
                self._settle(record, raised, stopped_by=str(stop))
            elif record.status == "pending":
                record.status, record.why = "skipped", "the run was interrupted"
        self._end("interrupted")
        stop.run = self.record

    def record_breakdown(self, error: Exception) -> None:
        """Record that the run itself, not a stage's cell, came to grief."""
        for record in map(self._of, self.plan.selected):
            if record.status == "running":
                record.status, record.error = "failed", StageFailure(type(error).__name__, str(error))
            elif record.status == "pending":
                record.status, record.why = "skipped", "the run broke off"
        self._end("failed")

    def _run_stage(self, record: StageRecord, coming: Sequence[Stage]) -> None:
        """Execute one notebook and record the truth about it.

        Parameters
        ----------
        record : StageRecord
        coming : sequence of Stage
            This stage and those whose kernels are to be started ahead.
        """
        record.status, record.started = "running", records.now()
        self.progress.started(record.name)
        self._target(record).unlink(missing_ok=True)  # of an earlier attempt
        try:
            values = self.plan.values(record.name, self.scraps)
        except ParameterError as error:
            self._write()
            self._settle(record, error)
            return
        if not_wanted := coming[0].not_wanted(values):
            record.status, record.why, record.started = "skipped", not_wanted, None
            self.kernels.forget(record.name)
            self._write()
            self.progress.ended(record)
            return
        record.parameters = values
        self._write()
        for stage in coming:
            contract = self.plan.contracts[stage.name]
            self.kernels.order(stage.name, contract.kernel, contract.imports)
        raised: Exception | None = None
        try:
            self.kernel = self._wait(self.kernels.take(record.name))
            contract = self.plan.contracts[record.name]
            given = {
                name: value for name, value in values.items() if value != contract.parameters[name].default
            }
            self.execution = self.worker.submit(
                _execute,
                contract.path.absolute(),
                self._target(record),
                given,
                self.kernel,
                self.cell_seconds,
            )
            self._wait(self.execution)
        except Exception as error:
            raised = error
        self._settle(record, raised)

    def _settle(self, record: StageRecord, raised: BaseException | None, stopped_by: str = "") -> None:
        """Judge a stage that has ended, end its kernel, and record both."""
        kernel, self.kernel, self.execution = self.kernel, None, None
        scraps, failure = executed.settle(
            self._target(record),
            self.plan.contracts[record.name],
            raised,
            death=kernel.death() if kernel else "",
            last_words=kernel.last_words() if kernel else "",
            interrupted_by=stopped_by,
        )
        if kernel is not None:
            self.kernels.end(kernel, at_once=failure is not None)
        if failure is not None:
            failure.hint = self._next_step(record, stopped=bool(stopped_by))
        record.status = "completed" if failure is None else "interrupted" if stopped_by else "failed"
        record.error = failure
        record.scraps = scraps
        record.ended, record.seconds = records.now(), records.seconds_since(record.started or records.now())
        if scraps:
            self.scraps.update(scraps)
            records.write_scraps(self.plan.folder, self.scraps)
        self._write()
        self.progress.ended(record)

    def _wait(self, future: Future[Any]) -> Any:
        """Wait for another thread's work while the progress line goes on."""
        while not wait([future], timeout=POLL_SECONDS).done:
            self.progress.tick()
        return future.result()

    def _stop(self, execution: Future[None], kernel: Kernel) -> BaseException | None:
        """Interrupt the cell that runs, kill its kernel if it does not end, and return what papermill raised."""
        kernel.interrupt()
        if not wait([execution], timeout=INTERRUPT_SECONDS).done:
            kernel.kill()
            wait([execution], timeout=INTERRUPT_SECONDS)
        return execution.exception() if execution.done() else None

    def _end(self, status: str) -> None:
        self.record.status = status
        self.record.ended = records.now()
        self.record.seconds = records.seconds_since(self.record.started)
        self._write()

    def _write(self) -> None:
        records.write_run(self.plan.folder, self.record)

    def _of(self, stage: Stage) -> StageRecord:
        return next(record for record in self.record.stages if record.name == stage.name)

    def _next_step(self, record: StageRecord, stopped: bool) -> str:
        go_on = f"{COMMAND} --from {record.name}"
        if stopped:
            tidy = [stage.name for stage in self.plan.workflow.stages if stage.trigger == "always"]
            jobs = (
                f" A job that it submitted may still run: {COMMAND} --only {tidy[-1]} stops it."
                if tidy
                else ""
            )
            return f"Go on with: {go_on}{jobs}"
        own = shown(self.plan.contracts[record.name].path)
        return (
            f"See {shown(self._target(record))}, correct what the error names (or {own}), and go on with: "
            f"{go_on} (or from an earlier stage, if what it left is to blame)"
        )

    def _target(self, record: StageRecord) -> Path:
        return (self.plan.folder / record.notebook).absolute()


def _begin(plan: Plan) -> RunRecord:
    """Make the run's folder and its record: new, or the previous one with the selected stages pending."""
    try:
        plan.folder.mkdir(parents=True, exist_ok=plan.continues)
    except FileExistsError:
        raise ParameterError(
            f"The run {plan.run_id} exists already.", hint="Give another --run-id."
        ) from None
    except OSError as error:
        raise ReelbookError(f"{shown(plan.folder)} cannot be made: {error.strerror or error}.") from error
    previous = plan.previous
    given = {name: setting.value for name, setting in plan.given.items()}
    target = parameters.Parameter("target", "str", "", "", "")
    for contract in plan.contracts.values():
        target = contract.parameters.get("target", target)
    file = plan.parameters_file.absolute() if plan.parameters_file else None
    return RunRecord(
        run_id=plan.run_id,
        started=records.now(),
        command=plan.command,
        parameters_file=str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file) if file else None,
        command_line=[list(pair) for pair in plan.command_line],
        parameters=given,
        target=str(parameters.value_of(target, plan.given.get("target"))),
        stages=[_stage_record(plan, stage, previous) for stage in plan.workflow.stages],
        versions=records.versions(),
        python=platform.python_version(),
        machine=records.machine(),
    )


def _stage_record(plan: Plan, stage: Stage, previous: RunRecord | None) -> StageRecord:
    """Return a stage's record at the start of the run."""
    contract = plan.contracts[stage.name]
    fresh = StageRecord(
        name=stage.name,
        title=contract.title,
        notebook=f"{stage.name}.ipynb",
        needs=plan.wiring.needs(stage.name) if stage.name in plan.wiring.active else [],
        publishes=list(contract.publishes),
    )
    why = plan.skipped.get(stage.name)
    if why is None:
        return fresh
    earlier = previous.stage(stage.name) if previous else None
    if why == NOT_ASKED_FOR and earlier is not None and earlier.status not in ("pending", "skipped"):
        if earlier.status == "running":
            earlier.status = "interrupted"  # its runner was killed
        return earlier
    fresh.status, fresh.why = "skipped", why
    return fresh


def _import_ahead() -> None:
    """Import what the first notebook's execution needs while its kernel starts (in the worker thread)."""
    import_quickly("papermill")
    import_quickly("scrapbook")


def _execute(
    source: Path, target: Path, values: dict[str, Any], kernel: Kernel, cell_seconds: int | None
) -> None:
    """Execute a notebook with papermill (in the worker thread)."""
    papermill = import_quickly("papermill")
    try:
        papermill.execute_notebook(
            _literal(source),
            _literal(target),
            parameters=values,
            language="python",
            km=kernel.manager,
            progress_bar=False,
            execution_timeout=cell_seconds,
            start_timeout=START_SECONDS,
        )
    finally:
        kernel.hang_up()


def _literal(path: Path) -> str:
    """Return a path in which papermill, for which paths are format strings, finds nothing to replace."""
    return str(path).replace("{", "{{").replace("}", "}}")


class _StopSignals:
    """Turns the first SIGINT or SIGTERM into ``Interrupted``; later ones are ignored while the run ends."""

    def __init__(self) -> None:
        self._stopping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and & want it
                    self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def shield(self) -> None:
        """Ignore signals from now on."""
        self._stopping = True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self._stopping:
            self._stopping = True
            raise Interrupted(number)
