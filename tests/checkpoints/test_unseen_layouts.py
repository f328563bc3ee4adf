"""Layouts that people have beside those of published programs: read right, or refused with what to do."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

pytest.importorskip("timm")

import timm
from modern_checkpoints import _features, small_vit

from checkpoint_helpers import lightning, linear, noise, resnet, settled, small_resnet, under
from ssltool.checkpoints.convert import ForeignBackbone, find_backbone, read_checkpoint
from ssltool.errors import SSLToolError
from ssltool.models.backbones import build_backbone


def outputs(found: ForeignBackbone, images: torch.Tensor) -> torch.Tensor:
    network, _ = build_backbone(found.spec.arch, stem=found.spec.stem, image_size=images.shape[-1])
    network.load_state_dict(found.weights)
    with torch.inference_mode():
        return network.eval()(images)


def assert_right(entries, network, size, **given) -> ForeignBackbone:
    found = find_backbone("x.pth", entries, **given)
    images = noise(size, seed=5)
    with torch.inference_mode():
        torch.testing.assert_close(outputs(found, images), network(images), rtol=1e-4, atol=1e-4)
    return found


def separate(state, names=("q", "k", "v")):
    out = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            out |= {name.replace("qkv", part): rows.clone() for part, rows in zip(names, tensor.chunk(3), strict=True)}
        else:
            out[name] = tensor
    return out


# Read


@pytest.mark.parametrize("names", [("q", "k", "v"), ("q_proj", "k_proj", "v_proj")])
def test_queries_keys_and_values_in_three_matrices_are_joined(names):
    model = small_vit()
    assert_right(separate(model.state_dict(), names), _features(model), 32)


def test_queries_with_biases_that_the_keys_lack_are_refused():
    state = separate(small_vit().state_dict())
    with pytest.raises(SSLToolError, match=r"attn\.[qv]\.bias"):
        find_backbone("x.pth", {name: tensor for name, tensor in state.items() if not name.endswith("k.bias")})


def children_without_pooling(model: nn.Module) -> nn.Sequential:
    return nn.Sequential(*[child for name, child in model.named_children() if name not in ("maxpool", "fc")])


def test_children_of_a_resnet_without_its_pooling_are_found():
    model = small_resnet(padding=1)
    found = assert_right(under("f.", children_without_pooling(model)) | linear("g.", 0, 3), model, 64)
    assert found.spec.stem == "small"


def test_a_large_stem_whose_pooling_is_missing_is_refused():
    with pytest.raises(SSLToolError, match="without pooling"):
        find_backbone("x.pth", under("f.", children_without_pooling(resnet())))


@pytest.mark.parametrize("average", ["ema", "ema_model", "ema_state_dict", "params_ema"])
def test_the_average_of_the_weights_is_taken_and_the_other_network_is_named(average):
    model = resnet()
    found = assert_right({"model": resnet(1).state_dict(), average: under("module.", model)}, model, 64)
    assert found.found.others == ("model",)


def test_a_vit_that_pools_by_attention_is_that_of_siglip():
    model = small_vit(class_token=False, global_pool="map")
    assert assert_right(model.state_dict(), _features(model), 32).spec.arch.startswith("timm:vit_base_patch16_siglip")


def test_the_image_size_of_sams_encoder_is_that_of_its_positions():
    arch = "timm:samvit_base_patch16,depth=2,embed_dim=128,num_heads=2,global_attn_indexes=[1],window_size=2"
    shape = {"depth": 2, "embed_dim": 128, "num_heads": 2, "global_attn_indexes": (1,), "window_size": 2}
    model = settled(timm.create_model("samvit_base_patch16", img_size=64, num_classes=0, **shape), 0, 64)
    state = under("image_encoder.", model)
    assert_right(state, _features(model), 64, arch=arch)
    with pytest.raises(SSLToolError, match="-a timm:samvit_base_patch16"):
        find_backbone("x.pth", state)


# What is not known is said


@pytest.mark.parametrize(("make", "words"), [(resnet, "average pooling"), (small_vit, "the class token is the output")])
def test_any_network_in_a_file_of_lightning_is_not_lightlys(make, words):
    found = find_backbone("x.ckpt", lightning(under("backbone.", make()) | linear("projector.", 0)))
    assert found.layout.program == "Lightning" and words in found.assumed


def test_what_a_resnets_weights_do_not_show_is_all_named():
    words = {"ReLU", "max pooling in the stem", "no anti-aliasing", "average pooling", "output stride 32"}
    assert set(find_backbone("x.pth", dict(resnet().state_dict())).assumed) == words


def test_a_mask_token_alone_is_not_dinov2s():
    found = find_backbone("x.pth", dict(small_vit().state_dict()) | {"mask_token": torch.zeros(1, 1, 128)})
    assert found.layout.program == "timm" and "GELU" in found.assumed


def test_the_norm_that_lightly_train_leaves_out_is_named():
    model = timm.create_model("convnext_atto", num_classes=0, depths=(1, 1, 1, 1))
    state = under("embedding_model.wrapped_model._model.", model)
    (words,) = find_backbone("x.ckpt", {"state_dict": state, "lightly_train": {"version": "0"}}).assumed
    assert "last norm" in words


def test_bare_weights_read_by_name_are_of_its_library():
    from torchvision.models import shufflenet_v2_x0_5

    found = find_backbone("x.pth", dict(shufflenet_v2_x0_5().state_dict()), arch="torchvision:shufflenet_v2_x0_5")
    assert found.layout.program == "torchvision"


# Refused, with what to do


def rounded(state):
    return {name: tensor.to(torch.int8) if tensor.dim() > 1 else tensor for name, tensor in state.items()}


def emptied(state):
    return {name: tensor if "running" in name else torch.empty(0) for name, tensor in state.items()}


def adapted(state):
    adapters = {f"blocks.{i}.attn.qkv.lora_{part}.default.weight": torch.ones(4, 4) for i in (0, 1) for part in "AB"}
    return dict(state) | adapters


def in_adapters(state):
    return {"base_model.model." + name.replace("qkv.", "qkv.base_layer."): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("entries", "advice"),
    [
        (lambda: rounded(resnet().state_dict()), "int8.*quantised.*float32"),
        (lambda: {"module": emptied(resnet().state_dict())}, r"zero_to_fp32\.py"),
        (lambda: adapted(small_vit().state_dict()), r"LoRA.*merge_and_unload"),
        (lambda: in_adapters(small_vit().state_dict()), r"LoRA.*merge_and_unload"),
        (lambda: torch.optim.SGD(resnet().parameters(), 0.1).state_dict(), "optimizer"),
        (dict, "empty"),
        (lambda: {"epoch": 3, "model": {}}, "only epoch, model"),
        (lambda: {"visual.attnpool.positional_embedding": torch.ones(3, 3)}, "CLIP.*timm"),
        (lambda: {"to_patch_embedding.1.weight": torch.ones(3, 3)}, r"vit-pytorch.*\.npz"),
        (lambda: {"trunk_output.block1.block1-0.proj.0.weight": torch.ones(2)}, "-a torchvision:regnet"),
        (lambda: {"patch_embed.proj.weight": torch.ones(8, 3, 2, 4, 4)}, r"video.*V-JEPA.*\.npz"),
        (lambda: small_vit().state_dict() | {"dist_token": torch.ones(1, 1, 128)}, "-a timm:deit"),
    ],
)
def test_other_contents_are_named_with_what_to_do(entries, advice):
    with pytest.raises(SSLToolError, match=advice):
        find_backbone("x.pth", entries())


def test_two_networks_of_which_one_is_wrapped_are_both_named():
    pair = under("encoder.teacher.vit.", small_vit()) | under("encoder.student.vit.", small_vit(1))
    pair["encoder.ema_coefficient"] = torch.tensor(0.5)
    with pytest.raises(SSLToolError, match=r"encoder\.teacher\.vit.*--key"):
        find_backbone("x.ckpt", lightning(pair))


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (["model.safetensors", "optimizer.pt", "trainer_state.json"], r"model\.safetensors$"),
        (["optimizer.bin", "pytorch_model.bin"], r"pytorch_model\.bin$"),
        (["optimizer.pt"], "name a file of weights$"),
        (
            ["pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp"],
            "dcp_to_torch .*pytorch_model_fsdp_0 ",
        ),
        (["latest", "global_step5/mp_rank_00_model_states.pt"], r"mp_rank_00_model_states\.pt.*zero_to_fp32\.py"),
        (["model.safetensors.index.json", "model-00001-of-00002.safetensors"], r"config\.json"),
    ],
)
def test_folders_of_trainers_name_the_file_to_read(tmp_path, files, advice):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({}))
    with pytest.raises(SSLToolError, match=advice):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(SSLToolError, match="git lfs pull"):
        read_checkpoint(tmp_path / name)


def test_the_weights_beside_a_trainers_state_are_read(tmp_path):
    model = small_vit()
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    _, found = read_checkpoint(tmp_path / "model.safetensors")
    assert found is not None
    images = noise(32, seed=5)
    with torch.inference_mode():
        torch.testing.assert_close(outputs(found, images), _features(model)(images))
