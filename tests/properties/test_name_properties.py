"""Names that are translated come back as they were, whatever they are."""

from __future__ import annotations

import math

import click
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ssltool.checkpoints.parameter_names import NAMING_SCHEMES, find_naming_schemes, timm_name
from ssltool.errors import SSLToolError
from ssltool.models.vit import VITS, ViTShape, patch_size, vit_name, vit_shape
from ssltool.settings import flag

OF_A_LAYER = {
    "norm1.weight": "ln_1.weight",
    "norm1.bias": "ln_1.bias",
    "attn.qkv.weight": "self_attention.in_proj_weight",
    "attn.qkv.bias": "self_attention.in_proj_bias",
    "attn.proj.weight": "self_attention.out_proj.weight",
    "attn.proj.bias": "self_attention.out_proj.bias",
    "norm2.weight": "ln_2.weight",
    "norm2.bias": "ln_2.bias",
    "mlp.fc1.weight": "mlp.0.weight",
    "mlp.fc1.bias": "mlp.0.bias",
    "mlp.fc2.weight": "mlp.3.weight",
    "mlp.fc2.bias": "mlp.3.bias",
}
OF_A_VIT = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj.weight": "conv_proj.weight",
    "patch_embed.proj.bias": "conv_proj.bias",
    "norm.weight": "encoder.ln.weight",
    "norm.bias": "encoder.ln.bias",
}
"""timm's names of a ViT's parameters and torchvision's, as both libraries have them."""

layers = st.integers(0, 200)
widths_and_depths = st.sampled_from([shape[:2] for shape in VITS.values()])
prefixes = st.lists(st.sampled_from(["module", "base_encoder", "0", "student"]), max_size=3).map(
    lambda parts: "".join(f"{part}." for part in parts)
)


def timm_vit() -> dict[str, str]:
    """A ViT with all its parameters: timm's names and torchvision's."""
    (scheme,) = (scheme for scheme in NAMING_SCHEMES if scheme.name == "timm's ViT")
    assert scheme.anchor in OF_A_VIT
    return OF_A_VIT


@given(layers, st.sampled_from(sorted(OF_A_LAYER)))
def test_parameters_of_any_layer_have_torchvisions_names_and_come_back(layer, name):
    (scheme,) = find_naming_schemes(timm_vit()).values()
    theirs, ours = f"blocks.{layer}.{name}", f"encoder.layers.encoder_layer_{layer}.{OF_A_LAYER[name]}"
    assert scheme.rename(theirs) == ours
    assert timm_name(ours) == theirs


@pytest.mark.parametrize(("theirs", "ours"), OF_A_VIT.items())
def test_parameters_outside_the_layers_have_torchvisions_names_and_come_back(theirs, ours):
    (scheme,) = find_naming_schemes(timm_vit()).values()
    assert scheme.rename(theirs) == ours
    assert timm_name(ours) == theirs


@given(prefixes, st.sampled_from(NAMING_SCHEMES))
def test_a_network_is_found_under_any_prefix(prefix, scheme):
    assert find_naming_schemes([f"{prefix}{scheme.anchor}"]) == {prefix: scheme}


@given(
    st.sampled_from([scheme for scheme in NAMING_SCHEMES if scheme.name.startswith("children")]),
    st.integers(1, 4),
    st.integers(0, 40),
    st.sampled_from(["conv1.weight", "bn3.running_var", "downsample.0.weight"]),
)
def test_blocks_of_a_resnets_children_belong_to_their_layer(scheme, layer, block, name):
    """torchvision's children are conv1, bn1, relu, maxpool, layer1...; lightly's lack relu and maxpool."""
    first = {"children of torchvision's": 4, "children of lightly's": 2, "children without pooling": 3}[scheme.name]
    assert scheme.rename(f"{first + layer - 1}.{block}.{name}") == f"layer{layer}.{block}.{name}"


@given(widths_and_depths, st.integers(1, 64), st.none() | st.integers(1, 64), st.integers(0, 16), st.integers(8, 512))
def test_a_vits_name_says_its_shape(width_and_depth, heads, patch, registers, image_size):
    width, depth = width_and_depth
    assume(width % heads == 0)
    name = vit_name(ViTShape(width, depth, heads, patch, registers), image_size)
    assert name is not None
    found = vit_shape(name)
    assert found is not None
    assert (found.dim, found.depth, found.heads, found.registers) == (width, depth, heads, registers)
    assert (found.patch or patch_size(image_size)) == (patch or patch_size(image_size))


@given(st.sampled_from(sorted(VITS)), st.integers(1, 64), st.none() | st.integers(1, 64))
def test_a_number_of_heads_in_a_name_is_taken_where_it_divides_the_width(base, heads, patch):
    arch = f"{base}_h{heads}" + ("" if patch is None else f"_p{patch}")
    width, depth, _ = VITS[base]
    if math.gcd(width, heads) == heads:
        assert vit_shape(arch) == (width, depth, heads, patch, 0)
    else:
        with pytest.raises(SSLToolError):
            vit_shape(arch)


@given(st.from_regex(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", fullmatch=True))
def test_click_reads_the_name_of_a_setting_from_its_flag(name):
    assert click.Option([flag(name)]).name == name
