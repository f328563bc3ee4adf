"""Draws the figures of docs/study.md from the table of results:  python pipelines/study/figures.py study.csv FOLDER

Each figure is drawn if the table has its runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from results import last, read, simsiam_iid

from ssltool.viz.style import COLOURS, MARKERS, figure_style, light_grid, log_scale, plt, save_figure

PANELS = {
    "val_effective_rank": "effective rank of the backbone",
    "val_auc": "AUC of the backbone (high: collapsed)",
    "projector_effective_rank": "effective rank of the projector",
    "probe_points": "linear probe, % correct",
}
ORDERS = ("iid", "current", "replay", "accumulate", "last", "hybrid4", "hybrid8", "hybrid12")


def plane(rows: pd.DataFrame, path: str) -> None:
    """Measures by the number of images, a line for each width; dots are seeds, dashed lines the untrained networks."""
    runs, untrained = simsiam_iid(last(rows)), simsiam_iid(rows[rows["epoch"] == 0])
    figure, axes = plt.subplots(1, len(PANELS), figsize=(14, 3.6), layout="constrained")
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        for i, (width, group) in enumerate(runs.groupby("width")):
            means = group.groupby("images")[name].mean()
            axis.plot(means.index, means, color=COLOURS[i], marker=MARKERS[i], label=f"width {width}")
            axis.plot(group["images"], group[name], ".", color=COLOURS[i], markersize=3)
            before = untrained.loc[untrained["width"] == width, name].mean()
            axis.axhline(before, color=COLOURS[i], linestyle="--", linewidth=0.8)
        finish(axis, title)
        log_scale(axis, "x")
        axis.set_xlabel("train images, equal number of steps")
    for axis in axes[[0, 2]]:
        log_scale(axis, "y")
    axes[-1].legend(title="dashed: untrained")
    save_figure(figure, path)


def orders(rows: pd.DataFrame, path: str) -> None:
    """The seeds and means of each order, at each point of question 2."""
    runs = last(rows)
    runs = runs[runs["part"] == "2"].assign(order=lambda r: r["run"].str.extract(r"^2-(\w+)-w")[0])
    points = runs[["width", "images"]].drop_duplicates()
    names = ("val_effective_rank", "val_auc", "probe_points")
    figure, axes = plt.subplots(
        len(points), len(names), figsize=(11, 2.8 * len(points)), squeeze=False, sharex=True, layout="constrained"
    )
    for line, (_, point) in zip(axes, points.iterrows(), strict=True):
        here = runs[(runs[["width", "images"]] == point).all(axis=1)]
        for axis, name in zip(line, names, strict=True):
            for place, order in enumerate(ORDERS):
                values = here.loc[here["order"] == order, name]
                axis.plot([place] * len(values), values, "o", color=COLOURS[place == 0], markersize=4)
                axis.plot([place - 0.3, place + 0.3], [values.mean()] * 2, color="black")
            finish(axis, f"{PANELS[name]}\nwidth {point['width']:.0f}, {point['images']:,.0f} images")
            axis.set_xticks(range(len(ORDERS)), ORDERS, rotation=60)
    save_figure(figure, path)


def forecast(rows: pd.DataFrame, path: str) -> None:
    """The probe's accuracy by AUC, effective rank and loss, a dot for each run of SimSiam."""
    runs = last(rows)
    runs = runs[runs["method"] == "simsiam"]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, name in zip(axes, ("val_auc", "val_effective_rank", "m_loss"), strict=True):
        for i, (network, group) in enumerate(runs.groupby(["data", "arch"])):
            style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            axis.plot(group[name], group["probe_points"], linestyle="", label=" ".join(network), **style)
        finish(axis, PANELS.get(name, "loss"))
    axes[0].set_ylabel(PANELS["probe_points"])
    axes[-1].legend(fontsize=7)
    save_figure(figure, path)


def finish(axis: Axes, title: str) -> None:
    """A title, and a light grid."""
    axis.set_title(title)
    light_grid(axis)


def main() -> None:
    """Draws what the table has."""
    if len(sys.argv) != 3:
        sys.exit("error: name the table of results and a folder, as in figures.py study.csv docs/_static")
    rows, folder = read(Path(sys.argv[1])), Path(sys.argv[2])
    parts = set(rows["part"])
    with figure_style():
        for name, draw, needed in (("plane", plane, "1a"), ("orders", orders, "2"), ("forecast", forecast, "1a")):
            if needed in parts:
                draw(rows, str(folder / f"study-{name}.svg"))


if __name__ == "__main__":
    main()
