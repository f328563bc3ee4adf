"""The file format of linear probes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssltool.files import Stored
from ssltool.settings import Record, Settings


@dataclass
class Probe(Stored):
    """A linear probe.

    Attributes:
        weight: (C, D), applied to features that are not normalised.
        bias: (C,).
        config: the settings of the probe's training.
        labels: (C,) int64, the class of each row of ``weight``; None if they are 0 to C - 1.
        state: the state that training resumes from.
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
        """The class of each row of ``weight``, (C,) int64."""
        return torch.arange(len(self.weight)) if self.labels is None else self.labels
