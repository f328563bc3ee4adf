"""The statistics of the study, on data with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from study_scripts import estimates


def test_holm_multiplies_by_the_number_of_hypotheses_that_are_left():
    assert estimates.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert estimates.holm([0.6, 0.7]).tolist() == [1.0, 1.0]


def test_a_test_that_could_not_be_made_counts_in_holms_correction():
    assert estimates.holm([0.01, np.nan, 0.02]) == pytest.approx([0.03, np.nan, 0.04], nan_ok=True)


@pytest.mark.parametrize(
    ("value", "low", "high", "paper", "expected"),
    [
        (2, 1, 3, 1, "same"),
        (0.5, 0.1, 0.9, 1, "weaker"),
        (0.1, -0.5, 0.6, 1, "absent"),
        (-2, -3, -1, 1, "opposite"),
        (-2, -3, -1, -1, "same"),
        (0.5, -2, 3, 1, "undecided"),
    ],
)
def test_an_effect_is_judged_by_its_interval_and_the_size_that_counts(value, low, high, paper, expected):
    assert estimates.verdict(estimates.Estimate(value, low, high), 1.0, paper) == expected


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (2, 1, 3, "effect"),
        (-2, -3, -1, "effect"),
        (0.5, 0.1, 0.9, "small effect"),
        (0.1, -0.5, 0.6, "absent"),
        (0.1, -2, 2, "undecided"),
    ],
)
def test_where_the_paper_claims_nothing_an_effect_is_neither_the_same_nor_opposite(value, low, high, expected):
    assert estimates.verdict(estimates.Estimate(value, low, high), 1.0) == expected


def test_an_estimate_without_an_interval_is_undecided():
    assert estimates.verdict(estimates.Estimate(3.0), 1.0, 1) == "undecided"


def seeds(spread: float, trials: int = 1) -> pd.DataFrame:
    """Runs of three seeds at four sizes, whose y is 2 x + a constant of the seed + noise."""
    x, seed = np.meshgrid([0.0, 1.0, 2.0, 3.0], [1, 2, 3])
    noise = np.random.RandomState(trials).randn(12) * spread
    return pd.DataFrame({"x": x.ravel(), "seed": seed.ravel(), "y": 2 * x.ravel() + 10 * seed.ravel() + noise})


def test_a_slope_leaves_out_what_is_constant_in_a_block():
    assert estimates.slope(seeds(0), "y", "x") == pytest.approx(2)
    assert estimates.slope_in_blocks(seeds(1.0), "y", "x").value == pytest.approx(estimates.slope(seeds(1.0), "y", "x"))


def test_the_bootstrap_interval_contains_the_truth_and_is_as_wide_as_theory_says():
    found = []
    for trial in range(12):
        runs = seeds(1.0, trial).assign(y=lambda r: r["y"] - 10 * r["seed"], one=1)
        found.append(estimates.bootstrap(runs, lambda r: estimates.slope(r, "y", "x", "one"), ["x"], draws=60))
    assert sum(one.low <= 2 <= one.high for one in found) >= 9  # 11.4 expected
    assert np.mean([(one.high - one.low) / 2 for one in found]) == pytest.approx(1.96 / 15**0.5, rel=0.15)


def test_the_interval_of_three_pairs_knows_that_they_are_three():
    (found,), p, _ = estimates.pooled([np.array([1.0, 2.0, 3.0])])
    assert (found.low, found.high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    assert p[0] == pytest.approx(ttest_1samp([1.0, 2.0, 3.0], 0).pvalue)


def test_comparisons_share_one_standard_deviation():
    """Deviations of -1, 0, 1 and -2, 0, 2 with four degrees of freedom: 2.5, and t = 2.776."""
    found, p, detectable = estimates.pooled([np.array([1.0, 2.0, 3.0]), np.array([-2.0, 0.0, 2.0])])
    half = 2.776 * (2.5 / 3) ** 0.5
    assert (found[0].low, found[0].high) == pytest.approx((2 - half, 2 + half), abs=1e-3)
    assert (found[1].low, found[1].high) == pytest.approx((-half, half), abs=1e-3)
    assert p[1] == 1 and 0 < p[0] < 1
    assert detectable == pytest.approx([(2.776 + 0.941) * (2.5 / 3) ** 0.5] * 2, abs=1e-3)


def test_comparisons_without_pairs_have_no_value_and_change_no_other():
    three, none = np.array([1.0, 2.0, 3.0]), np.array([])
    (alone,), (p,), _ = estimates.pooled([three])
    found, ps, _ = estimates.pooled([three, none])
    assert (found[0], ps[0]) == (alone, p) and np.isnan(found[1].value) and np.isnan(ps[1])


def test_pairs_are_those_of_seeds_that_have_both():
    runs = pd.DataFrame({"seed": [1, 1, 2, 2, 3], "order": ["a", "b", "a", "b", "a"], "y": [1.0, 5.0, 2.0, None, 3.0]})
    assert estimates.paired(runs, "y", "order", "b", "a", ["seed"]).tolist() == [4.0]
    assert estimates.paired(runs, "y", "order", "b", "c", ["seed"]).tolist() == []


def test_pages_test_leaves_out_seeds_that_are_not_complete():
    """Three seeds of four rising values: the most extreme of 24^3 orders, two-sided."""
    table = pd.DataFrame([[1.0, 2.0, 3.0, 4.0]] * 3)
    assert estimates.page(table) == pytest.approx(2 / 24**3)
    assert estimates.page(-table) == pytest.approx(2 / 24**3)
    table.loc[3] = [4.0, None, 2.0, 1.0]
    assert estimates.page(table) == pytest.approx(2 / 24**3)
    assert np.isnan(estimates.page(table.iloc[3:]))


def test_the_interval_of_a_slope_is_that_of_least_squares():
    runs = seeds(1.0, 3)
    found = estimates.slope_in_blocks(runs, "y", "x").interval(2.0)
    design = np.column_stack([runs["x"], pd.get_dummies(runs["seed"]).to_numpy(dtype=float)])
    weights, (rest,), *_ = np.linalg.lstsq(design, runs["y"], rcond=None)
    error = (rest / 8 * np.linalg.inv(design.T @ design)[0, 0]) ** 0.5
    assert found.value == pytest.approx(2 * weights[0])
    assert found.high - found.value == pytest.approx(2 * 2.306 * error, rel=1e-3)


def test_the_sum_of_two_slopes_has_welchs_degrees_of_freedom():
    both = estimates.Slope(1.0, 3.0, 8) + estimates.Slope(2.0, 3.0, 8)
    assert (both.value, both.error, both.freedom) == pytest.approx((3.0, 18**0.5, 16))
    exact = estimates.Slope(1.0, 3.0, 8) + estimates.Slope(2.0, 0.0, 100)
    assert exact.freedom == pytest.approx(8)


def test_an_effect_whose_adjusted_p_value_is_not_small_is_undecided():
    effect = estimates.Estimate(2.0, 1.0, 3.0)
    assert [estimates.verdict(effect, 1.0, 1, p) for p in (0.04, 0.06)] == ["same", "undecided"]


def test_a_forecast_is_scored_on_groups_that_were_left_out():
    random = np.random.RandomState(0)
    runs = pd.DataFrame({"x": random.randn(60), "noise": random.randn(60), "group": np.repeat(list("abcdef"), 10)})
    runs["y"] = 3 * runs["x"] + 1
    exact = estimates.forecast(runs, ["x"], "y", "group", draws=50)
    assert exact.r2.value == pytest.approx(1) and exact.rank.value == pytest.approx(1) and exact.error < 1e-9
    assert estimates.forecast(runs, ["noise"], "y", "group", draws=50).r2.value < 0.05
    runs["own"] = runs["group"].map(dict(zip("abcdef", range(6), strict=True)))
    runs["y"] = [{"a": 5, "b": -3, "c": 1, "d": -2, "e": 4, "f": -5}[g] for g in runs["group"]]
    assert estimates.forecast(runs, ["own"], "y", "group", draws=50).r2.value < 0.2  # knows the groups, not new ones


def test_a_forecast_of_one_group_has_no_score():
    runs = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0], "group": "a"})
    found = estimates.forecast(runs, ["x"], "y", "group")
    assert np.isnan(found.r2.value) and (found.runs, found.groups) == (3, 1)


def test_a_fall_begins_where_the_values_stay_below():
    assert estimates.first_fall([1, 5, 3, 5, 4, 3], 2) == 5
    assert estimates.first_fall([1, 5, 3, 3, 2, 3], 2) == 2
    assert estimates.first_fall([1, 2, 3], 1) is None
