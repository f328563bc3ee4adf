"""Rows with NaN or infinite values: found in blocks, and refused in one sentence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ssltool.errors import SSLToolError, first_few
from ssltool.training.precision import widest_float
from ssltool.training.ranks import ALONE, Ranks

BLOCK = 8192
"""Rows that are checked at a time, so that a mapped file is read page by page."""

CAUSE = "the network that made them diverged or the images are broken"


def all_finite(x: Tensor) -> bool:
    """Whether no value of ``x`` is NaN or infinite."""
    return bool(torch.isfinite(x.sum(dtype=widest_float(x.device)))) or bool(torch.isfinite(x).all())


def refuse_nonfinite(x: Tensor) -> None:
    """Raises ``SSLToolError`` if a value of ``x`` is NaN or infinite."""
    if not all_finite(x):
        raise SSLToolError(f"representations hold NaN or infinite values; {CAUSE}")


def finite_rows(x: Tensor) -> Tensor:
    """Which rows (n,) of ``x`` (n, d) hold only finite values, bool on the CPU."""
    finite = torch.ones(len(x), dtype=torch.bool)
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        if not all_finite(block):
            finite[start : start + BLOCK] = torch.isfinite(block).all(dim=1)
    return finite


def largest_value(x: Tensor) -> float:
    """The largest absolute value of float64 rows ``x`` (n, d) that is not NaN or infinite; 0 for rows of lower
    precision, whose values float32 holds."""
    if x.dtype != torch.float64:
        return 0.0
    return max((float(block.nan_to_num(0, 0, 0).abs().max()) for block in x.split(BLOCK) if block.numel()), default=0.0)


def read_values(parts: Sequence[Tensor], ranks: Ranks = ALONE) -> list[tuple[Tensor, float]]:
    """``finite_rows`` and ``largest_value`` of each of ``parts``, (n, d). Each of several ranks has all of them, and
    reads its span of their rows."""
    counts = [len(part) for part in parts]
    span = ranks.span(sum(counts))
    with ranks.same_errors():
        own = [part[inside] for part, inside in zip(parts, within(counts, span), strict=True)]
        wrong = (~torch.cat([finite_rows(part) for part in own])).nonzero().flatten() + span.start
        largest = [largest_value(part) for part in own]
    found = ranks.gathered((wrong, largest))
    finite = torch.ones(sum(counts), dtype=torch.bool)
    finite[torch.cat([numbers for numbers, _ in found])] = False
    largest = [max(values) for values in zip(*(of_rank for _, of_rank in found), strict=True)]
    return list(zip(finite.split(counts), largest, strict=True))


def within(counts: Sequence[int], span: range) -> list[slice]:
    """Which rows of parts with ``counts`` rows are in a ``span`` of the rows of all parts."""
    starts = [0, *itertools.accumulate(counts)]
    return [slice(max(0, span.start - start), max(0, span.stop - start)) for start in starts[:-1]]


def refuse_values(parts: Sequence[Tensor], names: Sequence[str], ranks: Ranks = ALONE) -> None:
    """Checks the rows of the files ``names``, of which each of several ``ranks`` reads a part.

    Raises:
        SSLToolError: on all ranks, for the first file with values that are not finite or that float32 cannot hold.
    """
    for (finite, largest), name in zip(read_values(parts, ranks), names, strict=True):
        refuse_nonfinite_rows(finite, name)
        refuse_range(largest, name)


def refuse_range(largest: float, name: str) -> None:
    """Checks that float32, which the stages compute with, can hold the rows of ``name``, whose ``largest_value`` is
    ``largest``.

    Raises:
        SSLToolError: if it is above that of float32, or so small that it becomes 0.
    """
    limits = torch.finfo(torch.float32)
    if largest > limits.max or 0 < largest < limits.tiny:
        change = "divide" if largest > 1 else "multiply"
        raise SSLToolError(
            f"{name}: the largest value is {largest:.3g}, which float32 cannot hold; {change} the rows by a constant"
        )


def refuse_nonfinite_rows(finite: Tensor, name: str, hint: str = "") -> None:
    """Raises ``SSLToolError`` if some of the rows of ``name`` are not ``finite`` (n,): how many, the first numbers, and
    ``hint``, what can be done."""
    numbers = (~finite).nonzero().flatten()
    if len(numbers):
        raise SSLToolError(
            f"{name}: {len(numbers):,} of {len(finite):,} rows hold NaN or infinite values "
            f"(rows {first_few(numbers.tolist())}); {CAUSE}{hint and '; '}{hint}"
        )
