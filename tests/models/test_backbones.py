"""The backbones: every name builds, has the blocks that it promises, and maps images to representations."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vision_transformer import VisionTransformer

from ssltool.errors import SSLToolError, UsageError
from ssltool.models import ARCHITECTURES, Architecture
from ssltool.models.backbones import architectures, build_backbone, patch_tokens, resolve_stem, token_layout
from ssltool.models.family import TokenLayout
from ssltool.models.resnet import VARIANTS
from ssltool.models.vit import VITS, patch_size, vit_name, vit_shape

EXPANSION = {BasicBlock: 1, Bottleneck: 4}


def on_meta(arch: str, **settings) -> tuple[nn.Module, int]:
    """Built without memory or arithmetic."""
    with torch.device("meta"):
        return build_backbone(arch, **settings)


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def stages(model: nn.Module) -> list[nn.Sequential]:
    return [model.layer1, model.layer2, model.layer3, model.layer4]


@pytest.mark.parametrize("arch", architectures())
def test_every_name_builds_a_network_without_a_classifier(arch):
    model, dim = on_meta(arch)
    assert dim in (64, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 2048)
    assert isinstance(model.heads if vit_shape(arch) else getattr(model, "fc", nn.Identity()), nn.Identity)


@pytest.mark.parametrize("arch", ["resnet50", "resnext50_32x4d", *VARIANTS, "resnet34_w32", "resnet50_w16", *VITS])
def test_representations_are_as_wide_as_the_name_says(arch):
    model, dim = on_meta(arch)
    with torch.device("meta"):
        assert model.eval()(torch.empty(2, 3, 224, 224)).shape == (2, dim)


@pytest.mark.parametrize(
    ("arch", "settings", "image_size"),
    [
        ("resnet18", {"stem": "imagenet"}, 32),
        ("resnet18_w16", {"stem": "small-stride2"}, 28),
        ("resnet50_w16", {"stem": "imagenet"}, 64),
        ("resnet18_bottleneck_w64", {"stem": "small-stride2"}, 16),
        ("vit_small_depth3", {}, 32),
    ],
)
def test_representations_are_finite_and_differentiable(arch, settings, image_size):
    torch.manual_seed(0)
    model, dim = build_backbone(arch, image_size=image_size, **settings)
    out = model(torch.randn(2, 3, image_size, image_size))
    assert out.shape == (2, dim)
    assert bool(out.isfinite().all())
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_torchvision_resnets_have_all_parameters_except_the_classifier(arch):
    model, dim = on_meta(arch, stem="imagenet")
    with torch.device("meta"):
        original = torchvision.models.get_model(arch, weights=None)
    assert dim == original.fc.in_features
    assert size(model) == size(original) - size(original.fc)
    names = [name for name, _ in original.named_parameters() if not name.startswith("fc.")]
    assert [name for name, _ in model.named_parameters()] == names


def test_resnet18_has_the_parameters_that_torchvision_documents_less_its_classifiers():
    assert size(on_meta("resnet18", stem="imagenet")[0]) == 11_689_512 - (512 + 1) * 1000


def test_the_names_include_all_documented_families():
    names = set(architectures())
    assert {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"} <= names
    assert {"resnext50_32x4d", "resnet18_bottleneck_w64", "resnet50_nobottleneck", "resnet18_w16"} <= names
    assert {"vit_small", "vit_small_depth6", "vit_small_depth3", "vit_w256_depth6"} <= names


@pytest.mark.parametrize(
    ("arch", "block", "counts"),
    [
        ("resnet18_bottleneck_w64", Bottleneck, [2, 2, 2, 2]),
        ("resnet18_bottleneck_w96", Bottleneck, [2, 2, 2, 2]),
        ("resnet18_bottleneck_w128", Bottleneck, [2, 2, 2, 2]),
        ("resnet50_nobottleneck", BasicBlock, [5, 6, 9, 4]),
    ],
)
def test_the_papers_variants_have_its_blocks(arch, block, counts):
    model, dim = on_meta(arch)
    assert [len(stage) for stage in stages(model)] == counts
    assert {type(b) for stage in stages(model) for b in stage} == {block}
    assert dim == 512 * EXPANSION[block]


@pytest.mark.parametrize("width", [64, 96, 128])
def test_the_number_in_a_bottleneck_variants_name_is_the_width_of_its_inner_convolutions(width):
    model, _ = on_meta(f"resnet18_bottleneck_w{width}")
    assert [stage[0].conv2.out_channels for stage in stages(model)] == [width * 2**i for i in range(4)]
    assert [stage[0].conv3.out_channels for stage in stages(model)] == [256, 512, 1024, 2048]


def test_the_resnet50_without_bottlenecks_has_about_as_many_parameters():
    ours, theirs = (size(on_meta(arch)[0]) for arch in ("resnet50_nobottleneck", "resnet50"))
    assert 0.8 < ours / theirs < 1.6


@pytest.mark.parametrize(("base", "width"), [("resnet18", 2), ("resnet18", 32), ("resnet34", 8), ("resnet50", 16)])
def test_a_narrow_resnet_has_proportional_widths(base, width):
    narrow, dim = on_meta(f"{base}_w{width}")
    original, full = on_meta(base)
    assert dim * 64 == full * width
    for (name, ours), (other, theirs) in zip(narrow.named_modules(), original.named_modules(), strict=True):
        kind = nn.Conv2d if isinstance(theirs, nn.Conv2d) else type(theirs)
        assert not name or (name == other and isinstance(ours, kind))
        if isinstance(ours, nn.Conv2d):
            assert ours.out_channels * 64 == theirs.out_channels * width
            assert name == "conv1" or ours.in_channels * 64 == theirs.in_channels * width
            assert (ours.stride, ours.kernel_size, ours.padding) == (theirs.stride, theirs.kernel_size, theirs.padding)
        if isinstance(ours, nn.BatchNorm2d):
            assert ours.num_features * 64 == theirs.num_features * width


def test_a_narrow_resnet_of_width_64_is_the_original():
    assert size(on_meta("resnet18_w64")[0]) == size(on_meta("resnet18")[0])


@pytest.mark.parametrize("width", [2, 8])
def test_a_narrow_resnet_has_the_same_gradient_in_the_channels_last_format(width):
    images = torch.randn(8, 3, 112, 112, generator=torch.Generator().manual_seed(0))  # oneDNN failed from 112 pixels
    network, _ = build_backbone(f"resnet18_w{width}", stem="small-stride2")
    network.eval()
    plain = copy.deepcopy(network)
    network.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last)).sum().backward()
    plain(images).sum().backward()
    for parameter, other in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-3, atol=1e-3 * float(other.grad.abs().max()))


def test_residual_branches_start_at_zero_only_with_zero_init_residual():
    for zero in (True, False):
        model, _ = build_backbone("resnet18_w8", zero_init_residual=zero)
        last = [block.bn2.weight for stage in stages(model) for block in stage]
        assert all(bool((weight == (0.0 if zero else 1.0)).all()) for weight in last)


@pytest.mark.parametrize(
    ("stem", "kernel", "stride", "pooled", "side"),
    [
        ("imagenet", 7, 2, True, 16),
        ("small", 3, 1, False, 64),
        ("small-stride2", 3, 2, False, 32),
        ("small-padded", 3, 1, False, 66),
    ],
)
@pytest.mark.parametrize("arch", ["resnet18", "resnet50_w16", "resnet18_bottleneck_w96"])
def test_a_stem_is_its_convolution_and_its_pooling(arch, stem, kernel, stride, pooled, side):
    model, _ = on_meta(arch, stem=stem)
    assert (model.conv1.kernel_size, model.conv1.stride) == ((kernel, kernel), (stride, stride))
    assert isinstance(model.maxpool, nn.MaxPool2d) is pooled
    with torch.device("meta"):
        out = model.maxpool(model.relu(model.bn1(model.conv1(torch.empty(1, 3, 64, 64)))))
    assert out.shape[-2:] == (side, side)


@pytest.mark.parametrize(
    ("stem", "image_size", "wanted"),
    [
        ("auto", 28, "small"),
        ("auto", 64, "small"),
        ("auto", 65, "imagenet"),
        ("auto", 224, "imagenet"),
        ("imagenet", 28, "imagenet"),
        ("small-stride2", 224, "small-stride2"),
    ],
)
def test_the_automatic_stem_is_small_up_to_64_pixels(stem, image_size, wanted):
    assert resolve_stem("resnet18", stem, image_size) == wanted


def test_the_auto_stem_builds_the_resolved_stem():
    for image_size, kernel in ((32, 3), (224, 7)):
        assert on_meta("resnet18", image_size=image_size)[0].conv1.kernel_size == (kernel, kernel)


@pytest.mark.parametrize(
    ("arch", "width", "depth", "heads"),
    [
        ("vit_small", 384, 12, 12),
        ("vit_small_depth6", 384, 6, 6),
        ("vit_small_depth3", 384, 3, 6),
        ("vit_w256_depth6", 256, 6, 4),
        ("vit_tiny", 192, 12, 3),
        ("vit_base", 768, 12, 12),
        ("vit_small_h6", 384, 12, 6),
        ("vit_small_h6_p8", 384, 12, 6),
    ],
)
def test_a_vit_has_its_width_depth_and_heads(arch, width, depth, heads):
    model, dim = on_meta(arch)
    attention = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    assert len(model.encoder.layers) == len(attention) == depth
    assert {m.num_heads for m in attention} == {heads}
    assert dim == width
    assert model.encoder.layers[0].mlp[0].out_features == 4 * width


@pytest.mark.parametrize(("image_size", "patch"), [(32, 4), (64, 4), (96, 16), (224, 16)])
def test_a_vits_patches_are_small_on_small_images(image_size, patch):
    model, _ = on_meta("vit_small_depth3", image_size=image_size)
    assert model.conv_proj.kernel_size == model.conv_proj.stride == (patch, patch)
    assert model.encoder.pos_embedding.shape == (1, 1 + (image_size // patch) ** 2, 384)


@pytest.mark.parametrize("image_size", [32, 224])
def test_the_patch_size_in_a_vits_name_holds_at_any_image_size(image_size):
    model, _ = on_meta("vit_small_depth3_p8", image_size=image_size)
    assert model.conv_proj.kernel_size == model.conv_proj.stride == (8, 8)
    assert model.encoder.pos_embedding.shape == (1, 1 + (image_size // 8) ** 2, 384)


@pytest.mark.parametrize(
    ("name", "image_size", "shortest"),
    [
        ("vit_small", 224, "vit_small"),
        ("vit_small_p16", 224, "vit_small"),
        ("vit_small_p4", 224, "vit_small_p4"),
        ("vit_small_p4", 32, "vit_small"),
        ("vit_small_h12_p8", 224, "vit_small_p8"),
        ("vit_tiny_h12", 32, "vit_tiny_h12"),
    ],
)
def test_the_shortest_name_of_a_vit_builds_the_same_network(name, image_size, shortest):
    found = vit_name(vit_shape(name), image_size)
    assert found == shortest
    state, again = (on_meta(arch, image_size=image_size)[0].state_dict() for arch in (name, shortest))
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in again.items()}
    assert vit_shape(name).heads == vit_shape(shortest).heads


def test_a_width_not_divisible_by_the_heads_is_refused():
    with pytest.raises(SSLToolError, match=r"vit_small_h7.* 384 "):
        build_backbone("vit_small_h7")


def test_a_vits_positions_are_fixed_sines_and_cosines():
    # MoCo v3, vits.py: [sin(w x), cos(w x), sin(w y), cos(w y)] with w_i = 10000^(-i / (dim / 4)), x the patch's
    # column and y its row, and zeros for the class token.
    model, _ = build_backbone("vit_small_depth3", image_size=32)
    positions = model.encoder.pos_embedding
    assert not positions.requires_grad
    assert positions.shape == (1, 65, 384)
    assert bool((positions[0, 0] == 0).all())
    for row in range(8):
        for column in range(8):
            wanted = [
                f(place * 10000 ** (-i / 96))
                for place in (column, row)
                for f in (math.sin, math.cos)
                for i in range(96)
            ]
            found = positions[0, 1 + 8 * row + column]
            torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-5, rtol=0)  # float32 angles up to 7


def test_a_vits_positions_are_saved_but_never_trained():
    model, _ = on_meta("vit_small_depth3", image_size=32)
    assert "encoder.pos_embedding" in model.state_dict()
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["encoder.pos_embedding"]


def test_stop_grad_conv1_freezes_the_patch_embedding_and_nothing_else():
    model, _ = on_meta("vit_small_depth3", image_size=32, stop_grad_conv1=True)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"encoder.pos_embedding", "conv_proj.weight", "conv_proj.bias"}


def test_a_vits_weights_are_drawn_within_mocos_bounds():
    torch.manual_seed(0)
    model, _ = build_backbone("vit_small_depth3", image_size=32)
    attention, mlp = model.encoder.layers[0].self_attention, model.encoder.layers[0].mlp
    for weight, fans in (
        (attention.in_proj_weight, 384 + 384),  # each of queries, keys and values by itself
        (attention.out_proj.weight, 384 + 384),
        (mlp[0].weight, 384 + 1536),
        (model.conv_proj.weight, 3 * 4 * 4 + 384),
    ):
        bound = math.sqrt(6 / fans)
        assert 0.99 * bound < float(weight.detach().abs().max()) <= bound
        # A uniform variable's deviation is bound / sqrt(3); of n draws it is known to about 1 / sqrt(n) of itself.
        assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(weight.numel()))
    biases = [attention.in_proj_bias, attention.out_proj.bias, mlp[0].bias, model.conv_proj.bias]
    assert all(bool((bias == 0).all()) for bias in biases)


@pytest.mark.parametrize(
    ("name", "offered"), [("resnet81", "resnet18"), ("resnet18_w17", "resnet18_w16"), ("vit_smal", "vit_small")]
)
def test_an_unknown_name_is_refused_with_the_nearest_names(name, offered):
    with pytest.raises(SSLToolError, match=rf"'{name}'.* {offered}"):
        build_backbone(name)


@pytest.mark.parametrize("name", ["resnet18_w0", "resnet18_w3", "resnet101_w16", "alexnet", "", "resnet18_w-8"])
def test_names_that_only_look_like_an_architecture_are_unknown(name):
    with pytest.raises(SSLToolError, match="unknown architecture"):
        build_backbone(name)


def test_settings_without_effect_are_refused():
    with pytest.raises(SSLToolError, match=r"--stop-grad-conv1 .*resnet18"):
        build_backbone("resnet18", stop_grad_conv1=True)
    with pytest.raises(SSLToolError, match="--stem small"):
        build_backbone("vit_small", stem="small")


def test_a_registered_backbone_refuses_the_settings_of_built_in_families(registries):
    ARCHITECTURES.add("toy", Architecture(lambda: nn.Flatten(), dim=3 * 8 * 8))
    build_backbone("toy", image_size=8)
    for settings, flag in (
        ({"stem": "small"}, "--stem small"),
        ({"zero_init_residual": False}, "--no-zero-init-residual"),
        ({"stop_grad_conv1": True}, "--stop-grad-conv1"),
    ):
        with pytest.raises(UsageError, match=f"{flag} .*toy"):
            build_backbone("toy", image_size=8, **settings)


def test_an_image_size_not_divisible_by_the_patch_size_is_refused():
    with pytest.raises(SSLToolError, match=r"--image-size 100 .* 16 pixels"):
        build_backbone("vit_small", image_size=100)


# Tokens


@pytest.fixture(scope="module")
def vit():
    """A ViT for images of 32 pixels, which are 8 x 8 patches, in eval mode."""
    torch.manual_seed(0)
    return build_backbone("vit_small_depth3", image_size=32)[0].eval()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_a_vit_equals_torchvisions_at_its_own_image_size(vit):
    images = noise(2, 3, 32, 32)
    torch.testing.assert_close(vit(images), VisionTransformer.forward(vit, images))


@pytest.mark.parametrize("image_size", [16, 32, 48])
def test_a_vits_tokens_are_the_class_token_and_one_for_each_patch(vit, image_size):
    tokens = vit.tokens(noise(2, 3, image_size, image_size))
    assert tokens.shape == (2, 1 + (image_size // 4) ** 2, 384)
    assert torch.equal(vit(noise(2, 3, image_size, image_size)), tokens[:, 0])
    assert torch.equal(patch_tokens(vit, noise(2, 3, image_size, image_size)), tokens[:, 1:])


def cubic(distance: float) -> float:
    """Keys's kernel with slope -3/4, by which bicubic interpolation weighs a pixel."""
    a, t = -0.75, abs(distance)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def stretching(own: int, side: int) -> torch.Tensor:
    """The matrix (side, own) of bicubic interpolation between pixel centres, repeating the last pixel at a border."""
    matrix = torch.zeros(side, own)
    for i in range(side):
        centre = (i + 0.5) * own / side - 0.5
        for pixel in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[i, min(max(pixel, 0), own - 1)] += cubic(centre - pixel)
    return matrix


@pytest.mark.parametrize("side", [3, 4, 8, 12, 16])
def test_a_vits_positions_are_interpolated_except_that_of_the_class_token(vit, side):
    positions, matrix = vit.encoder.pos_embedding, stretching(8, side)
    bare = copy.deepcopy(vit)  # without weights and layers, only the positions are left of the tokens
    bare.encoder.layers = bare.encoder.ln = nn.Identity()
    nn.init.zeros_(bare.class_token)
    made = bare.tokens(torch.zeros(1, 3, 4 * side, 4 * side))
    wanted = torch.einsum("yr,xc,rcd->yxd", matrix, matrix, positions[0, 1:].view(8, 8, -1))
    assert torch.equal(made[:, 0], positions[:, 0])
    torch.testing.assert_close(made[0, 1:].view(side, side, -1), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stem", ["imagenet", "small", "small-stride2"])
def test_patch_tokens_of_a_resnet_are_the_positions_of_its_last_feature_map(stem):
    torch.manual_seed(0)
    model = build_backbone("resnet18_w8", stem=stem, image_size=64)[0].eval()
    maps: list[torch.Tensor] = []
    model.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output))
    images = noise(2, 3, 64, 64)
    pooled, tokens = model(images), patch_tokens(model, images)
    n, channels, height, width = maps[0].shape
    assert tokens.shape == (n, height * width, channels) and height > 1
    torch.testing.assert_close(tokens.view(n, height, width, channels).permute(0, 3, 1, 2), maps[0])
    torch.testing.assert_close(tokens.mean(dim=1), pooled)


def test_patch_tokens_of_another_network_are_refused():
    with pytest.raises(SSLToolError, match="Linear"):
        patch_tokens(nn.Linear(2, 2), noise(1, 3, 8, 8))


def test_vits_have_tokens_and_resnets_feature_maps():
    with_tokens = [
        arch
        for arch in ("resnet18", "vit_small", "vit_w256_depth6", *VARIANTS)
        if token_layout(on_meta(arch)[0]) == TokenLayout(class_token=True, registers=0)
    ]
    assert with_tokens == ["vit_small", "vit_w256_depth6"]


@pytest.mark.parametrize(("image_size", "patch"), [(16, 4), (64, 4), (65, 16), (224, 16)])
def test_patches_are_4_pixels_wide_up_to_64_and_16_above(image_size, patch):
    assert patch_size(image_size) == patch
