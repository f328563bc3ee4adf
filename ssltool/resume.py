"""Going on from a checkpoint: finding it, and refusing settings that would break its schedule."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ssltool.config import PretrainConfig, fixed_settings, flag
from ssltool.errors import SSLToolError
from ssltool.files import Checkpoint
from ssltool.runs import NEWEST

# Which images a step sees and how: may change between epochs (the paper's hybrid), not within one.
WITHIN_EPOCH = ("Data strategy", "Views")


def find_checkpoint(resume: str | None, newest: Path) -> Path | None:
    """The file that ``--resume`` means: ``auto`` is the run folder's newest if there is one, a folder stands for its
    newest.

    Raises:
        SSLToolError: if a named file is not there.
    """
    if resume is None:
        return None
    if resume == "auto":
        return newest if newest.exists() else None
    path = Path(resume)
    path = path / NEWEST if path.is_dir() else path
    if not path.is_file():
        raise SSLToolError(f"--resume: no such checkpoint: {path}")
    return path


def check_compatible(checkpoint: Checkpoint, config: dict[str, Any], path: Path) -> None:
    """Refuses to go on from ``checkpoint`` under settings that break its schedule.

    ``config`` is resolved, as it will be saved. The data strategy may change at the end of an epoch.

    Raises:
        SSLToolError: naming each setting that differs, with both values.
    """
    names = [*fixed_settings(PretrainConfig), "method_options", "n_images"]
    reason = "would break its schedule or its weights"
    differing = _differences(names, checkpoint.config, config)
    if not differing and checkpoint.metrics["epoch_step"]:
        fields = dataclasses.fields(PretrainConfig)
        names = [f.name for f in fields if f.metadata["section"] in WITHIN_EPOCH] + ["idx_path", "order_hash"]
        reason = f"cannot change in the middle of epoch {checkpoint.epoch}, only at the end of one"
        differing = _differences(names, checkpoint.config, config)
    if differing:
        raise SSLToolError(f"cannot resume {path}: {'; '.join(differing)}. This {reason}; give the checkpoint's values")


def _differences(names: list[str], old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    found = []
    for name in names:
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(sorted(before.keys() | after.keys()), before, after)
        elif before != after:
            found.append(f"{flag(name)} was {before}, is now {after}")
    return found
