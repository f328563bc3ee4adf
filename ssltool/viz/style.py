"""The style of all figures, and saving them: equal figures are equal files, byte for byte."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, MaxNLocator

from ssltool.config.fields import FIGURES
from ssltool.errors import SSLToolError
from ssltool.files.text import each_line, one_line
from ssltool.files.writing import write_atomically

FORMATS = FIGURES
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# The colour-blind safe palette of Okabe and Ito, which is distinguishable in greyscale too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

RC_PARAMS: Any = {
    "font.size": 9.5,
    "figure.autolayout": False,  # each figure sets its layout
    "figure.constrained_layout.use": False,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.wspace": 0.04,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text, which can be searched and edited
    "svg.fonttype": "none",
    "svg.hashsalt": "ssltool",
    "text.parse_math": False,  # names of runs may contain $
}
"""matplotlib settings in ``figure_style``."""

METADATA = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "ModDate": None},
    "png": {"Software": None},
}
"""Metadata that would make files of equal figures differ; None removes it."""

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def check_format(path: str, flag: str = "--plot") -> None:
    """Refuses an unsupported file format; ``flag`` is the flag that the path belongs to.

    Raises:
        SSLToolError: unless the name ends in .png, .pdf or .svg.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise SSLToolError(f"{flag} {path}: the name must end in {', '.join(FORMATS)}")


@contextmanager
def figure_style() -> Iterator[None]:
    """Context manager that applies the style of this module to figures created and saved in it."""
    with plt.rc_context(RC_PARAMS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font may lack characters of a name
        yield


def line_style(i: int, *, markers: bool = False) -> dict[str, Any]:
    """Colour and line style of line ``i``, or with ``markers`` its colour and marker."""
    own = {"marker": MARKERS[i % len(MARKERS)]} if markers else {"linestyle": STYLES[i % len(STYLES)]}
    return {"color": COLOURS[i % len(COLOURS)], **own}


def light_grid(axis: Axes) -> None:
    """Adds a light grid and hides the top and right spines."""
    axis.grid(color="black", alpha=0.12, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def log_scale(axis: Axes, which: str) -> None:
    """Makes the ``which`` ("x" or "y") axis logarithmic, with tick labels of ``tick_label``."""
    axis.set(**{f"{which}scale": "log"})
    side = axis.xaxis if which == "x" else axis.yaxis
    side.set_major_formatter(_TickFormatter())
    side.set_minor_formatter(_TickFormatter(minor_thresholds=(1, 0.4)))


def integer_ticks(axis: Axes, which: str) -> None:
    """Restricts the ticks of the ``which`` ("x" or "y") axis to integers."""
    side = axis.xaxis if which == "x" else axis.yaxis
    side.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def tick_label(value: float) -> str:
    """The label of a tick: a plain number, or a power of ten if the number is long."""
    if value == 0 or 1e-2 <= abs(value) < 1e5:
        return f"{value:,.10g}"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    mantissa = value / 10.0**exponent
    power = "10" + str(exponent).translate(SUPERSCRIPTS)
    return power if math.isclose(mantissa, 1.0) else f"{mantissa:.3g}·{power}"


class _TickFormatter(LogFormatter):
    def __call__(self, x: float, pos: int | None = None) -> str:
        return tick_label(x) if super().__call__(x, pos) else ""


def legend(figure: Figure, names: list[str], styles: list[dict[str, Any]]) -> None:
    """Adds a legend below the axes, with as many columns as fit."""
    if not names:
        return
    handles = [Line2D([], [], **style) for style in styles]
    fit = int(figure.get_figwidth() * 13)
    labels = [" " + name if name.startswith("_") else one_line(name, fit) for name in names]  # matplotlib omits _
    per_line = max(1, fit // (max(map(len, labels)) + 6))
    figure.legend(handles, labels, loc="outside lower center", ncols=min(per_line, len(labels)))


def fix_layout(figure: Figure) -> None:
    """Escapes the text of a figure and fixes its layout, rounded to 1e-6 of its size because the layout solver is not
    deterministic."""
    for text in figure.findobj(Text):
        text.set_text(each_line(text.get_text()))
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)
    for axis in figure.axes:
        left, bottom, width, height = (round(part, 6) for part in axis.get_position(original=True).bounds)
        axis.set_position((left, bottom, width, height))


def save_figure(figure: Figure, path: str) -> None:
    """Saves a figure atomically, in the format of the file extension, and closes it.

    Raises:
        SSLToolError: if it cannot be written.
    """
    kind = Path(path).suffix[1:].lower()
    buffer = io.BytesIO()
    try:
        with figure_style():
            fix_layout(figure)
            figure.savefig(buffer, format=kind, dpi=160, metadata=METADATA[kind])
    finally:
        plt.close(figure)
    write_atomically(path, lambda stream: stream.write(buffer.getvalue()))
