"""Plots of runs: panels, lines, axes and legends."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from ssltool.viz import curves
from ssltool.viz import plot_auc as plot_auc_module
from ssltool.viz.curves import LOSS, MONITORED, curves_of, draw_curve, plot_curves, shown_layers
from ssltool.viz.plot_auc import Point, plot_auc
from ssltool.viz.style import COLOURS, MARKERS, figure_style


def record(epoch: int, **values: object) -> dict[str, object]:
    return {"epoch": epoch, "loss": -0.1 * epoch, "feature_std": 0.9, **values}


def monitored(epoch: int, **values: object) -> dict[str, object]:
    layers = {f"{layer}_{m}": 0.5 for layer in ("backbone", "projector") for m in ("auc", "effective_rank")}
    return record(epoch, **layers, backbone_feature_std=0.4, projector_feature_std=0.8, backbone_knn=0.7, **values)


@pytest.fixture
def axis():
    with figure_style():
        figure = plt.figure()
        yield figure.subplots()
    plt.close(figure)


@pytest.fixture
def drawn(monkeypatch):
    """The figure that a function saves: ``drawn(plot_curves, runs) -> figure``."""

    def draw(plot, *arguments, **choice):
        kept = []
        for module in (curves, plot_auc_module):
            monkeypatch.setattr(module, "save_figure", lambda figure, path: kept.append(figure))
        plot(*arguments, "p.png", **choice)
        return kept[0]

    return draw


def titles(runs) -> list[str]:
    return [curve.title for curve in curves_of(runs)]


def test_a_monitored_run_has_a_panel_for_each_metric_that_was_recorded():
    found = titles([[monitored(0), monitored(1)]])
    assert found == ["Loss", "AUC", "Effective rank", "Feature std", "kNN accuracy"]


def test_a_run_without_a_monitor_has_panels_of_the_loss_and_the_std_of_training_batches():
    assert titles([[record(0), record(1)]]) == ["Loss", "Feature std of training batches"]
    assert titles([[]]) == []


def test_one_run_with_values_is_enough_for_a_panel():
    assert "kNN accuracy" in titles([[record(0)], [monitored(0)]])


def test_epochs_without_a_value_are_skipped(axis):
    lines = [monitored(0), record(1), monitored(2) | {"backbone_auc": None}, monitored(3)]
    draw_curve(axis, MONITORED[0], [lines])
    backbone, projector = axis.lines[:2]
    assert backbone.get_xdata().tolist() == [1, 4]
    assert projector.get_xdata().tolist() == [1, 3, 4]


def test_layers_differ_in_line_style_and_runs_in_colour_and_marker(axis):
    draw_curve(axis, MONITORED[0], [[monitored(0)], [monitored(0)]])
    found = [(line.get_linestyle(), line.get_color(), line.get_marker()) for line in axis.lines[:4]]
    first, second = (COLOURS[0], MARKERS[0]), (COLOURS[1], MARKERS[1])
    assert found == [("-", *first), ("--", *first), ("-", *second), ("--", *second)]


def test_accuracies_are_in_percent_on_an_axis_that_does_not_magnify_rounding(axis):
    draw_curve(axis, MONITORED[-1], [[monitored(0), monitored(1) | {"backbone_knn": 0.701}]])
    assert axis.lines[0].get_ydata().tolist() == pytest.approx([70, 70.1])
    low, high = axis.get_ylim()
    assert low < 70 < high and high - low == pytest.approx(5)


def test_every_panel_has_a_title_and_axis_labels(axis):
    for curve in (LOSS, *MONITORED):
        axis.clear()
        draw_curve(axis, curve, [[monitored(0)]])
        assert axis.get_xlabel() == "epoch" and axis.get_ylabel() and axis.get_title(loc="left")


def test_the_legend_names_the_runs_the_layers_and_the_value_of_complete_collapse(drawn):
    without = [{k: v for k, v in monitored(0).items() if not k.startswith("projector")}]
    assert not shown_layers(curves_of([without]), [without])
    figure = drawn(plot_curves, {"a": [monitored(0)], "b": without})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "a",
        "b",
        "backbone",
        "projector",
        "complete collapse",
    ]


def test_unused_axes_are_hidden(drawn):
    figure = drawn(plot_curves, {"a": [monitored(0)]})
    assert [axis.get_visible() for axis in figure.axes] == [True] * 5 + [False]


POINTS = [Point(100, 0.9, "small", "a"), Point(10, 0.8, "small", "b"), Point(10, 0.6, "small", "c"),
          Point(10, 0.5, "wide", "d")]  # fmt: skip


def test_a_group_is_a_line_through_the_means_of_its_runs(drawn):
    figure = drawn(plot_auc, POINTS, xlabel="training images")
    small, line, *_ = figure.axes[0].lines
    assert sorted(zip(small.get_xdata(), small.get_ydata(), strict=True)) == [(10, 0.6), (10, 0.8), (100, 0.9)]
    assert line.get_xdata().tolist() == [10, 100]
    assert line.get_ydata().tolist() == pytest.approx([0.7, 0.9])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small", "wide"]


def test_wide_makes_the_x_axis_logarithmic(drawn):
    assert drawn(plot_auc, POINTS, xlabel="x", wide=True).axes[0].get_xscale() == "log"
    assert drawn(plot_auc, POINTS, xlabel="x").axes[0].get_xscale() == "linear"
