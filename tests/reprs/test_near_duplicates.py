"""Components of near rows: compared with all pairs in double precision, at any tile size, for degenerate rows too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.csgraph import connected_components

from ssltool.reprs.neighbours.near_duplicates import Components, groups_of, near_pairs, row_hashes, typical_distance
from ssltool.reprs.row_set import RowSet


def components(rows, others=None, distance=0.1, memory=64.0):
    found = Components(len(rows) + (0 if others is None else len(others)))
    near_pairs(RowSet([rows]), None if others is None else RowSet([others]), distance, found, memory=memory)
    return [group.tolist() for group in found.groups()]


def all_pairs(rows, distance, crossing=None):
    """The components by the matrix of all cosines; ``crossing`` rows are connected with the rest only."""
    unit = F.normalize(rows.double(), dim=1)
    near = (1 - unit @ unit.T <= distance).numpy()
    if crossing is not None:
        side = np.arange(len(rows)) < crossing
        near &= side[:, None] != side
    labels = connected_components(near)[1]
    return [group.tolist() for group in groups_of(torch.from_numpy(labels.astype(np.int64)))]


@pytest.mark.parametrize("distance", [0.005, 0.02, 0.06])
def test_components_are_those_of_all_pairs(distance):
    rows = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    expected = all_pairs(rows, distance)
    assert components(rows, distance=distance) == expected
    assert expected


def test_components_of_two_sets_are_those_of_the_pairs_between_them():
    rows = torch.randn(160, 5, generator=torch.Generator().manual_seed(2))
    expected = all_pairs(rows, 0.03, crossing=70)
    assert components(rows[:70], rows[70:], 0.03) == expected
    assert all(group[0] < 70 <= group[-1] for group in expected) and expected


def test_components_do_not_depend_on_the_memory():
    rows = torch.randn(300, 4, generator=torch.Generator().manual_seed(3))
    assert components(rows, distance=0.01, memory=0.02) == components(rows, distance=0.01, memory=512.0)


def test_scaled_rows_have_distance_0_and_are_found_at_threshold_0():
    rows = torch.randn(50, 16, generator=torch.Generator().manual_seed(4))
    rows[31] = rows[4]
    rows[9] = 4 * rows[7]
    assert components(rows, distance=0.0) == [[4, 31], [7, 9]]


def test_a_chain_is_one_component_although_its_ends_are_far_apart():
    angles = torch.arange(10) * 0.1
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    step = 1 - float(torch.tensor(0.1).double().cos())
    assert components(rows, distance=1.01 * step) == [list(range(10))]
    assert components(rows, distance=0.99 * step) == []


def test_rows_of_zeros_are_near_to_none():
    assert components(torch.zeros(5, 3), distance=0.9) == []


def test_all_rows_of_a_collapsed_network_are_one_component():
    rows = torch.ones(3000, 8) + 1e-4 * torch.randn(3000, 8, generator=torch.Generator().manual_seed(5))
    assert components(rows, distance=1e-6, memory=1.0) == [list(range(3000))]


def test_small_differences_of_a_collapsed_network_are_resolved():
    """Their cosines are all 1 in float32."""
    rows = torch.ones(64, 32) + 1e-5 * torch.randn(64, 32, generator=torch.Generator().manual_seed(6))
    rows[5] = rows[50]
    assert components(rows, distance=1e-14) == [[5, 50]]


def test_hashes_are_equal_for_equal_rows_only():
    rows = torch.randn(5000, 3, generator=torch.Generator().manual_seed(7))
    rows[4000] = rows[17]
    rows[9], rows[11] = torch.tensor([0.0, -0.0, 1.0]), torch.tensor([-0.0, 0.0, 1.0])
    assert [group.tolist() for group in groups_of(row_hashes(RowSet([rows])))] == [[9, 11], [17, 4000]]


def test_typical_distance_of_orthogonal_rows_is_1():
    assert typical_distance(RowSet([torch.eye(64)]), 500, torch.Generator().manual_seed(0)) == pytest.approx(1)
    assert typical_distance(RowSet([torch.ones(1, 4)]), 500, torch.Generator()) == 0
