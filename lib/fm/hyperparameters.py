"""The hyperparameters of SageMaker's Factorization Machines: names, ranges, defaults, wire format.

On the wire every value is a string (``"64"``, ``"0.1"``, ``"true"``).  Names, ranges and defaults are those of
AWS's page "Factorization Machines Hyperparameters"; ``use_bias``, ``use_linear`` and
``batch_metrics_publish_interval`` are not on that page but in the algorithm's own default configuration.
Names that begin with an underscore (``_optimizer``, ``_tuning_objective_metric``, ``_kvstore`` …) are the
service's own settings: accepted, kept in ``hidden``, and without effect here.  Names that begin with ``local_``
are not SageMaker's, which refuses them: they are this engine's extensions (`lib.fm.extensions`).

What AWS leaves open, and what is done here:

- ``*_init_scale`` has no documented default: 0.07 is used, as in MXNet's ``Uniform``.
- ``*_init_value`` has none either: the method ``constant`` without it is refused.
- ``rescale_grad`` unset means 1 / mini_batch_size, ``eps`` unset 1e-8, as in MXNet's ``Module`` and ``Adam``;
  ``clip_gradient`` unset, zero or negative means no clipping, as in MXNet.
- ``eps`` must be positive, in float32 too: it is what keeps a division by zero away.
- Numbers must fit into float32, in which the engine calculates, and counts into 31 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib.errors import ParameterError, did_you_mean
from lib.fm import extensions
from lib.fm.extensions import Extensions
from lib.fm.wire import SMALLEST, Bool, Count, Float, NonNegativeFloat, PositiveFloat, first_problem, text

DEFAULT_SCALE = 0.07  # MXNet's Uniform()
DEFAULT_EPSILON = 1e-8  # MXNet's Adam()

_PLACEHOLDERS = {"integer": 1, "continuous": 1.0}
_GROUPS = ("bias", "linear", "factors")

InitMethod = Literal["uniform", "normal", "constant"]


class Hyperparameters(BaseModel):
    """Validated hyperparameters; make one with `validate`.

    Attributes
    ----------
    feature_dim : int
        Dimension d of the input; at most 2**31 - 1.
    num_factors : int
        Dimension k of the factorization.
    predictor_type : {"regressor", "binary_classifier"}
        What is predicted: a number, or the probability of label 1.
    epochs, mini_batch_size : int
        Passes over the data; rows of one update.
    *_lr, *_wd : float
        Learning rate and weight decay of ``bias``, ``linear`` (weights) and ``factors``.
    *_init_method, *_init_scale, *_init_sigma, *_init_value
        How each group begins: uniform in [-scale, scale], normal with deviation sigma, or constant.
    clip_gradient, eps, rescale_grad : float or None
        The optimizer's bound for a gradient, its epsilon, and the factor of a batch's summed gradient.
    use_bias, use_linear : bool
        Whether the model has a bias, and weights; where not, they stay 0.
    batch_metrics_publish_interval : int
        Batches between two lines of training metrics within an epoch.
    hidden : dict of str
        The settings that begin with an underscore, as given; without effect.
    extensions : Extensions
        The settings that begin with ``local_``, which SageMaker does not have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature_dim: Count
    num_factors: Count
    predictor_type: Literal["regressor", "binary_classifier"]
    epochs: Count = 1
    mini_batch_size: Count = 1000
    bias_lr: NonNegativeFloat = 0.1
    bias_wd: NonNegativeFloat = 0.01
    bias_init_method: InitMethod = "normal"
    bias_init_scale: NonNegativeFloat | None = None
    bias_init_sigma: NonNegativeFloat = 0.01
    bias_init_value: Float | None = None
    linear_lr: NonNegativeFloat = 0.001
    linear_wd: NonNegativeFloat = 0.001
    linear_init_method: InitMethod = "normal"
    linear_init_scale: NonNegativeFloat | None = None
    linear_init_sigma: NonNegativeFloat = 0.01
    linear_init_value: Float | None = None
    factors_lr: NonNegativeFloat = 0.0001
    factors_wd: NonNegativeFloat = 0.00001
    factors_init_method: InitMethod = "normal"
    factors_init_scale: NonNegativeFloat | None = None
    factors_init_sigma: NonNegativeFloat = 0.001
    factors_init_value: Float | None = None
    clip_gradient: Float | None = None
    eps: Annotated[PositiveFloat, Field(ge=SMALLEST)] | None = None
    rescale_grad: Float | None = None
    use_bias: Bool = True
    use_linear: Bool = True
    batch_metrics_publish_interval: Count = 500
    hidden: dict[str, str] = Field(default_factory=dict, exclude=True)
    extensions: Extensions = Field(default_factory=Extensions, exclude=True)

    @property
    def classifier(self) -> bool:
        """Whether the model predicts the probability of label 1."""
        return self.predictor_type == "binary_classifier"

    @property
    def rounds(self) -> int:
        """Epochs of all models together that are trained, or sweeps of the Bayesian algorithm."""
        return self.extensions.rounds(self.epochs)

    def wire(self, *, local: bool = False) -> dict[str, str]:
        """Return all that have a value, as strings: defaults included, hidden ones too.

        Parameters
        ----------
        local : bool
            Include the extensions that are not at their default.  Without them SageMaker takes what is returned.
        """
        values = {name: text(value) for name, value in self.model_dump(exclude_none=True).items()}
        return values | self.hidden | (self.extensions.wire() if local else {})


NAMES: tuple[str, ...] = tuple(
    name for name in Hyperparameters.model_fields if name not in ("hidden", "extensions")
)
REQUIRED: tuple[str, ...] = ("feature_dim", "num_factors", "predictor_type")

#: What AWS documents as tunable (page "Tune a Factorization Machines Model"), and which kind of range it takes.
TUNABLE: Mapping[str, str] = {
    "epochs": "integer",
    "mini_batch_size": "integer",
    **{
        f"{group}_{what}": "continuous"
        for group in _GROUPS
        for what in ("init_scale", "init_sigma", "init_value", "lr", "wd")
    },
}


def validate(values: Mapping[str, Any]) -> Hyperparameters:
    """Check hyperparameters and fill in the defaults.

    Parameters
    ----------
    values : mapping of str
        By wire name; values are strings as on the wire, or plain numbers and booleans.  None counts as
        not given.

    Raises
    ------
    ParameterError
        An unknown name, a missing required one, or a value out of its documented range.
    """
    given = {str(name): value for name, value in values.items() if value is not None}
    hidden = {name: text(value) for name, value in given.items() if name.startswith("_")}
    local = {name: value for name, value in given.items() if name.startswith(extensions.PREFIX)}
    shown = {name: value for name, value in given.items() if name not in hidden and name not in local}
    for name in shown:
        if name not in NAMES:
            raise _unknown(name)
    missing = " and ".join(f"`{name}`" for name in REQUIRED if name not in shown)
    if missing:
        raise ParameterError(f"Factorization Machines cannot do without {missing}.")
    try:
        checked = Hyperparameters(**shown, hidden=hidden, extensions=extensions.read(local))
    except ValidationError as error:
        raise ParameterError(first_problem(error, shown)) from None
    for group in _GROUPS:
        constant = getattr(checked, f"{group}_init_method") == "constant"
        if constant and getattr(checked, f"{group}_init_value") is None:
            raise ParameterError(f"`{group}_init_method` is constant, which needs `{group}_init_value`.")
    for name in ("use_bias", "use_linear"):
        if checked.extensions.bayesian and not getattr(checked, name):
            raise ParameterError(f"The Bayesian algorithm has no model for `{name}: false`.")
    return checked


def known(name: str) -> bool:
    """Tell whether there is a hyperparameter of this wire name; those with an underscore are taken as such."""
    return name in NAMES or name.startswith(("_", extensions.PREFIX))


def to_wire(values: Mapping[str, Any], *, tuned: Iterable[str] = ()) -> dict[str, str]:
    """Check hyperparameters and return the given ones as the strings that SageMaker takes.

    Parameters
    ----------
    values : mapping of str
        As for `validate`.  None is left out.
    tuned : iterable of str
        The names that a tuning job will add to them.

    Raises
    ------
    ParameterError
        As for `validate`, or a tuned name that cannot be tuned, or not with the Bayesian algorithm.
    """
    given = {str(name): value for name, value in values.items() if value is not None}
    to_come = {name: _PLACEHOLDERS[tunable_kind(name)] for name in tuned}
    checked = validate(to_come | given)
    if to_come and checked.extensions.bayesian:
        raise ParameterError("The Bayesian algorithm leaves nothing to tune: it has no learning rates.")
    wire = checked.wire(local=True)
    return {name: wire[name] for name in given if name in wire}


def tunable_kind(name: str) -> str:
    """Return which kind of range a hyperparameter takes in a tuning job: ``integer`` or ``continuous``.

    Raises
    ------
    ParameterError
        It cannot be tuned, or there is none of that name.
    """
    if name in TUNABLE:
        return TUNABLE[name]
    if name in NAMES:
        raise ParameterError(f"SageMaker does not tune the hyperparameter `{name}`.")
    raise _unknown(name)


def _unknown(name: str) -> ParameterError:
    """Return the error for a name that there is not."""
    return ParameterError(
        f"Factorization Machines has no hyperparameter `{name}`.",
        hint=did_you_mean(name, list(NAMES)).capitalize(),
    )
