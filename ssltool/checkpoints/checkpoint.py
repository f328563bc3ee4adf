"""The checkpoint file of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ssltool.files import Stored


@dataclass
class Checkpoint(Stored):
    """A run at one moment: everything needed to use the model or to go on training, bit for bit.

    ``epoch`` counts completed epochs, ``step`` completed optimiser steps; ``state_dict`` has the prefixes
    ``backbone.``, ``projector.``, ``predictor.``; ``metrics`` holds the finished epochs' records and the sums of the
    unfinished one.
    """

    FORMAT: ClassVar[str] = "ssltool/checkpoint/1"

    method: str
    arch: str
    epoch: int
    step: int
    config: dict[str, Any]
    state_dict: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
    metrics: dict[str, Any]
