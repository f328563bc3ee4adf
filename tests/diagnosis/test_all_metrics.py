"""Facts that hold for every metric of one set of rows, whatever its formula: extremes, ranges, invariances, refusals.

``test_metrics_of_*`` check the formulas.
"""

from __future__ import annotations

import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import METRICS, metric_names
from ssltool.diagnosis.row_blocks import Rows
from ssltool.errors import SSLToolError

NAMES = metric_names("all", views=True, labels=True)

UNDEFINED_FOR_FEW_ROWS = {"alpha", "mst_dimension"}
"""They fit a line to at least ten values and to trees of at least 64 rows."""

SEES_THE_MEAN = {
    *("rankme", "coding_rate", "pseudo_condition_number", "coherence"),  # spectrum and vectors without centring
    *(name for name in NAMES if METRICS[name].at == "directions"),
    *("uniformity", "sigreg", "sigreg_z", "cluster_usage", "cluster_learnability", "class_cosine", "alignment"),
}
"""Metrics of rows that are not centred; ``empty_clusters`` is one too, but 0 for rows in a cloud."""


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measured(views: Tensor, names: tuple[str, ...] = NAMES) -> dict[str, float]:
    """Metrics of views (N, Q, d); the images are of three classes in turn."""
    return measure(Rows([views], labels=[torch.arange(len(views)) % 3], name="these rows"), names).metrics


def outside(values: dict[str, float], width: int) -> dict[str, float]:
    """The values that are outside of their range; NaN is in no range and not reported."""
    ranges = {name: METRICS[name].range for name in values}
    tops = {name: width if high == "d" else high for name, (_, high) in ranges.items()}
    slack = 1e-5  # rankme and lidar add 1e-7 and 1e-8 to each share
    return {n: v for n, v in values.items() if v < ranges[n][0] - slack or v > tops[n] * (1 + slack) + slack}


@pytest.mark.parametrize(("n", "q", "d"), [(6, 2, 5), (40, 3, 8), (6, 2, 64)])
def test_equal_rows_have_the_documented_extremes(n, q, d):
    row, count = torch.linspace(-1.0, 2.0, d, dtype=torch.float64), n * q
    clusters, length = max(2, count // 10), float(row.norm())
    ones = ["auc", "rankme", "dead_directions", "pseudo_condition_number", "mean_cosine", "self_cluster", "coherence"]
    ones += ["cluster_learnability", "class_cosine", "lidar"]
    zeros = ["effective_rank", "renyi_rank_half", "matrix_entropy", "entropy_rank", "participation_ratio"]
    zeros += ["stable_rank", "numerical_rank", "total_variance", "feature_std", "uniformity", "mst_dimension"]
    zeros += ["persistence", "class_rank", "alignment"]
    undefined = ["alpha", "condition_number", "twonn", "local_dimension", "hubness", "nc1", "nc2"]
    expected = dict.fromkeys(ones, 1.0) | dict.fromkeys(zeros, 0.0) | dict.fromkeys(undefined, math.nan)
    expected |= {
        "coding_rate": 0.5 * math.log1p(2 * d * length**2),
        "w2_uniformity": math.sqrt(2),
        "mean_norm": length,
        "cluster_usage": 1 / clusters,
        "empty_clusters": 1 - 1 / clusters,
    }
    values = measured(row.expand(n, q, d), tuple(expected))
    assert values == pytest.approx(expected, rel=1e-4, abs=1e-7, nan_ok=True)


def test_fewer_rows_than_dimensions_leave_undefined_only_what_fits_a_line():
    values = measured(gaussian(6, 2, 64))
    assert {name for name, value in values.items() if math.isnan(value)} == UNDEFINED_FOR_FEW_ROWS
    assert not outside(values, 64)


@hypothesis.settings(max_examples=15)
@hypothesis.given(
    n=st.integers(2, 30),
    q=st.integers(2, 3),
    d=st.integers(1, 12),
    levels=st.integers(1, 5),
    scale=st.sampled_from([1e-8, 1.0, 1e6]),
    shift=st.sampled_from([0.0, 1.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_every_metric_is_within_its_range_also_with_duplicates_and_zeros(n, q, d, levels, scale, shift, seed):
    whole = torch.randint(levels, (n, q, d), generator=torch.Generator().manual_seed(seed))
    values = measured((whole.double() + shift) * scale)
    assert not outside(values, d)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_value_that_is_not_finite_is_refused_with_the_name_of_the_rows(name, bad):
    x = gaussian(12, 2, 4)
    x[5, 1, 2] = bad
    with pytest.raises(SSLToolError, match="these rows"):
        measured(x, (name,))


def test_a_shift_of_all_rows_changes_only_the_metrics_that_do_not_centre():
    x = gaussian(80, 2, 30) @ torch.diag(torch.linspace(1, 0.2, 30, dtype=torch.float64))
    before, after = measured(x), measured(x + torch.linspace(-3, 3, 30, dtype=torch.float64))
    assert {name for name in NAMES if after[name] != pytest.approx(before[name], rel=1e-7)} == SEES_THE_MEAN


def test_repeating_all_rows_changes_no_metric_of_the_shares_of_a_spectrum():
    x = gaussian(50, 2, 30)
    names = tuple(name for name in NAMES if METRICS[name].at == "spectrum" and name != "total_variance")
    assert measured(x.repeat(3, 1, 1), names) == pytest.approx(measured(x, names), rel=1e-9)
