"""The commands that look at runs: ``runs``, ``diff``, ``watch``, ``report`` and ``logs``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lib import comparison, console, history, records
from lib.errors import ParameterError, did_you_mean
from lib.history import History
from lib.plan import Workflow
from lib.records import RunRecord, StageRecord, shown

SHOWN = 20  # runs that `runs` lists
POLL_SECONDS = 0.5


def runs(arguments: Sequence[str], workflow: Workflow) -> int:
    """List the runs, the newest first."""
    parser = _parser("runs", "List the runs, the newest first.")
    parser.add_argument("-n", type=int, default=SHOWN, metavar="N", help=f"how many (default: {SHOWN})")
    parser.add_argument("--all", action="store_true", help="all of them")
    options = parser.parse_args(arguments)
    found = sorted(History(workflow.outputs).runs(), key=lambda run: run.started, reverse=True)
    if not found:
        print(f"There is no run yet in {shown(workflow.outputs)}.")
        return 0
    listed = found if options.all else found[: max(1, options.n)]
    print(console.runs_text([(run, history.status(workflow.outputs, run)) for run in listed]))
    if len(listed) < len(found):
        print(f"({len(found) - len(listed)} older ones: --all)")
    return 0


def diff(arguments: Sequence[str], workflow: Workflow) -> int:
    """Compare two runs, on the terminal and as a page."""
    parser = _parser("diff", "Compare two runs: parameters, code, packages, data, metrics and figures.")
    parser.add_argument("before", nargs="?", metavar="A", help="a run (default: the last but one)")
    parser.add_argument("after", nargs="?", metavar="B", help="a run (default: the last one)")
    parser.add_argument("--no-page", action="store_true", help="write no page")
    options = parser.parse_args(arguments)
    before, after = _two(workflow.outputs, options.before, options.after)
    compared = comparison.compare(workflow.outputs, before, after)
    print(console.diff_text(compared))
    if not options.no_page:
        from lib import report

        print(f"page: {shown(report.write_diff(workflow.outputs, compared))}")
    return 0


def report(arguments: Sequence[str], workflow: Workflow) -> int:
    """Write the page of a run and the index of all runs anew."""
    parser = _parser(
        "report", "Write a run's page, the pages of its notebooks and the index of all runs anew."
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run (default: the last one)")
    options = parser.parse_args(arguments)
    from lib import report as pages

    run = _one(workflow.outputs, options.run)
    print(shown(pages.write(workflow.outputs / run.run_id)))
    print(shown(pages.write_index(workflow.outputs)))
    return 0


def watch(arguments: Sequence[str], workflow: Workflow) -> int:
    """Show a run that goes on in another process, until it ends; return 1 where it did not complete."""
    parser = _parser("watch", "Look at a run that goes on in another terminal, until it ends.")
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run (default: the last one)")
    options = parser.parse_args(arguments)
    run = _one(workflow.outputs, options.run)
    folder = workflow.outputs / run.run_id
    screen = console.Screen()
    while True:
        going_on = records.is_going_on(folder)  # before reading: the record is then the last one
        run = records.read_run(folder) or run
        screen.show(console.live_text(run, folder), console.live_lines(run, folder))
        if not going_on:
            break
        time.sleep(POLL_SECONDS)
    status = history.status(workflow.outputs, run)
    print(f"run {run.run_id}: {status}")
    return 0 if status == "completed" else 1


def logs(arguments: Sequence[str], workflow: Workflow) -> int:
    """Print the logs of all jobs of a run, from where it ran."""
    parser = _parser("logs", "Print the logs of all jobs of a run, in one place.")
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run (default: the last one)")
    parser.add_argument("--stage", metavar="STAGE", help="of this stage only")
    options = parser.parse_args(arguments)
    run = _one(workflow.outputs, options.run)
    names = [stage.name for stage in run.stages]
    if options.stage is not None and options.stage not in names:
        guess = did_you_mean(options.stage, names)
        raise ParameterError(
            f"The run {run.run_id} has no stage `{options.stage}`{': ' + guess if guess else '.'}",
            hint="" if guess else f"It has {', '.join(names)}.",
        )
    found = [
        one for stage in run.stages if options.stage in (None, stage.name) for one in _logged(run, stage)
    ]
    handed_in = {name: value for name, value in run.scraps.items() if not _published(run, name)}
    if options.stage is None:  # jobs that a scheduler has submitted, such as Airflow's operators
        whole = StageRecord("the run", "", "", parameters=run.parameters, scraps=handed_in)
        found += _logged(run, whole)
    for lines in found:
        for line in lines:
            print(line)
    if not found:
        where = f"stage {options.stage} of the run" if options.stage else "run"
        print(f"The {where} {run.run_id} has no job with a log.")
    return 0


def _published(run: RunRecord, scrap: str) -> bool:
    return any(scrap in stage.scraps for stage in run.stages)


def _logged(run: RunRecord, stage: StageRecord) -> Iterator[Iterator[str]]:
    """Yield the lines of each job of a stage, a heading before them."""
    from lib import aws, job_control, job_records

    names = job_records.named_in(stage.scraps)
    if not names:
        return
    target = stage.parameters.get("target", run.target or "local")
    aws.connect(target, **stage.parameters.get("account", {}))

    def lines(kind: str, name: str) -> Iterator[str]:
        yield f"== {stage.name}, {kind} job {name}"
        yield from job_control.LogTail(job_control.LOG_GROUPS[kind], name).new_lines()

    for kind, name in job_records.logged(names):
        yield lines(kind, name)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"run_all.py {name}", description=description, allow_abbrev=False)


def _one(outputs: Path, run_id: str | None) -> RunRecord:
    """Return the run of that id, or the last one."""
    if run_id is not None:
        return history.find(outputs, run_id)
    last = next(iter(sorted(History(outputs).runs(), key=lambda run: run.started, reverse=True)), None)
    if last is None:
        raise ParameterError(f"There is no run yet in {shown(outputs)}.", hint="Begin one by `run_all.py`.")
    return last


def _two(outputs: Path, before: str | None, after: str | None) -> tuple[RunRecord, RunRecord]:
    """Return the two runs to compare: those named, or the last two; one that is named alone, and the last one."""
    if before is not None and after is not None:
        return history.find(outputs, before), history.find(outputs, after)
    last = sorted(History(outputs).runs(), key=lambda run: run.started, reverse=True)
    if before is not None:
        last = [run for run in last if run.run_id != before]
        if last:
            return history.find(outputs, before), last[0]
    if len(last) < 2:
        raise ParameterError(
            f"There are no two runs yet in {shown(outputs)}.", hint="Begin one by `run_all.py`."
        )
    return last[1], last[0]


COMMANDS = {"runs": runs, "diff": diff, "watch": watch, "report": report, "logs": logs}


def main(name: str, arguments: Sequence[str], workflow: Workflow | None = None) -> int:
    """Carry out one of ``COMMANDS`` and return the exit status."""
    try:
        return COMMANDS[name](arguments, workflow or Workflow())
    except KeyboardInterrupt:
        if name != "watch":
            raise
        print(file=sys.stderr)
        return 0
