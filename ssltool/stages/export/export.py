"""Reads a network, plans what is written for the target, and writes it."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ssltool.checkpoints.load import load_pretrained
from ssltool.checkpoints.model_folder import find_model_folder, folder_hash
from ssltool.checkpoints.other_folders import WEIGHT_ENDINGS
from ssltool.checkpoints.read import SAFETENSORS
from ssltool.config import ExportConfig, NetworkSettings
from ssltool.errors import SSLToolError, UsageError
from ssltool.files.reading import file_hash
from ssltool.settings import Record
from ssltool.stages.export import TARGETS
from ssltool.stages.export.exported import Exported, NoCounterpart, Plan


def run(config: ExportConfig) -> Record:
    """Writes the backbone of a checkpoint of ssltool or another program for the target ``config.to``.

    Returns the ``path`` written, its ``sha256``, ``arch``, ``stem``, ``image_size``, ``width``, ``preprocessing``, the
    number of ``tensors``, and ``load``, the code that loads it without ssltool.

    Raises:
        UsageError: for settings that contradict each other.
        SSLToolError: if the checkpoint cannot be read, or the target has nothing that computes exactly the same.
    """
    config.check()
    path = _path(config)
    settings = NetworkSettings(pretrained=config.checkpoint, arch=config.arch, stem=config.stem, key=config.key)
    network = Exported.of(load_pretrained(settings, torch.device("cpu")).with_finite_weights())
    try:
        plan: Plan = TARGETS.load(config.to)(network, path)
        plan.write()
    except NoCounterpart as error:
        others = [name for name in TARGETS if name != config.to and _has_plan(network, name, path)]
        raise SSLToolError(f"{error}; use --to {', '.join(others[:-1])} or {others[-1]}") from error
    folder = find_model_folder(path) if path.is_dir() else None
    return {
        "path": str(path),
        "to": config.to,
        "arch": network.arch,
        "stem": network.stem,
        "image_size": network.image_size,
        "width": network.width,
        "preprocessing": network.preprocessing.record(),
        "tensors": len(network.weights),
        "sha256": file_hash(path) if folder is None else folder_hash(folder),
        "load": f"{plan.load}\n\n{network.comment()}" if plan.in_python else plan.load,
    }


def _has_plan(network: Exported, to: str, path: Path) -> bool:
    try:
        TARGETS.load(to)(network, path)
    except SSLToolError:
        return False
    return True


def _without_ending(name: str) -> str:
    """The name of a file of weights without ``.pth``, ``.pth.tar`` and the like; other dots are part of a name, as in
    ``lr0.1``."""
    while (cut := Path(name)).suffix in WEIGHT_ENDINGS and cut.stem:
        name = cut.stem
    return name


def _path(config: ExportConfig) -> Path:
    """The file or folder to write."""
    target, source = TARGETS[config.to], Path(config.checkpoint)
    if not source.exists():  # the name of published weights
        source = Path(re.sub(r"[^\w.-]", "-", config.checkpoint))
        stem = source.name
    else:
        source = source if source.name else source.resolve()
        stem = source.name if source.is_dir() else _without_ending(source.name)
    path = Path(config.out) if config.out is not None else source.with_name(f"{stem}-{config.to}{target.ending}")
    wrong = bool(target.endings) and path.suffix not in target.endings
    if wrong or (target.not_safetensors and path.suffix == SAFETENSORS):
        raise UsageError(f"--out {path}: --to {config.to} writes {target.what}; let the name end in {target.ending}")
    if path.resolve() == source.resolve():
        raise SSLToolError(f"--out {path} is the checkpoint itself; choose another name")
    return path
