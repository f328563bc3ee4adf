"""Plots of a schedule: bars, counts and learning rates equal those of the schedule."""

from __future__ import annotations

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ssltool.viz import data_schedule as module
from ssltool.viz.data_schedule import (
    MAX_BARS,
    Schedule,
    draw_exposure,
    draw_rates,
    draw_slices,
    plot_schedule,
    rate_names,
)


def schedule(epochs: int = 4, *, fixed: bool = False) -> Schedule:
    """A single pass over 8 images in each of ``epochs`` epochs."""
    starts = 8 * np.arange(epochs)
    at = np.arange(epochs, dtype=float)
    return Schedule(
        "current", 8 * epochs, 0, np.stack([starts, starts + 8], axis=1), np.full(epochs, 2.5),
        np.arange(8 * epochs), at, 0.1 - 0.01 * at, np.full(epochs, 0.1) if fixed else None,
    )  # fmt: skip


@pytest.fixture
def axis():
    figure = plt.figure()
    yield figure.subplots()
    plt.close(figure)


def test_each_epoch_is_a_bar_of_its_slice_labelled_with_how_often_an_image_is_seen(axis):
    draw_slices(axis, schedule())
    bars = [(bar.get_x(), bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in axis.patches]
    assert bars == [(0, 8, 1), (8, 8, 2), (16, 8, 3), (24, 8, 4)]
    assert [text.get_text() for text in axis.texts] == ["2.5 ×"] * 4
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first epoch is at the top


def test_many_epochs_are_one_area_of_the_same_outline(axis):
    long = schedule(MAX_BARS + 1)
    draw_slices(axis, long)
    (area,) = axis.collections
    corners = area.get_paths()[0].vertices
    for epoch, (start, stop) in enumerate(long.slices, 1):
        row = corners[(corners[:, 1] > epoch - 0.6) & (corners[:, 1] < epoch + 0.6), 0]
        assert {start, stop} <= set(row.tolist())
    assert not axis.texts


def test_epochs_count_from_1_and_start_with_the_first_that_is_drawn(axis):
    draw_slices(axis, dataclasses.replace(schedule(), first=40))
    assert [round(bar.get_y() + bar.get_height() / 2) for bar in axis.patches] == [41, 42, 43, 44]


def test_exposure_is_the_mean_of_neighbouring_images(axis):
    many = dataclasses.replace(schedule(), images=1000, seen=np.repeat([3, 1], 500))
    draw_exposure(axis, many)
    values = axis.patches[0].get_data().values
    assert len(values) == module.BINS
    np.testing.assert_array_equal(values, np.repeat([3, 1], module.BINS // 2))


def test_few_images_are_not_binned(axis):
    draw_exposure(axis, schedule())
    np.testing.assert_array_equal(axis.patches[0].get_data().values, np.arange(32))


def test_learning_rates_are_plotted_with_the_constant_one(axis):
    draw_rates(axis, schedule(fixed=True))
    moving, fixed = axis.lines
    assert moving.get_ydata().tolist() == pytest.approx([0.1, 0.09, 0.08, 0.07])
    assert set(fixed.get_ydata()) == {0.1}
    assert moving.get_linestyle() != fixed.get_linestyle()
    assert rate_names(schedule()) == ["learning rate"]


def test_schedules_have_equal_keys_if_their_plots_are_equal():
    assert schedule().key() == schedule().key()
    assert schedule().key() != schedule(fixed=True).key()
    assert schedule().key() != dataclasses.replace(schedule(), note="x").key()


@pytest.mark.parametrize("epochs", [1, 100])
def test_a_schedule_of_any_length_can_be_drawn(tmp_path, epochs):
    plot_schedule(schedule(epochs, fixed=True), str(tmp_path / "p.svg"))
    assert "Learning rate" in (tmp_path / "p.svg").read_text()
