"""Metrics of labelled rows: classes whose covariances are known, and classes that are missing, single or constant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssltool.diagnosis.metrics.of_classes import Classes, class_cosine, class_rank, nc1, nc2
from ssltool.errors import SSLToolError

ALL = (nc1, nc2, class_cosine, class_rank)


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labelled(means: Tensor, within: Tensor) -> Classes:
    """Classes (C) around ``means`` (C, d), each with the rows ``within`` (n, d)."""
    rows = (means[:, None] + within).flatten(0, 1)
    return Classes.of(rows, torch.arange(len(means)).repeat_interleave(len(within)))


def simplex(count: int, d: int) -> Tensor:
    return torch.eye(count, d, dtype=torch.float64) - torch.eye(count, d, dtype=torch.float64).mean(dim=0)


def crosses(d: int, size: float = 1.0) -> Tensor:
    """The ends (2 d, d) of a cross: mean 0, covariance size^2 / d on the diagonal."""
    return size * torch.cat([torch.eye(d), -torch.eye(d)]).double()


def by_definition(classes: Classes) -> float:
    """tr(Sw Sb^+) / C with matrices (d, d) and numpy's pseudo-inverse."""
    rows = [one.numpy() for one in classes.each()]
    within = sum(np.atleast_2d(np.cov(one.T, bias=True)) for one in rows) / len(rows)
    between = np.atleast_2d(np.cov(np.stack([one.mean(axis=0) for one in rows]).T, bias=True))
    return float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10))) / len(rows)


def test_nc1_of_two_classes_on_a_line():
    """Means at -a and a and rows at b on either side: Sw = b^2, Sb = a^2."""
    a, b = 3.0, 0.5
    classes = labelled(torch.tensor([[-a], [a]]).double(), torch.tensor([[-b], [b]]).double())
    assert nc1(classes) == pytest.approx(b**2 / a**2 / 2)


@pytest.mark.parametrize(("count", "d"), [(3, 3), (5, 8), (10, 10)])
def test_nc1_of_a_simplex_follows_from_its_eigenvalues(count, d):
    """Sb has C - 1 eigenvalues 1/C; Sw is the identity times size^2 / d."""
    classes = labelled(simplex(count, d), crosses(d, 0.1))
    assert nc1(classes) == pytest.approx((count - 1) * 0.1**2 / d, rel=1e-9)


@pytest.mark.parametrize(("count", "d"), [(4, 20), (30, 6), (2, 1)])
def test_nc1_is_the_trace_with_the_pseudo_inverse(count, d):
    x, labels = gaussian(300, d), torch.arange(300) % count
    classes = Classes.of(x + gaussian(count, d, 1)[labels], labels)
    assert nc1(classes) == pytest.approx(by_definition(classes), rel=1e-7)


def test_the_number_of_rows_of_a_class_is_not_its_weight():
    x = gaussian(100, 5)
    x[:50] += 4
    labels = (torch.arange(100) >= 50).long()
    more = torch.cat([x, x[:50], x[:50]])
    assert nc1(Classes.of(more, torch.cat([labels, labels[:50], labels[:50]]))) == pytest.approx(
        nc1(Classes.of(x, labels))
    )


@pytest.mark.parametrize("count", [2, 3, 7])
def test_classes_that_are_points_on_a_simplex_are_neural_collapse(count):
    classes = labelled(5 * simplex(count, 9), torch.zeros(4, 9).double())
    assert nc1(classes) == 0
    assert float(nc2(classes)) == pytest.approx(0, abs=1e-12)
    assert nc2(classes).details == pytest.approx({"norms": 0, "cosines": 0}, abs=1e-7)
    assert float(class_rank(classes)) == 0
    assert class_cosine(classes) == pytest.approx(-1 / (count - 1))


def test_nc2_of_three_means_on_a_line():
    """Means -1, 0 and 1: the cosines are -1, and twice 0 with the mean that is 0; the norms are 1, 0 and 1."""
    classes = labelled(torch.tensor([[-1.0], [0.0], [1.0]]).double(), torch.tensor([[-0.1], [0.1]]).double())
    found = nc2(classes)
    assert float(found) == pytest.approx((0.5 + 0.5 + 0.5) / 3)
    assert found.details["norms"] == pytest.approx(np.std([1, 0, 1]) / np.mean([1, 0, 1]))
    assert found.details["cosines"] == pytest.approx(np.std([-1, 0, 0]))


@pytest.mark.parametrize(("angle", "cosine"), [(0.0, 1.0), (math.pi / 3, 0.5), (math.pi / 2, 0.0), (math.pi, -1.0)])
def test_the_cosine_of_two_class_means_is_that_of_their_angle(angle, cosine):
    means = torch.tensor([[2.0, 0.0], [3 * math.cos(angle), 3 * math.sin(angle)]], dtype=torch.float64)
    assert class_cosine(labelled(means, crosses(2, 0.3))) == pytest.approx(cosine, abs=1e-12)


@pytest.mark.parametrize("d", [1, 2, 6])
def test_the_rank_of_a_class_is_the_dimension_that_its_rows_fill(d):
    rows = crosses(d) @ torch.eye(d, 9).double()
    assert float(class_rank(labelled(gaussian(4, 9), rows))) == pytest.approx(d)


def test_the_lowest_rank_and_the_fewest_rows_are_those_of_one_class():
    flat, full = crosses(1) @ torch.eye(1, 5).double(), crosses(5)
    classes = Classes.of(torch.cat([flat, full]), torch.tensor([0] * 2 + [1] * 10))
    found = class_rank(classes)
    assert float(found) == pytest.approx(3)
    assert found.details == pytest.approx({"lowest": 1, "fewest": 2})


def test_rows_without_a_label_and_classes_of_one_row_are_left_out_and_counted():
    x = gaussian(12, 4)
    labels = torch.tensor([0, 0, 0, 5, 5, 5, -1, -1, 9, 0, 5, 12])
    classes = Classes.of(x, labels)
    assert (classes.unlabelled, classes.single, classes.counts.tolist()) == (2, 2, [4, 4])
    assert torch.equal(classes.rows, x[[0, 1, 2, 9, 3, 4, 5, 10]])
    kept = Classes.of(x[[0, 1, 2, 9, 3, 4, 5, 10]], torch.tensor([0] * 4 + [1] * 4))
    for metric in ALL:
        assert float(metric(classes)) == pytest.approx(float(metric(kept)))


@pytest.mark.parametrize("labels", [[-1] * 6, [0, 1, 2, 3, 4, 5]])
def test_without_a_class_of_two_rows_all_are_nan(labels):
    for metric in ALL:
        assert math.isnan(metric(Classes.of(gaussian(6, 3), torch.tensor(labels))))


def test_one_class_has_a_rank_and_nothing_to_compare_with():
    classes = Classes.of(gaussian(6, 3), torch.zeros(6).long())
    assert float(class_rank(classes)) > 1
    assert all(math.isnan(metric(classes)) for metric in (nc1, nc2, class_cosine))


def test_equal_rows_are_named_by_nan_and_equal_means_by_infinity():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    equal = Classes.of(torch.full((6, 3), 0.1), labels)
    assert math.isnan(nc1(equal)) and math.isnan(nc2(equal))
    assert (float(class_rank(equal)), class_cosine(equal)) == (0.0, pytest.approx(1.0))
    around = labelled(torch.full((3, 4), 0.1).double(), crosses(4))
    assert nc1(around) == math.inf and math.isnan(nc2(around))


def test_fewer_rows_than_dimensions_and_an_outlier_give_numbers():
    x, labels = gaussian(12, 100), torch.arange(12) % 3
    x[0] = 1e9
    for metric in ALL:
        assert math.isfinite(metric(Classes.of(x, labels)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_and_other_numbers_of_labels_are_refused(bad):
    x = gaussian(6, 3)
    x[2, 1] = bad
    for rows, labels in ((x, torch.zeros(6)), (gaussian(6, 3), torch.zeros(5)), (gaussian(6, 3)[0], torch.zeros(3))):
        with pytest.raises(SSLToolError):
            Classes.of(rows, labels.long())


@pytest.mark.parametrize("metric", ALL)
def test_float32_rows_give_the_value_of_the_same_float64_rows(metric):
    x, labels = gaussian(60, 7).float(), torch.arange(60) % 4
    assert float(metric(Classes.of(x, labels))) == float(metric(Classes.of(x.double(), labels)))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(8, 60), d=st.integers(1, 40), seed=st.integers(0, 99), scale=st.sampled_from([1e-5, 3.0, 1e5]))
def test_order_rotation_scale_and_the_numbers_of_classes_change_nothing(n, d, seed, scale):
    x, labels = gaussian(n, d, seed), torch.arange(n) % 4
    order = torch.randperm(n)
    turned = scale * x[order] @ torch.linalg.qr(gaussian(d, d, seed + 1)).Q
    for metric in ALL:
        found = metric(Classes.of(turned, (7 * (4 - labels))[order]))
        assert float(found) == pytest.approx(float(metric(Classes.of(x, labels))), rel=1e-6, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), shift=st.sampled_from([0.0, -3.0, 1e4]))
def test_nc1_does_not_change_under_invertible_maps_if_the_means_span_all_dimensions(seed, shift):
    labels = torch.arange(90) % 9
    x = gaussian(90, 4, seed) + 2 * gaussian(9, 4, seed + 1)[labels]
    mapped = x @ (torch.eye(4).double() + 0.2 * gaussian(4, 4, seed + 2)) + shift
    assert nc1(Classes.of(mapped, labels)) == pytest.approx(nc1(Classes.of(x, labels)), rel=1e-6)
