"""The settings of the commands that look at files and hand them to other programs: inspect and export."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.settings import Checked, setting


@dataclass(frozen=True)
class InspectConfig(Checked):
    """Settings of ``ssltool inspect``."""

    files: tuple[str, ...] = setting((), "what to look at")
    keys: bool = setting(False, "also list every tensor: its name, type and shape", section="Output")
