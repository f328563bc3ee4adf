"""Metrics of several files: z-scores that are known, and files without a value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import zscore

from ssltool.diagnosis.metrics.of_files import clid
from ssltool.errors import SSLToolError


def test_clid_is_the_sum_of_z_scores():
    dimension, learnability = np.array([3.0, 9.0, 5.0, 7.0]), np.array([0.9, 0.5, 0.6, 0.8])
    assert clid(dimension, learnability) == pytest.approx(zscore(dimension) + zscore(learnability))
    assert clid(np.array([1.0, 2.0]), np.array([0.1, 0.9])) == pytest.approx([-2, 2])


def test_equal_values_have_no_weight():
    assert clid(np.array([4.0, 4.0, 4.0]), np.array([0.1, 0.2, 0.3])) == pytest.approx(zscore([0.1, 0.2, 0.3]))


@pytest.mark.parametrize("missing", [math.nan, math.inf])
def test_a_file_without_a_value_has_none_and_does_not_change_the_others(missing):
    found = clid(np.array([1.0, 2.0, missing, 4.0]), np.array([0.1, 0.5, 0.5, 0.9]))
    assert math.isnan(found[2]) and np.isfinite(found[[0, 1, 3]]).all()
    assert found[[0, 1, 3]] - zscore([1.0, 2.0, 4.0]) == pytest.approx(zscore([0.1, 0.5, 0.5, 0.9])[[0, 1, 3]])


def test_one_file_is_refused():
    with pytest.raises(SSLToolError):
        clid(np.array([1.0]), np.array([0.5]))
