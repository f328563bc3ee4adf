"""Contact sheets: every picture with its name, in every format, and text from files escaped."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ssltool.viz.contact_sheet import Picture, Strip, _figure, write_sheet


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


def test_no_text_of_a_figure_is_cut_off_or_lies_on_another():
    path = "/a/folder/of/many/experiments/with/long-names/representations.pt"
    names = ("train/class_of_birds/a-very-long-file-name-of-a-bird.jpg", "classes/x" * 8, "b.png")
    image = np.zeros((20, 30, 3), np.uint8)
    pictures = [Picture(image, name, f"7.98e-06 · {path}") for name in names]
    words = f"Duplicates in {path} and {path}, which is a long text"
    figure = _figure(words, [Strip(words, pictures), Strip("", pictures)], [words, "short"])
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
    assert [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)] == []
