"""Each family of networks, written for every library that has it: the printed code computes the same."""

from __future__ import annotations

import pytest
import torch
from export_helpers import UNUSUAL, assert_same, described, export

import ssltool
from checkpoint_helpers import noise
from ssltool.errors import SSLToolError
from ssltool.models.resnet import STEM_CONVS

VIT = "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,patch_size=8,image_size=32"
STAGES = "hidden_sizes=[8,16,24,32],depths=[1,1,1,1]"
WINDOWS = "embed_dim=8,depths=[1,1],num_heads=[1,2],image_size=32,patch_size=4,window_size=4"
TRANSFORMERS = [
    *(f"{kind},{VIT}" for kind in ("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit_mae", "ijepa")),
    "vjepa2,hidden_size=32,num_hidden_layers=1,num_attention_heads=2,patch_size=8,crop_size=64,tubelet_size=3",
    *(f"{kind}_vision_model,{VIT}" for kind in ("clip", "siglip")),
    f"siglip_vision_model,vision_use_head=false,{VIT}",
    f"siglip2_vision_model,num_patches=16,{VIT.removesuffix(',image_size=32')}",
    f"resnet,embedding_size=8,{STAGES}",
    *(f"{kind},{STAGES}" for kind in ("convnext", "convnextv2", "dinov3_convnext")),
    *(f"{kind},{WINDOWS}" for kind in ("swin", "swinv2")),
]
TIMM = [
    "test_resnet,act_layer=silu,output_stride=16",
    "test_resnet.r160_in1k",
    "test_efficientnet",
    "test_convnext",
    "vit_tiny_patch16_224,depth=1,reg_tokens=2,init_values=null",
    "swin_tiny_patch4_window7_224,depths=[1,1,1,1],embed_dim=24,num_heads=[1,1,1,1]",
]
TORCHVISION = ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf", "resnet18"]


def assert_round_trip(source: object, to: str, out: object, size: int = 32) -> None:
    """The printed code, and what ssltool reads back, are the same network; the transform is kept."""
    result = export(source, to, out)
    assert_same(result["load"], source, size)
    first, second = (ssltool.load_backbone(str(path)) for path in (source, out))
    with torch.inference_mode():
        torch.testing.assert_close(second(noise(size)), first(noise(size)), rtol=1e-5, atol=1e-5)
    assert second.transform.preprocessing == first.transform.preprocessing == UNUSUAL.at(size)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_network_of_transformers_is_exported_for_it(tmp_path, name):
    source = described(tmp_path / "a.safetensors", f"transformers:{name}", size := 64 if STAGES in name else 32)
    assert_round_trip(source, "huggingface", tmp_path / "folder", size)
    assert_same(export(source, "state_dict")["load"], source, size)
    assert_round_trip(source, "safetensors", tmp_path / "out.safetensors", size)


@pytest.mark.parametrize("name", TIMM)
def test_a_network_of_timm_is_exported_for_it_and_for_the_hub(tmp_path, name):
    source = described(tmp_path / "a.safetensors", f"timm:{name}", 64)
    result = export(source, "timm", tmp_path / "out.pth")
    assert "timm." in result["load"]
    assert_same(result["load"], source, 64)
    assert_round_trip(source, "huggingface", tmp_path / "folder", 64)


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_network_of_torchvision_is_exported_for_it(tmp_path, name):
    source = described(tmp_path / "a.safetensors", f"torchvision:{name}", 64)
    assert_same(export(source, "torchvision", tmp_path / "out.pth")["load"], source, 64)


def test_torchvisions_resnet_is_also_one_of_timm_transformers_and_simsiam(tmp_path):
    source = described(tmp_path / "a.safetensors", "torchvision:resnet18", 64)
    assert_same(export(source, "timm", tmp_path / "out.pth")["load"], source, 64)
    assert_round_trip(source, "huggingface", tmp_path / "folder", 64)
    assert " -a resnet18 " in export(source, "simsiam")["load"]


@pytest.mark.parametrize(
    ("arch", "stem"),
    [*(("resnet18_w8", stem) for stem in STEM_CONVS), ("resnet50_w8", "small"), ("resnet18_bottleneck_w64", "small")],
)
def test_a_resnet_that_no_library_names_comes_with_code_that_builds_it(tmp_path, arch, stem):
    source = described(tmp_path / "a.safetensors", arch, 32, stem)
    result = export(source, "state_dict", tmp_path / "out.pth")
    assert_same(result["load"], source)
    assert len(result["load"].splitlines()) <= 16


@pytest.mark.parametrize("arch", ["resnet18_w8", "resnet50_w8"])
def test_a_resnet_with_the_usual_stem_is_a_model_of_transformers(tmp_path, arch):
    source = described(tmp_path / "a.safetensors", arch, 64, "imagenet")
    assert_round_trip(source, "huggingface", tmp_path / "folder", 64)


@pytest.mark.parametrize("to", ["torchvision", "timm", "state_dict"])
def test_a_vit_is_one_of_every_library(tmp_path, to):
    source = described(tmp_path / "a.safetensors", "vit_small_depth3_h4_p8")
    assert_same(export(source, to, tmp_path / "out.pth")["load"], source)


def test_a_vit_is_a_model_of_transformers(tmp_path):
    source = described(tmp_path / "a.safetensors", "vit_small_depth3_h4_p8")
    assert_round_trip(source, "huggingface", tmp_path / "folder")


@pytest.mark.parametrize(
    ("arch", "stem", "to"),
    [
        ("resnet18_w8", "small", "huggingface"),
        ("resnet18_w8", "imagenet", "timm"),
        ("resnet18_w8", "small-padded", "torchvision"),
        ("timm:test_vit", "auto", "torchvision"),
        ("torchvision:squeezenet1_1", "auto", "huggingface"),
        ("torchvision:squeezenet1_1", "auto", "simsiam"),
        (f"transformers:vit,{VIT}", "auto", "timm"),
    ],
)
def test_what_has_no_exact_counterpart_is_refused_with_the_targets_that_work(tmp_path, arch, stem, to):
    source = described(tmp_path / "a.safetensors", arch, 64 if ":" in arch and "vit," not in arch else 32, stem)
    with pytest.raises(SSLToolError) as refused:
        export(source, to, tmp_path / "out")
    message = str(refused.value)
    assert arch in message and "safetensors, torchscript, onnx or state_dict" in message and "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_backbone_of_a_plug_in_is_only_a_graph_or_described_weights(tmp_path, registries):
    from ssltool.models import ARCHITECTURES, Architecture

    ARCHITECTURES.add("toy", Architecture(lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5)), 5))
    source = described(tmp_path / "a.safetensors", "toy", 4)
    with pytest.raises(SSLToolError, match=r"toy; use --to safetensors, torchscript or onnx"):
        export(source, "state_dict", tmp_path / "out.pth")
    assert_same(export(source, "torchscript", tmp_path / "out.pt")["load"], source, 4)
    export(source, "safetensors", tmp_path / "b.safetensors")
    first, second = (ssltool.load_backbone(str(tmp_path / f"{name}.safetensors")) for name in "ab")
    with torch.inference_mode():
        assert torch.equal(first(noise(4)), second(noise(4)))
