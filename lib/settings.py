"""The grouped parameters of a parameter file: what may stand under ``account``, ``training`` and so on.

Single parameters are declared by the notebooks.  Those that belong together travel as one mapping, and
this module says which keys it has and of which type, so that a misspelt key is refused before any
kernel starts.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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


class TransformResources(Group):
    """What a batch transform job may use: the parameter ``transform``."""

    instance_type: str = "ml.m5.xlarge"
    instance_count: int = Field(1, ge=1)
    max_payload_mb: int = Field(6, ge=1, le=100)
    max_concurrent: int = Field(1, ge=1)
    image_uri: str = ""


class TuningLimits(Group):
    """How a tuning job searches: the parameter ``tuning``."""

    strategy: Literal["Bayesian", "Random", "Hyperband", "Grid"] = "Random"
    objective_metric: str = "test:rmse"
    objective_type: Literal["Minimize", "Maximize"] = "Minimize"
    max_jobs: int = Field(6, ge=1)
    max_parallel_jobs: int = Field(2, ge=1)


GROUPS: dict[str, type[Group]] = {
    "account": AccountSettings,
    "training": TrainingResources,
    "transform": TransformResources,
    "tuning": TuningLimits,
}

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
        if first["type"] == "extra_forbidden":
            known = list(group.model_fields)
            there_are = f"there are {', '.join(known)}."
            raise ParameterError(
                f"Parameter `{parameter}` has no key `{key}`: {did_you_mean(key, known) or there_are}"
            ) from None
        problem = first["msg"][0].lower() + first["msg"][1:]
        raise ParameterError(f"Parameter `{parameter}.{key}` is {first['input']!r}: {problem}.") from None
