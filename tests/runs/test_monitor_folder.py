"""The folder of a monitor: it is continued, never overwritten, and read by rank, plot, report, inspect and read_run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ssltool as package
from helpers import error_message, records
from ssltool import Monitor
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.errors import SSLToolError
from ssltool.runs.monitor_folder import MonitorFolder, latest

IMAGES = torch.randn(30, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(30) % 2


def network() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"backbone": nn.Sequential(nn.Flatten(), nn.Linear(48, 12)), "projector": nn.Linear(12, 6)}


def watch(out: Path, *steps: int, images: torch.Tensor = IMAGES, **more: Any) -> Monitor:
    monitor = Monitor(images, more.pop("layers", network()), out=out, labels=LABELS[: len(images)], every=10, **more)
    for step in steps:
        monitor.step(step, loss=1.0 / (1 + step))
    return monitor


def test_each_look_is_a_line_and_the_last_spectra_are_kept(tmp_path):
    monitor = watch(tmp_path / "run", 0, 10, 20)
    lines = records(tmp_path / "run")
    assert [line["step"] for line in lines] == [0, 10, 20]
    assert lines == monitor.history
    for name, width in (("backbone", 12), ("projector", 6)):
        spectrum = Spectrum.load(tmp_path / "run" / f"{name}_svd.pt")
        assert (spectrum.meta["step"], spectrum.meta["d"], len(spectrum.stds)) == (20, width, width)
        assert spectrum.metrics["auc"] == lines[-1][f"{name}_auc"]


def test_nothing_is_written_before_the_first_look(tmp_path):
    Monitor(IMAGES, network(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_is_continued_and_earlier_verdicts_are_known(tmp_path):
    dead = network()
    with torch.no_grad():
        dead["projector"].weight.zero_()
    first = watch(tmp_path / "run", 10, layers=dead)
    assert first.history[0]["verdict"] == "complete"
    again = Monitor(IMAGES, dead, out=tmp_path / "run", every=10)
    check = again.step(20)
    assert check is not None and check.warnings == []  # not worse than before
    assert [line["step"] for line in records(tmp_path / "run")] == [10, 20]


def test_a_training_resumed_from_an_earlier_step_replaces_the_looks_that_it_repeats(tmp_path):
    watch(tmp_path / "run", 0, 10, 20, 30)
    watch(tmp_path / "run", 20, 30, 40)
    assert [line["step"] for line in records(tmp_path / "run")] == [0, 10, 20, 30, 20, 30, 40]
    assert [record["step"] for record in MonitorFolder(tmp_path / "run").records] == [0, 10, 20, 30, 40]
    assert package.read_run(tmp_path / "run")["step"].tolist() == [0, 10, 20, 30, 40]
    assert [r["step"] for r in latest([{"step": 5}, {"step": 9}, {"step": 7}])] == [5, 7]


def test_a_line_that_was_cut_off_is_dropped_before_the_next(tmp_path, capsys):
    watch(tmp_path / "run", 0, 10)
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-40])
    watch(tmp_path / "run", 20)
    assert [line["step"] for line in records(tmp_path / "run")] == [0, 20]
    assert "cut off" in capsys.readouterr().err


def test_other_images_are_said_once(tmp_path):
    watch(tmp_path / "run", 0)
    other = Monitor(IMAGES + 1, network(), out=tmp_path / "run", every=10)
    said = [[line for line in other.step(step).warnings if "images" in line] for step in (10, 20)]
    assert len(said[0]) == 1 and said[1] == []


def test_a_folder_with_something_else_is_refused_and_left_as_it_is(tmp_path, trained):
    copied = tmp_path / "trained"
    shutil.copytree(trained, copied)
    (tmp_path / "file").write_text("")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "metrics.jsonl").write_text('{"loss": 1}\n')
    watch(tmp_path / "other", 0, layers={"encoder": nn.Flatten()})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in ("trained", "file", "log", "other"):
        with pytest.raises(SSLToolError, match=name) as error:
            watch(tmp_path / name, 0)
        assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a/b", ".hidden", "two\nlines"])
def test_a_layer_whose_name_is_no_file_name_is_refused(name, tmp_path):
    with pytest.raises(SSLToolError, match="layer"):
        Monitor(IMAGES, {name: nn.Flatten()}, out=tmp_path / "run")


def test_pretrain_does_not_write_into_the_folder(tmp_path, ssltool):
    watch(tmp_path / "run", 0)
    assert "already contains" in error_message(ssltool("pretrain", "-o", tmp_path / "run", "--epochs", 1))


@pytest.fixture
def watched(tmp_path) -> Path:
    watch(tmp_path / "watched", 0, 10)
    return tmp_path / "watched"


def test_rank_orders_monitored_trainings_and_runs_together(watched, trained, tmp_path, ssltool):
    watch(tmp_path / "second", 0, layers=network() | {"projector": nn.Linear(12, 3)})
    document = ssltool("rank", watched, tmp_path / "second", trained, "--by", "effective_rank", "--json").json
    found = {row["path"]: row for row in document["rows"]}
    last = records(watched)[-1]
    row = found[str(watched)]
    assert (row["step"], row["epoch"], row["effective_rank"]) == (10, None, last["backbone_effective_rank"])
    assert (row["verdict"], row["accuracy"]) == (last["verdict"], last["backbone_knn"])
    assert found[str(trained)]["epoch"] == 1
    shown = ssltool("rank", watched, "--layer", "projector").out
    assert f"{last['projector_auc']:.3g}"[:5] in shown and "step" in shown


def test_rank_takes_any_layer_that_the_monitor_has(tmp_path, ssltool):
    watch(tmp_path / "run", 0, layers={"encoder": nn.Flatten()})
    assert ssltool("rank", tmp_path / "run", "--layer", "encoder", "--json").code == 0
    assert "encoder_auc" in error_message(ssltool("rank", tmp_path / "run"))
    assert "--checkpoints" in error_message(ssltool("rank", tmp_path / "run", "--layer", "encoder", "--checkpoints"))


def test_plots_have_steps_and_name_what_is_missing(watched, trained, tmp_path, ssltool):
    out = tmp_path / "plot.svg"
    assert ssltool("plot", "curves", watched, trained, "-o", out).code == 0
    assert ">step<" in out.read_text() and ">epoch<" not in out.read_text()
    assert ssltool("plot", "auc", watched, trained, "--x", "step", "-o", out).code == 0
    assert ssltool("plot", "auc", watched, "--x", "accuracy", "-o", out).code == 0
    assert ssltool("plot", "spectrum", watched / "backbone_svd.pt", "-o", out).code == 0
    for arguments in (["auc", "--x", "epoch"], ["auc", "--x", "images"], ["views"], ["schedule"]):
        message = error_message(ssltool("plot", arguments[0], watched, *arguments[1:], "-o", out))
        assert str(watched) in message and "monitor" in message


def test_curves_of_other_layers_have_lines_of_their_own(tmp_path, ssltool):
    watch(tmp_path / "run", 0, 10, layers={"encoder": nn.Flatten(), "neck": nn.Linear(48, 12), "head": nn.Identity()})
    out = tmp_path / "plot.svg"
    assert ssltool("plot", "curves", tmp_path / "run", "-o", out).code == 0
    assert all(f">{name}<" in out.read_text() for name in ("encoder", "neck", "head"))


def test_the_report_shows_the_last_look_and_says_what_is_left_out(watched, tmp_path, ssltool):
    ran = ssltool("report", watched, "-o", tmp_path / "r.html", "--json")
    assert ran.code == 0, ran.err
    (found,) = ran.json["runs"]
    last = records(watched)[-1]
    assert (found["verdict"], found["checkpoint"], found["images"]) == (last["verdict"], None, 30)
    assert found["knn"] == last["backbone_knn"]
    for layer in ("backbone", "projector"):
        metrics = {k: v for k, v in found["layers"][layer]["metrics"].items() if v is not None}
        assert metrics == {name: last[f"{layer}_{name}"] for name in metrics}
    page = (tmp_path / "r.html").read_text()
    assert 'id="spectra"' in page and 'id="training"' in page and 'id="map"' not in page
    assert "map, nearest neighbours" in page and "map, nearest neighbours" in ran.err
    assert "--data" in error_message(ssltool("report", watched, "--data", tmp_path, "-o", tmp_path / "r.html"))


def test_a_report_shows_a_run_and_a_monitored_training_beside_each_other(watched, trained, tmp_path, ssltool):
    ran = ssltool("report", trained, watched, "--size", 60, "--device", "cpu", "-o", tmp_path / "r.html", "--json")
    assert ran.code == 0, ran.err
    assert [one["epoch"] for one in ran.json["runs"]] == [2, None]
    assert 'id="map"' in (tmp_path / "r.html").read_text()


def test_metrics_and_verdict_of_a_narrow_layer_are_the_same_in_look_report_rank_and_collapse(
    tmp_path, ssltool, write_reprs
):
    """All refer to the directions that the layer can have: 4 of 40."""
    wide = {"backbone": nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), "wide": nn.Linear(4, 40)}
    monitor = Monitor(IMAGES, wide, out=tmp_path / "run")
    check = monitor.look(5)
    (found,) = ssltool("report", tmp_path / "run", "-o", tmp_path / "r.html", "--json").json["runs"]
    assert found["verdict"] == check.state
    assert found["layers"][check.layer]["line"] == check.verdict.line
    file = write_reprs("wide.pt", monitor.embed()["wide"], directions=4)
    measured = ssltool("collapse", file, "--json").json["files"][0]
    ranked = ssltool("rank", tmp_path / "run", "--layer", "wide", "--by", "dead_directions", "--json").json["rows"][0]
    assert measured["verdict"]["dimensions"] == 4
    assert check.layers["wide"]["dead_directions"] == ranked["dead_directions"] == 0
    for name in ("auc", "dead_directions", "effective_rank"):
        assert measured["metrics"][name] == pytest.approx(check.layers["wide"][name], rel=1e-12)
        assert found["layers"]["wide"]["metrics"][name] == check.layers["wide"][name]
    spectrum = Spectrum.load(tmp_path / "run" / "wide_svd.pt")
    assert (len(spectrum.stds), len(spectrum.possible())) == (30, 4)


def test_inspect_names_the_folder(watched, ssltool):
    found = ssltool("inspect", watched, "--json").json["files"][0]
    assert (found["stage"], found["looks"]) == ("monitor", 2)


@pytest.mark.parametrize("text", ['{"step": -1}', '{"epoch": 0}', '{"step": 0, "loss": [1]}'])
def test_a_damaged_line_is_named(text, watched, ssltool):
    with open(watched / "metrics.jsonl", "a") as stream:
        stream.write(text + "\n" + json.dumps({"step": 99}) + "\n")
    assert "line 3" in error_message(ssltool("rank", watched))
