"""Plug-ins: loaded once, named in the checkpoint, and missed by name."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssltool import registry
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.checkpoint_layouts import CHECKPOINT_LAYOUTS
from ssltool.errors import SSLToolError, UsageError
from ssltool.methods import METHODS
from ssltool.models import ARCHITECTURES, Architecture
from ssltool.models.backbones import build_backbone

PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"


@pytest.fixture
def fresh(registries, monkeypatch):
    """Forgets the plug-ins of earlier tests."""
    monkeypatch.setattr(registry, "_loaded", {})


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
def page(fresh, ssltool, tmp_path, monkeypatch):
    """The plug-in of the page in a file, and its commands run: ``page.runs[i]`` is the i-th command's result."""
    monkeypatch.chdir(tmp_path)
    Path("my_ssl.py").write_text(block("python"))
    lines = [shlex.split(line)[1:] for line in block("bash").splitlines()]
    return SimpleNamespace(lines=lines, runs=[ssltool(*line) for line in lines])


def test_the_commands_of_the_page_run(page, ssltool, monkeypatch):
    assert [run.err for run in page.runs if run.code] == []
    assert "attraction" in page.runs[0].out
    assert "largest_share" in page.runs[4].out
    assert "largest_share" in page.runs[6].out
    assert Checkpoint.load("run/checkpoint.pt").config["plugins"] == ["my_ssl.py"]
    assert json.loads(Path("run/config.json").read_text())["plugins"] == ["my_ssl.py"]


def test_a_checkpoint_without_its_plugin_is_refused_by_name(page, ssltool):
    for name in registry.REGISTRIES:
        for key in [key for key in name if name.plugin(key)]:
            name._entries.pop(key)
    for command in (
        ("save-reprs", "--pretrained", "run/checkpoint.pt", "-o", "x.pt"),
        ("lincls", "--pretrained", "run/checkpoint.pt", "-o", "x"),
        ("finetune", "--pretrained", "run/checkpoint.pt", "-o", "x"),
        ("report", "run", "-o", "x.html"),
    ):
        ran = ssltool(*command)
        assert ran.code == 1, command
        assert "--plugin my_ssl.py" in ran.err
        assert "attraction" in ran.err and "small_cnn" in ran.err
    assert not any(Path().glob("x*"))
    assert "--plugin my_ssl.py" in ssltool("inspect", "run/checkpoint.pt").out


def test_a_run_with_built_in_parts_names_no_plugin(trained):
    assert "plugins" not in Checkpoint.load(trained / "checkpoint.pt").config


def test_a_module_on_the_path_is_loaded_once(fresh, tmp_path, monkeypatch):
    (tmp_path / "counting_plugin.py").write_text(
        "import builtins\nbuiltins.loads = getattr(builtins, 'loads', 0) + 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import builtins

    registry.load_plugins(["counting_plugin", "counting_plugin"])
    registry.load_plugins(["counting_plugin"])
    assert builtins.loads == 1
    del builtins.loads
    sys.modules.pop("counting_plugin")


def test_an_installed_package_declares_its_plugin(fresh, tmp_path, monkeypatch):
    (tmp_path / "declared_plugin.py").write_text(
        "from torch import nn\nfrom ssltool.models import ARCHITECTURES, Architecture\n"
        "ARCHITECTURES.add('declared', Architecture(lambda: nn.Flatten()))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    points = [SimpleNamespace(module="declared_plugin")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: points if group == registry.GROUP else [])
    registry.load_installed_plugins()
    assert ARCHITECTURES.plugin("declared") == "declared_plugin"
    sys.modules.pop("declared_plugin")


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("no_such_module_anywhere", None, UsageError),
        ("missing.py", None, UsageError),
        ("broken.py", "def :", SSLToolError),
        ("raising.py", "raise RuntimeError('at import')", SSLToolError),
        ("taken.py", "from ssltool.methods import METHODS\nMETHODS.add('simsiam', None)", SSLToolError),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line(fresh, ssltool, tmp_path, monkeypatch, name, text, error):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(error) as caught:
        registry.load_plugins([name])
    assert "\n" not in str(caught.value)
    ran = ssltool("methods", "--plugin", name)
    assert ran.code == (2 if error is UsageError else 1)
    assert METHODS.plugin("simsiam") is None


def test_nearest_names_include_those_of_plugins(fresh, ssltool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_ssl.py").write_text(block("python"))
    ran = ssltool("pretrain", "--plugin", "my_ssl.py", "-a", "small_cn", "--dry-run")
    assert ran.code == 2
    assert "small_cnn" in ran.err
    ran = ssltool("pretrain", "--plugin", "my_ssl.py", "--method", "atraction", "--dry-run")
    assert ran.code == 2
    assert "attraction" in ran.err


# Architectures


def test_the_width_of_a_factorys_backbone_is_measured_and_draws_nothing(registries):
    ARCHITECTURES.add("toy", Architecture(lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(7))))
    before = torch.get_rng_state()
    ARCHITECTURES.add("fixed", Architecture(lambda image_size: nn.Flatten(), dim=3 * 12 * 12))
    assert build_backbone("fixed", image_size=12)[1] == 432
    assert torch.equal(torch.get_rng_state(), before)
    backbone, dim = build_backbone("toy", image_size=8)
    assert dim == 7
    assert backbone.training


@pytest.mark.parametrize("factory", [lambda: nn.Identity(), lambda: "no module"])
def test_a_factory_that_makes_no_backbone_is_refused(registries, factory):
    ARCHITECTURES.add("wrong", Architecture(factory))
    with pytest.raises(SSLToolError, match="wrong"):
        build_backbone("wrong", image_size=8)


def test_layers_of_a_plugin_backbone_are_declared_or_refused(registries):
    from ssltool.models.depth import layer_groups

    def factory() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 3))

    ARCHITECTURES.add("plain", Architecture(factory))
    ARCHITECTURES.add("layered", Architecture(factory, layer_of=lambda name: int(name.split(".")[0]) - 1))
    plain, _ = build_backbone("plain", image_size=2)
    (group,) = layer_groups(plain, 1.0)
    assert (len(group["params"]), group["scale"]) == (4, 1.0)
    with pytest.raises(SSLToolError, match="--layer-decay"):
        layer_groups(plain, 0.5)
    layered, _ = build_backbone("layered", image_size=2)
    assert [group["scale"] for group in layer_groups(layered, 0.5)] == [0.25, 0.5]


# Checkpoint layouts


def test_a_checkpoint_layout_of_a_plugin_is_recognised_first(registries, ssltool, tmp_path):
    layout = type(CHECKPOINT_LAYOUTS["torchvision"])
    CHECKPOINT_LAYOUTS.add("toys", layout("toyprogram", "byol", "student.", ("toy_marker",)), first=True)
    backbone, _ = build_backbone("resnet18_w8")
    weights = {f"student.{name}": tensor for name, tensor in backbone.state_dict().items()}
    torch.save({"state_dict": weights, "toy_marker": 1}, tmp_path / "toy.pth")
    (found,) = ssltool("inspect", tmp_path / "toy.pth", "--json").json["files"]
    assert (found["program"], found["method"], found["arch"]) == ("toyprogram", "byol", "resnet18_w8")
