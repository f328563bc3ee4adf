"""CIFAR's wide ResNets: names, shapes, layers, feature maps, and the files of PAWS and solo-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import wide_resnet_reference as reference
from export_helpers import assert_same, described, export

from checkpoint_helpers import lightning, linear, noise, under
from ssltool import load_backbone
from ssltool.checkpoints.convert import ForeignBackbone, find_backbone
from ssltool.errors import SSLToolError, UsageError
from ssltool.models.backbones import architectures, build_backbone, family_of, last_layer
from ssltool.models.depth import layer_groups

STATES = {"PAWS": reference.paws_weights, "solo-learn": reference.solo_weights}
OUTPUTS = {"PAWS": reference.paws, "solo-learn": reference.solo}
SUFFIX = {"PAWS": "", "solo-learn": "_leaky"}
SHAPES = [("PAWS", 1, 1), ("PAWS", 4, 2), *((program, 2, 3) for program in STATES), ("solo-learn", 4, 2)]


def file_of(program: str, state: reference.State) -> dict[str, Any]:
    """A checkpoint as the program's training writes it."""
    if program == "PAWS":
        return {"encoder": under("module.", state | linear("fc.fc", 1, 2, 3)), "opt": {}, "epoch": 5, "amp": {}}
    momentum = under("momentum_backbone.", reference.solo_weights(seed=9))
    heads = linear("classifier", bias=False) | linear("projector.", 0, 2)
    return lightning(under("backbone.", state) | momentum | heads | {"classifier.weight": torch.ones(10, 128)})


def outputs(found: ForeignBackbone, images: torch.Tensor) -> torch.Tensor:
    network, width = build_backbone(found.spec.arch, stem=found.spec.stem, image_size=images.shape[-1])
    network.load_state_dict(found.weights)
    with torch.inference_mode():
        out = network.eval()(images)
    assert out.shape == (len(images), width)
    return out


@pytest.mark.parametrize(("program", "blocks", "widening"), SHAPES)
def test_outputs_are_those_of_the_published_network(program, blocks, widening):
    state = STATES[program](blocks=blocks, widening=widening)
    found = find_backbone("x.ckpt", file_of(program, state))
    assert found.layout.program == program and not found.assumed
    assert found.spec.arch == f"wide_resnet{6 * blocks + 4}w{widening}{SUFFIX[program]}"
    for size in (13, 32):
        images = noise(size)
        torch.testing.assert_close(outputs(found, images), OUTPUTS[program](state, images), rtol=1e-5, atol=1e-5)


def test_norms_that_solo_learn_does_not_use_are_named_as_ignored_and_do_not_matter():
    state = reference.solo_weights(widening=2)
    other = state | {
        name: w + 7 for name, w in state.items() if name.startswith(("block2.layer.0.bn1", "block3.layer.0.bn1"))
    }
    first, second = (find_backbone("x.ckpt", file_of("solo-learn", held)) for held in (state, other))
    assert {"backbone.block2.layer.0.bn1", "backbone.block3.layer.0.bn1"} <= set(first.ignored)
    assert torch.equal(outputs(first, noise(16)), outputs(second, noise(16)))


@pytest.mark.parametrize("program", STATES)
def test_bare_weights_are_read_and_what_they_do_not_show_is_said(program):
    state = STATES[program](widening=2)
    found = find_backbone(
        "x.pth", {"state_dict": state | linear("linear", bias=False) | {"linear.weight": torch.ones(9, 128)}}
    )
    assert ("LeakyReLU of slope 0.1" if program == "solo-learn" else "ReLU") in str(found).split("assumed: ")[1]
    images = noise(16)
    torch.testing.assert_close(outputs(found, images), OUTPUTS[program](state, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("program", STATES)
@pytest.mark.parametrize("name", ["conv1.bias", "{}.conv2.weight", "{}.bn2.running_var", "bn1.weight"])
def test_a_missing_strange_or_differently_shaped_weight_is_refused(program, name):
    state = STATES[program](widening=2)
    name = name.format("layer2.0" if program == "PAWS" else "block2.layer.0")
    without = {key: w for key, w in state.items() if key != name}
    for changed in (without, state | {f"{name}_strange": state[name]}, state | {name: state[name][:1]}):
        with pytest.raises(SSLToolError, match="does not contain one complete backbone; compared with wide_resnet10w2"):
            find_backbone("x.ckpt", file_of(program, changed))


def test_wrong_widths_and_kernels_are_refused():
    wide, narrow = reference.paws_weights(widening=2), reference.paws_weights(widening=1)
    mixed = wide | {name: w for name, w in narrow.items() if name.startswith("layer3.")}
    kernel = wide | {"conv1.weight": torch.ones(16, 3, 5, 5)}
    for state in (mixed, kernel):
        with pytest.raises(SSLToolError, match="of another shape"):
            find_backbone("x.pth", file_of("PAWS", state))


def test_a_network_without_biases_is_refused_because_its_program_is_unknown():
    state = reference.solo_weights(widening=2)
    names = [name for name in state if name.endswith(".bias") and "bn" not in name]
    with pytest.raises(SSLToolError, match=r"missing: .*bias.*\.npz"):
        find_backbone("x.pth", {name: w for name, w in state.items() if name not in names})


def test_a_paws_network_without_the_norms_that_solo_learn_does_not_use_is_refused():
    state = reference.paws_weights(widening=2)
    without = {name: w for name, w in state.items() if not name.startswith(("layer2.0.bn1.", "layer3.0.bn1."))}
    with pytest.raises(SSLToolError, match="missing"):
        find_backbone("x.pth", without)


def test_a_stride_of_the_first_stage_among_solo_learns_settings_is_refused():
    entries = file_of("solo-learn", reference.solo_weights(widening=2))
    for stride, raised in ((1, False), (2, True)):
        settings = {"backbone": {"name": "wide_resnet28w2", "kwargs": {"first_stride": stride}}}
        read = entries | {"hyper_parameters": settings}
        if raised:
            with pytest.raises(SSLToolError, match="first_stride 2"):
                find_backbone("x.ckpt", read)
        else:
            assert find_backbone("x.ckpt", read).spec.arch == "wide_resnet10w2_leaky"


@pytest.mark.parametrize(
    "arch", ["wide_resnet10w2_leaky", "wide_resnet16w2", "wide_resnet50_2", "resnet18", "vit_small"]
)
def test_another_architecture_is_an_error_that_names_both(arch):
    with pytest.raises(SSLToolError, match=rf"{arch}.* contains wide_resnet10w2;"):
        find_backbone("x.pth", file_of("PAWS", reference.paws_weights(widening=2)), arch=arch)


def test_the_own_architecture_is_accepted_and_a_stem_is_not():
    entries = file_of("PAWS", reference.paws_weights(widening=2))
    assert find_backbone("x.pth", entries, arch="wide_resnet10w2", stem="auto").spec.arch == "wide_resnet10w2"
    with pytest.raises(SSLToolError, match="--stem small"):
        find_backbone("x.pth", entries, stem="small")


@pytest.mark.parametrize(
    ("name", "millions"),
    [("wide_resnet28w2", 1.5), ("wide_resnet28w10", 36.5), ("wide_resnet16w8", 11.0), ("wide_resnet40w4", 8.9)],
)
def test_the_numbers_of_parameters_are_those_of_the_paper(name, millions):
    with torch.device("meta"):
        network, _ = build_backbone(name)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("name", ["wide_resnet29w2", "wide_resnet4w2", "wide_resnet999w1"])
def test_a_depth_that_is_not_possible_is_an_error_that_names_the_nearest(name):
    with pytest.raises(UsageError, match=r"use \d+ or \d+"):
        build_backbone(name)


def test_torchvisions_wide_resnets_keep_their_names():
    assert {"wide_resnet50_2", "wide_resnet28w2", "wide_resnet28w8_leaky"} <= set(architectures())
    assert family_of("wide_resnet50_2") is not family_of("wide_resnet28w2")


@pytest.mark.parametrize(
    "name", ["wide_resnet10w1", "wide_resnet10w2", "wide_resnet16w2_leaky", "wide_resnet10w1_leaky"]
)
def test_every_parameter_has_a_gradient_and_a_layer(name):
    torch.manual_seed(0)
    network, width = build_backbone(name, image_size=16)
    out = network(torch.randn(4, 3, 16, 16))
    assert out.shape == (4, width)
    out.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    groups = layer_groups(network, 0.5)
    assert [group["scale"] for group in groups] == [0.5**4, 0.5**3, 0.5**2, 0.5, 1.0]
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_the_output_is_the_mean_of_the_last_feature_map():
    network, width = build_backbone("wide_resnet10w2_leaky")
    network.eval()
    images = noise(32)
    with torch.inference_mode():
        features = last_layer(network, images)
        assert features.shape == (3, width, 8, 8)
        torch.testing.assert_close(features.mean((2, 3)), network(images))


@pytest.mark.parametrize(
    "arch", ["wide_resnet10w1", "wide_resnet16w2", "wide_resnet10w2_leaky", "wide_resnet10w1_leaky"]
)
def test_it_is_exported_with_code_that_builds_it_and_read_back(tmp_path, arch):
    source = described(tmp_path / "a.safetensors", arch, 32)
    assert_same(export(source, "state_dict", tmp_path / "out.pth")["load"], source)
    bare, own = (load_backbone(str(path)) for path in (tmp_path / "out.pth", source))
    assert_same(export(source, "safetensors", tmp_path / "out.safetensors")["load"], source)
    with torch.inference_mode():
        torch.testing.assert_close(bare(noise(32)), own(noise(32)))


def test_it_is_exported_to_torchscript_and_onnx(tmp_path):
    source = described(tmp_path / "a.safetensors", "wide_resnet10w2_leaky", 32)
    assert_same(export(source, "torchscript", tmp_path / "out.pt")["load"], source)
    pytest.importorskip("onnxscript")
    assert_same(export(source, "onnx", tmp_path / "out.onnx")["load"], source)


def test_it_is_pretrained_and_its_tokens_are_its_last_feature_map(tmp_path, ssltool):
    np.save(tmp_path / "some.npy", np.arange(8))
    few = ["--idx-path", tmp_path / "some.npy", "-b", 4, "--device", "cpu", "-j", 0]
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    ran = ssltool("pretrain", "-a", "wide_resnet10w1", *few, "--epochs", 1, "-o", checkpoint.parent)
    assert ran.code == 0, ran.err
    ran = ssltool("save-reprs", "--pretrained", checkpoint, "--tokens", "patch", *few, "-o", tmp_path / "tokens.pt")
    assert ran.code == 0, ran.err
    saved = torch.load(tmp_path / "tokens.pt", weights_only=True)
    assert saved["representations"].shape == (8 * 7 * 7, 64)  # the bundled images have 28 pixels
