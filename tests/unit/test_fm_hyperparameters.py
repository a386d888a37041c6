"""Names, ranges, defaults and wire format of the hyperparameters."""

from __future__ import annotations

import numpy as np
import pytest

from lib.errors import ParameterError
from lib.fm import hyperparameters
from lib.fm.hyperparameters import NAMES, TUNABLE, to_wire, tunable_kind, validate

REQUIRED = {"feature_dim": "1000", "num_factors": "64", "predictor_type": "regressor"}


def test_defaults_are_those_that_aws_documents():
    checked = validate(REQUIRED)
    assert (checked.epochs, checked.mini_batch_size) == (1, 1000)
    assert (checked.bias_lr, checked.linear_lr, checked.factors_lr) == (0.1, 0.001, 0.0001)
    assert (checked.bias_wd, checked.linear_wd, checked.factors_wd) == (0.01, 0.001, 0.00001)
    assert (checked.bias_init_sigma, checked.linear_init_sigma, checked.factors_init_sigma) == (
        0.01,
        0.01,
        0.001,
    )
    for group in ("bias", "linear", "factors"):
        assert getattr(checked, f"{group}_init_method") == "normal"
        assert getattr(checked, f"{group}_init_scale") is None
        assert getattr(checked, f"{group}_init_value") is None
    assert (checked.clip_gradient, checked.eps, checked.rescale_grad) == (None, None, None)
    assert (checked.use_bias, checked.use_linear, checked.batch_metrics_publish_interval) == (True, True, 500)


def test_every_documented_name_is_known():
    groups = [
        f"{group}_{what}"
        for group in ("bias", "linear", "factors")
        for what in ("init_method", "init_scale", "init_sigma", "init_value", "lr", "wd")
    ]
    others = ["clip_gradient", "epochs", "eps", "mini_batch_size", "rescale_grad"]
    undocumented = ["use_bias", "use_linear", "batch_metrics_publish_interval"]
    assert sorted(NAMES) == sorted([*REQUIRED, *groups, *others, *undocumented])


def test_strings_and_plain_values_mean_the_same():
    as_strings = validate(REQUIRED | {"epochs": "3", "bias_lr": "1e-2", "use_bias": "False"})
    plain = validate(
        {"feature_dim": np.int64(1000), "num_factors": 64, "predictor_type": "regressor"}
        | {"epochs": 3, "bias_lr": np.float64(0.01), "use_bias": False}
    )
    assert as_strings == plain


def test_to_wire_returns_strings_of_what_was_given_and_validate_reads_them_back():
    given = {"feature_dim": 1000, "num_factors": 8, "predictor_type": "binary_classifier"}
    given |= {"factors_lr": 1e-5, "use_linear": True, "eps": None, "_kvstore": "auto"}
    wire = to_wire(given)
    assert wire == {
        "feature_dim": "1000",
        "num_factors": "8",
        "predictor_type": "binary_classifier",
        "factors_lr": "1e-05",
        "use_linear": "true",
        "_kvstore": "auto",
    }
    assert validate(wire) == validate(given)
    assert validate(validate(given).wire()) == validate(given)


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_missing_required_name_is_named(missing):
    with pytest.raises(ParameterError, match=f"cannot do without `{missing}`"):
        validate({name: value for name, value in REQUIRED.items() if name != missing})


@pytest.mark.parametrize(
    ("name", "meant"),
    [("num_factor", "num_factors"), ("factor_lr", "factors_lr"), ("minibatch_size", "mini_batch_size")],
)
def test_an_unknown_name_is_refused_with_the_nearest_known(name, meant):
    with pytest.raises(ParameterError, match=f"no hyperparameter `{name}`. Did you mean `{meant}`[?]"):
        validate(REQUIRED | {name: "1"})


def test_a_seed_is_not_a_hyperparameter():
    with pytest.raises(ParameterError, match="no hyperparameter `seed`"):
        to_wire(REQUIRED | {"seed": 1})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("feature_dim", "0", "must be 1 or more, not '0'"),
        ("feature_dim", str(2**31), "must be 2147483647 or less"),
        ("num_factors", "6.5", "must be a whole number, not '6.5'"),
        ("num_factors", 6.5, "must be a whole number, not 6.5"),
        ("num_factors", True, "must be a whole number"),
        (
            "predictor_type",
            "classifier",
            "must be one of 'regressor' or 'binary_classifier', not 'classifier'",
        ),
        ("epochs", "many", "must be a whole number, not 'many'"),
        ("mini_batch_size", "-5", "must be 1 or more"),
        ("bias_lr", "-0.1", "must be 0.0 or more|must be 0 or more"),
        ("factors_wd", "nan", "must be a finite number"),
        ("linear_lr", "inf", "must be a finite number"),
        ("linear_lr", True, "must be a number"),
        ("eps", "0", "must be more than 0"),
        ("bias_init_method", "zeros", "must be one of 'uniform', 'normal' or 'constant'"),
        ("use_bias", "yes", "must be true or false, not 'yes'"),
        ("factors_init_value", [1], "`factors_init_value`"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(name, value, message):
    with pytest.raises(ParameterError, match=message) as raised:
        validate(REQUIRED | {name: value})
    assert f"`{name}`" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_hidden_names_are_kept_and_without_effect():
    checked = validate(REQUIRED | {"_tuning_objective_metric": "test:rmse", "_optimizer": "adam"})
    assert checked.hidden == {"_tuning_objective_metric": "test:rmse", "_optimizer": "adam"}
    assert validate(REQUIRED).model_dump() == checked.model_dump()


def test_the_method_constant_needs_a_value():
    with pytest.raises(ParameterError, match="`bias_init_method` is constant, which needs `bias_init_value`"):
        validate(REQUIRED | {"bias_init_method": "constant"})
    assert (
        validate(REQUIRED | {"bias_init_method": "constant", "bias_init_value": "-1"}).bias_init_value == -1
    )


def test_what_can_be_tuned():
    assert tunable_kind("mini_batch_size") == "integer"
    assert tunable_kind("factors_lr") == "continuous"
    assert set(TUNABLE) < set(NAMES)
    with pytest.raises(ParameterError, match="does not tune the hyperparameter `num_factors`"):
        tunable_kind("num_factors")
    with pytest.raises(ParameterError, match=r"Did you mean `factors_lr`\?"):
        tunable_kind("factor_lr")


def test_a_tuned_value_counts_as_given():
    static = REQUIRED | {"factors_init_method": "constant"}
    with pytest.raises(ParameterError, match="needs `factors_init_value`"):
        to_wire(static)
    assert to_wire(static, tuned=["factors_init_value"]) == static


def test_a_local_extension_is_carried_but_not_among_sagemakers_names():
    checked = validate(REQUIRED | {"local_seeds": "4"})
    assert checked.extensions.seeds == 4
    assert validate(REQUIRED).model_dump() == checked.model_dump()
    assert checked.wire() == validate(REQUIRED).wire()
    assert to_wire(REQUIRED | {"local_seeds": 4, "local_fold": False}) == REQUIRED | {"local_seeds": "4"}
    assert not any(name.startswith("local_") for name in NAMES)
    with pytest.raises(ParameterError, match=r"Did you mean `local_seeds`\?"):
        validate(REQUIRED | {"local_seds": "4"})


def test_the_bayesian_algorithm_has_its_limits():
    bayesian = REQUIRED | {"local_algorithm": "bayesian"}
    assert validate(bayesian).rounds == 220
    assert validate(bayesian | {"local_samples": "30", "local_burn_in": "0"}).rounds == 30
    with pytest.raises(ParameterError, match="no model for `use_bias: false`"):
        validate(bayesian | {"use_bias": "false"})
    with pytest.raises(ParameterError, match="leaves nothing to tune"):
        to_wire(bayesian, tuned=["factors_lr"])


def test_the_module_is_part_of_the_face():
    from lib import fm

    assert fm.hyperparameters is hyperparameters
