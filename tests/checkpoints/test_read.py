"""Files of weights are opened without executing anything, and what cannot be read so is refused in one line."""

from __future__ import annotations

import builtins
import pickle
import re
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from checkpoint_helpers import bare, dino, dino_arguments, plain_resnet18, resnet
from ssltool.checkpoints.checkpoint_layouts import extract_weights
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
    for name, save in (("new.pth", torch.save), ("raw.pkl", lambda x, p: p.write_bytes(pickle.dumps(x)))):
        save({"state_dict": bare().entries, "trap": Trap(tmp_path / "sprung")}, tmp_path / name)
        assert name in refusal(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("contents", "name"),
    [
        (lambda: dino().entries | {"args": dino_arguments()}, r"argparse\.Namespace"),
        (plain_resnet18, r"torchvision\.models\.resnet\.ResNet"),
        (lambda: {"state_dict": bare().entries, "best": np.float64(0.5)}, r"numpy\._?core\.multiarray\.scalar"),
    ],
    ids=["DINO's arguments", "a whole module", "a number of NumPy's"],
)
def test_pickled_objects_are_refused_with_their_name_and_the_conversion(tmp_path, contents, name):
    torch.save(contents(), tmp_path / "x.pth")
    with pytest.raises(SSLToolError, match=rf"x\.pth .*\({name}\)") as e:
        read_checkpoint(tmp_path / "x.pth")
    assert "docs/checkpoints.md" in str(e.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "x.pt"))
    assert re.search(r"x\.pt .*TorchScript.*state_dict\(\)", refusal(tmp_path / "x.pt"))


@pytest.mark.parametrize("mark", ["safe_globals", "def plain"])
def test_snippets_of_the_documentation_make_dinos_checkpoint_readable(tmp_path, monkeypatch, mark):
    case = dino()
    torch.save(case.entries | {"args": dino_arguments()}, tmp_path / "checkpoint.pth")
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    (snippet,) = [part.split("```")[0] for part in page.split("```python\n")[1:] if mark in part.split("```")[0]]
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    checkpoint, found = read_checkpoint(tmp_path / "converted.pth")
    assert found is not None and found.layout.program == "dino" and checkpoint.epoch == 5
    if mark == "def plain":
        assert extract_settings(read_entries(tmp_path / "converted.pth"))["args"] == {
            "arch": "vit_small",
            "patch_size": 16,
        }


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


def test_the_weights_that_a_program_evaluates_are_taken_first():
    one, two = {"a": torch.ones(1)}, {"a": torch.zeros(1)}
    assert extract_weights({"student": two, "teacher": one}) == one
    assert extract_weights({"state_dict": two, "state_dict_ema": one}) == one
    assert extract_weights({"model": {"note": "no tensors"}, "state_dict": one}) == one
    assert extract_weights({"module.a": one["a"]}) == one
    assert extract_weights({"epoch": 3}) == {}


def test_wrapper_prefixes_are_removed_only_if_all_names_have_them():
    weights = {"_orig_mod.module.a": torch.ones(1), "_orig_mod.module.b": torch.ones(1)}
    assert list(extract_weights(weights)) == ["a", "b"]
    assert list(extract_weights(weights | {"c": torch.ones(1)})) == [*weights, "c"]


def test_extracted_settings_are_plain_values():
    entries = {"epoch": 3, "hyper_parameters": {1: (2, None), "x": torch.ones(2)}, "state_dict": {"a": torch.ones(1)}}
    assert extract_settings(entries) == {"epoch": 3, "hyper_parameters": {"1": [2, None], "x": "<Tensor>"}}


def test_reading_does_not_change_the_file(tmp_path):
    torch.save(resnet().state_dict(), tmp_path / "x.pth")
    before = (tmp_path / "x.pth").read_bytes()
    checkpoint, _ = read_checkpoint(tmp_path / "x.pth")
    checkpoint.state_dict["backbone.conv1.weight"].zero_()
    assert (tmp_path / "x.pth").read_bytes() == before
