"""Each program's checkpoint, laid out as it writes them, gives the backbone that the program itself evaluates."""

from __future__ import annotations

import re

import pytest
import timm
import torch
import torchvision
from torch import nn

from checkpoint_helpers import (
    PROGRAMS,
    Case,
    bare,
    dino,
    lightning,
    linear,
    moco,
    moco_vit,
    mocov3,
    noise,
    resnet,
    simsiam,
    under,
    vit,
)
from ssltool.checkpoints.convert import find_backbone, read_checkpoint
from ssltool.checkpoints.load import Pretrained, load_pretrained
from ssltool.config import SaveReprsConfig
from ssltool.errors import SSLToolError


@pytest.fixture
def load(tmp_path):
    """Saves entries and reads the network in them: ``load(entries, arch="vit_small") -> Pretrained``."""

    def loaded(entries: dict, **settings) -> Pretrained:
        torch.save(entries, tmp_path / "foreign.pth")
        config = SaveReprsConfig(pretrained=str(tmp_path / "foreign.pth"), device="cpu", **settings)
        return load_pretrained(config, torch.device("cpu"))

    return loaded


def outputs(network: Pretrained | nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(images) if isinstance(network, nn.Module) else network.method.embed(images, "backbone")


@pytest.mark.parametrize("name", PROGRAMS)
def test_backbone_is_the_one_that_the_program_evaluates(load, name):
    case = PROGRAMS[name]()
    network = load(case.entries)
    images = noise(case.size, seed=5)
    torch.testing.assert_close(outputs(network, images), outputs(case.network, images), rtol=1e-4, atol=1e-4)
    assert not network.method.training
    assert network.origin["program"] == network.run.program == case.program
    assert network.origin["method"] == (case.method or case.program)
    assert network.origin["epoch"] == case.epoch


@pytest.mark.parametrize("name", ["simsiam", "distilled", "byol", "moco", "swav", "a prefix that nobody has"])
def test_ignored_modules_are_listed_once(name):
    case = PROGRAMS[name]()
    assert tuple(sorted(find_backbone("x.pth", case.entries).ignored)) == tuple(sorted(case.ignored))


def test_other_networks_in_the_file_differ():
    """Else the test above would not see the wrong one taken."""
    images = noise(seed=5)
    assert not torch.allclose(outputs(resnet(0), images), outputs(resnet(1), images), rtol=0.1)


def test_stderr_describes_the_backbone_in_one_line(load, capsys):
    load(simsiam().entries)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"simsiam.* resnet18_w8 .*imagenet.*'encoder\.'.* 100.*encoder\.fc, predictor$", line)


@pytest.mark.parametrize("name", ["moco", "moco-v3, ViT", "swav", "lightly, children of a ResNet", "dino"])
def test_incomplete_backbone_is_refused_with_the_missing_names(load, name):
    case = PROGRAMS[name]()
    found = find_backbone("x.pth", case.entries)
    lost = list(found.weights)[-3]
    state = case.entries.get("teacher") or case.entries.get("state_dict") or case.entries
    shape = found.weights[lost].shape
    same = [key for key, tensor in state.items() if tensor.shape == shape and torch.equal(tensor, found.weights[lost])]
    for key in same:
        del state[key]
    with pytest.raises(SSLToolError, match=r"foreign\.pth") as error:
        load(case.entries)
    assert f"missing: {lost}" in str(error.value) and "\n" not in str(error.value)


def test_long_lists_of_missing_names_are_counted(load):
    case = bare()
    entries = {key: tensor for key, tensor in case.entries.items() if not key.startswith("layer4")}
    with pytest.raises(SSLToolError, match=r"resnet18_w8.* missing: .*\(25 "):
        load(entries)


def test_unexpected_weight_is_refused_by_name(load):
    case = simsiam("")
    case.entries["state_dict"]["encoder.layer1.0.attention.weight"] = torch.ones(2)
    with pytest.raises(SSLToolError, match=r"unexpected: layer1\.0\.attention\.weight"):
        load(case.entries)


def test_weight_of_another_shape_is_refused_by_name(load):
    case = bare()
    case.entries["layer4.1.bn2.bias"] = torch.ones(3)
    with pytest.raises(SSLToolError, match=r"shape: layer4\.1\.bn2\.bias"):
        load(case.entries)


def test_batch_norm_counters_may_be_missing(load):
    case = bare()
    entries = {key: tensor for key, tensor in case.entries.items() if "num_batches" not in key}
    assert len(entries) == len(case.entries) - 20
    images = noise(seed=5)
    torch.testing.assert_close(outputs(load(entries), images), outputs(case.network, images))


def test_half_precision_is_converted_to_single(load):
    case = bare()
    network = load({key: t.half() if t.is_floating_point() else t for key, t in case.entries.items()})
    assert {p.dtype for p in network.method.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "resnet34"}, r"--arch .*resnet34.* resnet18_w8"),
        ({"arch": "vit_small"}, r"--arch .*vit_small.* resnet18_w8"),
        ({"arch": "resnet81"}, "'resnet81'"),
        ({"stem": "small"}, r"--stem .*small.* imagenet"),
    ],
)
def test_flags_that_contradict_the_weights_are_refused(load, settings, message):
    with pytest.raises(SSLToolError, match=message):
        load(bare().entries, **settings)
    assert load(bare().entries, arch="resnet18_w8", stem="imagenet").origin["arch"] == "resnet18_w8"


def test_stem_of_a_vit_is_refused(load):
    with pytest.raises(SSLToolError, match=r"--stem small .*ViT"):
        load(dict(vit().state_dict()), stem="small")


def test_user_sets_the_small_stem_if_the_program_is_unknown(load):
    case = PROGRAMS["lightly, its own ResNet"]()
    assert load(case.entries).origin["stem"] == "small"
    assert load(case.entries, stem="small-stride2").origin["stem"] == "small-stride2"
    with pytest.raises(SSLToolError, match=r"--stem .*imagenet.* small .*small-stride2 .*small-padded"):
        load(case.entries, stem="imagenet")
    assert load(PROGRAMS["solo-learn, CIFAR"]().entries, stem="small").origin["stem"] == "small"


def test_completed_epochs_are_counted_as_the_program_saves_them(load):
    weights = torchvision.models.resnet18().state_dict()
    state = {"state_dict": {f"backbone.{name}": tensor for name, tensor in weights.items()}, "epoch": 2}

    def progress(**counts):
        return {"fit_loop": {"epoch_progress": {"current": counts}}}

    lightning = {"pytorch-lightning_version": "2.5", "hyper_parameters": {}}
    cases = {
        3: lightning | {"loops": progress(ready=3, processed=3, completed=2)},  # by a callback in its third epoch
        2: lightning | {"loops": progress(ready=2, processed=2, completed=2)},  # after the training
    }
    for expected, entries in cases.items():
        assert load(state | entries).origin["epoch"] == expected
    assert load(state | lightning).origin["epoch"] == 3
    timm = {"arch": "resnet18", "state_dict": weights, "epoch": 99}
    assert load(timm).origin["epoch"] == 99 and load(timm | {"version": 2}).origin["epoch"] == 100


def test_networks_of_one_file_have_hashes_of_their_own(load):
    student, teacher = (torchvision.models.resnet18().state_dict() for _ in range(2))
    named = {
        name: {f"module.backbone.{k}": tensor for k, tensor in weights.items()}
        for name, weights in {"student": student, "teacher": teacher}.items()
    }
    found = [load(named, key=key).origin["checkpoint_hash"] for key in ("student", "teacher", "student")]
    assert found[0] == found[2] != found[1]


# Heads, which no weight shows


def full_vit(zero_class: bool) -> dict[str, torch.Tensor]:
    """Weights of the shapes of a ViT-S of twelve layers for one patch, in timm's names."""
    with torch.device("meta"):
        model = timm.models.VisionTransformer(img_size=8, patch_size=8, embed_dim=384, num_heads=6, num_classes=0)
    state = {name: torch.ones(tensor.shape, dtype=torch.half) for name, tensor in model.state_dict().items()}
    if zero_class:
        state["pos_embed"][:, 0] = 0
    return state


@pytest.mark.parametrize(
    ("entries", "arch"),
    [
        (lambda s: s, "vit_small_h6_p8"),  # timm's, DINO's releases
        (lambda s: under("module.base_encoder.", s) | under("module.momentum_encoder.", s), "vit_small_p8"),
        (lambda s: under("backbone.", s) | linear("head.last_layer.", 0), "vit_small_h6_p8"),
        (lambda s: lightning(under("backbone.", s) | linear("classifier.", 0)), "vit_small_h6_p8"),
        (
            lambda s: lightning(
                under("backbone.", s)
                | linear("classifier.", 0)
                | linear("momentum_projector.", 0)
                | linear("predictor.", 0)
            ),
            "vit_small_p8",
        ),
    ],
    ids=["timm", "moco-v3", "dino", "solo-learn", "solo-learn's mocov3"],
)
def test_number_of_heads_is_that_of_the_program(entries, arch):
    found = find_backbone("x.pth", entries(full_vit(zero_class=False)))
    assert (found.spec.arch, found.spec.image_size) == (arch, 8)


@pytest.mark.parametrize("program", ["unknown", "simsiam"])  # SimSiam's code has no ViT
def test_vit_with_an_unknown_number_of_heads_needs_an_architecture(program):
    entries = full_vit(zero_class=True)
    if program == "simsiam":
        entries = under("module.encoder.", entries) | linear("module.predictor.", 0)
    with pytest.raises(SSLToolError, match=r"-a vit_small .*12 .*-a vit_small_h6 .*6 "):
        find_backbone("x.pth", entries)
    for arch in ("vit_small_p8", "vit_small_h6_p8"):
        assert find_backbone("x.pth", entries, arch=arch).spec.arch == arch


def test_architecture_with_other_heads_is_refused_unless_its_name_contains_them():
    entries = full_vit(zero_class=False)
    with pytest.raises(SSLToolError, match=r"--arch .*vit_small,.* x\.pth .*vit_small_h6"):
        find_backbone("x.pth", entries, arch="vit_small")
    assert find_backbone("x.pth", entries, arch="vit_small_h12").spec.arch == "vit_small_p8"
    with pytest.raises(SSLToolError, match=r"--arch .*vit_small_h6_p16"):
        find_backbone("x.pth", entries, arch="vit_small_h6_p16")


def test_vits_of_other_sizes_are_those_of_timm():
    network = vit(depth=2)
    found = find_backbone("x.pth", dict(network.state_dict()))
    assert found.spec.arch.startswith("timm:") and found.spec.image_size == 32
    assert found.weights.keys() == network.state_dict().keys()


def test_unsupported_vits_are_refused():
    for extra, name in (("blocks.0.extra.weight", "extra"), ("reg_token", "reg_token")):
        with pytest.raises(SSLToolError, match=name):
            find_backbone("x.pth", dict(vit().state_dict()) | {extra: torch.ones(2)})
    with pytest.raises(SSLToolError, match="18 tokens"):
        find_backbone("x.pth", dict(vit().state_dict()) | {"pos_embed": torch.ones(1, 18, 192)})


# Which network, which file


def test_file_without_a_network_is_refused_with_its_names(load):
    with pytest.raises(SSLToolError, match=r"foreign\.pth .*a\.weight"):
        load({"a.weight": torch.ones(2)})


def test_several_networks_without_a_known_layout_are_refused(load):
    with pytest.raises(SSLToolError, match=r"\(left\., right\.\)"):
        load(under("left.", resnet()) | under("right.", resnet(1)))


def test_other_file_format_is_refused_by_name(tmp_path, write_reprs):
    path = write_reprs("reprs.pt", torch.ones(2, 2))
    with pytest.raises(SSLToolError, match=r"ssltool/checkpoint/1 .*'ssltool/representations/1'"):
        read_checkpoint(path)


def test_checkpoint_of_ssltool_is_not_converted(trained):
    checkpoint, found = read_checkpoint(trained / "checkpoint.pt")
    assert found is None and checkpoint.method == "simsiam" and checkpoint.epoch == 2 and checkpoint.optimizer


@pytest.mark.parametrize("make", [moco, mocov3, dino])
def test_converted_checkpoint_contains_only_the_backbone(tmp_path, make):
    case: Case = make()
    torch.save(case.entries, tmp_path / "x.pth")
    checkpoint, found = read_checkpoint(tmp_path / "x.pth")
    assert found is not None
    assert all(name.startswith("backbone.") for name in checkpoint.state_dict)
    assert (checkpoint.epoch, checkpoint.step, checkpoint.optimizer) == (case.epoch, 0, {})


def test_mocov3_vit_of_depth_three_has_six_heads():
    case = PROGRAMS["moco-v3, ViT"]()
    assert find_backbone("x.pth", case.entries).spec.arch == "vit_small_depth3_p8"
    assert moco_vit().blocks[0].attn.num_heads == 6
