"""The file format of linear probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssltool.checkpoints.checkpoint import OPTIMIZER, RECORD
from ssltool.files.schema import boolean, entry, integer, listing, mapping, nested, optional, real, tensor, text
from ssltool.files.stored import Stored
from ssltool.settings import Record, Settings

FRACTION = real(0, 1)

METRICS = mapping(
    optional={
        **dict.fromkeys(("acc1", "acc5", "class_acc1", "labels_fraction"), FRACTION),
        "held_acc1": optional(FRACTION),
        **dict.fromkeys(("features", "optimizer"), text(200)),
        "checkpoint_hash": optional(text(200)),
        "random": boolean(),
        "val_size": integer(0),
        **dict.fromkeys(("epochs", "batch_size", "image_size"), optional(integer(0))),
    },
    other=nested(),
)
"""The result, or the record of the last epoch."""

STATE = mapping(
    optional={
        "layers": listing(mapping({"weight": tensor("C", "d"), "bias": tensor("C")})),
        "optimizer": OPTIMIZER,
        "sums": tensor(2, None),
        **dict.fromkeys(("epoch", "step", "chosen"), integer(0)),
        "history": listing(RECORD),
    },
    other=nested(tensors=True),
)
"""The state that training resumes from; empty if there is none."""


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

    weight: Tensor = entry(tensor("C", "D", kinds="floating", finite=True, filled=True))
    bias: Tensor = entry(tensor("C", kinds="floating", finite=True))
    config: Settings = entry(mapping(optional={"origin": mapping(other=nested())}, other=nested()))
    metrics: Record = entry(METRICS)
    labels: Tensor | None = entry(optional(tensor("C", kinds="integer")), default=None)
    state: dict[str, Any] = entry(STATE, default_factory=dict)
    class_names: list[str] | None = entry(optional(listing(text(), "C", what="a list of names")), default=None)

    @property
    def classes(self) -> Tensor:
        """The class of each row of ``weight``, (C,) int64."""
        return torch.arange(len(self.weight)) if self.labels is None else self.labels

    @property
    def names(self) -> dict[int, str]:
        """The names of the classes by number; empty if they have none."""
        return dict(zip(self.classes.tolist(), self.class_names or [], strict=False))
