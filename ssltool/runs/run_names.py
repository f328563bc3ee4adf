"""The automatic names of run folders: what differs from the defaults is part of the name, so that runs of a shell loop
over a setting have folders of their own."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssltool.settings import Settings

NAMED = ("Optimisation", "Method", "Data strategy", "Views", "Model", "Options", "Data")
"""Sections of settings that a run depends on, in the order of the name: those of most loops come first."""

ALSO_NAMED = ("precision",)
"""Settings of the section Hardware that it depends on."""

NOT_NAMED = ("workers", "download", "skip_corrupt", "max_pixels", "pretrained", "random", "reprs", "key")
"""Settings that do not change a run, and the network or file that the first part of a name is made of."""

LONGEST = 80
"""Characters of the differences; a hash of all of them takes the place of those beyond."""

HASHED = 8
"""Hex digits of this hash."""


def changed_settings(config: Any, main: Mapping[str, Any]) -> Settings:
    """The settings of ``config`` that differ from their defaults and that a run depends on, without those in ``main``,
    by name. Options of a method are settings of their own, however they were given."""
    found: Settings = {}
    sections = (*NAMED, "Hardware")
    fields = [f for f in dataclasses.fields(config) if f.metadata["section"] in NAMED or f.name in ALSO_NAMED]
    for f in sorted(fields, key=lambda f: sections.index(f.metadata["section"])):
        value, m = getattr(config, f.name), f.metadata
        if value == f.default or f.name in main or f.name in NOT_NAMED:
            continue
        if f.name == "options":
            pairs = (text.partition("=") for text in value)
            found |= {name.strip().replace("-", "_"): option.strip() for name, _, option in pairs}
        else:
            found[m.get("method_option") or f.name] = value
    return found


def run_name(main: Mapping[str, str], config: Any) -> str:
    """The name of a run: the values of ``main`` (settings by name), and the settings that differ from their defaults,
    as in ``simsiam-resnet18-iid-lr0.1-seed11``. It has letters, digits and ``. _ + -`` only beside those of ``main``.

    Of many or long differences the last ones are replaced by a hash of all of them.
    """
    differing = changed_settings(config, main)
    parts = [_part(name, value) for name, value in differing.items()]
    kept = parts
    if len("-".join(parts)) > LONGEST:
        text = repr(sorted((name, str(value)) for name, value in differing.items()))
        length, kept = HASHED, []
        for part in parts:
            length += len(part) + 1
            if length > LONGEST:
                break
            kept.append(part)
        kept = [*kept, hashlib.sha256(os.fsencode(text)).hexdigest()[:HASHED]]
    return "-".join([*main.values(), *kept])


def _part(name: str, value: Any) -> str:
    """One difference: ``lr0.1``, ``stem-small``, ``fix-pred-lr``, ``no-zero-init-residual``; the last part of paths."""
    name = name.replace("_", "-")
    if value is True or value == "true":
        return name
    if value is False or value == "false":
        return f"no-{name}"
    text = "-".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    text = re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(text).name).strip("-.") or "-"
    return f"{name}{text}" if text[0].isdigit() else f"{name}-{text}"
