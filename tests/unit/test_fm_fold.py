"""Many models folded into one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from lib.errors import ModelError, ParameterError
from lib.fm import fold
from lib.fm.model import Model


def models(count: int, d: int = 40, k: int = 3, predictor_type: str = "regressor") -> list[Model]:
    """Models around one truth, each rotated in its own way."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(d, k))
    made = []
    for _ in range(count):
        rotation = np.linalg.qr(rng.normal(size=(k, k)))[0]
        factors = (truth + 0.3 * rng.normal(size=(d, k))) @ rotation
        made.append(Model(rng.normal(), rng.normal(size=d), factors, predictor_type))
    return made


def rows(d: int = 40, first: int = 25) -> sparse.csr_matrix:
    """Every pair of a feature of the first field and one of the second, with values."""
    rng = np.random.default_rng(1)
    left, right = np.meshgrid(np.arange(first), np.arange(first, d), indexing="ij")
    n = left.size
    X = sparse.coo_matrix(
        (
            rng.normal(1, 0.3, 2 * n),
            (np.tile(np.arange(n), 2), np.concatenate([left.ravel(), right.ravel()])),
        ),
        shape=(n, d),
    )
    return X.tocsr().astype(np.float32)


def mean_outputs(of: list[Model], X: sparse.csr_matrix) -> np.ndarray:
    return np.mean([model.outputs(X) for model in of], axis=0)


def worst(model: Model, of: list[Model], X: sparse.csr_matrix) -> float:
    return float(np.abs(model.outputs(X) - mean_outputs(of, X)).max())


def test_the_average_is_exact_for_any_rows():
    of = models(5)
    X = sparse.random(200, 40, density=0.3, random_state=np.random.default_rng(2), format="csr")
    average = fold.average(of)
    assert average.num_factors == 15
    assert worst(average, of, X.astype(np.float32)) < 1e-4


def test_the_average_of_one_model_is_that_model():
    (model,) = models(1)
    average = fold.average([model])
    assert average.bias == model.bias
    np.testing.assert_array_equal(average.linear, model.linear)
    np.testing.assert_array_equal(average.factors, model.factors)


def test_models_of_different_numbers_of_factors_are_averaged():
    of = [models(1, k=2)[0], models(1, k=5)[0]]
    assert fold.average(of).num_factors == 7
    assert worst(fold.average(of), of, rows()) < 1e-4


def test_a_classifier_stays_one():
    assert fold.average(models(2, predictor_type="binary_classifier")).classifier


@pytest.mark.parametrize("fields", [None, [25, 15], [25, 10, 5]])
def test_as_many_factors_as_there_are_is_exact(fields: list[int] | None):
    of = models(4)
    assert worst(fold.low_rank(of, 40, fields=fields), of, rows()) < 2e-2


def test_one_model_in_two_fields_keeps_its_outputs():
    of = models(1)
    assert worst(fold.low_rank(of[0], 3, fields=[25, 15]), of, rows()) < 1e-4


def test_one_model_without_fields_keeps_its_outputs():
    of = models(1)
    X = sparse.random(200, 40, density=0.3, random_state=np.random.default_rng(2), format="csr")
    assert worst(fold.low_rank(of[0], 3), of, X.astype(np.float32)) < 1e-3


def test_two_fields_are_the_truncated_singular_value_decomposition():
    of = models(6)
    rectangle = np.mean([m.factors[:25] @ m.factors[25:].T for m in of], axis=0)
    left, singular, right = np.linalg.svd(rectangle)
    best = left[:, :4] * singular[:4] @ right[:4]
    folded = fold.low_rank(of, 4, fields=[25, 15]).factors
    np.testing.assert_allclose(folded[:25] @ folded[25:].T, best, atol=1e-4)


def test_what_does_not_matter_is_not_fitted():
    """The diagonal of the mean is far from low rank; away from it three factors say all."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 3)).astype(np.float32)
    noise = [rng.normal(0, 2, (60, 400)).astype(np.float32) / 20 for _ in range(30)]
    of = [Model(0, np.zeros(60), np.concatenate([truth, part], axis=1)) for part in noise]
    folded = fold.low_rank(of, 3).factors
    plain_values, plain_vectors = np.linalg.eigh(np.mean([m.factors @ m.factors.T for m in of], axis=0))
    plain = plain_vectors[:, -3:] * np.sqrt(plain_values[-3:])
    away = ~np.eye(60, dtype=bool)

    def error(factors: np.ndarray) -> float:
        return float(np.sqrt(np.mean((factors @ factors.T - truth @ truth.T)[away] ** 2)))

    assert error(folded) < 0.06
    assert error(folded) < 0.5 * error(plain)


def test_three_fields_are_better_for_being_known():
    of = models(30, d=60, k=6)
    mean = np.mean([m.factors @ m.factors.T for m in of], axis=0)
    field = np.repeat([0, 1, 2], 20)
    matters = field[:, None] != field[None, :]

    def error(fields: list[int] | None) -> float:
        factors = fold.low_rank(of, 4, fields=fields).factors
        return float(np.mean((factors @ factors.T - mean)[matters] ** 2))

    assert error([20, 20, 20]) < error(None)


def test_weights_say_which_features_matter():
    of = models(10, k=6)
    weights = np.ones(40)
    weights[:5] = 100
    rectangle = np.mean([m.factors[:25] @ m.factors[25:].T for m in of], axis=0)

    def error(**options: object) -> float:
        factors = fold.low_rank(of, 2, fields=[25, 15], **options).factors
        return float(np.mean((factors[:5] @ factors[25:].T - rectangle[:5]) ** 2))

    assert error(weights=weights) < 0.7 * error()


def test_the_same_seed_gives_the_same_model():
    of = models(3)
    for fields in (None, [25, 15]):
        first, second = (fold.low_rank(of, 2, fields=fields, seed=4) for _ in range(2))
        np.testing.assert_array_equal(first.factors, second.factors)


def test_factors_beyond_the_rank_are_nothing():
    folded = fold.low_rank(models(2, d=6), 20, fields=[4, 2])
    assert folded.num_factors == 20
    assert not folded.factors[:, 2:].any()


def test_no_models_cannot_be_folded():
    with pytest.raises(ModelError, match="There are no models"):
        fold.average([])


def test_models_of_different_kinds_are_refused():
    with pytest.raises(ModelError, match=r"model 0 is a regressor of 40 features and model 1 a .* of 30"):
        fold.average([*models(1), *models(1, d=30)])
    with pytest.raises(ModelError, match="binary_classifier"):
        fold.low_rank([*models(1), *models(1, predictor_type="binary_classifier")], 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_factors": 0}, "num_factors must be 1 or more, not 0"),
        ({"num_factors": 2, "fields": [10, 20]}, "have 30 columns in all, but the models have 40"),
        ({"num_factors": 2, "weights": np.zeros(40)}, "40 numbers above 0"),
        ({"num_factors": 2, "weights": np.ones(3)}, "40 numbers above 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises(ParameterError, match=message):
        fold.low_rank(models(2), **options)
