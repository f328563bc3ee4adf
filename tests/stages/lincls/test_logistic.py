"""Logistic regression against scikit-learn's, and against the conditions of its optimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probe_helpers import clouds
from ssltool.errors import SSLToolError
from ssltool.stages.lincls import logistic, logistic_regression


def reference(x, y, c: float) -> LogisticRegression:
    return LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_the_classifier_of_several_classes_equals_scikit_learns(c):
    x, y = clouds(120, names=(2, 5, 9))
    ours = logistic_regression(x.double(), y, c=c, tolerance=1e-9)
    theirs = reference(x.double(), y, c)
    assert ours.converged
    assert ours.classes.tolist() == theirs.classes_.tolist() == [2, 5, 9]
    np.testing.assert_allclose(ours.weight, theirs.coef_, rtol=1e-4, atol=1e-6)
    # Adding a number to every bias changes nothing.
    np.testing.assert_allclose(ours.bias - ours.bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), rtol=1e-3)


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_the_difference_of_the_two_rows_equals_scikit_learns_row_for_two_classes(c):
    x, y = clouds(80, names=(0, 1), d=4)
    ours = logistic_regression(x.double(), y, c=c, tolerance=1e-10)
    theirs = reference(x.double(), y, c)
    np.testing.assert_allclose(ours.weight[1] - ours.weight[0], theirs.coef_[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.bias[1] - ours.bias[0], theirs.intercept_[0], atol=1e-5)
    np.testing.assert_allclose(ours.weight[0], -ours.weight[1], atol=1e-8)


def test_the_gradient_of_the_written_objective_vanishes_at_the_optimum():
    x, y = clouds(90)
    found = logistic_regression(x.double(), y, c=0.3, tolerance=1e-10)
    weight, bias = found.weight.clone().requires_grad_(), found.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x.double() @ weight.T + bias, y, reduction="sum")
    (weight.square().sum() / 2 + 0.3 * loss).backward()
    assert float(weight.grad.abs().max()) < 1e-5
    assert float(bias.grad.abs().max()) < 1e-5


def test_float32_rows_give_the_same_classifier_up_to_rounding():
    x, y = clouds(200)
    single, double = (logistic_regression(rows, y, tolerance=1e-7) for rows in (x, x.double()))
    torch.testing.assert_close(single.weight, double.weight, rtol=1e-3, atol=1e-4)
    assert single.weight.dtype == torch.float64


def test_blocks_of_rows_give_the_same_classifier(monkeypatch):
    x, y = clouds(100)
    whole = logistic_regression(x.double(), y, tolerance=1e-10)
    monkeypatch.setattr(logistic, "BLOCK", 7 * 6 * 8)  # seven rows of six numbers of eight bytes
    torch.testing.assert_close(
        logistic_regression(x.double(), y, tolerance=1e-10).weight, whole.weight, atol=1e-6, rtol=0
    )


def objective(x, y, found, c: float) -> float:
    loss = torch.nn.functional.cross_entropy(x @ found.weight.T + found.bias, y, reduction="sum")
    return float(found.weight.square().sum() / 2 + c * loss)


@pytest.mark.parametrize("c", [1.0, 1e4])
def test_features_far_from_zero_and_of_unequal_scale_take_no_more_iterations(c):
    """A shift changes only the bias; without whitening, L-BFGS would stop far from the optimum."""
    x, y = clouds(300)
    x = x.double() * torch.logspace(0, -3, 6, dtype=torch.float64)
    near, far = (logistic_regression(rows, y, c=c) for rows in (x, x + 100))
    assert near.converged and far.converged and max(near.iterations, far.iterations) < 60
    assert objective(x + 100, y, far, c) == pytest.approx(objective(x, y, near, c), rel=1e-4)


def test_a_start_at_the_optimum_takes_no_iteration():
    x, y = clouds(100)
    first = logistic_regression(x.double(), y, tolerance=1e-6)
    again = logistic_regression(x.double(), y, tolerance=1e-6, start=first)
    assert again.iterations == 0 and again.converged
    torch.testing.assert_close(again.weight, first.weight)


def test_converged_is_false_after_max_iter():
    found = logistic_regression(*clouds(100), c=100.0, max_iter=2)
    assert (found.converged, found.iterations) == (False, 2)


def test_predictions_are_labels_of_the_training_rows():
    x, y = clouds(150, names=(4, 40, 400), spread=0.1)
    assert torch.equal(logistic_regression(x, y).predict(x), y)


def test_the_inputs_are_not_modified():
    x, y = clouds(60)
    before = x.clone(), y.clone()
    logistic_regression(x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


def test_one_class_and_numbers_that_are_not_finite_are_refused():
    x, y = clouds(30)
    with pytest.raises(SSLToolError, match="all 30 rows are of class 3"):
        logistic_regression(x, torch.full((30,), 3))
    x[3, 2] = float("nan")
    with pytest.raises(SSLToolError, match="not finite"):
        logistic_regression(x, y)
