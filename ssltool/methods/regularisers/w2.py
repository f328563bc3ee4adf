"""The Wasserstein uniformity distance: Fang, Li, Sun and Wang, "Rethinking the Uniformity Metric in Self-Supervised
Learning", ICLR 2024, arXiv:2403.00642."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.training.precision import without_autocast


@without_autocast
def wasserstein_uniformity(rows: Tensor) -> Tensor:
    """The 2-Wasserstein distance of N(m, S) to N(0, I / D), with m and S the mean and the covariance (over N) of the
    L2-normalised rows; arXiv:2403.00642.

    Its square is |m|^2 + 1 + tr S - 2 / sqrt(D) tr S^(1/2). For normalised rows |m|^2 + tr S is 1, and tr S^(1/2) is
    the sum of the singular values of the centred rows over sqrt(N). Between 0, if S is I / D, and sqrt(2), if all rows
    have one direction; with N at most D rows it cannot be 0.

    Args:
        rows: (N, D), N at least 1, in float32 or float64.
    """
    z = F.normalize(rows, dim=1)
    root_trace = torch.linalg.svdvals(z - z.mean(dim=0)).sum() / math.sqrt(len(z))
    square = 1.0 + z.square().sum() / len(z) - 2.0 / math.sqrt(z.shape[1]) * root_trace
    return square.clamp(min=torch.finfo(square.dtype).eps).sqrt()
