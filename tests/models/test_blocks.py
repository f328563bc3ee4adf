"""The blocks of a network: which modules they are, and their outputs in one pass against one pass for each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods_helpers import facts
from ssltool.methods import method_class, method_options
from ssltool.methods.base import Method
from ssltool.methods.parts.momentum import teacher_network
from ssltool.models import blocks
from ssltool.models.backbones import build_backbone
from ssltool.models.blocks import BlockOutputs, block_names
from ssltool.models.outputs import Features

CPU = torch.device("cpu")
NARROW_VIT = "timm:vit_tiny_patch16_224,depth=3,embed_dim=48,num_heads=2,patch_size=8"


def build(arch: str, size: int = 32, method: str | None = None) -> Method:
    torch.manual_seed(0)
    backbone, dim = build_backbone(arch, image_size=size)
    if method is None:
        return Method(backbone, dim, None, facts()).eval()
    run = facts(second_backbone=lambda: build_backbone(arch, image_size=size))
    return method_class(method)(backbone, dim, method_options(method, {"dim": 6, "hidden": 10}), run).eval()


def stages(*counts: int) -> list[str]:
    return [f"layer{stage}.{i}" for stage, count in enumerate(counts, 1) for i in range(count)]


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("resnet18_w8", stages(2, 2, 2, 2)),
        ("resnet50_w8", stages(3, 4, 6, 3)),
        ("wide_resnet16w1", [f"stages.{stage}.{i}" for stage in range(3) for i in range(2)]),
        ("vit_small_depth3", [f"encoder.layers.encoder_layer_{i}" for i in range(3)]),
        (
            "torchvision:convnext_tiny",
            [f"features.{2 * k + 1}.{i}" for k, n in enumerate((3, 3, 9, 3)) for i in range(n)],
        ),
        ("torchvision:squeezenet1_1", [f"features.{i}" for i in (3, 4, 6, 7, 9, 10, 11, 12)]),
        ("torchvision:alexnet", [f"features.{i}" for i in (0, 3, 6, 8, 10)] + ["classifier.1", "classifier.4"]),
        (NARROW_VIT, [f"blocks.{i}" for i in range(3)]),
        (
            "timm:convnext_atto,depths=[1,2,1,1],dims=[8,8,16,16]",
            [f"stages.{stage}.blocks.{i}" for stage, count in enumerate((1, 2, 1, 1)) for i in range(count)],
        ),
        (
            "timm:efficientnet_b0",
            [f"blocks.{stage}.{i}" for stage, n in enumerate((1, 2, 2, 3, 3, 4, 1)) for i in range(n)],
        ),
    ],
)
def test_blocks_are_residual_blocks_and_layers_in_order_of_depth(arch, names):
    if arch.startswith("timm"):
        pytest.importorskip("timm")
    with torch.device("meta"):
        backbone, _ = build_backbone(arch, image_size=64)
    assert block_names(backbone) == names


def test_a_network_without_sequences_of_blocks_has_its_layers_with_weights():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.rest = (
                nn.Conv2d(3, 4, 3),
                nn.ReLU(),
                nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()),
            )

    assert block_names(Plain()) == ["first", "rest.0"]


@pytest.mark.parametrize(
    ("arch", "method"), [("resnet18_w8", "byol"), ("vit_small_depth3", "simclr"), (NARROW_VIT, None)]
)
def test_one_pass_gives_what_a_pass_for_each_layer_gives(arch, method):
    network = build(arch, method=method)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    outputs = BlockOutputs.of(network, 32, CPU)
    with torch.inference_mode():
        rows = outputs(images)
        assert list(rows) == outputs.layers
        for layer in outputs.layers:
            assert torch.equal(rows[layer], Features(network, layer)(images)), layer
    heads = {"byol": ["projector", "predictor"], "simclr": ["projector"], None: []}[method]
    assert outputs.layers[-1 - len(heads) :] == ["backbone", *heads]


def test_tokens_are_averaged_where_the_representation_is_their_mean():
    """The student/teacher study takes the mean over the patches, SimCLR the class token, of the same ViT."""
    study, simclr = build("vit_small_depth3", method="teacher"), build("vit_small_depth3", method="simclr")
    assert [BlockOutputs.of(one, 32, CPU).pooled for one in (study, simclr)] == ["mean", "cls"]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    layer = "backbone.encoder.layers.encoder_layer_1"
    with torch.inference_mode():
        assert torch.equal(
            BlockOutputs.of(study, 32, CPU)(images)[layer], Features(study, layer, tokens="mean")(images)
        )


def test_blocks_that_are_not_called_or_give_no_rows_are_left_out():
    network = build("resnet18_w8")
    network.backbone.layer2[0].register_forward_hook(lambda module, given, out: {"out": out})
    network.backbone.layer2.forward = lambda x: network.backbone.layer2[0](x)["out"]
    found = BlockOutputs.of(network, 32, CPU)
    assert found.skipped == ["backbone.layer2.0", "backbone.layer2.1"]
    assert found.layers == [f"backbone.{name}" for name in stages(2, 0, 2, 2)] + ["backbone"]


def test_a_hook_is_left_in_no_module():
    network = build("resnet18_w8")
    BlockOutputs.of(network, 32, CPU)
    assert not any(module._forward_hooks for module in network.modules())


def test_of_very_many_blocks_some_at_equal_distances_are_taken(monkeypatch):
    monkeypatch.setattr(blocks, "MOST_BLOCKS", 3)
    found = BlockOutputs.of(build("resnet18_w8"), 32, CPU)
    assert found.layers == ["backbone.layer1.0", "backbone.layer2.1", "backbone.layer4.1", "backbone"]
    assert len(found.beyond) == 5


def test_the_teachers_network_has_its_modules_and_the_methods_layers():
    method = build("resnet18_w8", method="byol")
    teacher = teacher_network(method)
    assert teacher is not None and teacher.backbone is method.teacher["backbone"]
    assert BlockOutputs.of(teacher, 32, CPU).layers == BlockOutputs.of(method, 32, CPU).layers[:-1]  # no predictor
    assert method.backbone is not teacher.backbone
    assert teacher_network(build("resnet18_w8", method="simclr")) is None
