"""What a ViT computes if some of its patches are masked or left out, and its registers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ssltool.checkpoints.convert import find_backbone
from ssltool.errors import SSLToolError, UsageError
from ssltool.models.backbones import build_backbone, check_masks, last_layer, masked_tokens, patch_of, token_layout
from ssltool.models.family import TokenLayout
from ssltool.models.masking import Masking
from ssltool.models.vit import counterpart_of, vit_name, vit_shape

SIZE, PATCH = 16, 4
TIMM = "timm:vit_tiny_patch16_224,depth=2,embed_dim=64,num_heads=2,patch_size=4"
ARCHS = [
    "vit_w64_depth2",
    "vit_w64_depth2_r3",
    TIMM,
    f"{TIMM},reg_tokens=3,no_embed_class=True",
    f"{TIMM},class_token=False,global_pool=avg",
]


@pytest.fixture(params=ARCHS)
def network(request) -> nn.Module:
    """A ViT of 16 patches whose tokens differ, also those that begin near zero."""
    if ":" in request.param:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone, _ = build_backbone(request.param, image_size=SIZE)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return backbone.eval()


def images(seed: int = 0) -> Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def repainted(x: Tensor, where: Tensor, colour: float | None = None) -> Tensor:
    """``x`` with other pixels, or those of one ``colour``, in the patches ``where`` (N, P)."""
    grid = where.view(len(x), 1, SIZE // PATCH, SIZE // PATCH)
    pixels = grid.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    return torch.where(pixels, images(1) if colour is None else torch.tensor(colour), x)


def some_masked() -> Tensor:
    """A third of 16 patches, others in each image."""
    return torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 1 / 3


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@torch.no_grad()
def test_if_nothing_is_masked_the_tokens_are_those_of_the_last_layer(network):
    assert torch.equal(masked_tokens(network, images()), last_layer(network, images()))
    nothing = Masking(torch.zeros(3, 16, dtype=torch.bool), torch.randn(64))
    assert torch.equal(masked_tokens(network, images(), nothing), last_layer(network, images()))


@torch.no_grad()
def test_the_pixels_of_a_masked_patch_have_no_influence(network):
    masked = some_masked()
    masking = Masking(masked, torch.randn(64))
    found = masked_tokens(network, images(), masking)
    assert found.shape == last_layer(network, images()).shape
    assert torch.equal(masked_tokens(network, repainted(images(), masked), masking), found)
    assert not torch.allclose(masked_tokens(network, repainted(images(), ~masked), masking), found, atol=1e-3)


@torch.no_grad()
def test_a_mask_token_stands_for_the_embedding_of_a_patch_before_its_position_is_added(network):
    """With the embedding of a grey patch as mask token, masking is the same as painting patches grey."""
    projection = network.conv_proj if hasattr(network, "conv_proj") else network.patch_embed.proj
    grey = projection(torch.full((1, 3, PATCH, PATCH), 0.5)).flatten()
    masked = some_masked()
    found = masked_tokens(network, images(), Masking(masked, grey))
    same(found, last_layer(network, repainted(images(), masked, 0.5)))


@torch.no_grad()
def test_only_kept_patches_have_influence_and_tokens_are_in_their_order(network):
    generator = torch.Generator().manual_seed(3)
    kept = torch.stack([torch.randperm(16, generator=generator)[:5] for _ in range(3)])
    seen = torch.zeros(3, 16, dtype=torch.bool).scatter_(1, kept, True)
    prefix = token_layout(network).prefix
    found = masked_tokens(network, images(), Masking(kept=kept))
    assert found.shape == (3, prefix + 5, 64)
    assert torch.equal(masked_tokens(network, repainted(images(), ~seen), Masking(kept=kept)), found)
    assert not torch.allclose(masked_tokens(network, repainted(images(), seen), Masking(kept=kept)), found, atol=1e-3)
    turned = masked_tokens(network, images(), Masking(kept=kept.flip(1)))
    same(turned, torch.cat([found[:, :prefix], found[:, prefix:].flip(1)], dim=1))


@torch.no_grad()
def test_all_patches_kept_are_the_last_layer_in_another_order(network):
    order = torch.randperm(16, generator=torch.Generator().manual_seed(4))
    prefix, whole = token_layout(network).prefix, last_layer(network, images())
    found = masked_tokens(network, images(), Masking(kept=order.repeat(3, 1)))
    same(found, torch.cat([whole[:, :prefix], whole[:, prefix:][:, order]], dim=1))


def test_the_mask_token_is_trained_and_the_gradient_reaches_each_kept_patch(network):
    token = torch.zeros(64, requires_grad=True)
    masked_tokens(network, images(), Masking(some_masked(), token)).square().sum().backward()
    assert token.grad is not None and token.grad.abs().min() > 0


@pytest.mark.parametrize("arch", ["resnet18_w8", "timm:convnext_atto", f"{TIMM},pos_embed=none"])
def test_networks_whose_patches_cannot_be_masked_are_refused_by_name(arch):
    if ":" in arch:
        pytest.importorskip("timm")
    backbone, _ = build_backbone(arch, image_size=32)
    with pytest.raises(UsageError, match=rf"^toy .*{arch}.* -a") as refused:
        check_masks(backbone, arch, "toy")
    assert "\n" not in str(refused.value)
    with pytest.raises(SSLToolError):
        masked_tokens(backbone, torch.zeros(1, 3, 32, 32))


def test_a_network_whose_patches_can_be_masked_has_a_patch_size(network):
    check_masks(network, "the network", "toy")
    assert patch_of(network) == PATCH


# Registers


def test_registers_follow_the_class_token_and_are_trained():
    backbone, width = build_backbone("vit_w64_depth2_p8_r4", image_size=32)
    assert (width, token_layout(backbone)) == (64, TokenLayout(registers=4))
    assert backbone.registers.shape == (1, 4, 64) and backbone.registers.requires_grad
    assert last_layer(backbone, torch.zeros(2, 3, 32, 32)).shape == (2, 1 + 4 + 16, 64)


def test_registers_have_no_positions():
    """Where one is exchanged for another, so are their outputs, and nothing else changes."""
    torch.manual_seed(0)
    backbone, _ = build_backbone("vit_w64_depth2_r2", image_size=SIZE)
    with torch.no_grad():
        backbone.registers.normal_()
        before = last_layer(backbone.eval(), images())
        backbone.registers.copy_(backbone.registers.flip(1))
        same(last_layer(backbone, images()), before[:, [0, 2, 1, *range(3, 19)]])


def test_without_registers_the_weights_are_those_of_the_same_seed_with_them():
    states = []
    for arch in ("vit_w64_depth2", "vit_w64_depth2_r2"):
        torch.manual_seed(0)
        states.append(build_backbone(arch, image_size=SIZE)[0].state_dict())
    assert states[1].keys() - states[0].keys() == {"registers"}
    assert torch.equal(states[0]["class_token"], states[1]["class_token"])


@pytest.mark.parametrize("arch", ["vit_small_h6_p8_r4", "vit_w64_depth2_r1", "vit_base_r16"])
def test_the_name_says_how_many_registers(arch):
    shape = vit_shape(arch)
    assert shape is not None and shape.registers == int(arch.rpartition("_r")[2])
    assert vit_name(shape, 224) == arch


def test_bare_weights_with_registers_are_recognised():
    weights = build_backbone("vit_tiny_h12_p8_r4", image_size=32)[0].state_dict()
    found = find_backbone("x.pth", weights, arch="vit_tiny_h12_p8_r4")
    assert found.spec.arch == "vit_tiny_h12_p8_r4"
    assert torch.equal(found.weights["registers"], weights["registers"])


def test_a_vit_with_registers_is_a_model_of_timm_and_of_no_other_library():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    arch = "vit_w64_depth2_p8_r4"
    ours, _ = build_backbone(arch, image_size=32)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    found = counterpart_of("timm", vit_shape(arch), 32)
    theirs = timm.create_model(found.model, num_classes=0, **found.arguments).eval()
    theirs.load_state_dict(found.translate(ours.state_dict()))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        same(theirs.forward_features(x), last_layer(ours.eval(), x))
    assert counterpart_of("torchvision", vit_shape(arch), 32) is None
    assert counterpart_of("transformers", vit_shape(arch), 32) is None
