"""One rule for nested files: the weights are the dict of tensors that is a whole network, wherever it is."""

from __future__ import annotations

import functools
import itertools
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from PIL import Image
from torch import nn

from checkpoint_helpers import bare, dino, linear, mocov3_vit, norm, resnet, solo, under
from ssltool.checkpoints.build import backbone_weights
from ssltool.checkpoints.checkpoint_layouts import CONTAINERS
from ssltool.checkpoints.convert import read_checkpoint
from ssltool.checkpoints.find_weights import find_weights
from ssltool.errors import SSLToolError
from ssltool.files.torch_files import load_dict
from ssltool.reprs.representations import Representations

resnet = functools.cache(resnet)


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(resnet(seed).state_dict())


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


def nested(path: str, inner: Any) -> dict[Any, Any]:
    for key in reversed(path.split("/")):
        inner = {key: inner} | BESIDE
    return inner


OPTIMIZER = {
    "state": {0: {"exp_avg": torch.ones(8, 3, 7, 7), "step": torch.tensor(1.0)}, 1: {"exp_avg": torch.ones(8)}},
    "param_groups": [{"lr": 0.1, "params": [0, 1]}],
}
BESIDE = {"epoch": 3, "optimizer": OPTIMIZER, "scaler": {"scale": 2.0}, "queue": torch.ones(4, 4), 7: torch.ones(2)}


@pytest.mark.parametrize(
    "path",
    [
        *("net", "backbone", "encoder", "student", "weights", "params", "model_state", "network", "ema", "target"),
        *("module", "classy_state_dict/base_model/model/trunk", "state/online/net", "a/state_dict", "model/0"),
    ],
)
def test_the_only_network_is_found_under_any_keys(path):
    for prefix in ("", "module.", "_orig_mod.module."):
        found = find_weights("x.pth", nested(path, under(prefix, weights())))
        assert same(found.weights, weights()) and found.path == path and found.others == ()


def test_a_network_in_a_list_and_one_in_a_module_are_found():
    found = find_weights("x.pth", {"models": [{"lr": 1}, weights()], "queue": torch.ones(3)})
    assert same(found.weights, weights()) and found.path == "models/1"


def test_heads_and_optimizers_are_no_networks():
    heads = {"projector": linear("layers.", *range(5)) | norm("bn"), "loss": {"center": torch.ones(1, 4)}}
    found = find_weights("x.pth", {"backbone": weights(), **heads, **BESIDE})
    assert (found.path, found.others) == ("backbone", ())
    assert find_weights("x.pth", BESIDE).weights.keys() == {"queue"}
    assert find_weights("x.pth", {"epoch": 3, "optimizer": OPTIMIZER}).weights == {}


def test_the_weights_that_a_program_evaluates_are_taken_first_and_the_others_are_named():
    for first, second in itertools.pairwise(CONTAINERS):
        found = find_weights("x.pth", {second: weights(1), first: weights(0)})
        assert same(found.weights, weights(0)) and found.path == first and found.others == (second,)
        assert first in str(found) and second in str(found)
    found = find_weights("x.pth", {"model": {"note": "no tensors"}, "state_dict": weights()})
    assert found.path == "state_dict" and str(found) == ""


def test_the_outermost_dict_comes_before_dicts_of_unknown_names():
    found = find_weights("x.pth", weights() | {"history": weights(1)})  # type: ignore[operator]
    assert same(found.weights, weights()) and (found.path, found.others) == ("", ("history",))


def test_several_networks_without_a_rule_are_an_error_that_names_them_and_key_picks():
    entries = {"online": weights(0), "nets": {"target": weights(1), "old": weights(2)}}
    with pytest.raises(SSLToolError, match=r"x\.pth .*'online'.*'nets/target'.*'nets/old'.*--key"):
        find_weights("x.pth", entries)
    for seed, key in enumerate(("online", "nets/target", "nets/old")):
        found = find_weights("x.pth", entries, key)
        assert same(found.weights, weights(seed)) and found.path == key and len(found.others) == 2
    with pytest.raises(SSLToolError, match=r"nothing has the key mine.*'online'.*layer1"):
        find_weights("x.pth", entries, "mine")


@pytest.mark.parametrize("key", ["momentum_backbone", "momentum_backbone.", "state_dict/momentum_backbone"])
def test_key_takes_the_parameters_of_a_prefix(tmp_path, key):
    case = solo()
    other = under("momentum_backbone.", {name: tensor + 1 for name, tensor in case.network.state_dict().items()})
    case.entries["state_dict"] |= other
    torch.save(case.entries, tmp_path / "x.ckpt")
    checkpoint, found = read_checkpoint(tmp_path / "x.ckpt", key=key)
    assert found is not None and found.layout.program == "solo-learn"
    assert found.spec.stem == "small-padded"  # which is not in the weights: the program is still known
    assert same(under("momentum_backbone.", backbone_weights(checkpoint)), other)


def test_what_the_program_tells_holds_for_the_chosen_network(tmp_path):
    torch.save(mocov3_vit().entries, tmp_path / "x.pth")
    default, chosen = (read_checkpoint(tmp_path / "x.pth", key=key)[1] for key in (None, "momentum_encoder"))
    assert default is not None and chosen is not None and default.spec == chosen.spec
    assert chosen.layout.prefix == "momentum_encoder."


@pytest.mark.parametrize(("key", "seed"), [(None, 0), ("teacher", 0), ("student", 1)])
def test_dinos_student_can_be_chosen(tmp_path, key, seed):
    case = dino(resnet, 64)
    torch.save(case.entries, tmp_path / "x.pth")
    checkpoint, found = read_checkpoint(tmp_path / "x.pth", key=key)
    assert found is not None and found.layout.program == "dino"
    assert same(backbone_weights(checkpoint), weights(seed))
    assert ("student" in str(found)) and ("teacher" in str(found))


def test_wrapper_prefixes_are_removed_only_if_all_names_have_them():
    entries = under("_orig_mod.module.", weights())
    assert same(find_weights("x.pth", entries).weights, weights())
    found = find_weights("x.pth", entries | {"c": torch.ones(1)}).weights
    assert list(found) == [*(f"module.{name}" for name in weights()), "c"]


def test_wrappers_inside_a_network_are_removed():
    wrapped = {name.replace("layer2.", "layer2._fsdp_wrapped_module."): tensor for name, tensor in weights().items()}
    assert same(find_weights("x.pth", under("encoder._orig_mod.", wrapped)).weights, under("encoder.", weights()))


def test_dicts_that_hold_themselves_end_the_search():
    inner: dict[str, Any] = {"a": torch.ones(1)}
    inner["b"] = {"c": [inner, inner], "d": inner}
    assert find_weights("x.pth", {"x": inner, **weights()}).path == ""


def test_what_was_taken_and_what_was_not_read_is_said_once(ssltool, tmp_path):
    held = {"args": Namespace(lr=0.1), "best": Path("x"), "model": weights(), "ema": weights(1)}
    torch.save(held, tmp_path / "x.pth")
    ran = ssltool("save-reprs", "--pretrained", tmp_path / "x.pth", "-o", tmp_path / "r.pt", "--image-size", 32)
    assert ran.code == 0
    (line,) = [line for line in ran.err.splitlines() if "argparse.Namespace" in line]
    assert "PosixPath" in line and "'ema'" in line and "'model'" in line


@pytest.mark.parametrize("command", ["save-reprs", "inspect", "export"])
def test_key_is_a_flag_of_every_command_that_reads_a_checkpoint(ssltool, tmp_path, command):
    torch.save({"online": weights(0), "target": weights(1)}, tmp_path / "x.pth")
    path = tmp_path / "x.pth"
    args = {
        "save-reprs": ["--pretrained", path, "-o", tmp_path / "r.pt", "--image-size", 32],
        "inspect": [path, "--json"],
        "export": [path, "-o", tmp_path / "y.pth", "--to", "torchvision"],
    }[command]
    ran = ssltool(command, *args)
    assert "--key" in ran.err + ran.out and "'online'" in ran.err + ran.out
    ran = ssltool(command, *args, "--key", "target")
    if command == "export":  # a width that torchvision has not
        assert "resnet18_w8" in ran.err
    else:
        assert ran.code == 0 and "target" in ran.err + ran.out


def test_rows_of_two_networks_of_one_checkpoint_have_two_default_files(ssltool, tmp_path, monkeypatch, write_images):
    torch.save({"nets": {"online": weights(0), "target": weights(1)}}, tmp_path / "x.pth")
    write_images(tmp_path / "images" / "train" / "a", 3)
    monkeypatch.chdir(tmp_path)
    fixed = ["save-reprs", "images", "--pretrained", "x.pth", "--image-size", 32, "-j", 0, "--device", "cpu", "--json"]
    written = [ssltool(*fixed, "--key", key).json["files"][0]["path"] for key in ("nets/online", "nets/target")]
    one, other = map(Representations.load, written)
    assert not torch.equal(one.representations, other.representations)
    assert (one.meta["key"], other.meta["key"]) == ("nets/online", "nets/target")
    Image.open("images/train/a/000.png").save("new.bmp")  # the same pixels, another content
    ran = ssltool("neighbours", written[1], "new.bmp", "-k", 1, "--json")
    assert ran.code == 0, ran.err  # embedded by the network that computed the rows
    assert ran.json["queries"][0]["neighbours"][0]["distance"] < 1e-5


def test_key_without_effect_is_an_error(ssltool, tmp_path):
    assert ssltool("save-reprs", "--pretrained", "random", "-a", "resnet18", "--key", "x").code == 2
    torch.save(bare().entries, tmp_path / "x.pth")
    assert "layer1" in ssltool("save-reprs", "--pretrained", tmp_path / "x.pth", "--key", "x").err


@pytest.fixture
def two_ranks():
    """This process as the first of two ranks, the other of which does not exist."""
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    torch.distributed.init_process_group("fake", store=fake.FakeStore(), rank=0, world_size=2)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    torch.distributed.destroy_process_group()


def test_whole_tensors_of_ranks_are_read_and_shards_are_named(tmp_path, two_ranks):
    from torch.distributed.tensor import DTensor, Replicate, Shard

    def spread(placement) -> dict[str, torch.Tensor]:
        return {name: DTensor.from_local(t, two_ranks, [placement]) if t.dim() else t for name, t in weights().items()}

    torch.save({"model": spread(Replicate())}, tmp_path / "whole.pth")
    torch.save({"model": spread(Shard(0))}, tmp_path / "rank0.pth")
    assert same(find_weights("whole.pth", load_dict(tmp_path / "whole.pth")).weights, weights())
    with pytest.raises(SSLToolError, match=r"rank0\.pth .*FSDP"):
        read_checkpoint(tmp_path / "rank0.pth")


def test_a_whole_network_inside_other_objects_is_found(tmp_path):
    torch.save({"trainer": nn.ModuleDict({"net": resnet()}), "epoch": 1}, tmp_path / "x.pth")
    _, found = read_checkpoint(tmp_path / "x.pth")
    assert found is not None and found.spec.arch == "resnet18_w8" and found.layout.prefix == "net."
