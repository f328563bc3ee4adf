"""Von Neumann entropy: Kim, Kang, Hwang, Shin and Rhee, "VNE: An Effective Method for Improving Deep Representation by
Manipulating Eigenvalue Distribution", CVPR 2023, arXiv:2304.01434."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.training.precision import without_autocast


@without_autocast
def von_neumann_entropy(rows: Tensor) -> Tensor:
    """-sum_j l_j log l_j with l the eigenvalues of Z^T Z / N and Z the L2-normalised rows; arXiv:2304.01434.

    Between 0, if all rows have one direction, and log min(N, D), if the autocorrelation has min(N, D) equal
    eigenvalues. They are computed as squared singular values, without forming Z^T Z.

    Args:
        rows: (N, D), N at least 1, in float32 or float64.
    """
    s = torch.linalg.svdvals(F.normalize(rows, dim=1))
    eigenvalues = (s.square() / len(rows)).clamp(min=torch.finfo(s.dtype).tiny)
    return torch.special.entr(eigenvalues).sum()
