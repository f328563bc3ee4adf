"""Random masks of blocks of patches, as BEiT (arXiv:2106.08254) introduced them and iBOT and DINOv2 use them."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

TRIES = 10
"""Blocks that are drawn in a row without one that fits, before the rest of a mask is drawn patch by patch."""

SMALLEST_BLOCK = 4
"""The fewest patches of a block, except for the last block of a mask."""

LOG_ASPECT = math.log(0.3), math.log(1 / 0.3)


def masked_count(images: int, share: float) -> int:
    """How many of ``images`` are masked if a ``share`` of them is."""
    return int(images * share)


def block_masks(
    images: int, grid: tuple[int, int], share: float, ratio: tuple[float, float], generator: Generator
) -> Tensor:
    """Masks (images, P) of the P patches of a grid of rows and columns; true where a patch is masked.

    A ``share`` of the images, drawn at random, is masked. Their shares of masked patches are spread evenly over
    ``ratio``, at least one patch each, as in DINOv2's released code. A mask is made of rectangles, whose ratio of
    height to width lies between 0.3 and 1/0.3; when no rectangle fits any more, single patches complete it.
    """
    patches, count = grid[0] * grid[1], masked_count(images, share)
    rank = torch.rand(images, generator=generator).argsort()
    part = (rank + torch.rand(images, generator=generator)) / max(1, count)
    wanted = ((ratio[0] + part * (ratio[1] - ratio[0])) * patches).long().clamp(1, patches)
    wanted = wanted.where(rank < count, 0)
    masks = torch.zeros(images, *grid, dtype=torch.bool)
    failures = torch.zeros(images, dtype=torch.int64)
    while True:
        left = wanted - masks.flatten(1).sum(dim=1)
        open_ = (left > 0) & (failures < TRIES)
        if not open_.any():
            return _completed(masks.flatten(1), wanted, generator)
        blocks = _blocks(left, grid, generator)
        added = (blocks & ~masks).flatten(1).sum(dim=1)
        fits = open_ & (added > 0) & (added <= left)
        masks = masks | (blocks & fits[:, None, None])
        failures = (failures + 1).where(~fits, 0)


def _blocks(left: Tensor, grid: tuple[int, int], generator: Generator) -> Tensor:
    """A rectangle for each image (images, rows, columns), of at most about ``left`` patches; empty if it is as high or
    as wide as the grid."""
    area, aspect, top, start = torch.rand(4, len(left), generator=generator)
    smallest = left.clamp(max=SMALLEST_BLOCK)
    area = smallest + area * (left - smallest)
    aspect = (LOG_ASPECT[0] + aspect * (LOG_ASPECT[1] - LOG_ASPECT[0])).exp()
    sides = ((area * aspect).sqrt(), (area / aspect).sqrt())
    inside = torch.ones(len(left), *grid, dtype=torch.bool)
    for axis, (side, size, place) in enumerate(zip(sides, grid, (top, start), strict=True)):
        length = side.round().clamp(min=1).long()
        first = (place * (size - length + 1)).floor()
        numbers = torch.arange(size)
        along = (numbers >= first[:, None]) & (numbers < (first + length)[:, None]) & (length < size)[:, None]
        inside &= along[:, :, None] if axis == 0 else along[:, None, :]
    return inside


def _completed(masks: Tensor, wanted: Tensor, generator: Generator) -> Tensor:
    """``masks`` (images, P) with further random patches, up to the number that is ``wanted`` of each image."""
    order = (torch.rand(masks.shape, generator=generator) + masks).argsort(dim=1, descending=True).argsort(dim=1)
    return order < wanted[:, None]
