"""Similarity of two representations of the same images."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.nonfinite import refuse_nonfinite
from ssltool.reprs.same_images import MatchedRows
from ssltool.training.precision import widest_float

Pairs = Iterable[tuple[Tensor, Tensor]]
"""Blocks (n, d) and (n, e) of the same rows in two representations."""


def cka(pairs: MatchedRows | Pairs) -> float:
    """Linear CKA, norm(Y^T X)_F^2 / (norm(X^T X)_F norm(Y^T Y)_F) of the centred rows X (N, d) and Y (N, e) of the same
    N images (Kornblith et al., ICML 2019, arXiv:1905.00414).

    Range [0, 1]: 1 if the rows of one are those of the other up to a rotation, a shift and a factor; near 0 if they are
    unrelated. It is dominated by the directions of largest variance, and biased upwards if N is not far above d and e:
    about sqrt(d e) / N for unrelated isotropic rows with N above both. NaN for fewer than two rows, or if all rows of
    one are equal. One pass over blocks in float64, with (d + e)^2 memory.

    Raises:
        SSLToolError: if the numbers of rows differ, or values are not finite.
    """
    count, mean, moments, width = 0, torch.zeros(()), torch.zeros(()), 0
    for x, y in pairs:
        if not len(x):
            continue
        both, width = _beside(x, y), x.shape[1]
        centre = both[0] + (both - both[0]).mean(dim=0)  # exactly the row if all are equal
        apart, added = centre - mean if count else torch.zeros_like(centre), len(both)
        # The moments of two sets about their common mean.
        moments = moments + (both - centre).T @ (both - centre)
        moments = moments + torch.outer(apart, apart) * (count * added / (count + added))
        mean = centre if not count else mean + apart * (added / (count + added))
        count += added
    if count < 2:
        return math.nan
    cross, first, second = (
        float(torch.linalg.matrix_norm(part))
        for part in (moments[:width, width:], moments[:width, :width], moments[width:, width:])
    )
    return min(1.0, cross**2 / (first * second)) if first > 0 and second > 0 else math.nan


def _beside(x: Tensor, y: Tensor) -> Tensor:
    """``x`` (n, d) and ``y`` (n, e) side by side, (n, d + e), float64 (float32 on MPS)."""
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y):
        raise SSLToolError(f"CKA compares the same rows; found shapes {tuple(x.shape)} and {tuple(y.shape)}")
    refuse_nonfinite(x)
    refuse_nonfinite(y)
    wide = widest_float(x.device)
    return torch.cat([x.to(wide), y.to(x.device, wide)], dim=1)


def linear_cka(x: Tensor, y: Tensor, *, block: int = 8192) -> float:
    """``cka`` of two matrices (N, d) and (N, e) of the same rows, ``block`` rows at a time."""
    if len(x) != len(y):
        raise SSLToolError(f"CKA compares the same rows; found shapes {tuple(x.shape)} and {tuple(y.shape)}")
    return cka(zip(x.split(block), y.split(block), strict=True))
