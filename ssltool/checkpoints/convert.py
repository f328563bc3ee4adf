"""Converts checkpoints of other programs: parameters renamed as in torchvision, and what is known about the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.checkpoint_layouts import HEADS, CheckpointLayout, detect_layout, extract_weights
from ssltool.checkpoints.efficientnet_names import ANCHOR, match_efficientnet
from ssltool.checkpoints.match_architecture import BackboneSpec, add_batch_counters, match_backbone
from ssltool.checkpoints.read import read_entries
from ssltool.checkpoints.saved_run import SSLTOOL, SavedRun
from ssltool.config.common import MOST_EPOCHS
from ssltool.errors import SSLToolError
from ssltool.files.misfit import name_keys
from ssltool.files.schema import conform, mapping, tensor
from ssltool.files.stored import format_of
from ssltool.files.writing import FilePath


@dataclass(frozen=True)
class ForeignBackbone:
    """The backbone in another program's checkpoint.

    Attributes:
        layout: the layout of the file, which names the program.
        spec: how the backbone is built.
        weights: the backbone's state dict, with torchvision's names.
        ignored: names of the modules that are not part of the backbone.
        epoch: completed epochs; None if the file does not contain them.
    """

    layout: CheckpointLayout
    spec: BackboneSpec
    weights: dict[str, Tensor]
    ignored: Sequence[str]
    epoch: int | None

    def __str__(self) -> str:
        """A one-line description."""
        stem = "" if self.spec.stem == "auto" else f" (stem {self.spec.stem})"
        where = f"backbone under '{self.layout.prefix}'" if self.layout.prefix else "backbone without prefix"
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        ignored = f"; ignored: {name_keys(self.ignored, most=20)}" if self.ignored else ""
        return f"{self.layout.program} checkpoint: arch {self.spec.arch}{stem}, {where}{epoch}{ignored}"


def find_backbone(
    path: FilePath, entries: Mapping[str, Any], *, arch: str | None = None, stem: str | None = None
) -> ForeignBackbone:
    """Finds the backbone among the top-level ``entries`` of another program's checkpoint ``path``.

    Raises:
        SSLToolError: if there is no supported backbone, it is incomplete, or it contradicts ``arch`` or ``stem``.
    """
    weights = extract_weights(entries)
    layout, scheme = detect_layout(str(path), weights, entries)
    backbone: dict[str, Tensor] = {}
    ignored: dict[str, None] = {}  # an ordered set
    for name, held in weights.items():
        local_name = name.removeprefix(layout.prefix)
        has_prefix = name.startswith(layout.prefix)
        if has_prefix and local_name.split(".")[0] not in HEADS:
            backbone[scheme.rename(local_name)] = held
        else:
            ignored[layout.prefix + local_name.split(".")[0] if has_prefix else name.split(".")[0]] = None
    backbone = conform(backbone, mapping(other=tensor(...)), path, remedy="save the state_dict again on the CPU")
    if ANCHOR in backbone:
        name, size, backbone = match_efficientnet(str(path), backbone, arch, stem)
        spec = BackboneSpec(name, "auto", size)
    else:
        spec = match_backbone(str(path), backbone, layout, arch=arch, stem=stem)
    epoch = entries.get("epoch")
    epoch = epoch if type(epoch) is int and 0 <= epoch < MOST_EPOCHS else None
    if epoch is not None and "pytorch-lightning_version" in entries:
        epoch += 1  # Lightning saves the number of the current epoch, other programs that of completed epochs
    return ForeignBackbone(layout, spec, add_batch_counters(backbone, spec), list(ignored), epoch)


def read_checkpoint(
    path: FilePath, *, arch: str | None = None, stem: str | None = None
) -> tuple[Checkpoint, ForeignBackbone | None]:
    """Reads a checkpoint of ssltool, or converts one of another program.

    A converted checkpoint has only the backbone (``backbone.*``) in its ``state_dict``, the settings of a backbone
    without a run as ``config``, no optimizer state, and ``step`` 0. Its ``epoch`` is 0 if the file does not contain it.

    Returns:
        The checkpoint, and the backbone that was found in another program's file; None for a checkpoint of ssltool.

    Raises:
        SSLToolError: if the file is unreadable, could only be read by executing code, contains no complete and
            supported backbone, or contradicts ``arch`` or ``stem``.
    """
    entries = read_entries(path)
    if format_of(entries).startswith(f"{SSLTOOL}/"):
        checkpoint = Checkpoint.of(entries, path)
        backbone = SavedRun.read(checkpoint.config, path).backbone
        for name, given, saved in (("arch", arch, backbone.arch), ("stem", stem, backbone.stem)):
            if given not in (None, "auto", saved):
                raise SSLToolError(f"--{name} is {given}, but {path} was trained with {saved}; leave it out")
        return checkpoint, None
    foreign = find_backbone(path, entries, arch=arch, stem=stem)
    return _backbone_checkpoint(foreign), foreign


def _backbone_checkpoint(foreign: ForeignBackbone) -> Checkpoint:
    """A checkpoint with a backbone only, from which training cannot resume."""
    layout = foreign.layout
    run = SavedRun.of_backbone(foreign.spec, method=layout.method or layout.program, program=layout.program)
    return Checkpoint(
        method=run.method_name,
        arch=foreign.spec.arch,
        epoch=foreign.epoch or 0,
        step=0,
        config=run.settings,
        state_dict={f"backbone.{name}": tensor for name, tensor in foreign.weights.items()},
        optimizer={},
        scaler=None,
        metrics={},
    )
