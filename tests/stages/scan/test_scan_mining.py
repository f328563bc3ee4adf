"""Mining of neighbours, the table of neighbours, and k-means."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from ssltool.data.images import ImageSet
from ssltool.errors import SSLToolError
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.reprs.representations import Representations
from ssltool.stages.scan.kmeans import kmeans, nearest_centroid
from ssltool.stages.scan.mining import NeighbourTable, mine

CPU = torch.device("cpu")


def rows(n: int = 12, d: int = 4, seed: int = 0, targets: list[int] | None = None) -> Representations:
    """Random rows; the images are numbered 100, 103, ..., so that numbers differ from row indices."""
    made = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    labels = torch.full((n,), -1) if targets is None else torch.tensor(targets)
    return Representations(made, labels, 100 + 3 * torch.arange(n), {"dataset": "made-up", "split": "train"})


def image_set(numbers: list[int], name: str = "made-up") -> ImageSet:
    return ImageSet(name, "train", np.full(len(numbers), -1), np.array(numbers))


def test_neighbours_are_those_of_a_naive_loop_without_the_image_itself():
    r = rows()
    found = mine(r, 3, CPU)
    x = r.representations / r.representations.norm(dim=1, keepdim=True)
    for i in range(len(r)):
        others = sorted((j for j in range(len(r)) if j != i), key=lambda j: -float(x[i] @ x[j]))[:3]
        assert found.indices[i].tolist() == others
        assert found.bank_index[i].tolist() == [100 + 3 * j for j in others]
        assert found.distances[i].tolist() == pytest.approx([1 - float(x[i] @ x[j]) for j in others], abs=1e-5)


def test_scaling_the_rows_does_not_change_the_neighbours():
    r = rows()
    longer = dataclasses.replace(r, representations=r.representations * torch.arange(1, 13)[:, None])
    assert torch.equal(mine(r, 4, CPU).indices, mine(longer, 4, CPU).indices)


def test_accuracy_is_the_fraction_of_labelled_pairs_with_the_same_label():
    x = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [0.1, 0.99]])
    targets = torch.tensor([0, 0, 1, 0])
    found = mine(Representations(x, targets, torch.arange(4)), 1, CPU)
    assert found.meta["accuracy"] == 0.5  # of 0 and 1 each other, of 2 and 3 each other
    assert mine(Representations(x, torch.tensor([0, 0, 1, -1]), torch.arange(4)), 1, CPU).meta["accuracy"] == 1.0
    assert mine(Representations(x, torch.full((4,), -1), torch.arange(4)), 1, CPU).meta["accuracy"] is None


def test_k_must_be_smaller_than_the_number_of_images():
    assert mine(rows(5), 4, CPU).indices.shape == (5, 4)
    with pytest.raises(SSLToolError, match=r"--neighbours 5 .*\(5\)"):
        mine(rows(5), 5, CPU)


def test_the_table_matches_images_by_their_numbers_in_any_order():
    found = mine(rows(), 3, CPU)
    order = np.random.default_rng(1).permutation(12)
    images = image_set([100 + 3 * i for i in order])
    table = NeighbourTable.of(found, images, "n.pt")
    assert table.counts.tolist() == [3] * 12
    for row, i in enumerate(order):
        assert [int(order[j]) for j in table.indices[row]] == found.indices[i].tolist()


def test_neighbours_outside_the_images_are_dropped_and_isolated_images_are_their_own_neighbour():
    found = Neighbours(
        indices=torch.zeros(3, 2, dtype=torch.long),
        distances=torch.zeros(3, 2),
        index=torch.tensor([7, 8, 9]),
        bank_index=torch.tensor([[50, 9], [-1, -1], [8, 7]]),
    )
    table = NeighbourTable.of(found, image_set([7, 8, 9]), "n.pt")
    assert table.counts.tolist() == [1, 1, 2]
    assert table.indices[0, 0] == 2 and table.indices[1, 0] == 1
    assert table.indices[2].tolist() == [1, 0]
    assert table.isolated == 1


def test_draws_are_uniform_over_the_neighbours_and_deterministic_in_seed_and_epoch():
    table = NeighbourTable(np.array([[1, 2, 3], [4, -1, -1]]), np.array([3, 1]), 0)
    anchors = np.repeat([0, 1], 3000)
    drawn = table.draw(anchors, 5, 0)
    assert set(drawn[3000:]) == {4}
    counts = np.bincount(drawn[:3000], minlength=4)[1:]
    assert abs(counts - 1000).max() < 5 * (3000 * 2 / 9) ** 0.5  # five standard deviations
    assert np.array_equal(drawn, table.draw(anchors, 5, 0))
    assert not np.array_equal(drawn, table.draw(anchors, 5, 1))
    assert not np.array_equal(drawn, table.draw(anchors, 6, 0))


def test_a_file_without_one_of_the_images_or_of_another_dataset_is_refused():
    found = mine(rows(), 3, CPU)
    with pytest.raises(SSLToolError, match=r"n\.pt lacks 1 of the 2 images.* 101\b"):
        NeighbourTable.of(found, image_set([100, 101]), "n.pt")
    with pytest.raises(SSLToolError, match=r"n\.pt .*made-up.* other"):
        NeighbourTable.of(found, image_set([100], name="other"), "n.pt")


def blobs(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(150, 6)) + 8 * np.eye(6)[np.repeat(range(3), 50)]).astype(np.float32)


def test_the_inertia_of_kmeans_is_that_of_scikit_learn_within_3_percent():
    x = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    centroids = kmeans(x, 6, seed=0)
    ours = float(((x - centroids[nearest_centroid(x, centroids)]) ** 2).sum())
    theirs = KMeans(6, n_init=10, random_state=0).fit(x).inertia_
    assert ours == pytest.approx(theirs, rel=0.03)


def test_kmeans_finds_separated_clusters_and_is_deterministic_in_the_seed():
    x = blobs()
    found = nearest_centroid(x, kmeans(x, 3, seed=4))
    assert [len(set(found[i : i + 50])) for i in (0, 50, 100)] == [1, 1, 1]
    assert len(set(found)) == 3
    assert np.array_equal(kmeans(x, 3, seed=4), kmeans(x, 3, seed=4))


def test_kmeans_of_two_distinct_rows_and_four_clusters_leaves_two_clusters_empty():
    x = np.repeat(np.eye(2, dtype=np.float32), 5, axis=0)
    assert len(set(nearest_centroid(x, kmeans(x, 4, seed=0)))) == 2


def test_fewer_rows_than_clusters_are_refused():
    with pytest.raises(SSLToolError, match=r"3 rows .* 4 clusters"):
        kmeans(np.eye(3, dtype=np.float32), 4, seed=0)
