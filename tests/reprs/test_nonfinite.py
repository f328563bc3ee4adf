"""Rows that are not finite are found wherever they are, counted, and listed by their numbers."""

from __future__ import annotations

import math

import pytest
import torch

from ssltool.errors import SSLToolError, first_few
from ssltool.reprs.nonfinite import BLOCK, all_finite, finite_rows, refuse_nonfinite, refuse_nonfinite_rows


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_rows_are_found_in_every_block(dtype, value):
    x, bad = torch.zeros(2 * BLOCK + 5, 3, dtype=dtype), [0, BLOCK - 1, BLOCK, 2 * BLOCK + 4]
    x[bad, 1] = value
    assert (~finite_rows(x)).nonzero().flatten().tolist() == bad
    assert finite_rows(torch.zeros(0, 3)).tolist() == []


def test_finite_values_whose_sum_overflows_are_finite():
    x = torch.full((4, 2), torch.finfo(torch.float64).max, dtype=torch.float64)
    assert all_finite(x)
    assert bool(finite_rows(x).all())
    refuse_nonfinite(x)


def test_infinite_values_that_cancel_are_found():
    x = torch.tensor([[math.inf, 0.0], [-math.inf, 0.0]])
    assert not all_finite(x)
    with pytest.raises(SSLToolError, match="NaN"):
        refuse_nonfinite(x)


def test_rows_are_counted_and_the_first_ten_are_listed():
    finite = torch.ones(5000, dtype=torch.bool)
    refuse_nonfinite_rows(finite, "a.pt")
    finite[7::2] = False
    with pytest.raises(
        SSLToolError, match=r"a\.pt: 2,497 of 5,000 rows .*\(rows 7, 9, .*, 25 and 2,487 more\).*do this"
    ):
        refuse_nonfinite_rows(finite, "a.pt", "do this")


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([3], "3"),
        (range(10), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (range(1500), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1,490 more"),
    ],
)
def test_ten_numbers_are_listed_and_the_rest_is_counted(numbers, text):
    assert first_few(numbers) == text
