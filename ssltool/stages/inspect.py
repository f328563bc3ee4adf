"""The inspect stage: describes files of ssltool, checkpoints of other libraries, run folders and orders.

Nothing is executed. A file that cannot be read is reported as unreadable.
"""

from __future__ import annotations

import dataclasses
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssltool.checkpoints.build import require_plugins
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.convert import ForeignBackbone, find_backbone
from ssltool.checkpoints.find_weights import find_weights
from ssltool.checkpoints.model_folder import (
    CONFIG,
    ModelFolder,
    find_model_folder,
    read_model_folder,
    read_weights,
    weight_files,
)
from ssltool.checkpoints.other_folders import WEIGHT_ENDINGS
from ssltool.checkpoints.read import extract_settings, plain, read_entries
from ssltool.checkpoints.setting_names import PROGRAM, SSLTOOL
from ssltool.config import InspectConfig
from ssltool.errors import SSLToolError, first_line
from ssltool.files.integrity import check_file, check_parts
from ssltool.files.misfit import name_keys
from ssltool.files.npy_files import read_npy
from ssltool.files.overwriting import names_beside
from ssltool.files.placeholders import module_weights, placeholder_names
from ssltool.files.reading import file_hash, read_json, require
from ssltool.files.schema import MAX_DEPTH
from ssltool.files.stored import format_of
from ssltool.files.torch_files import load_dict
from ssltool.models.backbones import build_backbone
from ssltool.reprs.readers import kind_of
from ssltool.reprs.readers import read_entries as read_arrays
from ssltool.reprs.representations import Representations, holds_rows
from ssltool.reprs.token_set import count_tokens
from ssltool.runs import monitor_folder
from ssltool.runs.folder import RESULT_FILES, RunFolder
from ssltool.settings import Record

UNREADABLE = "unreadable"
CHECKPOINT = "checkpoint"
WEIGHTS = "weights"


def run(config: InspectConfig) -> list[Record]:
    """Describes each file or folder. A folder's checkpoints are described in its list ``checkpoints``.

    Every description has ``path`` and ``kind``, that of a file also ``bytes`` and ``sha256``, and that of a file that
    cannot be used ``problem``, the reason. ``docs/checkpoints.md`` lists the other keys.

    Raises:
        UsageError: if no file is named.
        SSLToolError: if a path does not exist, or its folder may not be read.
    """
    return [_describe(path, config) for path in _paths(config)]


OK, NO_HASH, DAMAGED = "ok", "no hash", "damaged"
"""What ``verify`` finds of a file. Files of earlier versions and of other programs have no hash."""


def verify(config: InspectConfig) -> list[Record]:
    """Whether each file is undamaged, and each checkpoint in a folder: its ``path``, ``bytes``, ``state`` (``OK``,
    ``NO_HASH`` or ``DAMAGED``), and ``problem`` if it is damaged.

    Of a zip archive without a hash the checksums of the parts are compared. All tensors are read.

    Raises:
        UsageError: if no file is named.
        SSLToolError: if a path does not exist, or its folder may not be read.
    """
    files = [file for path in _paths(config) for file in (_files_in(path) if path.is_dir() else [path])]
    return [_verify(file, config) for file in files]


def _paths(config: InspectConfig) -> list[Path]:
    """The named files and folders, which exist."""
    config.check()
    for path in config.files:
        require(path, "file or folder")
    return [Path(path) for path in config.files]


def _files_in(folder: Path) -> list[Path]:
    found: list[Path] = []
    for file in _weight_files(folder):
        try:
            found += weight_files(file) if file.is_dir() else [file]
        except SSLToolError:
            found.append(file)  # whose problem is found again
    return found


def _verify(path: Path, config: InspectConfig) -> Record:
    about: Record = {"path": str(path), "bytes": path.stat().st_size}
    try:
        if path.is_dir():
            weight_files(path)  # of a model, which has none
        if check_file(path):
            load_dict(path, mmap=True)  # whose hash is not computed again
            return about | {"state": OK}
        if zipfile.is_zipfile(path):
            check_parts(path)
        if find_model_folder(path) is not None:
            read_entries(path)  # of which a description does not say whether it is damaged
            return about | {"state": NO_HASH}
        described = _describe(path, config)
        if described["kind"] == UNREADABLE:
            return about | {"state": DAMAGED, "problem": described["problem"]}
    except SSLToolError as error:
        return about | {"state": DAMAGED, "problem": str(error)}
    return about | {"state": NO_HASH}


def _describe(path: Path, config: InspectConfig) -> Record:
    if path.is_dir():
        return {"path": str(path)} | _describe_folder(path, config)
    about: Record = {"path": str(path), "bytes": path.stat().st_size}
    try:
        about["sha256"] = file_hash(path)
        kind = kind_of(path)
        model = find_model_folder(path)
    except SSLToolError as error:
        return about | {"kind": UNREADABLE, "problem": str(error)}
    if model is not None:
        return about | _describe_model(model, config)
    readers = {
        ".npy": _describe_npy,
        ".json": _describe_json,
        ".parquet": _describe_representations,
        ".npz": _describe_representations,
    }
    suffix = path.suffix if kind == ".pt" else kind
    if suffix in readers:
        return about | readers[suffix](path)
    try:
        entries = read_entries(path)
    except SSLToolError as error:
        return about | {"kind": UNREADABLE, "problem": str(error)}
    about |= _describe_entries(path, entries, config.key)
    if config.key is not None and about.get(PROGRAM, SSLTOOL) == SSLTOOL and about["kind"] != WEIGHTS:
        about["problem"] = f"--key {config.key} has no effect: the file is no checkpoint of another program"
    skipped = placeholder_names(entries)
    return about | ({"skipped": skipped} if skipped else {}) | ({"keys": _list_tensors(entries)} if config.keys else {})


def _describe_entries(path: Path, entries: Record, key: str | None) -> Record:
    """Describes a file by the ``entries`` of its dict."""
    kind = format_of(entries)
    if kind.startswith(f"{SSLTOOL}/"):
        return _describe_ours(path, kind, entries)
    if isinstance(entries.get("stds"), Tensor):  # a file of the collapse paper
        return {"kind": "spectrum", PROGRAM: "noncontrastive-ssl", "shapes": _shapes(entries)}
    if holds_rows(entries):
        return _describe_rows(path, entries)
    size: Record = {}
    try:
        weights = find_weights(path, entries, key).weights
        if not weights:
            return {"kind": "dict", "settings": extract_settings(entries), "problem": "holds no weights"}
        size = {"tensors": len(weights), "parameters": _count(weights)}
        found = find_backbone(path, entries, key=key)
    except SSLToolError as error:
        rows = _describe_rows(path, entries)  # under a key of another program
        if "problem" not in rows:
            return rows
        return {"kind": WEIGHTS, **size, "settings": extract_settings(entries), "problem": str(error)}
    return _describe_backbone(found) | size | {"settings": extract_settings(entries)}


def _describe_backbone(found: ForeignBackbone) -> Record:
    """Describes the backbone of another program."""
    more = {
        "preprocessing": found.preprocessing and dataclasses.asdict(found.preprocessing),
        "assumed": list(found.assumed),
        "notes": list(found.notes),
    }
    return {
        "kind": CHECKPOINT,
        PROGRAM: found.layout.program,
        "method": found.layout.method,
        **_network(found.spec.arch, found.spec.stem, found.spec.image_size),
        "epoch": found.epoch,
        "taken": found.found.path,
        "not_taken": list(found.found.others),
        "prefix": found.layout.prefix,
        "left_out": list(found.ignored),
        **{key: value for key, value in more.items() if value},
    }


def _describe_model(folder: ModelFolder, config: InspectConfig) -> Record:
    """Describes a folder of transformers or timm."""
    settings = {"settings": plain(folder.config)}
    if config.key is not None:
        return {
            "kind": WEIGHTS,
            **settings,
            "problem": f"--key {config.key} has no effect: the weights are of one network",
        }
    try:
        weights = read_weights(folder)
        size = {"tensors": len(weights), "parameters": _count(weights)}
        found = ForeignBackbone.named(read_model_folder(folder))
    except SSLToolError as error:
        return {"kind": WEIGHTS, **settings, "problem": str(error)}
    return _describe_backbone(found) | size | settings | ({"keys": _list_tensors(weights)} if config.keys else {})


def _describe_ours(path: Path, kind: str, entries: Record) -> Record:
    """Describes a file with a format of ssltool."""
    about = {"kind": kind.split("/")[1] or "unknown", PROGRAM: SSLTOOL}
    named = ("format", "ssltool", "torch", "method", "epoch", "step")
    about |= {key: plain(entries[key]) for key in named if key in entries}
    settings = plain(entries.get("config", entries.get("meta")))
    if kind == Representations.FORMAT:
        try:
            about |= _tokens(Representations.of(entries, path))
        except SSLToolError as error:
            return {"kind": "representations", PROGRAM: SSLTOOL, "problem": str(error)}
    if about["kind"] != CHECKPOINT:
        shown = {"shapes": _shapes(entries), "metrics": plain(entries.get("metrics")), "settings": settings}
        return about | {key: value for key, value in shown.items() if value}
    try:
        checkpoint = Checkpoint.of(entries, path)
        require_plugins(checkpoint.run)
        backbone = checkpoint.run.backbone
        network = _network(backbone.arch, backbone.stem, backbone.image_size)
        size = {"tensors": len(checkpoint.state_dict), "parameters": _count(checkpoint.state_dict)}
    except SSLToolError as error:
        return about | {"problem": str(error)}
    return about | network | size | {"settings": settings}


def _network(arch: str, stem: str, image_size: int) -> Record:
    with torch.device("meta"):
        _, width = build_backbone(arch, stem=stem, image_size=image_size)
    return {"arch": arch, "stem": stem, "image_size": image_size, "width": width}


def _describe_folder(path: Path, config: InspectConfig) -> Record:
    """Describes a folder of transformers or timm, or a run folder or any other and the checkpoints in it."""
    try:
        model = find_model_folder(path)
        if model is not None:
            return _describe_model(model, config)
        found = _weight_files(path)
        about = _describe_run(path) if (path / CONFIG).exists() or not found else {"kind": "folder of checkpoints"}
    except SSLToolError as error:
        return {"kind": "folder", "problem": str(error)}
    if not found:
        return about
    checkpoints = [_describe(file, config) for file in found]
    return about | {"unusable": sum("problem" in one for one in checkpoints), "checkpoints": checkpoints}


def _weight_files(path: Path) -> list[Path]:
    """The files in a folder and its subfolders that may be checkpoints, and the subfolders of transformers or timm."""
    found: list[Path] = []
    for inner in _listed(path):
        if not inner.is_dir():
            found += [inner] if inner.suffix in WEIGHT_ENDINGS else []
        elif _is_model(inner):
            found.append(inner)
        elif os.access(inner, os.R_OK | os.X_OK):
            found += [file for file in _listed(inner) if file.suffix in WEIGHT_ENDINGS and not file.is_dir()]
    return sorted(found, key=lambda file: (file.parent, _in_order(file.name)))


def _listed(path: Path) -> list[Path]:
    """What is in a folder and not hidden."""
    try:
        return [inner for inner in path.iterdir() if not inner.name.startswith(".")]
    except OSError as error:
        raise SSLToolError(f"cannot read {path}: {first_line(error)}") from error


def _is_model(path: Path) -> bool:
    try:
        return find_model_folder(path) is not None
    except SSLToolError:
        return False


def _in_order(name: str) -> list[tuple[int, str]]:
    """A key that orders numbers in names by their value."""
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _describe_run(path: Path) -> Record:
    folder = RunFolder(path)
    try:
        settings = folder.read_config()
        records = monitor_folder.records_of(path, settings)
    except SSLToolError as error:
        return {"kind": "folder", "problem": str(error)}
    stages = [stage for stage, results in RESULT_FILES.items() if any(path.glob(results))]
    monitored = settings.get("stage") == monitor_folder.STAGE
    return {
        "kind": "run folder",
        "stage": monitor_folder.STAGE if monitored else stages[0] if stages else None,
        **{key: settings[key] for key in ("method", "arch", "stem") if key in settings},
        "looks" if monitored else "epochs_done": len(records),
        "files": sorted(file.name for file in _listed(path)),
        "last": records[-1] if records else None,
        "settings": settings,
    }


def _describe_npy(path: Path) -> Record:
    try:
        array = read_npy(path, mmap=True)
    except SSLToolError as error:
        return {"kind": UNREADABLE, "problem": str(error)}
    if array.dtype.kind == "f" and any(map(os.path.exists, names_beside(str(path)))):  # as save-reprs writes it
        return _describe_representations(path)
    kind = "array"
    if array.ndim == 1 and array.dtype.kind in "iu":
        kind = "order" if np.array_equal(np.sort(array), np.arange(len(array))) else "image numbers"
    return {"kind": kind, "shapes": {"array": [str(array.dtype), *array.shape]}}


def _describe_representations(path: Path) -> Record:
    """Describes a file whose kind is told by its content: arrays or a table with rows of representations."""
    try:
        entries = read_arrays(path)
    except SSLToolError as error:
        return {"kind": UNREADABLE, "problem": str(error)}
    return _describe_rows(path, entries, "table" if path.suffix == ".parquet" else "arrays")


def _describe_rows(path: Path, entries: Record, kind: str = "representations") -> Record:
    """Describes representations by the ``entries`` of their file; if they cannot be used, as ``kind``."""
    try:
        reprs = Representations.of(entries, path)
    except SSLToolError as error:
        return {"kind": kind, "shapes": _shapes(entries), "problem": str(error)}
    shapes = {"representations": reprs.representations, "targets": reprs.targets, "index": reprs.index}
    about = {"kind": "representations", "shapes": _shapes(shapes)} | _tokens(reprs)
    return about | ({"settings": reprs.meta} if reprs.meta else {})


def _tokens(reprs: Representations) -> Record:
    """The numbers of tokens, if there are several rows of an image."""
    counts = count_tokens(reprs)
    return {} if counts is None else {"tokens": counts}


def _describe_json(path: Path) -> Record:
    try:
        document = read_json(path)
    except SSLToolError as error:
        return {"kind": UNREADABLE, "problem": str(error)}
    kind = document.get("format") if isinstance(document, dict) else None
    kind = kind if isinstance(kind, str) else "JSON"
    return {"kind": kind.split("/")[1] if kind.startswith(f"{SSLTOOL}/") else kind, "settings": plain(document)}


def _count(weights: dict[str, Tensor]) -> int:
    """The number of parameters and running statistics: floating-point values, not counters."""
    return sum(tensor.numel() for tensor in weights.values() if tensor.is_floating_point())


def _shapes(entries: Record) -> dict[str, list[str | int]]:
    """Type and shape of each tensor by name, e.g. ``["float32", 5, 3]``."""
    return {str(name): shape for name, *shape in _list_tensors(entries)}


def _list_tensors(entries: Record) -> list[list[str | int]]:
    """Name, type and shape of every tensor, including those in nested dicts."""

    def walk(prefix: str, value: object, depth: int) -> Iterator[list[str | int]]:
        if isinstance(value, Tensor):
            sizes = [] if value.is_nested else list(value.shape)
            yield [prefix, str(value.dtype).removeprefix("torch."), *sizes]
        elif depth and isinstance(value := module_weights(value) or value, dict):
            for key, inner in value.items():
                name = name_keys([key])
                yield from walk(f"{prefix}/{name}" if prefix else name, inner, depth - 1)

    return list(walk("", entries, MAX_DEPTH))
