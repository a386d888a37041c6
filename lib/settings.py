"""What values parameters may have, beyond the type that the notebooks declare.

Parameters that belong together travel as one mapping, such as ``account`` or ``training``: this module says
which keys it has.  Some others are one of a few words, a hyperparameter, or ranges of them.  All is checked
before any kernel starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lib.errors import ParameterError, did_you_mean


class Group(BaseModel):
    """Base of the groups: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class AccountSettings(Group):
    """Where and as whom jobs run: the parameter ``account``.  The local AWS needs none of it."""

    region: str = ""
    profile: str = ""
    role_arn: str = ""
    kms_key: str = ""
    subnets: list[str] = []
    security_group_ids: list[str] = []
    tags: dict[str, str] = {}


class TrainingResources(Group):
    """What a training job may use: the parameter ``training``."""

    instance_type: str = "ml.m5.xlarge"
    instance_count: int = Field(1, ge=1)
    volume_gb: int = Field(30, ge=1)
    max_run_seconds: int = Field(3600, ge=1)
    spot: bool = False
    max_wait_seconds: int | None = Field(None, ge=1)
    image_uri: str = ""

    @model_validator(mode="after")
    def _wait_covers_the_run(self) -> TrainingResources:
        if self.max_wait_seconds is not None and self.max_wait_seconds < self.max_run_seconds:
            raise ValueError("max_wait_seconds must not be below max_run_seconds")
        return self


class TransformResources(Group):
    """What a batch transform job may use: the parameter ``transform``."""

    instance_type: str = "ml.m5.xlarge"
    instance_count: int = Field(1, ge=1)
    max_payload_mb: int = Field(6, ge=1, le=100)
    max_concurrent: int = Field(1, ge=1)
    image_uri: str = ""

    @model_validator(mode="after")
    def _payloads_fit(self) -> TransformResources:
        if self.max_payload_mb * self.max_concurrent > 100:
            raise ValueError("max_payload_mb times max_concurrent must not be above 100")
        return self


class EndpointResources(Group):
    """What a real-time endpoint may use: the parameter ``endpoint``."""

    instance_type: str = "ml.m5.large"
    instance_count: int = Field(1, ge=1)
    image_uri: str = ""


class TuningLimits(Group):
    """How a tuning job searches: the parameter ``tuning``."""

    strategy: Literal["Bayesian", "Random", "Hyperband"] = "Bayesian"
    max_jobs: int = Field(6, ge=1)
    max_parallel_jobs: int = Field(2, ge=1)


class ExtensionSettings(Group):
    """What the local AWS can do beyond SageMaker: the parameter ``extensions``; see `lib.fm.extensions`."""

    model_config = ConfigDict(extra="forbid", strict=True)  # true is no number

    early_stopping: int = Field(0, ge=0)
    lr_finder: float = Field(0.0, ge=0, le=1)
    seeds: int = Field(1, ge=1, le=100)
    fold: bool = False
    samples: int = Field(200, ge=1)
    burn_in: int = Field(20, ge=0)


GROUPS: dict[str, type[Group]] = {
    "account": AccountSettings,
    "training": TrainingResources,
    "transform": TransformResources,
    "endpoint": EndpointResources,
    "tuning": TuningLimits,
    "extensions": ExtensionSettings,
}

CHOICES: dict[str, tuple[str, ...]] = {
    "target": ("local", "aws"),
    "algorithm": ("adam", "bayesian"),
    "engine": ("duckdb", "spark"),
    "source": (
        "generated",
        "file",
        "movielens-100k",
        "movielens-1m",
        "movielens-25m",
        "amazon-reviews-2023",
    ),
}

_BUCKET_NAME = re.compile(r"(?!xn--)[a-z0-9](?!.*\.\.)[a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"\d+(\.\d+){3}")

AnyGroup = TypeVar("AnyGroup", bound=Group)


def validate(group: type[AnyGroup], values: dict[str, Any] | None, parameter: str) -> AnyGroup:
    """Return the group's settings from a mapping of some of its keys.

    Parameters
    ----------
    group : type
        One of the classes above.
    values : dict or None
        The keys that were given; the others have their defaults.
    parameter : str
        The parameter's name, for the message.

    Raises
    ------
    ParameterError
        For an unknown key or a value of the wrong type, naming the key.
    """
    try:
        return group(**(values or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if not key:  # the keys do not go together
            raise ParameterError(
                f"Parameter `{parameter}`: {first['msg'].removeprefix('Value error, ')}."
            ) from None
        if first["type"] == "extra_forbidden":
            known = list(group.model_fields)
            raise ParameterError(
                f"Parameter `{parameter}` has no key `{key}`.", hint=_guess(key, known)
            ) from None
        problem = first["msg"][0].lower() + first["msg"][1:]
        raise ParameterError(f"Parameter `{parameter}.{key}` is {first['input']!r}: {problem}.") from None


def check(name: str, value: Any) -> None:
    """Check the value of any parameter, as far as more is known of it than its type.

    Raises
    ------
    ParameterError
        With one sentence: an unknown key or word, a value out of range.
    """
    from lib.fm import hyperparameters as fm_hyperparameters

    if name in GROUPS:
        validate(GROUPS[name], value, name)
    elif name in CHOICES and value not in CHOICES[name]:
        raise ParameterError(
            f"Parameter `{name}` cannot be {value!r}.", hint=_guess(str(value), list(CHOICES[name]))
        )
    elif name == "bucket":
        _check_bucket(value)
    elif name == "hyperparameters":
        for key, setting in value.items():
            if key in ("feature_dim", "predictor_type"):
                raise ParameterError(f"The hyperparameter `{key}` is set by the workflow.")
            _refuse_extension(key)
            _check_hyperparameter(key, setting)
    elif name == "side_features" and value:
        from lib import side_features

        side_features.parse(value)
    elif name == "ranges":
        for key, bounds in value.items():
            check_range(key, bounds)
    elif name in fm_hyperparameters.NAMES and name not in ("feature_dim", "predictor_type"):
        _check_hyperparameter(name, value)


def _check_bucket(name: str) -> None:
    """Refuse what S3 would ("General purpose bucket naming rules" in its user guide)."""
    if not _BUCKET_NAME.fullmatch(name) or _ADDRESS.fullmatch(name):
        raise ParameterError(
            f"Parameter `bucket` cannot be {name!r}: S3 has no such names.",
            hint="A bucket's name has 3 to 63 small letters, digits, dots and hyphens, and no s3:// before it.",
        )


def check_together(values: Mapping[str, Any]) -> None:
    """Check parameters that each may have their value, but not all of them at once.

    Parameters
    ----------
    values : mapping of str
        What a run's parameters are, defaults included; those that are not there are not looked at.

    Raises
    ------
    ParameterError
        Local extensions for the target aws, that do not go together, or that a search would contradict.
    """
    tuned = values.get("ranges", {}) if values.get("tune") else {}
    algorithm = values.get("algorithm", "adam")
    local_hyperparameters(
        algorithm, values.get("extensions"), target=values.get("target", "local"), tuned=tuned
    )
    if values.get("tune") and algorithm == "bayesian":
        raise ParameterError(
            "`algorithm: bayesian` leaves nothing to tune: it has no learning rates.",
            hint="Set `tune: false`.",
        )


def local_hyperparameters(
    algorithm: str,
    extensions: dict[str, Any] | None,
    *,
    target: str,
    tuned: Iterable[str] = (),
) -> dict[str, str]:
    """Return the hyperparameters, as on the wire, that stand for the parameters of the local extensions.

    Parameters
    ----------
    algorithm : str
        The parameter ``algorithm``.
    extensions : dict or None
        The parameter ``extensions``.
    target : str
        ``local``, or ``aws``, which has no extensions.
    tuned : iterable of str
        The hyperparameters that a tuning job searches.

    Raises
    ------
    ParameterError
        An extension for the target aws, extensions that do not go together, or one that would override what
        is searched.
    """
    from lib.fm import extensions as fm_extensions

    check("algorithm", algorithm)
    given = validate(ExtensionSettings, extensions, "extensions").model_dump()
    asked = fm_extensions.Extensions.model_validate({"algorithm": algorithm, **given})
    if target == "aws":
        fm_extensions.refuse_on_aws(asked, _extension_parameter)
    fm_extensions.check_together(asked, _extension_parameter)
    rates = [name for name in tuned if name.endswith("_lr")]
    if asked.lr_finder and rates:
        raise ParameterError(
            f"`extensions.lr_finder` and the range of `{rates[0]}` look for the same.",
            hint="Leave one of them out.",
        )
    return asked.wire()


def _extension_parameter(name: str) -> str:
    """Return the parameter that an extension has in the notebooks."""
    return name if name == "algorithm" else f"extensions.{name}"


def _refuse_extension(name: str) -> None:
    """Refuse a local extension in the place of a hyperparameter of SageMaker's."""
    from lib.fm import extensions as fm_extensions

    if name.startswith(fm_extensions.PREFIX):
        known = [
            _extension_parameter(known.removeprefix(fm_extensions.PREFIX)) for known in fm_extensions.NAMES
        ]
        meant = _extension_parameter(name.removeprefix(fm_extensions.PREFIX))
        hint = f"Give it as the parameter `{meant}`." if meant in known else _guess(meant, known)
        raise ParameterError(f"`{name}` is not a hyperparameter of SageMaker's.", hint=hint)


def check_range(name: str, bounds: Any) -> None:
    """Check that a tuning job can search ``[low, high]`` for a hyperparameter.

    Raises
    ------
    ParameterError
        For a name that SageMaker does not tune, bounds that are no two ascending numbers, or that the
        hyperparameter cannot take.
    """
    from lib.fm import hyperparameters as fm_hyperparameters

    fm_hyperparameters.tunable_kind(name)
    is_pair = isinstance(bounds, list | tuple) and len(bounds) == 2
    if not is_pair or any(isinstance(bound, bool) or not isinstance(bound, int | float) for bound in bounds):
        raise ParameterError(f"The range of `{name}` is {bounds!r}, but should be two numbers, [low, high].")
    if not bounds[0] < bounds[1]:
        raise ParameterError(
            f"The range of `{name}` is {bounds!r}: the first number must be below the second."
        )
    for bound in bounds:
        _check_hyperparameter(name, bound)


def _check_hyperparameter(name: str, value: Any) -> None:
    from lib.fm import hyperparameters as fm_hyperparameters

    others = {"feature_dim": 1, "num_factors": 2, "predictor_type": "regressor"}
    if name.endswith("_init_method"):
        others[name.replace("method", "value")] = 0
    fm_hyperparameters.validate({**others, name: value})


def _guess(name: str, known: list[str]) -> str:
    guess = did_you_mean(name, known)
    return guess[0].upper() + guess[1:] if guess else f"There are {', '.join(known)}."
