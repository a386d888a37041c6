"""Diagnostics of Markov chains, on chains whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lib.fm.convergence import diagnose


def test_independent_draws_have_converged():
    found = diagnose(np.random.default_rng(0).normal(3, 2, (4, 1000)))
    assert found.mean == pytest.approx(3, abs=0.15)
    assert found.deviation == pytest.approx(2, rel=0.05)
    assert found.r_hat == pytest.approx(1, abs=0.01)
    assert found.effective == pytest.approx(4000, rel=0.1)


def test_an_autoregressive_chain_is_worth_fewer_draws():
    rng = np.random.default_rng(0)
    chain = np.zeros(40_000)
    for i in range(1, len(chain)):
        chain[i] = 0.8 * chain[i - 1] + rng.normal()
    found = diagnose([chain])
    assert found.effective == pytest.approx(len(chain) * 0.2 / 1.8, rel=0.15)
    assert found.r_hat == pytest.approx(1, abs=0.01)


def test_a_drifting_chain_has_not_converged():
    assert diagnose([np.linspace(0, 1, 100)]).r_hat > 1.5


def test_chains_in_different_places_have_not_converged():
    draws = np.random.default_rng(0).normal(size=(2, 100))
    assert diagnose([draws[0], draws[1] + 10]).r_hat > 2


def test_a_constant_has_converged():
    found = diagnose([np.ones(20), np.ones(20)])
    assert (found.r_hat, found.effective, found.deviation) == (1, 40, 0)


@pytest.mark.parametrize("chains", [[], [[]], [[1.0]], [[1.0, 2.0, 3.0]]])
def test_too_few_draws_say_nothing(chains: list):
    assert math.isnan(diagnose(chains).r_hat)


def test_a_chain_that_has_just_begun_is_left_out():
    draws = np.random.default_rng(0).normal(size=100)
    assert diagnose([draws, [50.0, 60.0]]).r_hat == diagnose([draws]).r_hat
