"""Runs the stages of a plan, one notebook each, and keeps a true record of them.

Stages that are up to date are not executed (``lib.cache`` decides).  The others are executed by papermill, each in
a thread of its own on a kernel that ``lib.kernels`` has started ahead, as soon as all that they take from has ended.
The main thread waits, so that Ctrl-C and SIGTERM find it ready: the cells are interrupted, the kernels end, and
``run.json`` says what was interrupted.  Whether a stage has succeeded, ``lib.executed`` judges.
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from lib import executed, parameters, records, retries, saving
from lib.cache import Cache, Decision, Objects
from lib.console import Progress
from lib.errors import ParameterError, ReelbookError
from lib.execution import Execution
from lib.files import atomically
from lib.forecast import OPEN, RUNS, forecast
from lib.history import History
from lib.kernels import KernelPool
from lib.plan import NOT_ASKED_FOR, Plan
from lib.records import ROOT, Attempt, RunRecord, StageFailure, StageRecord, shown
from lib.scraps import import_quickly
from lib.stages import Stage

COMMAND = ".venv/bin/python run_all.py"
INTERRUPT_SECONDS = 5  # how long an interrupted cell may take to tidy up
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Options:
    """How a plan is run.

    Attributes
    ----------
    look_ahead : int
        How many kernels are started ahead of the stages that run.
    parallel : int
        How many stages may run at the same time, where none takes from another.
    retries : int
        How many further attempts a stage has after a failure that time mends (see ``lib.retries``).
    cell_seconds, stage_seconds : int or None
        How long one cell, and one stage, may run; None: as long as it likes.
    progress : bool
        Show on standard error which stage runs.
    log_output : bool
        Print to standard error what the cells print, too, as it comes.
    """

    look_ahead: int = 2
    parallel: int = 2
    retries: int = 2
    cell_seconds: int | None = None
    stage_seconds: int | None = None
    progress: bool = True
    log_output: bool = False


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


def run(plan: Plan, options: Options | None = None) -> RunRecord:
    """Run the selected stages of a plan, but for those that are up to date.

    After a stage has failed no other one begins, but for those whose trigger is ``always``.

    Parameters
    ----------
    plan : Plan
        From ``lib.plan.make``.
    options : Options, optional

    Returns
    -------
    RunRecord
        As ``run.json`` has it.

    Raises
    ------
    Interrupted
        On SIGINT or SIGTERM, after the record has been written.
    ReelbookError
        When the run's folder or record cannot be written, or another process runs the same run.
    """
    plan = _with_folder(plan)
    with records.RunLock(plan.folder):
        if plan.continues and records.read_run(plan.folder) != plan.previous:
            raise ReelbookError(
                f"The run {plan.run_id} has gone on since this was planned.", hint="Say it again."
            )
        with _StopSignals() as signals, _Run(plan, options or Options()) as current:
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

        page = Path(report.write(folder))
        report.write_index(folder.parent)
        return page
    except Exception as error:
        print(f"The report could not be written: {type(error).__name__}: {error}", file=sys.stderr)
        return None


class _Run:
    """The state of a run while it lasts."""

    def __init__(self, plan: Plan, options: Options) -> None:
        self.plan = plan
        self.options = options
        self.record = _begin(plan)
        self.scraps = dict(plan.scraps)
        self.record.scraps = self.scraps
        self.progress = Progress([stage.name for stage in plan.selected], options.progress)
        self.objects = Objects()
        self.cache = Cache(
            History(plan.workflow.outputs, leave_out=plan.run_id), self.objects, own=plan.previous
        )
        self.saver = saving.Saver()
        self.kernels = KernelPool(plan.workflow.notebooks)
        self.executions: dict[str, Execution] = {}
        self.decisions: dict[str, Decision] = {}
        self.not_before: dict[str, float] = {}  # stages that wait for another attempt
        self.expected: list[Stage] = []  # what will run as far as is known
        self.failed = ""
        self.log = saving.PapermillLog(shows_output=options.log_output)

    def __enter__(self) -> _Run:
        threading.Thread(target=_import_ahead, name="notebook-imports", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kernels.close()
        wait([execution.future for execution in self.executions.values()], timeout=INTERRUPT_SECONDS)
        self.progress.close()
        self.log.close()

    def run_stages(self) -> None:
        """Run the selected stages, each as soon as those that it takes from have ended."""
        records.write_scraps(self.plan.folder, self.scraps)
        self._write()
        records.set_last_run(self.plan.workflow.outputs, self.plan.run_id)
        self._expect()
        waiting = list(self.plan.selected)
        while waiting or self.executions:
            begun = next((stage for stage in waiting if self._may_begin(stage)), None)
            if begun is not None:
                waiting.remove(begun)
                self._begin(begun)
                continue
            for name in self._await():
                self._settle(self._record(name))
                if name in self.not_before:
                    waiting.insert(0, self._stage(name))

    def end(self) -> None:
        """Record the end of a run that was not interrupted."""
        self._end("failed" if self.failed else "completed")

    def record_interruption(self, stop: Interrupted) -> None:
        """Stop the stages that run, and record them and the run as interrupted."""
        futures = [execution.future for execution in self.executions.values()]
        for execution in self.executions.values():
            execution.interrupt()
        if wait(futures, timeout=INTERRUPT_SECONDS).not_done:
            for execution in self.executions.values():
                execution.kill()
            wait(futures, timeout=INTERRUPT_SECONDS)
        for record in map(self._of, self.plan.selected):
            if record.status == "running":
                self._settle(record, stopped_by=str(stop))
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

    # ---- which stage begins

    def _expect(self) -> None:
        """Start the kernels of the stages that will run, as far as that is known.

        The first stage's is started before anything is looked at, unless an earlier run may make it needless.
        """
        first = self.plan.selected[:1]
        if first and (first[0].name in self.plan.forced or not self.cache.has_run(first[0].name)):
            self.expected = first
            self._look_ahead()
        verdicts = forecast(self.plan, self.cache)
        self.expected = [
            stage for stage in self.plan.selected if verdicts[stage.name].verdict in (RUNS, OPEN)
        ]
        self._look_ahead()

    def _look_ahead(self) -> None:
        ahead = self.options.look_ahead + 1 if not self.failed else 1
        for stage in [stage for stage in self.expected if self._of(stage).status == "pending"][:ahead]:
            contract = self.plan.contracts[stage.name]
            self.kernels.order(
                self._order(stage.name), contract.kernel, contract.imports, submits=contract.submits
            )

    def _may_begin(self, stage: Stage) -> bool:
        if self.failed and stage.trigger != "always" and stage.name not in self.not_before:
            return True  # to be skipped
        if len(self.executions) >= self.options.parallel:
            return False
        if time.monotonic() < self.not_before.get(stage.name, 0.0):
            return False
        before = set(self.plan.wiring.needs(stage.name))
        if stage.trigger == "always":
            names = [other.name for other in self.plan.selected]
            before |= set(names[: names.index(stage.name)])
        return not any(self._of(other).status in ("pending", "running") for other in self._selected(before))

    def _begin(self, stage: Stage) -> None:
        """Skip a stage, reuse an earlier execution of it, or start its execution."""
        record = self._of(stage)
        again = self.not_before.pop(stage.name, None) is not None
        if self.failed and stage.trigger != "always" and not again:
            self._pass_over(record, "skipped", f"{self.failed} failed")
            return
        try:
            values = self.plan.values(record.name, self.scraps)
        except ParameterError as error:
            record.status, record.started = "running", records.now()
            self._write()
            self._settle(record, error)
            return
        if not_wanted := stage.not_wanted(values):
            self._pass_over(record, "skipped", not_wanted)
            return
        contract = self.plan.contracts[stage.name]
        if not again:
            forced = self.plan.forced.get(stage.name, "")
            decision = self.decisions[stage.name] = self.cache.decide(stage, contract, values, forced=forced)
            record.key, record.ingredients, record.why = decision.key, decision.ingredients, decision.why
            record.parameters = values
            if decision.found is not None:
                self._reuse(record, decision.found, decision.run_id)
                return
        record.status, record.started = "running", records.now()
        self._target(record).unlink(missing_ok=True)  # of an earlier attempt
        self.progress.started(record.name)
        self._write()
        if stage not in self.expected:
            self.expected.append(stage)
        order = self._order(stage.name)
        self.kernels.order(order, contract.kernel, contract.imports, submits=contract.submits)
        self._look_ahead()
        self.executions[stage.name] = Execution(
            contract,
            self._target(record),
            values,
            order=order,
            kernels=self.kernels,
            saver=self.saver,
            cell_seconds=self.options.cell_seconds,
            stage_seconds=self.options.stage_seconds,
            log_output=self.options.log_output,
        )
        self.executions[stage.name].start()

    def _pass_over(self, record: StageRecord, status: str, why: str) -> None:
        record.status, record.why, record.started = status, why, None
        self.kernels.forget(self._order(record.name))
        self.expected = [stage for stage in self.expected if stage.name != record.name]
        self._write()
        self.progress.ended(record)
        self._look_ahead()

    def _reuse(self, record: StageRecord, found: StageRecord, run_id: str) -> None:
        """Take over what an earlier execution of a stage has left."""
        self.scraps.update(found.scraps)
        records.write_scraps(self.plan.folder, self.scraps)
        if run_id == self.plan.run_id:  # its own earlier part
            why = record.why
            self.record.stages[self.record.stages.index(record)] = record = found
            record.why = why
            self._pass_over_started(record)
            return
        record.scraps, record.outputs, record.jobs = found.scraps, found.outputs, found.jobs
        record.origin = found.origin or run_id
        source = self.plan.workflow.outputs / run_id / found.notebook
        target = self._target(record)
        if source.exists():
            with atomically(target) as partial:
                shutil.copyfile(source, partial)
        else:
            target.unlink(missing_ok=True)
        self._pass_over(record, "reused", record.why)

    def _pass_over_started(self, record: StageRecord) -> None:
        """Leave a stage as it ended in an earlier part of the same run."""
        started = record.started
        self._pass_over(record, record.status, record.why)
        record.started = started
        self._write()

    # ---- how a stage ends

    def _await(self) -> list[str]:
        """Wait until an execution has ended, or for a moment; return the stages whose has."""
        futures = {execution.future: name for name, execution in self.executions.items()}
        if not futures:
            time.sleep(POLL_SECONDS / 5)  # until the time of another attempt has come
        done = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED).done
        for execution in self.executions.values():
            execution.keep_time(INTERRUPT_SECONDS)
        self.saver.flush()
        self.progress.tick()
        return [futures[future] for future in done]

    def _settle(self, record: StageRecord, raised: BaseException | None = None, stopped_by: str = "") -> None:
        """Judge a stage that has ended, end its kernel, and record both."""
        execution = self.executions.pop(record.name, None)
        kernel = execution.kernel if execution else None
        scraps, failure = executed.settle(
            self._target(record),
            self.plan.contracts[record.name],
            raised or (execution.raised if execution else None),
            death=kernel.death() if kernel else "",
            last_words=kernel.last_words() if kernel else "",
            interrupted_by=stopped_by,
        )
        if kernel is not None:
            self.kernels.end(kernel, at_once=failure is not None)
        record.ended, record.seconds = records.now(), records.seconds_since(record.started or records.now())
        if failure is not None and not stopped_by and self._goes_on(record, failure):
            return
        if failure is not None:
            failure.hint = self._next_step(record, stopped=bool(stopped_by))
        record.status = "completed" if failure is None else "interrupted" if stopped_by else "failed"
        record.error = failure
        record.scraps = scraps
        if record.status == "failed":
            self.failed = self.failed or record.name
        if failure is None:
            self._note_what_it_left(record)
            self.scraps.update(scraps)
            records.write_scraps(self.plan.folder, self.scraps)
        self._write()
        self.progress.ended(record)

    def _goes_on(self, record: StageRecord, failure: StageFailure) -> bool:
        """Give a stage another attempt, where its failure is one that time mends."""
        if len(record.attempts) >= self.options.retries or not retries.worth_retrying(failure):
            return False
        record.attempts.append(Attempt(record.started or "", record.seconds or 0.0, failure))
        seconds = retries.pause(len(record.attempts))
        self.not_before[record.name] = time.monotonic() + seconds
        self.progress.said(
            f"{record.name}: {failure.kind}: {failure.message.splitlines()[0]} Another attempt in {seconds:.0f} s."
        )
        self._write()
        return True

    def _note_what_it_left(self, record: StageRecord) -> None:
        """Record the objects that a stage has left, and its jobs; without them it is not reused."""
        decision, contract = self.decisions[record.name], self.plan.contracts[record.name]
        record.outputs = self.cache.outputs(record.scraps, record.parameters)
        record.jobs = self.objects.jobs(record.scraps, record.parameters)
        if record.key:
            changed = self.cache.changed_meanwhile(decision, contract, record.parameters)
            if changed:
                record.key = ""
                record.why += f"; {changed}, so it is not reused"

    def _end(self, status: str) -> None:
        self.record.status = status
        self.record.ended = records.now()
        self.record.seconds = records.seconds_since(self.record.started)
        self._write()

    def _write(self) -> None:
        records.write_run(self.plan.folder, self.record)

    # ---- what is what

    def _stage(self, name: str) -> Stage:
        return next(stage for stage in self.plan.selected if stage.name == name)

    def _selected(self, names: set[str]) -> list[Stage]:
        return [stage for stage in self.plan.selected if stage.name in names]

    def _record(self, name: str) -> StageRecord:
        return next(record for record in self.record.stages if record.name == name)

    def _of(self, stage: Stage) -> StageRecord:
        return self._record(stage.name)

    def _order(self, name: str) -> str:
        """Return the name under which a stage's kernel is asked for: each attempt has its own."""
        return f"{name}, attempt {len(self._record(name).attempts) + 1}"

    def _next_step(self, record: StageRecord, stopped: bool) -> str:
        go_on = f"{COMMAND} --resume {self.plan.run_id}"
        contract = self.plan.contracts[record.name]
        if stopped:
            tidy = [stage.name for stage in self.plan.workflow.stages if stage.trigger == "always"]
            if tidy and contract.submits and not record.parameters.get("stop_jobs", False):
                stop = f"{COMMAND} --only {tidy[-1]}"
                return f"Go on with: {go_on} (a job that it submitted may still run: {stop} stops it)"
            return f"Go on with: {go_on}"
        own = shown(contract.path)
        return (
            f"See {shown(self._target(record))}, correct what the error names (or {own}), and go on with: "
            f"{go_on} (what is up to date is not run again)"
        )

    def _target(self, record: StageRecord) -> Path:
        return (self.plan.folder / record.notebook).absolute()


def _with_folder(plan: Plan) -> Plan:
    """Make the run's folder; a run that was given no id takes the next one where its own is taken."""
    while True:
        try:
            plan.folder.mkdir(parents=True, exist_ok=plan.continues)
        except FileExistsError:
            if plan.named:
                raise ParameterError(
                    f"The run {plan.run_id} exists already.",
                    hint=f"Give another --run-id, or continue it with --resume {plan.run_id}.",
                ) from None
            plan = dataclasses.replace(plan, run_id=records.new_run_id(plan.workflow.outputs))
        except OSError as error:
            raise ReelbookError(f"{shown(plan.folder)} cannot be made: {error.strerror or error}.") from error
        else:
            return plan


def _begin(plan: Plan) -> RunRecord:
    """Make the run's record: new, or the previous one with the selected stages pending."""
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
        git=records.checkout(),
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
    """Import what the first notebook's execution needs while its kernel starts (in a thread)."""
    with contextlib.suppress(Exception):  # who needs it will say so
        import_quickly("papermill")
        import_quickly("scrapbook")
        import_quickly("boto3")


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
