"""Factorization Machines as SageMaker's built-in algorithm trains them, on this machine.

>>> from lib import fm
>>> machine = fm.FactorizationMachine(num_factors=8, predictor_type="regressor", epochs=10)
>>> machine.fit(X, y).predict(X_test)  # doctest: +SKIP
>>> fm.load("model.tar.gz").predict(X_test)  # doctest: +SKIP

The same hyperparameters, log lines and model artifact; ``python -m lib.fm train|serve`` follows the container
contract.
"""

from __future__ import annotations

from lib.fm import hyperparameters
from lib.fm.artifact import load
from lib.fm.fit import FactorizationMachine
from lib.fm.model import Model

__all__ = ["FactorizationMachine", "Model", "hyperparameters", "load"]
