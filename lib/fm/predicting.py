"""What a fitted Factorization Machine can do: predict, explain, recommend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.fm.conventions import Estimator, available_if, not_fitted, tags
from lib.fm.labels import as_labels, as_targets
from lib.fm.matrices import as_csr
from lib.fm.model import Model, logistic

if TYPE_CHECKING:
    import pandas as pd

    from lib.fm.bayesian import Sampling
    from lib.fm.convergence import Diagnostic
    from lib.fm.explain import Explanation
    from lib.fm.fit import Training

_LEAST_PROBABILITY = 1e-12


def _not_classifying(machine: Any) -> str:
    return "" if machine.predictor_type == "binary_classifier" else "it is a regressor"


def _not_sampling(machine: Any) -> str:
    return "" if machine.algorithm == "bayesian" else "it needs algorithm='bayesian'"


class Predicting(Estimator):
    """A machine that may be fitted: by one model, by a training that can go on, or by a sampling.

    Attributes
    ----------
    predictor_type, algorithm : str
        As of `FactorizationMachine`.
    classes_ : array, shape (2,)
        A classifier's classes.
    """

    predictor_type: str
    algorithm: str
    classes_: np.ndarray
    _model: Model | None = None
    _training: Training | None = None
    _sampling: Sampling | None = None

    @property
    def model_(self) -> Model:
        """The fitted model."""
        if self._model is None:
            if self._training is not None:
                self._model = self._training.model()
            elif self._sampling is not None:
                self._model = self._sampling.model()
            else:
                raise not_fitted(self)
        return self._model

    @property
    def diagnostics_(self) -> dict[str, Diagnostic]:
        """Whether the chain of the Bayesian algorithm has settled, by the scalar's name."""
        if self._sampling is None:
            raise not_fitted(self)
        return self._sampling.diagnostics()

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted number of each row, or of a classifier the likelier class: shape (n,).

        With the Bayesian algorithm it is the mean over the posterior's draws.

        Parameters
        ----------
        X : scipy sparse matrix, array or table, shape (n, d)
            One row an example.

        Raises
        ------
        ModelError
            The machine is not fitted.
        ArrayError
            X has other columns, or values that cannot be used.
        """
        scores = self._scores(X)
        if not self._classifying:
            return scores
        return self.classes_[(scores > 0.5).astype(np.intp)]

    @available_if(_not_classifying)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each of ``classes_``, shape (n, 2); parameters and errors are `predict`'s."""
        scores = self._scores(X)
        return np.column_stack([1 - scores, scores])

    @available_if(_not_classifying)
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the log-odds of the second class, shape (n,); parameters and errors are those of `predict`."""
        if self._sampling is None:
            return self._outputs(self._checked(X))
        scores = np.clip(self._scores(X), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        return np.log(scores / (1 - scores))

    @available_if(_not_sampling)
    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Return between which numbers a label falls with a given probability: low and high, shape (n,).

        Of a classifier it is where the probability of the second class lies.  See `lib.fm.bayesian.Sampling.interval`.

        Parameters
        ----------
        X : scipy sparse matrix, array or table, shape (n, d)
            One row an example.
        coverage : float
            The probability, between 0 and 1.

        Raises
        ------
        ParameterError
            A coverage out of range.
        ModelError, ArrayError
            As of `predict`.
        """
        X = self._checked(X)
        if self._sampling is None:
            raise not_fitted(self)
        return self._sampling.interval(X, coverage)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return how good the predictions are: R² of a regressor, the share of right ones of a classifier.

        Parameters
        ----------
        X, y
            Examples, and what is true of them.
        sample_weight : array, shape (n,), optional
            How much each counts.

        Raises
        ------
        ModelError, ArrayError
            As of `predict`, or labels that do not fit.
        """
        predicted = self.predict(X)
        labels = as_labels(y, len(predicted), type(self).__name__)
        weights = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        if self._classifying:
            return float(np.average(labels == predicted, weights=weights))
        truth = as_targets(labels).astype(np.float64)
        spread = np.sum(weights * (truth - np.average(truth, weights=weights)) ** 2)
        error = np.sum(weights * (truth - predicted) ** 2)
        return float(1 - error / spread) if spread else float(error == 0)

    def explain(self, row: Any, *, names: Sequence[Any] | None = None, n: int | None = None) -> Explanation:
        """Return what each feature and pair contributes to a row's output: `Model.explain`, with the fit's names."""
        return self.model_.explain(row, names=self._names(names), n=n)

    def recommend(
        self,
        row: Any,
        candidates: Any,
        n: int = 10,
        *,
        exclude: Iterable[Any] = (),
        names: Sequence[Any] | None = None,
    ) -> pd.DataFrame:
        """Return the candidates that score highest together with a row: `Model.recommend`, with the fit's names."""
        return self.model_.recommend(row, candidates, n, exclude=exclude, names=self._names(names))

    def similar_items(
        self, item: Any, items: Any = None, n: int = 10, *, names: Sequence[Any] | None = None
    ) -> pd.DataFrame:
        """Return the items of the most similar vectors: `Model.similar_items`, with the fit's names."""
        return self.model_.similar_items(item, items, n, names=self._names(names))

    def __sklearn_tags__(self) -> Any:
        return tags(self._classifying)

    def __sklearn_is_fitted__(self) -> bool:
        return any(one is not None for one in (self._model, self._training, self._sampling))

    @property
    def _classifying(self) -> bool:
        return bool(self.predictor_type == "binary_classifier")

    def _checked(self, X: Any) -> Any:
        """Return rows to be predicted, sparse or dense."""
        if not self.__sklearn_is_fitted__():
            raise not_fitted(self)
        X = self._checked_columns(X)
        return X if self._sampling is None else as_csr(X, X.shape[1])

    def _scores(self, X: Any) -> np.ndarray:
        """Return predictions: of a classifier the probability of the second class."""
        X = self._checked(X)
        if self._sampling is not None:
            return self._sampling.posterior_mean(X)
        outputs = self._outputs(X)
        return logistic(outputs) if self._classifying else outputs

    def _outputs(self, X: Any) -> np.ndarray:
        """Return raw outputs; amid a training from its state, of which a model would be a copy."""
        if self._model is None and self._training is not None:
            return self._training.outputs(X)
        return self.model_.outputs(X)

    def _names(self, names: Sequence[Any] | None) -> Sequence[Any] | None:
        return getattr(self, "feature_names_in_", None) if names is None else names
