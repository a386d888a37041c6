"""The command: run the workflow, look after the local AWS, open JupyterLab.

    run_all.py                            run everything with parameters/local.yaml
    run_all.py -f FILE -p NAME VALUE      with other parameters
    run_all.py plan                       what would run, and why
    run_all.py check -f FILE              whether account, role, bucket, image and quotas are there; the cost at most
    run_all.py --resume RUN               go on with a run; what is up to date is not run again
    run_all.py runs                       list the runs
    run_all.py diff A B                   compare two runs
    run_all.py watch                      look at the run that is going on
    run_all.py report RUN                 write a run's page anew
    run_all.py logs RUN                   the logs of all jobs of a run
    run_all.py local start|status|env|stop|reset
    run_all.py lab

This file is also started by Pythons that cannot run Reelbook, in order to say so: it must parse on Python 3.6,
and imports what is not in the standard library only after the check.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11)
FAILED, WRONG_USE = 1, 2


def main(arguments=None, workflow=None):
    """Carry out one command.

    Parameters
    ----------
    arguments : list of str, optional
        The command line without the program's name.
    workflow : lib.plan.Workflow, optional
        Another workflow than Reelbook's own.

    Returns
    -------
    int
        The exit status: 0 done, 1 a stage failed, 2 wrong use, 128 + N stopped by signal N.
    """
    problem = environment_problem()
    if problem:
        print("run_all.py: " + problem, file=sys.stderr)
        return WRONG_USE
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    sys.path.insert(0, str(ROOT))
    from lib.errors import ContractError, ParameterError, ReelbookError

    commands = {"local": local, "lab": lab}
    name = arguments[0] if arguments else ""
    try:
        if name in commands:
            return commands[name](arguments[1:])
        if name in ("runs", "diff", "watch", "report", "logs"):
            return look(arguments, workflow)
        if name == "plan":
            return plan(arguments[1:], workflow)
        if name == "check":
            return check(arguments[1:], workflow)
        return run(arguments[1:] if name == "run" else arguments, workflow)
    except ReelbookError as error:
        print("run_all.py: error: " + str(error), file=sys.stderr)
        return WRONG_USE if isinstance(error, (ParameterError, ContractError)) else FAILED
    except KeyboardInterrupt:
        print("run_all.py: interrupted", file=sys.stderr)
        return 130


def environment_problem():
    """Return one sentence on why this Python cannot run Reelbook, or an empty string."""
    start = "start it with `make run`, or with .venv/bin/python run_all.py"
    if sys.version_info < OLDEST_PYTHON:
        version = ".".join(str(number) for number in sys.version_info[:2])
        return "Reelbook needs Python 3.11 or newer and this is {}; {}.".format(version, start)  # noqa: UP032
    from importlib.util import find_spec

    missing = [
        name for name in ("papermill", "scrapbook", "pydantic", "yaml", "tqdm") if find_spec(name) is None
    ]
    if missing:
        return "{} is not installed for {}; {}.".format(missing[0], sys.executable, start)  # noqa: UP032
    return ""


def run(arguments, workflow):
    """Run the workflow, or a part of it."""
    options = run_parser().parse_args(arguments)
    if options.dry_run:
        return show_plan(options, arguments, workflow)
    planned = planned_from(options, arguments, workflow)
    from lib import runner

    status = 0
    chosen = runner.Options(
        look_ahead=options.look_ahead,
        parallel=options.parallel,
        retries=options.retries,
        cell_seconds=options.cell_seconds,
        stage_seconds=options.stage_seconds,
        log_output=options.log_output,
    )
    try:
        record = runner.run(planned, chosen)
    except runner.Interrupted as stop:
        record = stop.run
        status = 128 + stop.signal_number
    if options.notify and record.status != "completed":
        from lib import notices

        where = {name: setting.value for name, setting in planned.given.items()}
        notices.tell_failure(record, options.notify, where.get("target", "local"), where.get("account", {}))
    return show(record, status, planned)


def plan(arguments, workflow):
    """Print what would run and why; the options are those of ``run``."""
    return show_plan(run_parser("plan").parse_args(arguments), arguments, workflow)


def check(arguments, workflow):
    """Look at what the jobs of a run need, and print it; the options are those of ``run``."""
    options = run_parser("check").parse_args(arguments)
    planned = planned_from(options, arguments, workflow)
    from lib import console, preflight

    findings = preflight.check(planned)
    print(console.findings_text(findings))
    return FAILED if any(finding.verdict == preflight.WRONG for finding in findings) else 0


def show_plan(options, arguments, workflow):
    """Print a plan, without a kernel."""
    from lib import cache, console, forecast
    from lib.history import History

    planned = planned_from(options, arguments, workflow)
    history = History(planned.workflow.outputs, leave_out=planned.run_id)
    verdicts = forecast.forecast(planned, cache.Cache(history, cache.Objects(), own=planned.previous))
    print(console.plan_text(planned, verdicts))
    return 0


def planned_from(options, arguments, workflow):
    """Work out what the options ask for."""
    from lib import plan

    request = plan.Request(
        parameters_file=options.file,
        command_line=[tuple(pair) for pair in options.parameter],
        run_id=options.run_id,
        start=options.start,
        stop=options.stop,
        only=options.only,
        resume=options.resume,
        force=options.force,
        no_cache=options.no_cache,
        command=shlex.join(["run_all.py", *arguments]),
    )
    return plan.make(workflow or plan.Workflow(), request)


def show(record, status, planned):
    """Print the summary of a run and, where it failed, one screen about it; return the exit status."""
    from lib import console, records, runner

    folder = planned.workflow.outputs / record.run_id
    page = runner.write_report(folder)
    print(console.summary(record))
    if page is not None:
        print("report: " + records.shown(page))
    names = {stage.name for stage in planned.selected}
    ended_badly = [stage for stage in record.stages if stage.name in names and stage.error is not None]
    if ended_badly:
        print("\n" + console.failure_text(ended_badly[0]), file=sys.stderr)
    return status or (FAILED if record.status == "failed" else 0)


def run_parser(name=""):
    """Return the parser of ``run_all.py run`` and ``plan``."""
    parser = argparse.ArgumentParser(
        prog="run_all.py" + (" " + name if name else ""),
        description="Run the workflow, one notebook a stage, into outputs/RUN/. A stage that is up to date is reused.",
        epilog="Other commands: plan, check, runs, diff, watch, report, logs, lab, local start|status|env|stop|reset.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-f", dest="file", metavar="FILE", type=Path, help="parameter file (default: parameters/local.yaml)")
    add(
        "-p",
        dest="parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter; VALUE is YAML, and NAME.KEY sets one key of a mapping (repeatable)",
    )
    add("--run-id", metavar="ID", help="name of the run (default: the UTC time)")
    add(
        "--from", dest="start", metavar="STAGE", help="go on with a run at this stage (default: the last run)"
    )
    add("--to", dest="stop", metavar="STAGE", help="end after this stage")
    add("--only", metavar="STAGE", help="run one stage of a run (default: the last run)")
    add("--resume", metavar="RUN", help="go on with this run: what is up to date in it is not run again")
    add(
        "--force",
        metavar="STAGE",
        action="append",
        default=[],
        help="run this stage even where it is up to date (repeatable)",
    )
    add("--no-cache", action="store_true", help="run every stage, up to date or not")
    add("--dry-run", action="store_true", help="show what would run and why, and start no kernel; as `plan`")
    add(
        "--cell-seconds",
        type=positive,
        metavar="N",
        help="how long one cell may run (default: as long as it likes)",
    )
    add(
        "--stage-seconds",
        type=positive,
        metavar="N",
        help="how long one stage may run (default: as long as it likes)",
    )
    add(
        "--retries",
        type=natural,
        metavar="N",
        default=2,
        help="further attempts after a failure that time mends, such as throttling (default: 2)",
    )
    add(
        "--parallel",
        type=positive,
        metavar="N",
        default=2,
        help="how many stages may run at a time, where none takes from another (default: 2)",
    )
    add(
        "--look-ahead",
        type=natural,
        metavar="N",
        default=2,
        help="how many kernels to start ahead (default: 2)",
    )
    add("--notify", metavar="ARN", help="an SNS topic that is told when the run fails")
    add("--log-output", action="store_true", help="print what the cells print, too, as it comes")
    return parser


def natural(text):
    """Return a whole number of 0 or more."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def positive(text):
    """Return a whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def look(arguments, workflow):
    """Look at runs: runs, diff, watch, report or logs."""
    from lib import commands

    return commands.main(arguments[0], arguments[1:], workflow)


def local(arguments):
    """Look after the local AWS: start, status, env, stop or reset."""
    from lib.local.__main__ import main as look_after

    return look_after(arguments, prog="run_all.py local")


def lab(arguments):
    """Open the notebooks in JupyterLab, on this machine only, with the local AWS up; arguments go to JupyterLab."""
    from lib import local as local_aws
    from lib.errors import ReelbookError

    if not {"--version", "--help", "-h"} & set(arguments):
        try:
            local_aws.start()  # its cells would do it, too, but then the first one waits
        except ReelbookError as error:
            print("run_all.py: " + str(error), file=sys.stderr)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.root_dir=" + str(ROOT),
        "--LabApp.default_url=/lab/tree/notebooks",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    paths = [str(ROOT)] + [path for path in [os.environ.get("PYTHONPATH")] if path]
    config = [str(ROOT / "lib" / "jupyter")]  # no pop-up about Jupyter's news
    config += [path for path in [os.environ.get("JUPYTER_CONFIG_PATH")] if path]
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join(paths), JUPYTER_CONFIG_PATH=os.pathsep.join(config)
    )
    os.chdir(str(ROOT))
    if os.name == "posix":
        os.execve(sys.executable, command + arguments, environment)
    return subprocess.call(command + arguments, env=environment)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
