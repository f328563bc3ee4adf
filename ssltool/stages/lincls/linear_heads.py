"""Linear classifiers trained in parallel on the same features, one for each learning rate, and their accuracies."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.settings import Record
from ssltool.training import distributed
from ssltool.training.classification import Accuracy
from ssltool.training.optimizers import create_optimizer
from ssltool.training.precision import widest_float
from ssltool.training.restore import load_optimizer, load_weights

Batches = Iterator[tuple[Tensor, Tensor]]
"""Features (B, d) and class indices (B,); of several ranks each has its share of a batch, which may be empty."""

Linear = tuple[Tensor, Tensor]
"""A classifier: weight (C, d) and bias (C,)."""


class Heads:
    """One linear classifier for each learning rate, with the same initial weights and the same batches.

    They are independent: each ends with the weights that it would have if trained alone. ``settings`` are those of the
    optimizer: ``weight_decay`` and ``momentum``.
    """

    def __init__(
        self,
        start: nn.Linear,
        count: int,
        optimizer: str,
        *,
        device: torch.device,
        **settings: Any,
    ) -> None:
        self.layers = [copy.deepcopy(start).to(device) for _ in range(count)]
        groups = [{"params": list(layer.parameters())} for layer in self.layers]
        self.optimizer = create_optimizer(optimizer, groups, 0.0, settings)
        dtype = widest_float(device)
        self.sums = torch.zeros(2, count, dtype=dtype, device=device)  # losses and correct predictions

    def set_rates(self, rates: Sequence[float]) -> None:
        """Sets the learning rate of each classifier."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def update(self, x: Tensor, y: Tensor, count: int) -> None:
        """One step of every classifier on a batch of ``count`` rows, of which this rank has the features ``x`` (B, d)
        and class indices ``y`` (B,)."""
        weight, bias = torch.cat([head.weight for head in self.layers]), torch.cat([head.bias for head in self.layers])
        logits = F.linear(x, weight, bias).unflatten(1, (len(self.layers), -1))  # (B, K, C), in one product
        each = F.cross_entropy(logits.flatten(0, 1), y.repeat_interleave(len(self.layers)), reduction="none")
        losses = each.view(len(x), len(self.layers)).sum(dim=0) / count
        self.optimizer.zero_grad()
        losses.sum().backward()
        sums = torch.stack([losses.detach() * count, (logits.argmax(dim=2) == y[:, None]).sum(dim=0)])
        gradients = [p.grad for layer in self.layers for p in layer.parameters() if p.grad is not None]
        distributed.all_reduce_sum(sums, *gradients)
        self.optimizer.step()
        self.sums += sums

    def finish_epoch(self, n: int) -> tuple[list[float], list[float]]:
        """The mean loss and the training accuracy of each classifier over the ``n`` rows of the epoch."""
        losses, accuracies = (self.sums / n).tolist()
        self.sums.zero_()
        return losses, accuracies

    def classifiers(self) -> list[Linear]:
        """The current weight and bias of each classifier."""
        return [(layer.weight.detach(), layer.bias.detach()) for layer in self.layers]

    def state(self) -> Record:
        """The state for ``restore``; training then continues bit-identically."""
        layers = [layer.state_dict() for layer in self.layers]
        return {"layers": layers, "optimizer": self.optimizer.state_dict(), "sums": self.sums}

    def restore(self, state: Record, path: Path) -> None:
        """Loads a state that ``state`` returned, from the file ``path``.

        Raises:
            SSLToolError: if it is the state of other classifiers.
        """
        for layer, saved in zip(self.layers, state["layers"], strict=True):
            load_weights(layer, saved, path)
        load_optimizer(self.optimizer, state["optimizer"], path)
        self.sums.copy_(state["sums"])


def is_finite(classifier: Linear) -> bool:
    """Whether no weight and no bias is NaN or infinite."""
    return all(bool(part.isfinite().all()) for part in classifier)


@torch.inference_mode()
def score(batches: Batches, classifiers: Iterable[Linear], classes: int) -> list[dict[str, float] | None]:
    """The accuracies of each classifier in one pass over ``batches`` of all ranks, see ``Accuracy.result``; None for a
    classifier with a score that is not finite, whose accuracies have no meaning.

    The class indices of the batches are in [0, ``classes``).
    """
    classifiers = list(classifiers)
    accuracies = [Accuracy(classes, weight.device) for weight, _ in classifiers]
    infinite = torch.zeros(len(classifiers), dtype=torch.int64, device=classifiers[0][0].device)
    for x, y in batches:
        for i, ((weight, bias), accuracy) in enumerate(zip(classifiers, accuracies, strict=True)):
            scores = F.linear(x.to(weight.dtype), weight, bias)
            infinite[i] += ~scores.isfinite().all()
            accuracy.add(scores, y)
    distributed.all_reduce_sum(infinite)
    return [None if bad else accuracy.result() for accuracy, bad in zip(accuracies, infinite.tolist(), strict=True)]
