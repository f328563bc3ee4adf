"""``ssltool plot``: every plot, its file formats, and the inputs and settings that it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from helpers import error_message, records, slow_but, usage_message
from ssltool.config import PlotConfig
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.errors import SSLToolError
from ssltool.reprs.representations import Representations
from ssltool.runs.history import read_runs
from ssltool.settings import flag
from ssltool.stages.plot import run
from ssltool.viz import PLOTS
from ssltool.viz.plot_auc import last_auc
from ssltool.viz.plot_spectrum import read_spectrum


@pytest.fixture
def rows(write_reprs) -> Path:
    return write_reprs("rows.pt", torch.randn(60, 8, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def monitored(trained, tmp_path):
    """A copy of the trained run with these values in its last record: ``monitored("a", backbone_auc=1)``"""

    def make(name: str, *, settings: dict | None = None, **values: float | None) -> Path:
        folder = tmp_path / name
        shutil.copytree(trained, folder)
        lines = [{k: v for k, v in record.items() if "_" not in k or k == "feature_std"} for record in records(folder)]
        lines[-1] |= values
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        saved = json.loads((folder / "config.json").read_text()) | (settings or {})
        (folder / "config.json").write_text(json.dumps(saved))
        return folder

    return make


@pytest.mark.parametrize("kind", PLOTS)
@pytest.mark.parametrize("ending", slow_but(["svg"], ["png", "pdf", "svg"]))
def test_every_plot_is_deterministic_in_every_format(ssltool, tmp_path, monitored, rows, kind, ending):
    source = rows if kind in ("spectrum", "renyi") else monitored("a", backbone_auc=0.8, backbone_knn=0.5)
    out = [tmp_path / f"{i}.{ending}" for i in range(2)]
    for path in out:
        ran = ssltool("plot", kind, source, "-o", path, "--json")
        assert ran.code == 0, ran.err
        document = ran.json
        assert ("found" in document) == (kind in ("views", "schedule", "patches"))
        assert document | {"found": None} == {"path": str(path), "kind": kind, "inputs": [str(source)], "found": None}
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert out[0].read_bytes().startswith(starts[ending])
    assert out[0].read_bytes() == out[1].read_bytes()


def test_without_json_there_is_a_small_table(ssltool, tmp_path, rows):
    ran = ssltool("plot", "spectrum", rows, "-o", tmp_path / "p.png")
    assert ran.out.split() == ["file", "plot", "inputs", str(tmp_path / "p.png"), "spectrum", "1"]


def test_the_spectrum_of_representations_equals_that_of_their_spectrum_file(ssltool, rows):
    assert ssltool("collapse", rows).code == 0
    file = rows.with_name("rows_svd.pt")
    x = torch.load(rows, weights_only=True)["representations"].double()
    centred = x - x.mean(dim=0)
    wanted = {
        "svd": torch.linalg.svdvals(centred),
        "cov": torch.linalg.eigvalsh(x.T.cov()).flip(0),
        "std": x.std(dim=0),
    }
    for kind, values in wanted.items():
        torch.testing.assert_close(read_spectrum(str(rows), kind), values, rtol=1e-9, atol=1e-12)
    for kind in ("svd", "cov"):
        torch.testing.assert_close(read_spectrum(str(file), kind), wanted[kind], rtol=1e-9, atol=1e-12)


def test_files_of_the_same_name_have_separate_curves(ssltool, tmp_path, write_reprs, monkeypatch):
    (tmp_path / "x").mkdir()
    for seed, name in enumerate(("x/x.pt", "x.pt")):
        write_reprs(name, torch.randn(60, 8, generator=torch.Generator().manual_seed(seed)))
    monkeypatch.chdir(tmp_path)
    assert ssltool("plot", "spectrum", "x/x.pt", "x.pt", "-o", "p.svg").code == 0
    legend = re.findall(r">([^<]+) \(AUC ", (tmp_path / "p.svg").read_text())
    assert legend == ["x/x", "x"]


def test_the_spectrum_of_a_narrow_layer_has_the_values_that_it_can_have(ssltool, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator) @ torch.randn(5, 40, generator=generator)
    path = tmp_path / "narrow.pt"
    Representations(x, torch.full((60,), -1), torch.arange(60), {"directions": 5}).save(path)
    assert ssltool("collapse", path).code == 0
    for source in (path, path.with_name("narrow_svd.pt")):
        assert len(read_spectrum(str(source), "svd")) == len(read_spectrum(str(source), "cov")) == 5
    assert len(torch.load(path.with_name("narrow_svd.pt"), weights_only=True)["stds"]) == 40
    auc = ssltool("collapse", path, "--json").json["files"][0]["metrics"]["auc"]
    assert ssltool("plot", "spectrum", path, "-o", tmp_path / "p.svg").code == 0
    assert re.findall(r"\(AUC ([\d.]+)\)", (tmp_path / "p.svg").read_text()) == [f"{auc:.3f}"]


def test_a_spectrum_that_a_file_does_not_have_is_refused(tmp_path, rows, ssltool):
    assert ssltool("collapse", rows, "--type", "std").code == 0
    with pytest.raises(SSLToolError, match="std, not svd"):
        read_spectrum(str(rows.with_name("rows_std.pt")), "svd")
    torch.save({"stds": torch.ones(3)}, tmp_path / "papers.pt")
    torch.testing.assert_close(read_spectrum(str(tmp_path / "papers.pt"), "svd"), torch.ones(3).double())
    with pytest.raises(SSLToolError, match=r"papers\.pt .*--type cov"):
        read_spectrum(str(tmp_path / "papers.pt"), "cov")
    Spectrum(torch.ones(3), {}, {"type": "cov"}).save(tmp_path / "cov.pt")
    torch.testing.assert_close(read_spectrum(str(tmp_path / "cov.pt"), "cov"), torch.ones(3))


def test_a_point_has_the_values_of_the_last_monitored_epoch(monitored):
    (one,) = read_runs([str(monitored("a", backbone_auc=0.8, projector_auc=0.9, backbone_knn=0.5))])
    assert last_auc(one, "images", "backbone")[1] == 0.8
    assert last_auc(one, "epoch", "projector") == (2, 0.9)
    assert last_auc(one, "accuracy", "backbone") == (50, 0.8)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_run_without_a_monitor_is_refused(monitored, value):
    (one,) = read_runs([str(monitored("a", backbone_auc=value))])
    with pytest.raises(SSLToolError, match=r"backbone_auc.* --monitor-every"):
        last_auc(one, "images", "backbone")


def test_accuracy_requires_labels(monitored):
    (one,) = read_runs([str(monitored("a", backbone_auc=0.8))])
    with pytest.raises(SSLToolError, match="--x"):
        last_auc(one, "accuracy", "backbone")


def test_runs_of_one_group_share_a_line(monitored, tmp_path, monkeypatch):
    few, many = ({"n_images": n, "batch_size": n, "steps_per_epoch": None} for n in (100, 1000))
    folders = [
        monitored("a", backbone_auc=0.8, settings={"arch": "x", **few}),
        monitored("b", backbone_auc=0.7, settings={"arch": "x", **many}),
        monitored("c", backbone_auc=0.6, settings={"arch": "y", **many}),
    ]
    kept = {}
    monkeypatch.setattr("ssltool.viz.plot_auc.plot_auc", lambda points, out, **how: kept.update(how, points=points))
    run(PlotConfig("auc", tuple(map(str, folders)), out=str(tmp_path / "p.png")))
    assert [(point.x, point.auc, point.group) for point in kept["points"]] == [
        (100, 0.8, "x"),
        (1000, 0.7, "x"),
        (1000, 0.6, "y"),
    ]
    assert (kept["wide"], kept["xlabel"]) == (True, "training images seen")


@pytest.mark.parametrize(
    ("strategy", "seen"), [("iid", 1200), ("current", 600), ("accumulate", 600), ("last", 300), ("iid, few steps", 80)]
)
def test_the_number_of_images_is_that_of_the_different_images_seen(monitored, strategy, seen):
    """Of 1,200 images in four epochs, of which two are done; a chunk has 300."""
    settings = {"n_images": 1200, "epochs": 4, "batch_size": 20, "steps_per_epoch": None}
    if strategy.startswith("iid,"):  # all are drawn from one permutation, which no image leaves twice
        settings |= {"epochs": 1, "steps_per_epoch": 4}
    folder = monitored("a", backbone_auc=0.8, settings=settings | {"strategy": strategy.split(",")[0]})
    lines = [record | {"strategy": strategy.split(",")[0]} for record in records(folder)]
    lines = [lines[-1] | {"epoch": 0}] if settings["epochs"] == 1 else lines
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (one,) = read_runs([str(folder)])
    assert last_auc(one, "images", "backbone") == (seen, 0.8)


def test_the_images_of_a_run_that_changed_its_strategy_are_not_known(monitored):
    folder = monitored("a", backbone_auc=0.8, settings={"strategy": "last"})
    (one,) = read_runs([str(folder)])
    with pytest.raises(SSLToolError, match="another data strategy"):
        last_auc(one, "images", "backbone")


@pytest.mark.parametrize(("x", "lines"), [("accuracy", False), ("epoch", True)])
def test_accuracies_are_scattered_and_not_connected(monitored, tmp_path, x, lines, monkeypatch):
    folders = [monitored(str(i), backbone_auc=0.5 + i / 9, backbone_knn=0.9 - i / 7) for i in range(3)]
    drawn = []
    monkeypatch.setattr("ssltool.viz.plot_auc.save_figure", lambda figure, out: drawn.append(figure))
    run(PlotConfig("auc", tuple(map(str, folders)), x=x, out=str(tmp_path / "p.png")))
    (axis,) = drawn[0].axes
    assert any(len(line.get_xdata()) and line.get_linestyle() != "None" for line in axis.lines) == lines
    assert sum(len(line.get_xdata()) for line in axis.lines if line.get_marker().lower() != "none") == 3


OTHER = {"type": "cov", "x": "epoch", "group_by": "method", "layer": "projector", "rows": 2, "epoch": 2, "data": "d"}


@pytest.mark.parametrize("kind", PLOTS)
@pytest.mark.parametrize("name", OTHER)
def test_a_flag_that_a_plot_does_not_use_is_refused(kind, name):
    config = PlotConfig(kind, ("input",), out="p.png", **{name: OTHER[name]})
    with pytest.raises(SSLToolError) as caught:
        run(config)
    refused = str(caught.value).startswith(f"{flag(name)} does nothing with plot {kind}")
    assert refused == (name not in PLOTS[kind].settings)


def test_epochs_of_views_count_from_1(tmp_path, trained, monkeypatch):
    asked = []
    monkeypatch.setattr("ssltool.viz.plot_views.views_of", lambda setup, method, rows, *, epoch: asked.append(epoch))
    monkeypatch.setattr("ssltool.viz.plot_views.plot_views", lambda views, out: None)
    for epoch in ({}, {"epoch": 1}, {"epoch": 2}):
        run(PlotConfig("views", (str(trained),), out=str(tmp_path / "p.png"), **epoch))
    assert asked == [0, 0, 1]


def test_inputs_that_cannot_be_plotted_are_refused_in_one_line(ssltool, tmp_path, trained, monitored, rows):
    plain = monitored("plain")
    other = monitored("other")
    (plain / "metrics.jsonl").write_text("")
    picture = tmp_path / "p.png"
    for arguments, words in (
        (["spectrum", trained, "-o", picture], str(trained)),
        (["schedule", tmp_path, "-o", picture], str(tmp_path)),
        (["curves", plain, "-o", picture], str(plain)),
    ):
        assert words in error_message(ssltool("plot", *arguments))
    for arguments, words in (
        (["spectrum", rows], "--out FILE"),
        (["spectrum", rows, "-o", "p.gif"], "--out p.gif"),
        (["views", plain, other, "-o", picture], "found 2"),
    ):
        assert words in usage_message(ssltool("plot", *arguments))
    assert not picture.exists()


def test_usage_mistakes_are_exit_code_2(ssltool, rows):
    assert ssltool("plot", "pie", rows, "-o", "p.png").code == 2
    assert ssltool("plot", "curves", "-o", "p.png").code == 2
    assert ssltool("plot", "views", rows, "-o", "p.png", "--epoch", 0).code == 2
