"""A chart within a page: no id that meets another's, no colour of its own but those of lines, nothing from outside."""

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


def test_it_is_one_element_that_says_what_it_shows(svg):
    assert svg.startswith("<svg ") and svg.endswith("</svg>")
    assert 'role="img" aria-label="a &lt;chart&gt;"' in svg
    assert re.search(r'viewBox="0 0 216 144"', svg) and not re.search(r"^<svg[^>]*\bwidth=", svg)


def test_it_refers_to_nothing_outside(svg):
    assert not re.search(r"http|<style|<!|xlink|<metadata", svg)


def test_every_id_is_its_own_and_is_referred_to(svg):
    ids = re.findall(r' id="([^"]*)"', svg)
    used = set(re.findall(r'(?:url\(|href=")#([^")]*)', svg))
    assert set(ids) == used and len(ids) == len(set(ids)) > 0
    assert all(name.startswith("one-") for name in ids)
    other = inline_svg(chart(), "two", "x")
    assert not set(ids) & set(re.findall(r' id="([^"]*)"', other))


def test_black_and_white_are_the_pages_and_lines_take_its_colours(svg):
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert {"var(--series-0)", "var(--series-1)", "var(--page)", "currentColor"} <= set(
        re.findall(r"var\(--[\w-]+\)|currentColor", svg)
    )


def test_text_stays_text_in_the_letters_of_the_page_and_no_digit_is_lost(svg):
    assert ">0.123456 &amp; more</text>" in svg
    assert "font-family" not in svg and "DejaVu" not in svg


def test_coordinates_are_as_fine_as_a_printer(svg):
    assert not re.search(r'd="[^"]*\.\d\d\d', svg)


def test_the_same_chart_gives_the_same_text(svg):
    assert inline_svg(chart(), "one", "a <chart>") == svg
