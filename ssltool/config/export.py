"""The settings of ``ssltool export``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.common import STEMS
from ssltool.settings import Checked, setting

TARGETS = ("torchvision", "timm", "simsiam")


@dataclass(frozen=True)
class ExportConfig(Checked):
    """Settings of ``ssltool export``."""

    checkpoint: str = setting("", "checkpoint to export")
    to: str = setting("torchvision", "who shall load it", choices=TARGETS, section="Output")
    out: str | None = setting(
        None,
        "file to write; .safetensors writes that format, for torchvision and timm [default: beside the checkpoint, "
        "NAME-TARGET.pth]",
        "-o",
        section="Output",
        metavar="FILE",
    )
    arch: str | None = setting(None, "backbone [default: what the checkpoint holds]", "-a", section="Model")
    stem: str | None = setting(None, "stem [default: what the checkpoint holds]", choices=STEMS, section="Model")
