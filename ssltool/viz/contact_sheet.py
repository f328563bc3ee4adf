"""Contact sheets: pictures with their names, as a figure or as an HTML page without external resources."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ssltool.files.text import escape_xml, visible
from ssltool.files.writing import write_text
from ssltool.viz.pictures import data_url
from ssltool.viz.style import COLOURS, figure_style, save_figure

PER_LINE = 9
"""Most pictures in a line of a sheet; longer strips continue in the next one."""

SIDE = 160
"""Longest side of a picture in pixels."""

CELL, TEXT = 1.3, 0.4
"""Width of a cell of a figure, and the height of its text, in inches."""

NAME_LENGTH = 22
"""Characters of a line of a name in a figure."""

HEADING, NOTE, TITLE = (10.5, 0.24), (7.5, 0.17), (8.5, 0.26)
"""Size of the letters in points, and height of a line in inches, of the texts above pictures."""

WIDE = 0.0085
"""Width of a letter in inches, for each point of its size: that of a wide one, so that no line is cut off."""


@dataclass(frozen=True)
class Picture:
    """An image (H, W, 3) uint8 with its ``name`` and a line ``below`` it. ``marked`` ones have a frame."""

    image: np.ndarray
    name: str
    below: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Strip:
    """Pictures that belong together, below a ``title``, which may be empty."""

    title: str
    pictures: Sequence[Picture]

    def lines(self) -> Iterator[Sequence[Picture]]:
        """The pictures, ``PER_LINE`` at a time."""
        for start in range(0, len(self.pictures), PER_LINE):
            yield self.pictures[start : start + PER_LINE]


def write_sheet(path: str, heading: str, strips: Sequence[Strip], notes: Sequence[str] = ()) -> None:
    """Writes ``strips`` below a ``heading`` to ``path``: a page (.html, .htm), or a figure (.png, .pdf, .svg).

    Raises:
        SSLToolError: if the file cannot be written, or its format is unknown.
    """
    if Path(path).suffix.lower() in (".html", ".htm"):
        write_text(path, _page(heading, strips, notes))
    else:
        save_figure(_figure(heading, strips, notes), path)


def _figure(heading: str, strips: Sequence[Strip], notes: Sequence[str]) -> Figure:
    """A figure on one axis in inches, from the top left down: one axis for each picture would take minutes."""
    columns = max((len(line) for strip in strips for line in strip.lines()), default=1)
    lines = sum(1 for strip in strips for _ in strip.lines())
    width = max(5.0, columns * CELL)
    texts = [(text, HEADING) for text in _wrapped(heading, HEADING, width)]
    texts += [(text, NOTE) for note in notes for text in _wrapped(note, NOTE, width)]
    titles = [_wrapped(strip.title, TITLE, width) for strip in strips]
    height = 0.16 + sum(h for _, (_, h) in texts) + lines * (CELL + TEXT) + TITLE[1] * sum(map(len, titles))
    with figure_style():
        figure = Figure(figsize=(width, height))
        axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axis.set(xlim=(0, width), ylim=(height, 0))
        axis.axis("off")
        top = 0.08
        for text, (size, line_height) in texts:
            top += line_height
            axis.text(0.08, top - 0.07, text, fontsize=size, weight="bold" if size == HEADING[0] else "normal")
        top += 0.08
        for strip, title in zip(strips, titles, strict=True):
            for text in title:
                top += TITLE[1]
                axis.text(0.08, top - 0.06, text, fontsize=TITLE[0])
            for line in strip.lines():
                for column, picture in enumerate(line):
                    _draw(axis, picture, column * CELL, top)
                top += CELL + TEXT
        axis.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return figure


def _draw(axis: Axes, picture: Picture, left: float, top: float) -> None:
    """A picture in the cell whose corner is at (left, top), with its text below."""
    pad, side = 0.06, CELL - 0.12
    image = _thumbnail(picture.image)
    scale = side / max(image.shape[:2])
    w, h = image.shape[1] * scale, image.shape[0] * scale
    x, y = left + pad + (side - w) / 2, top + pad + (side - h) / 2
    axis.imshow(image, extent=(x, x + w, y + h, y), interpolation="nearest", aspect="auto")
    axis.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor="0.85", linewidth=0.5))
    if picture.marked:
        corner = (left + pad / 2, top + pad / 2)
        axis.add_patch(Rectangle(corner, CELL - pad, CELL - pad, fill=False, edgecolor=COLOURS[1], linewidth=1.4))
    words = [*_lines(picture.name), *_below(picture.below)]
    axis.text(left + CELL / 2, top + CELL, "\n".join(words), fontsize=5.8, ha="center", va="top", linespacing=1.15)


def _lines(name: str) -> list[str]:
    """The folder and the file of a path, a line each, or one line if both fit; the ends of long ones."""
    name = visible(name)
    folder, slash, file = name.rpartition("/")
    parts = [name] if len(name) <= NAME_LENGTH or not folder else [folder + slash, file]
    return [_end(part) for part in parts]


def _below(text: str) -> list[str]:
    """The line below a name; one for each of its parts if it is too long."""
    return [_end(part) for part in ([text] if len(text) <= NAME_LENGTH else text.split(" · ")) if part]


def _end(text: str) -> str:
    return text if len(text) <= NAME_LENGTH else "…" + text[1 - NAME_LENGTH :]


def _wrapped(text: str, style: tuple[float, float], width: float) -> list[str]:
    """Lines of a text that fit into a figure of this width in inches."""
    return textwrap.wrap(visible(text), int((width - 0.16) / (WIDE * style[0])))


def _thumbnail(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


STYLE = """\
:root { color-scheme: light dark; }
body { margin: 2rem auto; padding: 0 1.5rem; max-width: 90rem; font: 15px/1.5 system-ui, sans-serif;
  background: light-dark(#fff, #15181c); color: light-dark(#1c2127, #e4e7ea); }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
h2 { font-size: .95rem; margin: 1.4rem 0 .4rem; font-weight: 600; }
p { margin: .1rem 0; color: light-dark(#59626d, #a0a9b3); }
.strip { display: flex; flex-wrap: wrap; gap: .6rem; }
figure { margin: 0; padding: .3rem; width: 10rem; border: 2px solid transparent; overflow-wrap: anywhere; }
figure.marked { border-color: light-dark(#d55e00, #f2803a); }
figure div { height: 10rem; display: flex; align-items: center; justify-content: center; }
img { max-width: 100%; max-height: 100%; background: #fff; outline: 1px solid light-dark(#dfe3e7, #31373e); }
img.few { width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated; }
figcaption { font-size: .75rem; line-height: 1.3; text-align: center; }
figcaption span { display: block; color: light-dark(#59626d, #a0a9b3); font-variant-numeric: tabular-nums; }
"""

FEW_PIXELS = 64
"""Pictures up to this side length in pixels are scaled up without interpolation."""


def _page(heading: str, strips: Sequence[Strip], notes: Sequence[str]) -> str:
    parts = [f"<h1>{escape_xml(heading)}</h1>", *(f"<p>{escape_xml(note)}</p>" for note in notes)]
    for strip in strips:
        parts += [f"<h2>{escape_xml(strip.title)}</h2>"] if strip.title else []
        parts.append('<div class="strip">' + "\n".join(map(_cell, strip.pictures)) + "</div>")
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape_xml(heading)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _cell(picture: Picture) -> str:
    name, few = escape_xml(picture.name), max(picture.image.shape[:2]) <= FEW_PIXELS
    image = f'<img src="{data_url(picture.image, SIDE)}" alt="{name}"{" class=few" if few else ""} loading="lazy">'
    below = f"<span>{escape_xml(picture.below)}</span>" if picture.below else ""
    marked = ' class="marked"' if picture.marked else ""
    return f"<figure{marked}><div>{image}</div><figcaption>{name}{below}</figcaption></figure>"
