"""Shared by the stages that train a classifier: the order of an epoch, the initial weights, and the accuracy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

FIRST = 5
"""The k of the top-k accuracy ``acc5``."""


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``n`` rows for an epoch, (n,) int64; a function of its arguments, as the paper's orders are."""
    return np.random.RandomState((epoch + seed) % 2**32).permutation(n)


def linear_classifier(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer that starts as MoCo's and SimSiam's probes do: weights from N(0, 0.01), bias 0."""
    layer = nn.utils.skip_init(nn.Linear, width, classes)  # the ordinary start would draw from the global generator
    with torch.no_grad():
        layer.weight.normal_(std=0.01, generator=generator)
        layer.bias.zero_()
    return layer


class Accuracy:
    """Counts, class by class, how often the class is the first or among the first five of a classifier's scores.

    Waits for the device in ``result`` only.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self._counts = torch.zeros(3, classes, dtype=torch.int64, device=device)  # seen, first, among the first five

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Takes in ``scores`` (B, C) and the classes ``labels`` (B,), each in [0, C)."""
        hits = scores.topk(min(FIRST, scores.shape[1]), dim=1).indices == labels[:, None]
        counts = torch.stack([torch.ones_like(hits[:, 0]), hits[:, 0], hits.any(dim=1)])
        self._counts.index_add_(1, labels, counts.long())

    def result(self) -> dict[str, float]:
        """Shares of 1: ``acc1`` and ``acc5`` of all rows seen, and ``class_acc1``, the mean of the classes' own acc1,
        in which rare classes count as much as frequent ones.

        Raises:
            ZeroDivisionError: if nothing was seen.
        """
        seen, first, five = self._counts.cpu()
        total, present = int(seen.sum()), seen > 0
        return {
            "acc1": int(first.sum()) / total,
            "acc5": int(five.sum()) / total,
            "class_acc1": float((first[present].double() / seen[present]).mean()),
        }
