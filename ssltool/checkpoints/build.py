"""From settings, as a checkpoint keeps them, to the method that they describe."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ssltool import seeds
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.convert import is_alone, read_checkpoint
from ssltool.data.strategies import steps_in_epoch
from ssltool.errors import UsageError
from ssltool.methods import method_class, method_options
from ssltool.methods.base import Method, RunFacts
from ssltool.methods.options import TrainedTeacher
from ssltool.models.backbones import build_backbone
from ssltool.training.distributed import rank_zero_info

BUILDING = ("arch", "stem", "image_size", "stop_grad_conv1", "zero_init_residual")
"""The settings that a backbone is built from."""


def build_method(saved: dict[str, Any], second: Checkpoint | None = None) -> Method:
    """The method of resolved settings with fresh weights, which are a function of the seed.

    ``second`` is the checkpoint of a trained teacher whose weights it gets, where ``saved["second_backbone"]`` says how
    that one's backbone is made. A method that is read back from a checkpoint gets them with its own.
    Settings of a backbone alone, another program's or an untrained one, make a method that has nothing else.
    """
    made, options = Method, None
    if not is_alone(saved):
        made, options = method_class(saved["method"]), method_options(saved["method"], saved["method_options"])
    own = {name: saved[name] for name in BUILDING}

    def second_backbone() -> tuple[nn.Module, int]:
        return build_backbone(**(saved["second_backbone"] or own))

    run = RunFacts(
        images=saved["n_images"],
        classes=saved["n_classes"],
        epoch_images=saved["epoch_images"],
        image_size=saved["image_size"],
        batch_size=saved["batch_size"],
        steps=steps_in_epoch(saved["n_images"], saved["batch_size"], saved["steps_per_epoch"]),
        epochs=saved["epochs"],
        seed=saved["seed"],
        second_backbone=second_backbone,
    )
    torch.manual_seed(seeds.derive(saved["seed"]))
    backbone, dim = build_backbone(**own)
    method = made(backbone, dim, options, run)
    if second is not None:
        method.teacher.load_state_dict(backbone_weights(second))  # type: ignore[operator, union-attr]
    return method


def backbone_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The backbone's part of a checkpoint's weights, under the backbone's own names."""
    prefix = "backbone."
    weights = checkpoint.state_dict.items()
    return {name.removeprefix(prefix): tensor for name, tensor in weights if name.startswith(prefix)}


def read_teacher(method: str, options: Any) -> Checkpoint | None:
    """The checkpoint that ``options`` name as the teacher, for a method that has one.

    Raises:
        SSLToolError: if none is named, or it cannot be read; it may be another program's.
    """
    if not isinstance(options, TrainedTeacher):
        return None
    if options.teacher is None:
        raise UsageError(f"{method} learns from a trained network; name its checkpoint with --set teacher=FILE")
    checkpoint, found = read_checkpoint(options.teacher)
    if found is not None:
        rank_zero_info(f"reading {options.teacher}: {found}")
    return checkpoint
