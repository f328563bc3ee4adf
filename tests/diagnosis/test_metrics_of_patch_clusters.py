"""The dense structure of patches: clusters whose terms are known, invariances, and an independent reference."""

from __future__ import annotations

import math

import pytest
import scipy.cluster.vq
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ssltool.diagnosis.metrics.of_patch_clusters import IN_GROUP, IN_IMAGE, clusters, dse
from ssltool.diagnosis.metrics.of_spectrum import effective_rank
from ssltool.errors import SSLToolError


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts_of_images(images: int = 8, each: int = 10, d: int = 40, spread: float = 0.0) -> Tensor:
    """Images of three parts of ``each`` patches; each part of each image has a direction of its own."""
    axes = torch.eye(d, dtype=torch.float64)[: 3 * images].reshape(images, 3, 1, d)
    return (axes + spread * gaussian(images, 3, each, d)).flatten(1, 2)


def test_tight_clusters_have_the_distances_and_ranks_of_their_directions():
    # 24 orthogonal directions, as many as there are clusters: the others are sqrt(2) away, and the patches, less their
    # mean, have length sqrt(1 - 1/24).
    found = dse(parts_of_images())
    assert found.details["inter"] == pytest.approx(math.sqrt(2 / (1 - 1 / IN_GROUP)))
    assert found.details["batch"] == found.details["image"] == pytest.approx(0, abs=1e-12)
    # One patch of each image: 8 orthogonal rows.
    assert found.details["dim"] == pytest.approx(1.0)
    assert float(found) == pytest.approx(math.sqrt(2 / (1 - 1 / IN_GROUP)) + 1)
    assert float(dse(parts_of_images(), weight=0.25)) == pytest.approx(float(found) - 0.75)


def test_the_spread_of_clusters_is_the_sum_of_their_singular_values():
    tokens = parts_of_images(spread=0.01)
    unit = normalize(tokens, dim=2)
    length = (unit - unit.mean(dim=(0, 1))).norm(dim=2).mean()
    spreads = [
        torch.linalg.svdvals(part - part.mean(dim=0)).sum() / math.sqrt(40)
        for image in unit
        for part in image.reshape(IN_IMAGE, 10, 40)
    ]
    wanted = float(torch.stack(spreads).mean() / length)
    found = dse(tokens)
    assert found.details["batch"] == pytest.approx(wanted)
    assert found.details["image"] == pytest.approx(wanted)
    assert float(found) == pytest.approx(found.details["inter"] - wanted + found.details["dim"])


def test_more_rows_than_dimensions_divide_by_the_root_of_their_number():
    unit = normalize(parts_of_images(images=1, each=10, d=4, spread=0.01), dim=2)
    length = (unit - unit.mean(dim=(0, 1))).norm(dim=2).mean()
    spreads = [torch.linalg.svdvals(part - part.mean(dim=0)).sum() / 3 for part in unit.reshape(IN_IMAGE, 10, 4)]
    assert dse(unit).details["image"] == pytest.approx(float(torch.stack(spreads).mean() / length))


def test_patches_that_spread_less_within_a_part_have_a_higher_structure():
    values = [float(dse(parts_of_images(spread=spread))) for spread in (0.0, 0.02, 0.05, 0.1)]
    assert values == sorted(values, reverse=True)


def test_images_that_become_equal_lower_the_dimension():
    one = gaussian(1, 16, 30)
    equal, different = dse(one.expand(8, 16, 30)[:, :1].contiguous()), dse(gaussian(8, 16, 30))
    assert equal.details["dim"] == pytest.approx(1 / 8)
    assert different.details["dim"] > 0.9


def test_the_dimension_is_the_effective_rank_of_a_patch_of_each_image():
    rows = gaussian(30, 1, 12)
    found = dse(rows.expand(30, 4, 12).contiguous())
    assert found.details["dim"] == pytest.approx(
        effective_rank(torch.linalg.svdvals(normalize(rows[:, 0], dim=1))) / 12
    )


def test_rotations_scales_and_the_order_of_patches_do_not_change_the_terms_of_clear_clusters():
    tokens = parts_of_images(spread=0.02)
    turned = 7 * tokens[:, torch.randperm(30)] @ torch.linalg.qr(gaussian(40, 40, seed=5))[0]
    for name in ("inter", "batch", "image"):
        assert dse(turned).details[name] == pytest.approx(dse(tokens).details[name])


def test_a_seed_gives_one_value_and_the_precision_hardly_matters():
    tokens = gaussian(10, 20, 12)
    assert float(dse(tokens, seed=3)) == float(dse(tokens, seed=3))
    assert float(dse(tokens.float())) == pytest.approx(float(dse(tokens)), rel=1e-4)
    assert dse(list(tokens.split(8))).details == dse(tokens).details


def test_equal_patches_and_single_patches_have_no_structure():
    assert math.isnan(dse(torch.ones(4, 9, 5)))
    assert math.isnan(dse(3 * torch.ones(4, 9, 5) * torch.arange(1, 10)[:, None]))
    single = dse(gaussian(40, 1, 5))
    assert math.isnan(single) and math.isnan(single.details["image"]) and single.details["inter"] > 0


def test_patches_that_are_not_finite_or_not_of_images_are_refused():
    bad = gaussian(3, 4, 5)
    bad[1, 2, 3] = math.nan
    for tokens in (bad, gaussian(4, 5), torch.zeros(0, 4, 5)):
        with pytest.raises(SSLToolError):
            dse(tokens)


def test_clusters_are_no_worse_than_those_of_scipy():
    rows = normalize(gaussian(200, 6) + 3 * torch.eye(6, dtype=torch.float64)[torch.arange(200) % 4], dim=1)
    assigned, centroids = clusters(rows, 4, torch.Generator().manual_seed(0))
    inertia = float((rows - centroids[assigned]).square().sum())
    found, _ = scipy.cluster.vq.kmeans2(rows.numpy(), 4, minit="++", seed=0, iter=50)
    theirs = float((scipy.cluster.vq.vq(rows.numpy(), found)[1] ** 2).sum())
    assert inertia <= 1.05 * theirs
    means = torch.stack([rows[assigned == number].mean(dim=0) for number in range(4)])
    torch.testing.assert_close(centroids, means)


def test_fewer_different_rows_than_clusters_give_a_cluster_each():
    rows = torch.eye(3, dtype=torch.float64).repeat(5, 1)
    assigned, centroids = clusters(rows, 10, torch.Generator().manual_seed(0))
    assert len(centroids) == 3 and torch.equal(centroids[assigned], rows)


def test_equal_patches_of_different_images_have_a_high_structure_as_the_definition_has_it():
    tokens = parts_of_images(spread=0.05)
    smooth = tokens.mean(dim=1, keepdim=True).expand_as(tokens).contiguous()
    assert float(dse(smooth)) > float(dse(tokens))
    assert dse(smooth).details["image"] == pytest.approx(0, abs=1e-12)
