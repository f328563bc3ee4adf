"""Losses that several methods share: InfoNCE, and cross-entropy between crops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NO_NEGATIVES = "there are no negatives (negatives=false)"
"""A cause of collapse."""


def info_nce(rows: Tensor, others: Tensor, temperature: float, *, negatives: bool = True) -> Tensor:
    """InfoNCE: mean cross-entropy of matching row i of ``rows`` (N, D) to row i of ``others`` (N, D), with logits
    cosine / temperature. Without ``negatives`` it is ``attraction``."""
    if not negatives:
        return attraction(rows, others, temperature)
    logits = F.normalize(rows, dim=1) @ F.normalize(others, dim=1).mT / temperature
    return F.cross_entropy(logits, torch.arange(len(rows), device=rows.device))


def attraction(rows: Tensor, others: Tensor, temperature: float) -> Tensor:
    """The numerator of InfoNCE alone: the mean of -cosine / temperature of row i of ``rows`` and of ``others``."""
    return -F.cosine_similarity(rows, others, dim=1).mean() / temperature


def multicrop_cross_entropy(logits: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Cross-entropy of softmax(logits_v) with target_i, averaged over the targets i and all other crops v.

    ``logits``: V tensors (N, K); ``targets``: probabilities (N, K) of the first crops.
    """
    log_p = [crop.log_softmax(dim=1) for crop in logits]
    losses = [
        -(target * log_p[v]).sum(dim=1).mean() for i, target in enumerate(targets) for v in range(len(logits)) if v != i
    ]
    return torch.stack(losses).mean()
