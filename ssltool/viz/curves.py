"""Metrics of runs over epochs: small multiples, one panel a metric."""

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
"""The layers that are watched during training, and how their lines are drawn."""

PERCENT = 100.0

LEAST = 5.0
"""Percentage points that an axis spans at least."""

Records = Sequence[Mapping[str, Any]]
"""The lines of a run's ``metrics.jsonl``."""


@dataclass(frozen=True)
class Curve:
    """A panel over epochs: its title, the axis' label with the unit, the ``keys`` of a record with the line style of
    each, a factor that the values are multiplied by, and the value that a collapse leads to, if that is known."""

    title: str
    label: str
    keys: tuple[tuple[str, str], ...]
    scale: float = 1.0
    collapsed: float | None = None


def _of_layers(metric: str, title: str, label: str, collapsed: float | None, scale: float = 1.0) -> Curve:
    return Curve(title, label, tuple((f"{layer}_{metric}", style) for layer, style in LAYERS.items()), scale, collapsed)


MONITORED = (
    _of_layers("auc", "AUC", "area; 1 is collapsed", 1.0),
    _of_layers("effective_rank", "Effective rank", "dimensions in use", 1.0),
    _of_layers("feature_std", "Feature std", "std of directions × √d", 0.0),
    _of_layers("dead_directions", "Dead directions", "share of all directions (%)", None, PERCENT),
    Curve("kNN accuracy", "accuracy (%)", (("backbone_knn", "-"),), PERCENT),
)
LOSS = Curve("Loss", "loss, mean of the epoch", (("loss", "-"),))
IN_TRAINING = Curve("Feature std in training", "std of directions × √d", (("feature_std", "--"),), 1.0, 0.0)
"""Of the projection, in the batches of the epoch: what a run without a monitor records."""


def curves_of(runs: Sequence[Records]) -> list[Curve]:
    """The panels for which at least one run has a value; the loss first."""
    found = [LOSS, *MONITORED]
    if not any(_points(records, MONITORED[2].keys[0][0]) for records in runs):
        found.append(IN_TRAINING)
    return [curve for curve in found if any(_points(records, name) for records in runs for name, _ in curve.keys)]


def draw_curve(axis: Axes, curve: Curve, runs: Sequence[Records]) -> None:
    """One panel: each run in its colour and marker, each layer in its line style."""
    for i, records in enumerate(runs):
        for name, style in curve.keys:
            points = _points(records, name)
            own = line_style(i, markers=True) | {"linestyle": style, "markevery": max(1, len(points) // 8)}
            hollow: dict[str, Any] = {"markerfacecolor": "white"} if style != "-" else {}
            axis.plot([e for e, _ in points], [curve.scale * value for _, value in points], **own, **hollow)
    if curve.collapsed is not None:
        axis.axhline(curve.collapsed, color="black", alpha=0.45, linewidth=0.8, linestyle=(0, (1, 2)))
    low, high = axis.get_ylim()
    if curve.scale == PERCENT and high - low < LEAST:  # rounding is not to look like a change
        low = max((low + high - LEAST) / 2, -LEAST / 20)
        axis.set_ylim(low, low + LEAST)
    axis.set(title=curve.title, ylabel=curve.label, xlabel="epoch")
    integer_ticks(axis, "x")
    light_grid(axis)


def has_projector(curves: Sequence[Curve], runs: Sequence[Records]) -> bool:
    """Whether any dashed line is drawn, which a legend has to explain."""
    names = [name for curve in curves for name, style in curve.keys if style != "-"]
    return any(_points(records, name) for records in runs for name in names)


def plot_curves(runs: Mapping[str, Records], path: str) -> None:
    """Small multiples over epochs, a panel for each of ``curves_of``, for one or more named runs.

    Raises:
        SSLToolError: if the file cannot be written, or its format is not known.
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
        legend(figure, names, styles)
        save_figure(figure, path)


def _points(records: Records, name: str) -> list[tuple[int, float]]:
    """(epoch, counted from 1, value) of the records that have a value."""
    values = [(record["epoch"] + 1, record.get(name)) for record in records]
    return [(epoch, value) for epoch, value in values if isinstance(value, (int, float)) and math.isfinite(value)]
