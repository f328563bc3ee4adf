"""The section of metrics: a sortable table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ssltool.diagnosis.layer_metrics import KNN_NEIGHBOURS
from ssltool.diagnosis.metrics import MAIN, METRICS
from ssltool.files.text import escape_xml
from ssltool.stages.report.contents import ReportedRun
from ssltool.stages.report.html import sample
from ssltool.viz.page import badge, columns, element, lead, sizes

SHORT = {"auc": "AUC", "rankme": "RankMe", "dead_directions": "Dead directions (%)"}

SCALE = {"dead_directions": 100.0}
"""Factors of the values, as the names in ``SHORT`` say."""


def render(runs: Sequence[ReportedRun]) -> str:
    """One row per run and layer, sortable by each column, and the interpretation of each metric."""
    names = [
        "Run",
        "Layer",
        "Verdict",
        *map(_column, MAIN),
        "kNN (%)",
        "Loss",
        "Images measured",
        "Training images",
        "Epochs",
    ]
    titles = [
        element("th", element("button", escape_xml(name), type="button"), scope="col", aria_sort="none")
        for name in names
    ]
    rows = []
    for i, run in enumerate(runs):
        for layer in run.layers:
            accuracy = run.accuracy if layer is run.layers[0] else None
            before = run.untrained_accuracy if layer is run.layers[0] else None
            start = layer.untrained or {}
            metrics = [_number(_scaled(name, layer.metrics), _scaled(name, start)) for name in MAIN]
            metrics.append(_number(accuracy and 100 * accuracy, before and 100 * before))
            cells = [
                element("th", (sample(i) if len(runs) > 1 else "") + escape_xml(run.name), scope="row"),
                element("td", escape_xml(layer.name)),
                element("td", badge(layer.verdict.state), data_value=layer.verdict.severity),
                *metrics,
                *map(_number, [run.loss, run.sampled, run.trained_images, run.origin["epoch"]]),
            ]
            rows.append(element("tr", "".join(cells)))
    interpretations = [
        element("dt", _column(name)) + element("dd", escape_xml(METRICS[name].interpretation)) for name in MAIN
    ]
    interpretations.append(
        element("dt", "kNN")
        + element("dd", f"leave-one-out accuracy of the {KNN_NEIGHBOURS} nearest neighbours by cosine")
    )
    return (
        lead(
            f"Measured on {sizes(run.sampled for run in runs)} images of each run. Below each value, in grey: the "
            "untrained network, for the same images. Click a column heading to sort by this column; click again to "
            "reverse the order."
        )
        + columns(titles, rows, class_="sortable", id="runs")
        + element("dl", "".join(interpretations), class_="interpretations")
    )


def _column(name: str) -> str:
    return SHORT.get(name, name.replace("_", " ").capitalize())


def _scaled(name: str, metrics: Mapping[str, float]) -> float | None:
    return SCALE.get(name, 1.0) * metrics[name] if name in metrics else None


def _number(value: float | None, untrained: float | None = None) -> str:
    """A cell with a value, and below it that of the untrained network."""
    below = "" if untrained is None else element("span", _text(untrained), class_="untrained")
    key = "" if value is None or not math.isfinite(value) else repr(value)
    return element("td", _text(value) + below, class_="number", data_value=key)


def _text(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
