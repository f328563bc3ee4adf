"""What several metrics of rows need: values with details, checked rows, and an order that rotations do not change."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.nonfinite import refuse_nonfinite
from ssltool.training.precision import widest_float


class Detailed(float):
    """A value with additional results in ``collapse --json``; their keys there start with the name of the metric."""

    details: dict[str, Any]

    def __new__(cls, value: float, **details: Any) -> Detailed:
        self = super().__new__(cls, value)
        self.details = details
        return self


def finite_rows(x: Tensor, least: int = 1) -> Tensor:
    """The rows ``x`` (N, d) in float64 (float32 on MPS).

    Raises:
        SSLToolError: unless they are at least ``least`` finite rows of one width.
    """
    if x.dim() != 2 or len(x) < least:
        raise SSLToolError(f"representations must be (N, d) with at least {least} rows; found shape {tuple(x.shape)}")
    refuse_nonfinite(x)
    return x.to(widest_float(x.device))


def checked_rows(x: Tensor, least: int = 1) -> Tensor:
    """``finite_rows`` relative to the median of each dimension.

    No distance changes, and an outlier does not impair the precision of the distances between other rows, as it does
    relative to the mean. Equal rows stay equal.
    """
    x = finite_rows(x, least)
    return x - x.median(dim=0).values


def from_centre(x: Tensor) -> Tensor:
    """The indices (N,) of rows ``x`` (N, d) by their distance to the mean, nearest first.

    Random draws from this order depend neither on the order of the rows nor on rotations.
    """
    return (x - x.mean(dim=0)).square().sum(dim=1).sort(stable=True).indices
