"""Elements of a report: escaping, tables, legends, and packaged files."""

from __future__ import annotations

import configparser
from fnmatch import fnmatch
from pathlib import Path

import pytest

import ssltool
from ssltool.files.text import escape_xml
from ssltool.stages.report.html import page, sample
from ssltool.viz.page import columns, element, lead, legend
from ssltool.viz.style import COLOURS, STYLES

EVIL = """</script><b onclick="x">'&"""
ROOT = Path(ssltool.__file__).parents[1]


def test_text_is_escaped():
    assert escape_xml(EVIL) == "&lt;/script&gt;&lt;b onclick=&quot;x&quot;&gt;&#x27;&amp;"
    for html in (lead(EVIL), legend([EVIL], [""]), page(EVIL, "", [(EVIL, EVIL, "")], "")):
        assert EVIL not in html and "<b" not in html.replace("<body", "").replace("<button", "")


def test_attributes_are_escaped_and_those_of_none_are_omitted():
    made = element("td", "<i>", class_="a b", data_value='"', title=None)
    assert made == '<td class="a b" data-value="&quot;"><i></td>'
    assert element("img", src="x") == '<img src="x">'


def test_a_table_scrolls_and_can_be_focused():
    assert columns([], [], id="t").startswith('<div class="scroll" tabindex="0"><table id="t">')


def test_the_symbols_of_a_legend_differ():
    assert len({sample(i) for i in range(len(COLOURS) * len(STYLES))}) == len(COLOURS) * len(STYLES)
    assert len({sample(0, style) for style in STYLES}) == len(STYLES)
    assert sample(0, "-", marker=True) != sample(0, "-")


def test_the_contents_link_to_the_sections():
    made = page("t", "", [("one", "First", "<p>x</p>")], "")
    assert '<a href="#one">First</a>' in made and '<section id="one"><h2>First</h2><p>x</p></section>' in made


@pytest.mark.parametrize("package", ["viz", "stages/watch"])
def test_the_styles_and_the_scripts_are_packaged(package):
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    patterns = settings["options.package_data"][f"ssltool.{package.replace('/', '.')}"].split()
    files = [path.name for path in (ROOT / "ssltool" / package).iterdir() if path.is_file() and path.suffix != ".py"]
    assert {name.rpartition(".")[2] for name in files} == {"css", "js"}
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in files)
