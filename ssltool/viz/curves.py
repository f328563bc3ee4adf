"""Metrics of runs over epochs, one panel per metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssltool.viz.curve_list import (
    BATCH_FEATURE_STD,
    LOSS,
    MONITORED,
    PERCENT,
    Curve,
    Records,
    curves_of_layers,
    layers_of,
)
from ssltool.viz.style import (
    check_format,
    figure_style,
    integer_ticks,
    legend,
    light_grid,
    line_style,
    save_figure,
)

MIN_SPAN = 5.0
"""Minimum range of an axis in percentage points."""

COLLAPSED_STYLE: dict[str, Any] = {"color": "black", "alpha": 0.45, "linewidth": 0.8, "linestyle": (0, (1, 2))}
"""The line at the value of complete collapse."""


def curves_of(runs: Sequence[Records]) -> list[Curve]:
    """The panels for which at least one run has values; the loss is first."""
    curves = [LOSS, *curves_of_layers(layers_of(runs))]
    if not any(_points(records, MONITORED[2].keys[0][0]) for records in runs):
        curves.append(BATCH_FEATURE_STD)
    return [curve for curve in curves if any(_points(records, name) for records in runs for name, _ in curve.keys)]


def has_epochs(runs: Sequence[Records]) -> bool:
    """Whether all records have an epoch; the axis is then that of epochs, otherwise that of steps."""
    return all("epoch" in record for records in runs for record in records)


def draw_curve(axis: Axes, curve: Curve, runs: Sequence[Records]) -> None:
    """Plots one panel: runs differ in colour and marker, layers in line style."""
    over = "epoch" if has_epochs(runs) else "step"
    for i, records in enumerate(runs):
        for name, style in curve.keys:
            points = _points(records, name, over)
            own = line_style(i, markers=True) | {"linestyle": style, "markevery": max(1, len(points) // 8)}
            hollow: dict[str, Any] = {"markerfacecolor": "white"} if style != "-" else {}
            axis.plot([e for e, _ in points], [curve.scale * value for _, value in points], **own, **hollow)
    if curve.collapsed is not None:
        axis.axhline(curve.collapsed, **COLLAPSED_STYLE)
    low, high = axis.get_ylim()
    if curve.scale == PERCENT and high - low < MIN_SPAN:  # avoids magnifying rounding errors
        low = max((low + high - MIN_SPAN) / 2, -MIN_SPAN / 20)
        axis.set_ylim(low, low + MIN_SPAN)
    label = curve.label if over == "epoch" or curve is not LOSS else "loss"
    axis.set(title=curve.title, ylabel=label, xlabel=over)
    integer_ticks(axis, "x")
    light_grid(axis)


def shown_layers(curves: Sequence[Curve], runs: Sequence[Records]) -> dict[str, str]:
    """The layers with their line styles, which the legend must explain if some lines are not solid; else empty."""
    names = [name for curve in curves for name, style in curve.keys if style != "-"]
    return layers_of(runs) if any(_points(records, name) for records in runs for name in names) else {}


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
        layers = shown_layers(curves, records)
        names += layers
        styles += [{"color": "black", "alpha": 0.7, "linestyle": style} for style in layers.values()]
        if any(curve.collapsed is not None for curve in curves):
            names.append("complete collapse")
            styles.append(COLLAPSED_STYLE)
        legend(figure, names, styles)
        save_figure(figure, path)


def _points(records: Records, name: str, over: str | None = None) -> list[tuple[int, float]]:
    """(epoch or step, value) of the records that have a finite value; epochs count from 1."""
    found = [(record, record.get(name)) for record in records]
    known = [(r, value) for r, value in found if isinstance(value, (int, float)) and math.isfinite(value)]
    if over is None:
        return [(0, value) for _, value in known]
    return [(r["epoch"] + 1 if over == "epoch" else r["step"], value) for r, value in known]
