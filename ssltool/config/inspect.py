"""The settings of ``ssltool inspect``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.fields import network_key
from ssltool.settings import Checked, Rule, setting


@dataclass(frozen=True)
class InspectConfig(Checked):
    """Settings of ``ssltool inspect``."""

    files: tuple[str, ...] = setting((), "files or run folders to describe")
    key: str | None = network_key()
    keys: bool = setting(False, "also list the name, type and shape of every tensor", section="Output")
    verify: bool = setting(
        False,
        "instead check that every file is undamaged: the hash in it, and that all of it can be read; exit with 1 if "
        "one is not",
        section="Output",
    )

    def conflicts(self) -> list[Rule]:
        return [*super().conflicts(), (("key", "keys"), self.verify, "with --verify")]

    def mistakes(self) -> Iterator[str]:
        if not self.files:
            yield "name at least one file or run folder"
