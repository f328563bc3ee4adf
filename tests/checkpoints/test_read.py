"""Files of weights are opened without executing anything, and what cannot be read so is refused in one line."""

from __future__ import annotations

import builtins
import pickle
import re
import sys
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from checkpoint_helpers import bare, dino, dino_arguments, resnet
from ssltool.checkpoints.convert import read_checkpoint
from ssltool.checkpoints.read import extract_settings, read_entries
from ssltool.errors import SSLToolError


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def refusal(path: Path) -> str:
    with pytest.raises(SSLToolError) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_loading_never_executes_code(tmp_path):
    contents = {"state_dict": bare().entries, "trap": Trap(tmp_path / "sprung")}
    torch.save(contents, tmp_path / "new.pth")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(contents))
    assert read_checkpoint(tmp_path / "new.pth")[0].arch == "resnet18_w8"
    assert "raw.pkl" in refusal(tmp_path / "raw.pkl")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("contents", "program", "names"),
    [
        (lambda: dino().entries | {"args": dino_arguments()}, "dino", ["argparse.Namespace"]),
        (lambda: {"state_dict": bare().entries, "best": np.float64(0.5)}, "torchvision", ["multiarray.scalar"]),
        (resnet, "torchvision", ["ssltool.models.resnet", "BatchNorm2d"]),
    ],
    ids=["DINO's arguments", "a number of NumPy's", "a whole network"],
)
def test_objects_beside_weights_are_left_out_and_named(tmp_path, contents, program, names):
    torch.save(contents(), tmp_path / "x.pth")
    _, found = read_checkpoint(tmp_path / "x.pth")
    assert found is not None and found.layout.program == program
    for name in names:
        assert any(name in skipped for skipped in found.skipped)
    assert found.skipped[0] in str(found)


def test_a_whole_network_gives_the_weights_of_its_state_dict(tmp_path):
    model = resnet()
    torch.save(model, tmp_path / "whole.pth")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    whole, weights = (read_checkpoint(tmp_path / name)[0].state_dict for name in ("whole.pth", "weights.pth"))
    assert list(whole) == list(weights) and all(torch.equal(whole[name], weights[name]) for name in weights)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "x.pt"))
    assert re.search(r"x\.pt .*TorchScript.*state_dict\(\)", refusal(tmp_path / "x.pt"))


@pytest.mark.parametrize("contents", [b"", b"hello", b"PK\x03\x04 no archive", b"\x80\x02}q\x00(X"])
def test_corrupt_files_are_refused(tmp_path, contents):
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(contents)
        assert "x." in refusal(tmp_path / name)


def test_missing_file_is_named(tmp_path):
    for name in ("gone.pth", "gone.safetensors"):
        assert str(tmp_path / name) in refusal(tmp_path / name)


def test_safetensors_give_the_same_weights_as_torchs_files(tmp_path):
    entries = bare().entries
    safetensors.torch.save_file(entries, str(tmp_path / "x.safetensors"), {"note": "made here"})
    torch.save(entries, tmp_path / "x.pth")
    first, second = (read_checkpoint(tmp_path / f"x.{suffix}")[0].state_dict for suffix in ("safetensors", "pth"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert extract_settings(read_entries(tmp_path / "x.safetensors")) == {"__metadata__": {"note": "made here"}}


def test_safetensors_without_the_package_name_the_extra_to_install(tmp_path, monkeypatch):
    (tmp_path / "x.safetensors").write_bytes(b"")
    ordinary = builtins.__import__

    def without(name, *args):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return ordinary(name, *args)

    for name in [name for name in sys.modules if name.startswith("safetensors")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'ssltool[safetensors]'" in refusal(tmp_path / "x.safetensors")


def test_files_of_torchs_old_format_are_read(tmp_path):
    torch.save(OrderedDict(bare().entries), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.pth")[0].arch == "resnet18_w8"


def test_extracted_settings_are_plain_values():
    entries = {"epoch": 3, "hyper_parameters": {1: (2, None), "x": torch.ones(2)}, "state_dict": {"a": torch.ones(1)}}
    assert extract_settings(entries) == {"epoch": 3, "hyper_parameters": {"1": [2, None], "x": "<Tensor>"}}


def test_settings_in_objects_are_extracted(tmp_path):
    torch.save({"args": dino_arguments(), "best": np.float32(0.5), "state_dict": {}}, tmp_path / "x.pth")
    found = extract_settings(read_entries(tmp_path / "x.pth"))
    assert found == {"args": {"arch": "vit_small", "patch_size": 16}, "best": 0.5}


def test_lists_that_hold_one_another_are_described():
    nested: list[object] = [1]
    for _ in range(60):
        nested = [nested] * 8
    start = time.perf_counter()
    extract_settings({"args": nested})
    assert time.perf_counter() - start < 30


def test_reading_does_not_change_the_file(tmp_path):
    torch.save(resnet().state_dict(), tmp_path / "x.pth")
    before = (tmp_path / "x.pth").read_bytes()
    checkpoint, _ = read_checkpoint(tmp_path / "x.pth")
    checkpoint.state_dict["backbone.conv1.weight"].zero_()
    assert (tmp_path / "x.pth").read_bytes() == before
