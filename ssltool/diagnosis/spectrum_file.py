"""The file format of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ssltool.diagnosis.spectrum import possible_directions
from ssltool.files.schema import entry, integer, mapping, nested, optional, real, tensor, text
from ssltool.files.stored import Stored
from ssltool.files.torch_files import load_dict
from ssltool.files.writing import FilePath
from ssltool.settings import Record

META = {"type": text(200), "n": integer(1), "d": integer(1)}


@dataclass
class Spectrum(Stored):
    """``stds`` float64: singular values (min(N, d),) or per-dimension standard deviations (d,); the paper's key."""

    FORMAT: ClassVar[str] = "ssltool/spectrum/1"

    stds: Tensor = entry(tensor("d", kinds="floating", finite=True, filled=True))
    metrics: Record = entry(mapping(other=optional(real(finite=False))))
    meta: dict[str, Any] = entry(mapping(optional=META, other=nested()))

    def possible(self) -> Tensor:
        """``stds`` of the directions that the layer can have; all, if they are deviations or the file has no sizes."""
        if self.meta.get("type", "svd") == "std" or not self.meta.keys() >= {"n", "d"}:
            return self.stds
        bound = (self.meta.get("representations") or {}).get("directions")
        return self.stds[: possible_directions(self.meta["n"], self.meta["d"], bound)]

    @classmethod
    def load(cls, path: FilePath) -> Spectrum:
        """Loads a spectrum. Files of the paper's code, which contain only ``stds``, are supported."""
        contents = load_dict(path)
        if "format" not in contents and "stds" in contents:
            paper = cls.of({"format": cls.FORMAT, "stds": contents["stds"], "metrics": {}, "meta": {}}, path)
            return cls(paper.stds.double(), {}, {})
        return cls.of(contents, path)
