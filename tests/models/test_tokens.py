"""The tokens of networks of timm, transformers and torchvision, and their places, against the libraries' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hub_helpers import network, transformers
from torch import Tensor, nn

from methods_helpers import facts
from ssltool.checkpoints.transformers_weights import select_backbone
from ssltool.errors import SSLToolError
from ssltool.methods import method_class, method_options
from ssltool.models.backbones import build_backbone
from ssltool.models.family import TokenLayout
from ssltool.models.outputs import Features
from ssltool.models.tokens import KINDS, TokenPlaces, TokenSequence, layout_of
from ssltool.models.transformers_config import name_of_config

CPU = torch.device("cpu")
SMALL = "depth=2,embed_dim=48,num_heads=2"

# Name in timm, image size, class tokens, registers, and the grid of patches.
OF_TIMM = [
    (f"vit_tiny_patch16_224,{SMALL}", 64, 1, 0, (4, 4)),
    (f"vit_small_patch14_reg4_dinov2,{SMALL}", 56, 1, 4, (4, 4)),
    (f"vit_small_patch16_dinov3,{SMALL}", 64, 1, 4, (4, 4)),
    (f"vit_base_patch16_siglip_224,{SMALL}", 64, 0, 0, (4, 4)),
    (f"vit_base_patch16_reg4_gap_256,{SMALL}", 64, 0, 4, (4, 4)),
    (f"deit_tiny_distilled_patch16_224,{SMALL}", 64, 1, 1, (4, 4)),
    (f"vit_tiny_patch16_224,{SMALL},patch_size=[16,8]", 64, 1, 0, (4, 8)),
    (f"vit_tiny_patch16_224,{SMALL},patch_size=[8,16]", 64, 1, 0, (8, 4)),
    ("levit_128s", 64, 0, 0, (1, 1)),
]

OF_TRANSFORMERS = {
    "ViTModel": (1, 0),
    "Dinov2Model": (1, 0),
    "Dinov2WithRegistersModel": (1, 2),
    "DINOv3ViTModel": (1, 4),
    "ViTMSNModel": (1, 0),
    "IJepaModel": (0, 0),
    "VJEPA2Model": (0, 0),
    "SiglipVisionModel": (0, 0),
}


def method_of(backbone: nn.Module, dim: int) -> Any:
    options = method_options("byol", {"dim": 6, "hidden": 10})
    return method_class("byol")(backbone, dim, options, facts(second_backbone=lambda: backbone)).eval()


def of_timm(name: str, size: int) -> Any:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    return method_of(*build_backbone(f"timm:{name}", image_size=size))


def pixels(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))


def check_every_choice(method: Any, images: Tensor, own: Tensor, cls: int, registers: int, grid: Any) -> None:
    """Compares what is taken with the library's own tokens (N, T, D), which are class token, registers, patches."""
    prefix = cls + registers
    wanted = {
        "cls": own[:, 0],
        "registers": own[:, cls:prefix],
        "patch": own[:, prefix:],
        "mean": own[:, prefix:].mean(dim=1),
        "all": own,
    }
    wanted = {name: values for name, values in wanted.items() if {"cls": cls, "registers": registers}.get(name, 1)}
    for name in (*KINDS, "mean", "all"):
        features = Features(method, "backbone", tokens=name)
        if name not in wanted:
            with pytest.raises(SSLToolError, match=f"--tokens {name}: .*no .*{grid[0]} x {grid[1]}"):
                features.outline(images.shape[-1], CPU)
            continue
        with torch.inference_mode():
            torch.testing.assert_close(features(images), wanted[name], rtol=1e-5, atol=1e-5)
        shape, places = features.outline(images.shape[-1], CPU)
        assert shape == tuple(wanted[name].shape[1:])
        if places is None:
            assert name in ("cls", "mean")
            continue
        at = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
        every = [(0, -1, -1)] * cls + [(1, -1, -1)] * registers + [(2, *place) for place in at]
        kept = {"registers": every[cls:prefix], "patch": every[prefix:], "all": every}[name]
        assert list(zip(places.kind.tolist(), places.row.tolist(), places.column.tolist(), strict=True)) == kept
        assert places.grid == grid


@pytest.mark.parametrize(("name", "size", "cls", "registers", "grid"), OF_TIMM)
def test_tokens_are_those_of_timms_forward_features(name, size, cls, registers, grid):
    method, images = of_timm(name, size), pixels(size)
    with torch.no_grad():
        own = method.backbone.forward_features(images)
    check_every_choice(method, images, own, cls, registers, grid)


@pytest.mark.parametrize("case", OF_TRANSFORMERS)
def test_tokens_are_the_last_hidden_state_of_transformers(case):
    transformers()
    model, images = network(case), pixels(32)
    arch = name_of_config(model.config.model_type, model.config.to_dict())
    backbone, dim = build_backbone(arch, image_size=32)
    backbone.load_state_dict(select_backbone(arch, model.state_dict())[0])
    with torch.no_grad():
        own = model(images[:, None] if "VJEPA" in case else images).last_hidden_state
    check_every_choice(method_of(backbone, dim), images, own, *OF_TRANSFORMERS[case], (4, 4))


@pytest.mark.parametrize("arch", ["vit_w256_depth6", "torchvision:vit_b_32"])
def test_tokens_of_torchvisions_vit_are_those_of_its_encoder(arch):
    torch.manual_seed(0)
    method = method_of(*build_backbone(arch, image_size=64 if ":" in arch else 16))
    vit = method.backbone
    images = pixels(vit.image_size)
    with torch.no_grad():
        x = vit._process_input(images)
        own = vit.encoder(torch.cat([vit.class_token.expand(len(x), -1, -1), x], dim=1))
    side = vit.image_size // vit.patch_size
    check_every_choice(method, images, own, 1, 0, (side, side))


@pytest.mark.parametrize("arch", ["resnet18_w8", "timm:convnext_atto", "torchvision:mobilenet_v3_small"])
def test_the_patches_of_a_convolutional_network_are_the_positions_of_its_last_feature_map(arch):
    if arch.startswith("timm"):
        pytest.importorskip("timm")
    stem = "imagenet" if arch.startswith("resnet") else "auto"
    method, images = method_of(*build_backbone(arch, stem=stem, image_size=64)), pixels(64)
    with torch.inference_mode():
        every = Features(method, "backbone", pool="none")(images)
        assert torch.equal(Features(method, "backbone", tokens="patch")(images), every)
        assert torch.equal(Features(method, "backbone", tokens="all")(images), every)
        torch.testing.assert_close(Features(method, "backbone", tokens="mean")(images), every.mean(dim=1))
    _, places = Features(method, "backbone", tokens="all").outline(64, CPU)
    assert places is not None and places.grid == (2, 2)
    assert (places.row.tolist(), places.column.tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1])
    for name, missing in (("cls", "class token"), ("registers", "registers")):
        with pytest.raises(SSLToolError, match=rf"--tokens {name}: .*no {missing}, only 4 patches \(2 x 2\)"):
            Features(method, "backbone", tokens=name).outline(64, CPU)


@pytest.mark.parametrize("registers", [0, 4])
def test_a_layer_before_the_class_token_has_patches_only(registers):
    """Behind its patch embedding a ViT has as many tokens as patches; 9 of them are not 5 others and 4 patches."""
    name = f"vit_small_patch14_reg4_dinov2,{SMALL},reg_tokens={registers}"
    method, images = of_timm(name, 42), pixels(42)
    with torch.inference_mode():
        patches = method.backbone.patch_embed(images)
        patches = patches.flatten(1, 2) if patches.dim() == 4 else patches
        embedding = method.backbone.patch_embed.proj(images)
        torch.testing.assert_close(patches, embedding.flatten(2).mT)
        taken = Features(method, "backbone.patch_embed", tokens="patch")(images)
        assert taken.shape == (2, 9, 48)
        torch.testing.assert_close(taken, patches)
        torch.testing.assert_close(Features(method, "backbone.patch_embed", tokens="mean")(images), patches.mean(dim=1))
        torch.testing.assert_close(Features(method, "backbone.patch_embed")(images), patches.mean(dim=1))
        assert Features(method, "backbone.blocks.0", tokens="all")(images).shape == (2, 10 + registers, 48)
    with pytest.raises(SSLToolError, match="class token"):
        Features(method, "backbone.patch_embed", tokens="cls").outline(42, CPU)


def test_the_channels_of_a_map_inside_a_network_are_found_where_they_come_last():
    method = of_timm("swin_tiny_patch4_window7_224,depths=[1,1,1,1],embed_dim=16,num_heads=[1,2,2,2]", 64)
    images, seen = pixels(64), []
    hook = method.backbone.layers[0].register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.inference_mode():
        method.backbone(images)
        hook.remove()
        (wanted,) = seen
        assert wanted.shape == (2, 16, 16, 16)  # all sides are equal
        taken = Features(method, "backbone.layers.0", tokens="patch")(images)
        assert torch.equal(taken, wanted.flatten(1, 2))
        assert Features(method, "backbone.layers.1", pool="none")(images).shape == (2, 64, 32)


@pytest.mark.parametrize(
    ("count", "last", "registers", "wanted"),
    [
        (201, 201, 4, 5),
        (196, 201, 4, 0),
        (9, 14, 4, 0),
        (789, 201, 4, 5),
        (784, 201, 4, 0),
        (100, 201, 4, 0),
        (50, 201, 4, None),
    ],
)
def test_the_number_of_tokens_tells_which_are_patches(count, last, registers, wanted):
    found = layout_of(count, last, TokenLayout(registers=registers))
    assert (None if found is None else found.prefix) == wanted


def test_tokens_of_unknown_order_are_not_selected():
    sequence = TokenSequence(torch.zeros(2, 7, 3), TokenLayout(class_token=False), None)
    _, places = sequence.select("patch", "backbone.x")
    assert isinstance(places, TokenPlaces)
    assert places.row.tolist() == places.column.tolist() == [-1] * 7


def test_tokens_of_a_network_whose_order_is_not_known_are_refused():
    method = of_timm(f"cait_xxs24_224,{SMALL}", 64)
    method.backbone = nn.Sequential(nn.Flatten(2), nn.Linear(64, 7), nn.Flatten())
    with pytest.raises(SSLToolError, match=r"--tokens patch .*order of the tokens"):
        Features(method, "backbone.1", tokens="patch").outline(8, CPU)
    assert Features(method, "backbone.1", pool="none").shape(8, CPU) == (3, 7)
