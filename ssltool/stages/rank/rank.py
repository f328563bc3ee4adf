"""The rank stage: runs or checkpoints in the order of a metric that needs no labels, how well that order agrees with
accuracy where it is known, and a forecast of accuracy learned from runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ssltool.config import RankConfig
from ssltool.diagnosis.metrics import METRICS, metric_names
from ssltool.errors import SSLToolError
from ssltool.files import finite, write_atomically, write_json
from ssltool.stages.rank import known_accuracies
from ssltool.stages.rank.forecast import FEWEST, Forecast, feature_keys, fit, kendall, rms, spearman
from ssltool.stages.rank.items import Candidate, give_labels, of_file, of_run, sort_out

ORDER = {"low": "lowest first", "high": "highest first", "": "nearest to 1 first"}
"""What is best first, by ``Metric.healthier``."""

GROW_WITH_WIDTH = ("effective_rank", "rankme", "participation_ratio", "stable_rank", "numerical_rank")


@dataclass(frozen=True)
class _Asked:
    """The settings, read and checked before any item is opened."""

    by: str
    features: list[tuple[str, str]]
    forecast: Forecast | None


def run(config: RankConfig) -> dict[str, Any]:
    """The stage: reads or measures each item, orders them, compares the order with accuracy, learns or applies a
    forecast, and writes the table ``out``.

    Returns:
        {"by", "layer", "order", "accuracy", "rows": [{"rank", "run", "epoch", ..., "path"}, ...], "agreement",
        "forecast", "forecast_error", "notes"}, rows best first. "accuracy" is "knn", "linear", "file" or None.

    Raises:
        SSLToolError: for items that are neither run folders with the monitor's records nor representations, metrics
            that they lack, accuracies that cannot be read or belong to none, or a forecast that cannot be learned.
    """
    asked = _read(config)
    rows, probes, notes = _gather(config, asked)
    values = np.array([row.value(config.layer, asked.by) for row in rows])
    kind = _accuracies(config, rows, probes, notes)
    distance = {"low": values, "high": -values, "": np.abs(values - 1)}[METRICS[asked.by].healthier]
    agreement = None if kind is None else _agreement(-distance, rows, notes)
    if config.checkpoints and agreement is not None:
        notes.append("checkpoints of one run are alike, but the intervals take all rows for independent")
    forecast = _fitted(config, asked, rows, kind, notes) if config.fit is not None else asked.forecast
    forecasts = np.full(len(rows), np.nan)
    errors = forecasts
    if forecast is not None and config.predict is not None:
        forecasts = _predicted(forecast, rows, notes)
        if kind in (None, forecast.accuracy, "file") or forecast.accuracy == "file":
            errors = forecasts - _known(rows)
        else:
            notes.append(f"the forecast is of {forecast.accuracy} accuracy, which {kind} accuracy is not: no errors")
    notes += _differences(asked.by, rows)
    document = {
        "by": asked.by,
        "layer": config.layer,
        "order": ORDER[METRICS[asked.by].healthier],
        "accuracy": kind,
        "rows": _table(asked.by, rows, values, distance, forecasts, errors),
        "agreement": agreement,
        "forecast": None if forecast is None else forecast.as_dict(),
        "forecast_error": rms(errors[np.isfinite(errors)]) if np.isfinite(errors).any() else None,
        "notes": notes,
    }
    document = finite(document)
    _write(config, document, forecast)
    return document


def _read(config: RankConfig) -> _Asked:
    config.check()
    (by,) = metric_names(config.by)
    forecast = None if config.predict is None else Forecast.load(config.predict)
    if forecast is not None:
        return _Asked(by, [(feature.layer, feature.metric) for feature in forecast.features], forecast)
    return _Asked(by, [] if config.fit is None else feature_keys(config.features, config.layer), None)


def _gather(config: RankConfig, asked: _Asked) -> tuple[list[Candidate], list[str], list[str]]:
    """What is ranked, the folders of probes, and what is to be said of them."""
    folders, files, probes = sort_out(config.items, checkpoints=config.checkpoints)
    rows, notes = [], []
    for path in folders:
        found, said = of_run(path, checkpoints=config.checkpoints)
        rows += found
        notes += said
    names = dict.fromkeys([asked.by, *(metric for layer, metric in asked.features if layer == config.layer)])
    for path in files:
        one, said = of_file(path, config.layer, tuple(names))
        rows.append(one)
        notes += said
    if probes and config.accuracy != "linear":
        notes.append(f"{len(probes)} run folders of lincls are left out; --accuracy linear takes their accuracies")
    if folders and files:
        notes.append("run folders are measured on the monitor's images, files on the rows they hold: compare with care")
    give_labels(rows)
    among = {Path(path).resolve() for path in probes}
    return rows, probes + [path for path in config.probes if Path(path).resolve() not in among], notes


def _accuracies(config: RankConfig, rows: Sequence[Candidate], probes: Sequence[str], notes: list[str]) -> str | None:
    """Gives the rows their accuracies; returns their kind, or None where there are none."""
    kind = config.accuracy if config.accuracy in ("knn", "linear") else "file" if config.accuracy else None
    if kind in (None, "knn"):
        if all(row.accuracy is None for row in rows):
            if kind is None:
                return None
            raise SSLToolError(
                "--accuracy knn: no row has it; the monitor of pretrain records it where images have labels, "
                "so give --accuracy linear or a .csv file"
            )
    else:
        if kind == "linear":
            if not probes:
                raise SSLToolError("--accuracy linear: name run folders of lincls with --probes, or among the ITEMs")
            known, said = known_accuracies.of_probes(probes, [row.source_hash() for row in rows])
        else:
            known, said = known_accuracies.of_table(str(config.accuracy), [row.names for row in rows])
        for row, accuracy in zip(rows, known, strict=True):
            row.accuracy = accuracy
        notes += said
    without = sum(row.accuracy is None for row in rows)
    if without:
        notes.append(f"{without} of {len(rows)} rows have no accuracy: they are ranked and not compared")
    return kind or "knn"


def _known(rows: Sequence[Candidate]) -> np.ndarray:
    return np.array([np.nan if row.accuracy is None else row.accuracy for row in rows])


def _agreement(scores: np.ndarray, rows: Sequence[Candidate], notes: list[str]) -> dict[str, Any] | None:
    """How far ``scores`` (n,), higher for healthier, order as the accuracies do; None where that cannot be said."""
    known = _known(rows)
    usable = np.isfinite(scores) & np.isfinite(known)
    x, y, n = scores[usable], known[usable], int(usable.sum())
    if n < FEWEST:
        notes.append(f"{n} row(s) with an accuracy are too few to compare the orders; {FEWEST} are needed")
        return None
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        notes.append(f"all {'metrics' if np.ptp(x) == 0 else 'accuracies'} are equal: there is no order to compare")
        return None
    return {"rows": n} | {f.__name__: dataclasses.asdict(f(x, y)) for f in (spearman, kendall)}


def _features(rows: Sequence[Candidate], keys: Sequence[tuple[str, str]]) -> np.ndarray:
    return np.array([[row.value(*key) for key in keys] for row in rows])


def _fitted(
    config: RankConfig, asked: _Asked, rows: Sequence[Candidate], kind: str | None, notes: list[str]
) -> Forecast:
    if kind is None:
        raise SSLToolError("--fit needs accuracies to learn from, and no row has one; give --accuracy linear or FILE")
    rows = [row for row in rows if row.accuracy is not None]
    values = _features(rows, asked.features)
    whole = np.isfinite(values).all(axis=1)
    if not whole.all():
        notes.append(f"{int((~whole).sum())} rows with a feature that is not finite are not learned from")
    runs = [row.path for row, one in zip(rows, whole, strict=True) if one]
    return fit(asked.features, values[whole], _known(rows)[whole], accuracy=kind, runs=runs)


def _predicted(forecast: Forecast, rows: Sequence[Candidate], notes: list[str]) -> np.ndarray:
    values = _features(rows, [(feature.layer, feature.metric) for feature in forecast.features])
    outside = int(forecast.outside(values).sum())
    if outside:
        notes.append(f"{outside} of {len(rows)} rows lie outside the features that the forecast was learned from")
    again = sum(row.path in forecast.runs for row in rows)
    if again:
        notes.append(f"{again} of {len(rows)} rows are what the forecast was learned from: their errors are too small")
    return forecast.predict(values)


def _differences(by: str, rows: Sequence[Candidate]) -> list[str]:
    """What makes metrics or accuracies of these rows hard to compare."""
    found = {key: sorted({str(row.origin[key]) for row in rows if key in row.origin}) for key in ("arch", "dataset")}
    notes = []
    if len(found["arch"]) > 1 and by in GROW_WITH_WIDTH:
        notes.append(f"{by} grows with the width, and the rows are of {', '.join(found['arch'])}: compare one width")
    if len(found["dataset"]) > 1:
        notes.append(f"the rows are of {', '.join(found['dataset'])}: neither metrics nor accuracies compare")
    return notes


def _table(
    by: str,
    rows: Sequence[Candidate],
    values: np.ndarray,
    distance: np.ndarray,
    forecasts: np.ndarray,
    errors: np.ndarray,
) -> list[dict[str, Any]]:
    """The rows, best first; equal metrics share a rank, and what could not be measured is last and has none."""
    ranks = stats.rankdata(distance, method="min", nan_policy="omit")
    return [
        {
            "rank": int(ranks[i]) if math.isfinite(distance[i]) else None,
            "run": rows[i].label,
            **{key: rows[i].origin.get(key) for key in ("epoch", "method", "arch", "strategy")},
            by: values[i],
            "verdict": rows[i].verdict,
            "accuracy": rows[i].accuracy,
            "forecast": forecasts[i],
            "error": errors[i],
            "path": rows[i].path,
        }
        for i in map(int, np.argsort(distance, kind="stable"))
    ]


def _write(config: RankConfig, document: dict[str, Any], forecast: Forecast | None) -> None:
    if config.fit is not None and forecast is not None:
        forecast.save(config.fit)
    if config.out is not None and Path(config.out).suffix == ".json":
        write_json(config.out, document)
    elif config.out is not None:
        text = pd.DataFrame(document["rows"]).astype({"rank": "Int64", "epoch": "Int64"}).to_csv(index=False)
        write_atomically(config.out, lambda stream: stream.write(text.encode()))
