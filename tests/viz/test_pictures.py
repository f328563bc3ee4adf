"""Figures of images: embedded images, grids of views, and maps with distinct classes."""

from __future__ import annotations

import base64
import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from ssltool.viz.pictures import (
    MAX_CLASSES,
    MAX_NUMBERED,
    THUMBNAIL_SIDE,
    EmbeddingMap,
    Views,
    class_name,
    class_style,
    data_url,
    draw_map,
    plot_views,
    shown_classes,
)


def decoded(url: str) -> np.ndarray:
    head, _, body = url.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB"))


def noise(*shape: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, shape, np.uint8)


def cloud(points: np.ndarray, labels: list[int], classes: tuple[str, ...] = ()) -> EmbeddingMap:
    return EmbeddingMap(points, np.array(labels), classes, ("x", "y"))


@pytest.fixture
def axis():
    figure = plt.figure()
    yield figure.subplots()
    plt.close(figure)


def test_small_grey_images_and_images_of_few_colours_are_embedded_losslessly():
    grey = np.repeat(noise(28, 28, 1), 3, axis=2)
    np.testing.assert_array_equal(decoded(data_url(grey)), grey)
    few = np.array([[255, 0, 0], [0, 200, 30], [7, 7, 99]], np.uint8)[noise(20, 16) % 3]
    np.testing.assert_array_equal(decoded(data_url(few)), few)


def test_large_images_are_scaled_down_with_their_aspect_ratio():
    assert decoded(data_url(noise(300, 600, 3))).shape == (THUMBNAIL_SIDE // 2, THUMBNAIL_SIDE, 3)


def test_an_embedded_image_is_small_for_any_content():
    assert len(data_url(noise(224, 224, 3))) < 8000


def test_classes_on_a_map_differ_in_colour_or_marker():
    styles = [class_style(place) for place in range(MAX_CLASSES)]
    assert len(set(styles)) == MAX_CLASSES
    assert all(one[0] != other[0] and one[1] != other[1] for one, other in itertools.pairwise(styles))


def test_shown_classes_are_the_largest_without_unlabelled_images():
    labels = np.repeat(np.arange(MAX_CLASSES + 5), np.arange(1, MAX_CLASSES + 6))
    assert shown_classes(labels) == list(range(5, MAX_CLASSES + 5))
    assert shown_classes(np.array([-1, -1])) == []


def test_the_frame_of_a_map_contains_all_points_except_outliers():
    points = np.random.RandomState(0).randn(1000, 2)
    assert cloud(points, [0] * 1000).outside() < 20
    points[0] = 1e6
    middle, half = cloud(points, [0] * 1000).frame()
    assert half < 10 and np.abs(middle).max() < 1
    assert cloud(points, [0] * 1000).outside() >= 1


def test_equal_points_have_a_frame():
    _, half = cloud(np.zeros((5, 2)), [0] * 5).frame()
    assert half > 0
    assert cloud(np.zeros((5, 2)), [0] * 5).outside() == 0


def test_a_map_has_one_scale_and_every_point(axis):
    labels = [0, 0, 1, 1, -1]
    drawn = cloud(noise(5, 2).astype(float), labels)
    draw_map(axis, drawn, [0, 1])
    assert axis.get_aspect() == 1
    assert sum(len(points.get_offsets()) for points in axis.collections) == 5
    assert [text.get_text() for text in axis.texts] == ["0", "1"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("x", "y")


def test_the_numbers_of_many_classes_are_not_written(axis):
    count = MAX_NUMBERED + 1
    draw_map(axis, cloud(noise(count, 2).astype(float), list(range(count))), list(range(count)))
    assert not axis.texts


def test_a_class_is_named_with_its_number_unless_that_is_its_name():
    named = cloud(np.zeros((1, 2)), [0], ("0", "shoe"))
    assert [class_name(named, number) for number in (0, 1, 7)] == ["0", "1 shoe", "7"]


def test_a_grid_of_views_has_a_cell_for_the_original_and_each_view(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("ssltool.viz.pictures.save_figure", lambda figure, path: kept.append(figure))
    views = Views([noise(20, 30, 3)] * 2, [[noise(16, 16, 3), noise(8, 8, 3)]] * 2, ["one", "two"], ["how"])
    plot_views(views, str(tmp_path / "p.png"))
    axes = kept[0].axes
    assert [axis.images[0].get_array().shape[:2] for axis in axes] == [(20, 30), (16, 16), (8, 8)] * 2
    assert [axis.get_title() for axis in axes[:3]] == ["original", "one", "two"]
