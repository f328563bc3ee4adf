"""The labelled support: the fraction of each class, and the samples of each step."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from ssltool.data.images import ImageSet
from ssltool.data.support import Support, stratified_sample
from ssltool.errors import SSLToolError

COUNTS = {0: 40, 1: 7, 3: 100, 8: 1}
"""Number of images of each class; the data also has unlabelled images."""


@pytest.fixture
def labels() -> np.ndarray:
    numbers = np.concatenate([np.repeat(list(COUNTS), list(COUNTS.values())), np.full(30, -1)])
    return np.random.default_rng(0).permutation(numbers)


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.3, 0.5, 1.0])
def test_each_class_has_the_given_fraction_and_at_least_one_row(labels, fraction):
    rows = stratified_sample(labels, fraction, seed=3)
    wanted = {number: max(1, round(fraction * count)) for number, count in COUNTS.items()}
    assert Counter(labels[rows].tolist()) == wanted


def test_rows_are_sorted_and_unique(labels):
    assert (np.diff(stratified_sample(labels, 0.5, seed=3)) > 0).all()


def test_a_fraction_of_1_selects_all_labelled_rows(labels):
    assert stratified_sample(labels, 1.0, seed=3).tolist() == np.flatnonzero(labels >= 0).tolist()


def test_a_larger_fraction_contains_a_smaller_one(labels):
    shares = [set(stratified_sample(labels, fraction, seed=3).tolist()) for fraction in (0.01, 0.1, 0.2, 0.55, 1.0)]
    assert all(small < large for small, large in pairwise(shares))


def test_rows_are_deterministic_in_the_seed(labels):
    one, again, other = (stratified_sample(labels, 0.2, seed).tolist() for seed in (3, 3, 4))
    assert one == again != other


def test_rows_are_spread_over_the_data():
    rows = stratified_sample(np.zeros(1000, np.int64), 0.1, seed=3)
    # The mean of 100 of the numbers below 1000 has a deviation of about 1000 / sqrt(12 x 100) = 29.
    assert 500 - 5 * 29 < rows.mean() < 500 + 5 * 29


def test_data_without_labels_is_refused():
    with pytest.raises(SSLToolError, match="label"):
        stratified_sample(np.full(5, -1), 0.5, seed=0)


# Steps


def support(counts: list[int], classes: int, per_class: int, seed: int = 3) -> Support:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    images = ImageSet("made", "train", labels, np.arange(len(labels)), images=torch.zeros(len(labels), 1, 8, 8))
    return Support(images, classes, per_class, seed)


def in_steps(support: Support, epoch: int, steps: int) -> np.ndarray:
    """The indices of each step, (steps, batch_size)."""
    return support.indices(epoch, steps).reshape(steps, support.batch_size)


@pytest.mark.parametrize(("classes", "per_class"), [(5, 4), (3, 2), (2, 7)])
def test_each_step_has_distinct_images_of_the_given_number_of_classes(classes, per_class):
    chosen = support([9, 7, 20, 8, 7], classes, per_class)
    assert chosen.batch_size == classes * per_class
    for rows in in_steps(chosen, epoch=2, steps=6):
        assert sorted(Counter(chosen.images.labels[rows].tolist()).values()) == [per_class] * classes
        assert len(set(rows.tolist())) == len(rows)


def test_images_repeat_only_in_classes_with_too_few():
    chosen = support([2, 30, 4], classes=3, per_class=4)
    for rows in in_steps(chosen, epoch=0, steps=8):
        of_class = {number: rows[chosen.images.labels[rows] == number].tolist() for number in range(3)}
        assert [len(of_class[number]) for number in range(3)] == [4, 4, 4]
        assert len(set(of_class[0])) <= 2
        assert len(set(of_class[1])) == len(set(of_class[2])) == 4


def test_each_step_samples_its_classes():
    chosen = support([5] * 6, classes=2, per_class=3)
    seen = [frozenset(chosen.images.labels[rows].tolist()) for rows in in_steps(chosen, epoch=0, steps=40)]
    assert frozenset.union(*seen) == set(range(6))
    assert len(set(seen)) > 5  # of the 15 pairs


def test_a_step_does_not_depend_on_previous_steps():
    chosen = support([9, 7, 20], classes=2, per_class=3)
    assert np.array_equal(in_steps(chosen, 4, steps=5), in_steps(chosen, 4, steps=12)[:5])


def test_steps_differ_between_steps_epochs_and_seeds():
    sizes = [20, 20, 20]
    rows = [*in_steps(support(sizes, 3, 5), 0, 3), *in_steps(support(sizes, 3, 5), 1, 3)]
    rows += [*in_steps(support(sizes, 3, 5, seed=4), 0, 3)]
    assert len({tuple(step) for step in rows}) == 9
    assert np.array_equal(support(sizes, 3, 5).indices(1, 3), support(sizes, 3, 5).indices(1, 3))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_have_about_the_same_classes(world):
    chosen = support([20] * 3, classes=3, per_class=8)
    for rows in in_steps(chosen, epoch=0, steps=3):
        for part in np.split(rows, world):
            assert Counter(chosen.images.labels[part].tolist()) == dict.fromkeys(range(3), 8 // world)


def test_sampling_does_not_change_the_global_random_state(labels):
    before = np.random.get_state()[1].copy()
    stratified_sample(labels, 0.5, seed=3)
    support([9, 9], 2, 3).indices(0, 4)
    assert (np.random.get_state()[1] == before).all()
