"""The ViT of the student/teacher study against a forward pass written from the notebook."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.errors import SSLToolError
from ssltool.models.backbones import build_backbone, family_of, token_layout


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("vit_notebook", image_size=32)[0].eval()


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(x: Tensor, weights: dict[str, Tensor], name: str, heads: int = 4) -> Tensor:
    together = x @ weights[f"{name}.in_proj_weight"].mT + weights[f"{name}.in_proj_bias"]
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in together.chunk(3, dim=2))
    mixed = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v
    return mixed.transpose(1, 2).flatten(2) @ weights[f"{name}.out_proj.weight"].mT + weights[f"{name}.out_proj.bias"]


def reference(images: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Patches of 4 pixels, a class token, positions added, six blocks with norms first, and a last norm."""
    patches = F.unfold(images, 4, stride=4).mT @ w["conv_proj.weight"].flatten(1).mT + w["conv_proj.bias"]
    x = torch.cat([w["class_token"].expand(len(images), -1, -1), patches], dim=1) + w["encoder.pos_embedding"]
    for block in (f"encoder.layers.encoder_layer_{i}" for i in range(6)):
        x = x + attention(norm(x, w, f"{block}.ln_1"), w, f"{block}.self_attention")
        hidden = F.gelu(norm(x, w, f"{block}.ln_2") @ w[f"{block}.mlp.0.weight"].mT + w[f"{block}.mlp.0.bias"])
        x = x + hidden @ w[f"{block}.mlp.3.weight"].mT + w[f"{block}.mlp.3.bias"]
    return norm(x, w, "encoder.ln")


def test_its_tokens_equal_those_of_the_notebooks_forward_pass(vit):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    double = vit.double()
    found = double.tokens(images)
    vit.float()
    assert found.shape == (2, 65, 256)
    torch.testing.assert_close(found, reference(images, {k: v.double() for k, v in vit.state_dict().items()}))


def test_class_token_and_positions_are_trained_and_begin_as_standard_normals(vit):
    positions, token = vit.encoder.pos_embedding, vit.class_token
    assert positions.requires_grad and token.requires_grad
    n = positions.numel()
    assert abs(positions.mean().item()) < 4 / math.sqrt(n)
    assert abs(positions.var().item() - 1) < 4 * math.sqrt(2 / n)
    assert abs(token.var().item() - 1) < 4 * math.sqrt(2 / token.numel())


def test_linear_layers_and_the_patch_embedding_have_pytorchs_initialisation(vit):
    for module in (*(m for m in vit.modules() if type(m) is nn.Linear), vit.conv_proj):
        bound = 1 / math.sqrt(module.weight[0].numel())
        assert 0.98 * bound < module.weight.abs().max() <= bound
        assert 0.9 * bound < module.bias.abs().max() <= bound
    for module in vit.modules():
        if isinstance(module, nn.MultiheadAttention):
            bound = math.sqrt(6 / (256 + 3 * 256))
            assert 0.98 * bound < module.in_proj_weight.abs().max() <= bound
            assert not module.in_proj_bias.any() and not module.out_proj.bias.any()


def test_a_tenth_of_the_embeddings_attention_weights_and_hidden_units_is_dropped_and_no_output_of_attention(vit):
    assert vit.encoder.dropout.p == 0.1
    for block in vit.encoder.layers:
        assert block.self_attention.dropout == 0.1
        assert isinstance(block.dropout, nn.Identity)
        assert [m.p for m in block.mlp if isinstance(m, nn.Dropout)] == [0.1, 0.1]


def test_it_has_patches_of_4_pixels_on_small_images_and_is_one_of_the_vits(vit):
    layout = token_layout(vit)
    assert layout is not None and layout.class_token and layout.registers == 0
    with pytest.raises(SSLToolError, match=r"--image-size 30 .* 4 pixels"):
        build_backbone("vit_notebook", image_size=30)


def test_options_of_other_vits_have_no_effect_on_it():
    with pytest.raises(SSLToolError, match="--stop-grad-conv1"):
        build_backbone("vit_notebook", image_size=32, stop_grad_conv1=True)


@pytest.mark.parametrize("library", ["python", "torchvision"])
def test_the_python_that_builds_it_without_ssltool_gives_the_same_representations(vit, library):
    found = family_of("vit_notebook").counterpart(library, "vit_notebook", stem="auto", image_size=32)
    assert found is not None
    built: dict[str, nn.Module] = {}
    exec(found.build, built)
    model = built["model"].eval()
    model.load_state_dict(found.translate(vit.state_dict()))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(images), vit(images))
