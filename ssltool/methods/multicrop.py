"""Several crops of each image: two large ones, and small ones that see a part (SwAV, Sec. 3.3 of arXiv:2006.09882)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ssltool.data.views import Recipe
from ssltool.methods.base import RunFacts
from ssltool.models.backbones import patch_size

SMALLEST = 0.05
"""Area of the smallest crop as a share of the image, as in SwAV and DINO."""


def small_crops(base: Recipe, options: Any, run: RunFacts) -> list[Recipe]:
    """The recipes of ``options.local_crops`` crops of ``options.local_size`` pixels.

    Their area lies between 5 % of the image and the smallest of ``base``; otherwise they are made like ``base``.
    """
    limit = base.crop_scale[0]
    side = options.local_size or default_size(run.image_size)
    small = dataclasses.replace(base, crop_scale=(min(SMALLEST, limit), limit), size=side)
    return [small] * int(options.local_crops)


def default_size(image_size: int) -> int:
    """96 for 224, in proportion for others, in whole patches of a ViT."""
    patch = patch_size(image_size)
    return max(1, round(image_size * 96 / 224 / patch)) * patch


def by_size(network: Callable[[Tensor], Tensor], views: list[Tensor]) -> list[Tensor]:
    """``network`` of each view; neighbours of one size go through it together, so they share batch statistics."""
    out: list[Tensor] = []
    for _, group in groupby(views, key=lambda view: view.shape[-1]):
        out += together(network, list(group))
    return out


def together(network: Callable[[Tensor], Tensor], parts: list[Tensor]) -> list[Tensor]:
    """``network`` of all ``parts`` at once, in as many parts."""
    return list(network(torch.cat(parts)).split([len(part) for part in parts]))
