"""Plots of spectra: the values of each curve, labels, colours and files."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from ssltool.errors import SSLToolError
from ssltool.viz import spectra as spectra_module
from ssltool.viz.spectra import check_format, panels, plot_spectra, save_figure


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws spectra and returns the axes instead of a file: ``drawn({"a": s}, kind="svd") -> axes``."""

    def draw(spectra, **choice):
        kept = []
        monkeypatch.setattr(spectra_module, "save_figure", lambda figure, path: kept.append(figure))
        plot_spectra(list(spectra), list(spectra.values()), str(tmp_path / "p.png"), **choice)
        return kept[0].axes, [text.get_text() for text in kept[0].legends[0].get_texts()]

    yield draw
    plt.close("all")


def test_the_three_curves_are_values_relative_values_and_cumulative_sums(drawn):
    axes, _ = drawn({"a": torch.tensor([1.0, 4.0, 3.0, 2.0])})  # in any order
    curves = [axis.lines[0].get_xydata() for axis in axes]
    for curve in curves:
        assert curve[:, 0].tolist() == [1, 2, 3, 4]
    assert curves[0][:, 1].tolist() == [4, 3, 2, 1]
    assert curves[1][:, 1].tolist() == [1, 0.75, 0.5, 0.25]
    np.testing.assert_allclose(curves[2][:, 1], [0.4, 0.7, 0.9, 1.0])


def test_the_legend_names_each_spectrum_with_its_area(drawn):
    # The AUCs are (0.5 + 1) / 2 and (1 + 1) / 2.
    _, legend = drawn({"healthy": torch.ones(2), "collapsed": torch.tensor([1.0, 0.0])})
    assert legend == ["healthy (AUC 0.750)", "collapsed (AUC 1.000)", "flat spectrum"]


def test_lines_differ_in_style_and_colour(drawn):
    axes, _ = drawn({str(i): torch.rand(5) + 0.1 for i in range(len(spectra_module.STYLES))})
    lines = axes[0].lines
    assert len({line.get_linestyle() for line in lines}) == len(spectra_module.STYLES)
    assert len({line.get_color() for line in lines}) == len(spectra_module.STYLES)


def test_every_axis_has_a_title_and_labels(drawn):
    for kind, name in (("svd", "singular value"), ("std", "standard deviation")):
        axes, _ = drawn({"a": torch.rand(5)}, kind=kind)
        assert all(axis.get_xlabel() and axis.get_ylabel() and axis.get_title(loc="left") for axis in axes)
        assert axes[0].get_ylabel() == name
        assert [axis.get_yscale() for axis in axes] == ["log", "log", "linear"]


def test_eigenvalues_of_the_covariance_are_one_curve_on_a_logarithmic_scale(drawn):
    axes, legend = drawn({"a": torch.tensor([1.0, 1e-15, 1e-19])}, kind="cov")
    (axis,) = axes
    assert (axis.get_yscale(), axis.get_ylabel()) == ("log", "eigenvalue")
    # Eigenvalues are squares, so noise of 1e-9 of a singular value is 1e-18 of an eigenvalue.
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [1, 1e-15, np.nan])
    assert legend == ["a"]


def test_a_missing_spectrum_does_not_change_the_colours_of_others():
    figure = plt.figure()
    panels("svd")[0](figure.subplots(), [None, torch.rand(4)])
    (line,) = figure.axes[0].lines
    plt.close(figure)
    assert line.get_color() == spectra_module.COLOURS[1]


def test_zeros_are_omitted_on_logarithmic_axes(drawn):
    axes, _ = drawn({"a": torch.tensor([2.0, 1.0, 0.0])})
    assert np.isnan(axes[0].lines[0].get_ydata()).tolist() == [False, False, True]
    assert np.isnan(axes[1].lines[0].get_ydata()).tolist() == [False, False, True]
    assert axes[2].lines[0].get_ydata().tolist() == pytest.approx([2 / 3, 1, 1])


@pytest.mark.parametrize("spectrum", [torch.zeros(4), torch.ones(1)], ids=["zeros", "one value"])
def test_a_degenerate_spectrum_can_be_drawn(tmp_path, spectrum):
    plot_spectra(["only"], [spectrum], str(tmp_path / "p.png"))
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_more_spectra_than_colours_and_styles_can_be_drawn_and_no_figure_stays_open(tmp_path):
    plot_spectra([f"run {i}" for i in range(9)], [torch.rand(20 + i) for i in range(9)], str(tmp_path / "p.png"))
    height, width, channels = plt.imread(tmp_path / "p.png").shape
    assert width > height > 300
    assert channels == 4
    assert plt.get_fignums() == []


def test_the_spectra_are_not_modified(drawn):
    s = torch.tensor([1.0, 3.0])
    drawn({"a": s})
    assert s.tolist() == [1.0, 3.0]


def test_a_figure_that_cannot_be_written_is_an_error_and_is_closed(tmp_path):
    (tmp_path / "file").write_text("")
    figure = plt.figure()
    with pytest.raises(SSLToolError, match=r"p\.png"):
        save_figure(figure, str(tmp_path / "file" / "p.png"))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", ["p.png", "p.PDF", "a.b.svg"])
def test_known_formats_are_accepted(name):
    check_format(name)


@pytest.mark.parametrize("name", ["p.jpeg", "png", "p.png/x"])
def test_unknown_formats_are_refused_by_name(name):
    with pytest.raises(SSLToolError, match=rf"--plot {name}: .*\.png, \.pdf, \.svg"):
        check_format(name)
