"""Metrics of clusters of the patches of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssltool import seeds
from ssltool.diagnosis.metrics.of_rows import unit_length
from ssltool.diagnosis.metrics.of_spectrum import effective_rank
from ssltool.diagnosis.metrics.of_tokens import Images, image_blocks
from ssltool.diagnosis.metrics.shared import Detailed, from_centre
from ssltool.reprs.spherical_kmeans import distant_rows

IN_IMAGE = 3
"""Number of clusters of the patches of an image."""

IN_GROUP = 24
"""Number of clusters of the patches of a group of images."""

ITERATIONS = 20
"""Maximum number of iterations of k-means."""

DRAWS = 8
"""Number of times that a patch of each image is drawn."""

EQUAL = 1e-12
"""Patches whose mean distance to their mean is at most this are equal."""


def dse(tokens: Images, weight: float = 1.0, *, seed: int = 0) -> Detailed:
    """Dense structure: M_inter - (M_batch + M_image) / 2 + ``weight`` M_dim, of L2-normalised patches (Dai et al.,
    NeurIPS 2025, arXiv:2510.17299).

    Range [-inf, inf]: the authors find that higher is better for dense tasks. The details are its parts. ``inter``:
    mean distance of a patch to the nearest centroid of another cluster, of the 24 clusters of a group of 8 images.
    ``batch`` and ``image``: mean over the clusters of a group, and over the 3 of an image, of sum(s) /
    sqrt(max(n - 1, d)), s the singular values of the n centred patches of a cluster; clusters of a single patch do not
    count. These three are divided by the mean length of the centred patches. ``dim``: effective rank, not centred, of
    one patch of each image, divided by min(N, d).

    It is no measure of collapse: if all patches of each image become equal, ``batch`` and ``image`` are 0 and the value
    rises. Read it beside ``patch_cosine`` and ``patch_rank``.

    The definition is that of the authors' code for evaluation. There ``dim`` is the mean over as many draws as an image
    has patches, here over at most 8; k-means++ draws by the distance, here by its square. ``weight`` is 1 in the code.
    In the paper it is the standard deviation of the other terms over that of M_dim among the compared checkpoints, so
    it needs several. ``dim`` depends on the number of images: compare values of equal N. A block of images of an
    iterable is a group; the last group may be smaller. NaN if all patches have one direction, or for one patch per
    image.
    """
    length = _mean_length(tokens)
    inter, batch, image, drawn = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    count = 0
    for block in image_blocks(tokens):
        unit = unit_length(block)
        rows = unit.flatten(0, 1)
        assigned, centroids = clusters(rows, IN_GROUP, seeds.generator(seed, count, 0, seeds.Stream.METRICS))
        inter.append(_to_other_clusters(rows, assigned, centroids))
        batch += _spreads(rows, assigned)
        for patches in unit:
            generator = seeds.generator(seed, count, 1, seeds.Stream.METRICS)
            found = _spreads(patches, clusters(patches, IN_IMAGE, generator)[0])
            image += [torch.stack(found).mean()] if found else []
            drawn.append(patches[torch.randperm(len(patches), generator=generator)[:DRAWS].to(patches.device)])
            count += 1
    parts = {name: _mean(values) / length for name, values in (("inter", inter), ("batch", batch), ("image", image))}
    dim = sum(_relative_rank(rows) for rows in torch.stack(drawn, dim=1)) / len(drawn[0])
    value = parts["inter"] - (parts["batch"] + parts["image"]) / 2 + weight * dim
    return Detailed(value, **parts, dim=dim, images=count)


def clusters(rows: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """k-means of ``rows`` (N, d) of length 1, by k-means++ and Lloyd's algorithm: the cluster (N,) of each, and the
    centroids (K, d), which are means.

    K is ``count``, or the number of different rows if that is lower. The result depends neither on rotations nor on the
    order of the rows. A centroid without rows is not updated.
    """
    order = from_centre(rows)
    rows = rows[order]
    centroids = distant_rows(rows, count, generator)
    assigned = torch.cdist(rows, centroids).argmin(dim=1)
    for _ in range(ITERATIONS):
        sizes = torch.bincount(assigned, minlength=len(centroids))[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, assigned, rows)
        centroids = torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)
        previous, assigned = assigned, torch.cdist(rows, centroids).argmin(dim=1)
        if torch.equal(previous, assigned):
            break
    return torch.empty_like(assigned).index_copy_(0, order, assigned), centroids


def _mean_length(tokens: Images) -> float:
    """Mean length of the L2-normalised patches, centred; NaN if it is 0."""
    total, count = torch.zeros(()), 0
    for block in image_blocks(tokens):
        unit = unit_length(block).flatten(0, 1)
        total, count = total + unit.sum(dim=0), count + len(unit)
    lengths = sum(
        float(torch.linalg.vector_norm(unit_length(block) - total / count, dim=2).sum())
        for block in image_blocks(tokens)
    )
    return lengths / count if lengths > EQUAL * count else math.nan


def _to_other_clusters(rows: Tensor, assigned: Tensor, centroids: Tensor) -> Tensor:
    """Mean distance of the rows to the nearest centroid of another cluster; NaN if there is one cluster."""
    if len(centroids) < 2:
        return rows.new_tensor(math.nan)
    distances = torch.cdist(rows, centroids)
    return distances.scatter(1, assigned[:, None], math.inf).amin(dim=1).mean()


def _spreads(rows: Tensor, assigned: Tensor) -> list[Tensor]:
    """sum(s) / sqrt(max(n - 1, d)) of each cluster of at least two rows."""
    found = []
    for number in assigned.unique():
        own = rows[assigned == number]
        if len(own) > 1:
            values = torch.linalg.svdvals(own - own.mean(dim=0))
            found.append(values.sum() / math.sqrt(max(len(own) - 1, own.shape[1])))
    return found


def _relative_rank(rows: Tensor) -> float:
    """Effective rank of ``rows`` (n, d), not centred, divided by min(n, d)."""
    return effective_rank(torch.linalg.svdvals(rows)) / min(rows.shape)


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean()) if values else math.nan
