"""The statistics of docs/study-plan.md, as functions of tables with a row for each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from scipy.stats import t as student_t
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


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
    of it (Davison and Hinkley 1997, Sec. 2.3).

    Raises:
        ValueError: if a cell has a single run.
    """
    places = runs.groupby(list(cells), dropna=False).indices.values() if cells else [np.arange(len(runs))]
    groups = [np.asarray(rows) for rows in places]
    smallest = min(map(len, groups))
    if smallest < 2:
        raise ValueError(f"a cell of {', '.join(cells)} has {smallest} run; a bootstrap over runs needs two or more")
    random, value = np.random.default_rng(seed), statistic(runs)
    drawn = [
        statistic(runs.iloc[np.concatenate([random.choice(group, len(group)) for group in groups])])
        for _ in range(draws)
    ]
    inflation = np.sqrt(smallest / (smallest - 1))
    low, high = value + inflation * (np.quantile(drawn, [0.025, 0.975]) - value)
    return Estimate(value, float(low), float(high))


def slope(runs: pd.DataFrame, y: str, x: str, block: str = "seed") -> float:
    """The slope of ``y`` on ``x`` within the blocks, by least squares."""
    values, blocks = runs[[y, x]].to_numpy(dtype=float, copy=True), runs[block].to_numpy()
    for one in np.unique(blocks):
        values[blocks == one] -= values[blocks == one].mean(axis=0)
    return float((values[:, 0] * values[:, 1]).sum() / (values[:, 1] ** 2).sum())


def slope_interval(runs: pd.DataFrame, y: str, x: str, scale: float = 1.0, block: str = "seed") -> Estimate:
    """``scale`` times the slope of ``slope``, with the t interval of least squares."""
    value, blocks = slope(runs, y, x, block), runs[block]
    of_y, of_x = (runs[name] - runs[name].groupby(blocks).transform("mean") for name in (y, x))
    freedom = len(runs) - blocks.nunique() - 1
    error = np.sqrt(((of_y - value * of_x) ** 2).sum() / freedom / (of_x**2).sum())
    half = student_t.ppf(0.975, freedom) * error
    return Estimate(*(float(scale * one) for one in (value, value - half, value + half)))


def paired(runs: pd.DataFrame, y: str, by: str, one: object, other: object, keys: Sequence[str]) -> np.ndarray:
    """The differences of ``y`` between the run whose ``by`` is ``one`` and that whose ``by`` is ``other``, for all
    values of the ``keys`` that have both."""
    table = runs.pivot(index=list(keys), columns=by, values=y)
    return (table[one] - table[other]).dropna().to_numpy()


class Pooled(NamedTuple):
    """The mean of the differences of each comparison, with intervals and p-values."""

    effects: list[Estimate]
    p: np.ndarray


def pooled(differences: Sequence[np.ndarray]) -> Pooled:
    """The mean of each of several sets of differences, with a t interval, and the p-values of the hypothesis of 0.

    They use one standard deviation, pooled over all sets, which must be about equal in them: three pairs alone would
    have two degrees of freedom. A bootstrap of three values excludes 0 whenever they have one sign, a quarter of the
    time if there is no effect.
    """
    freedom = sum(len(one) - 1 for one in differences)
    deviation = np.sqrt(sum(((one - one.mean()) ** 2).sum() for one in differences) / freedom)
    effects, p = [], []
    for one in differences:
        error = deviation / np.sqrt(len(one))
        half = student_t.ppf(0.975, freedom) * error
        effects.append(Estimate(float(one.mean()), float(one.mean() - half), float(one.mean() + half)))
        p.append(2 * student_t.sf(abs(one.mean()) / error, freedom))
    return Pooled(effects, np.array(p))


def holm(p: Sequence[float]) -> np.ndarray:
    """The p-values adjusted for their number (Holm 1979): below a level, the errors of the family are below it."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    adjusted = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    result = np.empty_like(values)
    result[order] = np.minimum(adjusted, 1.0)
    return result


def verdict(found: Estimate, counts: float, paper: int, p: float = 0.0) -> str:
    """What an effect is beside the paper's: same, weaker, absent, opposite or undecided.

    Args:
        found: the effect.
        counts: the smallest size that counts, above 0.
        paper: the sign of the paper's effect, 1 or -1.
        p: the p-value, adjusted for the number of comparisons; only effects with one below 0.05 are there.
    """
    value, low, high = (paper * found.value, *sorted((paper * found.low, paper * found.high)))
    if p < 0.05 and low > 0:
        return "same" if value >= counts else "weaker"
    if p < 0.05 and high < 0:
        return "opposite"
    return "absent" if -counts < low and high < counts else "undecided"


class Forecast(NamedTuple):
    """How well measures forecast an accuracy in groups of runs that were left out; ``within`` is the mean over the
    groups of Spearman's correlation between the runs of a group, which their common width or dataset cannot raise."""

    r2: Estimate
    rank: Estimate
    within: float
    error: float


def forecast(runs: pd.DataFrame, measures: Sequence[str], target: str, groups: str, draws: int = 500) -> Forecast:
    """Leaves out each group in turn, and forecasts ``target`` by a linear regression on ``measures`` of the others.

    R2 is 1 - (squared errors) / (squared deviations from the mean of all runs): 0 is no better than that mean.
    ``rank`` is Spearman's correlation, ``error`` the root mean square error. The intervals are of a bootstrap over the
    groups, since runs of a group are alike; the fits are not repeated.
    """
    model = make_pipeline(StandardScaler(), LinearRegression())
    known = runs.dropna(subset=[*measures, target])
    names, y = known[groups].to_numpy(), known[target].to_numpy()
    predicted = cross_val_predict(model, known[list(measures)], y, groups=names, cv=LeaveOneGroupOut())
    rows = [np.flatnonzero(names == name) for name in pd.unique(names)]
    random = np.random.default_rng(0)
    drawn = [np.concatenate([rows[i] for i in random.choice(len(rows), len(rows))]) for _ in range(draws)]

    def estimate(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
        low, high = np.nanquantile([statistic(y[i], predicted[i]) for i in drawn], [0.025, 0.975])
        return Estimate(statistic(y, predicted), float(low), float(high))

    error = float(np.sqrt(np.mean((y - predicted) ** 2)))
    ranks = [spearmanr(y[i], predicted[i]).statistic for i in rows if len(np.unique(predicted[i])) > 1]
    within = float(np.mean(ranks)) if ranks else float("nan")
    return Forecast(estimate(r_squared), estimate(lambda a, b: float(spearmanr(a, b).statistic)), within, error)


def r_squared(y: np.ndarray, predicted: np.ndarray) -> float:
    """The coefficient of determination; NaN if all values are equal."""
    deviations = ((y - y.mean()) ** 2).sum()
    return float(1 - ((y - predicted) ** 2).sum() / deviations) if deviations else float("nan")


def first_fall(values: Sequence[float], size: float) -> int | None:
    """The first place from which all ``values`` are at least ``size`` below the largest one before it; None if there is
    none. For values that rise with collapse, give their negatives."""
    series = np.asarray(values, dtype=float)
    below = np.maximum.accumulate(series) - series >= size
    after = np.flatnonzero(~below)
    start = int(after[-1]) + 1 if len(after) else 0
    return start if start < len(series) else None
