"""Repeats a run with the settings in its ``config.json`` or in a row of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from ssltool.checkpoints.saved_run import SETTINGS
from ssltool.config import RunSettings
from ssltool.errors import SSLToolError, found_in, unknown
from ssltool.files.reading import read_json
from ssltool.files.schema import conform, mapping
from ssltool.files.setting_checks import setting_checks
from ssltool.runs.table_row import read_row, row_of
from ssltool.settings import Settings, reset_ineffective

C = TypeVar("C", bound=RunSettings)

NOT_REPEATED = ("out", "exp_name", "exp_id", "overwrite", "resume", "start_epoch", "download", "dry_run", "evaluate")
"""Settings of one invocation, which are not taken from the file: where it writes and how it starts."""

RECORDED = {
    "pretrain": (
        *("method_options", "dataset", "n_images", "n_classes", "epoch_images", "second_backbone", "second_hash"),
        *("support_hash", "index_hash", "idx_path_hash", "labels_hash", "fingerprint", "found", "order_hash"),
        *("plugins", "views_version"),
    ),
    "lincls": ("origin", "identity", "fingerprint", "val_fingerprint", "train_contents", "val_contents"),
    "finetune": ("stage", "network", "val_fingerprint"),
    "scan": ("stage", "val_fingerprint"),
}
"""Keys of each stage's ``config.json`` that are not settings."""


def read_settings(path: str, stage: str, cls: type) -> Settings:
    """Reads the ``config.json`` of a run of ``stage``, by its own path or by that of the run folder, or the settings of
    ``cls`` in a row of a table (``FILE.csv:ROW``).

    Raises:
        SSLToolError: if it cannot be read, or another stage wrote it.
    """
    if row := row_of(path):
        with found_in("--config"):
            return read_row(*row, cls)
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    try:
        saved: Settings = conform(read_json(file), SETTINGS, file, remedy="name the config.json of a run")
    except SSLToolError as error:
        raise SSLToolError(f"--config: {error}") from error
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
                values[name] = value
        schema = mapping(optional=setting_checks(type(config)))
        values = conform(values, schema, f"--config {path}", remedy="correct the file")
        repeated: C = dataclasses.replace(config, **values)
    return reset_ineffective(repeated, values)
