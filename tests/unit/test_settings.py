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
        ("source", "movielens-1M", "Did you mean `movielens-1m`?"),
        ("epochs", 0, "`epochs` must be 1 or more"),
        ("factors_lr", -1.0, "`factors_lr` must be 0 or more"),
        ("hyperparameters", {"linear_lrr": 1}, "Did you mean `linear_lr`?"),
        ("hyperparameters", {"predictor_type": "regressor"}, "`predictor_type` is set by the workflow"),
        ("ranges", {"epochs": [5, 1]}, "the first number must be below the second"),
        ("ranges", {"num_factors": [2, 8]}, "does not tune"),
        ("ranges", {"epochs": 5}, "should be two numbers"),
        ("ranges", {"epochs": [0, 5]}, "`epochs` must be 1 or more"),
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


def test_the_words_of_source_are_those_that_collect_knows():
    from lib.downloads import public_set

    for source in settings.CHOICES["source"]:
        if source not in ("generated", "file"):
            assert public_set(source).name == source
