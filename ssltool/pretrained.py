"""A network from a checkpoint, and the data it was trained on: what save-reprs and lincls start from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ssltool.build import build_method
from ssltool.config import NetworkSettings
from ssltool.data.datasets import parse_type
from ssltool.errors import SSLToolError
from ssltool.files import Checkpoint, file_hash
from ssltool.methods.base import Method
from ssltool.training import distributed

C = TypeVar("C", bound=NetworkSettings)


@dataclass
class Pretrained:
    """A network in eval mode on its device, the settings it was trained with, and where it comes from."""

    method: Method
    config: dict[str, Any]
    image_size: int
    origin: dict[str, Any]


def load_pretrained(settings: NetworkSettings, device: torch.device, *, seed: int | None = None) -> Pretrained:
    """The network of ``--pretrained``, or with ``--random`` an untrained one of the same make, whose weights are a
    function of ``seed``, by default the run's.

    Raises:
        SSLToolError: if the checkpoint is missing, unreadable, or does not fit the given architecture, stem or image
        size.
    """
    if distributed.launched():
        raise SSLToolError("this stage runs in one process; start it without torchrun")
    if settings.pretrained is None:
        raise SSLToolError("name the checkpoint with --pretrained FILE")
    checkpoint = Checkpoint.load(settings.pretrained)
    saved = checkpoint.config
    for name in ("arch", "stem"):
        asked = getattr(settings, name)
        if asked not in (None, "auto", saved[name]):
            raise SSLToolError(
                f"--{name} is {asked}, but {settings.pretrained} was trained with {saved[name]}; leave it out"
            )
    image_size = settings.image_size or int(saved["image_size"])
    method = build_method(saved | {"image_size": image_size} | ({} if seed is None else {"seed": seed}))
    if not settings.random:
        try:
            method.load_state_dict(checkpoint.state_dict)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise SSLToolError(f"the weights in {settings.pretrained} do not fit {saved['arch']}: {reason}") from error
    origin = {
        "checkpoint": settings.pretrained,
        "checkpoint_hash": file_hash(settings.pretrained),
        "random": settings.random,
        "method": saved["method"],
        "arch": saved["arch"],
        "stem": saved["stem"],
        "strategy": saved["strategy"],
        "epoch": 0 if settings.random else checkpoint.epoch,
        "image_size": image_size,
    }
    return Pretrained(method.to(device).eval(), saved, image_size, origin)


def with_saved_data(settings: C, saved: dict[str, Any]) -> C:
    """``settings`` with the checkpoint's dataset where none is named; a split in ``--dataset-type`` is kept."""
    if settings.data is not None:
        return settings
    name, split, subset = parse_type(settings.dataset_type)
    if name == "auto":
        name = saved["dataset"]
    elif name == "bundled":
        return settings
    elif name != saved["dataset"]:
        raise SSLToolError(f"--dataset-type {settings.dataset_type} needs the folder of its images as DATA")
    spelling = name + (f"_{split}" if split else "") + ("_subset" if subset else "")
    return dataclasses.replace(
        settings, data=saved["data"], dataset_type=spelling, small=settings.small or saved["small"]
    )
