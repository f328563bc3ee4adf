"""The file format of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ssltool.files import FilePath, Stored, load_dict
from ssltool.files.schema import entry, mapping, nested, optional, real, tensor
from ssltool.settings import Record


@dataclass
class Spectrum(Stored):
    """``stds`` float64: singular values (min(N, d),) or per-dimension standard deviations (d,); the paper's key."""

    FORMAT: ClassVar[str] = "ssltool/spectrum/1"

    stds: Tensor = entry(tensor("d", kinds="floating", finite=True))
    metrics: Record = entry(mapping(other=optional(real(finite=False))))
    meta: dict[str, Any] = entry(mapping(other=nested()))

    @classmethod
    def load(cls, path: FilePath) -> Spectrum:
        """Loads a spectrum. Files of the paper's code, which contain only ``stds``, are supported."""
        contents = load_dict(path)
        if "format" not in contents and "stds" in contents:
            return cls(contents["stds"].double(), {}, {})
        return cls._load(path)
