"""Masks of blocks: how many images and patches are masked, what their blocks look like, and what decides them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssltool.methods.parts.block_masks import block_masks, masked_count


def made(images: int = 40, side: int = 14, share: float = 0.5, ratio=(0.1, 0.5), seed: int = 0) -> Tensor:
    return block_masks(images, (side, side), share, ratio, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("side", [2, 4, 14])
def test_exactly_the_share_of_the_images_is_masked(share, side):
    masks = made(share=share, side=side)
    assert masks.shape == (40, side**2) and masks.dtype == torch.bool
    assert int(masks.any(dim=1).sum()) == masked_count(40, share) == int(40 * share)


def test_the_numbers_of_masked_patches_are_spread_evenly_over_the_ratio():
    counts = made(images=80).sum(dim=1)
    found = counts[counts > 0].sort().values
    for place, count in enumerate(found.tolist()):
        low, high = (0.1 + 0.4 * (place + more) / 40 for more in (0, 1))
        assert int(196 * low) <= count <= int(196 * high)


@pytest.mark.parametrize("ratio", [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_a_masked_image_has_the_patches_that_the_ratio_asks_for_and_at_least_one(ratio):
    assert set(made(share=1.0, ratio=ratio).sum(dim=1).tolist()) == {max(1, int(196 * ratio[0]))}


def test_most_masked_patches_lie_in_blocks():
    """Where patches are drawn one by one, a fifth of them has both neighbours masked to the right and below."""
    masks = made(images=100, share=1.0, ratio=(0.45, 0.45)).view(100, 14, 14)
    inner = masks[:, :-1, :-1]
    both = (masks[:, :-1, 1:] & masks[:, 1:, :-1] & inner).sum() / inner.sum()
    assert float(both) > 0.5


def test_masks_depend_on_the_generator_only():
    assert torch.equal(made(), made())
    assert not torch.equal(made(), made(seed=1))


def test_every_patch_is_masked_in_some_images_and_not_in_others():
    often = made(images=400, share=1.0).float().mean(dim=0)
    assert 0.02 < float(often.min()) <= float(often.max()) < 0.7


def test_a_single_patch_can_be_masked():
    assert block_masks(4, (1, 1), 1.0, (0.1, 0.5), torch.Generator()).all()


def test_a_grid_need_not_be_square():
    masks = block_masks(10, (3, 5), 1.0, (0.5, 0.5), torch.Generator().manual_seed(0))
    assert masks.shape == (10, 15)
    assert masks.sum(dim=1).tolist() == [7] * 10
