"""The settings of ``ssltool doctor``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.settings import Checked, setting


@dataclass(frozen=True)
class DoctorConfig(Checked):
    """Settings of ``ssltool doctor``."""

    folders: tuple[str, ...] = setting((), "folders to write to, beside the current and the temporary one")
    speed: bool = setting(True, "also measure the speed, in about 20 seconds", section="Output")
