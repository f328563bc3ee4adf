"""The coding rate: how many directions rows use, and how much. Maximised, it keeps embeddings from collapsing."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.training.precision import without_autocast


@without_autocast
def coding_rate(z: Tensor, eps: float) -> Tensor:
    """R(Z, eps) = 1/2 log det(I + d / (n eps^2) Z^T Z), of arXiv:2006.08558; at least 0, and 0 for Z = 0.

    For rows of length 1 it lies between 1/2 log(1 + d / eps^2), that of equal rows, and r/2 log(1 + d / (r eps^2)),
    r = min(n, d), that of rows which use r directions equally.

    Args:
        z: Z, (n, d), not centred. The rate is computed in float32 or, for float64, in that.
        eps: the distortion up to which rows are coded, above 0.

    Raises:
        SSLToolError: if ``z`` is not a non-empty matrix.
    """
    if z.dim() != 2 or not z.numel():
        raise SSLToolError(f"coding_rate expects rows (N, D); found {tuple(z.shape)}")
    n, d = z.shape
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    gram = wide @ wide.mT if n < d else wide.mT @ wide  # both have the same nonzero eigenvalues
    identity = torch.eye(len(gram), dtype=wide.dtype, device=z.device)
    return 0.5 * torch.linalg.slogdet(identity + d / (n * eps**2) * gram).logabsdet.to(z.dtype)
