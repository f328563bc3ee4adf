"""Files of the programs since 2021 are read into networks with the outputs of the program's own network."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("timm")

import timm
import vit_reference as vits
from modern_checkpoints import Modern, _features, all_modern

from checkpoint_helpers import linear, noise, settled, under
from ssltool.checkpoints.convert import ForeignBackbone, find_backbone
from ssltool.errors import SSLToolError
from ssltool.models.backbones import build_backbone

CASES = {f"{case.program}, {case.file}": case for case in all_modern()}


def outputs(found: ForeignBackbone, images: torch.Tensor) -> torch.Tensor:
    spec = found.spec
    network, width = build_backbone(spec.arch, stem=spec.stem, image_size=images.shape[-1])
    network.load_state_dict(found.weights)
    with torch.inference_mode():
        out = network.eval()(images)
    assert out.shape == (len(images), width)
    return out


def close(out: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((out - expected).norm() <= 1e-4 * expected.norm())


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_network_that_the_program_evaluates(name):
    case: Modern = CASES[name]
    found = find_backbone("x.pth", case.entries)
    images = noise(case.size, seed=5)
    with torch.inference_mode():
        expected = case.outputs(images)
    assert found.layout.program == case.program and found.spec.arch.startswith(case.arch)
    assert close(outputs(found, images), expected)


VITS = [name for name in CASES if CASES[name].arch.startswith("timm:vit")]


@pytest.mark.parametrize("name", VITS)
def test_a_missing_or_a_strange_weight_is_refused_by_name(name):
    entries = copy.copy(CASES[name].entries)
    key = next((key for key in ("teacher", "model", "target_encoder", "state_dict") if key in entries), None)
    weights = dict(entries if key is None else entries[key])
    ends = ("norm2.bias", "ln_2.bias", ".ln2.bias")
    lost = next(name for name in weights if name.endswith(ends) and "student" not in name)
    without = {name: tensor for name, tensor in weights.items() if name != lost}
    strange = weights | {f"{lost}_strange": weights[lost]}
    for changed, word in ((without, r"norm2\.bias"), (strange, "strange")):
        with pytest.raises(SSLToolError, match=word):
            find_backbone("x.pth", changed if key is None else entries | {key: changed})


def test_a_dinov3_with_biases_of_the_keys_is_refused():
    state = vits.dinov3()
    state = {name: tensor for name, tensor in state.items() if not name.endswith("bias_mask")}
    with pytest.raises(SSLToolError, match="biases of the keys"):
        find_backbone("x.pth", state)


def test_heads_that_the_weights_do_not_show_are_asked_for():
    model = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=0)
    with pytest.raises(SSLToolError, match=r"heads.* 48.*-a timm:"):
        find_backbone("x.pth", dict(model.state_dict()))
    arch = "timm:vit_small_patch16_224,patch_size=8,embed_dim=48,depth=2,num_heads=4"
    found = find_backbone("x.pth", dict(model.state_dict()), arch=arch)
    images = noise(32, seed=5)
    with torch.inference_mode():
        assert close(outputs(found, images), model.eval()(images))


def test_what_the_weights_do_not_show_is_said():
    assert find_backbone("x.pth", vits.weights(scaled=False)).assumed == [
        "2 heads",
        "GELU",
        "the class token is the output",
    ]
    assert find_backbone("x.pth", CASES["solo-learn, MAE"].entries).assumed == []


# What only settings show


def small_resnet18(**settings) -> torch.nn.Module:
    torch.manual_seed(0)
    return settled(timm.create_model("resnet18", channels=(8, 16, 32, 64), **settings), 0)


@pytest.mark.parametrize(
    ("settings", "args"),
    [
        ({"act_layer": "silu"}, {"act_layer": "silu"}),
        ({"global_pool": "catavgmax"}, {"gp": "catavgmax"}),
        ({"global_pool": "catavgmax"}, {}),  # the width of the classifier shows it
        ({"global_pool": "max"}, {"gp": "max"}),
        ({"output_stride": 8}, {"output_stride": 8}),
    ],
)
def test_settings_beside_the_weights_are_used(settings, args):
    network = small_resnet18(**settings)
    found = find_backbone("x.pth", {"state_dict": network.state_dict(), "args": args})
    images = noise(64, seed=5)
    with torch.inference_mode():
        assert close(outputs(found, images), _features(network)(images))


def test_the_model_that_timms_training_script_saved_is_used():
    network = settled(timm.create_model("resnetblur18", channels=(8, 16, 32, 64)), 0)
    args = {"model": "resnetblur18", "model_kwargs": {"channels": [8, 16, 32, 64]}}
    found = find_backbone("x.pth", {"arch": "resnetblur18", "state_dict": network.state_dict(), "args": args})
    images = noise(64, seed=5)
    with torch.inference_mode():
        assert close(outputs(found, images), _features(network)(images))
    assert found.assumed == []


def test_bare_weights_of_a_resnet_say_what_is_assumed():
    assert {"ReLU", "average pooling", "output stride 32"} <= set(
        find_backbone("x.pth", dict(small_resnet18().state_dict())).assumed
    )


# The user's architecture


@pytest.mark.parametrize("model", ["mobilenetv3_small_050", "regnetx_002"])
def test_any_network_of_timm_is_read_by_its_name(model):
    torch.manual_seed(0)
    network = settled(timm.create_model(model, num_classes=10), 0)
    entries = {"model": under("trunk.", network) | linear("projector.", 0)}
    found = find_backbone("x.pth", entries, arch=f"timm:{model}")
    images = noise(64, seed=5)
    with torch.inference_mode():
        assert close(outputs(found, images), _features(network)(images))
    assert found.layout.prefix == "trunk." and "projector" in found.ignored


def test_names_that_a_family_is_published_with_are_read_by_name_too():
    case = CASES["DINOv3, release, ConvNeXt"]
    arch = find_backbone("x.pth", case.entries).spec.arch
    found = find_backbone("x.pth", case.entries, arch=arch)
    images = noise(64, seed=5)
    with torch.inference_mode():
        assert close(outputs(found, images), case.outputs(images))


PIT = "timm:pit_ti_224,depth=[1,1,1],base_dims=[8,8,8]"


def published_pit() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """timm's PiT, and its weights as its authors name them."""
    torch.manual_seed(0)
    network = build_backbone(PIT, image_size=224)[0].eval()
    pools = {f"transformers.{i + 1}.pool.": f"pools.{i}." for i in range(2)}
    weights = {}
    for name, tensor in network.state_dict().items():
        ours = next((prefix for prefix in pools if name.startswith(prefix)), "")
        weights[pools.get(ours, "") + name.removeprefix(ours)] = tensor
    return network, weights


def test_names_that_only_timms_own_filter_knows_are_read():
    network, weights = published_pit()
    assert weights.keys() != network.state_dict().keys()
    found = find_backbone("x.pth", weights, arch=PIT)
    images = noise(224, seed=5)
    with torch.inference_mode():
        assert close(outputs(found, images), network(images))


def test_what_timms_own_filter_drops_is_refused():
    state = {name: tensor for name, tensor in vits.dinov3().items() if not name.endswith("bias_mask")}
    arch = "timm:vit_small_patch16_dinov3_qkvb,embed_dim=128,depth=2,num_heads=2,patch_size=8,mlp_ratio=2"
    with pytest.raises(SSLToolError, match=r"qkv\.bias"):
        find_backbone("x.pth", state, arch=arch)


def test_a_wrong_architecture_is_refused_with_both_names():
    entries = CASES["DINOv2, release"].entries
    with pytest.raises(SSLToolError, match=r"vit_base_patch14_dinov2"):
        find_backbone("x.pth", entries, arch="timm:vit_base_patch14_dinov2")
    with pytest.raises(SSLToolError, match=r"vit_base,.* timm:vit_small_patch14_dinov2"):
        find_backbone("x.pth", entries, arch="vit_base")


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (["s1.b1.conv1.conv.weight"], "-a timm:reg"),
        (["embeddings.patch_embeddings.projection.weight"], r"config\.json"),
        (["student.backbone.blocks.0._fsdp_wrapped_module._flat_param"], r"teacher_checkpoint\.pth"),
        (["features.0.0.weight"], "-a torchvision:"),
        (["something.weight"], "-a timm:NAME"),
    ],
)
def test_an_unknown_network_is_refused_with_what_to_do(names, advice):
    with pytest.raises(SSLToolError, match=advice):
        find_backbone("x.pth", {name: torch.ones(2) for name in names})


def test_without_timm_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SSLToolError, match=r"pip install 'ssltool\[timm\]'"):
        find_backbone("x.pth", CASES["DINOv2, release"].entries)
