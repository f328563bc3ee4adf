"""The spectrum: one pass over any blocks gives the singular values of the whole matrix."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from ssltool.diagnosis.spectrum import Factor, factor, row_blocks, singular_values, unit_rows
from ssltool.errors import SSLToolError


def decaying(n: int, d: int, *, decades: float = 7.0, seed: int = 0) -> Tensor:
    """A float64 matrix whose singular values fall over so many powers of ten, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    mix = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    scales = torch.logspace(0, -decades, d, dtype=torch.float64)
    return x * scales @ mix + torch.randn(d, generator=generator, dtype=torch.float64)


def direct(x: Tensor, *, center: bool, normalize: bool) -> Tensor:
    """Singular values of the whole matrix in float64."""
    x = x.double()
    if normalize:
        x = x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-6)
    return torch.linalg.svdvals(x - x.mean(dim=0) if center else x)


def assert_same_spectrum(found: Tensor, wanted: Tensor) -> None:
    """1e-9 relative for every value above 1e-7 of the largest, and nothing larger below."""
    assert found.dtype == torch.float64
    assert found.shape == wanted.shape
    assert bool((found[:-1] >= found[1:]).all())
    seen = wanted > 1e-7 * wanted[0]
    torch.testing.assert_close(found[seen], wanted[seen], rtol=1e-9, atol=0)
    torch.testing.assert_close(found[~seen], wanted[~seen], rtol=0, atol=1e-7 * float(wanted[0]))


@pytest.mark.parametrize(("center", "normalize"), [(True, False), (False, False), (True, True), (False, True)])
@pytest.mark.parametrize(("n", "d"), [(8, 24), (24, 24), (25, 24), (300, 24), (2, 24), (50, 1)])
@pytest.mark.parametrize("chunk_rows", [None, 1, 7, 24, 299])
def test_singular_values_are_those_of_the_whole_matrix(n, d, center, normalize, chunk_rows):
    x = decaying(n, d)
    found = singular_values(x, center=center, normalize=normalize, chunk_rows=chunk_rows)
    assert_same_spectrum(found, direct(x, center=center, normalize=normalize))


def test_float32_rows_are_decomposed_in_double_precision():
    x = decaying(400, 16, decades=6).float()
    assert_same_spectrum(singular_values(x, chunk_rows=33), direct(x, center=True, normalize=False))


def test_small_values_survive_a_mean_that_is_far_larger():
    x = decaying(500, 8, decades=3) + 1e5
    found, wanted = singular_values(x, chunk_rows=64), direct(x, center=True, normalize=False)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)  # 1e5 leaves 1e-11 of the input itself


def test_blocks_from_an_iterable_are_one_matrix():
    x = decaying(100, 12)
    blocks = (block for block in x.split([1, 0, 40, 9, 50]))
    assert_same_spectrum(singular_values(blocks), direct(x, center=True, normalize=False))


def test_updates_of_a_factor_are_one_matrix():
    x, result = decaying(100, 12), Factor()
    for block in x.split(30):
        result.update(block)
    assert result.rows == 100
    assert_same_spectrum(result.singular_values(), direct(x, center=True, normalize=False))
    assert_same_spectrum(result.singular_values(center=False), direct(x, center=False, normalize=False))


def test_the_order_of_the_rows_does_not_matter():
    x = decaying(200, 10)
    shuffled = x[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    assert_same_spectrum(singular_values(shuffled, chunk_rows=17), singular_values(x))


def test_a_rotation_of_the_space_does_not_matter():
    x = decaying(200, 10)
    rotation = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(2)).double()).Q
    assert_same_spectrum(singular_values(x @ rotation), singular_values(x))


def test_a_shift_does_not_matter_when_centred():
    x = decaying(200, 10, decades=4)
    assert_same_spectrum(singular_values(x + 3.0), singular_values(x))


def test_the_values_grow_with_the_scale():
    x = decaying(200, 10)
    assert_same_spectrum(singular_values(-4.0 * x), 4.0 * singular_values(x))


@pytest.mark.parametrize("chunk_rows", [None, 10])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("n", "d"), [(2, 5), (5000, 64), (20, 64)])
def test_equal_rows_have_exactly_no_variance(n, d, normalize, chunk_rows):
    x = torch.randn(d, generator=torch.Generator().manual_seed(0)).expand(n, d).contiguous()
    result = factor(x, normalize=normalize, chunk_rows=chunk_rows)
    assert torch.equal(result.singular_values(), torch.zeros(min(n, d), dtype=torch.float64))
    assert torch.equal(result.deviations(), torch.zeros(d, dtype=torch.float64))


def test_equal_rows_have_one_uncentred_value():
    row = torch.tensor([3.0, 4.0])
    wanted = torch.tensor([5.0 * 10, 0.0]).double()  # |row| sqrt(N), with N = 100
    torch.testing.assert_close(singular_values(row.expand(100, 2), center=False), wanted, rtol=1e-12, atol=1e-12)


def test_rows_on_a_line_have_one_value():
    steps = torch.linspace(-1, 1, 50).double()
    values = singular_values(steps[:, None] * torch.tensor([[2.0, 0.0, 1.0]]).double() + 7.0)
    assert values[0].item() == pytest.approx(5**0.5 * float(steps.square().sum().sqrt()), rel=1e-12)
    assert values[1:].tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


def test_a_single_row_has_no_variance_and_its_norm_as_uncentred_value():
    row = torch.tensor([[3.0, 4.0]])
    assert singular_values(row).tolist() == [0.0]
    assert singular_values(row, center=False).tolist() == pytest.approx([5.0])
    assert factor(row).deviations().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("chunk_rows", [None, 1, 13])
@pytest.mark.parametrize("normalize", [False, True])
def test_deviations_equal_torch_std(chunk_rows, normalize):
    x = decaying(90, 6, decades=3)
    wanted = (unit_rows(x) if normalize else x).std(dim=0)
    found = factor(x, normalize=normalize, chunk_rows=chunk_rows).deviations()
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)


def test_unit_rows_are_divided_by_their_norm_plus_a_millionth():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1e-6]])
    wanted = [[3 / 5.000001, 4 / 5.000001], [0.0, 0.0], [0.0, 0.5]]
    torch.testing.assert_close(unit_rows(rows), torch.tensor(wanted, dtype=torch.float64), rtol=1e-7, atol=0)


@pytest.mark.parametrize("chunk_rows", [None, 1, 3, 100])
def test_row_blocks_are_all_rows_in_order(chunk_rows):
    x = torch.arange(20.0).reshape(10, 2)
    assert torch.equal(torch.cat(list(row_blocks(x, chunk_rows))), x)


def test_inputs_are_not_modified():
    x = decaying(30, 4)
    before = x.clone()
    singular_values(x, normalize=True)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64])
@pytest.mark.parametrize("center", [True, False])
def test_any_dtype_is_decomposed_as_its_exact_double(dtype, center):
    x = (10 * decaying(60, 5, decades=1)).to(dtype)
    assert_same_spectrum(singular_values(x, center=center), direct(x, center=center, normalize=False))


def of_shards(shards: list[Tensor]) -> Factor:
    """Every shard's own factor, merged from the left."""
    result = Factor()
    for shard in shards:
        result.merge(factor(shard, chunk_rows=13))
    return result


def assert_same_factor(found: Factor, x: Tensor) -> None:
    """The spectra, the deviations and the count of the rows ``x``."""
    assert found.rows == len(x)
    for center in (True, False):
        assert_same_spectrum(found.singular_values(center=center), direct(x, center=center, normalize=False))
    if len(x) > 1:
        torch.testing.assert_close(found.deviations(), x.double().std(dim=0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("sizes", [[100], [0, 100], [100, 0], [1, 99], [99, 1], [3, 40, 0, 57], [1] * 5 + [95]])
def test_merged_shards_are_one_matrix_whatever_the_split(sizes):
    x = decaying(100, 12)
    assert_same_factor(of_shards(list(x.split(sizes))), x)


@pytest.mark.parametrize("sizes", [[2, 3], [4, 8], [1] * 12, [13, 1]])
def test_merged_shards_are_one_matrix_where_rows_are_few(sizes):
    x = decaying(sum(sizes), 12)
    found = of_shards(list(x.split(sizes)))
    assert_same_spectrum(found.singular_values(), direct(x, center=True, normalize=False))
    assert_same_spectrum(found.singular_values(center=False), direct(x, center=False, normalize=False))


def test_merging_shifted_shards_keeps_small_values():
    x = decaying(300, 12)
    places = 0.5 * torch.randn(3, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    shards = [part + place for part, place in zip(x.split(100), places, strict=True)]
    assert_same_factor(of_shards(shards), torch.cat(shards))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_the_order_of_merging_does_not_matter(order):
    x = decaying(200, 10)
    shards = x.split([7, 80, 1, 112])
    assert_same_factor(of_shards([shards[i] for i in order]), x)


def test_merging_in_pairs_is_merging_one_by_one():
    x = decaying(200, 10)
    a, b, c, d = (factor(shard) for shard in x.split(50))
    a.merge(b)
    c.merge(d)
    a.merge(c)
    assert_same_factor(a, x)


def test_a_factor_can_be_updated_after_a_merge():
    x = decaying(90, 10)
    first, second, third = x.split(30)
    result = factor(first)
    result.merge(factor(second))
    result.update(third)
    assert_same_factor(result, x)


def test_merge_does_not_modify_or_share_the_other_factor():
    x = decaying(60, 8)
    first, second = x[:30], x[30:]
    other = factor(second)
    for result in (Factor(), factor(first)):
        result.merge(other)
        result.merge(factor(first))
        result.update(first)
        assert_same_factor(other, second)


def test_equal_rows_in_several_shards_have_exactly_no_variance():
    x = torch.randn(16, generator=torch.Generator().manual_seed(0)).expand(500, 16)
    result = of_shards(list(x.split([1, 99, 400])))
    assert torch.equal(result.singular_values(), torch.zeros(16, dtype=torch.float64))
    assert torch.equal(result.deviations(), torch.zeros(16, dtype=torch.float64))


def test_shards_of_different_widths_are_refused():
    with pytest.raises(SSLToolError, match="widths 3 and 4"):
        of_shards([torch.ones(2, 3), torch.ones(2, 4)])


WEIGHTS = {
    "ones": torch.ones(80, dtype=torch.int64),
    "a bootstrap's": torch.bincount(torch.randint(80, (80,), generator=torch.Generator().manual_seed(3)), minlength=80),
    "large": torch.randint(0, 50, (80,), generator=torch.Generator().manual_seed(4)),
    "one row": torch.nn.functional.one_hot(torch.tensor(41), 80) * 9,
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS.keys())
@pytest.mark.parametrize("rows", [80, 17, 1])
def test_an_integer_weight_equals_repeated_rows(weights, rows):
    x = decaying(80, 6, decades=6)
    result = Factor()
    for block, weight in zip(x.split(rows), weights.split(rows), strict=True):
        result.update(block, weight)
    repeated = x.repeat_interleave(weights, dim=0)
    assert result.rows == len(repeated)
    # Everything is right to the last few bits of the largest value of the uncentred matrix.
    exact = {"rtol": 1e-9, "atol": 1e-14 * float(direct(repeated, center=False, normalize=False)[0])}
    for center in (True, False):
        wanted = direct(repeated, center=center, normalize=False)
        torch.testing.assert_close(result.singular_values(center=center), wanted, **exact)
    torch.testing.assert_close(result.deviations(), repeated.std(dim=0), **exact)


def test_weighted_equal_rows_have_exactly_no_variance():
    result = Factor()
    result.update(torch.full((5, 3), 0.1), torch.tensor([3, 1, 0, 7, 2]))
    assert torch.equal(result.singular_values(), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    x = decaying(20, 4)
    x[7, 2] = bad
    with pytest.raises(SSLToolError, match="NaN or infinite"):
        singular_values(x, chunk_rows=5)


@pytest.mark.parametrize("nothing", [torch.zeros(0, 4), [], [torch.zeros(0, 4)]], ids=["matrix", "list", "block"])
def test_no_rows_are_refused(nothing):
    with pytest.raises(SSLToolError, match="there are no representations"):
        singular_values(nothing)
    with pytest.raises(SSLToolError, match="there are no representations"):
        factor(nothing).deviations()


def test_blocks_of_different_widths_are_refused():
    with pytest.raises(SSLToolError, match="widths 3 and 4"):
        singular_values([torch.zeros(2, 3), torch.zeros(2, 4)])


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_a_tensor_that_is_not_a_matrix_is_refused(shape):
    for refusing in (lambda x: singular_values([x]), singular_values, lambda x: Factor().update(x)):
        with pytest.raises(SSLToolError, match=rf"\(N, d\).*{re.escape(str(shape))}"):
            refusing(torch.zeros(shape))
