"""HTML of a report: elements, charts, tables, and the page. The page has no external resources."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssltool.files.text import escape_xml
from ssltool.stages.report.contents import ReportedRun
from ssltool.viz.page import asset, document, element, masthead, section
from ssltool.viz.pictures import data_url
from ssltool.viz.style import COLOURS, figure_style, line_style
from ssltool.viz.svg import SERIES, inline_svg

FEW_PIXELS = 40
"""Images up to this side length in pixels are scaled up without interpolation."""

DASHES = {"-": "none", "--": "6 3", "-.": "7 3 2 3", ":": "2 3"}
"""Line styles of matplotlib in SVG."""

SHAPES = {
    "o": '<circle cx="6" cy="6" r="4"/>', "s": '<path d="M2 2h8v8H2z"/>', "^": '<path d="M6 1.5L11 10H1z"/>',
    "D": '<path d="M6 1L11 6L6 11L1 6z"/>', "v": '<path d="M6 10.5L1 2h10z"/>',
    "P": '<path d="M4 1h4v3h3v4H8v3H4V8H1V4h3z"/>',
    "X": '<path d="M3.5 1L6 3.5L8.5 1L11 3.5L8.5 6L11 8.5L8.5 11L6 8.5L3.5 11L1 8.5L3.5 6L1 3.5z"/>',
    "*": '<path d="M6 .8l1.4 3.7 3.9.1-3 2.5 1 3.9L6 8.8 2.7 11l1-3.9-3-2.5 3.9-.1z"/>',
}  # fmt: skip
"""Markers of matplotlib in SVG."""


def panel(draw: Callable[[Axes], None], prefix: str, alt: str, size: tuple[float, float] = (4.0, 2.9)) -> str:
    """A chart with one axis, plotted by ``draw``, as SVG of ``size`` inches; ``prefix`` must be unique in the page."""
    with figure_style():
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        return inline_svg(figure, prefix, alt)


def charts(panels: Iterable[str], caption: str = "") -> str:
    """Charts side by side, if they fit, with a caption."""
    below = element("figcaption", caption) if caption else ""
    return element("figure", element("div", "".join(panels), class_="charts") + below)


def sample(i: int, style: str | None = None, *, marker: bool = False) -> str:
    """A legend symbol for the line of run ``i``; ``style`` overrides its line style."""
    colour = SERIES.get(COLOURS[i % len(COLOURS)].lower(), "currentColor")
    dashes = DASHES[style or str(line_style(i)["linestyle"])]
    shape = SHAPES[str(line_style(i, markers=True)["marker"])] if marker else ""
    return (
        f'<svg class="sample" viewBox="0 0 28 12" aria-hidden="true" fill="{colour}"><path d="M1 6H27" '
        f'stroke="{colour}" stroke-width="2.4" stroke-dasharray="{dashes}"/>'
        f'<g transform="translate(8 0)">{shape}</g></svg>'
    )


def picture(image: np.ndarray, alt: str) -> str:
    """An image (H, W, 3) uint8, embedded in the page."""
    few = "few" if max(image.shape[:2]) <= FEW_PIXELS else None
    return element("img", src=data_url(image), alt=alt, class_=few)


def run_heading(shown: Sequence[ReportedRun], runs: Sequence[ReportedRun]) -> str:
    """The names of the ``shown`` runs as a heading; empty if the report has one run."""
    return element("h3", escape_xml(", ".join(run.name for run in shown))) if len(runs) > 1 else ""


def page(title: str, header: str, parts: Sequence[tuple[str, str, str]], footer: str) -> str:
    """The complete document; ``parts`` are (name, title, HTML) of the sections. The contents link to the names."""
    links = [element("li", element("a", escape_xml(words), href=f"#{name}")) for name, words, _ in parts]
    contents = element("nav", element("ol", "".join(links)), aria_label="Contents")
    body = (
        element("header", masthead("ssltool report") + header)
        + contents
        + element("main", "\n".join(section(*part) for part in parts))
        + element("footer", footer)
        + f"\n<script>\n{asset('page.js')}</script>"
    )
    return document(title, f"<style>\n{asset('page.css')}</style>", body)
