"""Pictures of a schedule: which images an epoch draws from, how often each is seen, and the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssltool.viz.style import (
    COLOURS,
    STYLES,
    check_format,
    figure_style,
    integer_ticks,
    legend,
    light_grid,
    save_figure,
)

MAX_BARS = 48
"""Up to so many epochs each has a bar of its own; more melt into an area."""

MAX_LABELLED_BARS = 16
"""Up to so many epochs the bars say how often an image is seen."""

BINS = 100

AREA_ALPHA = 0.35
"""How strong the colour of an area is."""


@dataclass(frozen=True)
class Schedule:
    """What a run's settings say of its course.

    The epochs are those from ``first`` (from 0) on; ``slices`` (E, 2) their first and last + 1 place in
    the order of ``images`` images; ``times_each`` (E,) how often an image of the slice is seen in the epoch; ``seen``
    (images,) how often each is over the run, by its place; ``at`` (T,) moments in epochs with the learning rates ``lr``
    and ``fixed``, the rate of what keeps it constant, or None where nothing does. ``strategy`` is its data strategy,
    ``note`` what else a reader must know.
    """

    strategy: str
    images: int
    first: int
    slices: np.ndarray
    times_each: np.ndarray
    seen: np.ndarray
    at: np.ndarray
    lr: np.ndarray
    fixed: np.ndarray | None
    note: str = ""

    def key(self) -> tuple[bytes, ...]:
        """Equal for schedules that look the same."""
        fixed = self.lr[:0] if self.fixed is None else self.fixed
        arrays = (self.slices, self.times_each, self.seen, self.at, self.lr, fixed)
        return (f"{self.strategy} {self.first} {self.note}".encode(), *(values.tobytes() for values in arrays))


def draw_slices(axis: Axes, schedule: Schedule) -> None:
    """A horizontal bar for each epoch: its part of the order."""
    start, stop = schedule.slices.T
    epochs = schedule.first + 1 + np.arange(len(start))  # counted from 1
    if len(epochs) <= MAX_BARS:
        axis.barh(epochs, stop - start, left=start, height=0.74, color=COLOURS[0], alpha=AREA_ALPHA, linewidth=0)
    else:
        edges = np.repeat(np.append(epochs - 0.5, epochs[-1] + 0.5), 2)[1:-1]
        axis.fill_betweenx(
            edges, np.repeat(start, 2), np.repeat(stop, 2), color=COLOURS[0], alpha=AREA_ALPHA, linewidth=0
        )
    if len(epochs) <= MAX_LABELLED_BARS:
        for epoch, low, high, times in zip(epochs.tolist(), start, stop, schedule.times_each, strict=True):
            _label(axis, epoch, low / schedule.images, high / schedule.images, f"{times:.2g} ×", schedule.images)
    axis.set(title=f"Images of each epoch ({schedule.strategy})", ylabel="epoch")
    axis.set(xlim=(0, schedule.images), ylim=(epochs[-1] + 0.6, epochs[0] - 0.6))
    integer_ticks(axis, "y")
    _by_place(axis)


def _label(axis: Axes, epoch: float, low: float, high: float, text: str, images: int) -> None:
    """Writes on a bar, or beside it where it is narrow; ``low`` and ``high`` are shares of the order."""
    at, align = (low + high) / 2, "center"
    if high - low < 0.12:
        at, align = (high + 0.012, "left") if high < 0.85 else (low - 0.012, "right")
    axis.text(at * images, epoch, text, ha=align, va="center_baseline", fontsize=8)


def draw_exposure(axis: Axes, schedule: Schedule) -> None:
    """How often each image is seen over the run, by its place in the order; the mean of neighbours where many."""
    bins = min(BINS, schedule.images)
    edges = np.linspace(0, schedule.images, bins + 1).astype(int)
    mean = np.add.reduceat(schedule.seen, edges[:-1]) / np.diff(edges)
    axis.stairs(mean, edges, fill=True, color=COLOURS[0], alpha=AREA_ALPHA, linewidth=0)
    axis.stairs(mean, edges, baseline=None, color=COLOURS[0], linewidth=1.4)
    axis.set(title="Times an image is seen", ylabel="times in the run", xlim=(0, schedule.images))
    axis.set_ylim(0, 1.08 * max(1.0, float(mean.max())))
    _by_place(axis)


def draw_rates(axis: Axes, schedule: Schedule) -> None:
    """The learning rate over epochs, and the fixed one beside it."""
    axis.plot(schedule.at, schedule.lr, color=COLOURS[0], linestyle=STYLES[0])
    if schedule.fixed is not None:
        axis.plot(schedule.at, schedule.fixed, color=COLOURS[1], linestyle=STYLES[1])
    top = float(max(schedule.lr.max(), 0 if schedule.fixed is None else schedule.fixed.max()))
    axis.set(title="Learning rate", ylabel="learning rate", xlabel="epochs done", ylim=(0, 1.06 * top or 1.0))
    integer_ticks(axis, "x")
    light_grid(axis)


def rate_names(schedule: Schedule) -> list[str]:
    """What the lines of ``draw_rates`` are."""
    return ["learning rate"] if schedule.fixed is None else ["learning rate", "fixed rate of the predictor"]


def rate_styles() -> list[dict[str, Any]]:
    """How they are drawn."""
    return [{"color": COLOURS[i], "linestyle": STYLES[i]} for i in range(2)]


def plot_schedule(schedule: Schedule, path: str) -> None:
    """The three panels of a schedule, one below the other.

    Raises:
        SSLToolError: if the file cannot be written, or its format is not known.
    """
    check_format(path, "--out")
    with figure_style():
        tall = min(5.0, 0.9 + 0.24 * len(schedule.slices))
        figure = Figure(figsize=(6.4, tall + 3.6), layout="constrained")
        top, middle, bottom = figure.subplots(3, 1, height_ratios=(tall, 1.5, 1.5))
        draw_slices(top, schedule)
        draw_exposure(middle, schedule)
        draw_rates(bottom, schedule)
        names = rate_names(schedule)
        if len(names) > 1:
            legend(figure, names, rate_styles())
        save_figure(figure, path)


def _by_place(axis: Axes) -> None:
    axis.set_xlabel("image, by its place in the order")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    light_grid(axis)
    axis.grid(False, axis="y")
