"""What a plan would do, stage by stage, as far as that can be known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lib.cache import Cache
from lib.errors import ParameterError
from lib.plan import Plan

RUNS, REUSED, SKIPPED, OPEN = "runs", "reused", "skipped", "may run"


@dataclass(frozen=True)
class Verdict:
    """What would become of a stage.

    Attributes
    ----------
    verdict : str
        ``runs``, ``reused``, ``skipped``, or ``may run``: that depends on what an earlier stage publishes.
    why : str
    """

    verdict: str
    why: str


def forecast(plan: Plan, cache: Cache) -> dict[str, Verdict]:
    """Return what would become of each stage.

    A stage that takes values from one that runs is said to run: should those come out as they were, it is reused.
    """
    verdicts = {name: Verdict(SKIPPED, why) for name, why in plan.skipped.items()}
    scraps: dict[str, Any] = dict(plan.scraps)
    running: set[str] = set()
    for stage in plan.selected:
        upstream = [name for name in plan.wiring.needs(stage.name) if name in running]
        if upstream:
            unknown = {name for name, giver in plan.wiring.inputs[stage.name].items() if giver in running}
            forced = plan.forced.get(stage.name, "")
            why = forced or f"after {', '.join(upstream)}"
            verdicts[stage.name] = Verdict(OPEN if unknown & stage.only_if.keys() else RUNS, why)
            running.add(stage.name)
            continue
        try:
            values = plan.values(stage.name, scraps)
        except ParameterError as error:
            verdicts[stage.name] = Verdict(RUNS, str(error))
            running.add(stage.name)
            continue
        if not_wanted := stage.not_wanted(values):
            verdicts[stage.name] = Verdict(SKIPPED, not_wanted)
            continue
        decision = cache.decide(
            stage, plan.contracts[stage.name], values, forced=plan.forced.get(stage.name, "")
        )
        verdicts[stage.name] = Verdict(REUSED if decision.found else RUNS, decision.why)
        if decision.found:
            scraps |= decision.found.scraps
        else:
            running.add(stage.name)
    return {stage.name: verdicts[stage.name] for stage in plan.workflow.stages}
