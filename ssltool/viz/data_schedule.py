"""Plots of a schedule: the images of each epoch, how often each is seen, and the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
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
"""Maximum number of epochs with one bar each; more epochs are drawn as one area."""

MAX_LABELLED_BARS = 16
"""Maximum number of epochs whose bars are labelled with how often an image is seen."""

BINS = 100
"""Maximum number of bins of the images, in the plot of how often each is seen, and of the replay buffer."""

AREA_ALPHA = 0.35


@dataclass(frozen=True)
class Schedule:
    """The images and learning rates of a run with E epochs.

    Attributes:
        strategy: the data strategy.
        images: the number of training images.
        first: the first of the E epochs, counted from 0.
        slices: (E, 2), the slice of each epoch: start and stop positions in the order of the images.
        times_each: (E,), how often an image of the slice is seen in the epoch, on average.
        seen: (images,), how often each image is seen in the run, by its position in the order.
        at: (T,), the times at which learning rates are given, in epochs.
        lr: (T,), the learning rates.
        fixed: (T,), the constant learning rate of the predictor, or None if there is none.
        note: a note for the reader.
        replayed: of each epoch the positions of the images in the replay buffer; empty for other strategies.
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
    replayed: tuple[np.ndarray, ...] = ()

    def key(self) -> tuple[bytes, ...]:
        """A key that is equal for schedules with equal plots."""
        fixed = self.lr[:0] if self.fixed is None else self.fixed
        arrays = (self.slices, self.times_each, self.seen, self.at, self.lr, fixed, *self.replayed)
        return (f"{self.strategy} {self.first} {self.note}".encode(), *(values.tobytes() for values in arrays))


def draw_slices(axis: Axes, schedule: Schedule) -> None:
    """Plots the slice of each epoch as a horizontal bar, and shades the images of the replay buffer."""
    start, stop = schedule.slices.T
    epochs = schedule.first + 1 + np.arange(len(start))  # counted from 1
    if len(epochs) <= MAX_BARS:
        axis.barh(epochs, stop - start, left=start, height=0.74, color=COLOURS[0], alpha=AREA_ALPHA, linewidth=0)
    else:
        edges = np.repeat(np.append(epochs - 0.5, epochs[-1] + 0.5), 2)[1:-1]
        axis.fill_betweenx(
            edges, np.repeat(start, 2), np.repeat(stop, 2), color=COLOURS[0], alpha=AREA_ALPHA, linewidth=0
        )
    if schedule.replayed:
        _shade_replayed(axis, schedule)
    if len(epochs) <= MAX_LABELLED_BARS:
        for epoch, low, high, times in zip(epochs.tolist(), start, stop, schedule.times_each, strict=True):
            _label(axis, epoch, low / schedule.images, high / schedule.images, f"{times:.2g} ×", schedule.images)
    axis.set(title=f"Images of each epoch ({schedule.strategy})", ylabel="epoch")
    axis.set(xlim=(0, schedule.images), ylim=(epochs[-1] + 0.6, epochs[0] - 0.6))
    integer_ticks(axis, "y")
    _position_axis(axis)


def _label(axis: Axes, epoch: float, low: float, high: float, text: str, images: int) -> None:
    """Labels a bar, or the space beside it if the bar is narrow; ``low`` and ``high`` are fractions of the order."""
    at, align = (low + high) / 2, "center"
    if high - low < 0.12:
        at, align = (high + 0.012, "left") if high < 0.85 else (low - 0.012, "right")
    axis.text(at * images, epoch, text, ha=align, va="center_baseline", fontsize=8)


def _shade_replayed(axis: Axes, schedule: Schedule) -> None:
    """Shades each epoch's row by the share of the images of a bin that its replay buffer holds."""
    edges = _bin_edges(schedule.images)
    shares = np.stack([np.histogram(places, edges)[0] / np.diff(edges) for places in schedule.replayed])
    colours = np.empty((*shares.shape, 4))
    colours[..., :3], colours[..., 3] = to_rgb(COLOURS[0]), AREA_ALPHA * shares
    rows = (schedule.first + len(shares) + 0.5, schedule.first + 0.5)
    axis.imshow(colours, extent=(0, schedule.images, *rows), aspect="auto", interpolation="nearest")


def _bin_edges(images: int) -> np.ndarray:
    bins = min(BINS, images)
    return np.linspace(0, images, bins + 1).astype(int)


def draw_exposure(axis: Axes, schedule: Schedule) -> None:
    """Plots how often each image is seen in the run, by its position in the order; the mean of each bin."""
    edges = _bin_edges(schedule.images)
    mean = np.add.reduceat(schedule.seen, edges[:-1]) / np.diff(edges)
    axis.stairs(mean, edges, fill=True, color=COLOURS[0], alpha=AREA_ALPHA, linewidth=0)
    axis.stairs(mean, edges, baseline=None, color=COLOURS[0], linewidth=1.4)
    axis.set(title="Number of times each image is seen", ylabel="times seen", xlim=(0, schedule.images))
    axis.set_ylim(0, 1.08 * max(1.0, float(mean.max())))
    _position_axis(axis)


def draw_rates(axis: Axes, schedule: Schedule) -> None:
    """Plots the learning rate over epochs, and the constant one if there is one."""
    axis.plot(schedule.at, schedule.lr, color=COLOURS[0], linestyle=STYLES[0])
    if schedule.fixed is not None:
        axis.plot(schedule.at, schedule.fixed, color=COLOURS[1], linestyle=STYLES[1])
    top = float(max(schedule.lr.max(), 0 if schedule.fixed is None else schedule.fixed.max()))
    axis.set(title="Learning rate", ylabel="learning rate", xlabel="completed epochs", ylim=(0, 1.06 * top or 1.0))
    integer_ticks(axis, "x")
    light_grid(axis)


def rate_names(schedule: Schedule) -> list[str]:
    """The names of the lines of ``draw_rates``."""
    return ["learning rate"] if schedule.fixed is None else ["learning rate", "constant learning rate of the predictor"]


def rate_styles() -> list[dict[str, Any]]:
    """The styles of the lines of ``draw_rates``."""
    return [{"color": COLOURS[i], "linestyle": STYLES[i]} for i in range(2)]


def plot_schedule(schedule: Schedule, path: str) -> None:
    """Plots the three panels of a schedule, one below the other.

    Raises:
        SSLToolError: if the file cannot be written, or its format is unknown.
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


def _position_axis(axis: Axes) -> None:
    axis.set_xlabel("position of the image in the order")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    light_grid(axis)
    axis.grid(False, axis="y")
