"""``ssltool plot renyi``: effective ranks of representations against the order of the Renyi entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ssltool.config import PlotConfig
from ssltool.diagnosis.metrics.of_spectrum import effective_rank, renyi_rank
from ssltool.runs.display_names import display_names
from ssltool.viz.plot_spectrum import read_spectrum
from ssltool.viz.style import check_format, figure_style, legend, light_grid, line_style, log_scale, save_figure

ORDERS = np.geomspace(0.1, 32, 81)
"""Orders of the curve; the dotted line is order infinity."""


def draw(config: PlotConfig, out: str) -> None:
    """Plots the curve of each input."""
    plot_renyi(display_names(config.inputs), [read_spectrum(path, "svd", config.pool) for path in config.inputs], out)


def plot_renyi(names: Sequence[str], spectra: Sequence[Tensor], path: str) -> None:
    """Plots ``renyi_rank`` of each spectrum, and at order 1 its ``effective_rank``.

    Raises:
        SSLToolError: if the file cannot be written, or its format is unknown.
    """
    check_format(path, "--out")
    styles = [line_style(i) for i in range(len(spectra))]
    with figure_style():
        figure = Figure(figsize=(5.4, 4.0), layout="constrained")
        axis = figure.subplots()
        for s, style in zip(spectra, styles, strict=True):
            axis.plot(ORDERS, [renyi_rank(s, order) for order in ORDERS], **style)
            axis.axhline(renyi_rank(s, math.inf), color=style["color"], linestyle=":", linewidth=0.8)
            axis.plot([1.0], [effective_rank(s)], color=style["color"], marker="x", linestyle="none")
        log_scale(axis, "x")
        axis.set(title="Effective ranks", xlabel="order of the Rényi entropy", ylabel="directions", ylim=(0, None))
        light_grid(axis)
        marks: list[dict[str, Any]] = [
            {"color": "black", "marker": "x", "linestyle": "none"},
            {"color": "black", "linestyle": ":", "linewidth": 0.8},
        ]
        legend(figure, [*names, "effective_rank (of singular values)", "stable rank (order ∞)"], [*styles, *marks])
        save_figure(figure, path)
