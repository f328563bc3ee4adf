"""Loading a pretrained network and the data that it was trained on, with which the later stages start."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from ssltool.checkpoints.build import build_method
from ssltool.checkpoints.convert import read_checkpoint
from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.checkpoints.saved_run import OURS, PROGRAM, SavedRun
from ssltool.checkpoints.torchvision_weights import published_weights
from ssltool.config import NetworkSettings, PretrainConfig
from ssltool.data.images import open_dataset, parse_type
from ssltool.errors import SSLToolError, UsageError, found_in
from ssltool.files import Record, file_hash, weights_hash
from ssltool.methods.base import Method
from ssltool.models.backbones import family_of, resolve_stem
from ssltool.training import distributed
from ssltool.training.setup import DEFAULT_SIZE

C = TypeVar("C", bound=NetworkSettings)

RANDOM = "random"
"""The value of ``--pretrained`` for an untrained network of ``--arch``."""

PUBLISHED = "torchvision:"
"""The prefix of ``--pretrained`` for weights that torchvision publishes."""

UNTRAINED = "untrained"

BUNDLED = "bundled"
"""The dataset that comes with ssltool."""


@dataclass
class Pretrained:
    """A network in eval mode on its device, the run that trained it, the side of its input in pixels, and where it
    comes from, as results and files say it."""

    method: Method
    run: SavedRun
    image_size: int
    origin: Record


@dataclass
class _Source:
    """What ``--pretrained`` names: a run, its weights unless there are none, the epoch that they are of, if known, and
    the hash of the file, if there is one."""

    run: SavedRun
    weights: dict[str, torch.Tensor] | None
    epoch: int | None
    hash: str | None


def load_pretrained(
    settings: NetworkSettings, device: torch.device, *, seed: int | None = None, ranks: bool = False
) -> Pretrained:
    """The network of ``--pretrained``, or with ``--random`` an untrained one of the same architecture. Its weights are
    then a function of ``seed``, by default the run's. ``ranks`` says that the stage may be one of several processes.

    Another program's network is its backbone alone, in a ``Method`` that cannot train. Stderr says what was found in
    the file.

    Raises:
        SSLToolError: if the checkpoint is missing, unreadable, or does not fit the given architecture, stem or image
            size; or if torchrun started several processes of a stage for one.
    """
    if distributed.under_torchrun() and not ranks:
        raise SSLToolError("this stage runs in one process; start it without torchrun")
    source = _source(settings, seed)
    run = source.run
    with found_in(settings.pretrained):
        method = build_method(run if seed is None else run.updated(seed=seed))
    untrained = settings.random or source.weights is None
    if source.weights is not None and not settings.random:
        try:
            method.load_state_dict(source.weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise SSLToolError(
                f"the weights in {settings.pretrained} do not fit {run.backbone.arch}: {reason}"
            ) from error
    image_size = settings.image_size or run.backbone.image_size
    origin = {
        "checkpoint": settings.pretrained,
        "checkpoint_hash": source.hash or weights_hash(method.backbone.state_dict()),
        "random": untrained,
        PROGRAM: run.program,
        "method": run.method_name,
        "arch": run.backbone.arch,
        "stem": run.backbone.stem,
        "strategy": run.schedule.strategy if run.schedule else None,
        "epoch": 0 if untrained else source.epoch,
        "image_size": image_size,
    }
    return Pretrained(method.to(device).eval(), run, image_size, origin)


def _source(settings: NetworkSettings, seed: int | None) -> _Source:
    name = settings.pretrained
    if name is None:
        raise UsageError("name the checkpoint with --pretrained FILE")
    if name == RANDOM:
        return _untrained(settings, seed)
    if not name.startswith(PUBLISHED):
        return _read(name, settings.arch, settings.stem)
    arch = _named_architecture(settings)
    return _read(str(published_weights(arch, name.removeprefix(PUBLISHED))), arch, settings.stem)


def _read(path: str, arch: str | None, stem: str | None) -> _Source:
    checkpoint, found = read_checkpoint(path, arch=arch, stem=stem)
    if found is not None:
        distributed.rank_zero_info(f"reading {path}: {found}")
    epoch = checkpoint.epoch if found is None else found.epoch
    return _Source(SavedRun.read(checkpoint.config, path), checkpoint.state_dict, epoch, file_hash(path))


def _untrained(settings: NetworkSettings, seed: int | None) -> _Source:
    arch = _named_architecture(settings)
    family_of(arch)
    own = open_dataset(settings, "val").own_size if settings.data is None else None
    size = settings.image_size or own or DEFAULT_SIZE
    backbone = BackboneSpec(arch, resolve_stem(arch, settings.stem or "auto", size), size)
    run = SavedRun.of_backbone(backbone, method=UNTRAINED, program=OURS)
    if seed is None:
        seed = getattr(settings, "seed", PretrainConfig.seed)
    return _Source(run.updated(seed=seed), None, 0, None)


def _named_architecture(settings: NetworkSettings) -> str:
    if settings.arch is None:
        raise UsageError(f"--pretrained {settings.pretrained} needs the architecture: add -a NAME")
    return settings.arch


def run_name(stage: str, settings: NetworkSettings) -> str:
    """What a stage calls its run: after the folder of the checkpoint, or what stands in its place."""
    source = str(settings.pretrained)
    if settings.random or source == RANDOM:
        return f"{stage}-{UNTRAINED}"
    if source.startswith(PUBLISHED):
        return f"{stage}-{source.replace(':', '-')}"
    return f"{stage}-{Path(source).resolve().parent.name}"


def with_saved_data(settings: C, run: SavedRun) -> C:
    """``settings`` with the dataset of the checkpoint's ``run``, where they name none. A split in ``--dataset-type`` is
    kept. Other programs do not say what they trained on: then these are the bundled images, and stderr says so."""
    if settings.data is not None:
        return settings
    dataset, folder, small = (run.data.dataset, run.data.folder, run.data.small) if run.data else (BUNDLED, None, False)
    name, split, subset = parse_type(settings.dataset_type)
    if name == "auto":
        name = dataset
        if run.data is None:
            distributed.rank_zero_info(
                f"no DATA is given, and {settings.pretrained} names none: taking the bundled images"
            )
    elif name == BUNDLED:
        return settings
    elif name != dataset:
        raise SSLToolError(f"--dataset-type {settings.dataset_type} needs the folder of its images as DATA")
    dataset_type = name + (f"_{split}" if split else "") + ("_subset" if subset else "")
    return dataclasses.replace(settings, data=folder, dataset_type=dataset_type, small=settings.small or small)
