"""Factorization Machines as SageMaker's built-in algorithm trains them, on this machine.

>>> import numpy as np
>>> from lib import fm
>>> X = np.eye(4)[[0, 0, 1, 1]] + np.eye(4)[[2, 3, 2, 3]]  # two customers, two films
>>> machine = fm.FactorizationMachine(num_factors=4, epochs=200, bias_lr=0.1, linear_lr=0.05, factors_lr=0.05)
>>> machine.fit(X, [5, 1, 2, 4]).predict(X).round()
array([5., 1., 2., 4.], dtype=float32)

- `FactorizationMachine`: an estimator with the habits of scikit-learn; ``algorithm="bayesian"`` samples.
- `Model`: a trained model that predicts, explains, recommends; `load` opens SageMaker's ``model.tar.gz``, and
  `Model.save` writes it.
- `hyperparameters`: their names, ranges and defaults.

The same hyperparameters, log lines and model artifact; ``python -m lib.fm train|serve`` follows the container
contract.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib.fm import hyperparameters
    from lib.fm.artifact import load
    from lib.fm.estimator import FactorizationMachine
    from lib.fm.explain import Explanation
    from lib.fm.model import Model

__all__ = ["Explanation", "FactorizationMachine", "Model", "hyperparameters", "load"]

# Imported when they are asked for: who needs the names of hyperparameters alone does not wait for numba.
_HOMES = {
    "Explanation": "explain",
    "FactorizationMachine": "estimator",
    "Model": "model",
    "load": "artifact",
}


def __getattr__(name: str) -> Any:
    if name == "hyperparameters":
        return import_module("lib.fm.hyperparameters")
    if name in _HOMES:
        return getattr(import_module(f"lib.fm.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lib.fm' has no attribute {name!r}")
