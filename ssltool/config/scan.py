"""The settings of ``ssltool scan``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.evaluate import NetworkSettings
from ssltool.config.shared import RunSettings


@dataclass(frozen=True)
class ScanConfig(RunSettings, NetworkSettings):
    """Settings of ``ssltool scan``."""
