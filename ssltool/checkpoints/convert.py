"""Any program's checkpoint as one of ours: the backbone under our names, and settings as a run would have them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.layouts import HEADS, Layout, recognise, weights_in
from ssltool.checkpoints.match_architecture import BackboneSpec, complete, match_backbone
from ssltool.checkpoints.read import read_entries
from ssltool.config import PretrainConfig, as_dict
from ssltool.errors import SSLToolError
from ssltool.files import FilePath
from ssltool.models.family import SMALL_IMAGE

PROGRAM = "program"
"""The setting that names whose network it is, where there is a backbone alone and no method of ours around it."""

OURS = "ssltool"


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


def is_alone(saved: Mapping[str, Any]) -> bool:
    """Whether these are the settings of a backbone alone: another program's, or an untrained one."""
    return PROGRAM in saved


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
    """Any program's checkpoint as one of ours, and for another program's what was found in it.

    Another program's has ``state_dict`` with the backbone alone (``backbone.*``), no optimiser, ``step`` 0, ``epoch``
    0 where the file does not say, and as ``config`` that of a run that never was, with the network's make and its
    ``program``.

    Raises:
        SSLToolError: if the file is unreadable, would have to be executed, or holds no whole network that ssltool
            knows, or contradicts ``arch`` or ``stem``.
    """
    entries = read_entries(path)
    if str(entries.get("format", "")).startswith(f"{OURS}/"):
        checkpoint = Checkpoint.of(entries, path)
        for name, asked in (("arch", arch), ("stem", stem)):
            saved = checkpoint.config[name]
            if asked not in (None, "auto", saved):
                raise SSLToolError(f"--{name} is {asked}, but {path} was trained with {saved}; leave it out")
        return checkpoint, None
    found = find_network(path, entries, arch=arch, stem=stem)
    return as_checkpoint(found.backbone, found.make, found.layout, found.epoch or 0), found


def as_checkpoint(backbone: Mapping[str, Tensor], make: BackboneSpec, layout: Layout, epoch: int) -> Checkpoint:
    """A checkpoint of a backbone alone, with no training to go on with."""
    method = layout.method or layout.program
    config = alone(make, method, layout.program)
    weights = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    return Checkpoint(method, make.arch, epoch, 0, config, weights, optimizer={}, scaler=None, metrics={})


def alone(make: BackboneSpec, method: str, program: str) -> dict[str, Any]:
    """Settings of a run that never was: ours by default, on the bundled images, of a network of this ``make``."""
    nothing = ("n_images", "n_classes", "epoch_images", "batch_size", "steps_per_epoch", "epochs")
    unknown = ("data", "second_backbone", "second_hash", "support_hash", "index_hash", "order_hash", "strategy")
    known = {
        **dataclasses.asdict(make),
        PROGRAM: program,
        "method": method,
        "method_options": {},
        "blur_p": 0.5 if make.image_size > SMALL_IMAGE else 0.0,
        "dataset": "bundled",
    }
    return as_dict(PretrainConfig()) | known | dict.fromkeys(nothing, 0) | dict.fromkeys(unknown)
