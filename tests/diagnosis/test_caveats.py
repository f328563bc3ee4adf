"""What may mislead is found and said: repeated rows, dimensions without change, rounding, few rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssltool.diagnosis.caveats import CaveatTracker, dead_dimensions, format_numbers, rounding_noise
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.spectrum import singular_values


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def watched(*blocks: Tensor) -> CaveatTracker:
    caveats = CaveatTracker()
    for block in blocks:
        caveats.update(block)
    return caveats


def said(x: Tensor) -> list[str]:
    return measure(x, ()).notes


def with_last_bit_flipped(row: Tensor, dimension: int) -> Tensor:
    words = row.clone().view(torch.int32)
    words[..., dimension] ^= 1
    return words.view(torch.float32)


@pytest.mark.parametrize("sizes", [[60], [1, 59], [30, 30], [1] * 60])
def test_every_row_that_equals_an_earlier_one_counts(sizes):
    x = gaussian(40, 5)
    assert watched(*x.repeat(2, 1)[:60].split(sizes)).repeated() == 20
    assert watched(*x[:1].expand(60, 5).split(sizes)).repeated() == 59
    assert watched(*gaussian(60, 5).split(sizes)).repeated() == 0


def test_minus_zero_is_zero():
    x = gaussian(1, 4).repeat(2, 1)
    x[:, 2] = torch.tensor([0.0, -0.0])
    assert watched(x).repeated() == 1


@pytest.mark.parametrize("dimension", [0, 3, 7])
def test_rows_that_differ_in_one_bit_are_not_repeated(dimension):
    row = gaussian(1, 8)
    assert watched(row, with_last_bit_flipped(row, dimension)).repeated() == 0


def test_double_precision_rows_that_differ_past_float32_are_not_repeated():
    row = gaussian(1, 8).double()
    assert watched(row, row * (1 + 1e-12)).repeated() == 0


def test_rows_of_the_same_values_in_another_order_are_not_repeated():
    x = gaussian(1, 8)
    assert watched(torch.stack([x[0].roll(i) for i in range(8)])).repeated() == 0


def test_rows_of_few_bits_do_not_collide():
    # Powers of 2 with signs fill only 7 bits of 32 in each of 3 words; all 40^3 of them, and as many again, differ.
    values = torch.tensor([sign * 2.0**e for sign in (1, -1) for e in range(-10, 10)])
    cube = torch.cartesian_prod(values, values, values)
    assert watched(*cube.split(10_000)).repeated() == 0
    assert watched(*cube.split(10_000), *(1.5 * cube).split(9_999)).repeated() == 0


def test_many_random_rows_of_few_exponents_do_not_collide():
    generator = torch.Generator().manual_seed(0)
    x = 2.0 ** torch.randint(0, 4, (200_000, 64), generator=generator)  # 128 random bits a row
    assert watched(*x.split(50_000)).repeated() == 0


def test_many_random_rows_of_signs_do_not_collide():
    x = torch.randint(0, 2, (400_000, 64), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    assert watched(*x.split(50_000)).repeated() == 0


def test_small_numbers_in_one_dimension_do_not_collide():
    x = torch.zeros(200_000, 4)
    x[:, 2] = torch.arange(200_000)
    assert watched(*x.split(4096)).repeated() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_rows_are_compared_as_they_are_stored(dtype):
    x = (1 + gaussian(1000, 1).abs() * 1e-1).to(dtype)
    assert watched(x).repeated() == 1000 - len(x.unique())


def test_dimensions_that_are_the_same_in_all_rows_are_constant():
    x = gaussian(50, 6)
    x[:, [1, 4]] = torch.tensor([0.0, 0.1])
    assert watched(x).constant() == [1, 4]
    assert watched(*x.split(1)).constant() == [1, 4]
    x[49, 4] = x[49, 4].nextafter(torch.tensor(1.0))
    assert watched(*x.split(7)).constant() == [1]
    assert watched(x[:1]).constant() == list(range(6))


def test_a_dimension_that_changes_and_comes_back_is_not_constant():
    assert watched(torch.tensor([[1.0, 2.0], [1.0, 3.0]]), torch.tensor([[1.0, 2.0]])).constant() == [0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_precision_of_the_values_is_found_however_they_are_stored(dtype):
    x = gaussian(100, 4).to(dtype)
    assert watched(x).precision() == dtype
    assert watched(x.float()).precision() == dtype
    assert watched(*x.double().split(9)).precision() == dtype


def test_one_wider_value_widens_the_precision():
    x = gaussian(100, 4).bfloat16().float()
    assert watched(x, torch.full((1, 4), 1 + 2.0**-10)).precision() == torch.float16
    for bit in (-11, -17, -23):
        assert watched(x, torch.full((1, 4), 1 + 2.0**bit)).precision() == torch.float32


def test_values_beyond_float32_are_double_precision():
    assert watched(gaussian(100, 4).double() + 1e-12).precision() == torch.float64


def test_values_out_of_the_range_of_half_are_no_half():
    assert watched(torch.full((1, 4), (1 + 2.0**-10) * 2.0**100)).precision() == torch.float32


def test_dimensions_below_a_thousandth_of_the_largest_deviation_are_dead():
    assert dead_dimensions(torch.tensor([1.0, 0.0011, 0.0009, 5e-10, 0.0])) == [2, 3, 4]
    assert dead_dimensions(torch.tensor([1e-9, 1.1e-12])) == []
    assert dead_dimensions(torch.zeros(3)) == [0, 1, 2]


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("n", "d"), [(3000, 8), (300, 100), (20, 60)])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_rounding_is_a_bound_of_what_rounding_adds_and_not_a_loose_one(dtype, n, d, shift):
    x = math.pi * gaussian(n, d).double() + shift
    errors = torch.linalg.svdvals(rounded(x, dtype) - x)
    bound = rounding_noise(torch.linalg.svdvals(x), n, d, dtype)
    assert bound / 20 < float(errors[0]) < bound


def test_rounding_scales_with_the_values():
    s = torch.rand(7, generator=torch.Generator().manual_seed(0)).double()
    assert rounding_noise(1e6 * s, 50, 7, torch.float32) == 1e6 * rounding_noise(s, 50, 7, torch.float32)


def test_nothing_is_said_of_many_healthy_rows():
    for x in (gaussian(400, 8), gaussian(400, 8) + 3, gaussian(400, 8).half(), gaussian(400, 8).double()):
        assert said(x) == []


@pytest.mark.parametrize(("n", "d"), [(2, 5), (40, 40), (30, 400)])
def test_no_more_rows_than_dimensions_is_said_first(n, d):
    note = said(gaussian(n, d))[0]
    assert note.startswith(f"{n:,} rows of width {d:,} have at most {n - 1:,} directions: ")


def test_the_value_that_centring_takes_from_few_rows_is_no_rounding_noise():
    assert len(said(gaussian(40, 40))) == 1
    assert len(said(gaussian(30, 400))) == 1


@pytest.mark.parametrize(("n", "few"), [(9, True), (79, True), (80, False)])
def test_fewer_than_ten_rows_for_each_dimension_are_few(n, few):
    assert [f"{n} rows are few for a width of 8" in note for note in said(gaussian(n, 8))] == [True] * few


def test_repeated_rows_are_counted():
    x = gaussian(1500, 4)
    assert said(torch.cat([x, x[:1200]])) == [
        "1,200 of 2,700 rows repeat an earlier one; they count as often as they are there"
    ]


def test_constant_dimensions_are_named():
    x = gaussian(500, 6)
    x[:, 5], x[:, 2] = 0.7, 0.0
    notes = said(x)
    assert "2 of 6 dimensions are constant: 2, 5" in notes
    assert not any("hardly change" in note for note in notes)


def test_the_first_ten_constant_dimensions_are_named_and_the_others_counted():
    x = gaussian(5000, 40)
    x[:, 7:30] = 1.0
    assert "23 of 40 dimensions are constant: 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 and 13 more" in said(x)


def test_dead_dimensions_are_named_apart_from_constant_ones():
    x = gaussian(500, 6)
    x[:, 3] *= 1e-4
    assert said(x) == ["1 of 6 dimensions hardly change (deviation below 0.001 of the largest): 3"]
    x[:, 1] = 2.0
    notes = said(x)
    assert "1 of 6 dimensions are constant: 1" in notes
    assert "1 more hardly change (deviation below 0.001 of the largest): 3" in notes


def test_constant_dimensions_are_no_rounding_noise():
    x = gaussian(500, 6)
    x[:, 2] = 1.0
    assert said(x) == ["1 of 6 dimensions are constant: 2"]


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16"), (torch.float32, "float32")]
)
def test_rows_that_are_the_same_but_for_rounding_are_said_to_be(dtype, name):
    row = 1 + gaussian(1, 16).double().abs()
    x = (row + torch.finfo(dtype).eps / 4 * gaussian(2000, 16)).to(dtype)  # to one of two or three neighbours
    assert float(singular_values(x)[0]) > 0
    assert f"the whole spectrum is rounding noise of {name}: the rows are the same but for it" in said(x)


@pytest.mark.parametrize("kept", [1, 5])
def test_a_tail_of_rounding_noise_is_counted(kept):
    x = (gaussian(2000, kept).double() @ gaussian(kept, 16, seed=1).double()).float()
    notes = said(x)
    assert len(notes) == 1
    assert notes[0].startswith(f"{16 - kept} of 16 singular values are rounding noise of float32")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_noise_is_said_of_every_precision_and_however_far_rows_are_from_0(dtype, shift):
    x = (gaussian(2000, 5).double() @ gaussian(5, 16, seed=1).double() + shift).to(dtype)
    name = str(dtype).removeprefix("torch.")
    assert any(f"of 16 singular values are rounding noise of {name}" in note for note in said(x))


def test_equal_rows_are_repeated_and_constant_and_no_noise():
    assert said(torch.full((50, 3), 0.1)) == [
        "49 of 50 rows repeat an earlier one; they count as often as they are there",
        "3 of 3 dimensions are constant: 0, 1, 2",
    ]


def test_small_changes_of_double_precision_rows_are_not_called_rounding():
    x = 1 + 1e-10 * gaussian(500, 4).double()
    assert said(x) == []


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([3], "3"),
        (range(10), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (range(1500), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1,490 more"),
    ],
)
def test_ten_numbers_are_named(numbers, text):
    assert format_numbers(list(numbers)) == text
