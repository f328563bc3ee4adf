"""The settings in which runs differ, without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ssltool.checkpoints.setting_names import HASHES
from ssltool.settings import Settings

ALWAYS = ("method", "arch", "strategy", "seed")
"""Settings that a table has even if they are the same for all runs."""

OPTION = " (option)"
"""The end of the names of the method's options."""

OF_THE_FOLDER = (
    *("out", "exp_name", "exp_id", "overwrite", "resume", "start_epoch", "print_freq", "save_every", "save_steps"),
    *("keep", "tensorboard", "wandb", "test", "dry_run"),
)
DERIVED = ("found", "epoch_images", *(name for name in HASHES if name != "fingerprint"))
"""Settings in which runs may differ that are no columns: what a run writes and where, and what follows from others."""


def flat_settings(settings: Settings) -> Settings:
    """Settings in one dict, the method's options with ``OPTION`` after their names."""
    options = {f"{name}{OPTION}": value for name, value in settings.get("method_options", {}).items()}
    return {name: value for name, value in settings.items() if name != "method_options"} | options


def differing_settings(settings: Sequence[Settings]) -> list[str]:
    """The names of the ``settings``, flat, that are not the same for all runs."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [
        name
        for name in names
        if name not in (*OF_THE_FOLDER, *DERIVED) and len({_key(one.get(name)) for one in settings}) > 1
    ]


def setting_cell(value: Any) -> Any:
    """A setting as a cell of a table: lists and dicts as JSON."""
    return json.dumps(value) if isinstance(value, (list, tuple, dict)) else value


def _key(value: Any) -> str:
    return json.dumps(value, default=str, sort_keys=True)
