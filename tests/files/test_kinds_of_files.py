"""Every kind of file: each key by each wrong value is one line that names the file and the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import Ran, error_message
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.probe import Probe
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.errors import SSLToolError
from ssltool.files.stored import Stored
from ssltool.reprs.clusters_file import Clusters
from ssltool.reprs.neighbours.file import Neighbours

FLOATS, NUMBERS = torch.rand(4, 3), torch.arange(4)

GOOD: dict[type[Stored], dict[str, Any]] = {
    Checkpoint: {
        "method": "simsiam",
        "arch": "resnet18",
        "epoch": 1,
        "step": 3,
        "config": {"lr": 0.1, "method_options": {"dim": 8}},
        "state_dict": {"backbone.weight": FLOATS},
        "optimizer": {"state": {0: {"momentum_buffer": FLOATS}}, "param_groups": [{"params": [0], "lr": 0.1}]},
        "scaler": None,
        "metrics": {"epochs": [{"epoch": 0, "loss": 0.5, "strategy": "iid"}], "epoch_step": 0, "sums": {"loss": 0.0}},
    },
    Probe: {
        "weight": FLOATS,
        "bias": torch.zeros(4),
        "config": {"origin": {"layer": "backbone"}},
        "metrics": {"acc1": 0.5, "random": False, "checkpoint_hash": None},
        "labels": NUMBERS,
        "state": {
            "epoch": 1,
            "history": [{"epoch": 0, "acc1": 0.5}],
            "layers": [{"weight": FLOATS, "bias": FLOATS[:, 0]}],
        },
    },
    Spectrum: {"stds": torch.rand(5).double(), "metrics": {"auc": 0.5}, "meta": {"type": "svd", "n": 9}},
    Neighbours: {
        "indices": NUMBERS[:, None],
        "distances": FLOATS[:, :1],
        "index": NUMBERS,
        "bank_index": NUMBERS[:, None],
        "meta": {"k": 1, "accuracy": None},
    },
    Clusters: {
        "assignments": NUMBERS,
        "confidence": FLOATS[:, 0],
        "targets": NUMBERS,
        "index": NUMBERS,
        "meta": {"clusters": 4, "sizes": [1, 1, 1, 1], "accuracy": 0.5},
    },
}

WRONG = {
    "text": "x",
    "an object": torch.float32,
    "minus one": -1,
    "a huge number": 10**30,
    "a list": [object],
    "a sparse tensor": torch.ones(2, 2).to_sparse(),
    "a complex tensor": torch.ones(4, dtype=torch.complex64),
    "a tensor of 8 bits": torch.ones(4).to(torch.float8_e4m3fn),
    "a tensor without values": torch.ones(4, device="meta"),
    "an expanded tensor": torch.ones(()).expand(10**9),
}

TEXTS = {(Checkpoint, "method"), (Checkpoint, "arch")}


def saved(kind: type[Stored], contents: dict[str, Any], path: Path) -> Path:
    torch.save({"format": kind.FORMAT, **contents}, path)
    return path


def refusal(kind: type[Stored], contents: dict[str, Any], path: Path) -> str:
    with pytest.raises(SSLToolError) as caught:
        kind.of({"format": kind.FORMAT, **contents}, path)
    message = str(caught.value)
    assert message.isprintable() and message.startswith(str(path)) and len(message) < 500
    return message


@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
def test_every_key_of_a_format_is_checked(kind, tmp_path):
    """No key lets a value of another type through, and a key without a default must be there."""
    assert kind.load(saved(kind, GOOD[kind], tmp_path / "good.pt"))
    for key in GOOD[kind]:
        for name, value in WRONG.items():
            if name == "text" and (kind, key) in TEXTS:
                continue
            message = refusal(kind, GOOD[kind] | {key: value}, tmp_path / "bad.pt")
            assert key in message, (key, name, message)


@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
def test_a_missing_key_is_named_unless_it_has_a_default(kind, tmp_path):
    for key in GOOD[kind]:
        contents = {name: value for name, value in GOOD[kind].items() if name != key}
        if key in ("labels", "state") or (key == "meta" and kind is not Spectrum):
            assert kind.of({"format": kind.FORMAT, **contents}, tmp_path / "good.pt")
        else:
            assert f"lacks {key}" in refusal(kind, contents, tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("kind", "change", "key"),
    [
        (Checkpoint, {"epoch": True}, "epoch"),
        (Checkpoint, {"step": 1.5}, "step"),
        (Checkpoint, {"state_dict": {}}, "state_dict"),
        (Checkpoint, {"state_dict": {"backbone.weight": "x"}}, "state_dict.backbone.weight"),
        (Checkpoint, {"state_dict": {3: FLOATS}}, "state_dict"),
        (Checkpoint, {"config": {"lr": "x", "method_options": {}}}, "config.lr"),
        (Checkpoint, {"config": {"method_options": [1]}}, "config.method_options"),
        (Checkpoint, {"optimizer": {"state": [1]}}, "optimizer.state"),
        (Checkpoint, {"optimizer": {"state": {"a": {}}}}, "optimizer.state"),
        (Checkpoint, {"scaler": {"scale": 1.0}}, "scaler"),
        (Checkpoint, {"metrics": {"epochs": [], "sums": {}}}, "epoch_step"),
        (Checkpoint, {"metrics": {"epochs": [{"epoch": [0]}], "epoch_step": 0, "sums": {}}}, "metrics.epochs[0].epoch"),
        (Probe, {"bias": torch.zeros(3)}, "bias"),
        (Probe, {"labels": torch.zeros(4)}, "labels"),
        (Probe, {"weight": torch.full((4, 3), float("nan"))}, "weight"),
        (Probe, {"metrics": {"acc1": 2.0}}, "metrics.acc1"),
        (Probe, {"state": {"history": [{"epoch": 0, "acc5": "x"}]}}, "state.history[0].acc5"),
        (Spectrum, {"stds": torch.zeros(0)}, "stds"),
        (Spectrum, {"metrics": {"auc": "x"}}, "metrics.auc"),
        (Spectrum, {"meta": {"n": 0}}, "meta.n"),
        (Neighbours, {"index": torch.arange(3)}, "index"),
        (Neighbours, {"distances": torch.ones(4, 2)}, "distances"),
        (Clusters, {"meta": {"sizes": []}}, "meta.sizes"),
    ],
)
def test_a_misfit_inside_an_entry_is_named_by_its_path(kind, change, key, tmp_path):
    assert key in refusal(kind, GOOD[kind] | change, tmp_path / "bad.pt")


@pytest.mark.parametrize("found", ["ssltool/probe/9", 3, None, ["ssltool"], torch.ones(2), "a\nb\x1b[31m", "x" * 5000])
def test_another_format_is_told_in_one_line(found, tmp_path):
    with pytest.raises(SSLToolError, match="format") as caught:
        Spectrum.of({**GOOD[Spectrum], "format": found, "\n": 1}, tmp_path / "s.pt")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_settings_that_are_newer_than_a_file_have_their_default(trained, tmp_path):
    contents = torch.load(trained / "checkpoint.pt", weights_only=True)
    for name in ("solarize_p", "jitter", "lars_trust"):
        del contents["config"][name]
    torch.save(contents, tmp_path / "old.pt")
    run = Checkpoint.load(tmp_path / "old.pt").run
    assert (run.recipe.solarize_p, run.recipe.brightness, run.settings["lars_trust"]) == (0.0, 0.4, 0.001)


def resumed(ssltool: Any, trained: Path, tmp_path: Path, change: Any) -> Ran:
    contents = torch.load(trained / "checkpoint.pt", weights_only=True)
    change(contents)
    torch.save(contents, tmp_path / "changed.pt")
    out = tmp_path / "out"
    ran = ssltool("pretrain", "--config", trained / "config.json", "--resume", tmp_path / "changed.pt", "-o", out)
    assert not out.exists()
    return ran


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda c: c["state_dict"].popitem(), "state_dict"),
        (lambda c: c["state_dict"].update({"more": FLOATS}), "state_dict"),
        (lambda c: c["state_dict"].update({"backbone.conv1.weight": FLOATS}), "state_dict.backbone.conv1.weight"),
        (lambda c: c["optimizer"]["state"][0].update(momentum_buffer=FLOATS), "optimizer.state[0].momentum_buffer"),
        (lambda c: c["optimizer"]["state"].update({9999: {"momentum_buffer": FLOATS}}), "optimizer.state"),
        (lambda c: c["optimizer"]["param_groups"].pop(), "optimizer.param_groups"),
        (lambda c: c["optimizer"]["param_groups"][0].update(momentum="x"), "optimizer.param_groups[0].momentum"),
        (lambda c: c["optimizer"]["param_groups"][0].pop("dampening"), "optimizer.param_groups[0]"),
        (lambda c: c["config"].update(stem="supervised"), "config.stem"),
        (lambda c: c["optimizer"]["param_groups"][0]["params"].pop(), "optimizer.param_groups[0].params"),
        (lambda c: c["metrics"].update(sums={}), "sums"),
    ],
)
def test_a_state_of_other_shapes_is_refused_before_a_run_resumes(change, key, ssltool, trained, tmp_path):
    ran = resumed(ssltool, trained, tmp_path, change)
    assert (ran.code, ran.err.count("error: ")) == (1, 1)
    message = ran.err[ran.err.index("error: ") :]
    assert message.count("\n") == 1 and "changed.pt" in message and key.split(".")[0] in message


def test_a_teacher_whose_weights_have_other_shapes_is_refused(ssltool, trained, tmp_path):
    contents = torch.load(trained / "checkpoint.pt", weights_only=True)
    contents["state_dict"]["backbone.layer2.0.bn1.running_mean"] = torch.arange(3)
    torch.save(contents, tmp_path / "teacher.pt")
    network = ["-a", "resnet18_w8", "--stem", "small-stride2", "--image-size", 16, "--epochs", 1, "-b", 8]
    flags = ["--method", "distill", "--teacher-checkpoint", tmp_path / "teacher.pt", "-o", tmp_path / "out"]
    message = error_message(ssltool("pretrain", *network, *flags))
    assert "teacher.pt" in message and "layer2.0.bn1.running_mean" in message and not (tmp_path / "out").exists()


def test_a_network_of_absurd_width_is_refused_without_building_it(ssltool, trained, tmp_path):
    contents = torch.load(trained / "checkpoint.pt", weights_only=True)
    contents["config"]["method_options"]["dim"] = 10**9
    torch.save(contents, tmp_path / "wide.pt")
    ran = ssltool("save-reprs", "--pretrained", tmp_path / "wide.pt", "--sample", "8", "-o", tmp_path / "r.pt")
    assert (ran.code, ran.out) == (1, "")
    assert "wide.pt" in ran.err and ran.err.count("\n") == 1 and "projector" in ran.err
