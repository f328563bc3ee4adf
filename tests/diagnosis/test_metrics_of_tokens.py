"""Metrics of patch tokens: closed forms, invariances, independent loops, small, constant and non-finite input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss, normalize

from ssltool.diagnosis.metrics.of_spectrum import effective_rank
from ssltool.diagnosis.metrics.of_tokens import (
    cls_patch_cosine,
    gram_drift,
    high_norm_tokens,
    patch_cosine,
    patch_rank,
)
from ssltool.diagnosis.spectrum import singular_values
from ssltool.errors import SSLToolError


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(gaussian(d, d, seed=9))[0]


def simplex(p: int) -> Tensor:
    """p directions with equal angles, as large as possible."""
    return torch.eye(p, dtype=torch.float64) - 1 / p


ALONE = (patch_cosine, patch_rank, high_norm_tokens)
TOKENS = gaussian(11, 6, 8) * 3 + 1


def test_the_patch_cosine_is_the_mean_over_pairs_of_different_patches_of_an_image():
    pairs = [
        cosine_similarity(image[i], image[j], dim=0) for image in TOKENS for i, j in itertools.combinations(range(6), 2)
    ]
    assert patch_cosine(TOKENS) == pytest.approx(float(torch.stack(pairs).mean()))


@pytest.mark.parametrize(
    ("image", "cosine"),
    [(torch.ones(5, 3), 1.0), (torch.eye(4), 0.0), (simplex(5), -1 / 4), (torch.tensor([[2.0], [-1.0]]), -1.0)],
)
def test_patches_of_known_angles_have_their_cosine(image, cosine):
    scales = torch.tensor([1.0, 7.0, 1e-3])[:, None, None]
    assert patch_cosine(image.double() * scales) == pytest.approx(cosine, abs=1e-12)


def test_patches_that_differ_between_images_only_are_oversmoothed():
    smooth = gaussian(20, 1, 16).expand(20, 9, 16)
    assert patch_cosine(smooth) == pytest.approx(1.0)
    assert float(patch_rank(smooth)) == 0.0
    assert patch_rank(smooth).details["over_all"] == pytest.approx(effective_rank(singular_values(smooth[:, 0])))


def test_the_rank_of_patches_is_that_of_each_image_and_that_of_all():
    wanted = [effective_rank(singular_values(image)) for image in TOKENS]
    found = patch_rank(TOKENS)
    assert float(found) == pytest.approx(sum(wanted) / len(wanted))
    assert found.details["over_all"] == pytest.approx(effective_rank(singular_values(TOKENS.flatten(0, 1))))
    assert float(patch_rank(simplex(6)[None])) == pytest.approx(5)


@pytest.mark.parametrize("function", ALONE)
def test_neither_rotations_nor_the_order_of_images_and_patches_change_a_value(function):
    moved = TOKENS[torch.randperm(11)][:, torch.randperm(6)] @ rotation(8)
    assert float(function(moved)) == pytest.approx(float(function(TOKENS)))
    assert float(function(TOKENS * 1e4)) == pytest.approx(float(function(TOKENS)))


@pytest.mark.parametrize("function", ALONE)
def test_blocks_of_images_and_other_precisions_give_the_same_value(function):
    whole = float(function(TOKENS))
    assert float(function(list(TOKENS.split([1, 7, 3])))) == pytest.approx(whole)
    assert float(function(TOKENS.float())) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_patches_of_several_times_the_usual_norm_are_counted(count):
    tokens = normalize(gaussian(20, 25, 10), dim=2) * (1 + 0.1 * gaussian(20, 25, 1, seed=1))
    tokens[3, :count] *= 10
    found = high_norm_tokens(tokens)
    assert float(found) == pytest.approx(count / 500)
    assert 2 * found.details["median"] <= found.details["cut"] < 5


def test_a_wide_distribution_of_norms_without_outliers_has_no_high_norms():
    assert float(high_norm_tokens(gaussian(100, 25, 2))) < 0.001
    assert float(high_norm_tokens(torch.zeros(3, 4, 5))) == 0.0
    almost_equal = torch.ones(3, 4, 5) * (1 + 1e-3 * torch.arange(3))[:, None, None]
    assert float(high_norm_tokens(almost_equal)) == 0.0


def test_the_class_token_is_compared_with_the_patches_of_its_image():
    cls = gaussian(11, 8, seed=2)
    wanted = cosine_similarity(cls[:, None], TOKENS, dim=2).mean()
    assert cls_patch_cosine(cls, TOKENS) == pytest.approx(float(wanted))
    assert cls_patch_cosine(cls, list(TOKENS.split(5))) == pytest.approx(float(wanted))
    assert cls_patch_cosine(cls, 3 * cls[:, None].expand(11, 6, 8)) == pytest.approx(1.0)
    assert cls_patch_cosine(TOKENS[:, 0], TOKENS[:, :1]) == pytest.approx(1.0)


@pytest.mark.parametrize("cls", [gaussian(10, 8), gaussian(12, 8), gaussian(11, 7)])
def test_class_tokens_of_other_images_are_refused(cls):
    with pytest.raises(SSLToolError, match="do not match"):
        cls_patch_cosine(cls, TOKENS)


def test_gram_drift_is_the_squared_error_of_the_matrices_of_cosines():
    before = gaussian(11, 6, 5, seed=3)
    grams = [unit @ unit.mT for unit in (normalize(TOKENS, dim=2), normalize(before, dim=2))]
    assert gram_drift(TOKENS, before) == pytest.approx(float(mse_loss(*grams)))
    assert gram_drift(before, TOKENS) == pytest.approx(float(mse_loss(*grams)))


def test_gram_drift_does_not_see_rotations_and_scales_and_sees_patches_that_become_equal():
    assert gram_drift(TOKENS, 5 * TOKENS @ rotation(8)) == pytest.approx(0, abs=1e-20)
    apart, equal = torch.eye(4)[None], torch.ones(1, 4, 4)
    assert gram_drift(equal, apart) == pytest.approx(12 / 16)


@pytest.mark.parametrize("before", [TOKENS[:10], TOKENS[:, :5], torch.cat([TOKENS, TOKENS])])
def test_gram_drift_of_other_images_or_patches_is_refused(before):
    with pytest.raises(SSLToolError, match="one shape"):
        gram_drift(TOKENS, before)


@pytest.mark.parametrize("function", ALONE)
@pytest.mark.parametrize("bad", [gaussian(4, 8), torch.zeros(0, 3, 4), torch.zeros(2, 0, 4), torch.zeros(2, 3, 0)])
def test_rows_that_are_not_patches_of_images_are_refused(function, bad):
    with pytest.raises(SSLToolError, match="patches"):
        function(bad)


@pytest.mark.parametrize("function", ALONE)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(function, value):
    bad = TOKENS.clone()
    bad[7, 2, 1] = value
    with pytest.raises(SSLToolError, match="NaN or infinite"):
        function(bad)


def test_a_cosine_of_pairs_needs_two_patches_and_other_metrics_one():
    with pytest.raises(SSLToolError, match="at least 2"):
        patch_cosine(TOKENS[:, :1])
    assert float(patch_rank(TOKENS[:, :1])) == 0.0
    assert float(patch_rank(TOKENS[:1, :1])) == patch_rank(TOKENS[:1, :1]).details["over_all"] == 0.0
