"""The file of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ssltool.files import FilePath, Stored, load_dict


@dataclass
class Spectrum(Stored):
    """``stds`` (min(N, d),) float64: singular values, or per-dimension deviations (d,); the key is the paper's."""

    FORMAT: ClassVar[str] = "ssltool/spectrum/1"

    stds: Tensor
    metrics: dict[str, float]
    meta: dict[str, Any]

    @classmethod
    def load(cls, path: FilePath) -> Spectrum:
        """Reads a spectrum; the paper's own files, which hold ``stds`` alone, load too."""
        contents = load_dict(path)
        if "format" not in contents and "stds" in contents:
            return cls(contents["stds"].double(), {}, {})
        return cls._load(path)
