"""The export stage: writes the backbone of a checkpoint for other programs.

``TARGETS`` is the registry of what it can be written for. Importing the package does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssltool.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from ssltool.config import ExportConfig
    from ssltool.settings import Record
    from ssltool.stages.export.exported import Exported, Plan


@dataclass(frozen=True)
class Target:
    """What a backbone is written for.

    Args:
        target: a function of an ``Exported`` network and a path that returns a ``Plan``; it raises
            ``NoCounterpart`` if there is nothing that computes exactly the same.
        what: what is written.
        ending: the ending of the default name; empty for a folder.
        endings: the endings that a name must have one of; empty if it may have any.
        not_safetensors: whether the name may not end in .safetensors, because it would be another format.
    """

    target: str | Callable[[Exported, Path], Plan]
    what: str
    ending: str
    endings: tuple[str, ...] = ()
    not_safetensors: bool = False


TARGETS: Registry[Target] = Registry(
    "target",
    __name__,
    {
        "torchvision": Target(".state_dicts:torchvision", "weights of a network of torchvision", ".pth"),
        "timm": Target(".state_dicts:timm", "weights of a network of timm", ".pth"),
        "simsiam": Target(
            ".state_dicts:simsiam_training",
            "a checkpoint of SimSiam's main_simsiam.py",
            ".pth.tar",
            not_safetensors=True,
        ),
        "huggingface": Target(".hub_folders:huggingface", "a folder of the hub, for transformers or timm", ""),
        "safetensors": Target(
            ".state_dicts:safetensors", "weights with their description", ".safetensors", (".safetensors",)
        ),
        "torchscript": Target(".graphs:torchscript", "a TorchScript program", ".pt", not_safetensors=True),
        "onnx": Target(".graphs:onnx", "an ONNX model", ".onnx", (".onnx",)),
        "state_dict": Target(".state_dicts:state_dict", "the weights with ssltool's names", ".pth"),
    },
)
"""In the order in which an error suggests them."""


def run(config: ExportConfig) -> Record:
    """The stage; see ``export.run``."""
    from ssltool.stages.export.export import run as stage

    return stage(config)
