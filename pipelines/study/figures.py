"""Draws the figures of docs/study.md from the table of results:  python pipelines/study/figures.py study.csv FOLDER

Each figure is drawn if the table has its runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from forecasts import fashion
from matplotlib.axes import Axes
from report import of_methods, of_settings
from results import ALL, FEWEST, OUTCOMES, last, order_of, read, simsiam_iid

from ssltool.viz.style import COLOURS, MARKERS, figure_style, light_grid, log_scale, plt, save_figure

PANELS = {
    "val_effective_rank": "effective rank of the backbone",
    "val_auc": "AUC of the backbone (high: collapsed)",
    "projector_effective_rank": "effective rank of the projector",
    "probe_points": "linear probe, % correct",
}
LEAST_SHARE = 1e-4
"""The least share of the sum of singular values that the figure of spectra shows."""

ORDERS = {
    **{name: name for name in ("iid", "current", "replay", "accumulate", "last")},
    **{f"hybrid{epochs}": f"hybrid, {epochs} of 16" for epochs in (4, 8, 12)},
}
"""The orders of question 2, and what the figure calls them: of a hybrid, after which epoch it switches."""

SETTINGS = {
    "lr-quarter": "learning rate / 4",
    "lr-times-4": "learning rate × 4",
    "decay-0": "no weight decay",
    "decay-times-4": "weight decay × 4",
    "predictor-cosine": "predictor's rate: cosine",
    "projector-narrow": "projector's width / 4",
    "projector-wide": "projector's width × 4",
    "batch-256": "batch 256",
    "views-weak": "weak views",
}
"""The settings of question 3."""

COLLAPSES = {
    "no-stop-gradient": "no stop-gradient",
    "no-predictor": "no predictor",
    "lr-times-16": "learning rate × 16",
}
"""The settings of question 5 that were expected to collapse."""


def plane(rows: pd.DataFrame, path: str) -> None:
    """Measures by the number of images, a line for each width; dots are seeds, dashed lines the untrained networks, and
    crosses the supervised ones."""
    runs, untrained = simsiam_iid(last(rows)), simsiam_iid(rows[rows["epoch"] == 0])
    supervised = last(rows[rows["method"] == "supervised"])
    figure, axes = plt.subplots(1, len(PANELS), figsize=(14, 3.6), layout="constrained")
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        for i, (width, group) in enumerate(runs.groupby("width")):
            means = group.groupby("images")[name].mean()
            axis.plot(means.index, means, color=COLOURS[i], marker=MARKERS[i], label=f"width {width}")
            axis.plot(group["images"], group[name], ".", color=COLOURS[i], markersize=3)
            before = untrained.loc[untrained["width"] == width, name].mean()
            axis.axhline(before, color=COLOURS[i], linestyle="--", linewidth=0.8)
            labels = supervised[supervised["width"] == width]
            axis.plot(labels["images"], labels[name], "x", color=COLOURS[i])
        finish(axis, title)
        log_scale(axis, "x")
        axis.set_xlabel("train images, equal number of steps")
    for axis in axes[[0, 2]]:
        log_scale(axis, "y")
    handles = axes[-1].get_legend_handles_labels()
    title = "dashed: untrained" if supervised.empty else "dashed: untrained\ncrosses: supervised"
    figure.legend(*handles, loc="outside right center", title=title)
    save_figure(figure, path)


def orders(rows: pd.DataFrame, path: str) -> None:
    """The seeds and means of each order, at each point of question 2. What differs too little from iid to count is
    within the grey band."""
    runs = last(rows)
    runs = runs[runs["part"] == "2"].assign(order=order_of)
    points = runs[["width", "images"]].drop_duplicates()
    names = dict(zip(("val_effective_rank", "val_auc", "probe_points"), OUTCOMES.values(), strict=True))
    figure, axes = plt.subplots(
        len(points), len(names), figsize=(11, 2.8 * len(points)), squeeze=False, sharex=True, layout="constrained"
    )
    for line, (_, point) in zip(axes, points.iterrows(), strict=True):
        here = runs[(runs[["width", "images"]] == point).all(axis=1)]
        for axis, (name, (counts, outcome)) in zip(line, names.items(), strict=True):
            iid, change = here.loc[here["order"] == "iid", name].mean(), np.array([-counts, counts])
            axis.axhspan(*(iid * 2.0**change if "log2" in outcome else iid + change), color="0.9", zorder=0)
            for place, order in enumerate(ORDERS):
                values = here.loc[here["order"] == order, name]
                axis.plot([place] * len(values), values, "o", color=COLOURS[place == 0], markersize=4)
                axis.plot([place - 0.3, place + 0.3], [values.mean()] * 2, color="black")
            finish(axis, f"{PANELS[name]}\nwidth {point['width']:.0f}, {point['images']:,.0f} images")
            axis.set_xticks(range(len(ORDERS)), ORDERS.values(), rotation=60)
    save_figure(figure, path)


def forecast(rows: pd.DataFrame, path: str) -> None:
    """The probe's accuracy by AUC, effective rank and loss, a dot for each run of SimSiam on Fashion-MNIST."""
    runs = fashion(rows)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, name in zip(axes, ("val_auc", "val_effective_rank", "m_loss"), strict=True):
        for i, (network, group) in enumerate(runs.groupby("arch")):
            style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            axis.plot(group[name], group["probe_points"], linestyle="", label=network, **style)
        finish(axis, PANELS.get(name, "loss"))
    axes[0].set_ylabel(PANELS["probe_points"])
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right center")
    save_figure(figure, path)


def spectra(rows: pd.DataFrame, path: str, table: Path) -> None:
    """The singular values of the backbone on the val images as shares of their sum, a panel for each width: untrained,
    and trained with 500 and with all images. Lines are geometric means of the seeds; shares below ``LEAST_SHARE`` are
    not shown."""
    runs, values = simsiam_iid(last(rows)), np.load(table.with_suffix(".npz"))
    widths = sorted(runs["width"].unique())
    figure, axes = plt.subplots(
        1, len(widths), figsize=(3.7 * len(widths), 3.4), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, width in zip(axes[0], widths, strict=True):
        here = runs[runs["width"] == width]
        curves = {"untrained": (here.loc[here["images"] == FEWEST, "run"], 0)}
        for images in (FEWEST, ALL):
            curves[f"{images:,} images"] = here.loc[here["images"] == images, "run"], int(here["epochs"].iloc[0])
        for i, (label, (names, epoch)) in enumerate(curves.items()):
            of_seeds = [values[f"{name}/epoch{epoch}_val_values"] for name in names]
            if of_seeds:
                logs = [np.log(np.maximum(one.astype(float) / one.sum(), 1e-12)) for one in of_seeds]
                shares = np.exp(np.mean(logs, axis=0))
                shown = shares[shares >= LEAST_SHARE]
                axis.plot(np.arange(1, len(shown) + 1), shown, color=COLOURS[i], marker=MARKERS[i], label=label)
        finish(axis, f"width {width}")
        log_scale(axis, "y")
        axis.set_xlabel("singular value")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0][0].set_ylabel("share of their sum")
    axes[0][0].legend()
    save_figure(figure, path)


def settings(rows: pd.DataFrame, path: str) -> None:
    """The effect of each setting of question 3, and below them that of the images."""
    table = of_settings(rows)
    names = table["setting"].map(SETTINGS).fillna(f"{ALL:,} images, not {FEWEST}")
    effects(table.assign(setting=names), "setting", "difference from the usual settings", path)


def methods(rows: pd.DataFrame, path: str) -> None:
    """The effect of the images in each method of question 6."""
    effects(of_methods(rows), "method", f"{ALL:,} images minus {FEWEST}", path)


def effects(table: pd.DataFrame, by: str, difference: str, path: str) -> None:
    """The differences of ``comparisons.compared`` with their intervals, a line for each value of ``by``. The grey band
    has the effects that are too small to count. What was not run has no line. ``difference`` says of what."""
    table = table[table["pairs"] > 0]
    names = list(dict.fromkeys(table[by]))
    figure, axes = plt.subplots(
        1, len(OUTCOMES), figsize=(11, 1.2 + 0.32 * len(names)), sharey=True, layout="constrained"
    )
    for axis, (counts, outcome) in zip(axes, OUTCOMES.values(), strict=True):
        for place, name in enumerate(names):
            (one,) = table.loc[(table["outcome"] == outcome) & (table[by] == name), "difference"]
            axis.plot([one.low, one.high], [place, place], color=COLOURS[0])
            axis.plot(one.value, place, "o", color=COLOURS[0])
        axis.axvspan(-counts, counts, color="0.9", zorder=0)
        axis.axvline(0, color="black", linewidth=0.8)
        finish(axis, outcome)
    figure.supxlabel(f"{difference}, with 95 % intervals; grey: too small to count", fontsize="medium")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    save_figure(figure, path)


def early(rows: pd.DataFrame, path: str) -> None:
    """What the own monitor saw in the runs of width 4 with all images that were expected to collapse, and in those
    with the usual settings; a line for each run."""
    runs = rows[
        (rows["epoch"] > 0) & (rows["part"].isin(("1a", "5"))) & (rows["width"] == 4) & (rows["images"] == 60000)
    ]
    runs = runs.assign(setting=runs["run"].str.extract(r"^5-(.+)-w")[0].map(COLLAPSES).fillna("usual settings"))
    runs["m_effective_rank"] = runs["m_effective_rank"].clip(lower=1.0)  # that of equal outputs is recorded as 0
    panels = {"m_knn": "kNN accuracy of the monitor", "m_effective_rank": "effective rank", "m_auc": "AUC"}
    figure, axes = plt.subplots(1, len(panels), figsize=(12.5, 3.4), layout="constrained")
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        for i, (setting, group) in enumerate(runs.groupby("setting", sort=False)):
            for number, (_, run) in enumerate(group.groupby("run")):
                style = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 3}
                axis.plot(run["epoch"] * run["steps_per_epoch"], run[column], label=setting * (number == 0), **style)
        finish(axis, title)
        axis.set_xlabel("steps")
    log_scale(axes[1], "y")
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside right center")
    save_figure(figure, path)


def finish(axis: Axes, title: str) -> None:
    """A title, and a light grid."""
    axis.set_title(title)
    light_grid(axis)


FIGURES: dict[str, tuple[Callable[[pd.DataFrame, str], None], str]] = {
    "plane": (plane, "1a"),
    "orders": (orders, "2"),
    "settings": (settings, "3"),
    "forecast": (forecast, "1a"),
    "early": (early, "5"),
    "methods": (methods, "6"),
}
"""How each figure is drawn, and the part of the runs that it needs."""


def main() -> None:
    """Draws what the table has."""
    if len(sys.argv) != 3:
        sys.exit("error: name the table of results and a folder, as in figures.py study.csv docs/_static")
    rows, folder = read(Path(sys.argv[1])), Path(sys.argv[2])
    parts = set(last(rows)["part"])
    with figure_style():
        for name, (draw, needed) in FIGURES.items():
            if needed in parts:
                draw(rows, str(folder / f"study-{name}.svg"))
        if "1a" in parts:
            spectra(rows, str(folder / "study-val-spectra.svg"), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
