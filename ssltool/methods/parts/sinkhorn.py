"""Sinkhorn-Knopp: assignments of rows to prototypes that use all prototypes equally."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


@torch.no_grad()
@without_autocast
def sinkhorn(
    scores: Tensor, epsilon: float | Tensor = 0.05, iterations: int = 3, *, over_ranks: bool = False
) -> Tensor:
    """Assignments (N, K) of N rows to K prototypes by Eq. 3 to 5 of arXiv:2006.09882.

    exp(scores / epsilon), normalised alternately such that the prototypes have equal mass and the rows sum to 1; rows
    are normalised last. Computed in log space, so that no epsilon overflows.

    Args:
        scores: similarity of each row to each prototype (N, K).
        epsilon: entropy regularisation; smaller values give harder assignments.
        iterations: number of iterations; with 0 the assignments are softmax(scores / epsilon), and the prototypes can
            have any mass.
        over_ranks: whether the masses of prototypes are those of the rows of all ranks, each of which has its own
            ``scores``, of any number of rows.

    Raises:
        SSLToolError: if ``scores`` is not a matrix, or is empty and not ``over_ranks``.
    """
    if scores.dim() != 2 or not (scores.numel() or over_ranks):
        raise SSLToolError(f"sinkhorn expects scores (N, K); found {tuple(scores.shape)}")
    log_q = scores / epsilon
    if not iterations:
        return log_q.softmax(dim=1)
    for _ in range(iterations):
        mass = log_q.logsumexp(dim=0, keepdim=True)
        log_q = log_q - (gather(mass).logsumexp(dim=0) if over_ranks else mass)
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
    return log_q.exp()
