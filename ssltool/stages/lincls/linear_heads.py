"""Linear classifiers trained side by side on the same features, each at its own learning rate, and their scores."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.files import Record
from ssltool.training.classification import Accuracy
from ssltool.training.optimizers import create_optimizer
from ssltool.training.precision import widest_float

Batches = Iterator[tuple[Tensor, Tensor]]
"""Features (B, d) and the places of their classes (B,)."""

Linear = tuple[Tensor, Tensor]
"""A classifier: weight (C, d) and bias (C,)."""


class Heads:
    """One classifier for each learning rate. All start from the same weights and see the same batches, and none affects
    another: each ends with the weights that it would have had alone. ``settings`` are those of the optimizer:
    ``weight_decay`` and ``momentum``."""

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
        self.sums = torch.zeros(2, count, dtype=dtype, device=device)  # of losses and of hits, by classifier

    def set_rates(self, rates: Sequence[float]) -> None:
        """The rate of each classifier from here on."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def update(self, x: Tensor, y: Tensor) -> None:
        """One step of every classifier on features (B, d) with classes (B,)."""
        weight, bias = torch.cat([one.weight for one in self.layers]), torch.cat([one.bias for one in self.layers])
        scores = F.linear(x, weight, bias).unflatten(1, (len(self.layers), -1))  # (B, K, C), in one product
        each = F.cross_entropy(scores.flatten(0, 1), y.repeat_interleave(len(self.layers)), reduction="none")
        losses = each.unflatten(0, (len(x), -1)).mean(dim=0)
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()
        hits = (scores.argmax(dim=2) == y[:, None]).sum(dim=0)
        self.sums += torch.stack([losses.detach() * len(x), hits])

    def finish_epoch(self, n: int) -> tuple[list[float], list[float]]:
        """The mean loss and the training accuracy of each classifier over the ``n`` rows of the epoch."""
        losses, hits = (self.sums / n).tolist()
        self.sums.zero_()
        return losses, hits

    def classifiers(self) -> list[Linear]:
        """Each classifier as it stands."""
        return [(layer.weight.detach(), layer.bias.detach()) for layer in self.layers]

    def state(self) -> Record:
        """What ``restore`` needs to resume the training bit for bit."""
        layers = [layer.state_dict() for layer in self.layers]
        return {"layers": layers, "optimizer": self.optimizer.state_dict(), "sums": self.sums}

    def restore(self, state: Record) -> None:
        """Goes on from ``state``."""
        for layer, saved in zip(self.layers, state["layers"], strict=True):
            layer.load_state_dict(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.sums.copy_(state["sums"])


@torch.inference_mode()
def score(batches: Batches, classifiers: Iterable[Linear], classes: int) -> list[dict[str, float]]:
    """The accuracies of each classifier in one pass over ``batches``, whose places are below ``classes``; see
    ``Accuracy.result``."""
    linear = list(classifiers)
    counts = [Accuracy(classes, weight.device) for weight, _ in linear]
    for x, y in batches:
        for (weight, bias), count in zip(linear, counts, strict=True):
            count.add(F.linear(x.to(weight.dtype), weight, bias), y)
    return [count.result() for count in counts]
