"""The settings of ``ssltool export``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssltool.config.fields import network_arch, network_key, network_stem, output
from ssltool.settings import Checked, setting

TARGETS = "ssltool.stages.export:TARGETS"
"""The registry of what a network can be written for."""


@dataclass(frozen=True)
class ExportConfig(Checked):
    """Settings of ``ssltool export``."""

    checkpoint: str = setting("", "checkpoint to convert")
    to: str = setting("torchvision", "what it is written for: {names}", names=TARGETS, section="Output")
    out: str | None = output(
        "file or folder to write; with torchvision, timm and state_dict, a name ending in .safetensors selects that "
        "format [default: NAME-TARGET in the checkpoint's folder]"
    )
    arch: str | None = network_arch()
    stem: str | None = network_stem()
    key: str | None = network_key()

    def mistakes(self) -> Iterator[str]:
        if self.out is not None and Path(self.out) == Path(self.checkpoint):
            yield f"--out {self.out} is the checkpoint itself; choose another name"
