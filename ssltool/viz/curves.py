"""Metrics of runs over epochs, one panel per metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssltool.viz.style import (
    check_format,
    figure_style,
    integer_ticks,
    legend,
    light_grid,
    line_style,
    save_figure,
)

LAYERS = {"backbone": "-", "projector": "--"}
"""The monitored layers and their line styles."""

PERCENT = 100.0

MIN_SPAN = 5.0
"""Minimum range of an axis in percentage points."""

Records = Sequence[Mapping[str, Any]]
"""The lines of a run's ``metrics.jsonl``."""


@dataclass(frozen=True)
class Curve:
    """A panel over epochs.

    Attributes:
        title: its title.
        label: label of the vertical axis, with the unit.
        keys: keys of a record, each with its line style.
        scale: factor by which the values are multiplied.
        collapsed: the value at complete collapse, or None if it is not known.
    """

    title: str
    label: str
    keys: tuple[tuple[str, str], ...]
    scale: float = 1.0
    collapsed: float | None = None


def _layers_curve(metric: str, title: str, label: str, collapsed: float | None, scale: float = 1.0) -> Curve:
    return Curve(title, label, tuple((f"{layer}_{metric}", style) for layer, style in LAYERS.items()), scale, collapsed)


MONITORED = (
    _layers_curve("auc", "AUC", "AUC (1: collapsed)", 1.0),
    _layers_curve("effective_rank", "Effective rank", "dimensions in use", 1.0),
    _layers_curve("feature_std", "Feature std", "std of directions × √d", 0.0),
    _layers_curve("dead_directions", "Dead directions", "dead directions (%)", None, PERCENT),
    Curve("kNN accuracy", "accuracy (%)", (("backbone_knn", "-"),), PERCENT),
)
LOSS = Curve("Loss", "mean loss of the epoch", (("loss", "-"),))
BATCH_FEATURE_STD = Curve(
    "Feature std of training batches", "std of directions × √d", (("feature_std", "--"),), 1.0, 0.0
)
"""``feature_std`` of the projections in the training batches, for runs without a monitor."""


COLLAPSED_STYLE: dict[str, Any] = {"color": "black", "alpha": 0.45, "linewidth": 0.8, "linestyle": (0, (1, 2))}
"""The line at the value of complete collapse."""


def curves_of(runs: Sequence[Records]) -> list[Curve]:
    """The panels for which at least one run has values; the loss is first."""
    curves = [LOSS, *MONITORED]
    if not any(_points(records, MONITORED[2].keys[0][0]) for records in runs):
        curves.append(BATCH_FEATURE_STD)
    return [curve for curve in curves if any(_points(records, name) for records in runs for name, _ in curve.keys)]


def draw_curve(axis: Axes, curve: Curve, runs: Sequence[Records]) -> None:
    """Plots one panel: runs differ in colour and marker, layers in line style."""
    for i, records in enumerate(runs):
        for name, style in curve.keys:
            points = _points(records, name)
            own = line_style(i, markers=True) | {"linestyle": style, "markevery": max(1, len(points) // 8)}
            hollow: dict[str, Any] = {"markerfacecolor": "white"} if style != "-" else {}
            axis.plot([e for e, _ in points], [curve.scale * value for _, value in points], **own, **hollow)
    if curve.collapsed is not None:
        axis.axhline(curve.collapsed, **COLLAPSED_STYLE)
    low, high = axis.get_ylim()
    if curve.scale == PERCENT and high - low < MIN_SPAN:  # avoids magnifying rounding errors
        low = max((low + high - MIN_SPAN) / 2, -MIN_SPAN / 20)
        axis.set_ylim(low, low + MIN_SPAN)
    axis.set(title=curve.title, ylabel=curve.label, xlabel="epoch")
    integer_ticks(axis, "x")
    light_grid(axis)


def has_projector(curves: Sequence[Curve], runs: Sequence[Records]) -> bool:
    """Whether there are dashed lines, which the legend must explain."""
    names = [name for curve in curves for name, style in curve.keys if style != "-"]
    return any(_points(records, name) for records in runs for name in names)


def plot_curves(runs: Mapping[str, Records], path: str) -> None:
    """Plots the panels of ``curves_of`` for one or more runs, given by name.

    Raises:
        SSLToolError: if the file cannot be written, or its format is unknown.
    """
    check_format(path, "--out")
    records = list(runs.values())
    curves = curves_of(records)
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    with figure_style():
        figure = Figure(figsize=(3.6 * columns, 2.7 * rows + 0.5), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, curve in zip(axes, curves, strict=False):
            draw_curve(axis, curve, records)
        for axis in axes[len(curves) :]:
            axis.set_visible(False)
        names, styles = list(runs), [line_style(i, markers=True) for i in range(len(runs))]
        if has_projector(curves, records):
            names += [*LAYERS]
            styles += [{"color": "black", "alpha": 0.7, "linestyle": style} for style in LAYERS.values()]
        if any(curve.collapsed is not None for curve in curves):
            names.append("complete collapse")
            styles.append(COLLAPSED_STYLE)
        legend(figure, names, styles)
        save_figure(figure, path)


def _points(records: Records, name: str) -> list[tuple[int, float]]:
    """(epoch, value) of the records that have a finite value; epochs count from 1."""
    values = [(record["epoch"] + 1, record.get(name)) for record in records]
    return [(epoch, value) for epoch, value in values if isinstance(value, (int, float)) and math.isfinite(value)]
