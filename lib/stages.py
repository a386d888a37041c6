"""The stages in order, and how they are wired to each other.

A stage is a notebook whose contract ``lib.contracts`` reads.  Wiring is by name: a stage's parameter is filled
from the value of that name which an earlier stage publishes.  Whatever does not fit is found here, before any
kernel starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lib.contracts import Contract, read_contract
from lib.errors import ContractError, did_you_mean
from lib.parameters import Parameter
from lib.records import ROOT

NOTEBOOKS = ROOT / "notebooks"
RUN_ID = "run_id"  # the one input that the runner gives


@dataclass(frozen=True)
class Stage:
    """A notebook's place in the workflow.

    Attributes
    ----------
    name : str
        The notebook's file name without ``.ipynb``.
    when : mapping
        Values that parameters must have for the stage to run; empty: it always takes part.
    only_if : mapping
        Values that its own parameters must have when its turn comes, else it is skipped: what an earlier
        stage publishes is not known before.
    trigger : str
        ``success``: it runs when no earlier stage has failed; ``always``: whatever happened before.
    cached : bool
        Whether it is left out when it is up to date.  False: what it does is more than what it publishes.
    """

    name: str
    when: Mapping[str, Any] = field(default_factory=dict)
    only_if: Mapping[str, Any] = field(default_factory=dict)
    trigger: Literal["success", "always"] = "success"
    cached: bool = True

    @property
    def condition(self) -> str:
        """Return ``when`` in words, such as ``tune is true``."""
        return " and ".join(f"{name} is {json.dumps(value)}" for name, value in self.when.items())

    def not_wanted(self, values: Mapping[str, Any]) -> str:
        """Return why the stage is not to run with these parameters, such as ``accepted is false``; ``""`` if it is."""
        for name, wanted in self.only_if.items():
            if values[name] != wanted:
                return f"{name} is {json.dumps(values[name])}"
        return ""


STAGES = [
    Stage("00_collect"),
    Stage("01_preprocess"),
    Stage("02_prepare"),
    Stage("03_train", when={"tune": False}),
    Stage("04_tune", when={"tune": True}),
    Stage("05_transform"),
    Stage("06_evaluate"),
    Stage("07_deploy", when={"deploy": True}, only_if={"accepted": True}, cached=False),
    Stage("08_clean_up", trigger="always", cached=False),
]


@dataclass(frozen=True)
class Wiring:
    """How the stages that take part are connected.

    Attributes
    ----------
    active : list of str
        The stages that take part, in order.
    inactive : dict of str to str
        The others, with why they do not.
    inputs : dict of str to dict
        For each active stage, its parameters that an earlier one publishes: parameter name to stage name.
    """

    active: list[str]
    inactive: dict[str, str]
    inputs: dict[str, dict[str, str]]

    def needs(self, stage: str) -> list[str]:
        """Return the stages that a stage takes values from, in order."""
        upstream = set(self.inputs[stage].values())
        return [name for name in self.active if name in upstream]


def read_contracts(stages: Sequence[Stage] = STAGES, folder: Path = NOTEBOOKS) -> dict[str, Contract]:
    """Read the contracts of all stages, and check them against each other.

    Raises
    ------
    ContractError
        With one sentence for each thing that is wrong, a line each.
    """
    contracts, problems = {}, []
    for stage in stages:
        try:
            contracts[stage.name] = read_contract(folder / f"{stage.name}.ipynb")
        except ContractError as error:
            problems.append(str(error))
    problems += _disagreements(contracts)
    known = declared(contracts)
    problems += [
        f"lib/stages.py: {stage.name} runs when {stage.condition}, but no notebook has the parameter `{name}`."
        for stage in stages
        for name in stage.when
        if name not in known and len(contracts) == len(stages)
    ]
    if problems:
        raise ContractError("\n".join(problems))
    return contracts


def declared(contracts: Mapping[str, Contract]) -> dict[str, Parameter]:
    """Return every parameter of every notebook; of those that several have, one with a default if any."""
    found: dict[str, Parameter] = {}
    for contract in contracts.values():
        for name, parameter in contract.parameters.items():
            if name not in found or found[name].default is None:
                found[name] = parameter
    return found


def wire(
    stages: Sequence[Stage],
    contracts: Mapping[str, Contract],
    values: Mapping[str, Any],
) -> Wiring:
    """Decide which stages take part and where each finds its inputs.

    Parameters
    ----------
    stages : sequence of Stage
        In order.
    contracts : mapping of str to Contract
        From ``read_contracts``.
    values : mapping
        The values the user gave, by name; an input that is among them is not wired.

    Raises
    ------
    ContractError
        With one sentence for each input that nothing earlier publishes, and each name that two publish.
    """
    defaults = {name: parameter.default for name, parameter in declared(contracts).items()}
    active, inactive = [], {}
    for stage in stages:
        if all(values.get(name, defaults.get(name)) == wanted for name, wanted in stage.when.items()):
            active.append(stage)
        else:
            inactive[stage.name] = f"runs only when {stage.condition}"

    problems: list[str] = []
    published: dict[str, str] = {}
    inputs: dict[str, dict[str, str]] = {}
    for stage in active:
        contract = contracts[stage.name]
        inputs[stage.name] = {}
        for parameter in contract.parameters.values():
            if parameter.name == RUN_ID or parameter.name in values:
                continue
            if parameter.name in published:
                inputs[stage.name][parameter.name] = published[parameter.name]
                if stage.trigger == "always" and parameter.default is None:
                    problems.append(
                        f"{parameter.where}: `{parameter.name}` needs a default, because {stage.name} runs even "
                        f"when {published[parameter.name]} has failed."
                    )
            elif parameter.default is None:
                problems.append(_nobody_publishes(parameter, stage, active, stages, contracts))
        for name in contract.publishes:
            if name in published:
                problems.append(f"{stage.name} and {published[name]} both publish `{name}`.")
            published.setdefault(name, stage.name)
    if problems:
        raise ContractError("\n".join(problems))
    return Wiring([stage.name for stage in active], inactive, inputs)


def _nobody_publishes(
    parameter: Parameter,
    stage: Stage,
    active: Sequence[Stage],
    stages: Sequence[Stage],
    contracts: Mapping[str, Contract],
) -> str:
    """Say why an input finds no value."""
    name = parameter.name
    takes = f"{parameter.where}: {stage.name} takes `{name}`"
    for other in active:
        if name in contracts[other.name].publishes:
            if other is stage:
                return f"{takes}, which only {stage.name} itself publishes."
            return f"{takes}, but {other.name} publishes it after {stage.name} has run."
    for other in stages:
        if name in contracts[other.name].publishes:
            return f"{takes}, which only {other.name} publishes, and that runs only when {other.condition}."
    known = [known for contract in contracts.values() for known in contract.publishes]
    guess = did_you_mean(name, known)
    return f"{takes}, but no stage publishes it and it was not given{': ' + guess if guess else '.'}"


def _disagreements(contracts: Mapping[str, Contract]) -> list[str]:
    """Say which parameters of one name differ in type or default between notebooks."""
    problems = []
    first: dict[str, Parameter] = {}
    with_default: dict[str, Parameter] = {}
    for contract in contracts.values():
        for name, parameter in contract.parameters.items():
            earlier = first.setdefault(name, parameter)
            if parameter.type != earlier.type:
                problems.append(
                    f"{parameter.where}: `{name}` is {parameter.type} here and {earlier.type} in {earlier.where}."
                )
            elif parameter.default is not None:
                earlier = with_default.setdefault(name, parameter)
                if parameter.default != earlier.default:
                    problems.append(
                        f"{parameter.where}: the default of `{name}` is {parameter.default!r} here and "
                        f"{earlier.default!r} in {earlier.where}."
                    )
    return problems
