"""What the command shows on the terminal: a plan, the progress and summary of a run, a failure."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib import history, records
from lib.comparison import Change, Comparison, Metric
from lib.forecast import OPEN, RUNS, Verdict
from lib.plan import Plan
from lib.preflight import Finding
from lib.records import RunRecord, StageRecord, shown

EXCERPT_LINES = 9
LONGEST = 60  # characters of a value


def plan_text(plan: Plan, verdicts: Mapping[str, Verdict]) -> str:
    """Return what would become of each stage and why, then the value and origin of each parameter of those that run."""
    verb = "continue" if plan.continues else "begin"
    lines = [f"This would {verb} the run {plan.run_id} in {shown(plan.folder)}.", ""]
    lines += _columns([(name, verdict.verdict, verdict.why) for name, verdict in verdicts.items()])
    selected = {stage.name for stage in plan.selected}
    for stage in plan.workflow.stages:
        if verdicts[stage.name].verdict not in (RUNS, OPEN):
            continue
        lines.append("")
        contract = plan.contracts[stage.name]
        lines.append(f"{stage.name}  {contract.title}")
        rows = []
        for name, parameter in contract.parameters.items():
            source = plan.source(stage.name, name)
            if source in selected:
                value = "..."
            elif name == "run_id":
                value = plan.run_id
            elif source.endswith("run before"):
                value = _short(plan.scraps[name])
            else:
                value = _short(plan.own_value(parameter))
            rows.append((f"  {name}", value, source))
        lines += _columns(rows)
        lines.append(f"  gives {', '.join(contract.publishes)}")
    return "\n".join(lines)


def findings_text(findings: Sequence[Finding]) -> str:
    """Return a table of what was looked at before a run."""
    return "\n".join(_columns([(one.what, one.verdict, one.seen) for one in findings]))


def summary(run: RunRecord) -> str:
    """Return a table of the stages with status and time, and the run's own line."""
    rows = [
        (stage.name, stage.status, f"{stage.seconds:.1f} s" if stage.seconds is not None else stage.why)
        for stage in run.stages
    ]
    total = f"{run.seconds:.1f} s" if run.seconds is not None else ""
    return "\n".join(_columns([*rows, (f"run {run.run_id}", run.status, total)]))


def failure_text(stage: StageRecord) -> str:
    """Return one screen about a failed stage: where, the cell, the error and the next step."""
    error = stage.error
    if error is None:
        return f"{stage.name} failed."
    where = f" in cell {error.cell}" if error.cell else ""
    lines = [f"{stage.name} {'was interrupted' if stage.status == 'interrupted' else 'failed'}{where}."]
    if error.source:
        lines += ["", *_excerpt(error.source, _failing_line(error.traceback)), ""]
    lines.append(f"{error.kind}: {_shortened(error.message)}")
    if error.kind == "DeadKernelError" and error.traceback:
        lines += ["The kernel's last words:", error.traceback]
    if error.hint:
        lines += ["", error.hint]
    return "\n".join(lines)


def runs_text(runs: Sequence[tuple[RunRecord, str]]) -> str:
    """Return a table of runs and how they ended."""
    rows = [("run", "status", "started (UTC)", "took", "ran", "reused", "RMSE", "accepted")]
    for run, status in runs:
        states = [stage.status for stage in run.stages]
        rmse, gate = history.metrics(run).get("rmse"), history.accepted(run)
        rows.append(
            (
                run.run_id,
                status,
                run.started[:16].replace("T", " "),
                f"{run.seconds:.1f} s" if run.seconds is not None else "",
                str(sum(state in ("completed", "failed", "interrupted") for state in states)),
                str(states.count("reused")),
                f"{rmse:.4f}" if rmse is not None else "",
                {True: "yes", False: "no", None: ""}[gate],
            )
        )
    return "\n".join(_columns(rows))


def diff_text(compared: Comparison) -> str:
    """Return how two runs differ, a paragraph for each kind of difference."""
    lines = [f"{compared.before.run_id} -> {compared.after.run_id}"]
    lines += _paragraph("Metrics", [_metric_row(metric) for metric in compared.metrics])
    if compared.metrics and not compared.same_test:
        lines.append("  (measured by different test ratings)")
    for title, changes in (
        ("Parameters", compared.parameters),
        ("Data", compared.data),
        ("Packages", compared.versions),
        ("Checkout", compared.checkout),
    ):
        lines += _paragraph(title, [_change_row(change) for change in changes])
    if compared.modules:
        names = [change.name for change in compared.modules]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        lines += ["", "Modules", f"  {', '.join(names[:8])}{more}"]
    for code in compared.code:
        lines += ["", f"Code of {code.stage}, cell {code.cell}", *(f"  {line}" for line in code.lines)]
    rows = [
        (f"  {name}", f"{_state(one)} -> {_state(other)}", _why(other))
        for name, one, other in compared.stages
    ]
    lines += ["", "Stages", *_columns(rows)]
    if not any((compared.parameters, compared.code, compared.modules, compared.versions, compared.data)):
        lines += ["", "Parameters, code, packages and data are the same."]
    return "\n".join(lines)


def _paragraph(title: str, rows: list[tuple[str, ...]]) -> list[str]:
    return ["", title, *_columns(rows)] if rows else []


def _metric_row(metric: Metric) -> tuple[str, ...]:
    word = {True: "better", False: "worse", None: "equal"}[metric.better]
    return f"  {metric.name}", f"{metric.before:.4f} -> {metric.after:.4f}", f"{metric.change:+.4f}", word


def _change_row(change: Change) -> tuple[str, ...]:
    return f"  {change.name}", f"{_short(change.before)} -> {_short(change.after)}", ", ".join(change.stages)


def _state(stage: StageRecord | None) -> str:
    if stage is None:
        return "-"
    seconds = f" {stage.seconds:.1f} s" if stage.seconds is not None else ""
    return f"{stage.status}{seconds}"


def _why(stage: StageRecord | None) -> str:
    return stage.why if stage is not None else ""


def live_text(run: RunRecord, folder: Path) -> str:
    """Return a table of the stages of a run that goes on, with the cell that each running one is at."""
    rows = []
    for stage in run.stages:
        if stage.status == "running" and stage.started:
            at = cell_at(folder / stage.notebook)
            rows.append((stage.name, stage.status, f"{records.seconds_since(stage.started):.0f} s", at))
        else:
            took = f"{stage.seconds:.1f} s" if stage.seconds is not None else ""
            rows.append((stage.name, stage.status, took, "" if took else stage.why))
    return "\n".join(_columns(rows))


def live_lines(run: RunRecord, folder: Path) -> list[str]:
    """Return a line for each stage that has begun, for who cannot see a table change."""
    lines = []
    for stage in run.stages:
        if stage.status == "running":
            lines.append(f"{stage.name}  running  {cell_at(folder / stage.notebook)}".rstrip())
        elif stage.status != "pending":
            lines.append(f"{stage.name}  {_state(stage)}")
    return lines


def cell_at(notebook: Path) -> str:
    """Return which cell of a notebook runs, and under which heading, such as ``cell 7 of 12: 2. Split``."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return "starts"
    heading = ""
    for number, cell in enumerate(cells, start=1):
        source = cell.get("source", "")
        source = source if isinstance(source, str) else "".join(source)
        if cell.get("cell_type") == "markdown" and source.startswith("## "):
            heading = ": " + source.splitlines()[0].removeprefix("## ")
        if cell.get("metadata", {}).get("papermill", {}).get("status") == "running":
            return f"cell {number} of {len(cells)}{heading}"
    return ""


class Screen:
    """A table that is drawn anew in its place on a terminal; elsewhere, the lines that are new."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._height = 0
        self._told: set[str] = set()

    def show(self, table: str, lines: list[str]) -> None:
        """Show a state: as a table, or by those of its lines that were not told before."""
        if self._terminal:
            up = f"\x1b[{self._height}F\x1b[J" if self._height else ""
            print(up + table, flush=True)
            self._height = table.count("\n") + 1
            return
        for line in lines:
            if line not in self._told:
                self._told.add(line)
                print(line, flush=True)


class Progress:
    """A bar over the stages on a terminal; elsewhere a line for each stage."""

    def __init__(self, names: list[str], wanted: bool) -> None:
        self._wanted = wanted
        self._width = max(map(len, names), default=0)
        self._bar: Any = None
        if wanted and sys.stderr.isatty():
            from tqdm import tqdm

            form = "{desc} {bar} {n_fmt}/{total_fmt} stages, {elapsed}"
            self._bar = tqdm(
                total=len(names), bar_format=form, file=sys.stderr, leave=False, dynamic_ncols=True
            )

    def started(self, name: str) -> None:
        """Show which stage runs."""
        if self._bar is not None:
            self._bar.set_description_str(name)

    def tick(self) -> None:
        """Let the clock go on."""
        if self._bar is not None:
            self._bar.refresh()

    def ended(self, record: StageRecord) -> None:
        """Show that a stage has ended, and how."""
        if self._bar is not None:
            self._bar.update()
        elif self._wanted:
            how = f"{record.seconds:6.1f} s" if record.seconds is not None else record.why
            print(f"{record.name:<{self._width}}  {record.status:<11}  {how}", file=sys.stderr, flush=True)

    def said(self, text: str) -> None:
        """Show a line."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._wanted:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def _excerpt(source: str, failing: int | None) -> list[str]:
    """Return up to ``EXCERPT_LINES`` lines of a cell around the failing one, which is marked."""
    lines = source.splitlines()
    first = 0
    if failing is not None and len(lines) > EXCERPT_LINES:
        first = max(0, min(failing - 1 - EXCERPT_LINES // 2, len(lines) - EXCERPT_LINES))
    excerpt = [
        f"  {'>' if failing == first + number else ' '} {line}"
        for number, line in enumerate(lines[first : first + EXCERPT_LINES], start=1)
    ]
    if first + EXCERPT_LINES < len(lines):
        excerpt.append("    ...")
    return excerpt


def _failing_line(traceback: str) -> int | None:
    """Return the number of the cell's line that failed, which IPython's traceback names first."""
    found = re.search(r"^Cell In\[\d+\], line (\d+)", traceback, flags=re.MULTILINE)
    return int(found.group(1)) if found else None


def _shortened(message: str, lines: int = 8) -> str:
    """Return the first lines of a long message."""
    all_lines = message.splitlines()
    return "\n".join(all_lines[:lines] + (["..."] if len(all_lines) > lines else []))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lay rows out in columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
