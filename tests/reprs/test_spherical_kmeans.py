"""Spherical k-means against plain loops, and where clusters are known, empty, or fewer than asked for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import rows, unit
from ssltool.errors import SSLToolError
from ssltool.reprs import spherical_kmeans as module
from ssltool.reprs.spherical_kmeans import distant_rows, spherical_kmeans
from target_helpers import array


def directions(n: int = 40, d: int = 4, seed: int = 0) -> Tensor:
    """Random rows of length 1, float64."""
    return torch.from_numpy(unit(rows(1, n, d, seed)[0]))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(x: Tensor, count: int, seed: int = 0) -> list[int]:
    """Which rows the centroids start from."""
    return torch.randperm(len(x), generator=generator(seed))[:count].tolist()


def by_loops(x: Tensor, count: int, iterations: int, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    points = array(x)
    centroids = [points[i] for i in start(x, count, seed)]

    def nearest() -> list[int]:
        return [max(range(count), key=lambda k: float(point @ centroids[k])) for point in points]

    for _ in range(iterations):
        found = nearest()
        for k in range(count):
            members = [point for point, number in zip(points, found, strict=True) if number == k]
            if members:
                centroids[k] = sum(members) / np.linalg.norm(sum(members))
    return np.array(centroids), nearest()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "iterations"), [(2, 1), (5, 3), (12, 10)])
def test_clusters_are_those_of_plain_loops(seed, count, iterations):
    x = directions(seed=seed)
    centroids, found = spherical_kmeans(x, count, iterations, generator(seed))
    wanted, numbers = by_loops(x, count, iterations, seed)
    assert centroids.numpy() == pytest.approx(wanted, abs=1e-12)
    assert found.tolist() == numbers


@pytest.mark.parametrize("iterations", [1, 10])
def test_separated_clusters_are_found(iterations):
    truth = torch.arange(30) % 3
    x = torch.from_numpy(unit(torch.eye(3, 4, dtype=torch.float64)[truth] + 0.05 * rows(1, 30, 4)[0]))
    one_of_each = next(seed for seed in range(100) if len({int(truth[i]) for i in start(x, 3, seed)}) == 3)
    centroids, found = spherical_kmeans(x, 3, iterations, generator(one_of_each))
    for number in range(3):
        (cluster,) = set(found[truth == number].tolist())
        mean = array(x)[truth == number].sum(axis=0)
        assert centroids[cluster].numpy() == pytest.approx(mean / np.linalg.norm(mean), abs=1e-12)
    assert len(set(found.tolist())) == 3


def test_an_empty_cluster_is_not_updated():
    x = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 1]]
    centroids, found = spherical_kmeans(x, 4, 5, generator())
    assert len(set(found.tolist())) == 2
    assert torch.equal(centroids, x[start(x, 4)])


def test_with_as_many_clusters_as_rows_each_row_is_a_cluster():
    x = directions(n=9)
    centroids, found = spherical_kmeans(x, 9, 10, generator())
    assert sorted(found.tolist()) == list(range(9))
    torch.testing.assert_close(centroids[found], x)


def test_one_cluster_is_the_mean_direction():
    x = directions()
    centroids, found = spherical_kmeans(x, 1, 1)
    assert centroids[0].numpy() == pytest.approx(array(x).sum(axis=0) / np.linalg.norm(array(x).sum(axis=0)))
    assert set(found.tolist()) == {0}


def test_centroids_have_length_1_and_rows_are_assigned_to_the_nearest():
    x = directions()
    centroids, found = spherical_kmeans(x, 7, 10, generator())
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(7, dtype=torch.float64))
    assert torch.equal(found, (x @ centroids.T).argmax(dim=1))


def test_iterations_never_decrease_the_objective():
    x = directions(n=100)
    fits = []
    for iterations in range(12):
        centroids, found = spherical_kmeans(x, 8, iterations, generator())
        fits.append(float((x * centroids[found]).sum()))
    assert all(b >= a - 1e-12 for a, b in pairwise(fits))
    assert fits[-1] > fits[0]


def test_clusters_depend_only_on_the_generator():
    x = directions(seed=3)
    a, b, other = (spherical_kmeans(x, 6, 5, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert not torch.equal(a[0], other[0])
    before = torch.get_rng_state()
    spherical_kmeans(x, 6, 5, generator(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_rotated_rows_have_the_rotated_clusters():
    x, turn = directions(), torch.linalg.qr(rows(1, 4, 4, 9)[0]).Q
    centroids, found = spherical_kmeans(x, 5, 10, generator())
    turned, same = spherical_kmeans(x @ turn, 5, 10, generator())
    torch.testing.assert_close(turned, centroids @ turn)
    assert torch.equal(same, found)


@pytest.mark.parametrize("block", [1, 7, 40])
def test_the_result_does_not_depend_on_the_block_size(monkeypatch, block):
    wanted = spherical_kmeans(directions(), 5, 4, generator())
    monkeypatch.setattr(module, "ROWS_PER_BLOCK", block)
    found = spherical_kmeans(directions(), 5, 4, generator())
    torch.testing.assert_close(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


def test_the_result_does_not_depend_on_autocast():
    x = directions(n=500).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        centroids, found = spherical_kmeans(x, 50, 5, generator())
    wanted = spherical_kmeans(x, 50, 5, generator())
    assert centroids.dtype == torch.float32
    assert torch.equal(centroids, wanted[0]) and torch.equal(found, wanted[1])


def test_clusters_have_no_gradient():
    assert not spherical_kmeans(directions().requires_grad_(), 3, 2)[0].requires_grad


def test_more_clusters_than_rows_are_refused():
    with pytest.raises(SSLToolError, match="40 rows and 41 clusters"):
        spherical_kmeans(directions(), 41)


def test_initial_centroids_are_rows_of_different_directions():
    x = directions()
    found = distant_rows(x, 12, generator())
    assert len(found) == 12 == len(found.unique(dim=0))
    assert all(bool((x == row).all(dim=1).any()) for row in found)


def test_there_are_no_more_initial_centroids_than_directions():
    three = directions(3)
    found = distant_rows(three.repeat(10, 1), 8, generator())
    assert torch.equal(found.unique(dim=0), three.unique(dim=0))
    assert len(distant_rows(three, 5, generator())) == 3


@pytest.mark.parametrize("seed", range(5))
def test_initial_centroids_are_in_all_of_several_tight_clusters(seed):
    """With k-means++, the clusters of K random rows would miss some of them: 10 of 10 has a chance of 10! / 10^10."""
    centres = torch.eye(10, dtype=torch.float64)
    x = torch.nn.functional.normalize(centres.repeat(30, 1) + 1e-4 * rows(1, 300, 10, seed)[0], dim=1)
    found = distant_rows(x, 10, generator(seed))
    assert sorted((found @ centres).argmax(dim=1).tolist()) == list(range(10))
