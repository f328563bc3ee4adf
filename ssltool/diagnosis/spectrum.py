"""Exact singular values of any number of rows in one pass.

Let R be the triangular QR factor of [1 | X]. The singular values of R[1:, 1:] are those of the centred X, and the
singular values of R[:, 1:] are those of X. The R of stacked blocks of rows is the R of their stacked Rs. So one pass of
QR updates in float64 needs O(d^2) memory, can be merged across files, and keeps small singular values, which a
covariance matrix would lose.

Up to d rows need no R: one reflection turns the column of ones into (c, 0, ..., 0), and the other columns remain a full
matrix. The QR factor of its transpose, N x N, has the same singular values.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.nonfinite import refuse_nonfinite


class Factor:
    """Incremental QR factor R of [1 | X]; also gives per-dimension standard deviations."""

    def __init__(self) -> None:
        self.rows = 0
        # The first row is subtracted from all rows, so that equal rows become exactly 0.
        self._origin: Tensor | None = None
        self._r: Tensor | None = None
        self._small: Tensor | None = None

    def update(self, block: Tensor, weights: Tensor | None = None) -> None:
        """Adds a block of rows (n, d), each with an optional integer weight (n,), its number of occurrences.

        Raises:
            SSLToolError: if the block is not a matrix or has a different width than earlier blocks.
        """
        if block.dim() != 2:
            raise SSLToolError(f"representations must be (N, d); found shape {tuple(block.shape)}")
        if not len(block):
            return
        block = block.detach()
        if self._origin is None:
            self._origin = block[0].double().clone()
        self._check_width(block[0])
        kept = 0 if self._r is None else len(self._r)
        stacked = block.new_empty(kept + len(block), block.shape[1] + 1, dtype=torch.float64)
        if self._r is not None:
            stacked[:kept] = self._r
        stacked[kept:, 0] = 1.0
        stacked[kept:, 1:] = block
        stacked[kept:, 1:] -= self._origin
        if weights is not None:
            stacked[kept:] *= weights.to(stacked).sqrt()[:, None]
        self._set(stacked)
        self.rows += len(block) if weights is None else int(weights.sum())

    def merge(self, other: Factor) -> None:
        """Adds all rows of another factor.

        Raises:
            SSLToolError: if the widths differ.
        """
        if other._r is None or other._origin is None:
            return
        if self._r is None or self._origin is None:
            self.rows, self._origin, self._r = other.rows, other._origin.clone(), other._r.clone()
            self._small = None
            return
        self._check_width(other._origin)
        theirs = other._r.clone()
        theirs[:, 1:] += theirs[:, :1] * (other._origin - self._origin)
        self._set(torch.cat([self._r, theirs]))
        self.rows += other.rows

    def _set(self, stacked: Tensor) -> None:
        """Replaces the factor by that of ``stacked`` (k, d + 1), whose first column is that of the ones."""
        tall = len(stacked) > stacked.shape[1]
        self._r = torch.linalg.qr(stacked, mode="r").R if tall else _reflected(stacked)
        self._small = None

    def singular_values(self, *, center: bool = True) -> Tensor:
        """Singular values of all rows, (min(N, d),) float64, in descending order.

        Raises:
            SSLToolError: if there are no rows.
        """
        r = self._reduced()
        values = torch.linalg.svdvals(r[:, :-1] if center else r)
        count = min(self.rows, self._factor()[0].shape[1] - 1)
        missing = count - len(values)  # for N <= d, centring removes one value
        return torch.nn.functional.pad(values, (0, max(0, missing)))[:count]

    def deviations(self) -> Tensor:
        """Standard deviation of each dimension, (d,) float64, with N - 1 in the denominator; 0 for a single row."""
        centred = self._factor()[0][1:, 1:]
        return centred.square().sum(dim=0).div(max(1, self.rows - 1)).sqrt()

    def _reduced(self) -> Tensor:
        """A small matrix with the singular values of X; without the last column, with those of the centred X."""
        if self._small is None:
            r, origin = self._factor()
            mean = r[:1, 1:] + r[:1, :1] * origin  # times the root of the number of rows
            x = torch.cat([r[1:, 1:], mean]).T
            self._small = x if len(x) < x.shape[1] else torch.linalg.qr(x, mode="r").R
        return self._small

    def _check_width(self, row: Tensor) -> None:
        if self._origin is not None and len(self._origin) != len(row):
            widths = f"{len(self._origin)} and {len(row)}"
            raise SSLToolError(f"representations must have the same width; found widths {widths}")

    def _factor(self) -> tuple[Tensor, Tensor]:
        if self._r is None or self._origin is None:
            raise SSLToolError("there are no representations; a spectrum requires at least one row")
        return self._r, self._origin


def possible_directions(n: int, d: int, bound: int | None = None) -> int:
    """The number of directions that n rows of width d can have, at least 1: min(n - 1, d, ``bound``).

    Centring leaves n - 1; ``bound`` is the largest possible rank of the layer, such as 128 for 512 outputs and 128
    inputs. Further singular values are 0 in every network, so ``auc``, ``dead_directions``, the verdict and the charts
    refer to this number.
    """
    return max(1, min(n - 1, d, bound or d))


def _reflected(x: Tensor) -> Tensor:
    """``x`` (k, d) after the reflection that turns its first column into (c, 0, ..., 0). Singular values stay."""
    normal = x[:, 0].clone()
    length = torch.linalg.vector_norm(normal).copysign(normal[0])
    if length == 0:  # all weights are 0
        return x
    normal[0] += length
    x = x - torch.outer(normal, (2 / normal.square().sum()) * (normal @ x))
    x[:, 0] = 0.0
    x[0, 0] = -length
    return x


def blocks_of(x: Tensor | Iterable[Tensor], chunk_rows: int | None = None, *, check: bool = True) -> Iterable[Tensor]:
    """Yields ``x`` in blocks of rows. A matrix is split; an iterable of blocks is passed through.

    Raises:
        SSLToolError: if a block is not an (n, d) matrix, widths differ, or, if ``check``, values are not finite.
    """
    if isinstance(x, Tensor):
        x = row_blocks(x, chunk_rows) if x.dim() == 2 else [x]
    width = None
    for block in x:
        if block.dim() != 2:
            raise SSLToolError(f"representations must be (N, d); found shape {tuple(block.shape)}")
        if width not in (None, block.shape[1]):
            raise SSLToolError(f"representations must have the same width; found widths {width} and {block.shape[1]}")
        width = block.shape[1]
        if check:
            refuse_nonfinite(block)
        if len(block):
            yield block


def row_blocks(x: Tensor, chunk_rows: int | None = None) -> Iterable[Tensor]:
    """``x`` (N, d) in blocks of about equal size, at most ``chunk_rows`` rows. The default is efficient for QR."""
    most = chunk_rows or max(4096, 16 * x.shape[-1])  # R is stacked on each block, at most a sixteenth more work
    rows = -(-len(x) // max(1, -(-len(x) // most)))  # equal sizes avoid a small last block, which costs as much as R
    return (x[start : start + rows] for start in range(0, max(1, len(x)), max(1, rows)))


def unit_rows(block: Tensor) -> Tensor:
    """Rows divided by (norm + 1e-6), in float64, as in the collapse paper's ``--normalize``."""
    block = block.double()
    return block / (torch.linalg.vector_norm(block, dim=1, keepdim=True) + 1e-6)


def factor(x: Tensor | Iterable[Tensor], *, normalize: bool = False, chunk_rows: int | None = None) -> Factor:
    """The factor of ``x``, a matrix (N, d) or an iterable of row blocks."""
    result = Factor()
    for block in blocks_of(x, chunk_rows):
        result.update(unit_rows(block) if normalize else block)
    return result


def singular_values(
    x: Tensor | Iterable[Tensor], *, center: bool = True, normalize: bool = False, chunk_rows: int | None = None
) -> Tensor:
    """Singular values of ``x``, a tensor (N, d) or an iterable of row blocks: (min(N, d),) float64, descending.

    ``center`` subtracts the column means; ``normalize`` first scales rows to length 1; ``chunk_rows`` limits memory.

    Raises:
        SSLToolError: if there are no rows, or widths differ.
    """
    return factor(x, normalize=normalize, chunk_rows=chunk_rows).singular_values(center=center)
