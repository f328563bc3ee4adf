"""Shared by all stages that train classifiers: the order of an epoch, initial weights, and accuracy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ssltool.training import distributed

TOP_K = 5
"""A prediction counts for ``acc5`` if the class is among this many highest scores."""


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of ``n`` rows for an epoch, (n,) int64: a function of its arguments, as in the paper."""
    return np.random.RandomState((epoch + seed) % 2**32).permutation(n)


def linear_classifier(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer, initialised as in MoCo and SimSiam: weights with standard deviation 0.01, bias 0."""
    layer = nn.utils.skip_init(nn.Linear, width, classes)  # the default init would draw from the global generator
    with torch.no_grad():
        layer.weight.normal_(std=0.01, generator=generator)
        layer.bias.zero_()
    return layer


class Accuracy:
    """Top-1 and top-5 accuracy over the rows of all ranks, counted per class on the device. Only ``result``
    synchronises with it."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self._counts = torch.zeros(3, classes, dtype=torch.int64, device=device)  # rows, top-1 hits, top-5 hits

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Adds a batch: ``scores`` (B, C) and ``labels`` (B,), each in [0, C)."""
        hits = scores.topk(min(TOP_K, scores.shape[1]), dim=1).indices == labels[:, None]
        counts = torch.stack([torch.ones_like(hits[:, 0]), hits[:, 0], hits.any(dim=1)])
        self._counts.index_add_(1, labels, counts.long())

    def result(self) -> dict[str, float]:
        """``acc1``, ``acc5`` and ``class_acc1``, the mean of the top-1 accuracies of the classes, in [0, 1]. To be
        called once, by all ranks.

        Raises:
            ZeroDivisionError: if no batch was added.
        """
        distributed.all_reduce_sum(self._counts)
        rows, top1, top5 = self._counts.cpu()
        total, present = int(rows.sum()), rows > 0
        return {
            "acc1": int(top1.sum()) / total,
            "acc5": int(top5.sum()) / total,
            "class_acc1": float((top1[present].double() / rows[present]).mean()),
        }
