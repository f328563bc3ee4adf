"""The settings of ``ssltool export``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssltool.config.fields import network_arch, network_key, network_stem, output
from ssltool.settings import Checked, setting

TARGETS = ("torchvision", "timm", "simsiam")


@dataclass(frozen=True)
class ExportConfig(Checked):
    """Settings of ``ssltool export``."""

    checkpoint: str = setting("", "checkpoint to convert")
    to: str = setting("torchvision", "target library", choices=TARGETS, section="Output")
    out: str | None = output(
        "file to write; a name ending in .safetensors selects that format, for torchvision and timm [default: "
        "NAME-TARGET.pth in the checkpoint's folder]"
    )
    arch: str | None = network_arch()
    stem: str | None = network_stem()
    key: str | None = network_key()

    def mistakes(self) -> Iterator[str]:
        if self.to == "simsiam" and self.out is not None and Path(self.out).suffix == ".safetensors":
            yield f"--out {self.out}: simsiam does not read .safetensors files; let the name end in .pth.tar"
        if self.out is not None and Path(self.out) == Path(self.checkpoint):
            yield f"--out {self.out} is the checkpoint itself; choose another name"
