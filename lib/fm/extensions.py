"""What this engine can do beyond SageMaker's Factorization Machines: names, ranges and defaults.

On the wire these are hyperparameters whose names begin with ``local_``: SageMaker would refuse them as unknown,
and `lib.jobs` does so before anything is submitted to AWS.  All are off by default, and none is written into
the model artifact.

- ``local_algorithm``: ``adam``, as SageMaker trains, or ``bayesian``: Gibbs sampling (`lib.fm.bayesian`) of
  ``local_burn_in`` sweeps and then ``local_samples`` more, which several rounds share; each round gives its first
  ones to a burn-in of its own.  Of the other hyperparameters only ``num_factors`` has an effect.
- ``local_early_stopping``: end the training after so many epochs without a lower loss on the test channel, and
  keep the weights of the best epoch (`lib.fm.early_stopping`).
- ``local_lr_finder``: the share of the training's mini-batches that is first spent on looking for better
  learning rates (`lib.fm.lr_finder`).
- ``local_seeds``: train so many models from different seeds and average them into one, which has so many times
  ``num_factors`` factors; with ``local_fold`` it is brought back to ``num_factors`` (`lib.fm.fold`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lib.errors import ParameterError, did_you_mean
from lib.fm.wire import Bool, NonNegativeInt, PositiveInt, Share, first_problem, text, whole_number

PREFIX = "local_"
MOST_SEEDS = 100

_OF_ADAM = ("early_stopping", "lr_finder", "seeds", "fold")
_OF_BAYESIAN = ("samples", "burn_in")


class Extensions(BaseModel):
    """The local extensions of a training; make one with `read`.

    Attributes
    ----------
    algorithm : {"adam", "bayesian"}
        How the model is trained.
    early_stopping : int
        Epochs without a lower loss on the test channel after which the training ends; 0 is never.
    lr_finder : float
        Share of the training's mini-batches spent on finding learning rates, 0 to 1.
    seeds : int
        Models that are trained and averaged.
    fold : bool
        Whether the average has ``num_factors`` factors, not ``seeds`` times as many.
    samples, burn_in : int
        Sweeps of the Bayesian algorithm after the first burn-in, and those of a burn-in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: Literal["adam", "bayesian"] = "adam"
    early_stopping: NonNegativeInt = 0
    lr_finder: Share = 0.0
    seeds: Annotated[int, BeforeValidator(whole_number), Field(ge=1, le=MOST_SEEDS)] = 1
    fold: Bool = False
    samples: PositiveInt = 200
    burn_in: NonNegativeInt = 20

    @property
    def bayesian(self) -> bool:
        """Whether the model is sampled, not trained by Adam."""
        return self.algorithm == "bayesian"

    @property
    def chosen(self) -> dict[str, Any]:
        """What differs from its default, by name without the prefix."""
        return self.model_dump(exclude_defaults=True)

    def wire(self) -> dict[str, str]:
        """Return what differs from its default, as strings under its name on the wire."""
        return {PREFIX + name: text(value) for name, value in self.chosen.items()}

    def rounds(self, epochs: int) -> int:
        """Return how many epochs, or sweeps, a training of ``epochs`` has in all its models together."""
        return self.burn_in + self.samples if self.bayesian else self.seeds * epochs


NAMES: tuple[str, ...] = tuple(PREFIX + name for name in Extensions.model_fields)


def read(values: Mapping[str, Any]) -> Extensions:
    """Check extensions that are given by their names on the wire.

    Raises
    ------
    ParameterError
        An unknown name, a value out of range, or extensions that do not go together.
    """
    for name in values:
        if name not in NAMES:
            raise ParameterError(
                f"There is no local extension `{name}`.",
                hint=did_you_mean(name, list(NAMES)).capitalize() or f"There are {', '.join(NAMES)}.",
            )
    given = {name.removeprefix(PREFIX): value for name, value in values.items()}
    try:
        extensions = Extensions(**given)
    except ValidationError as error:
        raise ParameterError(first_problem(error, given, PREFIX)) from None
    check_together(extensions, lambda name: PREFIX + name)
    return extensions


def check_together(extensions: Extensions, called: Callable[[str], str]) -> None:
    """Refuse extensions that do not go together.

    Parameters
    ----------
    extensions : Extensions
        Each for itself is in its range.
    called : callable
        Gives the name that the user knows an extension by, for the message.

    Raises
    ------
    ParameterError
        One that the algorithm would ignore, or ``fold`` with a single model.
    """
    ignored = _OF_ADAM if extensions.bayesian else _OF_BAYESIAN
    for name in ignored:
        if name in extensions.chosen:
            raise ParameterError(
                f"`{called(name)}` has no meaning with `{called('algorithm')}: {extensions.algorithm}`.",
                hint=f"Leave `{called(name)}` out, or choose the other algorithm.",
            )
    if extensions.fold and extensions.seeds == 1:
        raise ParameterError(
            f"`{called('fold')}` needs `{called('seeds')}` of 2 or more: one model has num_factors factors as it is."
        )


def refuse_on_aws(extensions: Extensions, called: Callable[[str], str]) -> None:
    """Refuse all extensions, for the target AWS.

    Parameters
    ----------
    extensions, called
        As for `check_together`.

    Raises
    ------
    ParameterError
        Naming the first that is not at its default.
    """
    for name, value in extensions.chosen.items():
        raise ParameterError(
            f"`{called(name)}: {text(value)}` is a local extension, which SageMaker does not have.",
            hint=f"Leave `{called(name)}` out, or set `target: local`.",
        )
