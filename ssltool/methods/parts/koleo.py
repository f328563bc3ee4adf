"""The KoLeo regulariser: the Kozachenko-Leonenko estimate of the entropy of rows on the sphere, negated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.training.precision import without_autocast

EPS = 1e-8
"""Added to the distance before the logarithm, as in DINOv2's released code."""


@without_autocast
def koleo_loss(rows: Tensor) -> Tensor:
    """-mean_i log(min_{j != i} |x_i - x_j| + 1e-8), of arXiv:1806.03198, with x the L2-normalised rows.

    Between -log 2, that of two opposite rows, and -log 1e-8 = 18.4, that of equal rows. The nearest neighbour is
    treated as a constant choice. Equal rows have no gradient.

    Args:
        rows: (N, D), N at least 2, in float32 or float64.

    Raises:
        SSLToolError: if ``rows`` is not (N, D) with N at least 2.
    """
    if rows.dim() != 2 or len(rows) < 2:
        raise SSLToolError(f"koleo_loss expects at least 2 rows (N, D); found {tuple(rows.shape)}")
    x = F.normalize(rows, dim=1)
    with torch.no_grad():
        nearest = (x @ x.mT).fill_diagonal_(-torch.inf).argmax(dim=1)
    return -((x - x[nearest]).norm(dim=1) + EPS).log().mean()
