"""Repeats a run with the settings in its ``config.json``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from ssltool.config import RunSettings
from ssltool.errors import SSLToolError, UsageError, first_line, found_in, unknown
from ssltool.settings import Settings, may_be_none, reset_ineffective, value_type

C = TypeVar("C", bound=RunSettings)

NOT_REPEATED = ("out", "exp_name", "exp_id", "overwrite", "resume", "start_epoch", "download", "dry_run", "evaluate")
"""Settings of one invocation, which are not taken from the file: where it writes and how it starts."""

RECORDED = {
    "pretrain": (
        *("method_options", "dataset", "n_images", "n_classes", "epoch_images", "second_backbone", "second_hash"),
        *("support_hash", "index_hash", "fingerprint", "found", "order_hash", "plugins"),
    ),
    "lincls": ("origin", "identity", "fingerprint"),
    "finetune": ("stage", "network"),
    "scan": ("stage",),
}
"""Keys of each stage's ``config.json`` that are not settings."""

KINDS: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}
"""The types of JSON values for each type of setting; settings of other types are lists."""


def read_settings(path: str, stage: str) -> Settings:
    """Reads the ``config.json`` of a run of ``stage``, by its own path or by that of the run folder.

    Raises:
        SSLToolError: if it cannot be read, or another stage wrote it.
    """
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SSLToolError(f"--config {file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SSLToolError(f"--config {file}: not a JSON file: {first_line(error)}") from error
    if not isinstance(saved, dict):
        raise SSLToolError(f"--config {file} contains no settings; name the config.json of a run")
    saved_stage = _stage_of(saved)
    if saved_stage not in (None, stage):
        raise SSLToolError(f"--config {file} is from a run of {saved_stage}; name the config.json of a run of {stage}")
    return saved


def _stage_of(saved: Settings) -> str | None:
    """The stage that wrote these settings; None if they do not show it."""
    keys = {"pretrain": "method_options", "lincls": "identity"}
    return saved.get("stage") or next((stage for stage, key in keys.items() if key in saved), None)


def repeat(config: C, path: str, saved: Settings, stage: str, given: Collection[str]) -> C:
    """``config`` with the settings ``saved`` in the file ``path``, except for those that are ``given`` as flags.

    Saved settings that have no effect together with the given ones are reset to their defaults.

    Raises:
        SSLToolError: for an unknown key, or a value of the wrong type or out of range.
    """
    names = {f.name for f in dataclasses.fields(config)}
    values = {}
    with found_in(f"--config {path}"):
        for name, value in saved.items():
            if name in RECORDED[stage]:
                continue
            if name not in names:
                raise unknown("setting", name, names)
            if name not in NOT_REPEATED and name not in given:
                values[name] = _value(type(config), name, value)
        repeated: C = dataclasses.replace(config, **values)
    return reset_ineffective(repeated, values)


def _value(cls: type, name: str, value: Any) -> Any:
    """A JSON ``value`` as the settings class takes it."""
    kind = value_type(cls, name)
    if value is None and may_be_none(cls, name):
        return None
    if kind in KINDS:
        valid = isinstance(value, KINDS[kind]) and (kind is bool or not isinstance(value, bool))
        expected = kind.__name__
    else:
        valid = isinstance(value, list) and all(isinstance(item, str) for item in value)
        value, expected = tuple(value) if valid else value, "list of str"
    if not valid:
        raise UsageError(f"{name} is {json.dumps(value)}; it must be of type {expected}")
    return value
