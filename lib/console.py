"""What the command shows on the terminal: a plan, the progress and summary of a run, a failure."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from lib.forecast import OPEN, RUNS, Verdict
from lib.plan import Plan
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


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    """Lay rows out in columns two spaces apart."""
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    return [f"{first:<{widths[0]}}  {second:<{widths[1]}}  {third}".rstrip() for first, second, third in rows]
