"""Which labelled rows are learnt from and which are held out."""

from __future__ import annotations

import numpy as np
import pytest

from ssltool.data.labels import hold_out, places
from ssltool.errors import SSLToolError

LABELS = np.array([3] * 50 + [-1] * 7 + [0] * 20 + [9])


def test_held_out_rows_and_the_others_are_all_labelled_rows_once():
    kept, held = hold_out(LABELS, 0.1, seed=1)
    assert sorted([*kept, *held]) == np.flatnonzero(LABELS >= 0).tolist()


def test_a_share_of_every_class_is_held_out_but_never_all_of_one():
    _, held = hold_out(LABELS, 0.1, seed=1)
    assert np.bincount(LABELS[held], minlength=10).tolist() == [2, 0, 0, 5, 0, 0, 0, 0, 0, 0]


def test_what_is_held_out_is_a_function_of_the_seed():
    one, again, other = (hold_out(LABELS, 0.2, seed)[1].tolist() for seed in (1, 1, 2))
    assert one == again != other


def test_nothing_can_be_held_out_of_classes_of_one():
    with pytest.raises(SSLToolError, match="no class has two labelled images"):
        hold_out(np.arange(5), 0.5, seed=0)


def test_labels_become_their_places_and_unknown_ones_come_behind():
    found, count = places(np.array([30, 7, 900, 7, 30]), np.array([7, 30]))
    assert (found.tolist(), count) == ([1, 0, 2, 0, 1], 3)
    found, count = places(np.array([5, 1, 9]), np.array([3, 5]))  # of the unknown ones, the smaller comes first
    assert (found.tolist(), count) == ([1, 2, 3], 4)
