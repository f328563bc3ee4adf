"""A matplotlib figure as an ``<svg>`` element of an HTML page, with the colours and font of the page.

matplotlib writes a separate document: its ids may be equal to those of other figures in the page, its style sheet
applies to the whole page, and its black is invisible on a dark page.
"""

from __future__ import annotations

import io
import re

from matplotlib.figure import Figure

from ssltool.files.text import escape_xml
from ssltool.viz.style import COLOURS, METADATA, figure_style, fix_layout

SERIES = {colour.lower(): f"var(--series-{i})" for i, colour in enumerate(COLOURS) if colour != "#000000"}
"""CSS variables of the colours of lines; the style sheet has lighter ones for dark pages."""

_WORDS = re.compile(r"(?<=>)[^<>]+(?=</(?:text|tspan)>)")


def inline_svg(figure: Figure, prefix: str, alt: str) -> str:
    """``figure`` as an ``<svg>`` element with the label ``alt``.

    ``prefix`` makes its ids unique in the page. Equal figures give equal text.
    """
    buffer = io.StringIO()
    with figure_style():
        fix_layout(figure)
        figure.savefig(buffer, format="svg", metadata=METADATA["svg"], transparent=True)
    text = buffer.getvalue()
    words: list[str] = []  # what follows is for elements, not for the text between them

    def number(match: re.Match[str]) -> str:
        words.append(match[0])
        return str(len(words) - 1)

    text = _WORDS.sub(number, text[text.index("<svg") :].strip())
    for pattern in (r"<metadata>.*?</metadata>", r"<defs>\s*<style.*?</style>\s*</defs>", r"<!--.*?-->"):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    text = _hoist(_unique_ids(text, prefix))
    text = re.sub(r'="[^"]*"', _rounded, text)
    text = re.sub(r'font: (?:(\w+) )?([\d.]+px) [^;"]*', _font, text)  # of some versions of matplotlib
    text = re.sub(r"; font-family: [^;\"]*|font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"#[0-9a-f]{6}", _colour, text)
    text = re.sub(r"\n\s*", "\n", text)
    box = re.search(r'viewBox="([^"]*)"', text)
    head = f'<svg class="plot" viewBox="{box[1] if box else ""}" role="img" aria-label="{escape_xml(alt)}">'
    text = re.sub(r"^<svg[^>]*>", lambda _: head, text)
    return _WORDS.sub(lambda match: words[int(match[0])], text)


def _unique_ids(text: str, prefix: str) -> str:
    """Removes unused ids and adds ``prefix`` to the others."""
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(url\(|href=")#', lambda m: f"{m[1]}#{prefix}-", text)


def _hoist(text: str) -> str:
    """Moves the style that all markers of a group share to the group."""

    def group(match: re.Match[str]) -> str:
        styles = set(re.findall(r'<use [^>]*?style="([^"]*)"', match[2]))
        if len(styles) != 1 or match[2].count("<use ") < 3:
            return match[0]
        return f'<g{match[1]} style="{styles.pop()}">' + re.sub(r' style="[^"]*"', "", match[2]) + "</g>"

    return re.sub(r"<g( clip-path=\"[^\"]*\")?>((?:\s*<use [^>]*/>)+\s*)</g>", group, text)


def _rounded(match: re.Match[str]) -> str:
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", match[0])  # 0.01 points are below the resolution of printers


def _font(match: re.Match[str]) -> str:
    return (f"font-weight: {match[1]}; " if match[1] else "") + f"font-size: {match[2]}"


def _colour(match: re.Match[str]) -> str:
    special = {"#000000": "currentColor", "#ffffff": "var(--page)"}
    return special.get(match[0]) or SERIES.get(match[0], match[0])
