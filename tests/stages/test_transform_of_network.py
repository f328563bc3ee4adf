"""The transform of a network through the stages: flags, files, resuming, and comparisons of files."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

import ssltool as api
from helpers import usage_message
from ssltool.checkpoints.build import build_method
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import load_pretrained
from ssltool.checkpoints.probe import Probe
from ssltool.config import SaveReprsConfig
from ssltool.config.fields import TRANSFORM
from ssltool.data.preprocessing import IMAGENET, Preprocessing
from ssltool.models.backbones import family_of
from ssltool.reprs.representations import Representations
from ssltool.stages.pretrain import run as pretrain

OWN = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25), "interpolation": "bicubic", "crop_pct": 0.8}

EXPECTED = dataclasses.replace(
    IMAGENET.at(16),
    resize=20,
    keeps_size=False,
    crop_pct=0.8,
    mean=OWN["mean"],
    std=OWN["std"],
    interpolation="bicubic",
)

FLAGS = ["--mean", 0.5, 0.4, 0.3, "--std", 0.2, 0.3, 0.25, "--interpolation", "bicubic", "--crop-pct", 0.8]


@pytest.fixture(scope="module")
def run_with_own(tmp_path_factory, shades):
    """A run whose transform is not ssltool's own, on RGB images of 16 pixels."""
    from ssltool.config import PretrainConfig

    config = PretrainConfig(
        arch="resnet18_w8",
        stem="small-stride2",
        dim=16,
        pred_dim=8,
        epochs=1,
        batch_size=16,
        device="cpu",
        data=str(shades),
        out=str(tmp_path_factory.mktemp("own") / "run"),
        monitor_size=8,
        **OWN,
    )
    return pretrain(config)


@pytest.fixture
def save(ssltool, run_with_own, tmp_path):
    """Saves representations of the val images with the run: ``save("a.pt", *flags) -> Ran``."""

    def run(name, *flags, pretrained=run_with_own / "checkpoint.pt"):
        fixed = ["--pretrained", pretrained, "--device", "cpu", "-j", 0, "--split", "val", "-o", tmp_path / name]
        return ssltool("save-reprs", *fixed, *flags)

    return run


def val_images(shades) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted((shades / "val").rglob("*.png"), key=order)]


def order(path):
    return (path.parent.name, path.name)


def by_hand(run_folder, shades, transform: Preprocessing) -> torch.Tensor:
    """Representations of the val images, transformed with torchvision."""
    checkpoint = Checkpoint.load(run_folder / "checkpoint.pt")
    method = build_method(checkpoint.run)
    method.load_state_dict(checkpoint.state_dict)
    inputs = []
    for picture in val_images(shades):
        resized = tv.resize(picture, [transform.resize], tv.InterpolationMode(transform.interpolation))
        cropped = tv.center_crop(resized, [transform.size, transform.size])
        inputs.append(tv.normalize(tv.to_tensor(cropped), transform.mean, transform.std))
    with torch.no_grad():
        return method.eval().backbone(torch.stack(inputs))


def test_pretrain_saves_the_transform_and_later_stages_use_it(run_with_own, save, shades, tmp_path):
    saved = json.loads((run_with_own / "config.json").read_text())
    assert {name: saved[name] for name in TRANSFORM} == {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in OWN.items()},
        "squash": False,
    }
    ran = save("a.pt")
    assert ran.code == 0 and "resize 20 (bicubic)" in ran.err
    reprs = Representations.load(tmp_path / "a.pt")
    assert Preprocessing.of(reprs.meta) == EXPECTED
    assert "resize 20 (bicubic), centre crop 16" in reprs.meta["transform"] and "0.4" in reprs.meta["transform"]
    assert torch.allclose(reprs.representations, by_hand(run_with_own, shades, EXPECTED), atol=1e-5)


def test_a_flag_wins_and_is_printed(run_with_own, save, shades, tmp_path):
    ran = save("a.pt", "--mean", 0.1, 0.2, 0.3, "--crop-pct", 0.5)
    assert ran.code == 0 and "0.1, 0.2, 0.3" in ran.err and "resize 32" in ran.err
    reprs = Representations.load(tmp_path / "a.pt")
    given = dataclasses.replace(EXPECTED, mean=(0.1, 0.2, 0.3), crop_pct=0.5, resize=32)
    assert Preprocessing.of(reprs.meta) == given
    assert torch.allclose(reprs.representations, by_hand(run_with_own, shades, given), atol=1e-5)


def test_the_default_is_not_printed_and_is_in_the_meta(save, trained, tmp_path):
    ran = save("a.pt", "--sample", 8, pretrained=trained / "checkpoint.pt")
    assert ran.code == 0 and "input:" not in ran.err
    assert Preprocessing.of(Representations.load(tmp_path / "a.pt").meta) == IMAGENET.at(16)


def test_another_size_keeps_the_statistics_and_the_fraction(run_with_own):
    settings = SaveReprsConfig(pretrained=str(run_with_own / "checkpoint.pt"), image_size=40)
    network = load_pretrained(settings, torch.device("cpu"))
    assert network.preprocessing == dataclasses.replace(EXPECTED, size=40, resize=50)


def test_the_backbone_for_python_has_the_transform_of_its_run(run_with_own, shades):
    backbone = api.load_backbone(run_with_own / "checkpoint.pt")
    with torch.no_grad():
        rows = torch.cat([backbone(backbone.transform(picture)[None]) for picture in val_images(shades)[:3]])
    assert torch.allclose(rows, by_hand(run_with_own, shades, EXPECTED)[:3], atol=1e-5)


@pytest.mark.parametrize(
    "flags",
    [
        ["--mean", 123.7, 116.3, 103.5],
        ["--mean", 0.5, 0.5, "nan"],
        ["--std", 0.2, 0, 0.2],
        ["--std", 0.2, 0.2, 57],
        ["--crop-pct", 0],
        ["--crop-pct", 1.5],
        ["--interpolation", "cubic"],
        ["--views", 2, "--squash"],
        ["--views", 2, "--crop-pct", 0.5],
    ],
)
def test_wrong_values_are_usage_errors_that_name_the_flag(save, flags):
    assert next(flag for flag in reversed(flags) if str(flag).startswith("--")) in usage_message(save("a.pt", *flags))


def test_flags_without_effect_on_these_images_are_errors(save, ssltool, trained, shades, tmp_path):
    assert "--squash" in save("a.pt", "--squash").err
    ran = save("a.pt", shades, "--interpolation", "nearest", pretrained=trained / "checkpoint.pt")
    assert ran.code == 1 and "--interpolation" in ran.err and not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("change", [{"mean": (0.5, 0.4, 0.31)}, {"interpolation": "nearest"}, {"crop_pct": 0.7}])
def test_a_run_is_not_resumed_with_another_transform(ssltool, run_with_own, change):
    flags = [*FLAGS]
    for name, value in change.items():
        flags += [f"--{name}", *(value if isinstance(value, tuple) else (value,))]
    settings = ["-a", "resnet18_w8", "--stem", "small-stride2", "--dim", 16, "--pred-dim", 8, "--epochs", 1, "-b", 16]
    data = json.loads((run_with_own / "config.json").read_text())["data"]
    ran = ssltool("pretrain", data, *settings, *flags, "--device", "cpu", "-o", run_with_own, "--resume", "auto")
    assert ran.code == 1
    assert f"--{next(iter(change)).replace('_', '-')}" in ran.err
    assert "0.8" in ran.err if "crop_pct" in change else True


def test_runs_of_earlier_versions_amount_to_imagenets_transform(tiny, trained, tmp_path, save):
    pretrain(tiny(epochs=1, monitor_every=0))
    path = tmp_path / "run" / "checkpoint.pt"
    checkpoint = Checkpoint.load(path)
    for name in TRANSFORM:
        del checkpoint.config[name]
    checkpoint.save(path)
    assert save("a.pt", "--sample", 8, pretrained=path).code == 0
    assert Preprocessing.of(Representations.load(tmp_path / "a.pt").meta) == IMAGENET.at(16)
    pretrain(tiny(epochs=1, monitor_every=0, resume="auto"))


def test_networks_trained_further_keep_the_transform(ssltool, run_with_own, tmp_path):
    flags = ["--pretrained", run_with_own / "checkpoint.pt", "--device", "cpu", "-j", 0, "-o", tmp_path / "tuned"]
    assert ssltool("finetune", *flags, "--epochs", 1).code == 0
    settings = SaveReprsConfig(pretrained=str(tmp_path / "tuned" / "finetuned_pretrained_seed10.pt"))
    assert load_pretrained(settings, torch.device("cpu")).preprocessing == EXPECTED


def test_a_transform_that_the_file_of_a_network_names_is_used(run_with_own, tmp_path):
    checkpoint = Checkpoint.load(run_with_own / "checkpoint.pt")
    for name in TRANSFORM:
        checkpoint.config[name] = None
    named = Preprocessing(16, 19, True, "lanczos", (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    checkpoint.config["preprocessing"] = named.record()
    checkpoint.save(tmp_path / "named.pt")
    network = load_pretrained(SaveReprsConfig(pretrained=str(tmp_path / "named.pt")), torch.device("cpu"))
    assert network.preprocessing == named
    given = SaveReprsConfig(pretrained=str(tmp_path / "named.pt"), squash=False)
    assert load_pretrained(given, torch.device("cpu")).preprocessing == dataclasses.replace(named, squash=False)


# Comparing files


def test_commands_that_compare_files_note_different_transforms(ssltool, save, tmp_path):
    train, val = tmp_path / "train.pt", tmp_path / "val.pt"
    for path, flags in ((train, ["--split", "train"]), (val, ["--mean", 0.1, 0.2, 0.3])):
        assert save(path, *flags).code == 0
    for command in (
        ["knn", train, val, "-k", 1, "--device", "cpu"],
        ["lincls", "--reprs", train, val, "--solver", "lbfgs", "-o", tmp_path / "probe", "--device", "cpu"],
        ["collapse", train, val, "--merge", "--device", "cpu"],
        ["rank", train, val],
    ):
        ran = ssltool(*command)
        assert ran.code == 0, ran.err
        assert "mean 0.5 0.4 0.3 and 0.1 0.2 0.3" in ran.err + ran.out


def test_parts_of_one_set_have_one_transform(ssltool, save, tmp_path):
    for name, flags in (("part0.pt", []), ("part1.pt", ["--mean", 0.1, 0.2, 0.3])):
        assert save(name, *flags).code == 0
    ran = ssltool("knn", tmp_path / "part*.pt", tmp_path / "part0.pt", "--device", "cpu")
    assert ran.code == 1 and "mean 0.5 0.4 0.3 and 0.1 0.2 0.3" in ran.err


def test_a_probe_is_evaluated_with_its_own_transform(ssltool, run_with_own, shades, tmp_path):
    fixed = ["lincls", "--pretrained", run_with_own / "checkpoint.pt", "--device", "cpu", "-j", 0]
    trained = ssltool(*fixed, "--epochs", 1, "--mean", 0.3, 0.3, 0.3, "-o", tmp_path / "probe", "--json")
    assert trained.code == 0, trained.err
    path = tmp_path / "probe" / "probe.pt"
    expected = dataclasses.replace(EXPECTED, mean=(0.3, 0.3, 0.3))
    probe = Probe.load(path)
    assert Preprocessing.of(probe.config["origin"]) == expected
    assert IMAGENET.at(16).with_settings(probe.config) == expected
    again = ssltool(*fixed, "--evaluate", "--resume", path, "--json")
    assert again.code == 0 and again.json["acc1"] == trained.json["acc1"]
    other = ssltool(*fixed, "--evaluate", "--resume", path, "--mean", 0.5, 0.4, 0.3)
    assert other.code == 1 and "0.3 0.3 0.3 and 0.5 0.4 0.3" in other.err


def test_a_probe_of_an_earlier_version_is_evaluated_with_imagenets_transform(ssltool, trained, shades, tmp_path):
    fixed = ["lincls", shades, "--pretrained", trained / "checkpoint.pt", "--device", "cpu", "-j", 0]
    first = ssltool(*fixed, "--epochs", 1, "-o", tmp_path / "probe", "--json")
    path = tmp_path / "probe" / "probe.pt"
    probe = Probe.load(path)
    for name in TRANSFORM:
        del probe.config[name]
    del probe.config["origin"]["preprocessing"]
    probe.save(path)
    again = ssltool(*fixed, "--evaluate", "--resume", path, "--json")
    assert again.code == 0 and again.json["acc1"] == first.json["acc1"]
    resumed = ssltool(*fixed, "--epochs", 1, "-o", tmp_path / "probe", "--resume", "auto")
    assert resumed.code == 0, resumed.err
    refused = ssltool(*fixed, "--evaluate", "--resume", path, "--std", 0.5, 0.5, 0.5)
    assert refused.code == 1 and "std" in refused.err


# Other libraries


def test_a_network_of_timm_has_timms_transform(ssltool, shades, tmp_path):
    pytest.importorskip("timm")
    flags = ["--pretrained", "random", "-a", "timm:test_vit", "--image-size", 32, "--device", "cpu", "-j", 0]
    ran = ssltool("save-reprs", shades, *flags, "--split", "val", "-o", tmp_path / "a.pt")
    assert ran.code == 0, ran.err
    own = family_of("timm:test_vit").preprocessing("timm:test_vit", 32)
    assert own.interpolation == "bicubic" and own.mean == (0.5, 0.5, 0.5)
    meta = Representations.load(tmp_path / "a.pt").meta
    assert Preprocessing.of(meta) == own and "bicubic" in meta["transform"] and "bicubic" in ran.err


def test_pretraining_a_network_of_timm_uses_its_statistics(tiny, tmp_path, shades):
    pytest.importorskip("timm")
    small = {"arch": "timm:test_resnet", "stem": "auto", "data": str(shades), "image_size": 32, "monitor_every": 0}
    pretrain(tiny(epochs=1, steps_per_epoch=1, **small))
    own = family_of("timm:test_resnet").preprocessing("timm:test_resnet", 32)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (tuple(saved["mean"]), tuple(saved["std"]), saved["interpolation"]) == (own.mean, own.std, own.interpolation)
    network = load_pretrained(SaveReprsConfig(pretrained=str(tmp_path / "run" / "checkpoint.pt")), torch.device("cpu"))
    assert network.preprocessing == own


def test_a_damaged_record_of_the_transform_is_one_line(ssltool, save, tmp_path):
    save("a.pt")
    reprs = Representations.load(tmp_path / "a.pt")
    reprs.meta["preprocessing"]["mean"] = [0.1, "x", 0.2]
    torch.save({**torch.load(tmp_path / "a.pt", weights_only=True), "meta": reprs.meta}, tmp_path / "damaged.pt")
    ran = ssltool("knn", tmp_path / "damaged.pt", tmp_path / "a.pt", "--device", "cpu")
    assert ran.code == 1 and "meta.preprocessing.mean" in ran.err and ran.err.count("\n") == 1
    assert np.isfinite(reprs.representations.numpy()).all()
