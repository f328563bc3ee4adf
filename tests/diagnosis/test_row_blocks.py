"""Rows of several tensors: order, blocks of any size, indexing, and errors for rows that are not finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssltool.diagnosis.row_blocks import Rows
from ssltool.errors import SSLToolError


def numbered(n: int, d: int = 3) -> Tensor:
    """A matrix whose every row is its own number."""
    return torch.arange(n, dtype=torch.float32)[:, None].expand(n, d).contiguous()


def broken(n: int, bad: list[int]) -> Tensor:
    """The same, with NaN, inf and -inf in turn in the rows ``bad``."""
    x = numbered(n)
    for i, row in enumerate(bad):
        x[row, i % 3] = (math.nan, math.inf, -math.inf)[i % 3]
    return x


def checked(*parts: Tensor, skip: bool = True) -> Rows:
    rows = Rows(parts, skip_nonfinite=skip)
    rows.check()
    return rows


def all_of(rows: Rows, chunk_rows: int | None = None) -> Tensor:
    return torch.cat(list(rows.blocks(chunk_rows)))


@pytest.mark.parametrize("sizes", [[20], [1, 19], [7, 0, 13], [5, 5, 5, 5]])
@pytest.mark.parametrize("chunk_rows", [None, 1, 3, 100])
def test_several_tensors_are_one_set_of_rows_in_order(sizes, chunk_rows):
    x = numbered(20)
    rows = Rows(x.split(sizes))
    assert (len(rows), rows.width, rows.skipped) == (20, 3, 0)
    assert torch.equal(all_of(rows, chunk_rows), x)
    assert all(0 < len(block) <= (chunk_rows or 20) for block in rows.blocks(chunk_rows))


def test_rows_can_be_gone_through_more_than_once():
    rows = Rows([numbered(20)])
    assert torch.equal(all_of(rows, 7), all_of(rows, 6))


def test_blocks_are_views_of_what_is_stored_in_its_own_precision():
    x = numbered(20).half()
    blocks = list(Rows([x]).blocks(6))
    assert {block.dtype for block in blocks} == {torch.float16}
    assert blocks[0].data_ptr() == x.data_ptr()


def test_views_of_images_are_rows():
    x = numbered(24).reshape(6, 4, 3)
    rows = Rows([x])
    assert (len(rows), rows.width) == (24, 3)
    assert torch.equal(all_of(rows, 5), numbered(24))
    assert rows.views is x


def test_only_one_whole_tensor_of_views_is_views():
    x = numbered(24).reshape(6, 4, 3)
    rows = Rows([x, x, numbered(2)])
    assert (len(rows), rows.views) == (50, None)
    assert Rows([numbered(24)]).views is None


def test_each_counts_all_rows_read_including_those_left_out():
    seen: list[int] = []
    list(checked(broken(10, [0, 1, 4]), numbered(5)).blocks(2, seen.append))
    assert seen == [2, 2, 2, 2, 2, 2, 2, 1]


@pytest.mark.parametrize("sizes", [[100], [30, 0, 70], [10] * 10])
@pytest.mark.parametrize("wanted", [[0], [99], [0, 1, 2], [29, 30, 31, 70], list(range(100)), list(range(0, 100, 7))])
def test_rows_are_taken_by_their_numbers_over_all_tensors(sizes, wanted):
    taken = Rows(numbered(100).split(sizes)).take(torch.tensor(wanted))
    assert taken[:, 0].tolist() == wanted


def test_finite_rows_with_an_infinite_sum_pass_the_check():
    huge = torch.full((5, 3), 3e38)  # the sum of a block overflows
    rows = checked(numbered(10), huge, torch.zeros(0, 3), skip=False)
    assert (len(rows), rows.skipped) == (15, 0)
    assert len(all_of(rows)) == 15


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_row_that_is_not_finite_is_refused_with_its_index(value, dtype):
    x = numbered(5000).to(dtype)
    x[4500, 1] = value
    with pytest.raises(SSLToolError, match=r"1 of 5,000 rows .*\(rows 4500\)"):
        checked(x, skip=False)


def test_infinities_that_cancel_are_found():
    x = numbered(9)
    x[3, 0], x[5, 0] = math.inf, -math.inf
    with pytest.raises(SSLToolError, match=r"2 of 9 rows .*\(rows 3, 5\)"):
        checked(x, skip=False)


def test_numbers_of_broken_rows_count_over_all_tensors():
    with pytest.raises(SSLToolError, match=r"3 of 35 .* \(rows 2, 14, 34\)"):
        checked(broken(10, [2]), broken(5, [4]), broken(20, [19]), skip=False)


def test_numbers_of_broken_views_are_those_of_rows():
    with pytest.raises(SSLToolError, match=r"1 of 12 .* \(rows 7\)"):
        checked(broken(12, [7]).reshape(4, 3, 3), skip=False)


@pytest.mark.parametrize(
    ("count", "named"),
    [
        (10, "0, 2, 4, 6, 8, 10, 12, 14, 16, 18"),
        (11, "0, 2, 4, 6, 8, 10, 12, 14, 16, 18 and 1 more"),
        (2500, "0, 2, 4, 6, 8, 10, 12, 14, 16, 18 and 2,490 more"),
    ],
)
def test_at_most_ten_broken_rows_are_listed(count, named):
    x = broken(6000, [2 * i for i in range(count)])
    for parts in ([x], x.split(4), x.split(4500)):
        with pytest.raises(SSLToolError, match=rf"{count:,} of 6,000 .* \(rows {named}\);"):
            checked(*parts, skip=False)


def test_the_error_has_the_name_of_the_rows():
    rows = Rows([broken(5, [1])], name="a.pt and b.pt")
    with pytest.raises(SSLToolError, match=r"^a\.pt and b.pt: 1 of 5 "):
        rows.check()


BAD = [0, 3, 4, 9, 25, 4500, 4999]


@pytest.mark.parametrize("sizes", [[5000], [4, 6, 4990], [1, 4999]])
@pytest.mark.parametrize("chunk_rows", [None, 1, 4])
def test_skipped_rows_are_left_out_of_blocks_and_count(sizes, chunk_rows):
    rows = checked(*broken(5000, BAD).split(sizes))
    good = [i for i in range(5000) if i not in BAD]
    assert (len(rows), rows.skipped) == (4993, 7)
    assert all_of(rows, chunk_rows)[:, 1].tolist() == good
    assert all(len(block) for block in rows.blocks(chunk_rows))


def test_skipped_rows_have_no_index():
    rows = checked(*broken(5000, BAD).split([4, 4996]))
    good = [i for i in range(5000) if i not in BAD]
    wanted = [0, 1, 2, 7, 100, 4992]
    assert rows.take(torch.tensor(wanted))[:, 1].tolist() == [good[i] for i in wanted]


def test_a_tensor_without_finite_rows_has_no_rows():
    rows = checked(broken(3, [0, 1, 2]), numbered(4))
    assert (len(rows), rows.skipped) == (4, 3)
    assert torch.equal(all_of(rows), numbered(4))


def test_skipping_changes_nothing_where_all_rows_are_finite():
    rows = checked(numbered(20))
    assert (len(rows), rows.skipped) == (20, 0)
    assert torch.equal(all_of(rows), numbered(20))


def test_different_widths_are_refused_by_what_they_are():
    with pytest.raises(SSLToolError, match=r"x\.pt .* 3 and 40"):
        Rows([torch.zeros(2, 40), torch.zeros(2, 3), torch.zeros(4, 40)], name="x.pt")


def test_invalid_shapes_are_refused():
    with pytest.raises(SSLToolError, match=r"\(N, d\), or \(N, Q, d\) of views.*nothing"):
        Rows([])
    with pytest.raises(SSLToolError, match=r"found \[\(2, 3\), \(4,\)\]"):
        Rows([torch.zeros(2, 3), torch.zeros(4)])
    with pytest.raises(SSLToolError, match=r"found \[\(2, 3, 4, 5\)\]"):
        Rows([torch.zeros(2, 3, 4, 5)])
