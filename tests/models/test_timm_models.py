"""timm's architectures: outputs, tokens, layers, image sizes and errors, compared with timm itself."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from ssltool.errors import SSLToolError, UsageError
from ssltool.models.backbones import (
    build_backbone,
    check_size,
    depends_on_size,
    family_of,
    is_known,
    last_layer,
    last_width,
    patch_of,
    patch_tokens,
    token_layout,
)
from ssltool.models.depth import layer_groups
from ssltool.models.family import TokenLayout

timm = pytest.importorskip("timm")

SMALL = "depth=2,embed_dim=48,num_heads=2"
CLS, NONE = TokenLayout(), TokenLayout(class_token=False)

# Name, image size, the order of tokens, and the shape of the last layer for one image: (T, D) or (D, H, W).
NETWORKS = [
    (f"vit_tiny_patch16_224,{SMALL}", 64, CLS, (17, 48)),
    (f"vit_tiny_patch16_224,{SMALL},global_pool=avg", 64, CLS, (17, 48)),
    (f"vit_small_patch14_reg4_dinov2,{SMALL}", 56, TokenLayout(registers=4), (21, 48)),
    (f"vit_base_patch16_siglip_224,{SMALL}", 64, NONE, (16, 48)),  # attention pooling
    (f"vit_base_patch16_clip_224,{SMALL}", 64, CLS, (17, 48)),
    (f"vit_small_patch16_dinov3,{SMALL}", 64, TokenLayout(registers=4), (21, 48)),  # rotary positions
    (f"eva02_tiny_patch14_224,{SMALL}", 56, CLS, (17, 48)),
    (f"deit_tiny_distilled_patch16_224,{SMALL}", 64, TokenLayout(registers=1), (18, 48)),
    (f"beit_base_patch16_224,{SMALL}", 64, CLS, (17, 48)),
    (f"cait_xxs24_224,{SMALL}", 64, CLS, (17, 48)),
    (f"xcit_nano_12_p16_224,{SMALL}", 64, CLS, (17, 48)),
    ("mixer_s32_224", 64, NONE, (4, 512)),
    ("levit_128s", 64, NONE, (1, 384)),
    ("swin_tiny_patch4_window7_224,depths=[1,1,1,1],embed_dim=24", 64, None, (192, 2, 2)),
    ("swinv2_tiny_window8_256,depths=[1,1,1,1],embed_dim=24,num_heads=[1,2,2,2]", 64, None, (192, 2, 2)),
    ("convnext_atto", 64, None, (320, 2, 2)),
    ("resnet18", 64, None, (512, 2, 2)),
    ("resnet26d,output_stride=8", 64, None, (2048, 8, 8)),
    ("resnet18,global_pool=avgmax", 64, None, (512, 2, 2)),
    ("regnetx_002", 64, None, (368, 2, 2)),
    ("efficientnet_lite0", 64, None, (1280, 2, 2)),
    ("mobilenetv3_small_050", 64, None, (288, 2, 2)),
    ("mobilenetv4_conv_small_035", 64, None, (336, 2, 2)),
    ("pvt_v2_b0", 64, None, (256, 2, 2)),
    ("fastvit_t8", 64, None, (768, 2, 2)),
    ("nf_regnet_b0", 64, None, (960, 2, 2)),
]


def build(name: str, size: int) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    return build_backbone(f"timm:{name}", image_size=size)


def original(name: str, size: int) -> nn.Module:
    """timm's own network with the same seed."""
    family = family_of(f"timm:{name}")
    arch = family.parsed(f"timm:{name}")
    torch.manual_seed(0)
    try:
        return timm.create_model(arch.model, num_classes=0, img_size=size, **arch.settings)
    except TypeError:
        torch.manual_seed(0)
        return timm.create_model(arch.model, num_classes=0, **arch.settings)


@pytest.mark.parametrize(("name", "size", "layout", "shape"), NETWORKS)
def test_a_network_of_timm_returns_what_its_classifier_reads(name, size, layout, shape):
    backbone, width = build(name, size)
    reference = original(name, size).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        out, last = backbone.eval()(images), last_layer(backbone, images)
        expected = reference.forward_head(reference.forward_features(images), pre_logits=True)
    assert torch.equal(out, expected)
    assert out.shape == (2, width)
    assert token_layout(backbone) == layout
    assert last.shape == (2, *shape)
    places = patch_tokens(backbone, images)
    assert places.shape[2] == last_width(backbone, width)
    assert places.shape[1] == (shape[1] * shape[2] if layout is None else shape[0] - layout.prefix)


@pytest.mark.parametrize("name", ["pit_ti_224", "crossvit_9_240"])
def test_a_network_whose_last_layer_has_no_patches_says_so(name):
    size = family_of(f"timm:{name}").own_size(f"timm:{name}")
    with torch.device("meta"):
        backbone, _ = build(name, size)
        assert token_layout(backbone) is None
        with pytest.raises(SSLToolError, match="each position"):
            patch_tokens(backbone, torch.zeros(1, 3, size, size))


@pytest.mark.parametrize(("name", "size"), [row[:2] for row in NETWORKS if "48" in row[0] or "atto" in row[0]])
def test_a_network_of_timm_trains_and_its_copy_is_one_too(name, size):
    backbone, width = build(name, size)
    out = copy.deepcopy(backbone).train()(torch.randn(2, 3, size, size))
    assert out.shape == (2, width)
    out.sum().backward()
    assert family_of(f"timm:{name}").owns(copy.deepcopy(backbone))


def test_the_weights_depend_on_torchs_seed_only_also_if_the_network_was_built_before():
    first = build(f"vit_tiny_patch16_224,{SMALL},drop_path_rate=0.3", 48)[0].state_dict()
    again = build(f"vit_tiny_patch16_224,{SMALL},drop_path_rate=0.3", 48)[0].state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


def scales(backbone: nn.Module, decay: float = 0.5) -> dict[str, float]:
    names = {id(p): name for name, p in backbone.named_parameters()}
    return {names[id(p)]: group["scale"] for group in layer_groups(backbone, decay) for p in group["params"]}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "beit_base_patch16_224"])
def test_the_layers_of_a_transformer_are_numbered_as_in_beit(name):
    found = scales(build(f"{name},depth=3,embed_dim=48,num_heads=2", 32)[0])
    for parameter, scale in found.items():
        block = int(parameter.split(".")[1]) + 1 if parameter.startswith("blocks.") else None
        head = parameter.startswith(("norm.", "fc_norm."))
        assert scale == 0.5 ** (0 if head else 4 - (block or 0)), parameter


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18", "swin_tiny_patch4_window7_224,embed_dim=24"])
def test_the_layers_are_timms_own(name):
    from timm.optim import param_groups_layer_decay

    backbone = build(name, 64)[0]
    ids = {id(p): key for key, p in backbone.named_parameters()}
    theirs = {}
    for group in param_groups_layer_decay(backbone, layer_decay=0.5):
        theirs |= {ids[id(p)]: group["lr_scale"] for p in group["params"]}
    found = scales(backbone)
    first = min(found.values()) / min(theirs.values())  # timm counts from the last layer that has parameters
    for parameter, scale in found.items():
        if not parameter.startswith(("norm.", "head.")):
            assert scale == pytest.approx(first * theirs[parameter]), parameter


@pytest.mark.parametrize(
    ("name", "depends"),
    [
        (f"vit_tiny_patch16_224,{SMALL}", True),
        ("convnext_atto", False),
        ("resnet18", False),
        (f"vit_small_patch16_dinov3,{SMALL}", False),  # rotary positions
    ],
)
def test_parameters_depend_on_the_image_size_only_in_networks_with_positional_embeddings(name, depends):
    assert depends_on_size(build(name, 32)[0], 64) is depends
    assert not depends_on_size(build(name, 32)[0], 32)


@pytest.mark.parametrize("name", [f"vit_tiny_patch16_224,{SMALL}", "convnext_atto", f"eva02_tiny_patch14_224,{SMALL}"])
def test_small_crops_of_any_number_of_patches_are_taken(name):
    backbone, width = build(name, 112)
    side = 3 * (patch_of(backbone) or 16)
    check_size(backbone, side)
    assert backbone(torch.zeros(2, 3, side, side)).shape == (2, width)


@pytest.mark.parametrize(
    ("name", "built", "size", "works"),
    [
        (f"vit_tiny_patch16_224,{SMALL}", 64, 60, 64),
        (f"cait_xxs24_224,{SMALL}", 64, 32, 64),
        (f"beit_base_patch16_224,{SMALL}", 64, 32, 64),
    ],
)
def test_images_of_another_size_are_refused_with_sizes_that_work(name, built, size, works):
    backbone, _ = build(name, built)
    with pytest.raises(SSLToolError) as error:
        check_size(backbone, size, "--set local_size")
    assert f"{size} pixels" in str(error.value)
    assert "--set local_size" in str(error.value)
    assert str(works) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [f"vit_tiny_patch16_224,{SMALL}", "levit_128s", "mixer_s32_224"])
def test_a_network_is_built_for_other_sizes_than_its_own(name):
    assert family_of(f"timm:{name}").fits(f"timm:{name}", 64)
    assert not family_of(f"timm:{name}").fits(f"timm:{name}", 28)
    with pytest.raises(SSLToolError, match="--image-size 32"):
        build(name, 28)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("foo=3", "foo"),
        ("output_stride=8,foo=3", "foo"),
        ("act_layer=silly", "act_layer"),
        ("global_pool=", "global_pool"),
        ("num_classes=10", "num_classes"),
        ("pretrained=true", "pretrained"),
        ("checkpoint_path=x.pt", "checkpoint_path"),
        ("features_only=true", "features_only"),
        ("in_chans=1", "in_chans"),
        ("img_size=64", "--image-size"),
        ("act_layer=null", "act_layer"),
        ("foo", "foo"),
    ],
)
def test_a_setting_that_timm_does_not_take_is_named(setting, named):
    with pytest.raises(UsageError) as error:
        build(f"resnet18,{setting}", 64)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_setting_of_null_is_passed_on():
    names = build("convnext_atto,ls_init_value=null", 32)[0].state_dict().keys()
    assert not any("gamma" in name for name in names)
    assert any("gamma" in name for name in build("convnext_atto,ls_init_value=1e-6", 32)[0].state_dict())


def test_a_tag_names_weights_and_the_transform_but_not_another_network():
    plain, tagged = build("resnet18", 64)[0], build("resnet18.a1_in1k", 64)[0]
    assert all(map(torch.equal, plain.state_dict().values(), tagged.state_dict().values()))
    with pytest.raises(UsageError, match="a1_in1k"):
        build("resnet18.a9_in1k", 64)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("timm/resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("convnext_atto", "timm:convnext_atto"),
        ("convnext_tiny", "torchvision:convnext_tiny"),
        ("timm:resnet51", "resnet50"),
        ("timm:hf-hub:timm/resnet50", "unknown timm architecture"),
        ("timm:", "list_models"),
    ],
)
def test_an_unknown_name_suggests_what_was_meant(name, meant):
    with pytest.raises(UsageError) as error:
        build_backbone(name)
    assert meant in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_of_two_thousand_characters_is_the_longest():
    with pytest.raises(UsageError, match="2,000"):
        build("resnet18,foo=" + "x" * 2000, 64)


def test_without_timm_other_architectures_work_and_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert is_known("timm:resnet18")
    build_backbone("resnet18_w8")
    build_backbone("torchvision:mobilenet_v3_small", image_size=64)
    with pytest.raises(UsageError, match=r"ssltool\[timm\]"):
        build_backbone("timm:resnet18")
    with pytest.raises(UsageError, match="torchvision:convnext_tiny"):
        build_backbone("convnext_tiny")


def test_names_of_timm_are_known_without_a_list_of_them():
    assert is_known("timm:anything")
