"""Plots of spectra: the three curves of the collapse paper, and the eigenvalues of the covariance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from ssltool.diagnosis.metrics.of_spectrum import auc
from ssltool.viz.style import (
    COLOURS,
    FORMATS,
    STYLES,
    check_format,
    figure_style,
    legend,
    light_grid,
    line_style,
    log_scale,
    save_figure,
)

__all__ = ["COLOURS", "FORMATS", "NOISE", "STYLES", "check_format", "panels", "plot_spectra", "plt", "save_figure"]

NOISE = 1e-9
"""Values below this fraction of the largest are rounding noise of float32 representations and are not plotted."""

NAMES = {"svd": "singular value", "cov": "eigenvalue", "std": "standard deviation"}
TITLES = {"svd": "Singular values", "cov": "Eigenvalues of the covariance", "std": "Standard deviations"}

UNTRAINED: dict[str, Any] = {"linestyle": (0, (1, 2)), "linewidth": 1.3, "alpha": 0.9}
"""The style of the spectrum of an untrained network, beside its colour."""

Spectra = Sequence[Tensor | None]
"""One spectrum of each run; None skips a colour."""

Line = tuple[np.ndarray, dict[str, Any]]
"""A spectrum in descending order, and the style of its line."""


class Panel(Protocol):
    """Plots one curve of each spectrum, and of the spectra of the same runs before the training, if they are known."""

    def __call__(self, axis: Axes, spectra: Spectra, untrained: Spectra = ()) -> None:
        """Plots into ``axis``."""


def panels(kind: str) -> list[Panel]:
    """The panels for spectra of type ``kind``, from left to right; each plots all spectra.

    For singular values (``svd``) and standard deviations (``std``) the three of the paper: the values, the values
    divided by the largest, and their cumulative sums divided by the total. For eigenvalues (``cov``) that of Jing et
    al. (arXiv:2110.09348, Fig. 2), on a logarithmic scale.
    """
    name = NAMES[kind]

    def values(axis: Axes, lines: Sequence[Line]) -> None:
        for s, style in lines:
            axis.plot(_ranks(s), _above_noise(s, kind), **style)
        axis.set(title=TITLES[kind], ylabel=name)
        log_scale(axis, "y")

    def relative(axis: Axes, lines: Sequence[Line]) -> None:
        for s, style in lines:
            axis.plot(_ranks(s), _above_noise(s, kind) / (s[0] if s[0] > 0 else 1.0), **style)
        axis.set(title="Relative to the largest", ylabel=f"{name} / largest")
        log_scale(axis, "y")

    def cumulative(axis: Axes, lines: Sequence[Line]) -> None:
        for s, style in lines:
            axis.plot(_ranks(s), np.cumsum(s) / s.sum() if s.sum() > 0 else np.ones_like(s), **style)
        longest = max(len(s) for s, _ in lines)
        axis.plot([1, longest], [1 / longest, 1], color="black", alpha=0.45, linewidth=0.8, label="flat spectrum")
        axis.set(title="Cumulative explained variance", ylabel="fraction of the sum", ylim=(0, 1.03))

    return [_labelled(panel) for panel in ([values] if kind == "cov" else [values, relative, cumulative])]


def plot_spectra(names: Sequence[str], spectra: Sequence[Tensor], path: str, *, kind: str = "svd") -> None:
    """Plots the ``panels``, with one line and name for each spectrum; for singular values the legend includes the AUC.

    Raises:
        SSLToolError: if the file cannot be written, or its format is unknown.
    """
    check_format(path)
    drawn = panels(kind)
    with figure_style():
        size = (11, 3.7) if len(drawn) > 1 else (5.4, 4.2)
        figure, axes = plt.subplots(1, len(drawn), figsize=size, layout="constrained", squeeze=False)
        for axis, panel in zip(axes[0], drawn, strict=True):
            panel(axis, spectra)
        aucs = [f" (AUC {auc(s):.3f})" if kind == "svd" else "" for s in spectra]
        lines = [name + value for name, value in zip(names, aucs, strict=True)]
        styles = [line_style(i) for i in range(len(lines))]
        flat = [] if kind == "cov" else ["flat spectrum"]
        legend(figure, lines + flat, styles + [{"color": "black", "alpha": 0.45, "linewidth": 0.8}] * len(flat))
        save_figure(figure, path)


def _labelled(panel: Callable[[Axes, Sequence[Line]], None]) -> Panel:
    def draw(axis: Axes, spectra: Spectra, untrained: Spectra = ()) -> None:
        lines = [(s, line_style(i)) for i, s in _descending(spectra)]
        panel(axis, lines + [(s, line_style(i) | UNTRAINED) for i, s in _descending(untrained)])
        axis.set_xlabel("index (largest first)")
        light_grid(axis)

    return draw


def _descending(spectra: Spectra) -> list[tuple[int, np.ndarray]]:
    return [(i, np.sort(s.double().numpy())[::-1]) for i, s in enumerate(spectra) if s is not None]


def _ranks(s: np.ndarray) -> np.ndarray:
    return np.arange(1, len(s) + 1)


def _above_noise(s: np.ndarray, kind: str) -> np.ndarray:
    limit = NOISE**2 if kind == "cov" else NOISE  # eigenvalues are squares
    return np.where(s > limit * s[0], s, np.nan)
