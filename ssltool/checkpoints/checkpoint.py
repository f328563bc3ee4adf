"""The checkpoint file of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ssltool.checkpoints.saved_run import SavedRun
from ssltool.files import Stored
from ssltool.settings import Record, Settings


@dataclass
class Checkpoint(Stored):
    """The state of a run after some step: everything needed to use the model or to resume training bit for bit.

    Attributes:
        epoch: the number of completed epochs.
        step: the number of completed optimizer steps.
        config: the settings of the run; ``run`` gives them typed.
        state_dict: the method's weights, with the prefixes ``backbone.``, ``projector.`` and ``predictor.``.
        metrics: the records of the completed epochs, and the sums over the steps of the unfinished epoch.
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
        """The run that wrote the checkpoint.

        Raises:
            SSLToolError: if a setting is missing from ``config``.
        """
        return SavedRun.read(self.config, "the checkpoint")
