"""The factor of a matrix's rows: neither the blocks in which they come nor the order of merging matters."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssltool.diagnosis.spectrum import Factor


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Rows (n, d) in float64: full rank or not, near the origin or far away, some of them repeated."""
    n, d = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    rank, offset = draw(st.integers(0, d)), draw(st.sampled_from([0.0, 1.0, -100.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d)) + offset
    return x[rng.integers(0, n, n)] if draw(st.booleans()) else x


@st.composite
def blocks(draw: st.DrawFn) -> tuple[np.ndarray, list[np.ndarray]]:
    """A matrix, and it in blocks of rows, some of which may be empty."""
    x = draw(matrices())
    cuts = sorted(draw(st.lists(st.integers(0, len(x)), max_size=8)))
    return x, np.split(x, cuts)


def factor_of(block: np.ndarray) -> Factor:
    result = Factor()
    result.update(torch.from_numpy(block))
    return result


def assert_same(found: Factor, x: np.ndarray) -> None:
    """Singular values to 1e-10 of the largest number that is involved; standard deviations likewise."""
    close = {"rtol": 0, "atol": 1e-10 * max(1.0, float(np.linalg.norm(x)))}
    assert found.rows == len(x)
    for center, matrix in ((True, x - x.mean(axis=0)), (False, x)):
        wanted = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(found.singular_values(center=center).numpy(), wanted, **close)
    if len(x) > 1:
        np.testing.assert_allclose(found.deviations().numpy(), x.std(axis=0, ddof=1), **close)


@given(blocks())
def test_any_blocks_have_the_spectrum_of_the_whole(x_in_blocks):
    x, parts = x_in_blocks
    result = Factor()
    for part in parts:
        result.update(torch.from_numpy(part))
    assert_same(result, x)


@given(blocks(), st.randoms(use_true_random=False))
def test_blocks_merged_in_any_order_have_the_spectrum_of_the_whole(x_in_blocks, random):
    """Any two are merged until one is left, so that every tree of merges can come up."""
    x, parts = x_in_blocks
    factors = [factor_of(part) for part in parts]
    while len(factors) > 1:
        other = factors.pop(random.randrange(len(factors)))
        random.choice(factors).merge(other)
    assert_same(factors[0], x)


@given(matrices(), st.randoms(use_true_random=False))
def test_a_weight_is_so_many_equal_rows(x, random):
    weights = [random.randrange(4) for _ in x]
    weights[0] = max(1, weights[0])
    result = Factor()
    result.update(torch.from_numpy(x), torch.tensor(weights))
    assert_same(result, np.repeat(x, weights, axis=0))
