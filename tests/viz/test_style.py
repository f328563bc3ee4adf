"""Figure files: deterministic bytes, text as text, and plain tick labels."""

from __future__ import annotations

import re

import pytest
from matplotlib.figure import Figure

from ssltool.errors import SSLToolError
from ssltool.viz.style import (
    COLOURS,
    MARKERS,
    STYLES,
    check_format,
    figure_style,
    legend,
    line_style,
    log_scale,
    save_figure,
    tick_label,
)


def figure(name: str = "a run") -> Figure:
    with figure_style():
        made = Figure(figsize=(4, 3), layout="constrained")
        axis = made.subplots()
        axis.plot([1, 2, 3], [1e-8, 1e-3, 1.0], **line_style(0))
        log_scale(axis, "y")
        legend(made, [name], [line_style(0)])
    return made


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_equal_figures_are_equal_files(tmp_path, kind):
    for name in ("a", "b"):
        save_figure(figure(), str(tmp_path / f"{name}.{kind}"))
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_text_in_vector_formats_stays_text(tmp_path):
    save_figure(figure("a run"), str(tmp_path / "p.svg"))
    assert re.search(r"<text[^>]*>a run</text>", (tmp_path / "p.svg").read_text())
    save_figure(figure("a run"), str(tmp_path / "p.pdf"))
    assert b"/Type3" not in (tmp_path / "p.pdf").read_bytes()  # outlines instead of a font


@pytest.mark.parametrize("name", ["$x", "a$b$c", "_hidden", "名前", r"\alpha"])
def test_a_legend_can_contain_any_name(tmp_path, name):
    save_figure(figure(name), str(tmp_path / "p.svg"))
    assert name in (tmp_path / "p.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01, "0.01"), (10, "10"), (1000, "1,000"), (1e-3, "10⁻³"), (1e6, "10⁶"), (5e-10, "5·10⁻¹⁰")],
)
def test_tick_labels_are_plain(value, text):
    assert tick_label(value) == text


def test_lines_differ_in_colour_and_in_style_or_marker():
    assert len({line_style(i)["color"] for i in range(len(COLOURS))}) == len(COLOURS)
    assert len({line_style(i)["linestyle"] for i in range(len(STYLES))}) == len(STYLES)
    assert len({line_style(i, markers=True)["marker"] for i in range(len(MARKERS))}) == len(MARKERS)


def test_the_error_for_an_unknown_format_names_the_flag():
    with pytest.raises(SSLToolError, match=r"--out p\.gif: .*\.png, \.pdf, \.svg"):
        check_format("p.gif", "--out")
