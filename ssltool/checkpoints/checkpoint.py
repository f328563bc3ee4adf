"""The checkpoint file of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ssltool.checkpoints.saved_run import SavedRun
from ssltool.files import Record, Settings, Stored


@dataclass
class Checkpoint(Stored):
    """A run at one moment: everything needed to use the model, or to resume the training bit for bit.

    ``epoch`` counts completed epochs, ``step`` completed optimiser steps; ``state_dict`` has the prefixes
    ``backbone.``, ``projector.``, ``predictor.``; ``metrics`` holds the finished epochs' records and the sums of the
    unfinished one.
    """

    FORMAT: ClassVar[str] = "ssltool/checkpoint/1"

    method: str
    arch: str
    epoch: int
    step: int
    config: Settings
    state_dict: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
    metrics: Record

    @property
    def run(self) -> SavedRun:
        """The run that the checkpoint is of.

        Raises:
            SSLToolError: if ``config`` lacks a setting, which is named.
        """
        return SavedRun.read(self.config, "the checkpoint")
