"""Reading a checkpoint of any program as one of ssltool: the backbone with torchvision's names, and its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.layouts import HEADS, Layout, recognise, weights_in
from ssltool.checkpoints.match_architecture import BackboneSpec, complete, match_backbone
from ssltool.checkpoints.read import read_entries
from ssltool.checkpoints.saved_run import OURS, SavedRun
from ssltool.errors import SSLToolError
from ssltool.files import FilePath


@dataclass(frozen=True)
class Found:
    """What was found in another program's file: the ``backbone`` (torchvision's names) and its make, the names of what
    was ``left`` out, the ``epoch`` (completed; None if the file does not say), and whose layout it is."""

    layout: Layout
    make: BackboneSpec
    backbone: dict[str, Tensor]
    left: Sequence[str]
    epoch: int | None

    def __str__(self) -> str:
        stem = "" if self.make.stem == "auto" else f" (stem {self.make.stem})"
        where = f"backbone under '{self.layout.prefix}'" if self.layout.prefix else "backbone without prefix"
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        left = f"; left out: {', '.join(self.left)}" if self.left else ""
        return f"{self.layout.program} checkpoint: arch {self.make.arch}{stem}, {where}{epoch}{left}"


def find_network(path: FilePath, entries: dict[str, Any], *, arch: str | None = None, stem: str | None = None) -> Found:
    """The network in another program's file, by the ``entries`` at its top level.

    Raises:
        SSLToolError: if there is none that ssltool knows, it is not whole, or it contradicts ``arch`` or ``stem``.
    """
    weights = weights_in(entries)
    layout, family = recognise(str(path), weights, entries)
    backbone: dict[str, Tensor] = {}
    left: dict[str, None] = {}  # a set in order
    for name, tensor in weights.items():
        own = name.removeprefix(layout.prefix)
        inside = name.startswith(layout.prefix)
        if inside and own.split(".")[0] not in HEADS:
            backbone[family.rename(own)] = tensor
        else:
            left[layout.prefix + own.split(".")[0] if inside else name.split(".")[0]] = None
    make = match_backbone(str(path), backbone, layout, arch=arch, stem=stem)
    epoch = entries.get("epoch")
    if isinstance(epoch, int) and "pytorch-lightning_version" in entries:
        epoch += 1  # Lightning counts the epoch it is in, others those that are done
    return Found(layout, make, complete(backbone, make), list(left), epoch if isinstance(epoch, int) else None)


def read_checkpoint(
    path: FilePath, *, arch: str | None = None, stem: str | None = None
) -> tuple[Checkpoint, Found | None]:
    """A checkpoint of any program as one of ssltool, and for another program's what was found in it.

    Another program's has ``state_dict`` with the backbone alone (``backbone.*``), no optimiser, ``step`` 0, ``epoch``
    0 where the file does not say, and as ``config`` the settings of a backbone alone.

    Raises:
        SSLToolError: if the file is unreadable, would have to be executed, or holds no whole network that ssltool
            knows, or contradicts ``arch`` or ``stem``.
    """
    entries = read_entries(path)
    if str(entries.get("format", "")).startswith(f"{OURS}/"):
        checkpoint = Checkpoint.of(entries, path)
        backbone = SavedRun.read(checkpoint.config, path).backbone
        for name, asked, saved in (("arch", arch, backbone.arch), ("stem", stem, backbone.stem)):
            if asked not in (None, "auto", saved):
                raise SSLToolError(f"--{name} is {asked}, but {path} was trained with {saved}; leave it out")
        return checkpoint, None
    found = find_network(path, entries, arch=arch, stem=stem)
    return as_checkpoint(found.backbone, found.make, found.layout, found.epoch or 0), found


def as_checkpoint(backbone: Mapping[str, Tensor], make: BackboneSpec, layout: Layout, epoch: int) -> Checkpoint:
    """A checkpoint of a backbone alone, from which no training can be resumed."""
    run = SavedRun.of_backbone(make, method=layout.method or layout.program, program=layout.program)
    weights = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    return Checkpoint(
        run.method_name, make.arch, epoch, 0, run.settings, weights, optimizer={}, scaler=None, metrics={}
    )
