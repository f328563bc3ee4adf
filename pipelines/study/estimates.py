"""The statistics of docs/study-plan.md, as functions of tables with a row for each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import page_trend_test, rankdata
from scipy.stats import t as student_t
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NO_SPREAD = 1e-12
"""Squared deviations of logarithms that are rounding."""


class Estimate(NamedTuple):
    """A value with its 95 % interval, which is NaN where there are too few runs for one."""

    value: float
    low: float = np.nan
    high: float = np.nan

    def __str__(self) -> str:
        interval = "" if np.isnan(self.low) else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.value:.3g}{interval}"


def bootstrap(
    runs: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], float],
    cells: Sequence[str] = (),
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """``statistic(runs)`` with a 95 % percentile interval by bootstrap over the runs.

    Runs are resampled within the groups of equal ``cells``, the settings that the design fixes. Resampling m runs
    understates their variance by (m - 1) / m, which matters for m = 3 seeds, so the deviations are divided by the root
    of it (Davison and Hinkley 1997, Sec. 2.3). There is no interval if a cell has a single run, or if more than one
    draw in 20 has no value.
    """
    places = runs.groupby(list(cells), dropna=False).indices.values() if cells else [np.arange(len(runs))]
    groups = [np.asarray(rows) for rows in places]
    smallest = min(map(len, groups))
    if smallest < 2:
        return Estimate(statistic(runs))
    random, value = np.random.default_rng(seed), statistic(runs)
    drawn = [
        statistic(runs.iloc[np.concatenate([random.choice(group, len(group)) for group in groups])])
        for _ in range(draws)
    ]
    if np.isnan(drawn).mean() > 0.05:
        return Estimate(value)
    inflation = np.sqrt(smallest / (smallest - 1))
    low, high = value + inflation * (np.nanquantile(drawn, [0.025, 0.975]) - value)
    return Estimate(value, float(low), float(high))


def slope(runs: pd.DataFrame, y: str, x: str, block: str = "seed") -> float:
    """The slope of ``y`` on ``x`` within the blocks, by least squares; NaN if ``x`` varies in none."""
    values, blocks = runs[[y, x]].to_numpy(dtype=float, copy=True), runs[block].to_numpy()
    for one in np.unique(blocks):
        values[blocks == one] -= values[blocks == one].mean(axis=0)
    spread = (values[:, 1] ** 2).sum()
    return float((values[:, 0] * values[:, 1]).sum() / spread) if spread > NO_SPREAD else float("nan")


class Slope(NamedTuple):
    """A coefficient of a regression, its standard error, and the degrees of freedom of the error."""

    value: float
    error: float
    freedom: float

    def detectable(self, scale: float = 1.0) -> float:
        """``scale`` times the true coefficient whose interval excludes 0 with a probability of 80 %."""
        low, power = student_t.ppf([0.975, 0.8], max(self.freedom, 1))
        return float(scale * (low + power) * self.error)

    def interval(self, scale: float = 1.0) -> Estimate:
        """``scale`` times the coefficient with its t interval."""
        half = student_t.ppf(0.975, self.freedom) * self.error if self.freedom > 0 else np.nan
        return Estimate(*(float(scale * one) for one in (self.value, self.value - half, self.value + half)))

    def __add__(self, other: object) -> Slope:
        """The sum of two independent coefficients; degrees of freedom by Welch and Satterthwaite."""
        if not isinstance(other, Slope):
            return NotImplemented
        parts = [one.error**2 for one in (self, other)]
        below = sum(part**2 / max(one.freedom, 1) for part, one in zip(parts, (self, other), strict=True))
        return Slope(self.value + other.value, sum(parts) ** 0.5, sum(parts) ** 2 / below if below else np.inf)


def slope_in_blocks(runs: pd.DataFrame, y: str, x: str, blocks: Sequence[str] = ("seed",)) -> Slope:
    """The slope of ``slope`` with its error by least squares, with a constant for each block; NaN if ``x`` varies in
    none."""
    keys = [runs[name] for name in blocks]
    of_y, of_x = (runs[name] - runs.groupby(keys)[name].transform("mean") for name in (y, x))
    spread, freedom = float((of_x**2).sum()), len(runs) - runs.groupby(keys).ngroups - 1
    if spread <= NO_SPREAD:
        return Slope(np.nan, np.nan, freedom)
    value = float((of_x * of_y).sum() / spread)
    squares = ((of_y - value * of_x) ** 2).sum() / spread
    return Slope(value, float(np.sqrt(squares / freedom)) if freedom > 0 else np.nan, freedom)


def page(table: pd.DataFrame) -> float:
    """The two-sided p-value of Page's trend test over the columns of ``table``, whose rows are seeds. Rows with missing
    values are left out; NaN if fewer than two rows or three columns remain."""
    ranks = table.dropna().to_numpy()
    if ranks.shape[0] < 2 or ranks.shape[1] < 3:
        return float("nan")
    return min(1.0, 2 * min(page_trend_test(one).pvalue for one in (ranks, ranks[:, ::-1])))


def paired(runs: pd.DataFrame, y: str, by: str, one: object, other: object, keys: Sequence[str]) -> np.ndarray:
    """The differences of ``y`` between the run whose ``by`` is ``one`` and that whose ``by`` is ``other``, for all
    values of the ``keys`` that have both."""
    table = runs.pivot(index=list(keys), columns=by, values=y).reindex(columns=[one, other])
    return (table[one] - table[other]).dropna().to_numpy(dtype=float)


class Pooled(NamedTuple):
    """The mean of the differences of each comparison with its interval, the p-values, and the sizes of true effects
    whose intervals exclude 0 with a probability of 80 %."""

    effects: list[Estimate]
    p: np.ndarray
    detectable: np.ndarray


def pooled(differences: Sequence[np.ndarray]) -> Pooled:
    """The mean of each of several sets of differences, with a t interval, and the p-values of the hypothesis of 0.

    They use one standard deviation, pooled over all sets, which must be about equal in them: three pairs alone would
    have two degrees of freedom. A bootstrap of three values excludes 0 whenever they have one sign, a quarter of the
    time if there is no effect. A set without differences has NaN, and so has everything but the means if no set has
    two.
    """
    freedom = sum(max(len(one) - 1, 0) for one in differences)
    squares = sum(((one - one.mean()) ** 2).sum() for one in differences if len(one))
    deviation = np.sqrt(squares / freedom) if freedom else np.nan
    low, power = student_t.ppf([0.975, 0.8], max(freedom, 1))
    effects, p, detectable = [], [], []
    for one in differences:
        mean, error = (float(one.mean()), deviation / np.sqrt(len(one))) if len(one) else (np.nan, np.nan)
        effects.append(Estimate(mean, float(mean - low * error), float(mean + low * error)))
        p.append(2 * student_t.sf(abs(mean) / error, freedom) if error else np.nan)
        detectable.append((low + power) * error)
    return Pooled(effects, np.array(p), np.array(detectable))


def holm(p: Sequence[float]) -> np.ndarray:
    """The p-values adjusted for their number (Holm 1979): below a level, the errors of the family are below it. NaN
    stands for a test that was planned and could not be made; it counts."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    adjusted = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    result = np.empty_like(values)
    result[order] = np.minimum(adjusted, 1.0)
    return result


def verdict(found: Estimate, counts: float, paper: int | None = None, p: float = 0.0) -> str:
    """What an effect is beside the paper's: same, weaker, absent, opposite or undecided; where the paper claims
    nothing, effect, small effect, absent or undecided.

    Args:
        found: the effect.
        counts: the smallest size that counts, above 0.
        paper: the sign of the paper's effect, 1 or -1; None if it claims none.
        p: the p-value, adjusted for the number of comparisons; only effects with one below 0.05 are there.
    """
    if p < 0.05 and (found.low > 0 or found.high < 0):
        is_large = abs(found.value) >= counts
        if paper is None:
            return "effect" if is_large else "small effect"
        return "opposite" if paper * found.value < 0 else "same" if is_large else "weaker"
    return "absent" if -counts < found.low and found.high < counts else "undecided"


class Forecast(NamedTuple):
    """How well measures forecast an accuracy in ``groups`` of runs that were left out; ``within`` is the mean over the
    groups of Spearman's correlation between the runs of a group, which their common width or dataset cannot raise."""

    r2: Estimate
    rank: Estimate
    within: float
    error: float
    runs: int
    groups: int


def forecast(runs: pd.DataFrame, measures: Sequence[str], target: str, groups: str, draws: int = 500) -> Forecast:
    """Leaves out each group in turn, and forecasts ``target`` by a linear regression on ``measures`` of the others.

    Runs without one of the measures are left out. R2 is 1 - (squared errors) / (squared deviations from the mean of all
    runs): 0 is no better than that mean. ``rank`` is Spearman's correlation, ``error`` the root mean square error. The
    intervals are of a bootstrap over the groups, since runs of a group are alike; the fits are not repeated. All are
    NaN if there is one group only.
    """
    known = runs.dropna(subset=[*measures, target])
    names, y = known[groups].to_numpy(), known[target].to_numpy()
    rows = [np.flatnonzero(names == name) for name in pd.unique(names)]
    if len(rows) < 2:
        return Forecast(Estimate(np.nan), Estimate(np.nan), np.nan, np.nan, len(known), len(rows))
    model = make_pipeline(StandardScaler(), LinearRegression())
    predicted = cross_val_predict(model, known[list(measures)], y, groups=names, cv=LeaveOneGroupOut())
    random = np.random.default_rng(0)
    drawn = [np.concatenate([rows[i] for i in random.choice(len(rows), len(rows))]) for _ in range(draws)]

    def estimate(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
        values = np.array([statistic(y[i], predicted[i]) for i in drawn])
        values = values[~np.isnan(values)]
        low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
        return Estimate(statistic(y, predicted), float(low), float(high))

    error = float(np.sqrt(np.mean((y - predicted) ** 2)))
    ranks = [one for one in (rank_correlation(y[i], predicted[i]) for i in rows) if not np.isnan(one)]
    within = float(np.mean(ranks)) if ranks else float("nan")
    return Forecast(estimate(r_squared), estimate(rank_correlation), within, error, len(known), len(rows))


def r_squared(y: np.ndarray, predicted: np.ndarray) -> float:
    """The coefficient of determination; NaN if all values are equal."""
    deviations = ((y - y.mean()) ** 2).sum()
    return float(1 - ((y - predicted) ** 2).sum() / deviations) if deviations else float("nan")


def rank_correlation(y: np.ndarray, predicted: np.ndarray) -> float:
    """Spearman's correlation; NaN if all values of one are equal."""
    varied = min(len(np.unique(y)), len(np.unique(predicted))) > 1
    return float(np.corrcoef(rankdata(y), rankdata(predicted))[0, 1]) if varied else float("nan")


def first_fall(values: Sequence[float], size: float) -> int | None:
    """The first place from which all ``values`` are at least ``size`` below the largest one before it; None if there is
    none. For values that rise with collapse, give their negatives."""
    series = np.asarray(values, dtype=float)
    below = np.maximum.accumulate(series) - series >= size - 1e-9  # of rounding
    after = np.flatnonzero(~below)
    start = int(after[-1]) + 1 if len(after) else 0
    return start if start < len(series) else None
