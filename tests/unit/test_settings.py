"""What values parameters may have, beyond their types."""

from __future__ import annotations

import pytest

from lib import settings
from lib.errors import ParameterError


@pytest.mark.parametrize("name", settings.GROUPS)
def test_a_group_may_be_empty_and_then_has_its_defaults(name):
    settings.check(name, {})
    assert settings.validate(settings.GROUPS[name], None, name) == settings.GROUPS[name]()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("training", {"instance_typ": "ml.m5.large"}, "no key `instance_typ`. Did you mean `instance_type`?"),
        ("training", {"volume_gb": 0}, "`training.volume_gb` is 0"),
        ("training", {"max_run_seconds": 3600, "max_wait_seconds": 60}, "must not be below max_run_seconds"),
        ("transform", {"max_payload_mb": 60, "max_concurrent": 2}, "must not be above 100"),
        ("tuning", {"strategy": "Grid"}, "`tuning.strategy` is 'Grid'"),
        ("account", {"subnets": "subnet-1"}, "`account.subnets` is 'subnet-1'"),
        ("target", "moon", "`target` cannot be 'moon'. There are local, aws."),
        ("bucket", "X", "`bucket` cannot be 'X'"),
        ("bucket", "s3://mine", "no s3:// before it"),
        ("bucket", "a..b", "3 to 63 small letters"),
        ("bucket", "x" * 64, "3 to 63 small letters"),
        ("bucket", "-ab", "3 to 63 small letters"),
        ("bucket", "10.0.0.1", "3 to 63 small letters"),
        ("source", "movielens-1M", "Did you mean `movielens-1m`?"),
        ("epochs", 0, "`epochs` must be 1 or more"),
        ("factors_lr", -1.0, "`factors_lr` must be 0 or more"),
        ("hyperparameters", {"linear_lrr": 1}, "Did you mean `linear_lr`?"),
        ("hyperparameters", {"predictor_type": "regressor"}, "`predictor_type` is set by the workflow"),
        ("ranges", {"epochs": [5, 1]}, "the first number must be below the second"),
        ("ranges", {"num_factors": [2, 8]}, "does not tune"),
        ("ranges", {"epochs": 5}, "should be two numbers"),
        ("ranges", {"epochs": [0, 5]}, "`epochs` must be 1 or more"),
        ("algorithm", "bayes", "`algorithm` cannot be 'bayes'. Did you mean `bayesian`?"),
        ("extensions", {"early_stoping": 3}, "no key `early_stoping`. Did you mean `early_stopping`?"),
        ("extensions", {"seeds": 0}, "`extensions.seeds` is 0"),
        ("extensions", {"lr_finder": True}, "`extensions.lr_finder` is True"),
        ("hyperparameters", {"local_seeds": 4}, "Give it as the parameter `extensions.seeds`."),
        ("hyperparameters", {"local_algorithm": "bayesian"}, "Give it as the parameter `algorithm`."),
        ("hyperparameters", {"local_seedz": 4}, "Did you mean `extensions.seeds`?"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(name, value, sentence):
    with pytest.raises(ParameterError) as refused:
        settings.check(name, value)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training", {"spot": True, "max_run_seconds": 60, "max_wait_seconds": 60}),
        ("hyperparameters", {"factors_init_method": "constant", "clip_gradient": 5}),
        ("ranges", {"factors_lr": [0.001, 0.1], "epochs": [1, 10]}),
        ("bucket", "anything"),
    ],
)
def test_what_can_be_used_passes(name, value):
    assert settings.check(name, value) is None


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"target": "aws", "algorithm": "bayesian"},
            "`algorithm: bayesian` is a local extension, which SageMaker",
        ),
        ({"target": "aws", "extensions": {"seeds": 4}}, "`extensions.seeds: 4` is a local extension"),
        ({"target": "aws", "tune": True, "extensions": {"early_stopping": 4}}, "is a local extension"),
        ({"extensions": {"samples": 50}}, "`extensions.samples` has no meaning with `algorithm: adam`"),
        ({"algorithm": "bayesian", "extensions": {"seeds": 2}}, "has no meaning with `algorithm: bayesian`"),
        ({"extensions": {"fold": True}}, "`extensions.fold` needs `extensions.seeds` of 2 or more"),
        ({"algorithm": "bayesian", "tune": True}, "leaves nothing to tune"),
        (
            {"tune": True, "ranges": {"factors_lr": [0.1, 1]}, "extensions": {"lr_finder": 0.1}},
            "`extensions.lr_finder` and the range of `factors_lr` look for the same",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(values, sentence):
    with pytest.raises(ParameterError) as refused:
        settings.check_together(values)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"target": "aws", "algorithm": "adam", "extensions": {}},
        {"target": "aws", "extensions": {"seeds": 1, "early_stopping": 0}},
        {"target": "local", "algorithm": "bayesian", "extensions": {"samples": 50, "burn_in": 5}},
        {"tune": False, "ranges": {"factors_lr": [0.1, 1]}, "extensions": {"lr_finder": 0.1}},
        {"tune": True, "ranges": {"epochs": [5, 9]}, "extensions": {"lr_finder": 0.1, "seeds": 2}},
    ],
)
def test_what_goes_together_passes(values):
    assert settings.check_together(values) is None


def test_extensions_become_hyperparameters_whose_names_sagemaker_does_not_know():
    given = {"early_stopping": 5, "lr_finder": 0.1, "seeds": 2, "fold": True}
    assert settings.local_hyperparameters("adam", given, target="local") == {
        "local_early_stopping": "5",
        "local_lr_finder": "0.1",
        "local_seeds": "2",
        "local_fold": "true",
    }
    assert settings.local_hyperparameters("bayesian", {}, target="local") == {"local_algorithm": "bayesian"}
    assert settings.local_hyperparameters("adam", None, target="aws") == {}


def test_the_groups_keys_and_defaults_are_those_of_the_engine():
    from lib.fm.extensions import Extensions

    defaults = Extensions().model_dump()
    assert settings.CHOICES["algorithm"][0] == defaults.pop("algorithm")
    assert settings.ExtensionSettings().model_dump() == defaults


def test_the_words_of_source_are_those_that_collect_knows():
    from lib.downloads import public_set

    for source in settings.CHOICES["source"]:
        if source not in ("generated", "file"):
            assert public_set(source).name == source


def test_the_names_of_side_features_are_checked() -> None:
    settings.check("side_features", ["month", "genre:categories"])
    with pytest.raises(ParameterError, match="month has no kind to choose"):
        settings.check("side_features", ["month:number"])
