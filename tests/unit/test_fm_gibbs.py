"""The compiled loops of Gibbs sampling, against closed forms."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import sparse, stats

from lib.fm import gibbs, random_numbers, triangles
from lib.fm.sampling_design import Design, infer_blocks


def two_fields(n: int, first: int, second: int, seed: int = 0) -> sparse.csr_matrix:
    """Rows with one entry in each of two fields, of any value."""
    rng = np.random.default_rng(seed)
    columns = np.stack([rng.integers(0, first, n), first + rng.integers(0, second, n)], axis=1)
    values = rng.normal(1, 0.5, 2 * n).astype(np.float32)
    starts = np.arange(0, 2 * n + 1, 2)
    return sparse.csr_matrix((values, columns.ravel().astype(np.int32), starts), shape=(n, first + second))


def wide(design: Design) -> gibbs.Pairs:
    """The pairs of wider rows: none."""
    return gibbs.Pairs(np.zeros(0, np.int32), np.zeros(0, np.float32))


def state_of(X: sparse.csr_matrix, design: Design, y: np.ndarray, table: np.ndarray, k: int) -> gibbs.State:
    """A state whose sums and residuals belong to its table."""
    n = X.shape[0]
    outputs, sums = np.empty(n, np.float32), np.empty((n, k), np.float32)
    gibbs.outputs(design.rows, table, k, 0, n, outputs, sums)
    return gibbs.State(table.copy(), y, y - outputs, sums)


def start(d: int, k: int, seed: int = 0) -> np.ndarray:
    table = np.zeros((d, triangles.padded(k + 1)), np.float32)
    table[:, : k + 1] = np.random.default_rng(seed).normal(0, 0.5, (d, k + 1))
    return table


def closed_form(X: np.ndarray, y: np.ndarray, table: np.ndarray, feature: int, prior, alpha: float, k: int):
    """Mean and covariance of a feature's conditional distribution, in float64."""
    X, theta = X.astype(float), table[:, : k + 1].astype(float)
    mean, precision = (part[: k + 1].astype(float) for part in prior)
    others = theta.copy()
    others[feature] = 0
    sums = X @ others[:, :k]
    outputs = X @ others[:, k] + 0.5 * ((sums**2) - (X**2) @ (others[:, :k] ** 2)).sum(1)
    x = X[:, feature]
    H = np.concatenate([x[:, None] * sums, x[:, None]], axis=1)
    covariance = np.linalg.inv(np.diag(precision) + alpha * H.T @ H)
    return covariance @ (alpha * H.T @ (y - outputs) + precision * mean), covariance


@pytest.mark.parametrize("kind", ["pairs", "wide"])
@pytest.mark.parametrize("entries", [0, 2, 40])
def test_a_feature_is_drawn_from_its_conditional_distribution(kind: str, entries: int):
    k, alpha, feature = 3, 1.7, 0
    X = two_fields(60, 4, 5)
    dense = X.toarray()
    dense[np.flatnonzero(dense[:, feature])[entries:], feature] = 0
    dense[: max(0, entries - np.count_nonzero(dense[:, feature])), :4] = 0
    missing = np.flatnonzero(dense[:, feature] == 0)[: entries - np.count_nonzero(dense[:, feature])]
    dense[missing, :4] = 0
    dense[missing, feature] = 0.8
    X = sparse.csr_matrix(dense)
    design = Design(X)
    assert design.entries[feature] == entries
    y = np.random.default_rng(1).normal(size=60).astype(np.float32)
    table = start(9, k)
    prior = np.array([0.3, -0.2, 0.1, 0.5], np.float32), np.array([2.0, 1.0, 3.0, 0.5], np.float32)
    mean, covariance = closed_form(dense, y, table, feature, prior, alpha, k)
    pairs = design.pairs if kind == "pairs" else wide(design)
    draws = np.empty((8000, k + 1))
    for number in range(len(draws)):
        state = state_of(X, design, y, table, k)
        gibbs.sweep(design.columns, pairs, state, alpha, *prior, 7, number, feature, feature + 1)
        draws[number] = state.table[feature, : k + 1]
    deviation = np.sqrt(np.diag(covariance))
    assert np.abs((draws.mean(0) - mean) / deviation).max() < 4.5 / np.sqrt(len(draws))
    np.testing.assert_allclose(
        np.cov(draws.T) / np.outer(deviation, deviation),
        covariance / np.outer(deviation, deviation),
        atol=0.08,
    )


@pytest.mark.parametrize("k", [1, 2, 5, 8, 31, 64])
def test_both_ways_to_keep_rows_give_the_same_draws(k: int):
    X = two_fields(400, 12, 60)
    design = Design(X)
    y = np.random.default_rng(1).normal(size=400).astype(np.float32)
    prior = np.full(k + 1, 0.1, np.float32), np.full(k + 1, 5, np.float32)
    tables = []
    for pairs in (design.pairs, wide(design)):
        state = state_of(X, design, y, start(72, k), k)
        for number in range(2):
            gibbs.sweep(design.columns, pairs, state, 2.0, *prior, 7, number, 0, 72)
        tables.append(state.table)
    np.testing.assert_allclose(tables[0], tables[1], atol=2e-3)
    assert not tables[0][:, k + 1 :].any()


def test_sums_and_residuals_of_wide_rows_stay_true():
    k = 6
    X = sparse.random(200, 30, density=0.3, random_state=np.random.default_rng(0), format="csr").astype(
        np.float32
    )
    design = Design(X)
    y = np.random.default_rng(1).normal(size=200).astype(np.float32)
    state = state_of(X, design, y, start(30, k), k)
    prior = np.zeros(k + 1, np.float32), np.ones(k + 1, np.float32)
    gibbs.sweep(design.columns, design.pairs, state, 2.0, *prior, 7, 0, 0, 30)
    fresh = state_of(X, design, y, state.table, k)
    np.testing.assert_allclose(state.sums, fresh.sums, atol=1e-4)
    np.testing.assert_allclose(state.residuals, fresh.residuals, atol=1e-4)


def test_draws_depend_on_seed_sweep_and_feature_only():
    k, X = 4, two_fields(300, 10, 20)
    design = Design(X)
    y = np.zeros(300, np.float32)
    prior = np.zeros(k + 1, np.float32), np.ones(k + 1, np.float32)

    def drawn(seed: int, number: int, cuts: list[int]) -> np.ndarray:
        state = state_of(X, design, y, start(30, k), k)
        for first, last in pairwise(cuts):
            gibbs.sweep(design.columns, design.pairs, state, 2.0, *prior, seed, number, first, last)
        return state.table

    whole = drawn(1, 0, [0, 10])
    assert (whole == drawn(1, 0, [0, 3, 4, 10])).all()
    for other in (drawn(2, 0, [0, 10]), drawn(1, 1, [0, 10])):
        assert (whole[:10, : k + 1] != other[:10, : k + 1]).all()
    assert (whole[10:] == other[10:]).all()


@pytest.mark.parametrize("m", [1, 2, 4, 7, 8, 17, 33, 65])
def test_gram_matrix_factor_and_solution(m: int):
    rng = np.random.default_rng(m)
    width = triangles.padded(m + 1)
    A = np.zeros((50, width), np.float32)
    A[:, : m + 1] = rng.normal(size=(50, m + 1))
    C = np.zeros((width, width), np.float32)
    triangles.add_gram(A, 50, C, m)
    gram = A[:, :m].T @ A[:, :m]
    np.testing.assert_allclose(np.triu(C[:m, :m]), np.triu(gram), atol=1e-4)
    C[np.arange(m), np.arange(m)] += 50
    right = C[:m, m].copy()
    triangles.factorize(C, m)
    R = np.triu(C[:m, :m])
    np.testing.assert_allclose(R.T @ R, gram + 50 * np.eye(m), atol=2e-4)
    x = C[:m, m].copy()
    triangles.solve(C, m, x)
    np.testing.assert_allclose((gram + 50 * np.eye(m)) @ x, right, atol=1e-3)


def test_normal_numbers_are_normal():
    numbers = np.empty(20_001, np.float32)
    random_numbers.normals(random_numbers.stream(3, random_numbers.FEATURES, 0, 0), 0, numbers, len(numbers))
    assert stats.kstest(numbers, "norm").pvalue > 0.01


@pytest.mark.parametrize("bound", [-3.0, 0.0, 0.49, 0.51, 2.0, 9.0])
def test_normal_numbers_above_a_bound(bound: float):
    keys = [random_numbers.stream(3, random_numbers.LATENT, 0, item) for item in range(5000)]
    numbers = np.array([random_numbers.normal_above(np.uint64(key), bound) for key in keys])
    assert numbers.min() >= bound
    assert stats.kstest(numbers, stats.truncnorm(bound, np.inf).cdf).pvalue > 0.01


def test_blocks_of_one_hot_columns_are_found():
    assert infer_blocks(two_fields(500, 12, 40)) == [12, 40]


def test_numeric_columns_make_one_block():
    numbers = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    assert infer_blocks(sparse.hstack([two_fields(500, 12, 40), numbers], format="csr")) == [12, 40, 3]


def test_rows_of_many_features_of_a_kind_make_one_block():
    X = sparse.random(300, 200, density=0.05, random_state=np.random.default_rng(0), format="csr")
    assert infer_blocks(X.astype(np.float32)) == [200]


def test_a_block_whose_features_share_rows_is_not_cut():
    X = sparse.hstack([two_fields(500, 12, 40), np.ones((500, 2), np.float32)], format="csr")
    design = Design(X, [12, 40, 2])
    assert [len(block.parts) > 1 for block in design.blocks(8, threads=2)] == [True, True, False]
    assert design.fields == [12, 40, 1, 1]


def test_parts_cover_their_block():
    for threads in (1, 2, 5):
        for block in Design(two_fields(500, 12, 40)).blocks(8, threads):
            edges = [part[0] for part in block.parts] + [block.parts[-1][1]]
            assert edges == sorted(set(edges))
            assert (edges[0], edges[-1]) == (block.first, block.last)
            assert [part[1] for part in block.parts] == edges[1:]
