"""``ssltool plot auc``: the AUC of many runs against the images that they saw, epochs, or the kNN accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from ssltool.config import PlotConfig
from ssltool.errors import SSLToolError
from ssltool.runs.history import FinishedRun, read_runs
from ssltool.viz.style import (
    check_format,
    figure_style,
    legend,
    light_grid,
    line_style,
    log_scale,
    save_figure,
    tick_label,
)

LABELS = {
    "images": "training images seen",
    "epoch": "epochs",
    "step": "steps",
    "accuracy": "kNN accuracy of the backbone (%)",
}
UNKNOWN = "unknown"
"""The group of the folders of monitors, which know neither architecture nor method."""

WIDE = 8.0
"""Ratio of the largest to the smallest number of images above which the axis is logarithmic."""


@dataclass(frozen=True)
class Point:
    """A run in the plot: its coordinates, the ``group`` whose line it belongs to, and its name."""

    x: float
    auc: float
    group: str
    name: str


def draw(config: PlotConfig, out: str) -> None:
    """Plots the AUC of the last monitored epoch of each run against ``config.x``."""
    points = []
    for run in read_runs(config.inputs):
        x, auc = last_auc(run, config.x, config.layer)
        points.append(Point(x, auc, str(run.settings.get(config.group_by, UNKNOWN)), run.name))
    values = [point.x for point in points]
    wide = config.x == "images" and max(values) > WIDE * min(values)
    plot_auc(points, out, xlabel=LABELS[config.x], layer=config.layer, wide=wide, lines=config.x != "accuracy")


def last_auc(run: FinishedRun, against: str, layer: str) -> tuple[float, float]:
    """The value of ``against`` (images, epoch, step or accuracy) and the AUC, both at the last monitored epoch.

    Raises:
        SSLToolError: if no epoch has these values.
    """
    key = f"{layer}_auc"
    records = [record for record in run.records if _finite(record.get(key))]
    if not records:
        raise SSLToolError(f"{run.path}: metrics.jsonl has no {key}; pretrain --monitor-every records it")
    last = records[-1]
    if against == "images":
        return float(run.images_seen(last)), last[key]
    if against == "epoch":
        if "epoch" not in last:
            raise SSLToolError(f"{run.path} is the folder of a monitor, which knows no epochs; choose --x step")
        return last["epoch"] + 1.0, last[key]
    if against == "step":
        return float(last["step"]), last[key]
    if not _finite(last.get("backbone_knn")):
        raise SSLToolError(f"{run.path}: metrics.jsonl has no backbone_knn, which requires labels; choose another --x")
    return 100.0 * last["backbone_knn"], last[key]


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def plot_auc(
    points: Sequence[Point],
    path: str,
    *,
    xlabel: str,
    layer: str = "backbone",
    wide: bool = False,
    lines: bool = True,
) -> None:
    """Plots a marker for each run, and with ``lines`` a line through the means of each group; ``wide`` makes the x axis
    logarithmic.

    Raises:
        SSLToolError: if the file cannot be written, or its format is unknown.
    """
    check_format(path, "--out")
    groups = list(dict.fromkeys(point.group for point in points))
    styles = [
        line_style(i, markers=True) | {"linestyle": line_style(i)["linestyle"] if lines else "none"}
        for i in range(len(groups))
    ]
    with figure_style():
        figure = Figure(figsize=(5.4, 4.0), layout="constrained")
        axis = figure.subplots()
        for group, line in zip(groups, styles, strict=True):
            own = [point for point in points if point.group == group]
            axis.plot([p.x for p in own], [p.auc for p in own], **(line | {"linestyle": "none", "alpha": 0.75}))
            values = sorted({point.x for point in own}) if lines else []
            means = [_mean([point.auc for point in own if point.x == x]) for x in values]
            axis.plot(values, means, **(line | {"marker": "none"}))
        axis.xaxis.set_major_formatter(lambda x, _: tick_label(x))
        if wide:
            log_scale(axis, "x")
        axis.set(xlabel=xlabel, ylabel=f"AUC of the {layer} (1: collapsed)")
        axis.set_title("Area under the cumulative explained variance")
        light_grid(axis)
        legend(figure, groups, styles)
        save_figure(figure, path)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
