"""The architecture is found from names and shapes alone, and other libraries' networks are ours under other names."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from checkpoint_helpers import headless, noise, plain_resnet18, settled, vit
from ssltool.checkpoints.checkpoint_layouts import CHECKPOINT_LAYOUTS, HEADS, CheckpointLayout
from ssltool.checkpoints.convert import find_backbone
from ssltool.checkpoints.match_architecture import match_backbone
from ssltool.checkpoints.parameter_names import NAMING_SCHEMES, find_naming_schemes, timm_name
from ssltool.errors import SSLToolError
from ssltool.models.backbones import architectures, build_backbone
from ssltool.models.wide_resnet import wide_shape

BARE = CheckpointLayout("torchvision", None, "")
RESNETS = [arch for arch in architectures() if not arch.startswith("vit_") and not wide_shape(arch)]

LAYOUTS = tuple(CHECKPOINT_LAYOUTS.values())


def shapes(arch: str, **settings) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return build_backbone(arch, **settings)[0].state_dict()


@pytest.mark.parametrize("arch", [*RESNETS, "resnet50_w128", "resnet50_w256", "resnet50_w320", "resnet200_w128"])
def test_every_resnet_has_distinct_shapes(arch):
    make = match_backbone("x.pth", shapes(arch), BARE)
    assert (make.arch, make.stem, make.image_size) == (arch, "imagenet", 224)


@pytest.mark.parametrize(
    ("stem", "asked", "found"), [("small", None, "small"), ("small", "auto", "small"), ("imagenet", None, "imagenet")]
)
def test_kernel_of_the_first_convolution_determines_the_stem(stem, asked, found):
    make = match_backbone("x.pth", shapes("resnet18_w16", stem=stem), BARE, stem=asked)
    assert (make.stem, make.image_size) == (found, 32 if found == "small" else 224)


def test_unsupported_first_convolutions_are_refused():
    weights = shapes("resnet18_w16")
    with pytest.raises(SSLToolError, match="5x5"):
        match_backbone("x.pth", weights | {"conv1.weight": torch.empty(16, 3, 5, 5)}, BARE)
    with pytest.raises(SSLToolError, match=r"shape: conv1\.weight"):
        match_backbone("x.pth", weights | {"conv1.weight": torch.empty(16, 1, 7, 7)}, BARE)


def test_missing_first_convolution_is_refused_by_name():
    weights = {name: tensor for name, tensor in shapes("resnet18_w16").items() if name != "conv1.weight"}
    with pytest.raises(SSLToolError, match=r"missing: conv1\.weight"):
        match_backbone("x.pth", weights, BARE)


@pytest.mark.parametrize("width", [1, 12, 64, 104])
def test_unsupported_widths_are_refused(width):
    weights = shapes("resnet18_w16") | {"bn1.weight": torch.empty(width)}
    with pytest.raises(SSLToolError, match="shape: "):
        match_backbone("x.pth", weights, BARE)


# Other libraries' networks, weights and outputs


@pytest.mark.parametrize(
    ("make", "arch", "size"),
    [
        (lambda: timm.create_model("resnet18", pretrained=False), "resnet18", 64),
        (lambda: timm.create_model("resnet50", pretrained=False), "resnet50", 64),
        (lambda: timm.create_model("vit_small_patch16_224", pretrained=False, img_size=96), "vit_small_h6", 96),
        (lambda: timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32), "vit_tiny_p16", 32),
        (lambda: torchvision.models.VisionTransformer(32, 8, 12, 3, 192, 768), "vit_tiny_p8", 32),
        (plain_resnet18, "resnet18", 64),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_networks_of_timm_and_torchvision_equal_ssltools_with_the_same_weights(make, arch, size):
    torch.manual_seed(0)
    theirs = settled(make(), 0, size)
    found = find_backbone("x.pth", dict(theirs.state_dict()))
    ours, width = build_backbone(found.spec.arch, stem=found.spec.stem, image_size=found.spec.image_size)
    ours.load_state_dict(found.weights)
    images = noise(size, seed=3)
    with torch.inference_mode():
        out, wanted = ours.eval()(images), headless(theirs)(images)
    assert (found.spec.arch, out.shape) == (arch, (3, width))
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-4)
    assert set(found.ignored) <= {"fc", "head", "heads"}


# Names


def test_translations_between_timm_and_torchvision_are_inverse():
    model = vit()
    ours = build_backbone("vit_tiny_p8", image_size=32)[0].state_dict()
    (scheme,) = find_naming_schemes(model.state_dict()).values()
    renamed = [scheme.rename(name) for name in model.state_dict()]
    assert sorted(renamed) == sorted(ours)
    assert [timm_name(name) for name in renamed] == list(model.state_dict())


def test_torchvisions_vits_saved_before_its_rename_are_read():
    state = torchvision.models.VisionTransformer(32, 8, 12, 3, 192, 768).state_dict()
    old = {k.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): v for k, v in state.items()}
    assert old.keys() != state.keys()
    found = find_backbone("x.pth", old)
    assert found.spec.arch == "vit_tiny_p8" and found.weights.keys() == state.keys() - {
        "heads.head.weight",
        "heads.head.bias",
    }


def test_children_of_a_resnet_get_their_names_back():
    model = build_backbone("resnet18_w8")[0]
    children = nn.Sequential(*list(model.children())[:-1])
    networks = find_naming_schemes({f"a.{name}": 0 for name in children.state_dict()})
    assert list(networks) == ["a."]
    assert [networks["a."].rename(name) for name in children.state_dict()] == list(model.state_dict())


def test_prefix_ends_with_a_dot():
    assert find_naming_schemes(["my_layer1.0.conv1.weight", "xpatch_embed.proj.weight"]) == {}
    assert list(find_naming_schemes(["a.b.layer1.0.conv1.weight", "layer1.0.conv1.weight"])) == ["a.b.", ""]


def test_no_module_of_a_backbone_is_named_like_a_head():
    for arch in ("resnet18", "vit_base"):
        assert not {name.split(".")[0] for name in shapes(arch)} & set(HEADS)
    assert not {name.split(".")[0] for name in vit().state_dict()} & set(HEADS)


def test_every_layout_is_the_first_match_of_some_file():
    """A layout is never behind one that asks for less under the same prefix."""
    for i, layout in enumerate(LAYOUTS):
        for earlier in LAYOUTS[:i]:
            assert (
                earlier.prefix != layout.prefix or not set(earlier.requires) <= set(layout.requires) or earlier.excludes
            )


def test_naming_schemes_are_distinguished_by_their_anchors():
    assert len({scheme.anchor for scheme in NAMING_SCHEMES}) == len(NAMING_SCHEMES)
