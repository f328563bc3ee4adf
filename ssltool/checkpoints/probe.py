"""The file format of linear probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssltool.files import Stored
from ssltool.files.schema import entry, listing, mapping, nested, optional, tensor, text
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
        class_names: the name of the class of each row of ``weight``; None if the classes have no names.
    """

    FORMAT: ClassVar[str] = "ssltool/probe/1"

    weight: Tensor = entry(tensor("C", "D", kinds="floating", finite=True))
    bias: Tensor = entry(tensor("C", kinds="floating", finite=True))
    config: Settings = entry(mapping(other=nested()))
    metrics: Record = entry(mapping(other=nested()))
    labels: Tensor | None = entry(optional(tensor("C", kinds="integer")), default=None)
    state: dict[str, Any] = entry(mapping(other=nested(tensors=True)), default_factory=dict)
    class_names: list[str] | None = entry(optional(listing(text(), "C", what="a list of names")), default=None)

    @property
    def classes(self) -> Tensor:
        """The class of each row of ``weight``, (C,) int64."""
        return torch.arange(len(self.weight)) if self.labels is None else self.labels

    @property
    def names(self) -> dict[int, str]:
        """The names of the classes by number; empty if they have none."""
        return dict(zip(self.classes.tolist(), self.class_names or [], strict=False))
