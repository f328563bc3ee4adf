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


class CrossMoments:
    """Y^T X of the centred rows X (N, d) and Y (N, e) of the same N images, while blocks of them pass: d e memory."""

    def __init__(self) -> None:
        self.rows = 0
        self._means: tuple[Tensor, Tensor] | None = None
        self._moments = torch.zeros(())

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds the rows (n, d) and (n, e), of floating-point numbers, in their precision."""
        if not len(x):
            return
        # Exactly the row if all are equal.
        centres = tuple(rows[0] + (rows - rows[0]).mean(dim=0) for rows in (x, y))
        self._add(len(x), (centres[0], centres[1]), (y - centres[1]).T @ (x - centres[0]))

    def merge(self, other: CrossMoments) -> None:
        """Adds the rows of other moments of the same widths."""
        if other._means is not None:
            self._add(other.rows, other._means, other._moments)

    def _add(self, rows: int, means: tuple[Tensor, Tensor], moments: Tensor) -> None:
        """Adds ``rows`` rows with their ``means`` and the ``moments`` about these."""
        if self._means is None:
            self._means, self._moments = means, moments
        else:
            # The moments of two sets about their common means.
            apart = [theirs - mean for theirs, mean in zip(means, self._means, strict=True)]
            share = rows / (self.rows + rows)
            self._moments += moments + torch.outer(apart[1], apart[0]) * (self.rows * share)
            self._means = self._means[0] + apart[0] * share, self._means[1] + apart[1] * share
        self.rows += rows

    def norm(self) -> float:
        """The Frobenius norm of Y^T X; 0 without rows."""
        return float(torch.linalg.vector_norm(self._moments))

    def cka(self, first: float, second: float) -> float:
        """Linear CKA of X and Y, with norm(X^T X)_F ``first`` and norm(Y^T Y)_F ``second``.

        NaN for fewer than two rows, or if all rows of one are equal.
        """
        if self.rows < 2 or not (first > 0 and second > 0):
            return math.nan
        return min(1.0, self.norm() / first * (self.norm() / second))


def cka(pairs: MatchedRows | Pairs) -> float:
    """Linear CKA, norm(Y^T X)_F^2 / (norm(X^T X)_F norm(Y^T Y)_F) of the centred rows X (N, d) and Y (N, e) of the same
    N images (Kornblith et al., ICML 2019, arXiv:1905.00414).

    Range [0, 1]: 1 if the rows of one are those of the other up to a rotation, a shift and a factor; near 0 if they are
    unrelated. It is dominated by the directions of largest variance, and biased upwards if N is not far above d and e:
    about sqrt(d e) / N for unrelated isotropic rows with N above both. NaN for fewer than two rows, or if all rows of
    one are equal. One pass over blocks in float64, with d^2 + d e + e^2 memory.

    Raises:
        SSLToolError: if the numbers of rows differ, or values are not finite.
    """
    both, first, second = CrossMoments(), CrossMoments(), CrossMoments()
    for block in pairs:
        x, y = _checked(*block)
        both.update(x, y)
        first.update(x, x)
        second.update(y, y)
    return both.cka(first.norm(), second.norm())


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` (n, d) and ``y`` (n, e) on one device, in float64 (float32 on MPS)."""
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y):
        raise SSLToolError(f"CKA compares the same rows; found shapes {tuple(x.shape)} and {tuple(y.shape)}")
    refuse_nonfinite(x)
    refuse_nonfinite(y)
    wide = widest_float(x.device)
    return x.to(wide), y.to(x.device, wide)


def linear_cka(x: Tensor, y: Tensor, *, block: int = 8192) -> float:
    """``cka`` of two matrices (N, d) and (N, e) of the same rows, ``block`` rows at a time."""
    if len(x) != len(y):
        raise SSLToolError(f"CKA compares the same rows; found shapes {tuple(x.shape)} and {tuple(y.shape)}")
    return cka(zip(x.split(block), y.split(block), strict=True))
