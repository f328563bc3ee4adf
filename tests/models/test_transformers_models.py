"""Backbones of transformers: outputs as the library's own classes compute them, tokens, sizes and names."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from hub_helpers import CASES, PIXELS, close, network, transformers
from torch import Tensor

from ssltool.checkpoints.transformers_weights import select_backbone
from ssltool.errors import SSLToolError, UsageError
from ssltool.models.arch_name import parse
from ssltool.models.backbones import build_backbone, depends_on_size, last_layer, patch_tokens, token_layout
from ssltool.models.transformers_config import MODEL_TYPES, TOWERS, name_of_config

TINY = ",hidden_size=32,num_hidden_layers=2,num_attention_heads=4,intermediate_size=64,patch_size=8"


def tower(model: Any) -> Any:
    """The part of a model that maps images to features: its image encoder, or what is before its classifier."""
    if model.config.model_type in TOWERS or hasattr(model, "vision_model"):
        return model.vision_model
    return model if type(model).__name__.endswith("Model") else getattr(model, model.base_model_prefix, model)


def own(model: Any, pixels: Tensor) -> Tensor:
    """The representation by the library's own class: the class token, or else the pooled output or the mean."""
    part, kind = tower(model), model.config.model_type
    if kind == "vit_mae":
        part.config.mask_ratio = 0.0
        return part(pixels).last_hidden_state[:, 0]  # in any order of the patches
    if kind.startswith("siglip2"):
        from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

        rows = torch.stack([convert_image_to_patches(image, 8) for image in pixels])
        sizes = torch.tensor([[4, 4]] * len(pixels))
        return part(rows, torch.ones(len(pixels), 16, dtype=torch.int32), sizes).pooler_output
    if kind == "vjepa2":  # the image as a video of two frames
        return part(torch.stack([pixels, pixels], dim=1)).last_hidden_state.mean(1)
    out = part(pixels)
    if kind in ("vit", "deit", "vit_msn") or "dinov" in kind:
        return out.last_hidden_state[:, 0]
    pooled = getattr(out, "pooler_output", None)
    return out.last_hidden_state.mean(1) if pooled is None else pooled.flatten(1)


def backbone_of(model: Any) -> Any:
    config = model.config.to_dict()
    config = config.get("vision_config", config)
    arch = name_of_config(TOWERS.get(config["model_type"], config["model_type"]), config)
    weights, _ = select_backbone(arch, model.state_dict())
    built, width = build_backbone(arch, image_size=32)
    built.load_state_dict(weights)
    assert width == built.width
    return built.eval()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_outputs_are_those_of_the_librarys_own_class(case):
    model = network(case)
    backbone = backbone_of(model)
    close(backbone(PIXELS), own(model, PIXELS))
    assert torch.equal(backbone(PIXELS), backbone(PIXELS))  # MAE draws no mask


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_tokens_are_in_the_order_of_the_layout(case):
    backbone = backbone_of(network(case))
    layout, tokens = token_layout(backbone), last_layer(backbone, PIXELS)
    if layout is None:
        assert tokens.dim() == 4 and tokens.shape[1] == backbone.width
        return
    assert tokens.shape == (2, 16 + layout.prefix, backbone.width)
    assert patch_tokens(backbone, PIXELS).shape == (2, 16, backbone.width)
    if layout.class_token:
        close(tokens[:, 0], backbone(PIXELS))
    # A change of the last patch changes the last token most.
    changed = PIXELS.clone()
    changed[:, :, 24:, 24:] += 5
    moved = (last_layer(backbone, changed) - tokens)[:, layout.prefix :].norm(dim=-1)
    assert moved.argmax(1).tolist() == [15, 15]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_images_of_another_size_are_read_without_other_weights(case):
    backbone = backbone_of(network(case))
    assert not depends_on_size(backbone, 48)
    assert backbone(torch.zeros(1, 3, 48, 48)).shape == (1, backbone.width)
    if token_layout(backbone) is not None:
        with pytest.raises(SSLToolError, match=r"44 pixels .* 8 pixels .* 48"):
            backbone(torch.zeros(1, 3, 44, 44))


@torch.no_grad()
def test_rotary_positions_follow_the_size_of_each_input():
    model = network("VJEPA2Model")
    other = type(model)(type(model.config)(**(model.config.to_dict() | {"crop_size": 48}))).eval()
    other.load_state_dict(model.state_dict())
    backbone, images = backbone_of(model), torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(4))
    close(backbone(images), own(other, images))
    close(backbone(PIXELS), own(model, PIXELS))


def test_every_supported_type_is_tested():
    library = transformers()
    tested = {getattr(library, config)().model_type for config, _ in CASES.values()}
    assert {TOWERS.get(kind, kind) for kind in tested} == MODEL_TYPES.keys()


def test_a_name_without_settings_is_the_librarys_default():
    arch = "transformers:vit"
    with torch.device("meta"):
        backbone, width = build_backbone(arch)
    assert width == 768 and depends_on_size(backbone, 48) and not depends_on_size(backbone, 224)
    assert str(parse(name_of_config("vit", {}))) == f"{arch},image_size=224"


def test_a_name_without_a_size_is_built_for_the_given_one():
    transformers()
    backbone, _ = build_backbone(f"transformers:vit{TINY}", image_size=16)
    assert backbone.model.embeddings.position_embeddings.shape == (1, 5, 32)


def test_settings_that_do_not_change_the_output_are_not_in_the_name():
    transformers()
    settings = {"id2label": {"0": "x"}, "architectures": ["X"], "dtype": "float16", "_attn_implementation": "other/x"}
    settings |= {"mask_ratio": 0.6, "decoder_hidden_size": 8, "unheard_of": 1, "auto_map": {"AutoModel": "x.y"}}
    assert name_of_config("vit_mae", settings | {"layer_norm_eps": 1e-5}) == (
        "transformers:vit_mae,image_size=224,layer_norm_eps=1e-05"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transformers:vitt", "vitt"),
        ("transformers:vit,sizes=3", "sizes"),
        ("transformers:vit,num_hidden_layers=1000000", "num_hidden_layers"),
        ("transformers:vit,hidden_size=big", "hidden_size"),
        ("transformers:vit,hidden_act=none", "vit"),
        ("transformers:vit,num_channels=1", "1 channels"),
        ("transformers:vit,_attn_implementation=x/y", "_attn_implementation"),
    ],
)
def test_names_that_transformers_cannot_build_are_one_line(name, message):
    transformers()
    with pytest.raises(SSLToolError, match=message) as error, torch.device("meta"):
        build_backbone(name)
    assert "\n" not in str(error.value)


def test_a_width_of_zero_is_an_error_without_a_warning(recwarn):
    transformers()
    with pytest.raises(SSLToolError, match=r"stages\.2"):
        build_backbone("transformers:resnet,hidden_sizes=[8,8,0,8],depths=[1,1,1,1],embedding_size=8")
    assert not recwarn.list


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"ssltool\[transformers\]"):
        build_backbone("transformers:vit")


def test_untrained_networks_follow_the_seed():
    transformers()

    def built(seed):
        torch.manual_seed(seed)
        return build_backbone(f"transformers:dinov2{TINY.replace('intermediate_size=64', 'mlp_ratio=2')}")[0](PIXELS)

    assert torch.equal(built(1), built(1)) and not torch.equal(built(1), built(2))
