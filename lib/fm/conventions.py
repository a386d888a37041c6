"""The habits of a scikit-learn estimator, without scikit-learn: parameters, names of columns, what is raised.

An estimator that has these works in scikit-learn's pipelines, searches and cross-validation; only those import
scikit-learn.

References
----------
"Developing scikit-learn estimators", scikit-learn's developer guide.
"""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from lib.errors import ArrayError, ModelError, ParameterError, did_you_mean
from lib.fm.matrices import as_numbers

Function = TypeVar("Function", bound=Callable[..., Any])

_OTHER_NAMES = {
    "random_state": "seed",
    "n_jobs": "threads",
    "max_iter": "epochs",
    "batch_size": "mini_batch_size",
}


def suggesting(init: Function) -> Function:
    """Wrap a constructor of keyword parameters so that a misspelt one raises an error that names the nearest."""
    known = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **given: Any) -> None:
        for name in given:
            if name not in known:
                raise _unknown(name, type(self).__name__, known)
        init(self, *args, **given)

    return cast("Function", checked)


class Estimator:
    """Parameters by name: those of the constructor, each stored untouched in the attribute of its name."""

    @classmethod
    def _parameters(cls) -> dict[str, Any]:
        """Return the parameters' names and defaults."""
        return {name: one.default for name, one in inspect.signature(cls).parameters.items()}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, by name.

        Parameters
        ----------
        deep : bool
            Without effect: no parameter is an estimator.
        """
        return {name: getattr(self, name) for name in self._parameters()}

    def set_params(self, **parameters: Any) -> Any:
        """Change parameters, and return the estimator.  They are checked, and take effect, in the next fit.

        Raises
        ------
        ParameterError
            One that there is not.
        """
        known = list(self._parameters())
        for name in parameters:
            if name not in known:
                raise _unknown(name, type(self).__name__, known)
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = self._parameters()
        changed = {n: value for n, value in self.get_params().items() if repr(value) != repr(defaults[n])}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"

    def _note_columns(self, X: Any, count: int) -> None:
        """Remember the number of columns, and their names if X is a table with names."""
        self.n_features_in_ = count
        names = column_names(X)
        if names is not None:
            self.feature_names_in_ = names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _checked_columns(self, X: Any) -> Any:
        """Return X as numbers, after a refusal of other columns than those of the fit."""
        names, fitted = column_names(X), getattr(self, "feature_names_in_", None)
        called = type(self).__name__
        X = as_numbers(X)
        if names is not None and fitted is None:
            warnings.warn(f"X has feature names, but {called} was fitted without feature names", stacklevel=4)
        elif names is None and fitted is not None:
            message = f"X does not have valid feature names, but {called} was fitted with feature names"
            warnings.warn(message, stacklevel=4)
        elif names is not None and fitted is not None and not np.array_equal(names, fitted):
            raise ArrayError(_differing(list(names), list(fitted)))
        if X.shape[1] != self.n_features_in_:
            raise ArrayError(
                f"X has {X.shape[1]} features, but {called} is expecting {self.n_features_in_} features as input."
            )
        return X


def available_if(reason: Callable[[Any], str]) -> Callable[[Function], Function]:
    """Decorate a method that there is only in some states of its object: elsewhere, it is no attribute.

    Parameters
    ----------
    reason : callable
        Called with the object, returns why there is no such method, or an empty string if there is.
    """

    def decorate(method: Function) -> Function:
        return cast("Function", _Available(reason, method))

    return decorate


class _Available:
    """A method that there is as long as there is no reason against it."""

    def __init__(self, reason: Callable[[Any], str], method: Callable[..., Any]) -> None:
        self._reason, self._method = reason, method
        self.__doc__ = method.__doc__

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self._method
        reason = self._reason(instance)
        if reason:
            raise AttributeError(f"{type(instance).__name__} has no {self._method.__name__} here: {reason}.")
        return self._method.__get__(instance, owner)


def column_names(X: Any) -> np.ndarray | None:
    """Return the column names of a table, object (d,), or None unless all are strings."""
    columns = getattr(X, "columns", None)
    if columns is None:
        return None
    names = np.asarray(list(columns), object)
    return names if len(names) and all(isinstance(name, str) for name in names) else None


def not_fitted(estimator: Any) -> ModelError:
    """Return the error for an estimator that is not fitted: scikit-learn's NotFittedError too, if that is loaded."""
    kind = _from_sklearn("NotFittedError", AttributeError)
    error = type(
        "NotFittedError", (ModelError, kind), {"__doc__": "An estimator is used before it is fitted."}
    )
    return cast(
        "ModelError", error(f"This {type(estimator).__name__} is not fitted.", hint="Call fit(X, y) first.")
    )


def warn_of_column_vector() -> None:
    """Warn that labels came as a column: by scikit-learn's DataConversionWarning, if that is loaded."""
    warnings.warn(
        "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples,), for "
        "example using ravel().",
        _from_sklearn("DataConversionWarning", UserWarning),
        stacklevel=4,
    )


def tags(classifier: bool) -> Any:
    """Return what scikit-learn wants to know of an estimator: it predicts one number or two classes, sparse input."""
    from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags  # type: ignore[import-untyped]

    return Tags(
        estimator_type="classifier" if classifier else "regressor",
        target_tags=TargetTags(required=True),
        classifier_tags=ClassifierTags(multi_class=False) if classifier else None,
        regressor_tags=None if classifier else RegressorTags(),
        input_tags=InputTags(sparse=True),
    )


def _from_sklearn(name: str, otherwise: type) -> Any:
    """Return a class of `sklearn.exceptions`, if anyone here can know it."""
    exceptions = sys.modules.get("sklearn.exceptions")
    return getattr(exceptions, name, otherwise)


def _unknown(name: str, called: str, known: Sequence[str]) -> ParameterError:
    guess = _OTHER_NAMES.get(name)
    hint = f"Did you mean `{guess}`?" if guess in known else did_you_mean(name, list(known)).capitalize()
    return ParameterError(f"{called} has no parameter `{name}`.", hint=hint)


def _differing(names: list[str], fitted: list[str]) -> str:
    """Return how a table's column names differ from those of the fit, in scikit-learn's words."""
    lines = ["The feature names should match those that were passed during fit."]
    unexpected, missing = sorted(set(names) - set(fitted)), sorted(set(fitted) - set(names))
    if unexpected:
        lines += ["Feature names unseen at fit time:", *(f"- {name}" for name in unexpected[:5])]
    if missing:
        lines += ["Feature names seen at fit time, yet now missing:", *(f"- {name}" for name in missing[:5])]
    if not unexpected and not missing:
        lines += ["Feature names must be in the same order as they were in fit."]
    return "\n".join(lines)
