"""The file of a linear probe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssltool.files import Record, Settings, Stored


@dataclass
class Probe(Stored):
    """A linear probe: ``weight`` (C, D), ``bias`` (C,), which take features as they are, and what it was trained on.

    ``labels`` (C,) int64 are the classes of its rows, 0 to C - 1 where there are none. ``state`` is what
    training is resumed from.
    """

    FORMAT: ClassVar[str] = "ssltool/probe/1"

    weight: Tensor
    bias: Tensor
    config: Settings
    metrics: Record
    labels: Tensor | None = None
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> Tensor:
        """The classes of the rows of ``weight``, (C,) int64."""
        return torch.arange(len(self.weight)) if self.labels is None else self.labels
