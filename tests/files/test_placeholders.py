"""Objects of other classes in a checkpoint: the tensors beside them are read, and nothing is created or executed."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import functools
import io
import pathlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision import tv_tensors

from ssltool.checkpoints.read import plain
from ssltool.errors import SSLToolError
from ssltool.files import placeholders
from ssltool.files.placeholders import Placeholder, module_weights, placeholder_names
from ssltool.files.torch_files import load_dict


class Colour(enum.Enum):
    RED = "red"


class Outer:
    class Inner(enum.Enum):
        ONE = 1


@dataclasses.dataclass
class Data:
    a: int = 1
    b: Any = None


@dataclasses.dataclass(frozen=True)
class Slots:
    __slots__ = ("a",)
    a: int


class Dict(dict):
    pass


class List(list):
    pass


Pair = collections.namedtuple("Pair", "left right")


class Attributed(dict):
    """A dict whose pickle has the attribute ``items``, as configurations have whose keys are attributes, too."""

    def __reduce__(self):
        return (Attributed, (), {"items": 3}, None, iter(self.items()))


OBJECTS = {
    "Namespace": (argparse.Namespace(arch="vit_small", lr=0.1, inner=argparse.Namespace(a=[1])), None),
    "partial": (functools.partial(nn.LayerNorm, eps=1e-6), None),
    "float64": (np.float64(0.5), 0.5),
    "int16": (np.int16(-3), -3),
    "big endian": (np.arange(3, dtype=">i4")[1], 1),
    "bool_": (np.bool_(True), True),
    "array": (np.arange(3), None),
    "path": (pathlib.PosixPath("/a/b"), "/a/b"),
    "enum": (Colour.RED, "red"),
    "inner enum": (Outer.Inner.ONE, 1),
    "dataclass": (Data(2, {"c": None}), {"a": 2, "b": {"c": None}}),
    "dataclass in a dataclass": (Data(2, Data(3, [4])), {"a": 2, "b": {"a": 3, "b": [4]}}),
    "dict": (Attributed(a=1), {"a": 1}),
    "defaultdict": (collections.defaultdict(int, {"a": 1}), {"a": 1}),
    "list": (List([1, 2]), [1, 2]),
    "deque": (collections.deque([1, 2], 3), [1, 2]),
    "namedtuple": (Pair(1, "b"), [1, "b"]),
    "slice": (slice(1, 2), [1, 2, None]),
    "timedelta": (datetime.timedelta(3, 4), [3, 4, 0]),
    "date": (datetime.datetime(2026, 1, 2), "<datetime.datetime>"),
    "class": (nn.SiLU, "torch.nn.modules.activation.SiLU"),
    "function": (nn.functional.relu, "torch.nn.functional.relu"),
    "optimizer": (torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1), None),
    "module": (nn.Linear(2, 2), "<torch.nn.modules.linear.Linear>"),
}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "x.pth"


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_beside_any_object_are_read_and_simple_objects_are_plain_values(path, name, zipped):
    held, expected = OBJECTS[name]
    if not zipped and name in ("module", "class", "partial"):
        pytest.skip("torch's legacy format holds the program of classes of modules")
    torch.save({"state_dict": {"a": torch.arange(3.0)}, "x": held}, path, _use_new_zipfile_serialization=zipped)
    loaded = load_dict(path, mmap=True)
    assert torch.equal(loaded["state_dict"]["a"], torch.arange(3.0))
    if expected is not None:
        assert plain(loaded["x"]) == expected and type(plain(loaded["x"])) is type(expected)


def test_settings_in_objects_are_plain_values(path):
    keywords = functools.partial(nn.LayerNorm, 3, eps=1e-6)
    torch.save({"args": OBJECTS["Namespace"][0], "partial": OBJECTS["partial"][0], "called": keywords}, path)
    loaded = plain(load_dict(path))
    assert loaded["args"] == {"arch": "vit_small", "lr": 0.1, "inner": {"a": [1]}}
    norm = "torch.nn.modules.normalization.LayerNorm"
    assert loaded["partial"] == {"function": norm, "eps": 1e-6}
    assert loaded["called"] == {"function": norm, "args": [3], "eps": 1e-6}


def test_omegaconf_is_read_as_its_own_to_container_gives_it(path):
    omegaconf = pytest.importorskip("omegaconf")
    settings = {"a": {"b": [1, 2, {"c": None}], "d": "x"}, "lr": 0.1, "e": {}, "f": []}
    config = omegaconf.OmegaConf.create(settings)
    torch.save({"hyper_parameters": config, "part": config.a}, path)
    loaded = plain(load_dict(path))
    assert loaded == {"hyper_parameters": omegaconf.OmegaConf.to_container(config), "part": settings["a"]}


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("left", torch.ones(2), persistent=False)
        self.register_parameter("none", None)
        self.inner = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.BatchNorm1d(2)})
        self.again = self.inner["a"]


@pytest.mark.parametrize(
    "make",
    [
        torchvision.models.resnet18,
        Hidden,
        lambda: nn.DataParallel(Hidden()),
        lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU())),
        lambda: nn.LSTM(2, 3),
    ],
    ids=["ResNet", "buffers", "DataParallel", "traced", "LSTM"],
)
def test_the_weights_of_a_whole_network_are_its_state_dict(path, make):
    model = make()
    for contents in (model, {"model": model, "epoch": 1}):
        torch.save(contents, path)
        held = load_dict(path)["model"]
        weights, expected = module_weights(held), model.state_dict()
        assert weights is not None and list(weights) == list(expected)
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_tensors_of_subclasses_and_parameters_become_tensors(path):
    image = tv_tensors.Image(torch.arange(3.0).reshape(3, 1, 1))
    parameter = nn.Parameter(torch.ones(2))
    parameter.detach = 5  # type: ignore[assignment, method-assign]
    torch.save({"image": image, "parameter": parameter, "list": [parameter]}, path)
    loaded = load_dict(path)
    found = [loaded["image"], loaded["parameter"], *loaded["list"]]
    assert all(type(tensor) is torch.Tensor and not vars(tensor) for tensor in found)
    assert torch.equal(loaded["image"], image.as_subclass(torch.Tensor))


def test_what_was_not_created_is_named_once_the_least_nested_first(path):
    spread = [argparse.Namespace(a=Data()), {"b": [argparse.Namespace()], "c": pathlib.PosixPath("x")}]
    torch.save({"a": torch.ones(1), "x": spread, "cls": nn.Linear}, path)
    names = [name.rpartition(".")[2] for name in placeholder_names(load_dict(path))]
    assert names == ["Namespace", "PosixPath", "Data"]
    torch.save({"a": torch.ones(1), "b": [{"c": (1, "x")}]}, path)
    assert placeholder_names(load_dict(path)) == []


def test_other_libraries_permissions_are_neither_used_nor_lost(path):
    torch.save({"x": argparse.Namespace(a=1)}, path)
    with torch.serialization.safe_globals([argparse.Namespace, np.dtype]):
        before = set(torch.serialization.get_safe_globals())
        assert isinstance(load_dict(path)["x"], Placeholder)
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(SSLToolError):
            load_dict(path)
        assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("protocol", [4, 5])
def test_later_protocols_are_named(path, protocol):
    torch.save({"x": argparse.Namespace(a=1)}, path, pickle_protocol=protocol)
    with pytest.raises(SSLToolError, match=r"x\.pth .*protocol"):
        load_dict(path)


def test_a_whole_network_in_the_legacy_format_is_named(path):
    torch.save(nn.Linear(2, 2), path, _use_new_zipfile_serialization=False)
    with pytest.raises(SSLToolError, match=r"x\.pth .*legacy format.*state_dict"):
        load_dict(path)


def test_an_object_around_everything_is_read_as_its_attributes(path):
    torch.save(argparse.Namespace(state_dict={"a": torch.ones(2)}, epoch=3), path)
    assert torch.equal(load_dict(path)["state_dict"]["a"], torch.ones(2))
    torch.save(Colour.RED, path)
    with pytest.raises(SSLToolError, match="Colour"):
        load_dict(path)


def pickled(path: Path, program: bytes) -> Path:
    """A file of ``torch.save`` whose objects are those of a pickle ``program``."""
    stream = io.BytesIO()
    torch.save({}, stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, program if name.endswith("data.pkl") else old.read(name))
    return path


def test_thousands_of_names_and_long_names_are_refused_at_once(path):
    many = b"".join(f"cmod{i}\nx\n".encode() for i in range(placeholders.MOST_NAMES + 1))
    with pytest.raises(SSLToolError, match="too many"):
        load_dict(pickled(path, b"\x80\x02(" + many + b"t\x85."))
    with pytest.raises(SSLToolError, match="more than 500"):
        load_dict(pickled(path, b"\x80\x02c" + b"m" * 10_000_000 + b"\nx\n)R."))


def test_many_objects_of_many_classes_are_refused_at_once(path):
    names = b"".join(f"cmod{i}\nx\n0".encode().replace(b"0", b"") for i in range(900))
    objects = b"cmod0\nx\n)R" * 100_000
    with pytest.raises(SSLToolError, match="too many"):
        load_dict(pickled(path, b"\x80\x02(" + names + objects + b"t\x85."))


def test_a_module_that_holds_itself_many_times_is_none(path):
    model = nn.Sequential()
    for _ in range(40):
        model = nn.Sequential(model, model)
    torch.save({"model": model, "a": torch.ones(1)}, path)
    assert module_weights(load_dict(path)["model"]) is None
