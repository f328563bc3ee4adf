"""Shell completion: names of methods, metrics, architectures and choices."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torchvision
from click.shell_completion import BashComplete
from torchvision.models import list_models

from ssltool.cli import COMMANDS, cli
from ssltool.config import STRATEGIES
from ssltool.diagnosis.metrics import METRICS
from ssltool.methods import METHODS
from ssltool.models.backbones import architectures


def completions(line: str) -> list[str]:
    """What the shell offers at the end of ``line``."""
    *before, incomplete = line.split(" ")
    completer = BashComplete(cli, {}, "ssltool", "_SSLTOOL_COMPLETE")
    return [item.value for item in completer.get_completions(before, incomplete)]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("", COMMANDS),
        ("pretrain --method ", METHODS),
        ("pretrain -m ", METHODS),
        ("pretrain --strategy ", STRATEGIES),
        ("collapse a.pt --metrics ", METRICS),
        ("rank run --by ", METRICS),
        ("methods ", METHODS),
        ("plot ", ["spectrum", "renyi", "curves", "auc", "views", "patches", "schedule"]),
    ],
)
def test_all_names_are_completed(line, names):
    assert completions(line) == list(names)


@pytest.mark.parametrize("line", ["pretrain -a ", "lincls --arch "])
def test_architectures_are_completed_with_the_names_of_libraries(line):
    offered = completions(line)
    assert set(architectures()) <= set(offered)
    others = {name for name in offered if not name.startswith("transformers:")} - set(architectures())
    assert others == {"timm:", "torchvision:"}
    assert "transformers:dinov2" in offered


def test_models_of_torchvision_are_completed_after_its_name():
    names = [f"torchvision:{name}" for name in list_models(module=torchvision.models) if name.startswith("convnext")]
    assert completions("pretrain -a torchvision:convnext") == sorted(names)


def test_models_of_timm_are_completed_after_its_name():
    timm = pytest.importorskip("timm")
    assert completions("pretrain -a timm:vit_tiny") == [f"timm:{name}" for name in timm.list_models("vit_tiny*")]


def test_without_timm_none_of_its_models_are_completed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert completions("pretrain -a timm:") == []


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("save", ["save-reprs"]),
        ("pretrain --method vic", ["vicreg", "vicregl"]),
        ("pretrain --method resnet", []),
        ("pretrain --strategy cur", ["current"]),
        ("collapse a.pt --metrics auc,effective", ["auc,effective_rank"]),
        ("pretrain --final-w", ["--final-weight-decay"]),
    ],
)
def test_only_names_with_the_typed_prefix_are_completed(line, names):
    assert completions(line) == names


def test_methods_of_a_plugin_on_the_command_line_are_completed(tmp_path, registries):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from ssltool.methods import METHODS, Entry\n"
        "METHODS.add('unheard-of', Entry('mine:Mine', 2026, '2601.00001', 'nothing', 'images'))\n"
    )
    assert completions(f"pretrain --plugin {plugin} --method unheard") == ["unheard-of"]


def test_methods_are_completed_without_importing_torch():
    words = {"COMP_WORDS": "ssltool pretrain --method sims", "COMP_CWORD": "3", "_SSLTOOL_COMPLETE": "bash_complete"}
    program = (
        "import sys\nfrom ssltool.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | words)
    assert (ran.stdout, ran.stderr) == ("plain,simsiam\n", "False\n")
