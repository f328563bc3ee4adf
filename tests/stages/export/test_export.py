"""What is exported loads in the other program as it is, and means the same there and when it is read back."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import safetensors
import timm
import torch
import torchvision
from export_helpers import as_printed, export

from checkpoint_helpers import PROGRAMS, noise, plain_resnet18, settled
from helpers import same_bits
from ssltool.checkpoints.build import backbone_weights
from ssltool.checkpoints.convert import read_checkpoint
from ssltool.config import ExportConfig
from ssltool.errors import SSLToolError
from ssltool.models.backbones import build_backbone
from ssltool.models.resnet import torchvision_resnets
from ssltool.stages.export.export import _path as default_path


@pytest.fixture
def resnet18(tmp_path) -> Path:
    """A checkpoint of SimSiam's around torchvision's ResNet-18."""
    state = {f"module.encoder.{name}": tensor for name, tensor in plain_resnet18().state_dict().items()}
    entries = {"epoch": 7, "arch": "resnet18", "state_dict": state | {"module.predictor.0.weight": torch.ones(2, 2)}}
    torch.save(entries, tmp_path / "simsiam.pth.tar")
    return tmp_path / "simsiam.pth.tar"


@pytest.fixture
def vit(tmp_path) -> Path:
    """A checkpoint of MoCo v3's ViT-S of three layers, for images of 32 pixels with patches of 8."""
    torch.save(PROGRAMS["moco-v3, ViT"]().entries, tmp_path / "vit.pth.tar")
    return tmp_path / "vit.pth.tar"


def original(path: Path, images: torch.Tensor) -> torch.Tensor:
    """What our backbone of a checkpoint makes of images."""
    checkpoint, _ = read_checkpoint(path)
    make = {name: checkpoint.config[name] for name in ("arch", "stem", "image_size")}
    backbone, _ = build_backbone(**make)
    backbone.load_state_dict(backbone_weights(checkpoint))
    with torch.inference_mode():
        return backbone.eval()(images)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("to", ["torchvision", "timm"])
@pytest.mark.parametrize("which", ["resnet18", "vit"])
def test_the_printed_line_loads_the_exported_file(request, tmp_path, which, to, suffix):
    source, images = request.getfixturevalue(which), noise(64 if which == "resnet18" else 32)
    result = export(source, to, tmp_path / f"out{suffix}")
    with torch.inference_mode():
        theirs = as_printed(result["load"])(images)
    torch.testing.assert_close(theirs, original(source, images), rtol=1e-4, atol=1e-4)


def test_the_printed_line_loads_a_file_whose_name_has_quotes(resnet18, tmp_path):
    for to in ("torchvision", "timm"):
        path = tmp_path / f'it\'s a "{to}".pth'
        as_printed(export(resnet18, to, path)["load"])
    command = export(resnet18, "simsiam", tmp_path / "it's mine.pth.tar")["load"]
    assert str(tmp_path / "it's mine.pth.tar") in shlex.split(command)


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_the_weights_load_into_the_librarys_network_except_for_the_classifier(resnet18, tmp_path, to):
    export(resnet18, to, tmp_path / "out.pth")
    model = torchvision.models.resnet18() if to == "torchvision" else timm.create_model("resnet18", pretrained=False)
    message = model.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True), strict=False)
    assert set(message.missing_keys) == {"fc.weight", "fc.bias"} and not message.unexpected_keys


def test_simsiams_linear_evaluation_loads_the_exported_file(resnet18, tmp_path):
    """The renaming of its main_lincls.py, by its rules: keep the encoder's weights but for its fc, and expect nothing
    but a classifier to be missing; afterwards it compares every weight with the file's by name."""
    result = export(resnet18, "simsiam", tmp_path / "out.pth.tar")
    saved = torch.load(tmp_path / "out.pth.tar", weights_only=True)
    model = torchvision.models.__dict__[saved["arch"]]()
    prefix = "module.encoder."
    state = {
        name[len(prefix) :]: tensor
        for name, tensor in saved["state_dict"].items()
        if name.startswith("module.encoder") and not name.startswith("module.encoder.fc")
    }
    message = model.load_state_dict(state, strict=False)
    assert set(message.missing_keys) == {"fc.weight", "fc.bias"}
    for name, tensor in model.state_dict().items():
        assert name.startswith("fc.") or torch.equal(tensor, saved["state_dict"][prefix + name])
    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(noise()), original(resnet18, noise()))
    assert saved["epoch"] == 7
    assert shlex.split(result["load"])[:6] == [
        *("python", "main_lincls.py", "-a", "resnet18", "--pretrained", str(tmp_path / "out.pth.tar"))
    ]


@pytest.mark.parametrize("to", ["torchvision", "timm", "simsiam"])
def test_an_exported_resnet_is_read_back_bit_for_bit(resnet18, tmp_path, to):
    export(resnet18, to, tmp_path / "out.pth")
    first, second = (read_checkpoint(path)[0] for path in (resnet18, tmp_path / "out.pth"))
    assert same_bits(backbone_weights(first), backbone_weights(second))
    assert first.config["arch"] == second.config["arch"]


@pytest.mark.parametrize("to", ["torchvision", "timm"])
def test_an_exported_vit_is_read_back_bit_for_bit(vit, tmp_path, to):
    export(vit, to, tmp_path / "out.safetensors")
    first, second = (read_checkpoint(path)[0] for path in (vit, tmp_path / "out.safetensors"))
    assert same_bits(backbone_weights(first), backbone_weights(second))
    assert first.config["arch"] == second.config["arch"] == "vit_small_depth3_p8"


def test_our_own_checkpoint_is_exported(ssltool, tmp_path):
    flags = ("-a", "resnet18", "--stem", "imagenet", "--image-size", "16", "--dim", "16", "--pred-dim", "8")
    done = ssltool(
        *("pretrain", *flags, "--epochs", "1", "--steps-per-epoch", "1", "-b", "4", "--device", "cpu"),
        *("--monitor-every", "0", "-o", tmp_path / "run"),
    )
    assert done.code == 0, done.err
    written = ssltool("export", tmp_path / "run" / "checkpoint.pt", "--to", "timm", "--json")
    assert written.code == 0, written.err
    assert written.json["path"] == str(tmp_path / "run" / "checkpoint-timm.pth")
    model = as_printed(written.json["load"])
    with torch.inference_mode():
        theirs = model(noise())
    torch.testing.assert_close(theirs, original(tmp_path / "run" / "checkpoint.pt", noise()), rtol=1e-4, atol=1e-4)


def test_timm_has_every_resnet_of_torchvision():
    assert [arch for arch in torchvision_resnets() if not timm.is_model(arch)] == []


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("lr0.05.safetensors", "lr0.05-timm.pth"),
        ("resnet50.a1_in1k.bin", "resnet50.a1_in1k-timm.pth"),
        ("model_best.pth.tar", "model_best-timm.pth"),
        ("vissl.torch", "vissl-timm.pth"),
        (".pth", ".pth-timm.pth"),
    ],
)
def test_the_default_name_leaves_out_the_ending_and_nothing_else(tmp_path, name, written):
    (tmp_path / name).touch()
    config = ExportConfig(str(tmp_path / name), to="timm")
    assert default_path(config) == tmp_path / written


def test_the_default_path_is_in_the_checkpoints_folder(resnet18):
    assert export(resnet18, "simsiam")["path"] == str(resnet18.with_name("simsiam-simsiam.pth.tar"))
    assert export(resnet18, "torchvision")["path"] == str(resnet18.with_name("simsiam-torchvision.pth"))


def test_a_safetensors_file_has_metadata(resnet18, tmp_path):
    export(resnet18, "timm", tmp_path / "out.safetensors")
    with safetensors.safe_open(str(tmp_path / "out.safetensors"), framework="pt") as file:
        assert file.metadata() == {"format": "pt", "arch": "resnet18", "epoch": "7", "method": "simsiam"}


def test_the_code_of_the_table_loads_the_file_and_nothing_else_is_printed(ssltool, resnet18):
    done = ssltool("export", resnet18)
    assert done.code == 0
    table, _, code = done.out.partition("\n\n")
    assert [line.split()[0] for line in table.splitlines()] == ["written", "sha256"]
    with torch.inference_mode():
        torch.testing.assert_close(as_printed(code)(noise()), original(resnet18, noise()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("to", "settings", "message"),
    [
        ("simsiam", {"out": "x.safetensors"}, r"--out x\.safetensors"),
        ("timm", {"out": "simsiam.pth.tar"}, r"--out simsiam\.pth\.tar"),
        ("timm", {"arch": "resnet50"}, r"--arch .*resnet50.* resnet18"),
    ],
)
def test_conflicting_settings_are_refused(resnet18, monkeypatch, to, settings, message):
    monkeypatch.chdir(resnet18.parent)
    before = resnet18.read_bytes()
    with pytest.raises(SSLToolError, match=message):
        export(resnet18, to, **settings)
    assert resnet18.read_bytes() == before and list(resnet18.parent.iterdir()) == [resnet18]


def test_networks_that_the_target_library_does_not_have_are_refused(trained, vit, tmp_path):
    with pytest.raises(SSLToolError, match=r"torchvision .*resnet18_w8 .*--to .*torchscript, onnx or state_dict"):
        export(trained / "checkpoint.pt", "torchvision")
    with pytest.raises(SSLToolError, match=r"main_lincls.py .*vit_small_depth3_p8.*--to torchvision, timm, hugging"):
        export(vit, "simsiam")
    model = build_backbone("resnet18", stem="small")[0]
    torch.save(settled(model, 0).state_dict(), tmp_path / "small.pth")
    with pytest.raises(SSLToolError, match=r"timm .*resnet18 with the stem small; use --to safetensors"):
        export(tmp_path / "small.pth", "timm")
    assert not (tmp_path / "small-timm.pth").exists()


def test_a_failed_write_keeps_the_previous_file(resnet18, tmp_path, monkeypatch):
    (tmp_path / "out.pth").write_bytes(b"before")

    def full(contents: object, stream: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssltool.stages.export.state_dicts.torch.save", full)
    with pytest.raises(SSLToolError, match="No space left on device"):
        export(resnet18, "timm", tmp_path / "out.pth")
    assert (tmp_path / "out.pth").read_bytes() == b"before"
