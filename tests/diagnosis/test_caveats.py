"""Caveats: duplicate rows, constant and dead dimensions, rounding noise, few rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssltool.diagnosis.caveats import CaveatTracker, dead_dimensions, rounding_noise
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum import singular_values


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def tracked(*blocks: Tensor) -> CaveatTracker:
    caveats = CaveatTracker()
    for block in blocks:
        caveats.update(block)
    return caveats


def messages_of(x: Tensor) -> list[str]:
    return measure(x, ()).notes


def with_last_bit_flipped(row: Tensor, dimension: int) -> Tensor:
    words = row.clone().view(torch.int32)
    words[..., dimension] ^= 1
    return words.view(torch.float32)


@pytest.mark.parametrize("sizes", [[60], [1, 59], [30, 30], [1] * 60])
def test_duplicate_rows_are_counted_in_any_blocks(sizes):
    x = gaussian(40, 5)
    assert tracked(*x.repeat(2, 1)[:60].split(sizes)).repeated() == 20
    assert tracked(*x[:1].expand(60, 5).split(sizes)).repeated() == 59
    assert tracked(*gaussian(60, 5).split(sizes)).repeated() == 0


def test_minus_zero_is_zero():
    x = gaussian(1, 4).repeat(2, 1)
    x[:, 2] = torch.tensor([0.0, -0.0])
    assert tracked(x).repeated() == 1


@pytest.mark.parametrize("dimension", [0, 3, 7])
def test_rows_that_differ_in_one_bit_are_not_repeated(dimension):
    row = gaussian(1, 8)
    assert tracked(row, with_last_bit_flipped(row, dimension)).repeated() == 0


def test_double_precision_rows_that_differ_past_float32_are_not_repeated():
    row = gaussian(1, 8).double()
    assert tracked(row, row * (1 + 1e-12)).repeated() == 0


def test_rows_of_the_same_values_in_another_order_are_not_repeated():
    x = gaussian(1, 8)
    assert tracked(torch.stack([x[0].roll(i) for i in range(8)])).repeated() == 0


def test_rows_of_few_bits_do_not_collide():
    # Powers of 2 with signs fill only 7 bits of 32 in each of 3 words; all 40^3 of them, and as many again, differ.
    values = torch.tensor([sign * 2.0**e for sign in (1, -1) for e in range(-10, 10)])
    cube = torch.cartesian_prod(values, values, values)
    assert tracked(*cube.split(10_000)).repeated() == 0
    assert tracked(*cube.split(10_000), *(1.5 * cube).split(9_999)).repeated() == 0


def test_many_random_rows_of_few_exponents_do_not_collide():
    generator = torch.Generator().manual_seed(0)
    x = 2.0 ** torch.randint(0, 4, (200_000, 64), generator=generator)  # 128 random bits a row
    assert tracked(*x.split(50_000)).repeated() == 0


def test_many_random_rows_of_signs_do_not_collide():
    x = torch.randint(0, 2, (400_000, 64), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    assert tracked(*x.split(50_000)).repeated() == 0


def test_small_numbers_in_one_dimension_do_not_collide():
    x = torch.zeros(200_000, 4)
    x[:, 2] = torch.arange(200_000)
    assert tracked(*x.split(4096)).repeated() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_compared_in_their_stored_precision(dtype):
    x = (1 + gaussian(1000, 1).abs() * 1e-1).to(dtype)
    assert tracked(x).repeated() == 1000 - len(x.unique())


def test_constant_dimensions_are_found():
    x = gaussian(50, 6)
    x[:, [1, 4]] = torch.tensor([0.0, 0.1])
    assert tracked(x).constant() == [1, 4]
    assert tracked(*x.split(1)).constant() == [1, 4]
    x[49, 4] = x[49, 4].nextafter(torch.tensor(1.0))
    assert tracked(*x.split(7)).constant() == [1]
    assert tracked(x[:1]).constant() == list(range(6))


def test_a_dimension_that_returns_to_its_first_value_is_not_constant():
    assert tracked(torch.tensor([[1.0, 2.0], [1.0, 3.0]]), torch.tensor([[1.0, 2.0]])).constant() == [0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_precision_of_the_values_is_found_however_they_are_stored(dtype):
    x = gaussian(100, 4).to(dtype)
    assert tracked(x).precision() == dtype
    assert tracked(x.float()).precision() == dtype
    assert tracked(*x.double().split(9)).precision() == dtype


def test_one_value_of_higher_precision_determines_the_precision():
    x = gaussian(100, 4).bfloat16().float()
    assert tracked(x, torch.full((1, 4), 1 + 2.0**-10)).precision() == torch.float16
    for bit in (-11, -17, -23):
        assert tracked(x, torch.full((1, 4), 1 + 2.0**bit)).precision() == torch.float32


def test_values_beyond_float32_are_double_precision():
    assert tracked(gaussian(100, 4).double() + 1e-12).precision() == torch.float64


def test_values_out_of_the_range_of_float16_are_not_float16():
    assert tracked(torch.full((1, 4), (1 + 2.0**-10) * 2.0**100)).precision() == torch.float32


def test_dimensions_below_a_thousandth_of_the_largest_deviation_are_dead():
    assert dead_dimensions(torch.tensor([1.0, 0.0011, 0.0009, 5e-10, 0.0])) == [2, 3, 4]
    assert dead_dimensions(torch.tensor([1e-9, 1.1e-12])) == []
    assert dead_dimensions(torch.zeros(3)) == [0, 1, 2]


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("n", "d"), [(3000, 8), (300, 100), (20, 60)])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_rounding_noise_is_a_tight_upper_bound(dtype, n, d, shift):
    x = math.pi * gaussian(n, d).double() + shift
    errors = torch.linalg.svdvals(rounded(x, dtype) - x)
    bound = rounding_noise(torch.linalg.svdvals(x), n, d, dtype)
    assert bound / 20 < float(errors[0]) < bound


def test_rounding_scales_with_the_values():
    s = torch.rand(7, generator=torch.Generator().manual_seed(0)).double()
    assert rounding_noise(1e6 * s, 50, 7, torch.float32) == 1e6 * rounding_noise(s, 50, 7, torch.float32)


def test_many_isotropic_rows_have_no_caveats():
    for x in (gaussian(400, 8), gaussian(400, 8) + 3, gaussian(400, 8).half(), gaussian(400, 8).double()):
        assert messages_of(x) == []


@pytest.mark.parametrize(("n", "d"), [(2, 5), (40, 40), (30, 400)])
def test_too_few_rows_is_the_first_message(n, d):
    note = messages_of(gaussian(n, d))[0]
    assert note.startswith(f"{n:,} rows of width {d:,} span at most {n - 1:,} ")


def test_the_zero_singular_value_of_centring_is_not_rounding_noise():
    assert len(messages_of(gaussian(40, 40))) == 1
    assert len(messages_of(gaussian(30, 400))) == 1


@pytest.mark.parametrize(("n", "few"), [(9, True), (79, True), (80, False)])
def test_fewer_than_ten_rows_per_dimension_are_few(n, few):
    assert [f"{n} rows are few for a width of 8" in note for note in messages_of(gaussian(n, 8))] == [True] * few


def test_duplicate_rows_are_reported():
    x = gaussian(1500, 4)
    assert messages_of(torch.cat([x, x[:1200]])) == ["duplicate rows: 1,200 of 2,700; each occurrence counts"]


def test_constant_dimensions_are_listed():
    x = gaussian(500, 6)
    x[:, 5], x[:, 2] = 0.7, 0.0
    notes = messages_of(x)
    assert "constant dimensions: 2 of 6 (2, 5)" in notes
    assert not any("dead" in note for note in notes)


def test_at_most_ten_constant_dimensions_are_listed():
    x = gaussian(5000, 40)
    x[:, 7:30] = 1.0
    assert "constant dimensions: 23 of 40 (7, 8, 9, 10, 11, 12, 13, 14, 15, 16 and 13 more)" in messages_of(x)


def test_dead_dimensions_exclude_constant_ones():
    x = gaussian(500, 6)
    x[:, 3] *= 1e-4
    assert messages_of(x) == ["dead dimensions (standard deviation below 0.001 of the largest): 1 of 6 (3)"]
    x[:, 1] = 2.0
    notes = messages_of(x)
    assert "constant dimensions: 1 of 6 (1)" in notes
    assert "dead dimensions (standard deviation below 0.001 of the largest): 1 of 6 (3)" in notes


def test_constant_dimensions_are_not_rounding_noise():
    x = gaussian(500, 6)
    x[:, 2] = 1.0
    assert messages_of(x) == ["constant dimensions: 1 of 6 (2)"]


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16"), (torch.float32, "float32")]
)
def test_rows_that_are_equal_up_to_rounding_are_reported(dtype, name):
    row = 1 + gaussian(1, 16).double().abs()
    x = (row + torch.finfo(dtype).eps / 4 * gaussian(2000, 16)).to(dtype)  # to one of two or three neighbours
    assert float(singular_values(x)[0]) > 0
    assert any(note.startswith(f"the whole spectrum is rounding noise of {name}") for note in messages_of(x))


@pytest.mark.parametrize("kept", [1, 5])
def test_a_tail_of_rounding_noise_is_counted(kept):
    x = (gaussian(2000, kept).double() @ gaussian(kept, 16, seed=1).double()).float()
    notes = messages_of(x)
    assert len(notes) == 1
    assert notes[0].startswith(f"singular values that are rounding noise of float32: {16 - kept} of 16")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_rounding_noise_is_reported_in_all_precisions_and_for_shifted_rows(dtype, shift):
    x = (gaussian(2000, 5).double() @ gaussian(5, 16, seed=1).double() + shift).to(dtype)
    name = str(dtype).removeprefix("torch.")
    assert any(f"rounding noise of {name}: " in note and "of 16" in note for note in messages_of(x))


def test_equal_rows_are_duplicate_and_constant_but_not_noise():
    assert messages_of(torch.full((50, 3), 0.1)) == [
        "duplicate rows: 49 of 50; each occurrence counts",
        "constant dimensions: 3 of 3 (0, 1, 2)",
    ]


def test_small_differences_of_float64_rows_are_not_rounding_noise():
    x = 1 + 1e-10 * gaussian(500, 4).double()
    assert messages_of(x) == []


def test_duplicate_rows_are_named_if_their_images_have_names():
    x = torch.randn(30, 2)
    x[[4, 20, 21, 25, 29]] = x[[3, 3, 0, 1, 3]]
    x[10] = torch.nan
    names = [f"{i}.png" for i in range(30)]
    rows = Rows([x[:12], x[12:]], skip_nonfinite=True, image_name=names.__getitem__)
    named = "4.png as 3.png, 20.png as 3.png, 21.png as 0.png and 2 more"
    assert f"duplicate rows: 5 of 29 ({named}); each occurrence counts" in measure(rows, ["auc"]).notes
