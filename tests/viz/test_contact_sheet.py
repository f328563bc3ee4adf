"""Contact sheets: every picture with its name, in every format, and text from files escaped."""

from __future__ import annotations

import numpy as np
import pytest

from ssltool.viz.contact_sheet import Picture, Strip, write_sheet


def strips(count: int = 2, name: str = "birds/kiwi") -> list[Strip]:
    image = np.zeros((20, 30, 3), np.uint8)
    return [Strip("a strip", [Picture(image, f"{name}{i}.png", "0.1", marked=i == 0) for i in range(count)])]


def test_a_page_has_every_picture_its_name_and_no_external_resource(tmp_path):
    write_sheet(str(tmp_path / "s.html"), "A heading", strips(3), ["a note"])
    page = (tmp_path / "s.html").read_text()
    assert page.count("<img") == page.count("data:image/png;base64,") == 3 and "http" not in page
    assert all(f"birds/kiwi{i}.png" in page for i in range(3)) and page.count('<figure class="marked"') == 1


def test_names_are_escaped_in_pages(tmp_path):
    write_sheet(str(tmp_path / "s.html"), "<h>", strips(1, '"><script>\x1b'))
    page = (tmp_path / "s.html").read_text()
    assert "<script" not in page and "\x1b" not in page and "&lt;h&gt;" in page


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_equal_figures_are_equal_files(tmp_path, suffix):
    for name in "ab":
        write_sheet(str(tmp_path / f"{name}{suffix}"), "A heading", strips())
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_figures_hold_the_names_as_text(tmp_path):
    write_sheet(str(tmp_path / "s.svg"), "A heading", strips(1))
    assert "birds/kiwi0.png" in (tmp_path / "s.svg").read_text()
