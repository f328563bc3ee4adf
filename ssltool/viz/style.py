"""How every picture looks: colours, line styles, axes; and how it is written, the same bytes for the same contents."""

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
from matplotlib.ticker import LogFormatter, MaxNLocator

from ssltool.config.common import FIGURES
from ssltool.errors import SSLToolError
from ssltool.files import write_atomically

FORMATS = FIGURES
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Okabe and Ito's colours, which stay apart for the colour-blind and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

RC_PARAMS: Any = {
    "font.size": 9.5,
    "figure.autolayout": False,  # each figure says how it is laid out
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
    "pdf.fonttype": 42,  # letters stay letters, to be searched and edited
    "svg.fonttype": "none",
    "svg.hashsalt": "ssltool",
    "text.parse_math": False,  # a folder's name may hold any sign
}
"""matplotlib's settings, within ``figure_style``."""

METADATA = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "ModDate": None},
    "png": {"Software": None},
}
"""Metadata that would make two pictures of the same contents differ."""

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def check_format(path: str, flag: str = "--plot") -> None:
    """Refuses a picture format that cannot be written; ``flag`` is how the path was given.

    Raises:
        SSLToolError: unless the name ends in .png, .pdf or .svg.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise SSLToolError(f"{flag} {path}: the name must end in {', '.join(FORMATS)}")


@contextmanager
def figure_style() -> Iterator[None]:
    """A block in which figures are made and written in this module's style."""
    with plt.rc_context(RC_PARAMS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in letters that the font lacks
        yield


def line_style(i: int, *, markers: bool = False) -> dict[str, Any]:
    """How line ``i`` is drawn: its colour with a style of its own, or with ``markers`` a marker on a solid line."""
    own = {"marker": MARKERS[i % len(MARKERS)]} if markers else {"linestyle": STYLES[i % len(STYLES)]}
    return {"color": COLOURS[i % len(COLOURS)], **own}


def light_grid(axis: Axes) -> None:
    """A light grid and no frame above and to the right."""
    axis.grid(color="black", alpha=0.12, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def log_scale(axis: Axes, which: str) -> None:
    """Makes ``which`` ("x" or "y") of an axis logarithmic, with plain numbers at its ticks."""
    axis.set(**{f"{which}scale": "log"})
    side = axis.xaxis if which == "x" else axis.yaxis
    side.set_major_formatter(_TickFormatter())
    side.set_minor_formatter(_TickFormatter(minor_thresholds=(1, 0.4)))


def integer_ticks(axis: Axes, which: str) -> None:
    """Whole numbers only at the ticks of ``which`` ("x" or "y"), such as epochs have."""
    side = axis.xaxis if which == "x" else axis.yaxis
    side.set_major_locator(MaxNLocator(integer=True))


def tick_label(value: float) -> str:
    """A number for a tick: as it is where that is short, else as a power of ten."""
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
    """A legend below the axes, with as many columns as there is room for."""
    if not names:
        return
    handles = [Line2D([], [], **style) for style in styles]
    shown = [" " + name if name.startswith("_") else name for name in names]  # matplotlib would leave it out
    per_line = max(1, int(figure.get_figwidth() * 13 // (max(map(len, shown)) + 6)))
    figure.legend(handles, shown, loc="outside lower center", ncols=min(per_line, len(shown)))


def fix_layout(figure: Figure) -> None:
    """Fixes the layout of a figure and rounds it to a millionth of its size, because the solver of the layout is not
    deterministic beyond that."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)
    for axis in figure.axes:
        left, bottom, width, height = (round(part, 6) for part in axis.get_position(original=True).bounds)
        axis.set_position((left, bottom, width, height))


def save_figure(figure: Figure, path: str) -> None:
    """Writes a figure in the format that its name says, atomically, and closes it.

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
