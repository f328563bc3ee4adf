"""The metrics of patches in batches, against all images at once."""

from __future__ import annotations

import math

import pytest
import torch

from ssltool.diagnosis import patch_sums
from ssltool.diagnosis.metrics.of_tokens import patch_cosine, patch_rank
from ssltool.diagnosis.patch_sums import PatchSums


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("most", [4, 9, 128])
def test_batches_give_the_metrics_of_all_images_and_the_rank_of_some_at_equal_distances(monkeypatch, batch, most):
    monkeypatch.setattr(patch_sums, "RANKED", most)
    patches = torch.randn(20, 9, 5, generator=torch.Generator().manual_seed(0)) + 1
    sums = PatchSums(20)
    for block in patches.split(batch):
        sums.update(block)
    ranked = patches[:: {4: 5, 9: 3, 128: 1}[most]]
    assert len(ranked) <= most
    wanted = {"patch_cosine": patch_cosine(patches), "patch_rank": float(patch_rank(ranked))}
    assert sums.metrics() == pytest.approx(wanted, rel=1e-12)


def test_equal_patches_have_cosine_one_and_rank_zero():
    sums = PatchSums(3)
    sums.update(torch.randn(3, 1, 6).expand(3, 4, 6))
    assert sums.metrics() == pytest.approx({"patch_cosine": 1.0, "patch_rank": 0.0})


def test_single_patches_have_no_metrics():
    sums = PatchSums(2)
    sums.update(torch.randn(2, 1, 6))
    assert all(math.isnan(value) for value in sums.metrics().values())
