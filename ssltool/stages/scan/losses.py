"""SCAN's two losses, as pure functions of logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.training.precision import without_autocast

TINY = 1e-8
"""Mean probabilities below this count as this in the entropy, as in the authors' code."""


@without_autocast
def scan_loss(anchors: Tensor, neighbours: Tensor, entropy_weight: float = 5.0) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 2 of arXiv:2005.12320, as (total, consistency, entropy) with total = consistency - entropy_weight * entropy.

    The consistency is -mean log <p, q> over the images, p and q the cluster probabilities of an image and of its
    neighbour: 0 where both are sure of one cluster. The entropy is that of the mean p, from 0 (all in one cluster) to
    log K (all clusters alike).

    Args:
        anchors, neighbours: logits (N, K) of the images, and of a neighbour of each.
        entropy_weight: what keeps the clusters from becoming one; 5 in the authors' code.

    Raises:
        SSLToolError: for logits of different shapes, or none.
    """
    _same_shapes("scan_loss", anchors, neighbours)
    log_p, log_q = anchors.log_softmax(dim=1), neighbours.log_softmax(dim=1)
    consistency = -(log_p + log_q).logsumexp(dim=1).mean()  # log <p, q> without underflow
    mean = log_p.exp().mean(dim=0).clamp(min=TINY)
    entropy = -(mean * mean.log()).sum()
    return consistency - entropy_weight * entropy, consistency, entropy


@without_autocast
def confidence_loss(weak: Tensor, strong: Tensor, threshold: float = 0.99, balanced: bool = True) -> tuple[Tensor, int]:
    """The cross-entropy of strongly augmented images with the clusters that their weakly augmented versions are sure
    of (Sec. 2.3 of arXiv:2005.12320), and how many these are.

    An image takes part if the largest probability of ``weak`` is above ``threshold``; at it is not enough. With
    ``balanced`` its weight is 1 / the number of such images in its cluster, so that all clusters that are there count
    alike. Where no image takes part the loss is 0.

    Args:
        weak, strong: logits (N, K) of the same images; no gradient flows into ``weak``.

    Raises:
        SSLToolError: for logits of different shapes, or none.
    """
    _same_shapes("confidence_loss", weak, strong)
    probability, target = weak.detach().softmax(dim=1).max(dim=1)
    sure = probability > threshold
    count = int(sure.sum())
    if not count:
        return strong[sure].sum(), 0  # of no rows: 0, with a gradient of 0
    target = target[sure]
    sizes = torch.bincount(target, minlength=weak.shape[1])
    weights = 1.0 / sizes.clamp(min=1).to(strong.dtype) if balanced else None
    return F.cross_entropy(strong[sure], target, weight=weights), count


def _same_shapes(name: str, one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape or one.dim() != 2 or not len(one):
        raise SSLToolError(
            f"{name} takes two (N, K) tensors of one shape; found {tuple(one.shape)} and {tuple(other.shape)}"
        )
