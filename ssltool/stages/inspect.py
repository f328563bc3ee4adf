"""What a file is: ours of any kind, another program's checkpoint, a run folder, an order. Nothing is executed, and what
cannot be read is an answer too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssltool.checkpoints.build import require_plugins
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.convert import find_backbone
from ssltool.checkpoints.layouts import extract_weights
from ssltool.checkpoints.read import extract_settings, read_entries
from ssltool.checkpoints.saved_run import PROGRAM, SSLTOOL
from ssltool.config import InspectConfig
from ssltool.errors import SSLToolError, first_line
from ssltool.files import file_hash
from ssltool.models.backbones import build_backbone
from ssltool.runs.folder import RESULT_FILES, RunFolder

UNREADABLE = "unreadable"
CHECKPOINT = "checkpoint"


def run(config: InspectConfig) -> list[dict[str, Any]]:
    """The stage: what each file or folder is. Of each at least ``path`` and ``kind``; of a file ``bytes`` and
    ``sha256``; of what cannot be used ``problem``, why. See ``docs/checkpoints.md`` for the other keys.

    Raises:
        SSLToolError: if nothing is named, or a path does not exist.
    """
    config.check()
    missing = [path for path in config.files if not Path(path).exists()]
    if missing:
        raise SSLToolError(f"no such file or folder: {missing[0]}")
    return [_describe(Path(path), config.keys) for path in config.files]


def _describe(path: Path, keys: bool) -> dict[str, Any]:
    if path.is_dir():
        return {"path": str(path)} | _folder(path)
    about = {"path": str(path), "bytes": path.stat().st_size, "sha256": file_hash(path)}
    readers = {".npy": _numbers, ".json": _json, ".parquet": _table}
    if path.suffix in readers:
        return about | readers[path.suffix](path)
    try:
        entries = read_entries(path)
    except SSLToolError as error:
        return about | {"kind": UNREADABLE, "problem": str(error)}
    return about | _contents(path, entries) | ({"keys": _listed(entries)} if keys else {})


def _contents(path: Path, entries: dict[str, Any]) -> dict[str, Any]:
    kind = str(entries.get("format", ""))
    if kind.startswith(f"{SSLTOOL}/"):
        return _ours(path, kind, entries)
    for key, name in (("representations", "representations"), ("stds", "spectrum")):  # the collapse paper's
        if isinstance(entries.get(key), Tensor):
            return {"kind": name, PROGRAM: "noncontrastive-ssl", "shapes": _shapes(entries)}
    weights = extract_weights(entries)
    if not weights:
        return {"kind": "dict", "settings": extract_settings(entries), "problem": "holds no weights"}
    size = {"tensors": len(weights), "parameters": _count(weights)}
    try:
        found = find_backbone(path, entries)
    except SSLToolError as error:
        return {"kind": "weights", **size, "settings": extract_settings(entries), "problem": str(error)}
    return {
        "kind": CHECKPOINT,
        PROGRAM: found.layout.program,
        "method": found.layout.method,
        **_network(found.spec.arch, found.spec.stem, found.spec.image_size),
        "epoch": found.epoch,
        "prefix": found.layout.prefix,
        "left_out": list(found.ignored),
        **size,
        "settings": extract_settings(entries),
    }


def _ours(path: Path, kind: str, entries: dict[str, Any]) -> dict[str, Any]:
    about = {"kind": kind.split("/")[1] or "unknown", PROGRAM: SSLTOOL}
    about |= {key: entries[key] for key in ("format", "ssltool", "torch", "method", "epoch", "step") if key in entries}
    settings = entries.get("config", entries.get("meta"))
    if about["kind"] != CHECKPOINT:
        shown = {"shapes": _shapes(entries), "metrics": entries.get("metrics"), "settings": settings}
        return about | {key: value for key, value in shown.items() if value}
    try:
        checkpoint = Checkpoint.of(entries, path)
        require_plugins(checkpoint.run)
        network = _network(*(checkpoint.config[name] for name in ("arch", "stem", "image_size")))
        size = {"tensors": len(checkpoint.state_dict), "parameters": _count(checkpoint.state_dict)}
    except (SSLToolError, KeyError, TypeError, AttributeError) as error:  # what only says that it is one of ours
        return about | {"problem": first_line(error)}
    return about | network | size | {"settings": settings}


def _network(arch: str, stem: str, image_size: int) -> dict[str, Any]:
    with torch.device("meta"):
        _, width = build_backbone(arch, stem=stem, image_size=image_size)
    return {"arch": arch, "stem": stem, "image_size": image_size, "width": width}


def _folder(path: Path) -> dict[str, Any]:
    folder = RunFolder(path)
    try:
        settings, records = folder.read_config(), folder.read_metrics()
    except (SSLToolError, ValueError) as error:
        return {"kind": "folder", "problem": first_line(error)}
    stages = [stage for stage, results in RESULT_FILES.items() if any(path.glob(results))]
    return {
        "kind": "run folder",
        "stage": stages[0] if stages else None,
        **{key: settings[key] for key in ("method", "arch", "stem") if key in settings},
        "epochs_done": len(records),
        "files": sorted(file.name for file in path.iterdir() if not file.name.startswith(".")),
        "last": records[-1] if records else None,
        "settings": settings,
    }


def _numbers(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
    except (OSError, ValueError) as error:
        return {"kind": UNREADABLE, "problem": first_line(error)}
    kind = "array"
    if array.ndim == 1 and array.dtype.kind in "iu":
        kind = "order" if np.array_equal(np.sort(array), np.arange(len(array))) else "image numbers"
    return {"kind": kind, "shapes": {"array": [str(array.dtype), *array.shape]}}


def _table(path: Path) -> dict[str, Any]:
    with open(path, "rb") as stream:
        if stream.read(4) != b"PAR1":
            return {"kind": UNREADABLE, "problem": "no parquet table"}
    return {"kind": "table", "problem": "written for other programs; ssltool does not read it"}


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {"kind": UNREADABLE, "problem": first_line(error)}
    kind = str(document.get("format", "JSON")) if isinstance(document, dict) else "JSON"
    return {"kind": kind.split("/")[1] if kind.startswith(f"{SSLTOOL}/") else kind, "settings": document}


def _count(weights: dict[str, Tensor]) -> int:
    """Numbers among the weights that can be learnt: all but counters."""
    return sum(tensor.numel() for tensor in weights.values() if tensor.is_floating_point())


def _shapes(entries: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: tensor for name, *tensor in _listed(entries)}


def _listed(entries: dict[str, Any]) -> list[list[Any]]:
    """Name, type and sides of every tensor, in dicts within dicts too."""

    def walk(prefix: str, value: Any) -> Iterator[list[Any]]:
        if isinstance(value, Tensor):
            yield [prefix, str(value.dtype).removeprefix("torch."), *value.shape]
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{prefix}/{key}" if prefix else str(key), inner)

    return list(walk("", entries))
