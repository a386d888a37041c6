"""The quality metrics that the algorithm reports, for training (from sums) and for a test set."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

# name in the log -> what kind of number it is, in the log's order
REGRESSOR = {"rmse": "loss", "mse": "loss", "absolute_loss": "loss"}
CLASSIFIER = {
    "binary_classification_accuracy": "score",
    "binary_classification_cross_entropy": "loss",
    "binary_f_1.000": "score",
}
KINDS: Mapping[str, str] = REGRESSOR | CLASSIFIER

# Places in an array of sums; what does not belong to the kind of model stays 0.
SQUARED, ABSOLUTE, CROSS_ENTROPY, CORRECT, TRUE_POSITIVE, POSITIVE, PREDICTED_POSITIVE = range(7)
SUMS = 7


def loss_name(classifier: bool) -> str:
    """Return the metric that a test set is judged by: RMSE, or a classifier's cross-entropy."""
    return "binary_classification_cross_entropy" if classifier else "rmse"


def from_sums(sums: np.ndarray, count: float, classifier: bool) -> dict[str, float]:
    """Return the metrics of some rows from their sums.

    Parameters
    ----------
    sums : float64 array, shape (SUMS,)
        Sums over the rows, by the places above.
    count : float
        What means are taken over.  In training this is batches * mini_batch_size: a partial last batch
        counts as a full one, as in SageMaker's log.
    classifier : bool
        Whether to return the classifier's metrics.
    """
    if not classifier:
        mse = float(sums[SQUARED] / count)
        return {"rmse": math.sqrt(mse), "mse": mse, "absolute_loss": float(sums[ABSOLUTE] / count)}
    found = sums[POSITIVE] + sums[PREDICTED_POSITIVE]
    return {
        "binary_classification_accuracy": float(sums[CORRECT] / count),
        "binary_classification_cross_entropy": float(sums[CROSS_ENTROPY] / count),
        "binary_f_1.000": float(2 * sums[TRUE_POSITIVE] / found) if found else 0.0,
    }


def evaluate(outputs: ArrayLike, labels: ArrayLike, classifier: bool) -> dict[str, float]:
    """Return the metrics of predictions.

    Parameters
    ----------
    outputs : float array, shape (n,)
        The model's raw outputs: predictions of a regressor, log-odds of a classifier.
    labels : float array, shape (n,)
        The truth; 0 or 1 for a classifier.
    classifier : bool
        Whether to return the classifier's metrics.
    """
    outputs = np.asarray(outputs, np.float64)
    labels = np.asarray(labels, np.float64)
    sums = np.zeros(SUMS)
    if classifier:
        positive = labels > 0.5
        predicted = outputs > 0
        sums[CROSS_ENTROPY] = np.sum(np.logaddexp(0, outputs) - outputs * labels)
        sums[CORRECT] = np.sum(positive == predicted)
        sums[TRUE_POSITIVE] = np.sum(positive & predicted)
        sums[POSITIVE] = np.sum(positive)
        sums[PREDICTED_POSITIVE] = np.sum(predicted)
    else:
        error = outputs - labels
        sums[SQUARED] = np.sum(error * error)
        sums[ABSOLUTE] = np.sum(np.abs(error))
    return from_sums(sums, len(labels), classifier)
