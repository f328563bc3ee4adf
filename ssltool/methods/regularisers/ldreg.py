"""Local dimensionality regularisation: Huang, Campello, Erfani, Ma, Houle and Bailey, "LDReg: Local Dimensionality
Regularized Self-Supervised Learning", ICLR 2024, arXiv:2401.10474."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.training.precision import without_autocast

NEIGHBOURS = 64
"""The neighbours k; the released configurations have 16 to 128."""


@without_autocast
def log_local_dimension(rows: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """The logarithm of the geometric mean of the local intrinsic dimensions of the rows; arXiv:2401.10474.

    The dimension at a row is estimated by the method of moments: m / (w - m), where w is the distance to its k-th
    nearest neighbour and m the mean distance of those before it. The released code also leaves the k-th out of m, with
    which the estimate would be too high. Neighbours are constants. The value does not depend on the scale of the rows;
    for equal rows it is 0, as for rows on a line, and has no gradient.

    Args:
        rows: (N, D), N at least 3, in float32 or float64.
        k: at least 2; at most N - 1 neighbours are used.

    Raises:
        SSLToolError: if there are fewer than 3 rows.
    """
    if len(rows) < 3:
        raise SSLToolError(f"log_local_dimension expects at least 3 rows; found {len(rows)}")
    distances = torch.cdist(rows, rows.detach())
    others = distances.detach().clone().fill_diagonal_(torch.inf)
    nearest = distances.gather(1, others.topk(min(k, len(rows) - 1), largest=False).indices)
    m, w = nearest[:, :-1].mean(dim=1), nearest[:, -1]
    smallest = torch.finfo(rows.dtype).tiny
    return (m.clamp(min=smallest).log() - (w - m).clamp(min=smallest).log()).mean()
