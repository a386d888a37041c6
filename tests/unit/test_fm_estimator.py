"""The estimator: scikit-learn's habits and checks, its examples, and errors that name row and column."""

from __future__ import annotations

import ast
import copy
import doctest
import inspect
import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.estimator_checks import check_estimator

from lib import fm
from lib.errors import ArrayError, ModelError, ParameterError
from lib.fm import conventions, estimator, hyperparameters, model
from lib.fm.extensions import Extensions
from lib.fm.fit import Training
from lib.fm.hyperparameters import validate

ROOT = Path(__file__).parents[2]
FAST = {
    "num_factors": 4,
    "epochs": 30,
    "mini_batch_size": 20,
    "bias_lr": 0.1,
    "linear_lr": 0.02,
    "factors_lr": 0.02,
    "threads": 1,
}
BAYESIAN = {"num_factors": 4, "algorithm": "bayesian", "samples": 20, "burn_in": 5, "threads": 1}
CUSTOMERS, FILMS = 12, 8


def ratings(n: int = 400, seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Ratings with a planted taste: one-hot customers, then films."""
    random = np.random.default_rng(seed)
    customers, films = random.integers(0, CUSTOMERS, n), random.integers(0, FILMS, n)
    taste = np.random.default_rng(7).normal(0, 1, (CUSTOMERS + FILMS, 2))
    y = 3 + np.einsum("nf,nf->n", taste[customers], taste[CUSTOMERS + films]) + random.normal(0, 0.1, n)
    X = sparse.csr_matrix(
        (
            np.ones(2 * n, np.float32),
            np.stack([customers, CUSTOMERS + films], 1).ravel(),
            np.arange(0, 2 * n + 1, 2),
        ),
        (n, CUSTOMERS + FILMS),
    )
    return X, y.astype(np.float32)


# scikit-learn's checks

#: Two columns of values about 100: the Bayesian algorithm says that they are not scaled.
UNSCALED = {"check_fit_idempotent", "check_fit_check_is_fitted", "check_n_features_in"}


@pytest.mark.parametrize("kind", ["regressor", "binary_classifier"])
@pytest.mark.parametrize(
    ("options", "excluded"), [(FAST, set()), (BAYESIAN, UNSCALED)], ids=["adam", "bayesian"]
)
def test_scikit_learns_estimator_checks(kind, options, excluded):
    machine = fm.FactorizationMachine(predictor_type=kind, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no BaseEstimator; features that are not scaled; a column of labels
        results = check_estimator(machine, on_skip=None, on_fail=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert set(failed) <= excluded
    assert all("Scale the numeric features" in str(error) for error in failed.values())
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    assert skipped == {"check_array_api_input"}  # takes scipy's SCIPY_ARRAY_API=1; arrays are numpy's here
    assert len(results) > 50


def test_what_takes_long_to_import_is_imported_late():
    slow = {"sklearn", "numba", "pandas"}
    code = f"import sys, lib.fm; lib.fm.FactorizationMachine(); print(sys.modules.keys() & {slow})"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert answer.stdout == "set()\n"


@pytest.mark.parametrize("module", [fm, estimator, model], ids=lambda module: module.__name__)
def test_examples_of_the_docstrings(module):
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed


# Parameters


def test_parameters_are_stored_untouched_and_cloned():
    machine = fm.FactorizationMachine(epochs="5", num_factors=7.0, blocks=[1, 2], seed=3)
    assert machine.get_params()["epochs"] == "5"
    assert machine.blocks == [1, 2]
    copied = clone(machine)
    assert copied.get_params() == machine.get_params()
    assert machine.set_params(epochs=2) is machine
    assert machine.epochs == 2
    assert copied.epochs == "5"
    assert repr(machine) == "FactorizationMachine(num_factors=7.0, epochs=2, blocks=[1, 2], seed=3)"


def test_every_hyperparameter_and_extension_is_a_parameter_with_sagemakers_or_the_shipped_default():
    defaults = fm.FactorizationMachine().get_params()
    sagemakers = validate({"feature_dim": 1, "num_factors": 1, "predictor_type": "regressor"})
    for name in hyperparameters.NAMES:
        if name in ("feature_dim", "batch_metrics_publish_interval"):  # from the data; of the log
            assert name not in defaults
        elif name in estimator.DEFAULTS:
            assert defaults[name] == estimator.DEFAULTS[name]
        elif name != "predictor_type":
            assert defaults[name] == getattr(sagemakers, name), name
    for name, value in Extensions():
        assert defaults[name] == value, name


def test_defaults_are_those_of_the_training_notebook():
    notebook = json.loads((ROOT / "notebooks" / "03_train.ipynb").read_text())
    cell = "".join(notebook["cells"][1]["source"])
    shipped = {
        statement.target.id: ast.literal_eval(statement.value)
        for statement in ast.parse(cell).body
        if isinstance(statement, ast.AnnAssign)
    }
    assert {name: shipped[name] for name in estimator.DEFAULTS} == estimator.DEFAULTS


@pytest.mark.parametrize(
    ("name", "guess"),
    [("num_factor", "num_factors"), ("n_jobs", "threads"), ("random_state", "seed"), ("max_iter", "epochs")],
)
def test_a_misspelt_parameter_is_refused_with_a_guess(name, guess):
    for refuse in (
        lambda: fm.FactorizationMachine(**{name: 1}),
        lambda: fm.FactorizationMachine().set_params(**{name: 1}),
    ):
        with pytest.raises(ParameterError, match=rf"no parameter `{name}`\. Did you mean `{guess}`\?"):
            refuse()
    assert "**" not in str(inspect.signature(fm.FactorizationMachine))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be 1 or more, not 0"),
        ({"num_factors": "many"}, "`num_factors` must be a whole number"),
        ({"predictor_type": "ranker"}, "`predictor_type` must be one of 'regressor' or 'binary_classifier'"),
        ({"algorithm": "magic"}, "`algorithm` must be one of 'adam' or 'bayesian'"),
        ({"samples": 3}, "`samples` has no meaning with `algorithm: adam`"),
        ({"algorithm": "bayesian", "early_stopping": 2}, "`early_stopping` has no meaning with"),
        ({"algorithm": "bayesian", "use_bias": False}, "no model for `use_bias: false`"),
        ({"early_stopping": 2}, r"early_stopping=2 watches test rows.*test=\(X_test, y_test\)"),
        ({"fold": True}, "`fold` needs `seeds` of 2 or more"),
        ({"seed": -1}, "seed .*must be a whole number of 0 or more"),
        ({"threads": 0}, "threads .*must be 1 or more"),
        ({"linear_init_method": "constant"}, "needs `linear_init_value`"),
    ],
)
def test_parameters_are_checked_in_fit(options, message):
    machine = fm.FactorizationMachine(**FAST | options)
    with pytest.raises(ParameterError, match=message):
        machine.fit(*ratings(20))


# Fit and predict


def test_from_sagemaker_trains_as_the_engine_does():
    X, y = ratings()
    given = {
        "feature_dim": "20",
        "num_factors": "4",
        "predictor_type": "regressor",
        "epochs": "3",
        "_kvstore": "x",
    }
    machine = fm.FactorizationMachine.from_sagemaker(given, seed=5).fit(X, y)
    training = Training(X, y, validate(given), seed=5)
    metrics = [report.metrics for report in training if report.ended]
    assert machine.model_.factors.tobytes() == training.model().factors.tobytes()
    assert machine.history_ == metrics
    assert machine.n_iter_ == 3
    assert machine.mini_batch_size == 1000
    with pytest.raises(ParameterError, match="no hyperparameter `num_factor`"):
        fm.FactorizationMachine.from_sagemaker({"num_factor": 4})


def test_rows_are_shuffled_by_the_seed_unless_asked_not_to():
    X, y = ratings()
    order = np.argsort(y)

    def factors(rows, **options):
        return fm.FactorizationMachine(**FAST | options).fit(X[rows], y[rows]).model_.factors.tobytes()

    assert factors(order) == factors(order)
    assert factors(order) != factors(order, seed=1)
    assert factors(order, shuffle=False) != factors(order)
    shuffled = order[np.random.default_rng(0).permutation(len(y))]
    assert factors(shuffled, shuffle=False) == factors(order, shuffle=True)


def test_a_regressor_learns():
    X, y = ratings()
    X_test, y_test = ratings(200, seed=1)
    machine = fm.FactorizationMachine(**FAST | {"epochs": 100}).fit(X, y)
    predictions = machine.predict(X_test)
    assert predictions.shape == (200,)
    r2 = 1 - np.sum((y_test - predictions) ** 2) / np.sum((y_test - y_test.mean()) ** 2)
    assert machine.score(X_test, y_test) == pytest.approx(r2, abs=1e-6)
    assert r2 > 0.9
    assert is_regressor(machine)
    for name in ("predict_proba", "decision_function", "predict_interval"):
        assert not hasattr(machine, name)


@pytest.mark.parametrize("classes", [[0, 1], ["bad", "good"], [-1.0, 1.0], [False, True]], ids=str)
@pytest.mark.parametrize("options", [FAST, BAYESIAN], ids=["adam", "bayesian"])
def test_a_classifier_knows_any_two_classes(classes, options):
    X, y = ratings()
    labels = np.array(classes)[(y > 3).astype(int)]
    machine = fm.FactorizationMachine(predictor_type="binary_classifier", **options).fit(X, labels)
    assert is_classifier(machine)
    assert machine.classes_.tolist() == classes
    probabilities = machine.predict_proba(X)
    assert probabilities.shape == (400, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert machine.predict(X).tolist() == np.array(classes)[probabilities.argmax(1)].tolist()
    assert ((machine.decision_function(X) > 0) == (probabilities[:, 1] > 0.5)).all()
    assert machine.score(X, labels) == np.mean(machine.predict(X) == labels) > 0.9


def test_a_score_may_be_weighted():
    X, y = ratings(50)
    machine = fm.FactorizationMachine(**FAST).fit(X, y)
    weights = np.repeat([0.0, 2.0], 25)
    assert machine.score(X, y, weights) == pytest.approx(machine.score(X[25:], y[25:]), abs=1e-9)


def test_test_rows_are_watched_and_stop_the_training():
    X, y = ratings(60)
    test = ratings(100, seed=2)
    options = FAST | {"epochs": 400, "early_stopping": 3, "factors_lr": 0.1}
    machine = fm.FactorizationMachine(**options).fit(X, y, test=test)
    losses = [metrics["test_rmse"] for metrics in machine.history_]
    assert machine.n_iter_ == len(losses) == np.argmin(losses) + 4 < 400
    found = np.sqrt(np.mean((machine.predict(test[0]) - test[1]) ** 2))
    assert found == pytest.approx(min(losses), rel=1e-5)
    with pytest.raises(ParameterError, match="test is a pair"):
        machine.fit(X, y, test=X)


def test_learning_rates_are_found():
    X, y = ratings()
    options = FAST | {"bias_lr": 1e-4, "linear_lr": 1e-5, "factors_lr": 1e-5}
    poor = fm.FactorizationMachine(**options).fit(X, y)
    found = fm.FactorizationMachine(**options, lr_finder=0.1).fit(X, y)
    assert found.history_[-1]["rmse"] < 0.7 * poor.history_[-1]["rmse"]
    assert found.linear_lr == 1e-5


def test_seeds_are_averaged_and_folded():
    X, y = ratings()
    singles = [
        fm.FactorizationMachine(**FAST, seed=seed, shuffle=False).fit(X, y).predict(X) for seed in (0, 1)
    ]
    both = fm.FactorizationMachine(**FAST, seeds=2, shuffle=False).fit(X, y)
    np.testing.assert_allclose(both.predict(X), np.mean(singles, axis=0), atol=1e-5)
    assert both.model_.num_factors == 8
    folded = fm.FactorizationMachine(**FAST, seeds=2, fold=True, shuffle=False).fit(X, y)
    assert folded.model_.num_factors == 4


def test_the_bayesian_algorithm_predicts_with_intervals():
    X, y = ratings()
    X_test, y_test = ratings(300, seed=1)
    machine = fm.FactorizationMachine(**BAYESIAN | {"samples": 60}).fit(X, y, test=(X_test, y_test))
    assert machine.score(X_test, y_test) > 0.9
    low, high = machine.predict_interval(X_test, coverage=0.8)
    wider_low, wider_high = machine.predict_interval(X_test, coverage=0.95)
    assert (wider_low < low).all()
    assert (high < wider_high).all()
    assert 0.6 < np.mean((low <= y_test) & (y_test <= high)) < 0.95
    assert machine.n_iter_ == 65
    assert machine.history_[-1]["test_rmse"] < 0.3
    assert machine.diagnostics_["bias"].effective > 1
    np.testing.assert_allclose(machine.model_.predict(X_test), machine.predict(X_test), atol=0.15)
    assert not hasattr(machine, "partial_fit")
    with pytest.raises(ParameterError, match="coverage must be between 0 and 1"):
        machine.predict_interval(X_test, coverage=90)


# Going on


def test_partial_fit_is_the_training_epoch_by_epoch():
    X, y = ratings()
    whole = fm.FactorizationMachine(**FAST | {"epochs": 3}).fit(X, y)
    parts = fm.FactorizationMachine(**FAST)
    for _ in range(3):
        assert parts.partial_fit(X, y) is parts
    assert parts.model_.factors.tobytes() == whole.model_.factors.tobytes()
    assert parts.history_ == whole.history_
    copied = pickle.loads(pickle.dumps(parts))
    np.testing.assert_allclose(copied.predict(X), whole.predict(X), atol=1e-5)
    assert parts.n_iter_ == 3


@pytest.mark.parametrize(
    "copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy], ids=["pickle", "copy"]
)
def test_partial_fit_keeps_the_optimizers_state_in_a_copy(copied):
    X, y = ratings()
    machine = fm.FactorizationMachine(**FAST).partial_fit(X, y)
    other = copied(machine)
    for one in (machine, other):
        one.partial_fit(X[:100], y[:100])
    assert other.model_.factors.tobytes() == machine.model_.factors.tobytes()
    assert other.model_.bias == machine.model_.bias


def test_partial_fit_goes_on_from_a_fit_and_follows_the_rates():
    X, y = ratings()
    machine = fm.FactorizationMachine(**FAST).fit(X, y)
    before = machine.model_
    machine.set_params(bias_lr=0, linear_lr=0, factors_lr=0).partial_fit(X, y)
    assert machine.model_.factors.tobytes() == before.factors.tobytes()
    machine.set_params(factors_lr=0.01).partial_fit(X, y)
    assert machine.model_.factors.tobytes() != before.factors.tobytes()
    assert machine.model_.linear.tobytes() == before.linear.tobytes()
    assert machine.n_iter_ == len(machine.history_) == 32


def test_partial_fit_of_a_classifier_is_told_its_classes():
    X, _ = ratings(100)
    machine = fm.FactorizationMachine(**FAST, predictor_type="binary_classifier")
    with pytest.raises(ArrayError, match="All labels are of one class, 'good'"):
        machine.partial_fit(X, np.repeat("good", 100))
    machine.partial_fit(X, np.repeat("good", 100), classes=["good", "bad"])
    assert machine.classes_.tolist() == ["bad", "good"]
    with pytest.raises(ArrayError, match="classes are 'bad' and 'good', but the label of row 2 is 'ugly'"):
        machine.partial_fit(X[:3], ["good", "bad", "ugly"])


@pytest.mark.parametrize("options", [FAST, BAYESIAN], ids=["adam", "bayesian"])
def test_a_pickled_machine_predicts_the_same(options):
    X, y = ratings()
    machine = fm.FactorizationMachine(**options).fit(X, y)
    again = pickle.loads(pickle.dumps(machine))
    np.testing.assert_array_equal(again.predict(X), machine.predict(X))
    assert repr(again) == repr(machine)


# In scikit-learn's company


def test_a_machine_works_in_searches_pipelines_and_cross_validation():
    X, y = ratings(200)
    machine = fm.FactorizationMachine(**FAST)
    search = GridSearchCV(machine, {"factors_lr": [0.0, 0.05], "factors_init_sigma": [0.1]}, cv=2).fit(X, y)
    assert search.best_params_["factors_lr"] == 0.05
    table = pd.DataFrame({"customer": X[:, :CUSTOMERS].argmax(1).A1, "film": X[:, CUSTOMERS:].argmax(1).A1})
    line = make_pipeline(OneHotEncoder(dtype=np.float32), clone(machine)).fit(table, y)
    np.testing.assert_allclose(line.predict(table), clone(machine).fit(X, y).predict(X), atol=1e-6)
    labels = np.where(y > 3, "good", "bad")
    classifier = fm.FactorizationMachine(**FAST, predictor_type="binary_classifier")
    assert cross_val_score(classifier, X, labels, cv=2, scoring="roc_auc").min() > 0.8


def test_tables_keep_their_columns_names():
    X, y = ratings(100)
    names = [f"c{n}" for n in range(CUSTOMERS)] + [f"f{n}" for n in range(FILMS)]
    table = pd.DataFrame(X.toarray(), columns=names)
    machine = fm.FactorizationMachine(**FAST).fit(table, y)
    assert machine.feature_names_in_.tolist() == names
    explanation = machine.explain({"c1": 1, "f2": 1})
    assert set(explanation.features["feature"]) == {"c1", "f2"}
    top = machine.recommend({"c1": 1}, range(CUSTOMERS, CUSTOMERS + FILMS), 2, exclude=["f3"])
    assert top["name"].tolist() == [names[feature] for feature in top["feature"]]
    assert machine.similar_items("f0", slice(CUSTOMERS, None), 3)["name"].str.startswith("f").all()
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        machine.predict(table[names[::-1]])
    with pytest.raises(ValueError, match=r"unseen at fit time:\n- other\n.*now missing:\n- c0"):
        machine.predict(table.rename(columns={"c0": "other"}))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        machine.predict(X)
    machine.fit(X, y)
    assert not hasattr(machine, "feature_names_in_")
    with pytest.warns(UserWarning, match="fitted without feature names"):
        machine.predict(table)


def test_a_table_of_sparse_columns_stays_sparse():
    X, y = ratings(50)
    names = [f"column {n}" for n in range(X.shape[1])]
    table = pd.DataFrame.sparse.from_spmatrix(X, columns=names)
    from_table = fm.FactorizationMachine(**FAST).fit(table, y)
    from_matrix = fm.FactorizationMachine(**FAST).fit(X, y)
    assert from_table.model_.factors.tobytes() == from_matrix.model_.factors.tobytes()
    assert from_table.feature_names_in_.tolist() == names


@pytest.mark.parametrize("options", [FAST, FAST | {"seeds": 2}, BAYESIAN], ids=["adam", "seeds", "bayesian"])
def test_the_model_is_saved_in_sagemakers_format(options, tmp_path):
    X, y = ratings(100)
    machine = fm.FactorizationMachine(**options).fit(X, y)
    loaded = fm.load(machine.model_.save(tmp_path / "model.tar.gz"))
    np.testing.assert_allclose(loaded.predict(X), machine.model_.predict(X), atol=1e-6)


def test_a_machine_that_is_not_fitted_says_so():
    X, _ = ratings(3)
    regressor = fm.FactorizationMachine()
    sampling = fm.FactorizationMachine(algorithm="bayesian", predictor_type="binary_classifier")
    uses = [
        lambda: regressor.predict(X),
        lambda: regressor.model_,
        lambda: regressor.explain({0: 1}),
        lambda: sampling.predict_proba(X),
        lambda: sampling.decision_function(X),
        lambda: sampling.predict_interval(X),
        lambda: sampling.diagnostics_,
    ]
    for use in uses:
        with pytest.raises(NotFittedError, match=r"is not fitted\. Call fit\(X, y\) first") as raised:
            use()
        assert isinstance(raised.value, ModelError)
    assert not hasattr(regressor, "model_")


def test_without_scikit_learn_an_unfitted_machine_raises_the_librarys_error(monkeypatch):
    monkeypatch.delitem(sys.modules, "sklearn.exceptions")
    error = conventions.not_fitted(fm.FactorizationMachine())
    assert isinstance(error, ModelError)
    assert not isinstance(error, NotFittedError)


# Errors that say where


def hand_made(columns: list[int], values: list[float]) -> sparse.csr_matrix:
    X = sparse.csr_matrix((3, 5), dtype=np.float32)
    X.indices, X.indptr = np.array(columns, np.int32), np.array([0, 1, 3, 4], np.int32)
    X.data = np.array(values, np.float32)
    return X


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (hand_made([0, 1, 2, 3], [1, 1, np.nan, 1]), r"not finite.*NaN in row 1, column 2"),
        (hand_made([0, 1, 2, 3], [1, 1, 1, -np.inf]), r"not finite.*-inf in row 2, column 3"),
        (hand_made([0, 1, 5, 3], [1, 1, 1, 1]), "have 5 columns, but row 1 holds an entry of column 5"),
        (hand_made([0, 1, 2, -4], [1, 1, 1, 1]), "have 5 columns, but row 2 holds an entry of column -4"),
        (hand_made([0, 1, 2, 3], [1, 1, 1, np.nan]).tocsc(), r"NaN in row 2, column 3"),
        (np.array([[1, 2, 3, 4, 5], [1, 2, 1e39, 4, 5]]), r"1e\+39 in row 1, column 2"),
        (np.array([[1, 2, 3, 4, np.inf]], np.float16), "inf in row 0, column 4"),
        (np.array([["1", "2", "x", "4", "5"]], object), "Examples are numbers, but these are not"),
        (np.ones((1, 5), complex), "Complex data not supported"),
        (np.ones(5), "one row each"),
        ([[1, 2, 3, 4, 5], [1]], "rows of equal length"),
    ],
)
def test_examples_that_cannot_be_used_are_refused_by_row_and_column(X, message):
    loaded = fm.Model(0, np.zeros(5), np.ones((5, 2)))
    machine = fm.FactorizationMachine(**FAST).fit(np.eye(5), range(5))
    sampling = fm.FactorizationMachine(**BAYESIAN).fit(np.eye(5), range(5))
    y = np.zeros(3)
    uses = [
        loaded.predict,
        machine.predict,
        sampling.predict,
        lambda X: machine.fit(X, y),
        lambda X: machine.partial_fit(X, y),
        lambda X: sampling.fit(X, y),
    ]
    for use in uses:
        with pytest.raises(ArrayError, match=message) as raised:
            use(X)
        assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "no labels: FactorizationMachine requires y"),
        ([1, np.nan, 2], "not finite.*NaN in row 1"),
        ([1, 2, 1e39], r"not finite.*1e\+39 in row 2"),
        ([1, 2], r"3 examples, but labels of shape \(2,\)"),
        ([1, None, 2], "missing value: None in row 1"),
        (["a", "b", "c"], "labels are not numbers, but str"),
        (np.array([1, "b", 2], object), "labels are not numbers: could not convert string to float: 'b'"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_by_row(y, message):
    with pytest.raises(ArrayError, match=message):
        fm.FactorizationMachine(**FAST).fit(np.eye(3), y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 2], "Only binary classification.*multiclass.* 3 values, the third of them, 2, in row 2"),
        ([0, 0.25, 1], "The type of the target is continuous"),
        ([1, 1, 1], "All labels are of one class, 1"),
        (np.array(["a", 1, "b"], object), "of several types"),
        (np.array(["a", np.nan, "b"], object), "missing value: nan in row 1"),
    ],
)
def test_labels_that_are_not_two_classes_are_refused(y, message):
    with pytest.raises(ArrayError, match=message):
        fm.FactorizationMachine(**FAST, predictor_type="binary_classifier").fit(np.eye(3), y)


def test_another_number_of_columns_is_refused_with_both_numbers():
    machine = fm.FactorizationMachine(**FAST).fit(np.eye(3), [1, 2, 3])
    for use in (
        machine.predict,
        lambda X: machine.partial_fit(X, [1] * 4),
        lambda X: machine.score(X, [1] * 4),
    ):
        with pytest.raises(
            ArrayError, match="X has 4 features, but FactorizationMachine is expecting 3 features"
        ):
            use(np.eye(4))
    with pytest.raises(ModelError, match="takes 3 features, but the examples have 4"):
        machine.model_.predict(np.eye(4))
    with pytest.raises(ModelError, match="takes 3 features, but the examples have 4"):
        machine.fit(np.eye(3), [1, 2, 3], test=(np.eye(4), [1, 2, 3, 4]))
    with pytest.raises(ArrayError, match=r"0 feature\(s\)"):
        machine.fit(np.ones((3, 0)), [1, 2, 3])
    with pytest.raises(ArrayError, match="no rows"):
        machine.fit(np.ones((0, 3)), [])


def test_features_that_are_not_scaled_are_warned_about():
    X = np.array([[1, 2011.0], [1, 1994.0]])
    machine = fm.FactorizationMachine(**FAST | {"epochs": 1})
    with pytest.warns(UserWarning, match="Feature 1 holds values up to 2011") as caught:
        machine.fit(X, [3, 4])
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="Feature 1"):
        machine.partial_fit(X, [3, 4])


def test_partial_fit_goes_on_only_from_a_model_that_fits():
    X, y = np.eye(6, dtype=np.float32), np.arange(6, dtype=np.float32)
    machine = fm.FactorizationMachine(num_factors=2, epochs=2).fit(X, y)
    with pytest.raises(ParameterError, match="The fitted model has 2 factors, num_factors is 3"):
        machine.set_params(num_factors=3).partial_fit(X, y)
    with pytest.raises(ParameterError, match="fitted as another predictor_type than binary_classifier"):
        machine.set_params(num_factors=2, predictor_type="binary_classifier").partial_fit(X, y > 2)


def test_partial_fit_after_sampling_predicts_from_the_trained_model():
    X, y = np.eye(6, dtype=np.float32), np.arange(6, dtype=np.float32)
    machine = fm.FactorizationMachine(
        num_factors=2, algorithm="bayesian", samples=8, burn_in=2, rounds=1
    ).fit(X, y)
    factors = machine.model_.num_factors
    machine.set_params(algorithm="adam", samples=200, burn_in=20, rounds=None, num_factors=factors)
    machine.partial_fit(X, y)
    np.testing.assert_allclose(machine.predict(X), machine.model_.outputs(X), rtol=1e-6)


def test_values_whose_products_overflow_end_a_classifier_s_sampling():
    machine = fm.FactorizationMachine(num_factors=2, algorithm="bayesian", predictor_type="binary_classifier")
    with pytest.raises(ModelError, match="diverged"):
        machine.fit(np.full((4, 2), 1e25), [0, 1, 0, 1])
