"""Bootstrap intervals and their coverage, and metrics of random subsets of the rows."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ssltool.diagnosis.measure import Measured, bootstrap_intervals, measure, subsample_metrics
from ssltool.diagnosis.metrics import QUICK
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum import singular_values
from ssltool.errors import SSLToolError

STEADY = tuple(name for name in QUICK if name != "alpha")  # which is NaN in few dimensions


def gaussian(n: int, variances: list[float], seed: int = 0) -> Tensor:
    x = torch.randn(n, len(variances), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * torch.tensor(variances, dtype=torch.float64).sqrt()


VARIANCES = [8.0, 4.0, 2.0, 1.0]


def by_name(rows: list[dict[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows]


def test_every_metric_of_one_pass_has_an_interval_about_it():
    x = gaussian(500, VARIANCES)
    found = measure(x, (*STEADY, "twonn"))
    bounds = bootstrap_intervals(x, found, 40)
    assert bounds.keys() == set(STEADY)
    for name in ("auc", "effective_rank", "rankme", "participation_ratio", "stable_rank", "condition_number"):
        low, high = bounds[name]
        assert low < found.metrics[name] < high
    assert bounds["numerical_rank"] == (4.0, 4.0)


def test_a_resample_has_n_rows_sampled_with_replacement():
    """Of two rows, +1 and -1, a resample is both of them half of the time, and one of them twice otherwise."""
    x = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    bounds = bootstrap_intervals(x, measure(x, ("effective_rank", "mean_cosine")), 60)
    assert bounds["effective_rank"] == pytest.approx((1.0, 2.0))  # the ranks 1 and 0, reflected about 1
    assert bounds["mean_cosine"] == pytest.approx((-3.0, -1.0))  # -1 and 1, reflected about -1


def test_intervals_depend_only_on_the_seed():
    x = gaussian(100, VARIANCES)
    found = measure(x, STEADY)
    first = bootstrap_intervals(x, found, 10, seed=3)
    torch.manual_seed(9)
    assert bootstrap_intervals(x, found, 10, seed=3) == first
    assert bootstrap_intervals(Rows(x.split(17)), found, 10, seed=3) == {
        name: pytest.approx(bounds, rel=1e-9) for name, bounds in first.items()
    }
    assert bootstrap_intervals(x, found, 10, seed=4) != first


def test_intervals_of_equal_rows_have_width_0():
    x = torch.full((40, 3), 0.7)
    found = measure(x, STEADY)
    for name, (low, high) in bootstrap_intervals(x, found, 5).items():
        assert (low, high) == pytest.approx((found.metrics[name],) * 2, abs=1e-6, nan_ok=True)


def test_normalize_is_that_of_the_measurement():
    x = gaussian(300, VARIANCES) * (1 + torch.arange(300)[:, None] / 30)
    unit = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    bounds = bootstrap_intervals(x, measure(x, STEADY, normalize=True), 10, normalize=True)
    wanted = bootstrap_intervals(unit, measure(unit, STEADY), 10)
    for name in STEADY:
        if name != "mean_norm":  # of the rows as they are
            assert bounds[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6)


def test_rows_left_out_are_not_resampled():
    x = gaussian(120, VARIANCES)
    broken = torch.cat([x[:50], torch.full((3, 4), math.nan, dtype=torch.float64), x[50:]])
    rows = Rows([broken], skip_nonfinite=True)
    found = measure(rows, STEADY)
    wanted = bootstrap_intervals(x, measure(x, STEADY), 10)
    assert bootstrap_intervals(rows, found, 10) == {name: pytest.approx(bounds) for name, bounds in wanted.items()}


def coverage(variances: list[float], n: int, truth: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """The coverage of the interval, and that of the percentile interval, over 40 samples."""
    covered, by_percentiles = dict.fromkeys(truth, 0.0), dict.fromkeys(truth, 0.0)
    for seed in range(40):
        x = gaussian(n, variances, seed)
        found: Measured = measure(x, tuple(truth))
        for name, (low, high) in bootstrap_intervals(x, found, 40, seed=seed).items():
            middle = 2 * found.metrics[name]
            covered[name] += (low <= truth[name] <= high) / 40
            by_percentiles[name] += (middle - high <= truth[name] <= middle - low) / 40
    return covered, by_percentiles


def test_95_percent_intervals_have_about_their_nominal_coverage():
    # With 40 resamples the coverage is about 93 %; fewer than 34 of 40 intervals then cover the truth with p = 0.02.
    share = torch.tensor(VARIANCES).sqrt() / torch.tensor(VARIANCES).sqrt().sum()
    truth = {
        "participation_ratio": 15**2 / 85,
        "stable_rank": 15 / 8,
        "condition_number": math.sqrt(8),
        "effective_rank": math.exp(-float((share * share.log()).sum())),
    }
    covered, _ = coverage(VARIANCES, 400, truth)
    assert min(covered.values()) >= 0.85, covered


def test_intervals_of_directions_cover_the_value_of_the_projected_normal():
    # With covariance diag(a^2, 1), the first coordinate of the direction has the mean square a / (1 + a).
    wanted = math.sqrt(2) * (math.sqrt(3 / 4) + math.sqrt(1 / 4)) / 2
    covered, _ = coverage([9.0, 1.0], 200, {"feature_std": wanted})
    assert covered["feature_std"] >= 0.85


def test_intervals_have_coverage_for_few_rows_unlike_percentile_intervals():
    """With 10 rows per dimension, the rank of a sample is biased downwards, and that of a resample more so; reflecting
    the quantiles corrects this."""
    variances = [0.9**i for i in range(16)]
    share = torch.tensor(variances).sqrt() / torch.tensor(variances).sqrt().sum()
    covered, by_percentiles = coverage(
        variances, 160, {"effective_rank": math.exp(-float((share * share.log()).sum()))}
    )
    assert covered["effective_rank"] >= 0.85
    assert by_percentiles["effective_rank"] <= 0.1


def test_the_views_of_an_image_are_resampled_together():
    """Four equal views of an image have no more information than one, so the interval keeps its width."""
    x = gaussian(200, VARIANCES)
    views = x[:, None].repeat(1, 4, 1)
    for name in ("effective_rank", "participation_ratio"):
        low, high = bootstrap_intervals(x, measure(x, (name,)), 100)[name]
        of_views = bootstrap_intervals(views, measure(views, (name,)), 100)[name]
        assert of_views[1] - of_views[0] == pytest.approx(high - low, rel=0.4), name


@pytest.mark.parametrize("resamples", [-1, 0, 1])
def test_fewer_than_two_resamples_are_refused(resamples):
    x = gaussian(50, VARIANCES)
    with pytest.raises(SSLToolError, match=f"--bootstrap {resamples}"):
        bootstrap_intervals(x, measure(x, STEADY), resamples)


def of_subset(x: Tensor, found: dict[str, float]) -> set[int]:
    """The one subset of the rows that has these values."""
    n = int(found["n"])
    fits = []
    for numbers in itertools.combinations(range(len(x)), n):
        s = singular_values(x[list(numbers)])
        variances = s.square() / s.square().sum()
        if found["participation_ratio"] == pytest.approx(float(1 / variances.square().sum()), rel=1e-10):
            fits.append(set(numbers))
    assert len(fits) == 1
    return fits[0]


@pytest.mark.parametrize("seed", range(3))
def test_smaller_subsets_are_contained_in_larger_ones(seed):
    x = gaussian(8, VARIANCES)
    subsets = [of_subset(x, row) for row in subsample_metrics(x, range(3, 9), ("participation_ratio",), seed=seed)]
    assert [len(subset) for subset in subsets] == [3, 4, 5, 6, 7, 8]
    assert all(small < large for small, large in itertools.pairwise(subsets))


@pytest.mark.parametrize("normalize", [False, True])
def test_subsample_metrics_measures_the_chosen_rows(normalize):
    x = gaussian(8, VARIANCES) * torch.arange(1, 9)[:, None]
    (unnormalized,) = subsample_metrics(x, [5], ("participation_ratio",), seed=1)
    subset = sorted(of_subset(x, unnormalized))
    (row,) = subsample_metrics(x, [5], STEADY, normalize=normalize, seed=1)
    wanted = measure(x[subset], STEADY, normalize=normalize).metrics
    assert row == pytest.approx({"n": 5} | wanted, rel=1e-9, abs=1e-9)


def test_a_subset_does_not_depend_on_the_other_sizes():
    x = gaussian(300, VARIANCES)
    rows = subsample_metrics(x, [20, 300, 50], STEADY)
    assert by_name(rows, "n") == [20, 300, 50]
    assert rows[1] == pytest.approx({"n": 300} | measure(x, STEADY).metrics, rel=1e-9, abs=1e-9)
    assert subsample_metrics(x, [50], STEADY) == [rows[2]]


def test_subsample_metrics_depends_only_on_the_seed_and_the_rows():
    x = gaussian(300, VARIANCES)
    first = subsample_metrics(x, [50], STEADY, seed=1)
    torch.manual_seed(9)
    assert subsample_metrics(x, [50], STEADY, seed=1) == first
    assert subsample_metrics(Rows(x.split(41)), [50], STEADY, seed=1) == [pytest.approx(first[0], rel=1e-9)]
    assert subsample_metrics(x, [50], STEADY, seed=2) != first


def test_subsample_metrics_gives_the_metrics_of_one_pass_only():
    (row,) = subsample_metrics(gaussian(50, VARIANCES), [20], ("auc", "twonn"))
    assert row.keys() == {"n", "auc"}


@pytest.mark.parametrize("size", [-3, 0, 1, 301])
def test_invalid_sizes_are_refused(size):
    with pytest.raises(SSLToolError, match=rf"--subsample {size}: .*2 .*300"):
        subsample_metrics(gaussian(300, VARIANCES), [50, size])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_refused_with_their_index(bad):
    x = gaussian(50, VARIANCES)
    x[7, 1] = bad
    with pytest.raises(SSLToolError, match=r"1 of 50 .*\(rows 7\)"):
        subsample_metrics(x, [20])
