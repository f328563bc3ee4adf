"""The export stage: converts the backbone of a checkpoint for torchvision, timm or SimSiam's ``main_lincls.py``."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch
from torch import Tensor

from ssltool.checkpoints.build import backbone_weights
from ssltool.checkpoints.convert import read_checkpoint
from ssltool.checkpoints.parameter_names import timm_name
from ssltool.checkpoints.read import SAFETENSORS, safetensors_package
from ssltool.config import ExportConfig
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.files.writing import write_atomically
from ssltool.models.resnet import torchvision_resnets
from ssltool.models.vit import ViTShape, patch_size, vit_shape
from ssltool.settings import Record
from ssltool.training.distributed import rank_zero_info

SIMSIAM = "simsiam"
TIMM = "timm"

IN_PYTHON = "ssltool.load_backbone(FILE)"
"""How a network that no library has is loaded."""


def run(config: ExportConfig) -> Record:
    """Converts the backbone of a checkpoint of ssltool or another library.

    Returns the ``path`` written, its ``sha256``, ``arch``, the number of ``tensors``, and ``load``, the code that loads
    it.

    Raises:
        UsageError: for settings that contradict each other.
        SSLToolError: if the checkpoint cannot be read, or the target library does not have its architecture.
    """
    config.check()
    checkpoint, found = read_checkpoint(config.checkpoint, arch=config.arch, stem=config.stem, key=config.key)
    if found is not None:
        rank_zero_info(f"reading {config.checkpoint}: {found}")
    settings = checkpoint.config
    arch, shape = settings["arch"], vit_shape(settings["arch"])
    if shape is None or config.to == SIMSIAM:
        _check_resnet(arch, settings["stem"], config)
    weights = {name: tensor.contiguous() for name, tensor in backbone_weights(checkpoint).items()}
    path = _target(config)
    if config.to == TIMM and shape is not None:
        weights = {timm_name(name): tensor for name, tensor in weights.items()}
    epoch = checkpoint.epoch if found is None else found.epoch
    _write(path, weights, config.to, {"arch": arch, "epoch": epoch, "method": checkpoint.method})
    return {
        "path": str(path),
        "to": config.to,
        "arch": arch,
        "tensors": len(weights),
        "sha256": file_hash(path),
        "load": _load_code(path, config.to, arch, shape, int(settings["image_size"])),
    }


def _check_resnet(arch: str, stem: str, config: ExportConfig) -> None:
    """Raises ``SSLToolError`` if the target library cannot build this ResNet."""
    if arch not in torchvision_resnets():
        other = "; --to torchvision or timm has it" if vit_shape(arch) else f"; load it in Python: {IN_PYTHON}"
        raise SSLToolError(f"{config.to} does not have {arch}, only {', '.join(torchvision_resnets())}{other}")
    if stem != "imagenet":
        raise SSLToolError(
            f"{config.to} builds {arch} with the stem imagenet, but {config.checkpoint} has the stem {stem}; "
            f"load it in Python: {IN_PYTHON}, or as docs/checkpoints.md shows"
        )


def _target(config: ExportConfig) -> Path:
    source = Path(config.checkpoint)
    stem = source.name.partition(".")[0] or source.name
    default = source.with_name(f"{stem}-{config.to}.pth" + (".tar" if config.to == SIMSIAM else ""))
    path = Path(config.out) if config.out is not None else default
    if path.resolve() == source.resolve():
        raise SSLToolError(f"--out {path} is the checkpoint itself; choose another name")
    return path


def _write(path: Path, weights: dict[str, Tensor], to: str, about: Record) -> None:
    """Writes ``weights`` as a plain state dict, or for SimSiam as a checkpoint of its training."""
    if path.suffix == SAFETENSORS:
        metadata = {"format": "pt"} | {key: str(value) for key, value in about.items() if value is not None}
        contents = safetensors_package().torch.save(weights, metadata=metadata)
        write_atomically(path, lambda stream: stream.write(contents))
        return
    saved: Record = dict(weights)
    if to == SIMSIAM:
        saved = about | {"state_dict": {f"module.encoder.{name}": tensor for name, tensor in weights.items()}}
    write_atomically(path, lambda stream: torch.save(saved, stream))


def _load_code(path: Path, to: str, arch: str, shape: ViTShape | None, image_size: int) -> str:
    """The line of Python that loads the file; for SimSiam, a shell command."""
    if to == SIMSIAM:
        return f"python main_lincls.py -a {arch} --pretrained {shlex.quote(str(path))} ..."
    if to == TIMM:
        vit = "" if shape is None else _keywords(shape, image_size, "img_size patch_size depth num_heads embed_dim")
        name = arch if shape is None else "vit_base_patch16_224"
        return f"timm.create_model('{name}', num_classes=0, {vit}checkpoint_path={str(path)!r})"
    head = "fc" if shape is None else "heads"
    model = f"torchvision.models.{arch}()"
    if shape is not None:
        sizes = _keywords(shape, image_size, "image_size patch_size num_layers num_heads hidden_dim")
        model = f"torchvision.models.VisionTransformer({sizes}mlp_dim={4 * shape.dim})"
    load = "safetensors.torch.load_file" if path.suffix == SAFETENSORS else "torch.load"
    return f"model = {model}; model.{head} = torch.nn.Identity(); model.load_state_dict({load}({str(path)!r}))"


def _keywords(shape: ViTShape, image_size: int, names: str) -> str:
    values = (image_size, shape.patch or patch_size(image_size), shape.depth, shape.heads, shape.dim)
    return "".join(f"{name}={value}, " for name, value in zip(names.split(), values, strict=True))
