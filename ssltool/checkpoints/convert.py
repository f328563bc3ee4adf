"""Converts checkpoints of other programs: parameters renamed as in torchvision, and what is known about the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.checkpoint_layouts import TIMM, TORCHVISION, CheckpointLayout, detect_layout
from ssltool.checkpoints.described_weights import Description, check_described
from ssltool.checkpoints.find_network import find_network
from ssltool.checkpoints.find_weights import FoundWeights, find_weights
from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.checkpoints.model_folder import CONFIG, find_model_folder, read_model_folder
from ssltool.checkpoints.named_backbone import NamedBackbone
from ssltool.checkpoints.other_folders import describe_folder
from ssltool.checkpoints.parameter_names import NamingScheme, with_timm_names
from ssltool.checkpoints.read import METADATA, read_entries
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.checkpoints.setting_names import SSLTOOL
from ssltool.checkpoints.side_settings import SideSettings, side_settings
from ssltool.checkpoints.timm_derivation import Source
from ssltool.checkpoints.timm_networks import longest_name
from ssltool.config.fields import MOST_EPOCHS
from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError
from ssltool.files.misfit import name_keys
from ssltool.files.placeholders import placeholder_names
from ssltool.files.schema import conform, mapping, tensor
from ssltool.files.stored import format_of
from ssltool.files.writing import FilePath
from ssltool.models.arch_name import parse

MAE = "MAE"
"""The program that bare weights belong to if the settings of MAE's training are beside them."""

_FLOATS = "save the state_dict of the whole network again, in float32 and on the CPU"


@dataclass(frozen=True)
class ForeignBackbone:
    """The backbone in another program's checkpoint.

    Attributes:
        layout: the layout of the file, which names the program.
        spec: how the backbone is built.
        weights: the backbone's state dict, with torchvision's names.
        ignored: names of the modules that are not part of the backbone.
        epoch: completed epochs; None if the file does not contain them.
        found: where the weights were in the file.
        skipped: the classes of the objects in the file that were not created.
        assumed: what neither the weights nor settings of the program show.
        notes: what else was assumed, or is not used, each in a few words.
        preprocessing: the transform that the file names; None if it names none.
    """

    layout: CheckpointLayout
    spec: BackboneSpec
    weights: dict[str, Tensor]
    ignored: Sequence[str]
    epoch: int | None
    found: FoundWeights
    skipped: Sequence[str] = ()
    assumed: Sequence[str] = ()
    notes: Sequence[str] = ()
    preprocessing: Preprocessing | None = None

    @classmethod
    def named(cls, named: NamedBackbone) -> ForeignBackbone:
        """The backbone of files that name its architecture."""
        layout, found = CheckpointLayout(named.program, named.method, ""), FoundWeights(named.weights)
        return cls(
            *(layout, named.spec, named.weights, named.left_out, named.epoch, found),
            notes=named.notes,
            preprocessing=named.preprocessing,
        )

    def __str__(self) -> str:
        """A one-line description."""
        stem = "" if self.spec.stem == "auto" else f" (stem {self.spec.stem})"
        where = f"backbone under '{self.layout.prefix}'" if self.layout.prefix else "backbone without prefix"
        epoch = "" if self.epoch is None else f", epoch {self.epoch}"
        ignored = f"; ignored: {name_keys(self.ignored, most=20)}" if self.ignored else ""
        taken = f", {self.found}" if str(self.found) else ""
        skipped = f"; objects not read: {name_keys(self.skipped, most=3)}" if self.skipped else ""
        assumed = f"; assumed: {', '.join(self.assumed)}" if self.assumed else ""
        said = f"{where}{taken}{epoch}{ignored}{skipped}{assumed}{''.join(f'; {note}' for note in self.notes)}"
        return f"{self.layout.program} checkpoint: arch {self.spec.arch}{stem}, {said}"


def find_backbone(
    path: FilePath,
    entries: Mapping[str, Any],
    *,
    arch: str | None = None,
    stem: str | None = None,
    key: str | None = None,
) -> ForeignBackbone:
    """Finds the backbone among the top-level ``entries`` of another program's checkpoint ``path``.

    Args:
        key: the network to take, as ``find_weights`` describes.

    Raises:
        SSLToolError: if there is no supported backbone, it is incomplete, or it contradicts ``arch``, ``stem`` or
            ``key``.
    """
    described = Description.find(entries.get(METADATA, {}), path)
    if described is not None and described.spec is not None:
        return _described(path, find_weights(path, entries).weights, described, described.spec, arch, stem, key)
    found = find_weights(path, entries, key)
    weights = found.weights
    layout, scheme = _layout_of(path, found, entries, None if arch is None else _anchor(arch))
    backbone = {name.removeprefix(layout.prefix): t for name, t in weights.items() if name.startswith(layout.prefix)}
    others = dict.fromkeys(name.split(".")[0] for name in weights if not name.startswith(layout.prefix))
    backbone = conform(backbone, mapping(other=tensor(...)), path, remedy=_FLOATS)
    _require_elements(path, backbone)
    settings = side_settings(path, entries) if layout.settings_of_network else SideSettings()
    if layout.program == TIMM and settings.of_mae:
        layout = dataclasses.replace(layout, program=MAE, first_epoch=0)
    backbone, scheme = with_timm_names(backbone, scheme)
    source = Source(
        *(str(path), backbone, layout.program, layout.attention_heads(), settings, layout.names_program),
        mean_of_patches=layout.mean_of_patches and "mask_token" not in backbone,  # which lightly-train's own ViTs have
    )
    network = find_network(source, layout, scheme, arch=arch, stem=stem)
    epoch = _completed_epochs(entries, layout)
    named = parse(network.spec.arch)
    if layout.program in (TIMM, TORCHVISION) and named is not None:  # bare weights, whose names several libraries use
        layout = dataclasses.replace(layout, program=named.library)
    ignored = sorted([*(layout.prefix + name for name in network.left_out), *others])
    skipped = placeholder_names(entries)
    held = dict(network.weights)
    _require_floats(path, held)
    return ForeignBackbone(
        layout, network.spec, held, ignored, epoch, found, skipped, [*network.assumed, *layout.assumes]
    )


def _completed_epochs(entries: Mapping[str, Any], layout: CheckpointLayout) -> int | None:
    """The number of completed epochs. Some programs save the number of the current epoch from 0 instead: timm since its
    version 2 of the format, and Lightning, whose loop counts the epochs that it has processed."""
    epoch, version = entries.get("epoch"), entries.get("version")
    if type(epoch) is not int or not 0 <= epoch < MOST_EPOCHS:
        return None
    if "pytorch-lightning_version" in entries:
        found = entries
        for name in ("loops", "fit_loop", "epoch_progress", "current"):
            found = found.get(name, {}) if isinstance(found, Mapping) else {}
        processed = found.get("processed") if isinstance(found, Mapping) else None
        return processed if type(processed) is int and 0 <= processed <= MOST_EPOCHS else epoch + 1
    of_timm = type(version) is int and version > 1 and {"arch", "state_dict"} <= entries.keys()
    return epoch + (of_timm or layout.first_epoch == 0)


def _require_elements(path: FilePath, weights: Mapping[str, Tensor]) -> None:
    name = next((name for name, held in weights.items() if not held.numel()), None)
    if name is not None:
        raise SSLToolError(
            f"{path}: {name} has no elements, as in a file of DeepSpeed's ZeRO-3 without the weights, which its ranks "
            "saved; run the zero_to_fp32.py beside it, and read the file that it writes"
        )


def _require_floats(path: FilePath, weights: Mapping[str, Tensor]) -> None:
    """Checks that no weight is an integer, as those of quantised networks are, which are scaled by other tensors."""
    for name, held in weights.items():
        if name.endswith((".weight", ".bias")) and not held.is_floating_point():
            raise SSLToolError(
                f"{path}: {name} has the type {str(held.dtype).removeprefix('torch.')}, so the weights are quantised; "
                f"{_FLOATS}"
            )


def _described(
    path: FilePath,
    weights: dict[str, Tensor],
    described: Description,
    spec: BackboneSpec,
    arch: str | None,
    stem: str | None,
    key: str | None,
) -> ForeignBackbone:
    """The backbone of a file that ``ssltool export`` wrote."""
    for name, given, saved in (("arch", arch, spec.arch), ("stem", stem, spec.stem)):
        if given not in (None, "auto", saved):
            raise SSLToolError(f"--{name} is {given}, but {path} contains {saved}; leave it out")
    if key is not None:
        raise SSLToolError(f"--key {key} has no effect: {path} holds one network; leave it out")
    weights = conform(weights, mapping(other=tensor(...)), path)
    check_described(spec, weights, path)
    named = NamedBackbone(described.program, spec, weights, (), described.preprocessing)
    return ForeignBackbone.named(dataclasses.replace(named, method=described.method, epoch=described.epoch))


def _anchor(arch: str) -> str | None:
    """A parameter name by which the user's architecture of another library is found; None for ssltool's own."""
    return None if parse(arch) is None else longest_name(arch)


def _layout_of(
    path: FilePath, found: FoundWeights, entries: Mapping[str, Any], anchor: str | None
) -> tuple[CheckpointLayout, NamingScheme]:
    """The layout of the file, with the prefix of the network that the user chose, if there is one."""
    if found.prefix is None:
        return detect_layout(str(path), found.weights, entries, anchor)
    names = [name for name in found.weights if name.startswith(found.prefix)]
    chosen, scheme = detect_layout(str(path), names, (), anchor)
    try:
        program, _ = detect_layout(str(path), found.weights, entries)
    except SSLToolError:  # no program is known to write such a file
        return chosen, scheme
    return dataclasses.replace(program, prefix=chosen.prefix), scheme


def read_checkpoint(
    path: FilePath, *, arch: str | None = None, stem: str | None = None, key: str | None = None
) -> tuple[Checkpoint, ForeignBackbone | None]:
    """Reads a checkpoint of ssltool, or converts one of another program, which may be a folder.

    A converted checkpoint has only the backbone (``backbone.*``) in its ``state_dict``, the settings of a backbone
    without a run as ``config``, no optimizer state, and ``step`` 0. Its ``epoch`` is 0 if the file does not contain it.

    Returns:
        The checkpoint, and the backbone that was found in another program's file; None for a checkpoint of ssltool.

    Raises:
        SSLToolError: if the file is unreadable, could only be read by executing code, contains no complete and
            supported backbone, or contradicts ``arch``, ``stem`` or ``key``.
    """
    folder = find_model_folder(path)
    if folder is not None:
        if key is not None:
            raise SSLToolError(f"--key {key} has no effect: {path} is a folder of transformers or timm; leave it out")
        foreign = ForeignBackbone.named(read_model_folder(folder, arch=arch, stem=stem))
        return backbone_checkpoint(foreign), foreign
    if Path(path).is_dir():
        advice = describe_folder(Path(path))
        raise SSLToolError(f"{path} is a folder without a {CONFIG} of transformers or timm; {advice}")
    entries = read_entries(path)
    if format_of(entries).startswith(f"{SSLTOOL}/"):
        checkpoint = Checkpoint.of(entries, path)
        if key is not None:
            raise SSLToolError(f"--key {key} has no effect: {path} is a checkpoint of ssltool; leave it out")
        backbone = SavedRun.read(checkpoint.config, path).backbone
        for name, given, saved in (("arch", arch, backbone.arch), ("stem", stem, backbone.stem)):
            if given not in (None, "auto", saved):
                raise SSLToolError(f"--{name} is {given}, but {path} was trained with {saved}; leave it out")
        return checkpoint, None
    foreign = find_backbone(path, entries, arch=arch, stem=stem, key=key)
    return backbone_checkpoint(foreign), foreign


def backbone_checkpoint(foreign: ForeignBackbone) -> Checkpoint:
    """A checkpoint with a backbone only, from which training cannot resume."""
    layout = foreign.layout
    run = SavedRun.of_backbone(
        foreign.spec,
        method=layout.method or layout.program,
        program=layout.program,
        preprocessing=foreign.preprocessing,
    )
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
