"""The file format of linear probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssltool.files import Stored
from ssltool.files.schema import entry, mapping, nested, optional, tensor
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

    weight: Tensor = entry(tensor("C", "D", kinds="floating", finite=True))
    bias: Tensor = entry(tensor("C", kinds="floating", finite=True))
    config: Settings = entry(mapping(other=nested()))
    metrics: Record = entry(mapping(other=nested()))
    labels: Tensor | None = entry(optional(tensor("C", kinds="integer")), default=None)
    state: dict[str, Any] = entry(mapping(other=nested(tensors=True)), default_factory=dict)

    @property
    def classes(self) -> Tensor:
        """The class of each row of ``weight``, (C,) int64."""
        return torch.arange(len(self.weight)) if self.labels is None else self.labels
