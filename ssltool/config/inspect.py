"""The settings of ``ssltool inspect``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.fields import network_key
from ssltool.settings import Checked, setting


@dataclass(frozen=True)
class InspectConfig(Checked):
    """Settings of ``ssltool inspect``."""

    files: tuple[str, ...] = setting((), "files or run folders to describe")
    key: str | None = network_key()
    keys: bool = setting(False, "also list the name, type and shape of every tensor", section="Output")

    def mistakes(self) -> Iterator[str]:
        if not self.files:
            yield "name at least one file or run folder"
