"""Metrics of the layers of networks over their depth, one panel per metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssltool.settings import Record
from ssltool.viz.curve_list import PERCENT
from ssltool.viz.curves import COLLAPSED_STYLE
from ssltool.viz.style import check_format, figure_style, legend, light_grid, line_style, save_figure

UNTRAINED_STYLE: dict[str, Any] = {"color": "0.55", "linestyle": "-", "linewidth": 1.2, "marker": ".", "markersize": 4}
"""The line of an untrained network."""

LABELLED = 24
"""Layers up to which each has its name on the axis."""


@dataclass(frozen=True)
class Panel:
    """A panel over the depth: the metric or comparison ``key``, and its value at complete collapse if it is known."""

    title: str
    label: str
    key: str
    scale: float = 1.0
    collapsed: float | None = None
    compared: bool = False

    def values(self, layers: Sequence[Record], of: str | None = None) -> list[float]:
        """The values of ``layers``, or of the networks ``of`` that they are compared with; NaN where there is none."""
        held = [layer["cka"] if self.compared else layer["metrics"] if of is None else layer[of] for layer in layers]
        found = [None if one is None else one.get(self.key) for one in held]
        return [float("nan") if value is None else self.scale * value for value in found]


PANELS = (
    Panel("Effective rank", "dimensions in use", "effective_rank", 1.0, 1.0),
    Panel("AUC", "AUC (1: collapsed)", "auc", 1.0, 1.0),
    Panel("Feature std", "std of directions × √d", "feature_std", 1.0, 0.0),
    Panel("Dead directions", "dead directions (%)", "dead_directions", PERCENT),
    Panel("Patch cosine", "mean cosine within an image", "patch_cosine", 1.0, 1.0),
    Panel("Patch rank", "effective rank within an image", "patch_rank", 1.0, 0.0),
    Panel("Similarity to the untrained network", "linear CKA", "untrained", compared=True),
    Panel("Similarity to the previous checkpoint", "linear CKA", "previous", compared=True),
    Panel("Similarity to the teacher", "linear CKA", "teacher_network", compared=True),
)


def plot_depth(names: Sequence[str], networks: Sequence[Record], path: str) -> None:
    """Plots the layers of the "networks" of ``collapse --layers``, a line for each, the untrained ones in grey.

    Raises:
        SSLToolError: if the file cannot be written, or its format is unknown.
    """
    check_format(path)
    panels = [panel for panel in PANELS if _has_values(panel, networks)]
    columns = 2
    rows = -(-len(panels) // columns)
    named = [[layer["layer"] for layer in network["layers"]] for network in networks]
    with figure_style():
        figure = Figure(
            figsize=(max(8.0, 0.34 * max(map(len, named)) * columns), 2.6 * rows + 1.2), layout="constrained"
        )
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
        for axis, panel in zip(axes, panels, strict=False):
            _draw(axis, panel, networks)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis in axes[max(0, len(panels) - columns) : len(panels)]:
            _label_layers(axis, named)
        shown, styles = [*names], [line_style(i, markers=True) for i in range(len(names))]
        if any(layer["untrained"] is not None for network in networks for layer in network["layers"]):
            shown.append("untrained")
            styles.append(UNTRAINED_STYLE)
        legend(figure, [*shown, "complete collapse"], [*styles, COLLAPSED_STYLE])
        save_figure(figure, path)


def _has_values(panel: Panel, networks: Sequence[Record]) -> bool:
    return any(value == value for network in networks for value in panel.values(network["layers"]))


def _draw(axis: Axes, panel: Panel, networks: Sequence[Record]) -> None:
    drawn: set[tuple[float, ...]] = set()
    for network in networks:
        own = () if panel.compared else tuple(panel.values(network["layers"], "untrained"))
        if own and own not in drawn:  # several checkpoints of a run share it
            axis.plot(range(1, len(own) + 1), own, **UNTRAINED_STYLE)
            drawn.add(own)
    for i, network in enumerate(networks):
        values = panel.values(network["layers"])
        axis.plot(range(1, len(values) + 1), values, **line_style(i, markers=True))
    if panel.collapsed is not None:
        axis.axhline(panel.collapsed, **COLLAPSED_STYLE)
    if panel.compared:
        axis.set_ylim(-0.03, 1.03)
    axis.set(title=panel.title, ylabel=panel.label)
    light_grid(axis)


def _label_layers(axis: Axes, named: Sequence[Sequence[str]]) -> None:
    """The names of the layers below the axis; their numbers if they differ, except in the last heads, or are many."""
    axis.tick_params(labelbottom=True)
    names = max(named, key=len)
    if any(other != names[: len(other)] for other in named) or len(names) > LABELLED:
        axis.set_xlabel("layer, from the input to the output")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    short = [name.removeprefix("backbone.") for name in names]
    axis.set_xticks(range(1, len(short) + 1), short, rotation=60, ha="right")
