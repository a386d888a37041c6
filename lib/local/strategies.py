"""What a tuning job tries next: Bayesian, Random, Grid and Hyperband.

A proposal is a function of the seed and of the trials so far, nothing else: a server that was killed goes on as
if it had not been, and jobs one after another are the same ones for the same seed.  Searching and halving are
Optuna's (https://optuna.org): its multivariate tree of Parzen estimators, and its Hyperband pruner.

(AWS: "Understand the hyperparameter tuning strategies available in Amazon SageMaker AI".)
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lib.local.protocol import AwsError
from lib.local.ranges import Range, WordRange

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as OptunaTrial

STRATEGIES = ("Bayesian", "Random", "Grid", "Hyperband")

_STARTUP_TRIALS = 5  # drawn at random, the same ones as by Random
_CANDIDATES = 64
_REDUCTION_FACTOR = 3
_MOST_GRID = 750


@dataclass
class Trial:
    """A training job as a strategy sees it.

    Attributes
    ----------
    tuned : dict of str to str
        Its hyperparameters.
    value : float or None
        Its final objective; None while it runs.
    failed : bool
        It has ended without an objective.
    curve : list of float
        The objective after each epoch, as far as it has got.
    """

    tuned: dict[str, str]
    value: float | None = None
    failed: bool = False
    curve: list[float] = field(default_factory=list)


class RandomSearch:
    """Draws every hyperparameter from its range, whatever the others came to.

    Parameters
    ----------
    ranges : sequence of Range
        What is searched.
    seed : int
    """

    def __init__(self, ranges: Sequence[Range], seed: int) -> None:
        self._ranges = ranges
        self._seed = seed

    def propose(self, trials: Sequence[Trial]) -> dict[str, str]:
        """Return the next hyperparameters to try, after these trials."""
        chance = random.Random(f"{self._seed}/{len(trials)}")
        return {item.name: item.draw(chance.random()) for item in self._ranges}


class GridSearch:
    """Goes through all combinations of words, in the order of the request.

    Parameters
    ----------
    ranges : sequence of WordRange

    Attributes
    ----------
    size : int
        How many combinations there are.
    """

    def __init__(self, ranges: Sequence[WordRange]) -> None:
        self._ranges = ranges
        self.size = math.prod(len(item.values) for item in ranges)

    def propose(self, trials: Sequence[Trial]) -> dict[str, str]:
        """Return the combination after those that were tried."""
        number, chosen = len(trials), {}
        for item in reversed(self._ranges):
            number, position = divmod(number, len(item.values))
            chosen[item.name] = item.values[position]
        return {item.name: chosen[item.name] for item in self._ranges}


class BayesianSearch:
    """Proposes what looks better than the best so far, given what all trials came to.

    Parameters
    ----------
    ranges : sequence of Range
    seed : int
    minimize : bool
        Whether the objective is better the lower it is.
    parents : sequence of Trial
        Trials of earlier tuning jobs, which count as this one's (warm start).
    """

    def __init__(
        self, ranges: Sequence[Range], seed: int, *, minimize: bool, parents: Sequence[Trial] = ()
    ) -> None:
        self._ranges = ranges
        self._seed = seed
        self._minimize = minimize
        self._parents = parents
        self._random = RandomSearch(ranges, seed)

    def propose(self, trials: Sequence[Trial]) -> dict[str, str]:
        """Return the next hyperparameters to try; trials that still run count as no better than the rest."""
        if len(trials) + len(self._parents) < _STARTUP_TRIALS:
            return self._random.propose(trials)
        optuna = quiet_optuna()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=random.Random(f"{self._seed}/{len(trials)}").randrange(2**32),
                n_startup_trials=0,
                n_ei_candidates=_CANDIDATES,
                multivariate=True,
                constant_liar=True,
            )
        study = optuna.create_study(sampler=sampler, direction="minimize" if self._minimize else "maximize")
        space = {item.name: _distribution(item) for item in self._ranges}
        for trial in (*self._parents, *trials):
            known = self._known(trial, space)
            if known is not None:
                study.add_trial(known)
        asked = study.ask(space)
        return {item.name: _drawn(item, asked.params[item.name]) for item in self._ranges}

    def _known(self, trial: Trial, space: dict[str, Any]) -> FrozenTrial | None:
        """Return a trial as Optuna keeps it; None where it is of no use here."""
        optuna = quiet_optuna()
        placed = {}
        for item in self._ranges:
            place = item.place(trial.tuned[item.name]) if item.name in trial.tuned else None
            if place is None:  # a parent's range was another
                return None
            placed[item.name] = trial.tuned[item.name] if isinstance(item, WordRange) else place
        state = optuna.trial.TrialState
        if trial.value is None:
            ended = state.FAIL if trial.failed else state.RUNNING
            return optuna.trial.create_trial(state=ended, params=placed, distributions=space)
        return optuna.trial.create_trial(value=trial.value, params=placed, distributions=space)


Strategy = RandomSearch | GridSearch | BayesianSearch


class Hyperband:
    """Says which trials are not worth more epochs: halving in brackets of several budgets.

    Parameters
    ----------
    lowest, highest : int
        The epochs after which a trial may be ended at the earliest, and the epochs of a whole training.
    minimize : bool
    """

    def __init__(self, lowest: int, highest: int, *, minimize: bool) -> None:
        optuna = quiet_optuna()
        self._asked: list[OptunaTrial] = []
        self._study = optuna.create_study(
            study_name="tuning",  # a trial's bracket is chosen by this name and the trial's number
            direction="minimize" if minimize else "maximize",
            pruner=optuna.pruners.HyperbandPruner(
                min_resource=lowest, max_resource=highest, reduction_factor=_REDUCTION_FACTOR
            ),
        )

    def gives_up(self, trial: Trial, number: int, count: int) -> bool:
        """Whether a trial is to end after the last epoch of its curve; to be asked after every epoch.

        Parameters
        ----------
        trial : Trial
        number : int
            Its place among all trials in the order of their start, from 0.
        count : int
            How many trials have started.
        """
        while len(self._asked) < count:
            self._asked.append(self._study.ask())
        asked = self._asked[number]
        asked.report(trial.curve[-1], len(trial.curve) - 1)
        return bool(asked.should_prune())


def falls_behind(trial: Trial, others: Sequence[Trial], *, minimize: bool) -> bool:
    """Whether a trial is worse after its last epoch than the median of the others' running averages up to it.

    (AWS: "Stop Training Jobs Early", How Early Stopping Works.)

    Parameters
    ----------
    trial : Trial
    others : sequence of Trial
        Those that came as far; the median of fewer than three says little, and ends nothing.
    """
    epochs = len(trial.curve)
    averages = sorted(
        sum(other.curve[:epochs]) / epochs
        for other in others
        if other is not trial and len(other.curve) >= epochs
    )
    if not epochs or len(averages) < _LEAST_COMPARED:
        return False
    middle = len(averages) // 2
    median = averages[middle] if len(averages) % 2 else (averages[middle - 1] + averages[middle]) / 2
    return trial.curve[-1] > median if minimize else trial.curve[-1] < median


_LEAST_COMPARED = 3


def grid_of(ranges: Sequence[Range]) -> GridSearch:
    """Return the grid over ranges.

    Raises
    ------
    AwsError
        ValidationException for a range of numbers, or more combinations than a tuning job may have.
    """
    words = [item for item in ranges if isinstance(item, WordRange)]
    for item in ranges:
        if not isinstance(item, WordRange):
            text = (
                f"Grid search takes categorical hyperparameters only, but {item.name} has a range of numbers."
            )
            raise AwsError("ValidationException", text)
    grid = GridSearch(words)
    if grid.size > _MOST_GRID:
        text = f"The grid has {grid.size} combinations, but a tuning job at most {_MOST_GRID} training jobs."
        raise AwsError("ValidationException", text)
    return grid


def quiet_optuna() -> Any:
    """Return the package ``optuna``, which says only what is wrong."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _distribution(item: Range) -> Any:
    optuna = quiet_optuna()
    if isinstance(item, WordRange):
        return optuna.distributions.CategoricalDistribution(item.values)
    return optuna.distributions.FloatDistribution(0.0, 1.0)


def _drawn(item: Range, value: Any) -> str:
    return str(value) if isinstance(item, WordRange) else item.draw(float(value))
