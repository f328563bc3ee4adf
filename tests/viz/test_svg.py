"""Inline SVG: unique ids, the colours and font of the page, and no external references."""

from __future__ import annotations

import re

import pytest
from matplotlib.figure import Figure

from ssltool.viz.style import COLOURS, figure_style, light_grid, line_style
from ssltool.viz.svg import inline_svg


@pytest.fixture(scope="module")
def svg() -> str:
    return inline_svg(chart(), "one", "a <chart>")


def chart() -> Figure:
    with figure_style():
        figure = Figure(figsize=(3, 2), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1, 2], [0.00012345, 2, 1], **line_style(0, markers=True))
        axis.scatter(range(5), range(5), color=COLOURS[1])
        axis.scatter(range(5), range(5), color="black")
        axis.text(0.5, 0.5, "0.123456 & more", bbox={"facecolor": "white", "edgecolor": "none"})
        light_grid(axis)
    return figure


def test_it_is_one_element_with_a_label(svg):
    assert svg.startswith("<svg ") and svg.endswith("</svg>")
    assert 'role="img" aria-label="a &lt;chart&gt;"' in svg
    assert re.search(r'viewBox="0 0 216 144"', svg) and not re.search(r"^<svg[^>]*\bwidth=", svg)


def test_it_has_no_external_references(svg):
    assert not re.search(r"http|<style|<!|xlink|<metadata", svg)


def test_ids_are_unique_and_used(svg):
    ids = re.findall(r' id="([^"]*)"', svg)
    used = set(re.findall(r'(?:url\(|href=")#([^")]*)', svg))
    assert set(ids) == used and len(ids) == len(set(ids)) > 0
    assert all(name.startswith("one-") for name in ids)
    other = inline_svg(chart(), "two", "x")
    assert not set(ids) & set(re.findall(r' id="([^"]*)"', other))


def test_all_colours_are_those_of_the_page(svg):
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert {"var(--series-0)", "var(--series-1)", "var(--page)", "currentColor"} <= set(
        re.findall(r"var\(--[\w-]+\)|currentColor", svg)
    )


def test_text_stays_text_in_the_font_of_the_page_without_rounding(svg):
    assert ">0.123456 &amp; more</text>" in svg
    assert "font-family" not in svg and "DejaVu" not in svg


def test_coordinates_have_at_most_two_decimals(svg):
    assert not re.search(r'd="[^"]*\.\d\d\d', svg)


def test_equal_figures_give_equal_text(svg):
    assert inline_svg(chart(), "one", "a <chart>") == svg
