"""Rates by depth: which layer a parameter belongs to, and what its rate is."""

from __future__ import annotations

import pytest
from torch import nn

from ssltool.models.backbones import build_backbone
from ssltool.models.depth import layer_groups


def scales(backbone: nn.Module, decay: float) -> dict[str, float]:
    """The scale of every parameter that is in a group, by name."""
    names = {id(p): name for name, p in backbone.named_parameters()}
    return {names[id(p)]: group["scale"] for group in layer_groups(backbone, decay) for p in group["params"]}


@pytest.mark.parametrize(("arch", "stem"), [("resnet18_w8", "small"), ("resnet50_w8", "imagenet")])
def test_a_resnets_stem_is_five_layers_below_the_head_and_its_stages_four_to_one(arch, stem):
    backbone, _ = build_backbone(arch, stem=stem)
    found = scales(backbone, 0.5)
    assert found["conv1.weight"] == found["bn1.bias"] == 0.5**5
    for stage in range(1, 5):
        of_stage = {scale for name, scale in found.items() if name.startswith(f"layer{stage}.")}
        assert of_stage == {0.5 ** (5 - stage)}


def test_a_vits_embedding_is_layer_0_its_blocks_follow_and_its_norm_counts_with_the_head():
    backbone, _ = build_backbone("vit_small_depth3", image_size=16)
    found = scales(backbone, 0.5)
    assert found["class_token"] == found["conv_proj.weight"] == 0.5**4
    for block in range(3):
        prefix = f"encoder.layers.encoder_layer_{block}."
        assert {scale for name, scale in found.items() if name.startswith(prefix)} == {0.5 ** (3 - block)}
    assert found["encoder.ln.weight"] == 1.0


@pytest.mark.parametrize("arch", ["resnet18_w8", "vit_small_depth3"])
def test_every_trainable_parameter_is_in_exactly_one_group(arch):
    backbone, _ = build_backbone(arch, image_size=16)
    grouped = [id(p) for group in layer_groups(backbone, 0.9) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in backbone.parameters() if p.requires_grad)
    assert len(grouped) < len(list(backbone.parameters())) or arch == "resnet18_w8"  # a ViT's positions are fixed


def test_without_decay_all_layers_have_the_same_rate():
    backbone, _ = build_backbone("resnet18_w8")
    assert {group["scale"] for group in layer_groups(backbone)} == {1.0}
