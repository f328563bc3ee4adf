"""Multi-crop: sizes and areas of crops, and shared forward passes of crops of the same size."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from methods_helpers import build
from ssltool.data.views import PAPER
from ssltool.methods import method_options
from ssltool.methods.parts.crops import default_local_size, small_crops
from ssltool.methods.parts.multicrop import forward_by_size, forward_concatenated
from ssltool.models.vit import patch_size

METHODS = ("swav", "deepcluster", "dino", "simdino", "ibot", "dinov2", "paws")


def views(*shapes: tuple[int, int]) -> list[torch.Tensor]:
    """A view of n images of a side, for each (n, side)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, side, side, generator=generator) for n, side in shapes]


class Counting(nn.Module):
    """Returns means of pixels and records the shapes of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        return x.mean(dim=(2, 3))


def test_small_crops_of_224_pixels_have_the_papers_96():
    assert default_local_size(224) == 96


@pytest.mark.parametrize(
    ("image_size", "patches", "patch"),
    # 96/224 of the side is 13.7, 27.4, 41.1 and 3.4 pixels.
    [(32, 3, 4), (64, 7, 4), (96, 3, 16), (8, 1, 4)],
)
def test_small_crops_are_in_proportion_and_made_of_whole_patches(image_size, patches, patch):
    assert default_local_size(image_size) == patches * patch


@pytest.mark.parametrize("image_size", range(8, 257, 4))
def test_small_crops_are_whole_patches_near_the_papers_proportion(image_size):
    patch, found = patch_size(image_size), default_local_size(image_size)
    assert found % patch == 0
    assert found >= patch
    assert abs(found - image_size * 96 / 224) <= patch / 2 or found == patch


@pytest.mark.parametrize("count", [0, 1, 6])
def test_local_crops_sets_the_number_of_small_crops(count):
    options = method_options("swav", {"local_crops": count})
    assert len(small_crops(PAPER, options, 8)) == count


@pytest.mark.parametrize(("smallest", "scale"), [(0.14, (0.05, 0.14)), (0.3, (0.05, 0.3)), (0.02, (0.02, 0.02))])
def test_small_crops_differ_from_large_ones_only_in_scale_and_size(smallest, scale):
    base = dataclasses.replace(PAPER, crop_scale=(smallest, 1.0), gray_p=0.7, solarize_p=0.1)
    crops = small_crops(base, method_options("swav", {}), 224)
    assert crops == [dataclasses.replace(base, crop_scale=scale, size=96)] * 6


def test_a_given_local_size_is_used():
    crops = small_crops(PAPER, method_options("swav", {"local_size": 18}), 224)
    assert {crop.size for crop in crops} == {18}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("count", [0, 3])
def test_a_multi_crop_method_asks_for_two_large_views_and_then_the_small_ones(name, count):
    more = {} if name in ("paws", "simdino") else {"prototypes": 5}
    made = build(name, local_crops=count, **more).view_recipes(PAPER)
    assert made[:2] == [PAPER, PAPER]
    assert made[2:] == [dataclasses.replace(PAPER, crop_scale=(0.05, 0.2), size=4)] * count


@pytest.mark.parametrize(
    ("name", "count"),
    [("swav", 6), ("deepcluster", 6), ("dino", 8), ("simdino", 8), ("ibot", 10), ("dinov2", 8), ("paws", 6)],
)
def test_the_number_of_small_crops_is_the_papers(name, count):
    options = method_options(name, {})
    assert (options.local_crops, options.local_size) == (count, None)


@pytest.mark.parametrize(
    ("sides", "batches"),
    [((8, 8), [4]), ((8, 8, 4, 4, 4), [4, 6]), ((8, 4, 8), [2, 2, 2]), ((4,), [2])],
)
def test_consecutive_views_of_the_same_size_share_a_forward_pass(sides, batches):
    network, given = Counting(), views(*((2, side) for side in sides))
    found = forward_by_size(network, given)
    assert [shape[0] for shape in network.shapes] == batches
    for out, view in zip(found, given, strict=True):
        torch.testing.assert_close(out, view.mean(dim=(2, 3)))


def test_parts_of_different_lengths_share_a_forward_pass():
    network, given = Counting(), views((5, 4), (2, 4), (3, 4))
    found = forward_concatenated(network, given)
    assert network.shapes == [(10, 3, 4, 4)]
    assert [len(out) for out in found] == [5, 2, 3]
    for out, view in zip(found, given, strict=True):
        torch.testing.assert_close(out, view.mean(dim=(2, 3)))


def test_views_of_one_size_share_batch_statistics_and_those_of_another_do_not():
    norm = nn.BatchNorm2d(3, affine=False)
    a, b, c = views((4, 8), (4, 8), (4, 4))
    b, c = b + 5, c - 5
    found = forward_by_size(lambda x: norm(x).flatten(1), [a, b, c])
    both = torch.cat([a, b])
    mean, deviation = (f(both, dim=(0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    for out, view in zip(found, (a, b), strict=False):
        torch.testing.assert_close(out, ((view - mean) / deviation).flatten(1), rtol=0.01, atol=0.01)
    torch.testing.assert_close(found[2].mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
