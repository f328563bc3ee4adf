"""Builds the method of a saved run."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from ssltool import seeds
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.convert import read_checkpoint
from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.data.strategies import steps_in_epoch
from ssltool.errors import UsageError
from ssltool.methods import METHODS, method_class, method_options, saved_options
from ssltool.methods.base import Method, RunFacts
from ssltool.methods.options import TrainedTeacher
from ssltool.models.backbones import build_backbone, check_masks, check_positions, check_size, is_known
from ssltool.training.distributed import rank_zero_info
from ssltool.training.restore import load_weights


def build_method(run: SavedRun, teacher: Checkpoint | None = None) -> Method:
    """Builds the method of a saved run and initialises its weights from the run's seed.

    ``teacher`` is the checkpoint of a trained teacher; its backbone's weights are loaded into the method's teacher.
    Leave it out if a checkpoint of the method itself is loaded afterwards, since that contains the teacher's weights.
    A run that holds only a backbone yields a plain ``Method``, which cannot be trained.

    Raises:
        UsageError: if the method needs patches or positions that the architecture does not give.
        SSLToolError: if the method, one of its options or the architecture is unknown.
    """
    require_plugins(run)
    cls, options, facts = Method, None, _run_facts(run)
    if run.method is not None:
        name = run.method.name
        cls, options = method_class(name), method_options(name, saved_options(name, run.method.options))
    torch.manual_seed(seeds.derive(run.seed))
    backbone, width = _build_backbone(run.backbone)
    if cls.masks_patches and run.method is not None:
        check_masks(backbone, run.backbone.arch, run.method.name)
    if cls.compares_positions and run.method is not None:
        check_positions(backbone, run.backbone.arch, run.method.name)
    method = cls(backbone, width, options, facts)
    if teacher is not None:
        remedy = f"these are not the weights of {teacher.run.backbone.arch}"
        load_weights(method.teacher, backbone_weights(teacher), options.teacher, remedy)  # type: ignore[arg-type, union-attr]
        check_size(method.teacher, run.backbone.image_size)  # type: ignore[arg-type]
    return method


def outline_method(run: SavedRun) -> Method:
    """The method of a saved run without memory for its weights, on the meta device, whatever widths a file names.

    The method of a run with plug-ins, which may not support this device, is built as by ``build_method``.

    Raises:
        SSLToolError: as ``build_method``.
    """
    with torch.device("cpu" if run.plugins else "meta"):
        return build_method(run)


def require_plugins(run: SavedRun) -> None:
    """Checks that the method and architecture of a run that used plug-ins are registered.

    Raises:
        UsageError: naming what is missing and the plug-ins that the run used.
    """
    if not run.plugins:
        return
    missing = [] if run.method is None or run.method.name in METHODS else [f"the method '{run.method.name}'"]
    missing += [] if is_known(run.backbone.arch) else [f"the architecture '{run.backbone.arch}'"]
    if missing:
        flags = " ".join(f"--plugin {name}" for name in run.plugins)
        raise UsageError(f"{' and '.join(missing)} came from a plug-in that is not loaded; add {flags}")


def _run_facts(run: SavedRun) -> RunFacts:
    """The facts about the run that the method receives; 0 if the run holds only a backbone."""
    data, schedule = run.data, run.schedule
    images = data.images if data else 0
    batch_size = schedule.batch_size if schedule else 0
    teacher = run.method.teacher_backbone if run.method else None
    return RunFacts(
        images=images,
        classes=data.classes if data else 0,
        epoch_images=data.epoch_images if data else 0,
        image_size=run.backbone.image_size,
        batch_size=batch_size,
        steps=steps_in_epoch(images, batch_size, schedule.steps_per_epoch) if schedule else 0,
        epochs=schedule.epochs if schedule else 0,
        seed=run.seed,
        second_backbone=lambda: _build_backbone(teacher or run.backbone),
    )


def _build_backbone(backbone: BackboneSpec) -> tuple[nn.Module, int]:
    return build_backbone(**dataclasses.asdict(backbone))


def backbone_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The backbone's weights in a checkpoint, without the prefix ``backbone.``."""
    prefix = "backbone."
    weights = checkpoint.state_dict.items()
    return {name.removeprefix(prefix): tensor for name, tensor in weights if name.startswith(prefix)}


def read_teacher(method: str, options: Any) -> Checkpoint | None:
    """Reads the teacher's checkpoint, in any supported format, for a method that uses a trained teacher; else None.

    Raises:
        UsageError: if the method needs a teacher and ``options`` name none.
        SSLToolError: if the checkpoint cannot be read.
    """
    if not isinstance(options, TrainedTeacher):
        return None
    if options.teacher is None:
        raise UsageError(f"{method} needs a trained teacher; give its checkpoint with --set teacher=FILE")
    checkpoint, foreign = read_checkpoint(options.teacher)
    if foreign is not None:
        rank_zero_info(f"reading {options.teacher}: {foreign}")
    return checkpoint
