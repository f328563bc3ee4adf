"""Holdout splits and class indices of labelled rows."""

from __future__ import annotations

import numpy as np
import pytest

from ssltool.data.labels import class_indices, hold_out
from ssltool.errors import SSLToolError

LABELS = np.array([3] * 50 + [-1] * 7 + [0] * 20 + [9])


def test_training_and_holdout_rows_partition_the_labelled_rows():
    kept, held = hold_out(LABELS, 0.1, seed=1)
    assert sorted([*kept, *held]) == np.flatnonzero(LABELS >= 0).tolist()


def test_the_holdout_has_a_share_of_each_class_but_no_complete_class():
    _, held = hold_out(LABELS, 0.1, seed=1)
    assert np.bincount(LABELS[held], minlength=10).tolist() == [2, 0, 0, 5, 0, 0, 0, 0, 0, 0]


def test_the_holdout_is_deterministic_in_the_seed():
    one, again, other = (hold_out(LABELS, 0.2, seed)[1].tolist() for seed in (1, 1, 2))
    assert one == again != other


def test_classes_with_a_single_row_give_no_holdout():
    with pytest.raises(SSLToolError, match="two"):
        hold_out(np.arange(5), 0.5, seed=0)


def test_unknown_labels_get_indices_after_the_known_classes():
    found, count = class_indices(np.array([30, 7, 900, 7, 30]), np.array([7, 30]))
    assert (found.tolist(), count) == ([1, 0, 2, 0, 1], 3)
    found, count = class_indices(np.array([5, 1, 9]), np.array([3, 5]))  # unknown labels are sorted
    assert (found.tolist(), count) == ([1, 2, 3], 4)
