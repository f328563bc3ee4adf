"""Rows with NaN or infinite values: found in blocks, and refused in one sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.errors import SSLToolError, first_few
from ssltool.training.precision import widest_float

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
