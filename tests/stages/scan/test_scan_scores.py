"""Cluster scores against scikit-learn, brute force and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from ssltool.stages.scan.cluster_scores import ari, contingency, majority, matched, nmi, score


def random_pair(seed: int, clusters: int, classes: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Classes with gaps in their numbers, and clusters that agree with them in part."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    assignments = np.where(rng.random(n) < 0.5, labels % clusters, rng.integers(0, clusters, n))
    return assignments, 3 * labels + 1


SHAPES = [(4, 4), (7, 3), (2, 5), (1, 3), (5, 1)]


@pytest.mark.parametrize(("clusters", "classes"), SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_nmi_and_ari_equal_scikit_learns(seed, clusters, classes):
    assignments, labels = random_pair(seed, clusters, classes)
    table = contingency(assignments, labels)
    assert nmi(table) == pytest.approx(normalized_mutual_info_score(labels, assignments), abs=1e-12)
    assert ari(table) == pytest.approx(adjusted_rand_score(labels, assignments), abs=1e-12)


@pytest.mark.parametrize(("clusters", "classes"), SHAPES)
def test_the_matching_is_the_best_of_all_permutations(clusters, classes):
    assignments, labels = random_pair(5, clusters, classes)
    table = contingency(assignments, labels)
    wide = table if table.shape[0] <= table.shape[1] else table.T
    best = max(
        sum(wide[row, column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(wide.shape[1]), wide.shape[0])
    )
    assert matched(table) == pytest.approx(best / len(labels))


def test_a_greedy_matching_would_be_worse():
    # Taking the largest cell first, 6, leaves 0 for the other cluster; the best is 5 + 5.
    table = np.array([[6, 5], [5, 0]])
    assert matched(table) == 10 / 16


def test_equal_partitions_with_other_numbers_score_1():
    labels = np.array([0, 0, 1, 1, 2, 2, 2])
    found = score(np.array([2, 2, 0, 0, 1, 1, 1]), labels, 3)
    assert (found["accuracy"], found["majority"], found["nmi"], found["ari"]) == pytest.approx((1, 1, 1, 1))


def test_a_single_cluster_has_the_accuracy_of_the_largest_class_and_nmi_0():
    found = score(np.zeros(10, int), np.array([0] * 6 + [1] * 4), 4)
    assert found["accuracy"] == found["majority"] == 0.6
    assert (found["nmi"], found["ari"]) == (0.0, 0.0)
    assert (found["sizes"], found["empty"]) == ([10, 0, 0, 0], 3)


def test_more_clusters_than_classes_cost_accuracy_but_not_majority():
    labels = np.repeat([0, 1], 4)
    split = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    found = score(split, labels, 4)
    assert (found["accuracy"], found["majority"]) == (0.5, 1.0)
    assert majority(contingency(split, labels)) >= majority(contingency(split // 2, labels))


def test_unlabelled_images_count_in_the_sizes_only():
    assignments, labels = np.array([0, 0, 1, 1, 1]), np.array([5, -1, 7, 7, -1])
    found = score(assignments, labels, 2)
    assert found["sizes"] == [2, 3]
    assert found["accuracy"] == 1.0
    without = score(assignments, np.full(5, -1), 2)
    assert without["sizes"] == [2, 3] and without["accuracy"] is without["nmi"] is without["ari"] is None


def test_scores_are_invariant_to_the_numbering_of_clusters():
    assignments, labels = random_pair(9, 5, 4)
    renamed = np.array([3, 0, 4, 2, 1])[assignments]
    one, other = score(assignments, labels, 5), score(renamed, labels, 5)
    for key in ("accuracy", "majority", "nmi", "ari"):
        assert one[key] == pytest.approx(other[key])


def test_a_single_image_scores_1():
    found = score(np.array([0]), np.array([3]), 1)
    assert (found["accuracy"], found["nmi"], found["ari"]) == (1.0, 1.0, 1.0)
