"""Folders for the Hugging Face hub: what the libraries read in them, and how they are written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from export_helpers import UNUSUAL, described, export
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, TimmWrapperModel

import ssltool
from checkpoint_helpers import noise
from ssltool.data.preprocessing import IMAGENET, Preprocessing
from ssltool.errors import SSLToolError

FILES = ["config.json", "model.safetensors", "preprocessor_config.json"]
CROPPED = Preprocessing(32, 36, False, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_transformers_loads_the_folder_by_itself(tmp_path):
    source = described(tmp_path / "a.safetensors", "vit_small_depth3_p8")
    export(source, "huggingface", tmp_path / "out")
    assert names(tmp_path / "out") == FILES
    encoder = AutoModel.from_pretrained(tmp_path / "out")
    assert type(encoder).__name__ == "ViTModel"
    with torch.inference_mode():
        theirs = encoder.eval()(noise(32)).last_hidden_state[:, 0]
        torch.testing.assert_close(theirs, ssltool.load_backbone(str(source))(noise(32)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transform", [UNUSUAL, CROPPED])
def test_the_image_processor_of_the_folder_is_the_transform_of_the_checkpoint(tmp_path, transform):
    source = described(tmp_path / "a.safetensors", "resnet18_w8", 32, "imagenet", transform)
    export(source, "huggingface", tmp_path / "out")
    pixels = np.random.default_rng(0).integers(0, 256, (36, 36, 3), np.uint8)  # resized only in the first case
    image = Image.fromarray(pixels)
    theirs = AutoImageProcessor.from_pretrained(tmp_path / "out")(image, return_tensors="pt")["pixel_values"][0]
    ours = ssltool.load_backbone(str(source)).transform(image)
    tolerance = 0.05 if transform.squash else 1e-5  # the libraries' resampling differs
    torch.testing.assert_close(theirs, ours, rtol=0, atol=tolerance)


def test_transformers_wrapper_and_timm_read_a_network_of_timm(tmp_path):
    source = described(tmp_path / "a.safetensors", "timm:test_vit", 64)
    export(source, "huggingface", tmp_path / "out")
    with torch.inference_mode():
        expected = ssltool.load_backbone(str(source))(noise(64))
        wrapped = TimmWrapperModel.from_pretrained(tmp_path / "out").eval()(noise(64)).pooler_output
        torch.testing.assert_close(wrapped, expected, rtol=1e-5, atol=1e-5)
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=0)
    data = timm.data.resolve_model_data_config(model)
    assert [*data["input_size"], *data["mean"], *data["std"]] == [3, 64, 64, *UNUSUAL.mean, *UNUSUAL.std]
    assert (data["interpolation"], data["crop_mode"]) == ("bicubic", "squash")
    assert int(64 / data["crop_pct"]) == UNUSUAL.at(64).resize


def test_the_method_the_epoch_and_every_part_of_the_transform_are_read_back(ssltool, tmp_path):
    source = described(tmp_path / "a.safetensors", "vit_small_depth3_p8", transform=IMAGENET.at(32))
    for to, out in (("huggingface", tmp_path / "out"), ("safetensors", tmp_path / "b.safetensors")):
        export(source, to, out)
        (about,) = ssltool("inspect", out, "--json").json["files"]
        assert (about["program"], about["method"], about["epoch"]) == ("somebody", "simsiam", 7)
        assert (
            about["preprocessing"]["keeps_size"] is True and about["preprocessing"]["resize"] == IMAGENET.at(32).resize
        )


def test_a_folder_of_an_earlier_export_is_replaced_and_any_other_is_kept(tmp_path):
    first = described(tmp_path / "a.safetensors", "resnet18_w8", 32, "imagenet")
    second = described(tmp_path / "b.safetensors", "timm:test_resnet", 64)
    export(first, "huggingface", tmp_path / "out")
    export(second, "huggingface", tmp_path / "out")
    assert names(tmp_path / "out") == FILES[:2]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architecture"] == "test_resnet"
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(SSLToolError, match="other files"):
        export(first, "huggingface", tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert names(tmp_path) == ["a.safetensors", "b.safetensors", "out"]


def test_a_failed_write_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    source = described(tmp_path / "a.safetensors", "resnet18_w8", 32, "imagenet")
    export(source, "huggingface", tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssltool.stages.export.hub_folders.write_json", full)
    with pytest.raises(SSLToolError, match="No space left"):
        export(source, "huggingface", tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert names(tmp_path) == ["a.safetensors", "out"]


def test_a_folder_of_the_hub_is_exported_again(tmp_path):
    source = described(tmp_path / "a.safetensors", "vit_small_depth3_p8")
    export(source, "huggingface", tmp_path / "out")
    result = export(f"{tmp_path / 'out'}/", "safetensors")
    assert result["path"] == str(tmp_path / "out-safetensors.safetensors")
    first, second = (ssltool.load_backbone(path) for path in (str(source), result["path"]))
    with torch.inference_mode():
        torch.testing.assert_close(second(noise(32)), first(noise(32)), rtol=1e-5, atol=1e-5)
    with pytest.raises(SSLToolError, match="the checkpoint itself"):
        export(tmp_path / "out", "huggingface", tmp_path / "out")
