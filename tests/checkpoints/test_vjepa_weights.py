"""V-JEPA 2's own checkpoints are read into transformers' class, with the same outputs, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hub_helpers import PIXELS, transformers
from torch import Tensor
from vjepa_helpers import original, release, video_model

from checkpoint_helpers import linear, under
from ssltool.checkpoints.convert import ForeignBackbone, find_backbone
from ssltool.checkpoints.timm_derivation import Source
from ssltool.checkpoints.timm_networks import match_timm
from ssltool.errors import SSLToolError
from ssltool.models.backbones import build_backbone

ARGS = {"args": {"model": {"num_heads": 2, "pred_num_heads": 4}, "data": {"crop_size": 32}}}


def read(entries: dict[str, Any], **given: Any) -> ForeignBackbone:
    transformers()
    return find_backbone("vitl.pt", entries, **given)


def outputs(found: ForeignBackbone, images: Tensor = PIXELS) -> Tensor:
    network, _ = build_backbone(found.spec.arch, image_size=images.shape[-1])
    network.load_state_dict(found.weights)
    with torch.inference_mode():
        return network.eval()(images)


def expected(model: Any, images: Tensor = PIXELS) -> Tensor:
    frames = torch.stack([images] * model.config.tubelet_size, dim=1)
    with torch.inference_mode():
        return model(frames, skip_predictor=True).last_hidden_state.mean(dim=1)


@pytest.mark.parametrize("changes", [{}, {"tubelet_size": 3, "mlp_ratio": 48 / 11, "num_hidden_layers": 3}])
def test_the_target_encoder_has_the_outputs_of_transformers_own_class(changes):
    model = video_model(**changes)
    found = read(release(model) | ARGS)
    torch.testing.assert_close(outputs(found), expected(model), rtol=1e-5, atol=1e-5)
    assert (found.layout.program, found.spec.image_size) == ("V-JEPA", 32)
    assert found.found.path == "target_encoder" and "encoder" in found.found.others
    assert len(found.assumed) == 1 and "16 frames" in found.assumed[0]


def test_images_of_another_size_have_the_positions_of_their_grid():
    model = video_model(crop_size=48)
    images = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(outputs(read(release(video_model()) | ARGS), images), expected(model, images))


def test_without_a_target_the_encoder_is_read_and_its_positions_are_assumed():
    model = video_model()
    entries = {"encoder": under("module.backbone.", original(model)), "epoch": 3} | ARGS
    found = read(entries)
    torch.testing.assert_close(outputs(found), expected(model))
    assert {"rotary positions", "GELU"} <= set(found.assumed)


def test_the_context_encoder_is_read_on_request():
    other = video_model(1)
    found = read(release(video_model()) | ARGS, key="encoder")
    torch.testing.assert_close(outputs(found), expected(other))


def test_a_classifier_on_bare_weights_is_left_out():
    model = video_model()
    found = read(original(model) | linear("head.", 0) | ARGS)
    torch.testing.assert_close(outputs(found), expected(model))
    assert found.ignored == ["head"]


def sized(width: int, depth: int, hidden: int, **more: Tensor) -> Source:
    """An encoder of this size without memory."""
    shape = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "mlp_ratio": hidden / width,
        "num_attention_heads": width // 64,
    }
    with torch.device("meta"):
        model = transformers().VJEPA2Model(transformers().VJEPA2Config(**shape, pred_num_hidden_layers=0))
    return Source("vitl.pt", original(model) | more, "V-JEPA", certain=True)


PUBLISHED = {
    "vitl": (1024, 24, 4096, 16, "transformers:vjepa2"),
    "vith": (1280, 32, 5120, 16, "transformers:vjepa2,hidden_size=1280,num_hidden_layers=32"),
    "vitg": (1408, 40, 6144, 22, "num_attention_heads=22"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes_have_the_published_heads(name):
    width, depth, hidden, heads, arch = PUBLISHED[name]
    found = match_timm(sized(width, depth, hidden))
    assert arch in found.arch and found.image_size == 256
    assert found.assumed[0] == "images of 256 pixels" and len(found.assumed) == 2
    with torch.device("meta"):
        network, _ = build_backbone(found.arch)
    assert network.model.config.num_attention_heads == heads


@pytest.mark.parametrize(("tokens", "size"), [(8192, 256), (18432, 384)])
def test_absolute_positions_of_64_frames_show_the_size_and_are_left_out(tokens, size):
    found = match_timm(sized(1024, 1, 64, pos_embed=torch.empty(1, tokens, 1024, device="meta")))
    assert found.image_size == size and "rotary positions" in found.assumed and found.left_out == ["pos_embed"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (lambda: release(video_model(), pos_embed=torch.ones(1, 1568, 48)) | ARGS, r"absolute positions.*\.npz"),
        (lambda: release(video_model()) | {"args": {"model": {"use_rope": False, "num_heads": 2}}}, "absolute pos"),
        (lambda: release(video_model()), r"heads of a ViT of width 48; .*-a transformers:vjepa2,num_att"),
        (lambda: release(video_model(), **{"blocks.0.mlp.fc3.weight": torch.ones(2, 2)}) | ARGS, "not V-JEPA 2"),
        (lambda: release(video_model(), **{"norm.strange": torch.ones(2)}) | ARGS, "not V-JEPA 2"),
        (lambda: release(video_model(), cls_token=torch.ones(1, 1, 48)) | ARGS, "not V-JEPA 2"),
    ],
)
def test_other_networks_for_video_are_refused_in_one_line(entries, message):
    transformers()
    with pytest.raises(SSLToolError, match=message) as error:
        read(entries())
    assert "\n" not in str(error.value)


def test_positions_that_the_settings_call_unused_are_left_out():
    model = video_model()
    entries = release(model, pos_embed=torch.ones(1, 1568, 48)) | {"args": {"use_rope": True, "num_heads": 2}}
    torch.testing.assert_close(outputs(read(entries)), expected(model))


def test_a_missing_weight_is_named():
    entries = release(video_model()) | ARGS
    del entries["target_encoder"]["module.backbone.blocks.1.norm2.bias"]
    with pytest.raises(SSLToolError, match=r"layer\.1\.norm2\.bias"):
        read(entries)


def test_the_name_gives_heads_that_nothing_else_shows():
    model = video_model()
    arch = read(release(model) | ARGS).spec.arch
    torch.testing.assert_close(outputs(read(release(model), arch=arch)), expected(model))
    with pytest.raises(SSLToolError, match=r"vjepa2,hidden_size=96"):
        read(release(model), arch=arch.replace("hidden_size=48", "hidden_size=96"))


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    transformers()
    entries = release(video_model()) | ARGS
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SSLToolError, match=r"pip install 'ssltool\[transformers\]'"):
        read(entries)
