"""Settings of the program that wrote a checkpoint, from its entries or from a file beside it."""

from __future__ import annotations

import builtins
import functools
import json
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from ssltool.checkpoints.read import read_entries
from ssltool.checkpoints.side_settings import LARGEST, side_settings


def test_settings_inside_come_before_those_beside(tmp_path):
    (tmp_path / "args.json").write_text('{"arch": "resnet50"}')
    found = side_settings(tmp_path / "x.pth", {"args": {"arch": "vit_small", "patch_size": 16}, "epoch": 3})
    assert found.source == "args" and (found.arch, found.patch_size) == ("vit_small", 16)
    assert found.values == {"epoch": 3, "arch": "vit_small", "patch_size": 16}


@pytest.mark.parametrize("key", ["args", "cfg", "hyper_parameters", "hparams", "config"])
def test_settings_in_objects_inside_are_found(tmp_path, key):
    norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)
    settings = Namespace(model="resnet50", img_size=np.int64(96), act_layer=torch.nn.SiLU, norm_layer=norm)
    torch.save({key: settings, "state_dict": {"a": torch.ones(1)}}, tmp_path / "x.pth")
    found = side_settings(tmp_path / "x.pth", read_entries(tmp_path / "x.pth"))
    assert (found.source, found.arch, found.image_size, found.act_layer) == (key, "resnet50", 96, "silu")
    assert found.values["norm_layer.eps"] == 1e-6


def test_settings_of_omegaconf_inside_are_found(tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    settings = omegaconf.OmegaConf.create({"backbone": {"name": "vit_tiny", "kwargs": {"img_size": 32}}})
    torch.save({"hyper_parameters": settings, "state_dict": {}}, tmp_path / "x.ckpt")
    found = side_settings(tmp_path / "x.ckpt", read_entries(tmp_path / "x.ckpt"))
    assert found.values == {"backbone.name": "vit_tiny", "backbone.kwargs.img_size": 32}
    assert (found.arch, found.image_size) == ("vit_tiny", 32)


@pytest.mark.parametrize("name", ["args.yaml", "args.json", "hparams.yaml", ".hydra/config.yaml", "config.yaml"])
@pytest.mark.parametrize("below", ["", "checkpoints", "eval/training_12499"])
def test_files_beside_the_checkpoint_and_above_are_found(tmp_path, name, below):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"model": {"img_size": 96}}')  # which is YAML, too
    found = side_settings(tmp_path / below / "last.ckpt", {"state_dict": {"a": torch.ones(1)}, "arch": "resnet18"})
    assert found.values == {"model.img_size": 96, "arch": "resnet18"} and found.source == str(path)
    assert (found.image_size, found.arch, found.notes) == (96, "resnet18", ())


def test_the_nearest_folder_counts(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "args.yaml").write_text("arch: resnet50")
    (tmp_path / "run" / "config.json").write_text('{"arch": "resnet18"}')
    assert side_settings(tmp_path / "run" / "x.pth", {}).arch == "resnet18"


def test_relative_paths_have_folders_above_them(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "args.yaml").write_text("arch: resnet50")
    monkeypatch.chdir(tmp_path / "run")
    assert side_settings("x.pth", {}).arch == "resnet50"


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        ({"model": "mae_vit_base_patch16", "input_size": 224}, "arch", "mae_vit_base_patch16"),  # MAE
        ({"backbone": {"name": "resnet18", "kwargs": {}}, "method": "simclr"}, "arch", "resnet18"),  # solo-learn
        ({"encoder": "resnet18", "cifar": True}, "arch", "resnet18"),  # solo-learn until 2021
        ({"encoder": "resnet18", "cifar": True}, "cifar", True),
        ({"data": {"dataset": "cifar100"}, "backbone": {"name": "resnet18"}}, "cifar", True),
        ({"data": {"dataset": "stl10"}}, "cifar", False),
        ({"student": {"arch": "vit_large", "patch_size": 14}, "teacher": {"momentum": 0.99}}, "arch", "vit_large"),
        ({"student": {"arch": "vit_large", "patch_size": 14}}, "patch_size", 14),  # DINOv2
        ({"crops": {"global_crops_size": 224, "local_crops_size": 96}}, "image_size", 224),
        ({"model": "resnet50", "img_size": None, "gp": "avgmax"}, "global_pool", "avgmax"),  # timm
        ({"global_pool": True}, "global_pool", True),  # MAE's fine-tuning
        ({"model_kwargs": {"output_stride": 8, "act_layer": "silu"}}, "output_stride", 8),
        ({"model_kwargs": {"output_stride": 8, "act_layer": "silu"}}, "act_layer", "silu"),
        ({"act_layer": "<torch.nn.modules.activation.SiLU>"}, "act_layer", "silu"),
        ({"img_size": [96, 96]}, "image_size", 96),
        ({"input_size": [3, 64, 64]}, "image_size", 64),
        ({"img_size": [96, 64]}, "image_size", None),
        ({"img_size": "96"}, "image_size", 96),
        ({"img_size": True}, "image_size", None),
        ({"num_attention_heads": 12}, "heads", 12),
        ({"encoder": {"num_heads": 12}, "decoder": {"num_heads": 16}}, "heads", 12),
        ({"student": {"num_heads": 12}, "other": {"num_heads": 16}}, "heads", None),  # which of them?
        ({"decoder": {"num_heads": 8}}, "heads", None),
        ({"backbone": "resnet18", "projector": {"activation": "gelu"}}, "act_layer", None),
        ({"model": {"text": {"act_layer": "gelu"}, "act_layer": "silu"}}, "act_layer", "silu"),
        ({"encoder": {"num_heads": 12}, "decoder": {"num_heads": 12}}, "heads", 12),
        ({"stem": "small"}, "stem", "small"),
        ({}, "arch", None),
    ],
)
def test_lookups_know_the_names_of_programs(tmp_path, values, name, expected):
    found = side_settings(tmp_path / "x.pth", {"args": values})
    assert getattr(found, name) == expected and type(getattr(found, name)) is type(expected)


def test_yaml_with_tags_of_python_is_read_without_executing_it(tmp_path):
    canary = tmp_path / "sprung"
    text = f"""
a: !!python/object/apply:os.system ["touch {canary}"]
b: !!python/object:argparse.Namespace {{arch: resnet18}}
c: !!python/tuple [1, 2]
d: !!python/name:torch.nn.SiLU ''
e: !unknown 3
"""
    (tmp_path / "hparams.yaml").write_text(text)
    found = side_settings(tmp_path / "x.ckpt", {})
    assert not canary.exists()
    assert found.arch == "resnet18" and found.values["c"] == [1, 2] and found.values["d"] == "torch.nn.SiLU"


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "\0",
        "a: 1\n" * LARGEST,
        "[" * 1_200,
        "{&a a: *b}",
        "? [1]\n: 2",
        "1" * 5000,
        '!!int ""',
        "!!timestamp x",
        "!!bool x",
        "a: 0x_\nb: 2020-13-40",
    ],
)
def test_a_broken_file_beside_is_a_note_and_the_next_one_is_read(tmp_path, text):
    (tmp_path / "args.yaml").write_text(text)
    (tmp_path / "config.json").write_text('{"arch": "resnet18"}')
    found = side_settings(tmp_path / "x.pth", {})
    assert found.arch == "resnet18"
    assert all("args.yaml" in note and "\n" not in note for note in found.notes)


@pytest.mark.parametrize("link", ["*a, *a, *a, *a, *a, *a, *a, *a", "<<: [*a, *a, *a, *a]"])
def test_yaml_that_repeats_itself_needs_little_memory(tmp_path, link):
    lines = ["z: &a {k: 1}"]
    for number in range(40):
        lines.append(f"n{number}: &a " + (f"{{{link}, k{number}: 1}}" if "<<" in link else f"[{link}]"))
    (tmp_path / "args.yaml").write_text("\n".join([*lines, "arch: resnet18"]))
    assert side_settings(tmp_path / "x.pth", {}).arch in ("resnet18", None)


def test_a_broken_json_file_and_a_folder_are_no_errors(tmp_path):
    (tmp_path / "args.json").write_text("{")
    (tmp_path / "config.yaml").mkdir()
    (tmp_path / "config.json").write_text(json.dumps([1, 2]))
    found = side_settings(tmp_path / "x.pth", {})
    assert (found.values, found.source, len(found.notes)) == ({}, "", 1)


def test_without_pyyaml_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "args.yaml").write_text("arch: resnet18")
    ordinary = builtins.__import__

    def without(name, *args):
        if name == "yaml":
            raise ImportError(name)
        return ordinary(name, *args)

    monkeypatch.delitem(sys.modules, "yaml", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    (note,) = side_settings(tmp_path / "x.pth", {}).notes
    assert "ssltool[yaml]" in note and "args.yaml" in note
