"""Pictures of spectra, ready for print: labelled axes, line styles that differ in grey, vector or pixel formats."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ssltool.collapse.metrics import auc
from ssltool.errors import SSLToolError
from ssltool.files import write_atomically

NOISE = 1e-9
"""Values below this share of the largest are rounding noise of float32 representations, and not drawn."""

FORMATS = (".png", ".pdf", ".svg")
STYLES = ("-", "--", "-.", ":")
# Okabe and Ito's colours, which stay apart for the colour-blind and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def check_format(path: str) -> None:
    """Refuses a picture format that cannot be written.

    Raises:
        SSLToolError: unless the name ends in .png, .pdf or .svg.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise SSLToolError(f"--plot {path}: the name must end in {', '.join(FORMATS)}")


def plot_spectra(spectra: dict[str, Tensor], path: str, *, kind: str = "svd") -> None:
    """The paper's three curves, one line for each named spectrum: values, values over the largest, cumulative explained
    variance with its area (AUC).

    Raises:
        SSLToolError: if the file cannot be written, or its format is not known.
    """
    check_format(path)
    name = "singular value" if kind == "svd" else "standard deviation"
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for i, (label, spectrum) in enumerate(spectra.items()):
        s = np.sort(spectrum.double().numpy())[::-1]
        index = np.arange(1, len(s) + 1)
        positive = np.where(s > NOISE * s[0], s, np.nan)
        explained = np.cumsum(s) / s.sum() if s.sum() > 0 else np.ones_like(s)
        look = {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i % len(STYLES)], "linewidth": 1.6}
        axes[0].plot(index, positive, **look)
        axes[1].plot(index, positive / s[0] if s[0] > 0 else positive, **look)
        axes[2].plot(index, explained, label=f"{label} (AUC {auc(spectrum):.3f})" if kind == "svd" else label, **look)
    axes[0].set(title=f"{name.capitalize()}s", ylabel=name, yscale="log")
    axes[1].set(title="Relative to the largest", ylabel=f"{name} / largest", yscale="log")
    axes[2].set(title="Cumulative explained variance", ylabel="share of the sum", ylim=(0, 1.03))
    longest = max(len(s) for s in spectra.values())
    axes[2].plot([1, longest], [1 / longest, 1], color="0.6", linewidth=0.8, label="flat spectrum")
    for axis in axes:
        axis.set_xlabel("index, largest first")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2 if max(map(len, spectra)) > 24 else 4, frameon=False)
    save_figure(figure, path)


def save_figure(figure: Figure, path: str) -> None:
    """Writes a figure in the format that its name says, atomically, and closes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:].lower(), dpi=160)
    plt.close(figure)
    write_atomically(path, lambda stream: stream.write(buffer.getvalue()))
