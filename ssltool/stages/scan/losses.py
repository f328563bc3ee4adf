"""The two losses of SCAN, functions of logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.training.precision import without_autocast

TINY = 1e-8
"""Lower bound of the mean probabilities in the entropy, as in the authors' code."""


@without_autocast
def scan_loss(anchors: Tensor, neighbours: Tensor, entropy_weight: float = 5.0) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 2 of arXiv:2005.12320: (total, consistency, entropy) with total = consistency - entropy_weight * entropy.

    The consistency is the mean of -log <p, q>, where p and q are the cluster probabilities of an image and its
    neighbour; it is 0 if both have probability 1 for the same cluster. The entropy is that of the mean p, from 0 (one
    cluster) to log K (clusters of equal size).

    Args:
        anchors: logits (N, K) of the images.
        neighbours: logits (N, K) of a neighbour of each image.
        entropy_weight: weight of the entropy, which prevents a single cluster; 5 in the authors' code.

    Raises:
        SSLToolError: if the shapes differ or N is 0.
    """
    _same_shapes("scan_loss", anchors, neighbours)
    log_p, log_q = anchors.log_softmax(dim=1), neighbours.log_softmax(dim=1)
    consistency = -(log_p + log_q).logsumexp(dim=1).mean()  # log <p, q> without underflow
    mean = log_p.exp().mean(dim=0).clamp(min=TINY)
    entropy = -(mean * mean.log()).sum()
    return consistency - entropy_weight * entropy, consistency, entropy


@without_autocast
def confidence_loss(weak: Tensor, strong: Tensor, threshold: float = 0.99, balanced: bool = True) -> tuple[Tensor, int]:
    """The self-labelling loss (Sec. 2.3 of arXiv:2005.12320), and the number of confident images.

    The loss is the cross-entropy of the strong view with the most probable cluster of the weak view. An image is
    confident if the largest probability of ``weak`` is strictly above ``threshold``; other images are ignored. The loss
    is 0 if no image is confident.

    Args:
        weak: logits (N, K) of the weak views; no gradient flows into them.
        strong: logits (N, K) of the strong views of the same images.
        threshold: probability in [0, 1].
        balanced: weight each image by 1 / (number of confident images in its cluster), so that the clusters have equal
            weight.

    Raises:
        SSLToolError: if the shapes differ or N is 0.
    """
    _same_shapes("confidence_loss", weak, strong)
    probability, target = weak.detach().softmax(dim=1).max(dim=1)
    confident = probability > threshold
    count = int(confident.sum())
    if not count:
        return strong[confident].sum(), 0  # an empty sum: 0, with a zero gradient
    target = target[confident]
    sizes = torch.bincount(target, minlength=weak.shape[1])
    weights = 1.0 / sizes.clamp(min=1).to(strong.dtype) if balanced else None
    return F.cross_entropy(strong[confident], target, weight=weights), count


def _same_shapes(name: str, a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.dim() != 2 or not len(a):
        raise SSLToolError(
            f"{name} takes two (N, K) tensors of the same shape; found {tuple(a.shape)} and {tuple(b.shape)}"
        )
