"""Folders of the Hugging Face hub: ``config.json``, weights, and the preprocessing, by transformers or timm.

Weights are read by ``read.py``, without executing anything, and no code that a folder names is run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ssltool.checkpoints.described_weights import Description
from ssltool.checkpoints.find_weights import find_weights
from ssltool.checkpoints.image_processor import FILES, preprocessing_of, read_image_processor
from ssltool.checkpoints.match_architecture import SHOWN, BackboneSpec
from ssltool.checkpoints.named_backbone import NamedBackbone, check_given
from ssltool.checkpoints.read import read_entries
from ssltool.checkpoints.timm_weights import read_timm
from ssltool.checkpoints.transformers_weights import select_backbone
from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError, UsageError
from ssltool.files.misfit import describe, name_keys
from ssltool.files.reading import file_hash, read_json, require
from ssltool.files.schema import conform, mapping, nested, tensor, text
from ssltool.files.writing import FilePath
from ssltool.models.backbones import family_of
from ssltool.models.transformers_config import LIBRARY as TRANSFORMERS
from ssltool.models.transformers_config import MODEL_TYPES, TOWERS, name_of_config
from ssltool.settings import Settings

CONFIG = "config.json"
PROCESSOR = FILES[0]
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights; the first that exists is read."""

INDEX = ".index.json"
"""The end of the name of a file that lists in which files the weights are."""

WRAPPER = "timm_wrapper"
"""The model type of a network of timm that transformers saved; ``WRAPPED`` is the prefix of its weights."""

WRAPPED = "timm_model."

OTHER_FORMATS = ("tf_model.h5", "flax_model.msgpack", "model.onnx", "onnx", "model.gguf")


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a network, and its ``config.json``."""

    path: Path
    config: Settings

    @property
    def config_path(self) -> Path:
        """The path of ``config.json``."""
        return self.path / CONFIG


def find_model_folder(path: FilePath) -> ModelFolder | None:
    """The folder that ``path`` is, or in which it is the file of weights; None if there is no ``config.json`` of
    transformers or timm, as in run folders.

    Raises:
        SSLToolError: if ``config.json`` is not readable.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if (path != folder and path.name not in WEIGHTS) or not (folder / CONFIG).is_file():
        return None
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or not {"model_type", "architecture"} & config.keys():
        return None
    return ModelFolder(folder, config)


def folder_hash(folder: ModelFolder) -> str:
    """The SHA-256 of the names and hashes of ``config.json`` and the files of weights, in hex.

    Raises:
        SSLToolError: if a file is missing or unreadable.
    """
    digest = hashlib.sha256()
    for path in (folder.config_path, *weight_files(folder.path)):
        digest.update(f"{path.name} {file_hash(path)}\n".encode())
    return digest.hexdigest()


def read_model_folder(folder: ModelFolder, *, arch: str | None = None, stem: str | None = None) -> NamedBackbone:
    """Reads the backbone of ``folder``.

    Raises:
        UsageError: if the library that wrote it is not installed, or ``arch`` is unknown.
        SSLToolError: if the model type is not supported, a file is missing or damaged, the weights are not exactly
            those of the architecture, or contradict ``arch`` or ``stem``.
    """
    if arch is not None:
        family_of(arch)
    config = folder.config
    if config.get("quantization_config") is not None:
        raise SSLToolError(
            f"{folder.config_path}: the weights are quantised (quantization_config); ssltool reads float weights"
        )
    with _naming(folder.path):
        of_timm = config.get("model_type", WRAPPER) == WRAPPER
        found = (_read_timm if of_timm else _read_transformers)(folder)
    check_given(folder.path, found.spec.arch, arch, stem)
    known = Description.find(config, folder.config_path)
    return found if known is None else _with_description(found, known)


def _with_description(found: NamedBackbone, known: Description) -> NamedBackbone:
    """``found`` with what ``ssltool export`` wrote beside it."""
    facts = {"program": known.program, "method": known.method, "epoch": known.epoch}
    return dataclasses.replace(found, **facts, preprocessing=known.preprocessing)  # type: ignore[arg-type]


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Adds ``path`` to errors of the ``with`` block that do not name it."""
    try:
        yield
    except UsageError:
        raise
    except SSLToolError as error:
        if str(path) in str(error):
            raise
        raise SSLToolError(f"{path}: {error}") from error


def _read_timm(folder: ModelFolder) -> NamedBackbone:
    weights = read_weights(folder)
    if folder.config.get("model_type") == WRAPPER:
        weights = {name.removeprefix(WRAPPED): held for name, held in weights.items()}
    return read_timm(folder.config, weights, folder.config_path)


def _read_transformers(folder: ModelFolder) -> NamedBackbone:
    config, path = folder.config, folder.config_path
    model_type, code = config["model_type"], config.get("auto_map") is not None
    if not isinstance(model_type, str) or model_type not in (*MODEL_TYPES, *TOWERS):
        own = "; its own code (auto_map) is never run" if code else ""
        kinds = ", ".join(sorted({*MODEL_TYPES, *TOWERS}))
        raise SSLToolError(f"{path}: the model type {describe(model_type)} is not supported{own}; supported: {kinds}")
    settings: Settings = config
    if model_type in TOWERS:
        settings = {}
        for key in (
            "vision_config",
            "vision_config_dict",
        ):  # early versions write and read the second
            settings |= conform(config.get(key) or {}, mapping(other=nested()), path)
        model_type = TOWERS[model_type]
    arch = name_of_config(model_type, settings)
    weights, left_out = select_backbone(arch, read_weights(folder))
    preprocessing, notes = _preprocessing(folder, arch)
    notes += ("its own code (auto_map) is not run",) if code else ()
    notes += (MODEL_TYPES[model_type].note,) if MODEL_TYPES[model_type].note else ()
    spec = BackboneSpec(arch, "auto", preprocessing.size)
    return NamedBackbone(TRANSFORMERS, spec, weights, left_out, preprocessing, notes)


def _preprocessing(folder: ModelFolder, arch: str) -> tuple[Preprocessing, tuple[str, ...]]:
    """The transform of the folder's image processor, or else that of most networks of this type, and a note on it."""
    found = read_image_processor(folder.path)
    if found is not None:
        return preprocessing_of(*found), ()
    own = family_of(arch).preprocessing(arch, None)
    return own, (f"no {PROCESSOR}: assumed {own.size} pixels, mean {own.mean} and std {own.std}",)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of ``folder``.

    Raises:
        SSLToolError: if there are none, the list of them is damaged, or it names files outside of the folder.
    """
    for name in WEIGHTS:
        if os.path.lexists(folder / name):
            return [folder / name]
        if os.path.lexists(folder / f"{name}{INDEX}"):
            return [folder / shard for shard in sorted(set(_shards(folder / f"{name}{INDEX}").values()))]
    held = sorted(path.name for path in folder.iterdir() if path.name in OTHER_FORMATS)
    raise SSLToolError(
        f"{folder} has a {CONFIG} but no weights: there is neither {' nor '.join(WEIGHTS)}"
        + (f", only {', '.join(held)}" if held else "")
    )


def _shards(index: Path) -> dict[str, str]:
    """The file of each tensor, by the list in the file ``index``."""
    schema = mapping({"weight_map": mapping(other=text(255, minimum=1), minimum=1)}, other=nested())
    files: dict[str, str] = conform(read_json(index), schema, index)["weight_map"]
    outside = next((name for name in files.values() if name in (".", "..") or set(name) & set("/\\\0")), None)
    if outside is not None:
        raise SSLToolError(f"{index} names the file {describe(outside)}; weights must be files in the same folder")
    return files


def read_weights(folder: ModelFolder) -> dict[str, Tensor]:
    """All weights of ``folder``, memory-mapped where the format allows it.

    Raises:
        SSLToolError: if a file is missing or damaged, or lacks a tensor that the list of the files names.
    """
    weights: dict[str, Tensor] = {}
    files = weight_files(folder.path)
    for path in files:
        require(path)
        weights |= find_weights(path, read_entries(path)).weights
    name = next((name for name in WEIGHTS if (folder.path / name) in files), None)
    index = next((path for path in (folder.path / f"{each}{INDEX}" for each in WEIGHTS) if path.exists()), None)
    if name is None and index is not None:
        missing = sorted(_shards(index).keys() - weights.keys())
        if missing:
            raise SSLToolError(f"{index} lists {name_keys(missing, SHOWN)}, which its files lack; copy all files again")
    checked: dict[str, Tensor] = conform(weights, mapping(other=tensor(...), minimum=1), folder.path)
    return checked
