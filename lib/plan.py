"""What a command asks for becomes a plan: which stages run, with which values, in which run.

Everything that can be refused is refused here, before any kernel starts: contracts that do not fit, parameters
that do not exist, a stage that cannot find its inputs, a run that exists already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib import history, parameters, records
from lib.contracts import Contract
from lib.errors import ParameterError, did_you_mean
from lib.parameters import Parameter, Setting
from lib.records import ROOT, SCRATCH, RunRecord, shown
from lib.stages import NOTEBOOKS, RUN_ID, STAGES, Stage, Wiring, declared, read_contracts, wire

NOT_ASKED_FOR = "was not asked for"


@dataclass(frozen=True)
class Workflow:
    """Where things are.

    Attributes
    ----------
    stages : sequence of Stage
        In order.
    notebooks : Path
        The folder of their notebooks.
    outputs : Path
        The folder of all runs.
    default_parameters : Path or None
        The parameter file of a run for which none is named.
    """

    stages: Sequence[Stage] = tuple(STAGES)
    notebooks: Path = NOTEBOOKS
    outputs: Path = field(default_factory=records.outputs_folder)
    default_parameters: Path | None = ROOT / "parameters" / "local.yaml"


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes
    ----------
    parameters_file : Path or None
        None: the run's own where one is continued, else the workflow's default.
    command_line : sequence of (str, str)
        ``-p NAME VALUE`` pairs.
    run_id : str or None
        None: the last run where one is continued, else a new id.
    start, stop, only : str or None
        The first, last or single stage; ``start`` and ``only`` continue a run.
    resume : str or None
        The run to go on with: stages that are up to date stay as they are.
    force : sequence of str
        Stages that run even where they are up to date.
    no_cache : bool
        Every stage runs.
    command : str
        The command as it was typed, for the record.
    """

    parameters_file: Path | None = None
    command_line: Sequence[tuple[str, str]] = ()
    run_id: str | None = None
    start: str | None = None
    stop: str | None = None
    only: str | None = None
    resume: str | None = None
    force: Sequence[str] = ()
    no_cache: bool = False
    command: str = ""


@dataclass(frozen=True)
class Plan:
    """What would run.

    Attributes
    ----------
    run_id, folder : str, Path
        The run and its folder, which need not exist yet.
    contracts : dict of str to Contract
        Of all stages, by stage name.
    wiring : Wiring
        Which stages take part, and where their inputs come from.
    continues : bool
        The run's folder exists and is gone on with.
    selected : list of Stage
        Those that run now, unless they are up to date, in order.
    forced : dict of str to str
        Those of them that run in any case, with why.
    skipped : dict of str to str
        The other stages, with why.
    given : dict of str to Setting
        The user's values, checked.
    scraps : dict of str to object
        What the run has published so far, without what the selected stages will publish anew.
    previous : RunRecord or None
        The record of the run, where one is continued.
    parameters_file : Path or None
    command_line : list of (str, str)
    command : str
    """

    workflow: Workflow
    run_id: str
    continues: bool
    contracts: dict[str, Contract]
    wiring: Wiring
    selected: list[Stage]
    skipped: dict[str, str]
    given: dict[str, Setting]
    scraps: dict[str, Any]
    previous: RunRecord | None
    parameters_file: Path | None
    command_line: list[tuple[str, str]]
    command: str
    forced: dict[str, str] = field(default_factory=dict)
    named: bool = True  # the user gave the run its id

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.workflow.outputs / self.run_id

    def values(self, stage: str, scraps: dict[str, Any]) -> dict[str, Any]:
        """Return the value of each parameter of a stage, given what has been published.

        Raises
        ------
        ParameterError
            When a published value is not of the parameter's type, or a required one is missing.
        """
        values = {}
        for parameter in self.contracts[stage].parameters.values():
            publisher = self.wiring.inputs[stage].get(parameter.name)
            if parameter.name == RUN_ID:
                values[RUN_ID] = self.run_id
            elif publisher and parameter.name in scraps:
                try:
                    values[parameter.name] = parameters.coerce(scraps[parameter.name], parameter.type)
                except ValueError as error:
                    raise ParameterError(
                        f"`{parameter.name}`, which {publisher} published, is {scraps[parameter.name]!r}, {error}."
                    ) from None
            elif publisher and parameter.default is None:
                raise ParameterError(
                    f"{stage} takes `{parameter.name}`, which {publisher} has not published."
                )
            else:
                values[parameter.name] = self.own_value(parameter)
        return values

    def own_value(self, parameter: Parameter) -> Any:
        """Return a parameter's value as the user's values and its default make it."""
        return parameters.value_of(parameter, self.given.get(parameter.name))

    def own_values(self, stage: str) -> dict[str, Any]:
        """Return a stage's parameters, those that other stages publish by their defaults."""
        return {name: self.own_value(one) for name, one in self.contracts[stage].parameters.items()}

    def source(self, stage: str, name: str) -> str:
        """Return where a stage's parameter gets its value from, in words."""
        if name == RUN_ID:
            return "the run"
        if name in self.given:
            return self.given[name].source
        publisher = self.wiring.inputs[stage].get(name)
        if publisher is None:
            return "default"
        if publisher in {stage.name for stage in self.selected}:
            return publisher
        return f"{publisher}, run before" if name in self.scraps else "default"


def make(workflow: Workflow, request: Request) -> Plan:
    """Work out what a request means, and refuse it where it cannot be carried out.

    Raises
    ------
    ContractError
        When the notebooks do not fit each other.
    ParameterError
        For everything that is wrong with the request; ReelbookError for an unreadable record.
    """
    contracts = read_contracts(workflow.stages, workflow.notebooks)
    for name in (request.start, request.stop, request.only, *request.force):
        _check_stage(name, workflow.stages)
    run_id, exists = _choose_run(workflow, request)
    folder = workflow.outputs / run_id
    previous = records.read_run(folder) if exists else None
    parameters_file, command_line = _parameter_sources(workflow, request, previous)

    given = parameters.load(parameters_file) if parameters_file else {}
    given = parameters.combine(given, parameters.from_command_line(command_line))
    given = parameters.validate(given, declared(contracts))
    wiring = wire(workflow.stages, contracts, {name: setting.value for name, setting in given.items()})
    selected = _select(workflow.stages, wiring, request)
    names = {stage.name for stage in selected}
    skipped = {
        stage.name: wiring.inactive.get(stage.name, NOT_ASKED_FOR)
        for stage in workflow.stages
        if stage.name not in names
    }
    scraps = _scraps_to_keep(
        records.read_scraps(folder) if exists else {}, previous, contracts, wiring, names
    )
    _check_inputs(contracts, wiring, names, scraps, run_id if exists else None)
    return Plan(
        workflow=workflow,
        run_id=run_id,
        continues=exists,
        contracts=contracts,
        wiring=wiring,
        selected=selected,
        skipped=skipped,
        given=given,
        scraps=scraps,
        previous=previous,
        parameters_file=parameters_file,
        command_line=command_line,
        command=request.command,
        forced=_forced(selected, request),
        named=request.run_id is not None or exists,
    )


def _forced(selected: Sequence[Stage], request: Request) -> dict[str, str]:
    """Return the stages that run even where they are up to date, with why."""
    forced = {}
    for stage in selected:
        if request.no_cache:
            forced[stage.name] = "--no-cache"
        elif stage.name in request.force:
            forced[stage.name] = "--force"
        elif stage.name in (request.start, request.only):
            forced[stage.name] = "it was asked for"
    for name in request.force:
        if name not in forced:
            raise ParameterError(f"--force {name}: this stage does not run here.")
    return forced


def _check_stage(name: str | None, stages: Sequence[Stage]) -> None:
    known = [stage.name for stage in stages]
    if name is not None and name not in known:
        guess = did_you_mean(name, known)
        raise ParameterError(
            f"There is no stage `{name}`{': ' + guess if guess else '.'}",
            hint="" if guess else f"There are {', '.join(known)}.",
        )


def _choose_run(workflow: Workflow, request: Request) -> tuple[str, bool]:
    """Return the run's id, and whether it is a run that exists and is continued."""
    continues = request.start is not None or request.only is not None or request.resume is not None
    if request.resume is not None and request.run_id not in (None, request.resume):
        raise ParameterError("--resume names the run already; leave --run-id out.")
    run_id = request.run_id or request.resume
    if run_id is None:
        last = records.last_run(workflow.outputs) if continues else None
        return (last, True) if last else (records.new_run_id(workflow.outputs), False)
    folder = workflow.outputs / records.check_run_id(run_id)
    if run_id == SCRATCH:
        raise ParameterError(
            f"The run {SCRATCH} is the one of notebooks run by hand.", hint="Take another id."
        )
    if request.resume is not None:
        history.find(workflow.outputs, request.resume)
    if folder.exists() and not continues:
        raise ParameterError(
            f"The run {run_id} exists already ({shown(folder)}).",
            hint=f"Give another --run-id, or continue it with --resume {run_id}.",
        )
    return run_id, folder.exists()


def _parameter_sources(
    workflow: Workflow, request: Request, previous: RunRecord | None
) -> tuple[Path | None, list[tuple[str, str]]]:
    """Return the parameter file and ``-p`` pairs; a run is continued with its own, and new pairs over them."""
    new = list(request.command_line)
    if request.parameters_file is not None:
        return request.parameters_file, new
    if previous is None:
        return workflow.default_parameters, new
    file = ROOT / previous.parameters_file if previous.parameters_file else None
    return file, [(name, value) for name, value in previous.command_line] + new


def _select(stages: Sequence[Stage], wiring: Wiring, request: Request) -> list[Stage]:
    """Return the stages that run: those that take part, from the first to the last asked for."""
    names = [stage.name for stage in stages]
    if request.only is not None:
        if request.start is not None or request.stop is not None:
            raise ParameterError("--only goes with neither --from nor --to.")
        if request.only in wiring.inactive:
            condition = wiring.inactive[request.only]
            raise ParameterError(f"{request.only} {condition}.", hint="Set that with -p NAME VALUE.")
        return [stage for stage in stages if stage.name == request.only]
    first = names.index(request.start) if request.start else 0
    last = names.index(request.stop) if request.stop else len(names) - 1
    if first > last:
        raise ParameterError(f"--from {request.start} comes after --to {request.stop}.")
    selected = [stage for stage in stages[first : last + 1] if stage.name in wiring.active]
    if not selected:
        name = names[first]
        raise ParameterError(f"No stage is left to run: {name} {wiring.inactive[name]}.")
    return selected


def _scraps_to_keep(
    scraps: dict[str, Any],
    previous: RunRecord | None,
    contracts: dict[str, Contract],
    wiring: Wiring,
    selected: set[str],
) -> dict[str, Any]:
    """Leave out what will be published anew, and what a stage published that no longer takes part."""
    renewed = {name for stage in selected for name in contracts[stage].publishes}
    outdated: dict[str, Any] = {}
    for record in previous.stages if previous else []:
        if record.name in wiring.inactive:
            outdated |= record.scraps
    return {
        name: value
        for name, value in scraps.items()
        if name not in renewed and not (name in outdated and outdated[name] == value)
    }


def _check_inputs(
    contracts: dict[str, Contract],
    wiring: Wiring,
    selected: set[str],
    scraps: dict[str, Any],
    run_id: str | None,
) -> None:
    """Refuse a part of the workflow whose inputs the run does not hold."""
    for stage in wiring.active:
        if stage not in selected:
            continue
        for name, publisher in wiring.inputs[stage].items():
            required = contracts[stage].parameters[name].default is None
            if required and publisher not in selected and name not in scraps:
                if run_id is None:
                    raise ParameterError(
                        f"{stage} takes `{name}` from {publisher}, and there is no such run to go on with.",
                        hint="Begin one without --from and --only, or name one by --run-id.",
                    )
                raise ParameterError(
                    f"{stage} takes `{name}` from {publisher}, which has not published it in the run {run_id}.",
                    hint=f"Start earlier: --from {publisher}.",
                )
