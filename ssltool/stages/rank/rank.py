"""The rank stage: orders runs or checkpoints by a metric that needs no labels, compares the order with accuracies, and
fits or applies a forecast of accuracy."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from ssltool.config import RankConfig
from ssltool.diagnosis.metrics import METRICS, metric_names
from ssltool.errors import SSLToolError, counted
from ssltool.files.writing import finite
from ssltool.reprs.representation_set import transform_notes
from ssltool.runs.evaluations import Evaluation, accuracies_of, read_evaluations
from ssltool.runs.run_table import columns
from ssltool.runs.tables import frame_of, write_table
from ssltool.settings import Record
from ssltool.stages.rank.forecast import (
    LOSS,
    MIN_ROWS,
    Forecast,
    feature_keys,
    fit,
    kendall,
    record_key,
    rms,
    spearman,
)
from ssltool.stages.rank.items import (
    RankedItem,
    assign_display_names,
    measure_file,
    read_run_folder,
    read_untrained,
    split_items,
)
from ssltool.stages.rank.known_accuracies import probe_accuracies, table_accuracies

ORDER = {"low": "lowest first", "high": "highest first", "": "nearest to 1 first"}
"""The order of the table, by ``Metric.healthier``."""


NETWORK_INPUT = {"stem": "stem", "image_size": "image size"}
"""Settings of a network that change its accuracy by themselves, and what notes call them."""


@dataclass(frozen=True)
class _Request:
    """The parsed settings: the metric to order by, the (layer, metric) features of the forecast, and the forecast that
    is to be applied."""

    by: str
    features: list[tuple[str, str]]
    forecast: Forecast | None


def run(config: RankConfig) -> Record:
    """The stage: reads or measures each item, orders the items, compares the order with accuracy, fits or applies a
    forecast, and writes the table ``out``.

    Returns:
        {"by", "layer", "order", "accuracy", "rows": [{"rank", "run", "epoch", ..., "path"}, ...], "agreement",
        "forecast", "forecast_error", "notes"}, rows best first, epochs counted from 0. "accuracy" is "knn", "linear",
        "file" or None. After "path", a row has the columns of ``ssltool table``. With ``checkpoints``, the last rows
        are the untrained networks, which have no rank.

    Raises:
        SSLToolError: for items that are neither run folders with the monitor's records nor representations, metrics
            that they lack, accuracies that cannot be read or match no item, or a forecast that cannot be fitted.
    """
    request = _parse(config)
    rows, later, notes = _read_items(config, request)
    probes = [path for path, stage in later.items() if stage == "lincls"]
    _compare_files(config.layer, request.by, rows)
    values = np.array([row.value(config.layer, request.by) for row in rows])
    kind = _set_accuracies(config, rows, probes, notes)
    distance = {"low": values, "high": -values, "": np.abs(values - 1)}[METRICS[request.by].healthier]
    agreement = None if kind is None else _agreement(-distance, rows, notes)
    if config.checkpoints and agreement is not None:
        notes.append("checkpoints of one run are correlated, but the intervals assume independent rows")
    forecast = _fit_forecast(config, request, rows, kind, notes) if config.fit is not None else request.forecast
    forecasts = np.full(len(rows), np.nan)
    errors = forecasts
    if forecast is not None and config.predict is not None:
        forecasts = _apply_forecast(forecast, rows, notes)
        if kind in (None, forecast.accuracy, "file") or forecast.accuracy == "file":
            errors = forecasts - _known_accuracies(rows)
        else:
            notes.append(
                f"the forecast is of {forecast.accuracy} accuracy and the rows have {kind} accuracy: no errors"
            )
    notes += _differences(request.by, rows)
    untrained, more = _read_untrained(config, later)
    notes += _not_above_untrained(rows, untrained) + _all_healthy(config, rows, kind)
    assign_display_names([*rows, *untrained])
    cells, others = _other_columns([*rows, *untrained], later)
    notes += more + others
    document = {
        "by": request.by,
        "layer": config.layer,
        "order": ORDER[METRICS[request.by].healthier],
        "accuracy": kind,
        "rows": _table(config.layer, request.by, [*rows, *untrained], distance, forecasts, errors, cells),
        "agreement": agreement,
        "forecast": None if forecast is None else forecast.as_dict(),
        "forecast_error": rms(errors[np.isfinite(errors)]) if np.isfinite(errors).any() else None,
        "notes": notes,
    }
    document = finite(document)
    _write(config, document, forecast)
    return document


def _parse(config: RankConfig) -> _Request:
    config.check()
    (by,) = metric_names(config.by)
    forecast = None if config.predict is None else Forecast.load(config.predict)
    if forecast is not None:
        return _Request(by, [(feature.layer, feature.metric) for feature in forecast.features], forecast)
    return _Request(by, [] if config.fit is None else feature_keys(config.features, config.layer), None)


def _read_items(config: RankConfig, request: _Request) -> tuple[list[RankedItem], dict[str, str], list[str]]:
    """The items, the run folders of later stages, each with its stage, and notes for the user."""
    folders, files, later = split_items(config.items, checkpoints=config.checkpoints)
    rows, notes = [], []
    for path in folders:
        items, more = read_run_folder(path, checkpoints=config.checkpoints)
        rows += items
        notes += more
    by = METRICS[request.by].of or (request.by,)
    names = dict.fromkeys([*by, *(metric for layer, metric in request.features if layer == config.layer)])
    if config.pool is not None and not files:
        raise SSLToolError("--pool has no effect without a file of representations; leave it out")
    for path in files:
        item, more = measure_file(path, config.layer, tuple(names), config.pool)
        rows.append(item)
        notes += more
    probes = list(later.values()).count("lincls")
    if probes and config.accuracy != "linear":
        notes.append(f"{counted(probes, 'run folder')} of lincls not compared with; --accuracy linear does")
    if folders and files:
        notes.append("run folders are measured on the monitor's images, files on their own rows: compare with care")
    assign_display_names(rows)
    resolved = set(map(os.path.realpath, later))
    later |= {path: "lincls" for path in config.probes if os.path.realpath(path) not in resolved}
    return rows, later, notes


def _read_untrained(config: RankConfig, later: Mapping[str, str]) -> tuple[list[RankedItem], list[str]]:
    """With ``checkpoints`` the untrained networks of the run folders of pretrain, and notes."""
    folders = [path for path in map(Path, config.items) if path.is_dir() and str(path) not in later]
    found = [read_untrained(str(path)) for path in folders if config.checkpoints]
    return [item for items, _ in found for item in items], [note for _, notes in found for note in notes]


def _not_above_untrained(rows: Sequence[RankedItem], untrained: Sequence[RankedItem]) -> list[str]:
    """Notes on the checkpoints whose kNN accuracy is at most that of the untrained network of their run."""
    notes = []
    for before in untrained:
        known = [row.knn for row in rows if Path(row.path).parent == Path(before.path) and row.knn is not None]
        if known and before.knn is not None and (below := sum(knn <= before.knn for knn in known)):
            notes.append(
                f"{before.path}: {below} of {counted(len(known), 'checkpoint')} have a kNN accuracy that is not above "
                f"the untrained network's ({before.knn:.1%})"
            )
    return notes


def _all_healthy(config: RankConfig, rows: Sequence[RankedItem], kind: str | None) -> list[str]:
    """A note on checkpoints that have no accuracies and none of which collapsed: their order does not say which is
    best."""
    healthy = all(row.record.get("verdict") == "healthy" for row in rows)
    if not (config.checkpoints and kind is None and healthy and len(rows) > 1):
        return []
    return [
        f"none of the {len(rows)} checkpoints collapsed, and among these the order does not say which is best; ssltool "
        "diagnose names the one to keep"
    ]


def _other_columns(rows: Sequence[RankedItem], later: Mapping[str, str]) -> tuple[list[Record], list[str]]:
    """For each row the settings in which the rows differ, the values of its record, and the accuracies that ``later``
    stages measured; and notes."""
    evaluations: list[Evaluation] = []
    notes = []
    for path, stage in later.items():
        try:
            evaluations += read_evaluations(path, stage)
        except SSLToolError as error:
            notes.append(f"left out: {error}")
    cells, _ = columns([row.settings for row in rows], [row.record for row in rows])
    accuracies, more = accuracies_of(evaluations, [row.source_hash() if evaluations else None for row in rows])
    names = dict.fromkeys(name for one in accuracies for name in one)
    return [
        own | {name: one.get(name) for name in names} for own, one in zip(cells, accuracies, strict=True)
    ], notes + more


def _compare_files(layer: str, by: str, rows: Sequence[RankedItem]) -> None:
    """Sets the value of a metric of several files, from the other metrics that it is a function of."""
    if parts := METRICS[by].of:
        columns = [np.array([row.value(layer, part) for row in rows]) for part in parts]
        for row, value in zip(rows, METRICS.load(by)(*columns), strict=True):
            row.metrics[f"{layer}_{by}"] = float(value)


def _set_accuracies(
    config: RankConfig, rows: Sequence[RankedItem], probes: Sequence[str], notes: list[str]
) -> str | None:
    """Sets the accuracies of the rows; returns their kind, or None if there are none."""
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
            accuracies, more = probe_accuracies(probes, [row.source_hash() for row in rows])
        else:
            accuracies, more = table_accuracies(str(config.accuracy), [row.names for row in rows])
        for row, accuracy in zip(rows, accuracies, strict=True):
            row.accuracy = accuracy
        notes += more
    without = sum(row.accuracy is None for row in rows)
    if without:
        notes.append(f"{without} of {len(rows)} rows have no accuracy: they are ranked but not compared")
    return kind or "knn"


def _known_accuracies(rows: Sequence[RankedItem]) -> np.ndarray:
    return np.array([np.nan if row.accuracy is None else row.accuracy for row in rows])


def _agreement(scores: np.ndarray, rows: Sequence[RankedItem], notes: list[str]) -> Record | None:
    """Rank correlations of ``scores`` (n,), higher is healthier, with the accuracies; None if they are undefined."""
    known = _known_accuracies(rows)
    usable = np.isfinite(scores) & np.isfinite(known)
    x, y, n = scores[usable], known[usable], int(usable.sum())
    if n < MIN_ROWS:
        notes.append(f"{counted(n, 'row')} with an accuracy; at least {MIN_ROWS} are needed to compare the orders")
        return None
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        notes.append(f"all {'metrics' if np.ptp(x) == 0 else 'accuracies'} are equal: there is no order to compare")
        return None
    return {"rows": n} | {f.__name__: dataclasses.asdict(f(x, y)) for f in (spearman, kendall)}


def _features(rows: Sequence[RankedItem], keys: Sequence[tuple[str, str]]) -> np.ndarray:
    return np.array([[row.value(*key) for key in keys] for row in rows]).reshape(len(rows), len(keys))


def _fit_forecast(
    config: RankConfig, request: _Request, rows: Sequence[RankedItem], kind: str | None, notes: list[str]
) -> Forecast:
    if kind is None:
        raise SSLToolError("--fit needs accuracies, and no row has one; give --accuracy linear or FILE")
    rows = [row for row in rows if row.accuracy is not None]
    values = _features(rows, request.features)
    usable = np.isfinite(values).all(axis=1)
    if not usable.all():
        notes.append(f"{int((~usable).sum())} rows with a feature that is not finite are not used to fit the forecast")
    rows = [row for row, use in zip(rows, usable, strict=True) if use]
    methods = sorted({str(row.origin["method"]) for row in rows if row.origin.get("method") is not None})
    if LOSS in request.features and len(methods) > 1:
        notes.append(f"the losses of {' and '.join(methods)} are not comparable: fit each method by itself")
    return fit(
        request.features,
        values[usable],
        _known_accuracies(rows),
        accuracy=kind,
        runs=[row.path for row in rows],
        origins=[row.origin for row in rows],
    )


def _apply_forecast(forecast: Forecast, rows: Sequence[RankedItem], notes: list[str]) -> np.ndarray:
    values = _features(rows, [(feature.layer, feature.metric) for feature in forecast.features])
    outside = int(forecast.outside(values).sum())
    if outside:
        notes.append(
            f"{outside} of {len(rows)} rows lie outside the range of the features that the forecast was fitted to"
        )
    if others := forecast.outside_domain([row.origin for row in rows]):
        notes.append(f"the forecast was not fitted to {', '.join(others)}, and may not hold there")
    training = sum(row.path in forecast.runs for row in rows)
    if training:
        notes.append(f"{training} of {len(rows)} rows were used to fit the forecast: their errors are too small")
    return forecast.predict(values)


def _differences(by: str, rows: Sequence[RankedItem]) -> list[str]:
    """Notes on differences that make the rows hard to compare."""
    found = {key: sorted({str(row.origin[key]) for row in rows if key in row.origin}) for key in ("arch", "dataset")}
    notes = []
    if len(found["arch"]) > 1 and METRICS[by].grows_with_width:
        notes.append(
            f"{by} grows with the width, and the rows have different architectures ({', '.join(found['arch'])})"
        )
    for name, title in NETWORK_INPUT.items():
        values = {row.origin.get(name) for row in rows} - {None}
        if len(values) > 1:
            shown = ", ".join(sorted(map(str, values)))
            notes.append(
                f"the rows have different {title}s ({shown}): accuracy and metrics depend on it, so compare only rows "
                f"of the same {title}"
            )
    if len(found["dataset"]) > 1:
        notes.append(f"the rows have different datasets ({', '.join(found['dataset'])}): they are not comparable")
    elif len({row.origin["fingerprint"] for row in rows if row.origin.get("fingerprint")}) > 1:
        notes.append("the rows have different images, of several folders: they are not comparable")
    return notes + transform_notes(*(row.origin for row in rows))


def _table(
    layer: str,
    by: str,
    rows: Sequence[RankedItem],
    distance: np.ndarray,
    forecasts: np.ndarray,
    errors: np.ndarray,
    cells: Sequence[Record],
) -> list[Record]:
    """The rows, best first, with further ``cells``. Equal metrics share a rank. The last rows have none: those whose
    metric is not finite, and after these the untrained networks, which are beyond the end of ``distance``."""
    beyond = np.full(len(rows) - len(distance), np.nan)
    distance = np.where(np.isfinite(distance), distance, np.nan)
    distance, forecasts, errors = (np.concatenate([of, beyond]) for of in (distance, forecasts, errors))
    ranks = stats.rankdata(distance, method="min", nan_policy="omit")
    of_steps = any("epoch" not in row.origin for row in rows if not row.untrained)
    found = []
    for i in map(int, np.argsort(distance, kind="stable")):
        row = rows[i]
        shown = {
            "rank": int(ranks[i]) if math.isfinite(distance[i]) else None,
            "run": row.display_name,
            **{key: row.origin.get(key) for key in ("epoch", "method", "arch", "strategy")},
            **({"step": row.origin.get("step")} if of_steps else {}),
            by: row.metrics.get(record_key(layer, by), math.nan) if row.untrained else row.value(layer, by),
            "verdict": row.verdict,
            "loss": row.record.get("loss"),
            "knn": row.knn,
            "accuracy": row.accuracy,
            "forecast": forecasts[i],
            "error": errors[i],
            "path": row.path,
            **({"untrained": row.untrained} if any(row.untrained for row in rows) else {}),
        }
        found.append(shown | {name: value for name, value in cells[i].items() if name not in shown})
    return found


def _write(config: RankConfig, document: Record, forecast: Forecast | None) -> None:
    if config.fit is not None and forecast is not None:
        forecast.save(config.fit)
    if config.out is not None:
        write_table(config.out, document, frame_of(document["rows"]))
