"""Text from files: one visible line on a terminal, the same text in HTML and SVG, no formula in a table."""

from __future__ import annotations

import csv
import io
import unicodedata
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from ssltool.files.text import LONGEST, csv_cell, each_line, escape_xml, one_line, visible
from ssltool.runs.tables import write_table
from ssltool.stages.report.html import page
from ssltool.viz.page import columns, element, lead, legend
from ssltool.viz.style import figure_style, save_figure
from ssltool.viz.style import legend as figure_legend
from ssltool.viz.svg import inline_svg

UNREADABLE = "a\n\r\x00\x1b[31m\x9b0m\u200b\u202e\u2028\u2029\ufeff\udcff\uffff\ue000]]>&<b \"'$x$\\alpha{"
anything = st.text(st.characters(exclude_categories=()), max_size=40)
"""Any text, lone surrogates and control characters too."""
FORMS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


class Words(HTMLParser):
    """The text, and the values of attributes, of an HTML page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.values: list[str | None] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for _, value in attrs]


@given(anything)
@example(UNREADABLE)
def test_shown_text_is_one_line_of_visible_characters(text):
    assert not {unicodedata.category(character) for character in one_line(text)} & FORMS
    assert len(one_line(text).splitlines()) <= 1
    one_line(text).encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a\\x0ab"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),
        ("evil\u202egnp.exe", "evil\\u202egnp.exe"),
        ("\u2066a\u2069\u200b\u200d\ufeff", "\\u2066a\\u2069\\u200b\\u200d\\ufeff"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("\udcff.png", "\\xff.png"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_characters_without_a_form_are_shown_by_their_number(text, shown):
    assert one_line(text) == visible(text) == shown


@pytest.mark.parametrize("path", ["/my runs/läuf/é.png", "u\u0308ber", "猫/ねこ", "قط", "🐈", "a\u202f9", "C:\\x"])
def test_paths_of_any_language_stay_as_they_are(path):
    assert one_line(path) == path


@given(st.text("ab\n\x1b猫", max_size=30))
def test_the_lines_of_a_table_stay_lines(text):
    assert each_line(text).split("\n") == [visible(line) for line in text.split("\n")]


@given(st.text(min_size=1, max_size=3), st.integers(LONGEST, 100_000))
def test_long_text_is_short_and_keeps_both_ends(text, length):
    long = f"<{text * length}>"
    shown = one_line(long)
    assert len(shown) <= LONGEST and shown[0] == "<" and shown[-1] == ">"
    assert " ... " in shown
    assert one_line(shown) == shown
    assert one_line("x" * LONGEST) == "x" * LONGEST


@given(anything)
@example(UNREADABLE)
def test_html_and_xml_hold_the_text(text):
    shown = visible(text)
    assert "".join(Words(f"<p>{escape_xml(text)}</p>").words) == shown
    parsed = ET.fromstring(f"<p a='{escape_xml(text)}' b=\"{escape_xml(text)}\">{escape_xml(text)}</p>")
    assert (parsed.text or "", parsed.get("a"), parsed.get("b")) == (shown, shown, shown)


OF_THE_PARTS = Counter(["li", "a", "section", "h2", "p", "ul", "li", "div", "table", "thead", "tr", "th", "tbody"])
OF_THE_PARTS += Counter(["tr", "td"])


@given(anything)
@example(UNREADABLE)
def test_the_parts_of_a_report_hold_the_text(text):
    rows = [element("tr", element("td", escape_xml(text), title=text))]
    body = lead(text) + legend([text], [""]) + columns([element("th", escape_xml(text))], rows)
    made = Words(page(text, "", [("one", text, body)], ""))
    shown = visible(text)
    assert Counter(made.tags) - Counter(Words(page("", "", [], "")).tags) == OF_THE_PARTS
    assert made.words.count(shown) >= 6 or not shown
    assert made.values.count(shown) >= 1


def chart(text: str) -> Figure:
    with figure_style():
        figure = Figure(figsize=(16, 4), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1])
        axis.set(title=text, xlabel=text)
        axis.text(0, 0, text, in_layout=False)
        figure_legend(figure, [text], [{"color": "black"}])
    return figure


def words(svg: str) -> str:
    return "".join(ET.fromstring(svg).itertext())


AS_IN_SVG = 'x="1.23456" #aabbcc #000000 id="a" url(#b) xlink:href font: 10px serif; <!-- --> </text><script>'


@pytest.mark.parametrize("text", [UNREADABLE, AS_IN_SVG, "$\\frac{1}{2$", "猫 🐈 قط", "\\", "a_b^c", " ", "0"])
def test_svg_is_well_formed_and_holds_the_text(text, tmp_path):
    save_figure(chart(text), str(tmp_path / "x.svg"))
    svg = (tmp_path / "x.svg").read_text()
    inline = inline_svg(chart(text), "one", text)
    for one in (svg, inline):
        assert min(words(one).count(visible(line).strip()) for line in text.split("\n")) >= 3
        assert "script" not in {element.tag for element in ET.fromstring(one).iter()}
    assert ET.fromstring(inline).get("aria-label") == visible(text)


@given(anything)
def test_svg_of_any_text_is_well_formed(text):
    with figure_style():
        figure = Figure(figsize=(1, 1))
        figure.text(0, 0, text)
    assert visible(text.replace("\n", "")).strip() in words(inline_svg(figure, "one", text)).replace("\n", "")


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_figures_of_all_formats_take_any_text(suffix, tmp_path):
    for text in (UNREADABLE, "$\\frac{1}{2$", "猫 🐈 قط"):
        save_figure(chart(text), str(tmp_path / f"x{suffix}"))
        assert (tmp_path / f"x{suffix}").stat().st_size > 1000


@pytest.mark.parametrize(
    "cell",
    [
        '=HYPERLINK("http://127.0.0.1/?"&A1,"click")',
        "=cmd|'/c calc'!A1",
        "+1+1",
        "-1+1",
        "-inf",
        "@SUM(A1)",
        "-",
        "＝1",
    ],
)
def test_a_cell_that_begins_like_a_formula_is_text(cell):
    assert csv_cell(cell) == f"'{cell}"


def test_a_cell_that_begins_with_a_control_character_is_text_and_shows_it():
    assert [csv_cell("\t=1"), csv_cell("\r=1")] == ["'\\x09=1", "'\\x0d=1"]
    assert csv_cell("a\r\x1b\udcff") == "a\\x0d\\x1b\\xff"
    assert csv_cell("two\nlines") == "two\nlines"


@pytest.mark.parametrize("cell", ["-1.5", "+2", "-1e-05", "-.5", "3", "a=1", "", " =1", "läuf", "'=1", -1.5, None])
def test_numbers_and_other_text_stay(cell):
    assert csv_cell(cell) is cell


@given(anything, anything)
@example("=HYPERLINK(1)", "@x")
def test_no_cell_of_a_table_is_a_formula(text, name):
    table = pd.DataFrame([{"run": text, "n": -1.5, "x" + name: text, name: "-1.5"}], dtype=object)
    written = io.StringIO(table.rename(columns=csv_cell).map(csv_cell).to_csv(index=False))
    for row in csv.reader(written):
        for cell in row:
            assert not cell.startswith(("=", "@", "\t", "\r")) and (cell[:1] not in "+-" or not cell or float(cell))


def test_a_written_table_keeps_numbers_names_and_paths(tmp_path):
    rows = [{"run": "=1+1", "auc": -0.5, "rank": None}, {"run": "läuf\udcff", "auc": 2.0, "rank": 1}]
    write_table(tmp_path / "t.csv", {}, pd.DataFrame(rows, dtype=object))
    read = pd.read_csv(tmp_path / "t.csv")
    assert read["run"].tolist() == ["'=1+1", "läuf\\xff"]
    assert read["auc"].tolist() == [-0.5, 2.0] and read["rank"].isna().tolist() == [True, False]
