"""What metrics without labels say of accuracy: how far two orders agree, and a linear forecast learned from runs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy import stats

import ssltool
from ssltool.config import LAYERS
from ssltool.diagnosis.metrics import METRICS
from ssltool.errors import SSLToolError, unknown
from ssltool.files import FilePath, write_json

LEVEL = 0.95
"""Confidence of an interval."""

FEWEST = 4
"""Below so many rows the orders are not compared: no interval could be given."""

FEATURES = ("auc", "feature_std")
"""What a forecast is learned from by default: auc sees partial collapse, feature_std complete collapse."""

ALIKE = 1e-8
"""Singular values of the standardised features below this share of the largest count as 0."""


@dataclass(frozen=True)
class Coefficient:
    """A rank correlation, -1 to 1, and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def spearman(x: Sequence[float], y: Sequence[float]) -> Coefficient:
    """Spearman's rank correlation of two rows of n >= 4 numbers, neither constant; ties share their mean rank.

    The interval is Fisher's z with the variance (1 + r^2 / 2) / (n - 3) of Bonett and Wright (Psychometrika 2000).
    """
    n = len(x)
    near = 1 - 12 / (n * (n * n - 1))
    return _interval(float(stats.spearmanr(x, y).statistic), near, lambda r: (1 + r * r / 2) / (n - 3))


def kendall(x: Sequence[float], y: Sequence[float]) -> Coefficient:
    """Kendall's tau-b of two rows of n >= 4 numbers, neither constant.

    The interval is Fisher's z with the variance 0.437 / (n - 4) of Fieller, Hartley and Pearson (Biometrika 1957),
    which says nothing of four rows: -1 to 1.
    """
    n = len(x)
    near = 1 - 4 / (n * (n - 1))
    variance = 0.437 / (n - 4) if n > 4 else math.inf
    return _interval(float(stats.kendalltau(x, y).statistic), near, lambda r: variance)


def _interval(value: float, near: float, variance: Any) -> Coefficient:
    """Fisher's interval. Perfect agreement of a few rows is not certainty, but its z is infinite: the interval then
    starts from ``near``, the value when two neighbours swap places, and reaches to 1."""
    inner = min(max(value, -near), near)
    reach = float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt(variance(inner))
    low, high = math.tanh(math.atanh(inner) - reach), math.tanh(math.atanh(inner) + reach)
    return Coefficient(value, min(low, value), max(high, value))


@dataclass(frozen=True)
class Feature:
    """A metric of one layer, what it weighs in a forecast, and its mean and range over the rows learned from."""

    layer: str
    metric: str
    coefficient: float
    mean: float
    lowest: float
    highest: float

    @property
    def key(self) -> str:
        """Its name in the records of a run: ``backbone_auc``."""
        return f"{self.layer}_{self.metric}"


def feature_keys(text: str | None, layer: str) -> list[tuple[str, str]]:
    """(layer, metric) of each name in a comma-separated list; a name without a layer's prefix is of ``layer``.

    Raises:
        SSLToolError: for a name that is no metric, or no name at all.
    """
    keys = []
    for name in [part.strip().replace("-", "_") for part in text.split(",")] if text is not None else FEATURES:
        prefix, _, rest = name.partition("_")
        key = (prefix, rest) if prefix in LAYERS else (layer, name)
        if key[1] not in METRICS:
            raise unknown("feature", name, METRICS)
        keys.append(key)
    return list(dict.fromkeys(keys))


@dataclass(frozen=True)
class Forecast:
    """accuracy = intercept + sum of coefficient x feature, as learned from ``rows`` rows.

    ``r2`` is the share of the accuracies' variance that it explains; ``loo_error`` the root mean square error of the
    forecast of each row by the other rows, and ``loo_error_of_mean`` the same of forecasting their mean: a forecast
    that is not below it is of no use. ``accuracy`` is "knn", "linear" or "file", ``runs`` are the paths of the rows.
    """

    FORMAT: ClassVar[str] = "ssltool/forecast/1"

    accuracy: str
    rows: int
    runs: list[str]
    intercept: float
    features: list[Feature]
    r2: float
    loo_error: float
    loo_error_of_mean: float

    def predict(self, values: np.ndarray) -> np.ndarray:
        """The forecast (n,) for the features' ``values`` (n, k)."""
        return self.intercept + values @ np.array([feature.coefficient for feature in self.features])

    def outside(self, values: np.ndarray) -> np.ndarray:
        """Which rows (n,) of ``values`` (n, k) have a feature beyond the range learned from."""
        low, high = (np.array([getattr(f, end) for f in self.features]) for end in ("lowest", "highest"))
        return np.any((values < low) | (values > high), axis=1)

    def as_dict(self) -> dict[str, Any]:
        """The forecast as plain values, with the name of its format."""
        return {"format": self.FORMAT, "ssltool": ssltool.__version__, **dataclasses.asdict(self)}

    def save(self, path: FilePath) -> None:
        """Writes the forecast as JSON; raises ``SSLToolError`` where that cannot be done."""
        write_json(path, self.as_dict())

    @classmethod
    def load(cls, path: FilePath) -> Forecast:
        """Reads what ``save`` wrote.

        Raises:
            SSLToolError: if it is missing, no JSON, of another format, or incomplete.
        """
        if not Path(path).is_file():
            raise SSLToolError(f"no such file: {path}; ssltool rank --fit writes a forecast")
        try:
            contents = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise SSLToolError(f"{path} is no JSON; give a file that ssltool rank --fit wrote") from error
        found = contents.get("format", "no format") if isinstance(contents, dict) else type(contents).__name__
        if found != cls.FORMAT:
            raise SSLToolError(f"{path} is not a {cls.FORMAT} file: it says {found!r}; fit it again with --fit")
        try:
            features = [Feature(**{f.name: one[f.name] for f in dataclasses.fields(Feature)})
                        for one in contents["features"]]  # fmt: skip
            known = {f.name: contents[f.name] for f in dataclasses.fields(cls)}
            numbers = [known["intercept"], *(v for f in features for v in (f.coefficient, f.lowest, f.highest))]
            complete = bool(features) and all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers)
        except (KeyError, TypeError):
            complete = False
        if not complete:
            raise SSLToolError(f"{path} is incomplete; fit it again with --fit")
        return cls(**(known | {"features": features}))


def fit(
    keys: Sequence[tuple[str, str]], values: np.ndarray, accuracies: np.ndarray, *, accuracy: str, runs: Sequence[str]
) -> Forecast:
    """Least squares of ``accuracies`` (n,) on the features' ``values`` (n, k), named by (layer, metric) ``keys``.

    The features are taken as they are, ranks too. Leave-one-out errors are e_i / (1 - h_i), with h the leverages: the
    same as fitting n times. ``runs`` are the paths of the rows.

    Raises:
        SSLToolError: for fewer than k + 2 rows, equal accuracies, features that are constant or follow from one
            another, or a row without which they would.
    """
    n, k = values.shape
    titles = [f"{layer}_{metric}" for layer, metric in keys]
    if n < k + 2:
        raise SSLToolError(
            f"a forecast from {k} feature(s) needs at least {k + 2} rows with an accuracy, and there are {n}; "
            "add runs, or learn from fewer --features"
        )
    mean, spread = values.mean(axis=0), np.ptp(values, axis=0)
    if np.ptp(accuracies) == 0:
        raise SSLToolError(f"all {n} accuracies are {accuracies[0]:g}, so there is nothing to learn; add other runs")
    constant = [title for title, one in zip(titles, spread, strict=True) if one == 0]
    if constant:
        raise SSLToolError(f"{' and '.join(constant)}: the same in all {n} rows; leave it out of --features")
    design = np.column_stack([np.ones(n), (values - mean) / spread])
    s = np.linalg.svd(design[:, 1:], compute_uv=False)
    if s[-1] < ALIKE * s[0]:
        raise SSLToolError(
            f"{', '.join(titles)} follow from one another in these rows, so their weights are not determined; "
            "leave one out of --features"
        )
    q, r = np.linalg.qr(design)
    leverage = (q * q).sum(axis=1)
    if leverage.max() > 1 - ALIKE:
        raise SSLToolError(
            f"{runs[int(leverage.argmax())]} alone decides the forecast: without it the features would be constant or "
            "follow from one another; add runs like it, or leave a feature out of --features"
        )
    weights = np.linalg.solve(r, q.T @ accuracies)
    coefficients = weights[1:] / spread
    errors, deviations = accuracies - design @ weights, accuracies - accuracies.mean()
    features = [
        Feature(*key, *map(float, numbers))
        for key, *numbers in zip(keys, coefficients, mean, values.min(axis=0), values.max(axis=0), strict=True)
    ]
    return Forecast(
        accuracy=accuracy,
        rows=n,
        runs=list(runs),
        intercept=float(weights[0] - mean @ coefficients),
        features=features,
        r2=1 - float(errors @ errors) / float(deviations @ deviations),
        loo_error=rms(errors / (1 - leverage)),
        loo_error_of_mean=rms(deviations * n / (n - 1)),
    )


def rms(errors: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))
