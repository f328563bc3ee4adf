"""Views of several sizes through one network."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor


def by_size(network: Callable[[Tensor], Tensor], views: list[Tensor]) -> list[Tensor]:
    """``network`` of each view; neighbours of one size go through it together, so they share batch statistics."""
    out: list[Tensor] = []
    for _, group in groupby(views, key=lambda view: view.shape[-1]):
        out += together(network, list(group))
    return out


def together(network: Callable[[Tensor], Tensor], parts: list[Tensor]) -> list[Tensor]:
    """``network`` of all ``parts`` at once, in as many parts."""
    return list(network(torch.cat(parts)).split([len(part) for part in parts]))
