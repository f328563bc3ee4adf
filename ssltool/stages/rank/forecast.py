"""Rank correlations with accuracy, and a linear forecast of accuracy from metrics that need no labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy import stats

import ssltool
from ssltool.config import LAYERS
from ssltool.diagnosis.metrics import METRICS
from ssltool.errors import SSLToolError, counted, unknown
from ssltool.files.misfit import describe
from ssltool.files.reading import read_json
from ssltool.files.schema import choice, conform, integer, listing, mapping, nested, real, text
from ssltool.files.writing import FilePath, write_json
from ssltool.settings import Record, Settings

LEVEL = 0.95
"""Confidence of an interval."""

MIN_ROWS = 4
"""Rows that are needed to compare the orders; fewer allow no interval."""

FEATURES = ("auc", "feature_std")
"""Default features of a forecast: auc detects partial collapse, feature_std complete collapse."""

LOSS = ("", "loss")
"""The training loss of the epoch as a feature, of no layer. Losses are compared within one method only."""

DOMAIN = {"method": "method", "arch": "architecture", "dataset": "type of dataset"}
"""What a forecast knows of its rows beside the ranges of the features, and what messages call it."""

BUILT_IN = {"study": "study_forecast.json"}
"""Forecasts beside this module, by the names that ``--predict`` knows: that of docs/study.md."""

COLLINEAR = 1e-8
"""Standardised features are collinear if their smallest singular value is below this share of the largest."""


@dataclass(frozen=True)
class Coefficient:
    """A rank correlation in [-1, 1] with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def spearman(x: Sequence[float], y: Sequence[float]) -> Coefficient:
    """Spearman's rank correlation of two sequences of n >= 4 numbers, neither constant; ties share their mean rank.

    The interval is Fisher's z with the variance (1 + r^2 / 2) / (n - 3) of Bonett and Wright (Psychometrika 2000).
    """
    n = len(x)
    near = 1 - 12 / (n * (n * n - 1))
    return _interval(float(stats.spearmanr(x, y).statistic), near, lambda r: (1 + r * r / 2) / (n - 3))


def kendall(x: Sequence[float], y: Sequence[float]) -> Coefficient:
    """Kendall's tau-b of two sequences of n >= 4 numbers, neither constant.

    The interval is Fisher's z with the variance 0.437 / (n - 4) of Fieller, Hartley and Pearson (Biometrika 1957),
    which is infinite for n = 4: the interval is then [-1, 1].
    """
    n = len(x)
    near = 1 - 4 / (n * (n - 1))
    variance = 0.437 / (n - 4) if n > 4 else math.inf
    return _interval(float(stats.kendalltau(x, y).statistic), near, lambda r: variance)


def _interval(value: float, near: float, variance: Any) -> Coefficient:
    """Fisher's interval. The z of a perfect correlation is infinite: its interval is that of ``near``, the value with
    two neighbours swapped, extended to 1."""
    inner = min(max(value, -near), near)
    reach = float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt(variance(inner))
    low, high = math.tanh(math.atanh(inner) - reach), math.tanh(math.atanh(inner) + reach)
    return Coefficient(value, min(low, value), max(high, value))


ACCURACIES = ("knn", "linear", "file")
"""The kinds of accuracy that a forecast is of."""

FORECAST = mapping(
    {
        "accuracy": choice(*ACCURACIES),
        "rows": integer(1),
        "runs": listing(text()),
        "intercept": real(),
        "features": listing(
            mapping(
                {
                    **{"layer": text(200), "metric": text(200)},
                    **dict.fromkeys(("coefficient", "mean", "lowest", "highest"), real()),
                },
                other=nested(),
            ),
            minimum=1,
        ),
        **dict.fromkeys(("r2", "loo_error", "loo_error_of_mean"), real()),
    },
    optional={
        "domain": mapping(optional=dict.fromkeys(DOMAIN, listing(text()))),
        "group_errors": mapping(optional=dict.fromkeys(DOMAIN, real())),
    },
    other=nested(),
)
"""The file of a forecast."""


@dataclass(frozen=True)
class Feature:
    """A metric of one layer, or ``LOSS``: its coefficient in a forecast, and its mean and range over the rows."""

    layer: str
    metric: str
    coefficient: float
    mean: float
    lowest: float
    highest: float

    @property
    def key(self) -> str:
        """Its key in the records of a run."""
        return record_key(self.layer, self.metric)


def record_key(layer: str, metric: str) -> str:
    """The key of a feature in the records of a run: ``backbone_auc``, ``loss``."""
    return f"{layer}_{metric}" if layer else metric


def feature_keys(text: str | None, layer: str) -> list[tuple[str, str]]:
    """The (layer, metric) of each name in a comma-separated list; a name without a layer's prefix belongs to ``layer``.

    Raises:
        SSLToolError: for a name that is no metric, or no name at all.
    """
    keys = []
    for name in [part.strip().replace("-", "_") for part in text.split(",")] if text is not None else FEATURES:
        prefix, _, rest = name.partition("_")
        key = LOSS if name == LOSS[1] else (prefix, rest) if prefix in LAYERS else (layer, name)
        if key != LOSS and key[1] not in METRICS:
            raise unknown("feature", name, [*METRICS, LOSS[1]])
        keys.append(key)
    return list(dict.fromkeys(keys))


@dataclass(frozen=True)
class Forecast:
    """A linear model, accuracy = intercept + sum of coefficient x feature.

    Attributes:
        accuracy: the kind of accuracy, one of ``ACCURACIES``.
        rows: number of training rows.
        runs: their paths.
        intercept: the intercept.
        features: the features with their coefficients.
        r2: the share of the accuracies' variance that the model explains.
        loo_error: the leave-one-out root mean square error.
        loo_error_of_mean: the same for predicting the mean of the other rows. A model whose ``loo_error`` is not
            smaller is useless.
        domain: the methods, architectures and types of dataset of the training rows. What a row does not have is left
            out.
        group_errors: for each name in ``domain`` with several values, the root mean square error of rows of a value
            that no other row had, such as another architecture. It is left out where the other rows do not determine
            the coefficients.
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
    domain: dict[str, list[str]] = field(default_factory=dict)
    group_errors: dict[str, float] = field(default_factory=dict)

    def predict(self, values: np.ndarray) -> np.ndarray:
        """The forecast (n,) for the features' ``values`` (n, k)."""
        return self.intercept + values @ np.array([feature.coefficient for feature in self.features])

    def outside(self, values: np.ndarray) -> np.ndarray:
        """Which rows (n,) of ``values`` (n, k) have a feature outside the range of the training rows."""
        low, high = (np.array([getattr(f, end) for f in self.features]) for end in ("lowest", "highest"))
        return np.any((values < low) | (values > high), axis=1)

    def outside_domain(self, origins: Sequence[Settings]) -> list[str]:
        """What rows of these ``origins`` (their settings) have that no training row had: ``the method byol``."""
        return [
            f"the {DOMAIN[name]} {value}"
            for name, known in self.domain.items()
            for value in sorted({str(origin[name]) for origin in origins if origin.get(name) is not None} - {*known})
        ]

    def as_dict(self) -> Record:
        """The forecast as a dict for JSON, with the name of its format."""
        return {"format": self.FORMAT, "ssltool": ssltool.__version__, **dataclasses.asdict(self)}

    def save(self, path: FilePath) -> None:
        """Writes the forecast as JSON; raises ``SSLToolError`` if it cannot be written."""
        write_json(path, self.as_dict())

    @classmethod
    def load(cls, path: FilePath) -> Forecast:
        """Reads a file that ``save`` wrote, or one of ``BUILT_IN`` by its name.

        Raises:
            SSLToolError: if it is missing, not JSON, of another format, or incomplete.
        """
        if path in BUILT_IN:
            path = Path(__file__).with_name(BUILT_IN[str(path)])
        contents = read_json(path)
        found = contents.get("format", "no format") if isinstance(contents, dict) else type(contents).__name__
        if found != cls.FORMAT:
            raise SSLToolError(
                f"{path} is not a {cls.FORMAT} file: it says {describe(found)}; ssltool rank --fit writes one"
            )
        known = conform(contents, FORECAST, path, remedy="fit it again with --fit")
        features = [Feature(**{f.name: one[f.name] for f in dataclasses.fields(Feature)}) for one in known["features"]]
        known = {f.name: known[f.name] for f in dataclasses.fields(cls) if f.name in known}
        return cls(**(known | {"features": features}))


def domain_of(origins: Sequence[Settings]) -> dict[str, list[str]]:
    """The values of ``DOMAIN`` in the settings of some rows; a name that one of them lacks is left out."""
    found = {name: {origin.get(name) for origin in origins} or {None} for name in DOMAIN}
    return {name: sorted(map(str, values)) for name, values in found.items() if None not in values}


def fit(
    keys: Sequence[tuple[str, str]],
    values: np.ndarray,
    accuracies: np.ndarray,
    *,
    accuracy: str,
    runs: Sequence[str],
    origins: Sequence[Settings] = (),
) -> Forecast:
    """Least squares of ``accuracies`` (n,) on the features' ``values`` (n, k), named by (layer, metric) ``keys``.

    The features are not transformed. The errors of rows G that are left out are (I - H_GG)^-1 e_G, with e the residuals
    and H the hat matrix, which equals a fit without them. ``runs`` are the paths of the rows, ``origins`` their
    settings.

    Raises:
        SSLToolError: for fewer than k + 2 rows, equal accuracies, features that are constant or collinear, or a row
            without which they would be.
    """
    n = len(values)
    _check_values(keys, values, accuracies)
    mean, spread = values.mean(axis=0), np.ptp(values, axis=0)
    design = np.column_stack([np.ones(n), (values - mean) / spread])
    s = np.linalg.svd(design[:, 1:], compute_uv=False)
    if s[-1] < COLLINEAR * s[0]:
        raise SSLToolError(
            f"{', '.join(record_key(*key) for key in keys)} are collinear in these rows, so their coefficients are not "
            "determined; leave one out of --features"
        )
    q, r = np.linalg.qr(design)
    leverage = (q * q).sum(axis=1)
    if leverage.max() > 1 - COLLINEAR:
        raise SSLToolError(
            f"{runs[int(leverage.argmax())]} alone determines the forecast: without it the features would be constant "
            "or collinear; add similar runs, or leave a feature out of --features"
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
        domain=domain_of(origins),
        group_errors=group_errors(q, errors, origins),
    )


def group_errors(q: np.ndarray, errors: np.ndarray, origins: Sequence[Settings]) -> dict[str, float]:
    """``Forecast.group_errors`` of the orthonormal ``q`` (n, k) of the design and the residuals ``errors`` (n,)."""
    found = {
        name: rms(errors_left_out(q, errors, [str(origin[name]) for origin in origins]))
        for name, several in domain_of(origins).items()
        if len(several) > 1
    }
    return {name: error for name, error in found.items() if math.isfinite(error)}


def errors_left_out(q: np.ndarray, errors: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """The errors (n,) of the rows of each group by a fit to the others; NaN for a group without which the coefficients
    are not determined."""
    found, names = np.empty_like(errors), np.asarray(groups)
    for name in np.unique(names):
        rows = names == name
        hat = q[rows] @ q[rows].T
        known = np.linalg.eigvalsh(hat)[-1] <= 1 - COLLINEAR
        found[rows] = np.linalg.solve(np.eye(len(hat)) - hat, errors[rows]) if known else np.nan
    return found


def _check_values(keys: Sequence[tuple[str, str]], values: np.ndarray, accuracies: np.ndarray) -> None:
    """Refuses too few rows, equal accuracies, and features that are the same in all rows."""
    n = len(values)
    if n < len(keys) + 2:
        raise SSLToolError(
            f"a forecast from {counted(len(keys), 'feature')} needs at least {len(keys) + 2} rows with an accuracy, "
            f"and there are {n}; add runs, or use fewer --features"
        )
    if np.ptp(accuracies) == 0:
        raise SSLToolError(f"all {n} accuracies are {accuracies[0]:g}, so there is nothing to fit; add other runs")
    constant = [record_key(*key) for key, width in zip(keys, np.ptp(values, axis=0), strict=True) if width == 0]
    if constant:
        raise SSLToolError(f"{' and '.join(constant)}: the same in all {n} rows; leave it out of --features")


def rms(errors: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))
