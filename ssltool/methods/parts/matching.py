"""What several losses do alike: name one's own row among a batch's, and match targets across crops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def own_row_among(rows: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of picking row i of ``others`` for row i of ``rows``, both (N, D), by cosine / temperature."""
    logits = F.normalize(rows, dim=1) @ F.normalize(others, dim=1).mT / temperature
    return F.cross_entropy(logits, torch.arange(len(rows), device=rows.device))


def across_crops(logits: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Mean over the targets i and all crops v other than i of the cross-entropy of softmax(logits_v) with target_i.

    ``logits``: V times (N, K); ``targets``: probabilities (N, K) of the first of them.
    """
    log_p = [crop.log_softmax(dim=1) for crop in logits]
    losses = [
        -(target * log_p[v]).sum(dim=1).mean() for i, target in enumerate(targets) for v in range(len(logits)) if v != i
    ]
    return torch.stack(losses).mean()
