"""Forward passes of one network on views of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor


def forward_by_size(network: Callable[[Tensor], Tensor], views: list[Tensor]) -> list[Tensor]:
    """``network(view)`` for each view. Consecutive views of the same size share a forward pass and batch statistics."""
    out: list[Tensor] = []
    for _, group in groupby(views, key=lambda view: view.shape[-1]):
        out += forward_concatenated(network, list(group))
    return out


def forward_concatenated(network: Callable[[Tensor], Tensor], parts: list[Tensor]) -> list[Tensor]:
    """``network`` of the concatenated ``parts``, split again into parts."""
    return list(network(torch.cat(parts)).split([len(part) for part in parts]))
