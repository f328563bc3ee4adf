"""Labelled images beside the unlabelled ones: which share of each class they are, and what each step sees of them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from ssltool.data.images import ImageSet
from ssltool.data.support import Support, labelled_rows
from ssltool.errors import SSLToolError

COUNTS = {0: 40, 1: 7, 3: 100, 8: 1}
"""Images of each class; beside them there are unlabelled ones."""


@pytest.fixture
def labels() -> np.ndarray:
    numbers = np.concatenate([np.repeat(list(COUNTS), list(COUNTS.values())), np.full(30, -1)])
    return np.random.default_rng(0).permutation(numbers)


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.3, 0.5, 1.0])
def test_each_class_gives_its_share_and_at_least_one(labels, fraction):
    rows = labelled_rows(labels, fraction, seed=3)
    wanted = {number: max(1, round(fraction * count)) for number, count in COUNTS.items()}
    assert Counter(labels[rows].tolist()) == wanted


def test_rows_are_in_order_and_differ(labels):
    assert (np.diff(labelled_rows(labels, 0.5, seed=3)) > 0).all()


def test_all_of_the_images_are_all_that_have_a_label(labels):
    assert labelled_rows(labels, 1.0, seed=3).tolist() == np.flatnonzero(labels >= 0).tolist()


def test_a_larger_share_contains_a_smaller_one(labels):
    shares = [set(labelled_rows(labels, fraction, seed=3).tolist()) for fraction in (0.01, 0.1, 0.2, 0.55, 1.0)]
    assert all(small < large for small, large in pairwise(shares))


def test_rows_are_a_function_of_the_seed(labels):
    one, again, other = (labelled_rows(labels, 0.2, seed).tolist() for seed in (3, 3, 4))
    assert one == again != other


def test_rows_are_spread_over_the_data_not_its_beginning():
    rows = labelled_rows(np.zeros(1000, np.int64), 0.1, seed=3)
    # The mean of 100 of the numbers below 1000 has a deviation of about 1000 / sqrt(12 x 100) = 29.
    assert 500 - 5 * 29 < rows.mean() < 500 + 5 * 29


def test_images_without_any_label_are_refused():
    with pytest.raises(SSLToolError, match="none of the images has a label; labelled ones are needed"):
        labelled_rows(np.full(5, -1), 0.5, seed=0)


# Steps


def support(counts: list[int], classes: int, per_class: int, seed: int = 3) -> Support:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    images = ImageSet("made", "train", labels, np.arange(len(labels)), images=torch.zeros(len(labels), 1, 8, 8))
    return Support(images, classes, per_class, seed)


def in_steps(support: Support, epoch: int, steps: int) -> np.ndarray:
    """The places of each step, (steps, batch_size)."""
    return support.indices(epoch, steps).reshape(steps, support.batch_size)


@pytest.mark.parametrize(("classes", "per_class"), [(5, 4), (3, 2), (2, 7)])
def test_every_step_sees_so_many_images_of_so_many_classes_and_none_twice(classes, per_class):
    chosen = support([9, 7, 20, 8, 7], classes, per_class)
    assert chosen.batch_size == classes * per_class
    for rows in in_steps(chosen, epoch=2, steps=6):
        assert sorted(Counter(chosen.images.labels[rows].tolist()).values()) == [per_class] * classes
        assert len(set(rows.tolist())) == len(rows)


def test_images_repeat_only_where_a_class_has_too_few():
    chosen = support([2, 30, 4], classes=3, per_class=4)
    for rows in in_steps(chosen, epoch=0, steps=8):
        of_class = {number: rows[chosen.images.labels[rows] == number].tolist() for number in range(3)}
        assert [len(of_class[number]) for number in range(3)] == [4, 4, 4]
        assert len(set(of_class[0])) <= 2
        assert len(set(of_class[1])) == len(set(of_class[2])) == 4


def test_classes_of_a_step_are_drawn_anew():
    chosen = support([5] * 6, classes=2, per_class=3)
    seen = [frozenset(chosen.images.labels[rows].tolist()) for rows in in_steps(chosen, epoch=0, steps=40)]
    assert frozenset.union(*seen) == set(range(6))
    assert len(set(seen)) > 5  # of the 15 pairs


def test_a_step_does_not_depend_on_those_before_it():
    chosen = support([9, 7, 20], classes=2, per_class=3)
    assert np.array_equal(in_steps(chosen, 4, steps=5), in_steps(chosen, 4, steps=12)[:5])


def test_steps_differ_from_one_another_between_epochs_and_seeds():
    sizes = [20, 20, 20]
    rows = [*in_steps(support(sizes, 3, 5), 0, 3), *in_steps(support(sizes, 3, 5), 1, 3)]
    rows += [*in_steps(support(sizes, 3, 5, seed=4), 0, 3)]
    assert len({tuple(step) for step in rows}) == 9
    assert np.array_equal(support(sizes, 3, 5).indices(1, 3), support(sizes, 3, 5).indices(1, 3))


@pytest.mark.parametrize("world", [2, 4])
def test_equal_parts_of_a_step_see_the_classes_equally_often(world):
    chosen = support([20] * 3, classes=3, per_class=8)
    for rows in in_steps(chosen, epoch=0, steps=3):
        for part in np.split(rows, world):
            assert Counter(chosen.images.labels[part].tolist()) == dict.fromkeys(range(3), 8 // world)


def test_drawing_leaves_the_global_random_state_alone(labels):
    before = np.random.get_state()[1].copy()
    labelled_rows(labels, 0.5, seed=3)
    support([9, 9], 2, 3).indices(0, 4)
    assert (np.random.get_state()[1] == before).all()
